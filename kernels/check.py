"""Is an implementation of an op right? Compared with float64 and with how far eager torch at the same dtype is from it.

Errors are counted in ulps of each element's scale: the spacing of the output's dtype at the largest operand that
cancels in it, which the op declares (Op.scales). Over all draws together an implementation is right when
- its root-mean-square error is at most 2 times eager's (gradients: 3 times) plus one ulp;
- no element's error is above 16 times that limit (eager's own largest is up to 12 times its root mean square);
- NaN and infinities are where eager has them, except where eager alone overflows;
- dtype and shape are eager's, and the inputs have not changed.
Outputs are poisoned: memory that torch hands out uninitialised is filled with NaN, so that what is not written shows.
(Memory that compiled code takes by other ways is not.)

In float64 nothing here is more exact than eager: there eager's error in ulps is taken from float32.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from perfsuite.kernels.contract import Case, Implementation, Op

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
class _Findings:
    sums: dict[str, _Sums] = field(default_factory=dict)
    failures: dict[str, None] = field(default_factory=dict)  # ordered, each once


def check(
    op: Op, implementation: Implementation, case: Case, device: str = "cpu", draws: int = MIN_DRAWS, seed: int = 0
) -> Report:
    """Compare an implementation with float64 and with eager over `draws` fresh random inputs.

    Raises ValueError for fewer than 32 draws: too few to tell a kernel that is wrong now and then.
    """
    if draws < MIN_DRAWS:
        raise ValueError(f"check needs at least {MIN_DRAWS} draws, got {draws}")
    generator = torch.Generator().manual_seed(seed)
    options = {**op.defaults, **case.options}
    found = _Findings()
    eager_run = op.implementations["eager"].run
    for draw in range(draws):
        tensors = op.inputs(case, device, generator)
        before = {name: tensor.clone() for name, tensor in tensors.items()}
        upstream = _draw_upstream(eager_run(**tensors, **options), draw, generator)
        truth = _truth(op, tensors, options, upstream)
        eager = _evaluate(op, eager_run, tensors, options, upstream)
        with poisoned():
            mine = _evaluate(op, implementation.run, tensors, options, upstream)
        for name, tensor in tensors.items():
            if not _same_bits(tensor, before[name]):
                found.failures[f"{name} was changed"] = None
        for name in truth.values:
            _compare_kinds(found, name, mine[name], eager[name], truth.values[name])
            sums = found.sums.setdefault(name, _Sums())
            sums.mine.add(mine[name], truth, name)
            if case.dtype != "float64":
                sums.eager.add(eager[name], truth, name)
        if case.dtype == "float64":
            tensors, upstream = _narrowed(tensors), upstream.float()
            truth = _truth(op, tensors, options, upstream)
            for name, value in _evaluate(op, eager_run, tensors, options, upstream).items():
                found.sums[name].eager.add(value, truth, name)
    errors = tuple(_judge(found, name, sums) for name, sums in found.sums.items())
    return Report(op.name, implementation.name, case.name, draws, errors, tuple(found.failures))


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


def _draw_upstream(output: Tensor, draw: int, generator: torch.Generator) -> Tensor:
    """The gradient of the output: 1 in every second draw, as loss.backward() has it, else random."""
    if draw % 2 == 0:
        return torch.ones_like(output)
    return torch.randn(output.shape, generator=generator).to(output)


def _truth(op: Op, tensors: dict[str, Tensor], options: dict[str, Any], upstream: Tensor) -> _Truth:
    exact = {name: tensor.double() if tensor.dtype.is_floating_point else tensor for name, tensor in tensors.items()}
    values = _evaluate(op, op.reference, exact, options, upstream.double())
    return _Truth(values, op.scales(exact, options, upstream.double()))


def _narrowed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() if tensor.dtype.is_floating_point else tensor for name, tensor in tensors.items()}


def _evaluate(
    op: Op, run: Any, tensors: dict[str, Tensor], options: dict[str, Any], upstream: Tensor
) -> dict[str, Tensor]:
    leaves = {name: tensor.detach() for name, tensor in tensors.items()}
    wanted = [leaves[name].requires_grad_() for name in op.differentiable]
    output = run(**leaves, **options)
    gradients = torch.autograd.grad(output, wanted, upstream.to(output.dtype))
    named = zip(op.differentiable, gradients, strict=True)
    return {"output": output.detach(), **{f"grad_{name}": gradient for name, gradient in named}}


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _compare_kinds(found: _Findings, name: str, mine: Tensor, eager: Tensor, exact: Tensor) -> None:
    """Dtype, shape, and where there are NaN and infinities."""
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


def _judge(found: _Findings, name: str, sums: _Sums) -> Errors:
    factor = OUTPUT_FACTOR if name == "output" else GRADIENT_FACTOR
    mine, eager = sums.mine, sums.eager
    rms_limit = factor * eager.rms + 1.0
    largest_limit = LARGEST_FACTOR * rms_limit
    if mine.rms > rms_limit:
        found.failures[f"{name}: RMS error {mine.rms:.3g} ulp, eager {eager.rms:.3g}, limit {rms_limit:.3g}"] = None
    if mine.largest > largest_limit:
        line = f"{name}: an error of {mine.largest:.3g} ulp, eager's largest {eager.largest:.3g}"
        found.failures[f"{line}, limit {largest_limit:.3g}"] = None
    return Errors(name, mine.rms, eager.rms, rms_limit, mine.largest, eager.largest, largest_limit)
