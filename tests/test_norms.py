"""Every implementation of RMSNorm and LayerNorm against float64, eager torch and each other.

What only one of them does: test_rms_norm.py, test_layer_norm.py. The dropout mask by itself: test_dropout_mask.py.
"""

import ctypes
import json
import math
import re

import pytest
import torch

from perfsuite.kernels import contract, dropout_mask, layer_norm, norm_cases, norm_rows, rms_norm
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Implementation

CASES = {case.name: case for case in norm_cases.tiny()}
RESIDUAL = {"residual": "same"}
DROPPING = {"dropout_p": 0.3, "seed": 5, "offset": 2**32 - 2}


@pytest.fixture(params=[rms_norm, layer_norm], ids=["rms_norm", "layer_norm"])
def norm(request):
    return request.param


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})


@pytest.fixture
def cpp(norm):
    contract.select({norm.OP.name: "cpp"})


def public(norm):
    return getattr(norm, norm.OP.name)


def draw(norm, case, seed=0):
    """Tensors of a call, those that get a gradient as leaves."""
    tensors = norm.inputs(case, "cpu", torch.Generator().manual_seed(seed))
    return {name: None if t is None else t.requires_grad_() for name, t in tensors.items()}


def everything(norm, tensors, upstreams=None, run=None, **options):
    """Outputs and gradients of a call, as one list."""
    result = (run or public(norm))(**tensors, **options)
    outputs = list(result) if isinstance(result, tuple) else [result]
    leaves = [t for t in tensors.values() if t is not None and t.requires_grad]
    given = upstreams or [torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view(o.shape) for o in outputs]
    return [o.detach() for o in outputs] + list(torch.autograd.grad(outputs, leaves, given))


def assert_same_bits(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


# -- the correctness rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cpp_is_right(norm, case, cpp):
    report = check(norm.OP, norm.OP.implementations["cpp"], case)
    assert report.ok, report
    assert report.deterministic


def test_cpp_is_right_in_drawn_cases(norm, cpp):
    report = check_drawn(norm.OP, norm.OP.implementations["cpp"], draws=60)
    assert report.ok, report


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(("1024x", "3x20011"))])
def test_reference_is_right(norm, name):
    report = check(norm.OP, Implementation("reference", norm.reference, lambda device: None), CASES[name])
    assert report.ok, report


def refused(norm, run, case, complaint):
    case = CASES[case] if isinstance(case, str) else case
    report = check(norm.OP, Implementation("wrong", run, lambda device: None), case)
    assert any(complaint in failure for failure in report.failures), report


@pytest.mark.parametrize("residual", [None, "same"])
def test_a_wrong_epsilon_is_refused(norm, residual):
    def run(eps, **arguments):
        return norm.OP.implementations["eager"].run(eps=0.0, **arguments)

    case = norm_cases.case(16, 64, draw={"residual": residual} if residual else {}, eps=1e-4)
    refused(norm, run, case, "output: RMS")


def test_a_missing_gradient_of_the_residual_is_refused(norm):
    def run(residual, **arguments):
        return norm.OP.implementations["eager"].run(residual=residual.detach(), **arguments)

    refused(norm, run, "16x512 bfloat16 residual=same", "grad_residual: RMS")


def test_a_backward_without_the_streams_own_gradient_is_refused(norm):
    def run(**arguments):
        y, h = norm.OP.implementations["eager"].run(**arguments)
        return y, h.detach()

    refused(norm, run, "13x100 float32 layout=every second residual=same", "grad_x: RMS")


def test_a_norm_of_x_without_its_residual_is_refused(norm):
    def run(**arguments):
        eager = norm.OP.implementations["eager"].run
        return eager(**{**arguments, "residual": 0 * arguments["residual"]})[0], eager(**arguments)[1]

    refused(norm, run, "16x512 bfloat16 residual=same", "output: RMS")


@pytest.mark.parametrize("change", [{"offset": 2**33 + 6}, {"seed": 7}, {"dropout_p": 0.29}])
def test_another_dropout_mask_is_refused(norm, change):
    def run(**arguments):
        return norm.OP.implementations["eager"].run(**{**arguments, **change})

    name = "14x64 float32 dropout_p=0.3 seed=1099511627783 offset=8589934597 layout=steps first residual=same"
    refused(norm, run, name, "h: RMS")


def test_a_weight_gradient_without_one_row_is_refused(norm):
    def run(x, weight, **arguments):
        first = norm.OP.implementations["eager"].run(x=x[:-1], weight=weight, **arguments)
        last = norm.OP.implementations["eager"].run(x=x[-1:], weight=weight.detach(), **arguments)
        return torch.cat([first, last])

    refused(norm, run, "13x100 float32 eps=0.1 layout=transposed", "grad_weight: RMS")


def test_an_addition_into_the_residual_is_refused(norm):
    def run(residual, **arguments):
        result = norm.OP.implementations["eager"].run(residual=residual, **arguments)
        residual.detach().add_(arguments["x"].detach())
        return result

    refused(norm, run, "16x512 bfloat16 residual=same", "residual was changed")


# -- autograd, compile, autocast --------------------------------------------------------------------------------------

CALLS = {
    "alone": (norm_cases.case(5, 7, "float64"), {}),
    "residual": (norm_cases.case(5, 7, "float64", draw=RESIDUAL), {}),
    "dropout": (norm_cases.case(5, 7, "float64"), DROPPING),
    "both": (norm_cases.case(5, 7, "float64", draw=RESIDUAL), DROPPING),
    "no weight": (norm_cases.case(5, 7, "float64", draw={"weight": "none"}), {"eps": 0.1}),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_gradcheck_in_float64(norm, name, call):
    contract.select({norm.OP.name: name})
    case, options = CALLS[call]
    tensors = draw(norm, case)
    names = [name for name, tensor in tensors.items() if tensor is not None]

    def run(*values):
        return public(norm)(**{**tensors, **dict(zip(names, values, strict=True))}, **options)

    assert torch.autograd.gradcheck(run, [tensors[name] for name in names])


@pytest.mark.parametrize("call", ["alone", "both"])
def test_fullgraph_compile_gives_the_same(norm, cpp, call):
    case, options = CALLS[call]
    tensors = draw(norm, case)
    run = torch.compile(lambda **t: public(norm)(**t, **options), fullgraph=True, backend="aot_eager")
    assert_same_bits(everything(norm, tensors, run=run), everything(norm, tensors, **options))


def test_fullgraph_compile_with_inductor_and_changing_rows(norm, cpp):
    compiled = torch.compile(lambda t: public(norm)(**t), fullgraph=True, dynamic=True)
    for rows in (6, 9):
        tensors = draw(norm, norm_cases.case(rows, 50, draw=RESIDUAL))
        ours = everything(norm, tensors, run=lambda **t: compiled(t))
        theirs = everything(norm, tensors, run=lambda **t: norm.reference(**t, **norm.OP.defaults))
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("call", ["alone", "both"])
def test_operators_keep_torchs_rules(norm, cpp, call):
    case, options = CALLS[call]
    t = norm.inputs(case, "cpu", torch.Generator().manual_seed(0))
    centered, p = "bias" in t, options.get("dropout_p", 0.0)
    seeds = (torch.tensor(5), torch.tensor(9)) if p else (None, None)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    forward, backward = norm_rows.FORWARD["cpp"], norm_rows.BACKWARD["cpp"]
    arguments = (t["x"], t["residual"], t["weight"], t.get("bias"), *seeds, centered, 1e-5, p, False)
    torch.library.opcheck(forward, arguments, test_utils=tests)
    y, h, mean, rstd = forward(*arguments)
    stream = h if h.numel() else t["x"]
    arguments = (y, None, stream, t["weight"], mean, rstd, *seeds, p, torch.float64, centered, p > 0, True, centered)
    torch.library.opcheck(backward, arguments, test_utils=tests)


def test_a_second_derivative_is_refused_and_not_wrong(norm, cpp):
    tensors = draw(norm, norm_cases.case(4, 6))
    with pytest.raises(RuntimeError, match=f"{norm.OP.name}=cpp has no second derivative"):
        torch.autograd.grad(public(norm)(**tensors).sum(), tensors["x"], create_graph=True)


@pytest.mark.parametrize("used", [0, 1])
def test_one_output_may_be_unused(norm, cpp, used):
    tensors = draw(norm, norm_cases.case(5, 30, draw=RESIDUAL))
    leaves = [t for t in tensors.values() if t is not None]

    def gradients(run):
        found = torch.autograd.grad(run(**tensors)[used].square().sum(), leaves, allow_unused=True)
        return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]

    expected = gradients(lambda **t: norm.reference(**t, **norm.OP.defaults))
    torch.testing.assert_close(gradients(public(norm)), expected)


@pytest.mark.parametrize("wanted", ["x", "weight", "residual"])
def test_one_gradient_alone(norm, cpp, wanted):
    tensors = norm.inputs(norm_cases.case(5, 30, draw=RESIDUAL), "cpu", torch.Generator().manual_seed(0))
    tensors[wanted].requires_grad_()

    def gradient(run, **options):
        return torch.autograd.grad(run(**tensors, **options)[0].square().sum(), tensors[wanted])

    reference = {**norm.OP.defaults, **DROPPING}
    torch.testing.assert_close(gradient(public(norm), **DROPPING), gradient(norm.reference, **reference))


def test_an_expanded_upstream_gradient(norm, cpp):
    tensors = draw(norm, norm_cases.case(5, 30))
    public(norm)(**tensors).sum().backward()
    eager = draw(norm, norm_cases.case(5, 30))
    norm.reference(**eager, **norm.OP.defaults).sum().backward()
    torch.testing.assert_close(tensors["x"].grad, eager["x"].grad)
    torch.testing.assert_close(tensors["weight"].grad, eager["weight"].grad)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    ("x", "residual", "weight"),
    [
        ("float32", None, "float32"), ("bfloat16", None, "float32"), ("bfloat16", None, "bfloat16"),
        ("float16", None, "float32"), ("bfloat16", "bfloat16", "float32"), ("bfloat16", "float32", "float32"),
        ("float32", "bfloat16", "float32"), ("float16", "bfloat16", "float32"), ("float32", "float64", "float64"),
    ],
)  # fmt: skip
def test_dtypes_are_those_of_eager(norm, autocast, x, residual, weight):
    torch.manual_seed(0)
    tensors = norm.inputs(norm_cases.case(4, 24), "cpu", torch.Generator().manual_seed(0))
    tensors = {n: None if t is None else t.to(getattr(torch, weight)) for n, t in tensors.items()}
    tensors["x"] = tensors["x"].to(getattr(torch, x))
    tensors["residual"] = None if residual is None else torch.randn(4, 24).to(getattr(torch, residual))
    tensors = {n: None if t is None else t.requires_grad_() for n, t in tensors.items()}
    found = {}
    for name in ("eager", "cpp"):
        contract.select({norm.OP.name: name})
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            found[name] = everything(norm, tensors)
    assert [t.dtype for t in found["cpp"]] == [t.dtype for t in found["eager"]]
    for ours, theirs in zip(found["cpp"], found["eager"], strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=0.05, atol=0.2)


def test_the_mask_follows_seed_and_offset_as_tensors(norm, cpp):
    tensors = draw(norm, norm_cases.case(5, 33, draw=RESIDUAL))
    seed, offset = torch.tensor(2**63 - 1), torch.tensor(-2)
    ours = everything(norm, tensors, dropout_p=0.4, seed=seed, offset=offset)
    assert_same_bits(ours, everything(norm, tensors, dropout_p=0.4, seed=2**63 - 1, offset=-2))
    kept = (ours[1] - tensors["residual"].detach()).abs() > 1e-6 * tensors["x"].detach().abs()
    assert torch.equal(kept, dropout_mask.factors(tensors["x"], 0.4, seed, offset) > 0)
    offset += 42  # counters that 5 x 33 elements use up
    assert not torch.equal(ours[1], everything(norm, tensors, dropout_p=0.4, seed=seed, offset=offset)[1])


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.randn(())}, "x must be (..., width)"),
        ({"x": torch.randn(3, 0)}, "a width of at least 1, got (3, 0)"),
        ({"x": torch.zeros(3, 8, dtype=torch.int32)}, "x must be floating-point, got torch.int32"),
        ({"weight": torch.ones(7)}, "weight must be (8,) as x's last size, got (7,)"),
        ({"weight": torch.ones(1, 8)}, "got (1, 8)"),
        ({"residual": torch.randn(8)}, "residual must have x's shape (3, 8), got (8,)"),
        ({"dropout_p": 1.5}, "dropout_p must be within [0, 1], got 1.5"),
        ({"dropout_p": -0.1}, "dropout_p must be within [0, 1]"),
        ({"dropout_p": 0.5, "seed": torch.zeros(2, dtype=torch.int64)}, "seed must be an int or an int64 tensor"),
        ({"dropout_p": 0.5, "offset": torch.zeros(())}, "offset must be an int or an int64 tensor"),
    ],
)
def test_bad_arguments_are_refused(norm, change, words):
    arguments = norm.inputs(norm_cases.case(3, 8), "cpu", torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        public(norm)(**{**arguments, **change})
    assert str(error.value).startswith(norm.OP.name + ":")


@pytest.mark.parametrize("shape", [(7,), (2, 3, 7), (2, 0, 7), (0, 7), (2, 2, 2, 1)])
def test_any_number_of_dimensions(norm, cpp, shape):
    generator = torch.Generator().manual_seed(0)
    vectors = {n: torch.rand(shape[-1], generator=generator) for n in ("weight", "bias") if n in norm.OP.differentiable}
    tensors = {"x": torch.randn(shape, generator=generator), **vectors, "residual": None}
    tensors = {name: None if t is None else t.requires_grad_() for name, t in tensors.items()}
    ours = everything(norm, tensors)
    torch.testing.assert_close(ours, everything(norm, tensors, run=lambda **t: norm.reference(**t, **norm.OP.defaults)))


def test_rows_more_than_2_to_the_31_elements_apart(norm, cpp):
    # Two rows at the ends of 4 GiB that nobody touches: only their pages exist.
    far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 500), (2**31 + 64, 1))
    tensors = norm.inputs(norm_cases.case(2, 500, "bfloat16"), "cpu", torch.Generator().manual_seed(0))
    far.copy_(tensors["x"])
    ours = everything(norm, {**tensors, "x": far.requires_grad_()})
    assert_same_bits(ours, everything(norm, {**tensors, "x": tensors["x"].requires_grad_()}))


def test_the_number_of_threads_does_not_change_a_bit(norm, cpp):
    tensors = draw(norm, norm_cases.case(300, 1000, draw=RESIDUAL))
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(everything(norm, tensors, **DROPPING))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert_same_bits(result, results[0])


def test_outputs_that_are_written_past_the_caches(norm, cpp):
    # Above 16 MiB, and rows that start at any alignment.
    tensors = draw(norm, norm_cases.case(1101, 4001, draw=RESIDUAL))
    upstreams = [torch.randn(1101, 4001) for _ in range(2)]
    ours = everything(norm, tensors, upstreams)
    theirs = everything(norm, tensors, upstreams, run=lambda **t: norm.reference(**t, **norm.OP.defaults))
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-4)


def test_the_op_recorder_books_its_ops_to_it(norm, cpp):
    from perfsuite.instruments.ops import OpRecorder

    tensors = draw(norm, norm_cases.case(6, 50))
    everything(norm, tensors)
    recorder = OpRecorder(None)
    recorder.start()
    everything(norm, tensors)
    booked = {(row["op"], row["direction"]) for row in recorder.stop()["rows"]}
    assert {(f"{norm.OP.name}=cpp", "forward"), (f"{norm.OP.name}=cpp", "backward")} <= booked


def test_least_cost(norm):
    whole = norm.cost(norm_cases.case(10, 100))
    assert whole.bytes == 10 * 100 * 4 * 5  # x, y; dL/dy, x, dL/dx
    assert norm.cost(norm_cases.case(10, 100, "bfloat16", draw=RESIDUAL)).bytes == 10 * 100 * 2 * 8
    mixed = norm_cases.case(10, 100, "bfloat16", draw={"residual": "float32"})
    assert norm.cost(mixed).bytes == 10 * 100 * (2 + 4 * 3 + 4 * 3 + 2 + 4)


@pytest.mark.parametrize("scale", ["tiny", "cpu", "gpu", "code"])
def test_case_of_a_call_is_the_case(norm, scale):
    for case in norm.cases(scale):
        if case.shape["rows"] * case.shape["width"] > 10**6:
            continue
        tensors = draw(norm, case)
        found = norm.case_of(**tensors, **norm.OP.defaults, **case.options) if not case.options else None
        if found:
            assert (found.shape, found.dtype, found.gradient) == (case.shape, case.dtype, True)
            assert norm.cost(found) == norm.cost(case)


# -- Triton in the interpreter ----------------------------------------------------------------------------------------

INTERPRETED = """
import json, sys
import torch
from perfsuite.kernels import contract, norm_cases, norm_rows, norm_triton
from perfsuite.kernels.check import check

op = contract.op(sys.argv[1])
contract.select({op.name: "triton"})
norm_triton.TILE = 256
cases, failures = {case.name: case for case in norm_cases.tiny()}, {}

def run(how, names):
    for name in names:
        failures[how + name] = check(op, op.implementations["triton"], cases[name]).failures

whole, in_memory, wide = json.loads(sys.argv[2])
run("", whole)
norm_triton.KEPT_IN_REGISTERS = 16
run("sums in memory: ", in_memory)
norm_triton.ONE_TILE, norm_triton.WIDE_BLOCK = 16, 64
run("wide: ", wide)
norm_triton.KEPT_IN_REGISTERS, norm_triton.ONE_TILE = 8192, 16384

t = op.inputs(norm_cases.case(3, 20, "bfloat16"), "cpu", torch.Generator())
arguments = (t["x"], None, t["weight"], t.get("bias"), None, None, "bias" in t, 1e-5, 0.0)
y, _, mean, rstd = norm_rows.FORWARD["triton"](*arguments, True)
assert y.dtype == torch.float32
torch.testing.assert_close(y.bfloat16(), norm_rows.FORWARD["triton"](*arguments, False)[0])
rest = (t["x"], t["weight"], mean, rstd, None, None, 0.0, torch.bfloat16, "bias" in t, False, True, "bias" in t)
ours = norm_rows.BACKWARD["triton"](y, None, *rest)
torch.testing.assert_close(ours, norm_rows.BACKWARD["triton"](y.bfloat16(), None, *rest), rtol=0.02, atol=0.02)

x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
vectors = [torch.rand(6, dtype=torch.float64, requires_grad=True) for name in ("weight", "bias") if name in t]
def call(*tensors):
    return op(*tensors, tensors[0] * 2, eps=1e-5, dropout_p=0.3, seed=3, offset=1)
torch.autograd.gradcheck(call, (x, *vectors))
compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
for ours, theirs in zip(compiled(x, *vectors), call(x, *vectors), strict=True):
    torch.testing.assert_close(ours, theirs)
sums = [sum(o.square().sum() for o in run(x, *vectors)) for run in (compiled, call)]
torch.testing.assert_close(*[torch.autograd.grad(s, [x, *vectors]) for s in sums])

far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 9), (2**31 + 64, 1))
far.copy_(torch.randn(2, 9))
tail = [None] * len(vectors) + [None]
options = {**op.defaults}
assert torch.equal(op(far, *tail, **options), op(far.contiguous(), *tail, **options))
print(json.dumps(failures))
"""
WHOLE = [
    "0x7 float32",
    "7x33 float32 dropout_p=0.3 seed=1099511627783 offset=8589934597 residual=same",
    "13x100 float32 layout=every second residual=same",
    "6x40 float32 weight=none",
    "9x72 bfloat16 dropout_p=0.3 seed=1099511627783 offset=8589934597 weight=float32 residual=float32",
    "5x31 float64",
]
IN_MEMORY = ["5x31 float64"]
WIDE = ["7x33 float32 dropout_p=0.3 seed=1099511627783 offset=8589934597 residual=same", "5x31 float64"]


def test_triton_in_the_interpreter(norm, interpreted):
    failures = interpreted(INTERPRETED, norm.OP.name, json.dumps([WHOLE, IN_MEMORY, WIDE]))
    assert len(failures) == len(WHOLE) + len(IN_MEMORY) + len(WIDE)
    assert not any(failures.values()), failures


# -- CUDA on the emulator ---------------------------------------------------------------------------------------------

EMULATED = [case for case in norm_cases.tiny() if case.shape["rows"] * case.shape["width"] < 6000] + [
    norm_cases.case(6, 1100, "float64", draw=RESIDUAL),  # read again, in packs
    norm_cases.case(2, 2048, "bfloat16"),  # held by a block, few packs a thread
    norm_cases.case(1, 16384, "bfloat16", draw={**RESIDUAL, "weight": "float32"}),  # more packs
    norm_cases.case(1, 16384),  # the largest block
]


@pytest.mark.parametrize("case", EMULATED, ids=lambda case: case.name)
def test_cuda_is_right_on_the_emulator(norm, case, cuda_emulator):
    report = check(norm.OP, norm.OP.implementations["cuda"], case)
    assert report.ok, report
    assert report.deterministic


def test_cuda_with_a_float32_output_on_the_emulator(norm, cuda_emulator):
    t = norm.inputs(norm_cases.case(3, 64, "bfloat16"), "cpu", torch.Generator())
    for weight_dtype in (torch.bfloat16, torch.float32):
        vectors = [None if t.get(n) is None else t[n].to(weight_dtype) for n in ("weight", "bias")]
        arguments = (t["x"], None, *vectors, None, None, "bias" in t, 1e-5, 0.0)
        y, _, mean, rstd = norm_rows.FORWARD["cuda"](*arguments, True)
        assert y.dtype == torch.float32
        torch.testing.assert_close(y.bfloat16(), norm_rows.FORWARD["cuda"](*arguments, False)[0])
        rest = (t["x"], vectors[0], mean, rstd, None, None, 0.0, torch.bfloat16, "bias" in t, False, True, "bias" in t)
        ours = norm_rows.BACKWARD["cuda"](y, None, *rest)
        torch.testing.assert_close(ours, norm_rows.BACKWARD["cuda"](y.bfloat16(), None, *rest), rtol=0.02, atol=0.02)


def test_cuda_rows_more_than_2_to_the_31_elements_apart(norm, cuda_emulator):
    far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 16), (2**31 + 64, 1))
    t = norm.inputs(norm_cases.case(2, 16, "bfloat16"), "cpu", torch.Generator())
    far.copy_(t["x"])
    run = norm.OP.implementations["cuda"].run
    ours, theirs = (run(**{**t, "x": x}, **norm.OP.defaults) for x in (far, t["x"]))
    assert_same_bits([ours], [theirs])


# -- the C++ kernels by themselves ------------------------------------------------------------------------------------

SHIM = """
#include "norm_rows.h"
using namespace perfsuite::cpu;
#define DEFINE(X, H, name)                                                                                         \\
  extern "C" void name(const X* x, const H* residual, const float* weight, const float* bias, int64_t rows,        \\
                       int64_t width, double p, const H* upstream, const H* upstream_h, H* h, H* y, float* mean,   \\
                       float* rstd, X* grad_x, H* grad_residual, float* grad_weight, float* grad_bias, int stream, \\
                       int isa) {                                                                                  \\
    const Dropout dropout = dropout_with(p, 5, 9);                                                                 \\
    norm_rows_forward<X, H>({x, width, residual, width, weight, bias, width, 1e-5, mean != nullptr, dropout, h, y, \\
                             mean, rstd, stream != 0}, 0, rows, Isa(isa));                                         \\
    norm_rows_backward<X, H>({upstream, upstream_h, h, width, weight, mean, rstd, width, dropout, grad_x,          \\
                              grad_residual, stream != 0}, 0, rows, grad_weight, grad_bias, Isa(isa));             \\
  }
DEFINE(float, float, run_float32)
DEFINE(BFloat16, BFloat16, run_bfloat16)
DEFINE(Half, Half, run_float16)
DEFINE(BFloat16, float, run_mixed)
extern "C" int best() { return int(best_isa()); }
"""
ISAS = {"plain": 0, "avx2": 1, "avx512": 2}


@pytest.fixture(scope="module")
def library(compile_kernels):
    return compile_kernels(SHIM, "norm_rows")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("stream", [0, 1])
@pytest.mark.parametrize("width", [1, 15, 16, 65, 1031])
@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "mixed"])
def test_every_instruction_set_agrees_with_float64(norm, library, isa, name, width, stream):
    if ISAS[isa] > library.best():
        pytest.skip(f"this processor has no {isa}")
    rows, p = 37, 0.3
    kind = torch.float32 if name == "mixed" else getattr(torch, name)
    x_kind = torch.bfloat16 if name == "mixed" else kind
    centered = norm is layer_norm
    generator = torch.Generator().manual_seed(width)

    def normal(*shape, dtype=kind):
        return torch.randn(shape, generator=generator).to(dtype)

    x, residual, upstream, upstream_h = normal(rows, width, dtype=x_kind), *(normal(rows, width) for _ in range(3))
    weight, bias = normal(width, dtype=torch.float32), normal(width, dtype=torch.float32)

    def written(*shape, dtype=kind):  # one element past the end, which nobody may touch
        return torch.full((math.prod(shape) + 1,), 99.0, dtype=dtype)

    h, y, grad_residual = (written(rows, width) for _ in range(3))
    grad_x = written(rows, width, dtype=x_kind)
    mean, rstd = (written(rows, dtype=torch.float32) for _ in range(2))
    grad_weight, grad_bias = (written(width, dtype=torch.float32) for _ in range(2))
    grad_weight[:-1], grad_bias[:-1] = 0, 0
    pointer = lambda t: ctypes.c_void_p(t.data_ptr())  # noqa: E731
    only_centered = lambda t: pointer(t) if centered else None  # noqa: E731
    getattr(library, f"run_{name}")(
        pointer(x), pointer(residual), pointer(weight), only_centered(bias), *map(ctypes.c_int64, (rows, width)),
        ctypes.c_double(p), pointer(upstream), pointer(upstream_h), pointer(h), pointer(y), only_centered(mean),
        pointer(rstd), pointer(grad_x), pointer(grad_residual), pointer(grad_weight), only_centered(grad_bias),
        ctypes.c_int(stream), ctypes.c_int(ISAS[isa]),
    )  # fmt: skip

    tensors = {"x": x, "weight": weight, "bias": bias, "residual": residual}
    tensors = {n: t.double().requires_grad_() for n, t in tensors.items() if n in norm.OP.differentiable}
    upstreams = [upstream.double(), upstream_h.double()]
    options = {"eps": 1e-5, "dropout_p": p, "seed": 5, "offset": 9}
    exact = everything(norm, tensors, upstreams, run=lambda **t: norm.reference(**t, **options))
    bias_gradient = [grad_bias] if centered else []
    eps = torch.finfo(kind).eps
    for got, want in zip([y, h, grad_x, grad_weight, *bias_gradient, grad_residual], exact, strict=True):
        assert got[-1] == 99.0
        tolerance = (16 if width > 1 else 2000) * max(eps, torch.finfo(got.dtype).eps)
        torch.testing.assert_close(got[:-1].double().view(want.shape), want, rtol=tolerance, atol=4 * tolerance)
