"""Is an implementation of an op right? Compared with float64 and with how far eager torch at the same dtype is from it.

Errors are counted in ulps of each element's scale: the spacing of the output's dtype at the largest operand that
cancels in it, which the op declares (Op.scales). Over all draws together an implementation is right when
- its root-mean-square error is at most 2 times eager's (gradients: 3 times) plus one ulp;
- no element's error is above 16 times that limit (eager's own largest is up to 12 times its root mean square);
- NaN and infinities are where eager has them, except where eager alone overflows;
- type, dtype and shape are eager's, and the inputs have not changed, except those that the op changes in place.

What would look right without being computed is made to show. Outputs are poisoned: memory that torch hands out
uninitialised is filled with NaN (memory that compiled code takes by other ways is not). The implementation runs before
eager and the truth, so no freed memory holds the answer. Every second draw puts new values into the very tensors of the
draw before, without touching their version counters: results kept by address, identity or version are old then.

In float64 nothing here is more exact than eager: there eager's error in ulps is taken from float32.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from perfsuite.kernels import evaluate
from perfsuite.kernels.contract import Case, Implementation, Op
from perfsuite.kernels.evaluate import Tensors, named_tensors

OUTPUT_FACTOR = 2.0
GRADIENT_FACTOR = 3.0
LARGEST_FACTOR = 16.0
MIN_DRAWS = 32


class Errors(NamedTuple):
    """Of one output or gradient, in ulps of its elements' scale, over all draws."""

    name: str
    rms: float
    eager_rms: float
    rms_limit: float
    largest: float
    eager_largest: float
    largest_limit: float


@dataclass(frozen=True)
class Report:
    """What `check` found."""

    op: str
    implementation: str
    case: str
    draws: int
    errors: tuple[Errors, ...]
    failures: tuple[str, ...]
    """One line for each rule that was broken; none: right."""
    deterministic: bool
    """Whether the same call gave the same bits again. Not a rule."""

    @property
    def ok(self) -> bool:
        return not self.failures


class _Truth(NamedTuple):
    values: dict[str, Tensor]
    scales: dict[str, Tensor]


@dataclass
class _Sum:
    """Errors of many elements, in ulps."""

    squares: float = 0.0
    largest: float = 0.0
    count: int = 0

    def add(self, value: Tensor, truth: _Truth, name: str) -> None:
        exact, scale = truth.values[name], truth.scales[name]
        if value.shape != exact.shape:
            return
        usable = value.isfinite() & exact.isfinite() & scale.isfinite()
        error = ((value.double() - exact).abs() / _ulp(scale, value.dtype))[usable]
        if error.numel():
            self.squares += float(error.square().sum())
            self.largest = max(self.largest, float(error.max()))
            self.count += error.numel()

    @property
    def rms(self) -> float:
        return math.sqrt(self.squares / max(1, self.count))


@dataclass
class _Sums:
    mine: _Sum = field(default_factory=_Sum)
    eager: _Sum = field(default_factory=_Sum)


@dataclass
class Findings:
    """What calls of one implementation at one case, or at drawn ones, showed so far."""

    sums: dict[str, _Sums] = field(default_factory=dict)
    failures: dict[str, None] = field(default_factory=dict)  # ordered, each once
    deterministic: bool = True
    draws: int = 0

    def compare(
        self, op: Op, case: Case, tensors: Tensors, upstream: dict[str, Tensor], arguments: Tensors,
        mine: dict[str, Tensor],
    ) -> None:  # fmt: skip
        """Compare the results of one call, by name as evaluate.evaluate_on returns them, with the truth and with eager.

        tensors: what the call was given, kept from before it. arguments: the very tensors that it was given.
        """
        self.draws += 1
        options = {**op.defaults, **case.options}
        for name, before in named_tensors({k: v for k, v in tensors.items() if k not in op.mutates}).items():
            if not _same_bits(named_tensors(arguments)[name].detach(), before):
                self.failures[f"{name} was changed"] = None
        eager_run = op.implementations["eager"].run
        truth = _truth(op, tensors, options, upstream)
        eager = evaluate.evaluate(op, eager_run, tensors, options, upstream)
        for name in truth.values:
            if name not in mine:
                self.failures[f"{name}: there is none"] = None
                continue
            _compare_kinds(self, name, mine[name], eager[name], truth.values[name])
            sums = self.sums.setdefault(name, _Sums())
            sums.mine.add(mine[name], truth, name)
            if case.dtype != "float64":
                sums.eager.add(eager[name], truth, name)
        if case.dtype == "float64":
            narrow, upstream = evaluate.cast(tensors, torch.float32), evaluate.cast(upstream, torch.float32)
            truth = _truth(op, narrow, options, upstream)
            for name, value in evaluate.evaluate(op, eager_run, narrow, options, upstream).items():
                if name in self.sums:
                    self.sums[name].eager.add(value, truth, name)

    def report(self, op: Op, implementation: str, case: str) -> Report:
        """The rules over all calls together."""
        errors = tuple(_judge(self, name, sums) for name, sums in self.sums.items())
        return Report(op.name, implementation, case, self.draws, errors, tuple(self.failures), self.deterministic)


def check(
    op: Op, implementation: Implementation, case: Case, device: str = "cpu", draws: int = MIN_DRAWS, seed: int = 0
) -> Report:
    """Compare an implementation with float64 and with eager over `draws` fresh random inputs.

    Raises ValueError for fewer than 32 draws: too few to tell a kernel that is wrong now and then.
    """
    if draws < MIN_DRAWS:
        raise ValueError(f"check needs at least {MIN_DRAWS} draws, got {draws}")
    return _check(op, implementation, [case] * draws, device, seed, case.name)


def check_drawn(op: Op, implementation: Implementation, device: str = "cpu", draws: int = 200, seed: int = 0) -> Report:
    """The same over `draws` cases that hypothesis draws from op.any_case(), with one input each.

    The first case that breaks a rule by itself is made as small as hypothesis can, and is named in the failure.
    """
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    cases: list[Case] = []

    @seeded(seed)
    @settings(max_examples=draws, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              phases=[Phase.generate, Phase.shrink])  # fmt: skip
    @given(op.any_case())
    def one(case: Case) -> None:
        cases.append(case)
        report = _check(op, implementation, [case, case], device, seed, case.name)
        alone = [line for line in report.failures if "RMS" not in line]  # a root mean square needs many draws
        assert not alone, f"{case.name}: {alone[0]}"

    try:
        one()
    except Exception as error:
        line = str(error).splitlines()[0]
        case = cases[-1].name
        said = line if isinstance(error, AssertionError) else f"{case}: {type(error).__name__}: {line}"
        return Report(op.name, implementation.name, "drawn", len(cases), (), (said,), True)
    return _check(op, implementation, cases, device, seed + 1, "drawn")


def _check(op: Op, implementation: Implementation, cases: list[Case], device: str, seed: int, name: str) -> Report:
    generator = torch.Generator().manual_seed(seed)
    found = Findings()
    kept: Tensors | None = None
    outputs: dict[str, Tensor] = {}
    for draw, case in enumerate(cases):
        same = draw > 0 and case == cases[draw - 1]
        if not same:
            outputs = _other_outputs(op, case, device)
        again = same and draw % 2 == 1
        kept = _draw(op, implementation.run, case, device, draw, generator, kept if again else None, outputs, found)
    return found.report(op, implementation.name, name)


def _draw(
    op: Op, run: Callable[..., Any], case: Case, device: str, draw: int, generator: torch.Generator,
    kept: Tensors | None, outputs: dict[str, Tensor], found: Findings,
) -> Tensors:  # fmt: skip
    """One draw; returns the very arguments that the implementation was called with. outputs: of the case's shapes."""
    options = {**op.defaults, **case.options}
    upstream = _draw_upstream(outputs, draw, generator)
    tensors = op.inputs(case, device, generator)
    arguments = evaluate.leaves(op, evaluate.copy(tensors))
    if kept is not None and _layout(kept) == _layout(arguments):
        for old, new in zip(named_tensors(kept).values(), named_tensors(arguments).values(), strict=True):
            old.data.copy_(new.data)
        arguments = kept
    try:
        with poisoned():
            mine = evaluate.evaluate_on(op, run, arguments, options, upstream)
            if draw == 0:
                mine = {key: value.clone() for key, value in mine.items()}
                repeated = evaluate.evaluate(op, run, evaluate.copy(tensors), options, upstream)
                found.deterministic = all(_same_bits(mine[key], repeated[key]) for key in mine)
    except Exception as error:  # whatever somebody's kernel raises, or its results raise in autograd
        found.failures[f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"] = None
        return arguments
    found.compare(op, case, tensors, upstream, arguments, mine)
    return arguments


@contextmanager
def poisoned() -> Iterator[None]:
    """Within, torch fills memory that it hands out uninitialised with NaN (integers: the largest)."""
    mode, fill = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = True
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(mode)
            torch.utils.deterministic.fill_uninitialized_memory = fill


def _other_outputs(op: Op, case: Case, device: str) -> dict[str, Tensor]:
    """Of eager, on other inputs than the ones that are compared: for the shapes and dtypes that a case has."""
    other = op.inputs(case, device, torch.Generator().manual_seed(0))
    arguments = evaluate.leaves(op, evaluate.copy(other))
    outputs = evaluate.call(op, op.implementations["eager"].run, arguments, {**op.defaults, **case.options})
    return {name: output.detach() for name, output in outputs.items()}


def _draw_upstream(outputs: dict[str, Tensor], draw: int, generator: torch.Generator) -> dict[str, Tensor]:
    """The gradient of each output: 1 in every second draw, as loss.backward() has it, else random."""
    if draw % 2 == 0:
        return {name: torch.ones_like(output) for name, output in outputs.items()}
    return {name: torch.randn(output.shape, generator=generator).to(output) for name, output in outputs.items()}


def _layout(tensors: Tensors) -> list[Any]:
    return [(name, t.shape, t.stride(), t.dtype) for name, t in named_tensors(tensors).items()]


def _truth(op: Op, tensors: Tensors, options: dict[str, Any], upstream: dict[str, Tensor]) -> _Truth:
    exact, wide = evaluate.cast(tensors, torch.float64), evaluate.cast(upstream, torch.float64)
    values = evaluate.evaluate(op, op.reference, exact, options, wide)
    given = tuple(wide.values())
    return _Truth(values, op.scales(exact, options, given[0] if len(op.outputs) == 1 else given))


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _compare_kinds(found: Findings, name: str, mine: Tensor, eager: Tensor, exact: Tensor) -> None:
    """Type, dtype, shape, and where there are NaN and infinities."""
    if type(mine) is not Tensor:  # whatever it does later is not timed
        found.failures[f"{name}: is a {type(mine).__name__}, not a plain tensor"] = None
    if mine.dtype != eager.dtype or mine.shape != eager.shape:
        have, want = f"{mine.dtype}{tuple(mine.shape)}", f"{eager.dtype}{tuple(eager.shape)}"
        found.failures[f"{name}: is {have}, not {want}"] = None
        return
    finite = mine.isfinite()
    eager_overflows = finite & ~eager.isfinite() & exact.to(eager.dtype).isfinite()
    same_kind = torch.where(finite, eager.isfinite(), (mine == eager) | (mine.isnan() & eager.isnan()))
    if not bool((same_kind | eager_overflows).all()):
        found.failures[f"{name}: NaN or infinite where eager is not, or the other way round"] = None


def _ulp(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Spacing of the dtype's numbers at scale (float64), and no less than at 2^-126: hardware may flush below."""
    kind = torch.finfo(dtype)
    lowest = max(kind.smallest_normal, 2.0**-126)
    return kind.eps * torch.exp2(torch.floor(torch.log2(scale.abs().clamp_min(lowest))))


def _judge(found: Findings, name: str, sums: _Sums) -> Errors:
    factor = GRADIENT_FACTOR if name.startswith("grad_") else OUTPUT_FACTOR
    mine, eager = sums.mine, sums.eager
    rms_limit = factor * eager.rms + 1.0
    largest_limit = LARGEST_FACTOR * rms_limit
    if mine.rms > rms_limit:
        found.failures[f"{name}: RMS error {mine.rms:.3g} ulp, eager {eager.rms:.3g}, limit {rms_limit:.3g}"] = None
    if mine.largest > largest_limit:
        line = f"{name}: an error of {mine.largest:.3g} ulp, eager's largest {eager.largest:.3g}"
        found.failures[f"{line}, limit {largest_limit:.3g}"] = None
    return Errors(name, mine.rms, eager.rms, rms_limit, mine.largest, eager.largest, largest_limit)
