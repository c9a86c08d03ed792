"""One call of an op: run it on given tensors and collect all it leaves, by name.

Names are those of Op.outputs, "grad_<name>" for gradients, and for tensors changed in place their own; those of a list
are "<name>.0", "<name>.1" and so on.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from perfsuite.kernels.contract import Op

Tensors = dict[str, Any]
"""Of one call by argument name: a tensor, a list of tensors, or None."""


def map_tensors(tensors: Mapping[str, Any], change: Callable[[Tensor], Tensor]) -> Tensors:
    """The same with every tensor changed, in lists too."""

    def one(value: Any) -> Any:
        if value is None:
            return None
        return [change(tensor) for tensor in value] if isinstance(value, (list, tuple)) else change(value)

    return {name: one(value) for name, value in tensors.items()}


def named_tensors(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Each tensor with a name of its own."""
    named: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if isinstance(value, (list, tuple)):
            named |= {f"{name}.{index}": tensor for index, tensor in enumerate(value)}
        elif value is not None:
            named[name] = value
    return named


def cast(tensors: Mapping[str, Any], dtype: torch.dtype) -> Tensors:
    """Floating-point tensors in another dtype, the others as they are."""
    return map_tensors(tensors, lambda tensor: tensor.to(dtype) if tensor.dtype.is_floating_point else tensor)


def copy(tensors: Mapping[str, Any]) -> Tensors:
    """Fresh tensors of the same values and strides."""
    return map_tensors(tensors, clone)


def clone(tensor: Tensor) -> Tensor:
    """A copy with the same strides, also where they have holes; not in autograd's graph."""
    out = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return out.copy_(tensor.detach())


def leaves(op: Op, tensors: Mapping[str, Any]) -> Tensors:
    """The arguments of a call: detached, and requiring a gradient where the op gives one."""
    made = map_tensors(tensors, Tensor.detach)
    for name in op.differentiable:
        if made.get(name) is not None:
            made[name].requires_grad_()
    return made


def call(op: Op, run: Callable[..., Any], arguments: Tensors, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Run and return the outputs by name, still in autograd's graph. Changes op.mutates in place."""
    result = run(**arguments, **options)
    outputs = result if isinstance(result, tuple) else (result,)
    return {name: value for name, value in zip(op.outputs, outputs, strict=False) if value is not None}


def gradients(op: Op, outputs: dict[str, Tensor], arguments: Tensors, upstream: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of the differentiable arguments, from the upstream gradient of each output."""
    wanted = {name: arguments[name] for name in op.differentiable if arguments.get(name) is not None}
    roots = {name: output for name, output in outputs.items() if output.requires_grad}
    if not wanted or not roots:
        return {}
    given = [upstream[name].to(output.dtype) for name, output in roots.items()]
    found = torch.autograd.grad(list(roots.values()), list(wanted.values()), given, allow_unused=True)
    zeroed = (torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, wanted.values(), strict=True))
    return {f"grad_{name}": gradient for name, gradient in zip(wanted, zeroed, strict=True)}


def evaluate(
    op: Op, run: Callable[..., Any], tensors: Mapping[str, Any], options: Mapping[str, Any], upstream: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Outputs, gradients and what was changed in place, of a call on tensors that stay as they are."""
    arguments = leaves(op, {**tensors, **copy({name: tensors[name] for name in op.mutates if name in tensors})})
    return evaluate_on(op, run, arguments, options, upstream)


def evaluate_on(
    op: Op, run: Callable[..., Any], arguments: Tensors, options: Mapping[str, Any], upstream: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The same on these very arguments (from `leaves`): what the op mutates is changed in them."""
    outputs = call(op, run, arguments, options)
    found = gradients(op, outputs, arguments, upstream)
    changed = named_tensors({name: arguments[name] for name in op.mutates})
    return {name: value.detach() for name, value in {**outputs, **changed, **found}.items()}
