"""What is timed: one forward and one backward of an implementation, on inputs that rotate through fresh addresses."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perfsuite.kernels import evaluate
from perfsuite.kernels.contract import Case, Implementation, Op

MOST_COPIES = 64
MOST_BYTES = 2 << 30
"""Of all copies of a case together."""


@dataclass(frozen=True)
class Inputs:
    """Arguments of one case, in as many copies as it takes to find none of them in a cache, or in a single one."""

    copies: list[evaluate.Tensors]
    upstream: dict[str, Tensor]
    options: Mapping[str, Any]
    wants_gradient: bool
    footprint_bytes: int
    """Of one copy."""


def footprint_bytes(op: Op, case: Case) -> int:
    """Bytes of the tensors of one call, in and out; drawn on the CPU."""
    tensors = op.inputs(case, "cpu", torch.Generator().manual_seed(0))
    return sum(t.numel() * t.element_size() for t in evaluate.named_tensors(tensors).values())


def make_inputs(op: Op, case: Case, device: str, cache_bytes: int, cold: bool) -> Inputs:
    """Copies of fresh inputs: cold ones fill three times the last-level cache before the first comes round again."""
    size = max(1, footprint_bytes(op, case))
    wanted = math.ceil(3 * cache_bytes / size) if cold else 1
    count = max(2 if cold else 1, min(wanted, MOST_COPIES, MOST_BYTES // size))
    generator = torch.Generator().manual_seed(0)
    first = op.inputs(case, device, generator)
    options = {**op.defaults, **case.options}
    outputs = evaluate.call(
        op, op.implementations["eager"].run, evaluate.leaves(op, evaluate.copy(first)), options
    )
    # A loss is handed 1, as loss.backward() does; anything else a gradient of random numbers.
    upstream = {
        name: torch.ones_like(out) if out.dim() == 0 else torch.randn(out.shape, generator=generator).to(out)
        for name, out in outputs.items()
    }
    copies = [evaluate.leaves(op, evaluate.copy(first)) for _ in range(count)]
    return Inputs(copies, upstream, options, case.gradient and bool(op.differentiable), size)


def bind(op: Op, implementation: Implementation, inputs: Inputs) -> Callable[[int], tuple[Callable[[], Any], ...]]:
    """For a copy's index: (forward, backward), to be called in this order; backward is left out where there is none.

    forward returns what the implementation returns; backward returns the gradients.
    """
    given = list(inputs.upstream.values())

    def pair(index: int) -> tuple[Callable[[], Any], ...]:
        arguments = inputs.copies[index % len(inputs.copies)]
        state: dict[str, Any] = {}

        def forward() -> Any:
            result = implementation.run(**arguments, **inputs.options)
            state["outputs"] = result
            return result

        if not inputs.wants_gradient:
            return (forward,)
        wanted = [arguments[name] for name in op.differentiable if arguments.get(name) is not None]

        def backward() -> Any:
            outputs = state.pop("outputs")
            roots = [out for out in (outputs if isinstance(outputs, tuple) else (outputs,)) if out is not None]
            return torch.autograd.grad(roots, wanted, given)

        return forward, backward

    return pair
