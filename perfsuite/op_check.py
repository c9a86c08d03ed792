"""`perfsuite ops check`: everything that has to hold for an implementation of an op, each as one line of a result.

- cases: the correctness rule (perfsuite.kernels.check) on every case of the op's scale "tiny";
- drawn: the same on cases that hypothesis draws, shrunk where one fails;
- gradcheck: analytic against numerical gradients in float64 (torch.autograd.gradcheck);
- fullgraph: the call inside torch.compile(fullgraph=True) gives what it gives outside, and so do its gradients;
- cuda graph: a replay on new inputs gives what a call gives (on a GPU only);
- huge: a case of more than 2^31 elements, made of the same rows again and again, gives the same results again and
  again (on request, where the op is row-wise and memory allows);
- deterministic: whether the same call gives the same bits. Reported, not judged.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from perfsuite import topology
from perfsuite.kernels import evaluate
from perfsuite.kernels.check import Report, check, check_drawn
from perfsuite.kernels.contract import Case, Implementation, Op

FULLGRAPH_CASES = 3
HUGE_ELEMENTS = 2**31
"""What does not fit an index of 32 bits."""


class Result(NamedTuple):
    """One check of one implementation."""

    op: str
    impl: str
    check: str
    """ "case", "drawn", "gradcheck", "fullgraph" or "compiled", "cuda graph", "huge" or "deterministic"."""
    case: str
    ok: bool | None
    """None: not judged, or not run; `detail` says why."""
    detail: str
    errors: tuple[Any, ...] = ()
    """perfsuite.kernels.check.Errors of the correctness rule."""


def check_implementation(
    op: Op, implementation: Implementation, device: str, draws: int, examples: int, seed: int = 0, huge: bool = False,
    fullgraph: bool = True,
) -> Iterator[Result]:  # fmt: skip
    """All checks, one after the other; each comes as soon as it is done.

    fullgraph False: inside torch.compile the call may break the graph, as a kernel called through ctypes has to, and is
    still compared.
    """
    deterministic = True
    for case in op.cases("tiny"):
        report = check(op, implementation, case, device, draws, seed)
        deterministic = deterministic and report.deterministic
        yield _result(op, implementation, "case", report)
    if op.any_case is not None and examples:
        yield _result(op, implementation, "drawn", check_drawn(op, implementation, device, examples, seed))
    yield from _gradcheck(op, implementation, device)
    yield from _compiled(op, implementation, device, fullgraph)
    if device == "cuda":
        yield from _cuda_graph(op, implementation)
    if huge and op.row_wise:
        yield _huge(op, implementation, device)
    said = "the same call gives the same bits" if deterministic else "bits differ from call to call"
    yield Result(op.name, implementation.name, "deterministic", "", None, said)


def _result(op: Op, implementation: Implementation, kind: str, report: Report) -> Result:
    worst = max(report.errors, key=lambda e: e.rms / e.rms_limit, default=None)
    said = "no output" if worst is None else f"{worst.name}: RMS {worst.rms:.2g} of {worst.rms_limit:.2g} ulp"
    detail = "; ".join(report.failures) or f"{report.draws} draws, {said}"
    return Result(op.name, implementation.name, kind, report.case, report.ok, detail, report.errors)


def _sample(op: Op, dtypes: tuple[str, ...], largest: int = 10**9) -> list[Case]:
    """Cases without special values, the smallest first."""
    plain = [case for case in op.cases("tiny") if case.dtype in dtypes and "values" not in case.draw]
    sized = [(case, _elements(op, case)) for case in plain if all(case.shape.values())]
    return [case for case, size in sorted(sized, key=lambda pair: pair[1]) if 0 < size <= largest]


def _elements(op: Op, case: Case) -> int:
    tensors = op.inputs(case, "cpu", torch.Generator().manual_seed(0))
    return sum(tensor.numel() for tensor in evaluate.named_tensors(tensors).values())


def _gradcheck(op: Op, implementation: Implementation, device: str) -> Iterator[Result]:
    """On the largest case that is small enough for one evaluation per element, in float64."""
    if not op.differentiable:
        return
    cases = _sample(op, ("float64", "float32"), largest=3000)
    if not cases:
        yield Result(op.name, implementation.name, "gradcheck", "", None, "not run: no small case")
        return
    case = replace(cases[-1], dtype="float64")
    options = {**op.defaults, **case.options}
    tensors = op.inputs(case, device, torch.Generator().manual_seed(1))
    names = [name for name in op.differentiable if tensors.get(name) is not None]
    fixed = {name: value for name, value in tensors.items() if name not in names}

    def call(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # What the op changes in place must not change from one evaluation to the next.
        own = evaluate.copy({name: fixed[name] for name in op.mutates if name in fixed})
        arguments = {**fixed, **own, **dict(zip(names, values, strict=True))}
        return tuple(evaluate.call(op, implementation.run, arguments, options).values())

    leaves = [tensors[name].detach().requires_grad_() for name in names]
    try:
        torch.autograd.gradcheck(call, leaves, fast_mode=sum(leaf.numel() for leaf in leaves) > 300)
        yield Result(op.name, implementation.name, "gradcheck", case.name, True, "analytic = numerical, float64")
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        yield Result(op.name, implementation.name, "gradcheck", case.name, False, f"{type(error).__name__}: {line}")


def _compiled(op: Op, implementation: Implementation, device: str, fullgraph: bool) -> Iterator[Result]:
    kind = "fullgraph" if fullgraph else "compiled"
    cases = _sample(op, ("float32", "bfloat16"))
    for case in cases[:: max(1, len(cases) // FULLGRAPH_CASES)][:FULLGRAPH_CASES]:
        torch._dynamo.reset()
        options = {**op.defaults, **case.options}
        tensors = op.inputs(case, device, torch.Generator().manual_seed(2))
        compiled = torch.compile(implementation.run, fullgraph=fullgraph, backend="aot_eager")
        try:
            upstream = _ones(op, implementation, tensors, options)
            outside = evaluate.evaluate(op, implementation.run, tensors, options, upstream)
            inside = evaluate.evaluate(op, compiled, tensors, options, upstream)
            different = _different(outside, inside)
        except Exception as error:
            different = [f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"]
        said = "; ".join(different) or f"the same inside torch.compile(fullgraph={fullgraph})"
        yield Result(op.name, implementation.name, kind, case.name, not different, said)


def _cuda_graph(op: Op, implementation: Implementation) -> Iterator[Result]:
    """Capture one call with its gradients, put new values into its inputs, replay."""
    for case in _sample(op, ("float32", "bfloat16"))[-1:]:
        options = {**op.defaults, **case.options}
        first, second = (op.inputs(case, "cuda", torch.Generator().manual_seed(seed)) for seed in (3, 4))
        try:
            upstream = _ones(op, implementation, first, options)
            expected = evaluate.evaluate(op, implementation.run, second, options, upstream)
            arguments = evaluate.leaves(op, evaluate.copy(first))
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    evaluate.evaluate_on(op, implementation.run, arguments, options, upstream)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = evaluate.evaluate_on(op, implementation.run, arguments, options, upstream)
            for name, tensor in evaluate.named_tensors(arguments).items():
                tensor.data.copy_(evaluate.named_tensors(second)[name])
            graph.replay()
            torch.cuda.synchronize()
            different = _different(expected, outputs)
        except Exception as error:
            different = [f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"]
        said = "; ".join(different) or "a replay on new inputs gives what a call gives"
        yield Result(op.name, implementation.name, "cuda graph", case.name, not different, said)


def _huge(op: Op, implementation: Implementation, device: str) -> Result:
    """On the op's largest small case in half precision whose results are rows too."""
    name = implementation.name
    case = _row_case(op)
    if case is None:
        return Result(op.name, name, "huge", "", None, "not run: no case of rows")
    options = {**op.defaults, **case.options}
    rows = op.inputs(case, device, torch.Generator().manual_seed(5))
    height = rows[op.row_wise[0]].shape[0]
    times = HUGE_ELEMENTS // rows[op.row_wise[0]].numel() + 2
    title = f"{case.name} x {times}"
    upstream = _ones(op, implementation, rows, options)
    # Inputs, upstream gradients, outputs, gradients, and as much again while they are made.
    tensors = [*evaluate.named_tensors({key: rows[key] for key in op.row_wise}).values(), *upstream.values()]
    needed = 4 * times * sum(t.numel() * t.element_size() for t in tensors)
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else topology.meminfo_bytes("MemAvailable")
    if free is None or needed > free:
        return Result(op.name, name, "huge", title, None, f"not run: needs about {needed / 1e9:.0f} GB of memory")

    def again(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.repeat(times, *[1] * (tensor.dim() - 1))

    try:
        expected = evaluate.evaluate(op, implementation.run, rows, options, upstream)
        many = {key: again(value) if key in op.row_wise else value for key, value in rows.items()}
        found = evaluate.evaluate(op, implementation.run, many, options, {k: again(v) for k, v in upstream.items()})
        last = {key: value[-height:] for key, value in found.items() if value.shape[:1] == (height * times,)}
        different = _different({key: expected[key] for key in last}, last)
    except Exception as error:
        different = [f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"]
    said = "; ".join(different) or "rows beyond 2^31 elements are as those before"
    return Result(op.name, name, "huge", title, not different, said)


def _row_case(op: Op) -> Case | None:
    for case in reversed(_sample(op, ("bfloat16", "float16"))):
        options = {**op.defaults, **case.options}
        rows = op.inputs(case, "cpu", torch.Generator().manual_seed(5))
        outputs = evaluate.call(op, op.reference, evaluate.leaves(op, evaluate.copy(rows)), options)
        height = rows[op.row_wise[0]].shape[0]
        plain = all(rows[name] is None or rows[name].is_contiguous() for name in op.row_wise)
        if height > 1 and plain and all(output.shape[:1] == (height,) for output in outputs.values()):
            return case
    return None


def _ones(op: Op, implementation: Implementation, tensors: Any, options: Any) -> dict[str, torch.Tensor]:
    outputs = evaluate.call(op, implementation.run, evaluate.leaves(op, evaluate.copy(tensors)), options)
    return {name: torch.ones_like(output) for name, output in outputs.items()}


def _different(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> list[str]:
    lines = []
    for name, want in expected.items():
        try:
            torch.testing.assert_close(found[name], want, equal_nan=True)
        except (AssertionError, KeyError) as error:
            lines.append(f"{name}: {' '.join(str(error).split())[:160]}")
    return lines
