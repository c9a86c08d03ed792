"""AdamW over many tensors at once, in place: gradient clipping, the step of Adam, decoupled weight decay, copies.

    c = min(1, max_norm / (grad_norm + 1e-6)), or 1 without clipping
    g = c grad
    m = beta1 m + (1 - beta1) g
    v = beta2 v + (1 - beta2) g^2
    p = (1 - lr weight_decay) p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)         t: number of the step

Loshchilov and Hutter 2019 (arXiv 1711.05101), as torch.optim.AdamW has it, after torch.nn.utils.clip_grad_norm_. With
`global_norm` before it, gradients are read twice, once for their norm and once here, and never written.
"""

from typing import Any

import torch
from torch import Tensor

from perfsuite.kernels import adam_cases, adam_lists, cuda_tables, native
from perfsuite.kernels.contract import Case, Op
from perfsuite.kernels.optimizer import AdamOptimizer


def adamw(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    grad_norm: Tensor | None = None,
    copies: list[Tensor] | None = None,
    *,
    lr: float | Tensor,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    max_norm: float | None = None,
    grads_are_scratch: bool = False,
) -> None:
    """One step of AdamW in place, by the chosen implementation (perfsuite.kernels.contract.select).

    params: any shapes and strides, of one dtype (float32, bfloat16, float16, float64) and on one device. exp_avgs and
    exp_avg_sqs (m and v): as params in number, shape and dtype. grads: the same, or bfloat16 or float16 for float32
    params; not changed. steps: () float32 each, steps done so far; become one more. grad_norm: () norm of the gradients
    of all calls that are clipped together (`global_norm`), given with max_norm. copies: bfloat16 or float16 tensors
    that get the rounded new params, which are float32 then. lr: a number, or () so that a CUDA graph reads it anew.
    grads_are_scratch: grads may be left clipped; eager is faster then, as torch's kernel takes no factor.

    Half precision is computed in float32. No gradient flows. Raises ValueError for lists that do not fit together.
    """
    adam_lists.check_arguments("adamw", params, grads, exp_avgs, exp_avg_sqs, steps, grad_norm, copies, max_norm)
    with torch.no_grad():
        OP(
            params, grads, exp_avgs, exp_avg_sqs, steps, grad_norm, copies, lr=lr, beta1=beta1, beta2=beta2, eps=eps,
            weight_decay=weight_decay, max_norm=max_norm, grads_are_scratch=grads_are_scratch,
        )  # fmt: skip


class AdamW(AdamOptimizer):
    """torch.optim.AdamW by the op, with gradients clipped over all groups together (AdamOptimizer has the rest).

    .grad may be left clipped, as torch.nn.utils.clip_grad_norm_ leaves it.
    """

    def __init__(
        self, params: Any, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.01, max_norm: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, max_norm)

    def _update(self, *lists: Any, **options: Any) -> None:
        OP(*lists, grads_are_scratch=True, **options)


def clip_coefficient(grad_norm: Tensor, max_norm: float) -> Tensor:
    """What torch.nn.utils.clip_grad_norm_ multiplies gradients by; NaN stays NaN."""
    return torch.clamp(max_norm / (grad_norm + 1e-6), max=1.0)


def reference(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor], steps: list[Tensor],
    grad_norm: Tensor | None = None, copies: list[Tensor] | None = None, *,
    lr: float | Tensor, beta1: float, beta2: float, eps: float, weight_decay: float, max_norm: float | None,
    grads_are_scratch: bool = False,
) -> None:  # fmt: skip
    """The formula in plain torch, in place; half precision is computed in float32."""
    for index, p in enumerate(params):
        g = grads[index].to(adam_lists.compute_dtype(p))
        if grad_norm is not None:
            g = g * clip_coefficient(grad_norm, max_norm)
        steps[index].add_(1)
        m, v, quotient = adam_lists.adam(g, exp_avgs[index], exp_avg_sqs[index], steps[index], beta1, beta2, eps)
        exp_avgs[index].copy_(m)
        exp_avg_sqs[index].copy_(v)
        new = p.to(g.dtype) * (1 - lr * weight_decay) - lr * quotient
        p.copy_(new)
        if copies is not None:
            copies[index].copy_(new)


# -- cost and cases ---------------------------------------------------------------------------------------------------

cost = adam_cases.cost_of(flops=14)
DEFAULTS = {
    "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01, "max_norm": None,
    "grads_are_scratch": False,
}  # fmt: skip
MIXED = {"grads": "bfloat16", "copies": "bfloat16"}


def cases(scale: str) -> list[Case]:
    """Of "tiny", "cpu", "gpu" or "code"; "llama" in sizes is the workload's, BERT's are MLPerf's."""
    make = adam_cases.case
    llama = {"beta2": 0.95, "eps": 1e-5, "weight_decay": 0.1, "max_norm": 1.0}
    if scale == "cpu":
        return [
            make(30, 30 * 2**20), make(draw={"sizes": "llama tiny"}, **llama), make(300, 300_000),
            make(30, 30 * 2**20, max_norm=1.0), make(7, 1_000_003, draw={"sizes": "mixed", **MIXED}),
        ]  # fmt: skip
    if scale == "gpu":
        return [
            make(64, 64 * 2**24, draw=MIXED, max_norm=1.0), make(draw={"sizes": "llama gpu"}, **llama),
            make(30, 30 * 2**20), make(draw={"sizes": "bert large"}), make(1000, 1_000_000),
        ]  # fmt: skip
    if scale == "code":
        return [make(2, 8192), make(2, 8192, draw=MIXED, max_norm=1.0), make(2, 8192, "bfloat16")]
    if scale != "tiny":
        raise ValueError(f"adamw has cases for the scales tiny, cpu, gpu and code, not {scale!r}")
    first = {"steps": 0}
    return [
        make(draw={"sizes": "llama small"}, **llama),
        make(draw={"sizes": "odd"}),
        make(draw={"sizes": "odd", **first}, lr=0.01, weight_decay=0.1),
        make(0, 0),
        make(3, 3 * 4100, max_norm=1.0, beta1=0.3),
        make(5, 600, draw={"layout": "channels last", **first}),
        make(5, 600, draw={"layout": "mixed", "copies": "bfloat16"}, max_norm=0.1),
        make(5, 600, draw={"layout": "every second", "copies": "float16"}),
        make(5, 600, draw={"values": "infinite"}, max_norm=1.0),
        make(5, 600, draw={"values": "nan"}, max_norm=1.0),
        make(5, 600, draw={"values": "nan"}),
        make(6, 600, draw={"values": "zeros"}),
        make(draw={"sizes": "odd", **MIXED}, max_norm=1.0),
        make(draw={"sizes": "odd", "grads": "float16", "copies": "float16"}),
        make(draw={"sizes": "odd"}, dtype="bfloat16", lr=0.01),
        make(draw={"sizes": "odd", **first}, dtype="float16", eps=1e-4, max_norm=1.0),
        make(draw={"sizes": "odd"}, dtype="float64", max_norm=1.0),
    ]


def any_case() -> Any:
    """Strategy of small cases."""
    from hypothesis import strategies as st

    return adam_cases.any_case(
        lr=st.sampled_from([1e-3, 0.1]),
        beta1=st.sampled_from([0.0, 0.4, 0.9]),
        eps=st.sampled_from([1e-8, 1e-3]),
        weight_decay=st.sampled_from([0.0, 0.1]),
        max_norm=st.sampled_from([None, 0.1, 10.0]),
    )


def scales(tensors: dict[str, Any], options: dict[str, Any], upstream: Any) -> dict[str, Tensor]:
    """m: the old one against the gradient; p: the old one against the step, as large as those two make it."""
    clip = 1.0
    if tensors.get("grad_norm") is not None:
        clip = clip_coefficient(tensors["grad_norm"], options["max_norm"])
    lr, decay = options["lr"], options["weight_decay"]
    out: dict[str, Tensor] = {}
    for index, p in enumerate(tensors["params"]):
        terms = adam_lists.adam_scales(index, tensors, options, clip)
        out[f"exp_avgs.{index}"], out[f"exp_avg_sqs.{index}"], quotient = terms
        out[f"steps.{index}"] = tensors["steps"][index] + 1
        out[f"params.{index}"] = torch.maximum(torch.maximum(p.abs(), lr * decay * p.abs()), lr * quotient)
        if tensors.get("copies") is not None:
            out[f"copies.{index}"] = out[f"params.{index}"]
    return out


# -- eager ------------------------------------------------------------------------------------------------------------

# Gradients of more elements than this are not copied at once: fresh memory costs a CPU more than the arithmetic.
ELEMENTS_AT_ONCE = 2**18


def _eager(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor], steps: list[Tensor],
    grad_norm: Tensor | None = None, copies: list[Tensor] | None = None, *, max_norm: float | None,
    grads_are_scratch: bool, **options: Any,
) -> None:  # fmt: skip
    """torch's fused kernel. Gradients are clipped in place where they may be, else into copies."""
    if not params:
        return
    torch._foreach_add_(steps, 1)
    coefficient = None if grad_norm is None else clip_coefficient(grad_norm, max_norm)
    if coefficient is not None and grads_are_scratch:
        torch._foreach_mul_(grads, coefficient.to(grads[0].dtype))
        coefficient = None
    written, (grads,), replaced = adam_lists.in_memory_order([params, exp_avgs, exp_avg_sqs], [grads])
    dtype = params[0].dtype
    makes_copies = coefficient is not None or grads[0].dtype != dtype
    for part in _parts(grads, ELEMENTS_AT_ONCE if makes_copies and not params[0].is_cuda else None):
        some = [grad.to(dtype) for grad in grads[part]]
        if coefficient is not None:
            some = torch._foreach_mul(some, coefficient.to(dtype))
        torch._fused_adamw_(
            written[0][part], some, written[1][part], written[2][part], [], steps[part], amsgrad=False, maximize=False,
            **options,
        )  # fmt: skip
    adam_lists.copy_back(replaced)
    if copies is not None:
        torch._foreach_copy_(copies, params)


def _parts(tensors: list[Tensor], at_once: int | None) -> list[slice]:
    """Slices of the list with about so many elements each."""
    if at_once is None:
        return [slice(None)]
    starts, elements = [0], 0
    for index, tensor in enumerate(tensors):
        elements += tensor.numel()
        if elements > at_once and index > starts[-1]:
            starts.append(index)
            elements = tensor.numel()
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(tensors)], strict=True)]


# -- cpp: csrc/ops/cpu/adamw.h ----------------------------------------------------------------------------------------


def _cpp(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor], steps: list[Tensor],
    grad_norm: Tensor | None = None, copies: list[Tensor] | None = None, *,
    lr: float | Tensor, beta1: float, beta2: float, eps: float, weight_decay: float, max_norm: float | None,
    grads_are_scratch: bool = False,
) -> None:  # fmt: skip
    if params:
        lr_tensor, lr = (lr, 0.0) if isinstance(lr, Tensor) else (None, lr)
        torch.ops.perfsuite.adamw_cpp(
            params, grads, exp_avgs, exp_avg_sqs, steps, grad_norm, copies or [], lr_tensor, lr, beta1, beta2, eps,
            weight_decay, max_norm or 0.0,
        )  # fmt: skip


# -- cuda: csrc/ops/cuda/multi_tensor.cu ------------------------------------------------------------------------------


def _launch(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor], steps: list[Tensor],
    grad_norm: Tensor | None, copies: list[Tensor], lr_tensor: Tensor | None, lr: float, *numbers: float,
) -> None:  # fmt: skip
    cuda_tables.adam_step(
        "perfsuite_adamw", [params, exp_avgs, exp_avg_sqs, copies], grads, steps, grad_norm,
        lr if lr_tensor is None else lr_tensor, numbers, with_sums=False,
    )  # fmt: skip


_CUDA_OP = native.raw_op(
    "adamw_cuda(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
    "Tensor(d!)[] steps, Tensor? grad_norm, Tensor(e!)[] copies, Tensor? lr_tensor, float lr, float beta1, "
    "float beta2, float eps, float weight_decay, float max_norm) -> ()",
    _launch,
    lambda *arguments: None,
)


def _cuda(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor], steps: list[Tensor],
    grad_norm: Tensor | None = None, copies: list[Tensor] | None = None, *,
    lr: float | Tensor, beta1: float, beta2: float, eps: float, weight_decay: float, max_norm: float | None,
    grads_are_scratch: bool = False,
) -> None:  # fmt: skip
    if params:
        lr_tensor, lr = (lr, 0.0) if isinstance(lr, Tensor) else (None, lr)
        _CUDA_OP(
            params, grads, exp_avgs, exp_avg_sqs, steps, grad_norm, copies or [], lr_tensor, lr, beta1, beta2, eps,
            weight_decay, max_norm or 0.0,
        )  # fmt: skip


OP = Op(
    name="adamw",
    reference=reference,
    defaults=DEFAULTS,
    cost=cost,
    cases=cases,
    case_of=adam_cases.case_of,
    inputs=adam_cases.inputs,
    differentiable=(),
    scales=scales,
    implementations=[native.eager(_eager), native.compiled(reference), native.cpp(_cpp), native.in_cuda(_cuda)],
    outputs=(),
    mutates=("params", "exp_avgs", "exp_avg_sqs", "steps", "copies"),
    any_case=any_case,
)
