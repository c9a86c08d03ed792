"""What a call of AdamW or LAMB is made of: lists of tensors, one of each kind for every parameter."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

Lists = Sequence[list[Tensor]]

HALVES = (torch.bfloat16, torch.float16)


def check_arguments(
    op: str, params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor],
    steps: list[Tensor], grad_norm: Tensor | None, copies: list[Tensor] | None, max_norm: float | None,
) -> None:  # fmt: skip
    """ValueError where lists do not fit together, see adamw."""
    like_params = {"exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs}
    lists = {"grads": grads, **like_params, "steps": steps, **({} if copies is None else {"copies": copies})}
    for name, tensors in lists.items():
        if len(tensors) != len(params):
            raise ValueError(f"{op}: as many {name} as params are needed, got {len(tensors)} and {len(params)}")
    if (grad_norm is None) != (max_norm is None):
        raise ValueError(f"{op}: grad_norm and max_norm are given together, got {grad_norm} and {max_norm}")
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"{op}: max_norm must be positive, got {max_norm}")
    if grad_norm is not None and grad_norm.numel() != 1:
        raise ValueError(f"{op}: grad_norm must be one number, got shape {tuple(grad_norm.shape)}")
    if not params:
        return
    dtype, device = params[0].dtype, params[0].device
    if not dtype.is_floating_point:
        raise ValueError(f"{op}: params must be floating-point, got {dtype}")
    for name, tensors in {"params": params, **lists}.items():
        for index, (tensor, param) in enumerate(zip(tensors, params, strict=True)):
            want = () if name == "steps" else tuple(param.shape)
            if tuple(tensor.shape) != want:
                raise ValueError(f"{op}: {name}[{index}] must be {want}, got {tuple(tensor.shape)}")
            if tensor.device != device:
                raise ValueError(f"{op}: {name}[{index}] must be on {device}, got {tensor.device}")
            if tensor.dtype != tensors[0].dtype:
                raise ValueError(f"{op}: one dtype for all {name}, got {tensors[0].dtype} and {tensor.dtype}")
    for name, tensors in like_params.items():
        if tensors[0].dtype != dtype:
            raise ValueError(f"{op}: {name} must be {dtype} as params are, got {tensors[0].dtype}")
    if steps[0].dtype != torch.float32:
        raise ValueError(f"{op}: steps must be float32, got {steps[0].dtype}")
    if grads[0].dtype != dtype and not (dtype == torch.float32 and grads[0].dtype in HALVES):
        raise ValueError(f"{op}: grads of {grads[0].dtype} do not go with params of {dtype}")
    if copies and not (dtype == torch.float32 and copies[0].dtype in HALVES):
        raise ValueError(f"{op}: copies of {copies[0].dtype} do not go with params of {dtype}")


def in_memory_order(written: Lists, read: Lists) -> tuple[Lists, Lists, list[tuple[Tensor, Tensor]]]:
    """The lists with elements of each parameter's tensors in one order in memory, without holes; written[0]: params.

    Tensors that are not so are replaced by copies. Returns (written, read, [(tensor, its copy) in written]); who has
    written copies them back. Kernels that walk through memory need it; torch._fused_adamw_ on the CPU is one of them,
    and gives wrong results without a word.
    """
    if all(map(Tensor.is_contiguous, chain.from_iterable([*written, *read]))):
        return written, read, []
    replaced: list[tuple[Tensor, Tensor]] = []
    orders = [p if torch._debug_has_internal_overlap(p) == 0 and _is_dense(p) else p.contiguous() for p in written[0]]

    def ordered(tensors: list[Tensor], note: bool) -> list[Tensor]:
        out = []
        for tensor, order in zip(tensors, orders, strict=True):
            if tensor is order or _strides(tensor) == _strides(order):
                out.append(tensor)
                continue
            out.append(torch.empty_like(order, dtype=tensor.dtype).copy_(tensor))
            if note:
                replaced.append((tensor, out[-1]))
        return out

    return [ordered(tensors, True) for tensors in written], [ordered(tensors, False) for tensors in read], replaced


def _strides(tensor: Tensor) -> list[int]:
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size != 1]


def _is_dense(tensor: Tensor) -> bool:
    return torch.ops.aten.is_non_overlapping_and_dense.default(tensor)


def copy_back(replaced: list[tuple[Tensor, Tensor]]) -> None:
    """Copies into the tensors that `in_memory_order` replaced."""
    for tensor, copy in replaced:
        tensor.copy_(copy)


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """What the formula is computed in: float64 for float64, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def adam(
    g: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: Tensor, beta1: float, beta2: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The reference of what AdamW and LAMB share: new m and v, and m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps).

    In the dtype of the gradient g; the two powers in float64, as 1 minus them loses most digits.
    """
    t = step.double()
    bias1, bias2 = (1 - beta1**t).to(g.dtype), (1 - beta2**t).to(g.dtype)
    m = exp_avg.to(g.dtype) * beta1 + g * (1 - beta1)
    v = exp_avg_sq.to(g.dtype) * beta2 + g * (1 - beta2) * g
    return m, v, (m / bias1) / ((v / bias2).sqrt() + eps)


def adam_scales(
    index: int, tensors: dict[str, Any], options: dict[str, Any], clip: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """Scales (Op.scales) of m, of v and of the quotient of `adam`: nothing cancels but the old m and the gradient."""
    beta1, beta2 = options["beta1"], options["beta2"]
    g, m, v = (tensors[name][index] for name in ("grads", "exp_avgs", "exp_avg_sqs"))
    g, t = g * clip, tensors["steps"][index] + 1
    largest = torch.maximum(m.abs(), (1 - beta1) * g.abs())
    new_v = beta2 * v + (1 - beta2) * g.square()
    quotient = (largest / (1 - beta1**t)) / ((new_v / (1 - beta2**t)).sqrt() + options["eps"])
    return largest, torch.maximum(v, (1 - beta2) * g.square()), quotient
