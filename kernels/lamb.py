"""LAMB over many tensors at once, in place: Adam's step with decay, each tensor's as long as its norm tells.

    c = max_norm / grad_norm where grad_norm > max_norm, else 1; 1 without clipping
    g = c grad
    m = beta1 m + (1 - beta1) g
    v = beta2 v + (1 - beta2) g^2
    u = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p                     t: number of the step
    p = p - lr r u,   r = ||p|| / ||u|| of the tensor's elements, where both norms are above 0, else 1

r is 1 as well where weight_decay is 0, unless use_nvlamb. You et al. 2020 (arXiv 1904.00962), algorithm 2, with phi the
identity, in the form of NVIDIA apex's FusedLAMB (bias_correction, grad_averaging and adam_w_mode on, which are its
defaults), the optimizer of MLPerf's BERT. There max_norm is 1, the norm being that of all gradients (`global_norm`).
"""

import math
from typing import Any

import torch
from torch import Tensor

from perfsuite.kernels import adam_cases, adam_lists, cuda_tables, native
from perfsuite.kernels.contract import Case, Op
from perfsuite.kernels.optimizer import AdamOptimizer


def lamb(
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
    eps: float = 1e-6,
    weight_decay: float = 0.01,
    max_norm: float | None = None,
    use_nvlamb: bool = False,
) -> None:
    """One step of LAMB in place, by the chosen implementation (perfsuite.kernels.contract.select).

    Arguments as those of perfsuite.kernels.adamw.adamw. use_nvlamb: ratios of norms without weight decay, too.
    Raises ValueError for lists that do not fit together.
    """
    adam_lists.check_arguments("lamb", params, grads, exp_avgs, exp_avg_sqs, steps, grad_norm, copies, max_norm)
    with torch.no_grad():
        OP(
            params, grads, exp_avgs, exp_avg_sqs, steps, grad_norm, copies, lr=lr, beta1=beta1, beta2=beta2, eps=eps,
            weight_decay=weight_decay, max_norm=max_norm, use_nvlamb=use_nvlamb,
        )  # fmt: skip


class Lamb(AdamOptimizer):
    """LAMB as a torch.optim optimizer, with the defaults of apex's FusedLAMB (AdamOptimizer has the rest)."""

    def __init__(
        self, params: Any, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
        weight_decay: float = 0.01, max_norm: float | None = 1.0, use_nvlamb: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, max_norm)
        self.use_nvlamb = use_nvlamb

    def _update(self, *lists: Any, **options: Any) -> None:
        OP(*lists, use_nvlamb=self.use_nvlamb, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "use_nvlamb": self.use_nvlamb}


def clip_coefficient(grad_norm: Tensor, max_norm: float) -> Tensor:
    """As apex has it: no epsilon, and a NaN norm does not clip."""
    return torch.where(grad_norm > max_norm, max_norm / grad_norm, 1.0)


def _ratio(p: Tensor, u: Tensor, weight_decay: float, use_nvlamb: bool) -> Tensor:
    """Of the norms: () r."""
    param_norm, update_norm = p.square().sum().sqrt(), u.square().sum().sqrt()
    if not (use_nvlamb or weight_decay != 0):
        return torch.ones_like(param_norm)
    return torch.where((param_norm != 0) & (update_norm != 0), param_norm / update_norm, 1.0)


def reference(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor], steps: list[Tensor],
    grad_norm: Tensor | None = None, copies: list[Tensor] | None = None, *,
    lr: float | Tensor, beta1: float, beta2: float, eps: float, weight_decay: float, max_norm: float | None,
    use_nvlamb: bool,
) -> None:  # fmt: skip
    """The formula in plain torch, in place; half precision is computed in float32."""
    for index, param in enumerate(params):
        g = grads[index].to(adam_lists.compute_dtype(param))
        if grad_norm is not None:
            g = g * clip_coefficient(grad_norm, max_norm)
        steps[index].add_(1)
        m, v, quotient = adam_lists.adam(g, exp_avgs[index], exp_avg_sqs[index], steps[index], beta1, beta2, eps)
        exp_avgs[index].copy_(m)
        exp_avg_sqs[index].copy_(v)
        p = param.to(g.dtype)
        u = quotient + weight_decay * p
        new = p - lr * _ratio(p, u, weight_decay, use_nvlamb) * u
        param.copy_(new)
        if copies is not None:
            copies[index].copy_(new)


# -- cost and cases ---------------------------------------------------------------------------------------------------

# Bytes as if nothing had to be read twice, which takes caches that hold a tensor and its moments.
cost = adam_cases.cost_of(flops=19)
DEFAULTS = {
    "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-6, "weight_decay": 0.01, "max_norm": None, "use_nvlamb": False,
}  # fmt: skip
MIXED = {"grads": "float16", "copies": "float16"}


def cases(scale: str) -> list[Case]:
    """Of "tiny", "cpu", "gpu" or "code"; BERT large is MLPerf's."""
    make = adam_cases.case
    clipped = {"max_norm": 1.0}
    if scale == "cpu":
        return [
            make(30, 30 * 2**20, **clipped), make(draw={"sizes": "llama tiny"}, **clipped), make(300, 300_000),
            make(7, 1_000_003, draw={"sizes": "mixed", **MIXED}),
        ]  # fmt: skip
    if scale == "gpu":
        bert = {"sizes": "bert large"}
        return [
            make(draw=bert, **clipped), make(draw={**bert, **MIXED}, **clipped), make(30, 30 * 2**20),
            make(1000, 1_000_000),
        ]  # fmt: skip
    if scale == "code":
        return [make(2, 8192), make(2, 8192, draw=MIXED, **clipped), make(2, 8192, "bfloat16")]
    if scale != "tiny":
        raise ValueError(f"lamb has cases for the scales tiny, cpu, gpu and code, not {scale!r}")
    first = {"steps": 0}
    return [
        make(draw={"sizes": "llama small"}, **clipped),
        make(draw={"sizes": "odd"}),
        make(draw={"sizes": "odd", **first}, lr=0.01, weight_decay=0.1),
        make(draw={"sizes": "odd"}, weight_decay=0.0),
        make(draw={"sizes": "odd"}, weight_decay=0.0, use_nvlamb=True),
        make(0, 0),
        make(3, 3 * 4100, beta1=0.3, **clipped),
        make(5, 600, draw={"layout": "channels last", **first}),
        make(5, 600, draw={"layout": "mixed", "copies": "bfloat16"}, max_norm=0.1),
        make(5, 600, draw={"layout": "every second", "copies": "float16"}),
        make(5, 600, draw={"values": "infinite"}, **clipped),
        make(5, 600, draw={"values": "nan"}, **clipped),
        make(6, 600, draw={"values": "zeros"}, weight_decay=0.0, use_nvlamb=True),
        make(draw={"sizes": "odd", **MIXED}, **clipped),
        make(draw={"sizes": "odd", "grads": "bfloat16", "copies": "bfloat16"}),
        make(draw={"sizes": "odd"}, dtype="bfloat16", lr=0.01),
        make(draw={"sizes": "odd", **first}, dtype="float16", eps=1e-4, **clipped),
        make(draw={"sizes": "odd"}, dtype="float64", **clipped),
    ]


def any_case() -> Any:
    """Strategy of small cases."""
    from hypothesis import strategies as st

    return adam_cases.any_case(
        lr=st.sampled_from([1e-3, 0.1]),
        beta1=st.sampled_from([0.0, 0.4, 0.9]),
        eps=st.sampled_from([1e-6, 1e-3]),
        weight_decay=st.sampled_from([0.0, 0.1]),
        max_norm=st.sampled_from([None, 0.1, 10.0]),
        use_nvlamb=st.booleans(),
    )


def scales(tensors: dict[str, Any], options: dict[str, Any], upstream: Any) -> dict[str, Tensor]:
    """m: the old one against the gradient; p: the old one against the terms of the step.

    The ratio is in every element of the step, with the error of two sums of n squares: a unit for each level of a
    pairwise sum, half of them counted here.
    """
    clip: Tensor | float = 1.0
    if tensors.get("grad_norm") is not None:
        clip = clip_coefficient(tensors["grad_norm"], options["max_norm"])
    decay = options["weight_decay"]
    out: dict[str, Tensor] = {}
    for index, p in enumerate(tensors["params"]):
        terms = adam_lists.adam_scales(index, tensors, options, clip)
        out[f"exp_avgs.{index}"], out[f"exp_avg_sqs.{index}"], quotient = terms
        out[f"steps.{index}"] = tensors["steps"][index] + 1
        g, m, v = (tensors[name][index] for name in ("grads", "exp_avgs", "exp_avg_sqs"))
        numbers = (options["beta1"], options["beta2"], options["eps"])
        u = adam_lists.adam(g * clip, m, v, tensors["steps"][index] + 1, *numbers)[2] + decay * p
        rate = options["lr"] * _ratio(p, u, decay, options["use_nvlamb"])
        levels = max(1.0, math.log2(max(1, p.numel())) / 2)
        out[f"params.{index}"] = torch.maximum(p.abs(), levels * rate * torch.maximum(quotient, decay * p.abs()))
        if tensors.get("copies") is not None:
            out[f"copies.{index}"] = out[f"params.{index}"]
    return out


# -- eager ------------------------------------------------------------------------------------------------------------


def _eager(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor], steps: list[Tensor],
    grad_norm: Tensor | None = None, copies: list[Tensor] | None = None, *,
    lr: float | Tensor, beta1: float, beta2: float, eps: float, weight_decay: float, max_norm: float | None,
    use_nvlamb: bool,
) -> None:  # fmt: skip
    """torch's functions of lists (torch has no LAMB); half precision goes through float32."""
    if not params:
        return
    torch._foreach_add_(steps, 1)
    dtype = adam_lists.compute_dtype(params[0])
    wide = [[t.to(dtype) for t in tensors] for tensors in (params, exp_avgs, exp_avg_sqs)]
    p, m, v = wide
    g = [grad.to(dtype) for grad in grads]
    if grad_norm is not None:
        g = torch._foreach_mul(g, clip_coefficient(grad_norm, max_norm).to(dtype))
    count = torch.stack(steps).double()
    bias1, root_bias2 = ((1 - beta1**count).to(dtype).unbind(), (1 - beta2**count).sqrt().to(dtype).unbind())
    torch._foreach_lerp_(m, g, 1 - beta1)
    torch._foreach_mul_(v, beta2)
    torch._foreach_addcmul_(v, g, g, 1 - beta2)
    denominator = torch._foreach_sqrt(v)
    torch._foreach_div_(denominator, root_bias2)
    torch._foreach_add_(denominator, eps)
    u = torch._foreach_div(m, bias1)
    torch._foreach_div_(u, denominator)
    if weight_decay != 0:
        torch._foreach_add_(u, p, alpha=weight_decay)
    if use_nvlamb or weight_decay != 0:
        param_norm, update_norm = torch.stack(torch._foreach_norm(p)), torch.stack(torch._foreach_norm(u))
        ratio = torch.where((param_norm != 0) & (update_norm != 0), param_norm / update_norm, 1.0)
        torch._foreach_mul_(u, (lr * ratio).unbind())
    else:
        torch._foreach_mul_(u, lr)
    torch._foreach_sub_(p, u)
    if params[0].dtype != dtype:
        for tensors, computed in zip((params, exp_avgs, exp_avg_sqs), wide, strict=True):
            torch._foreach_copy_(tensors, computed)
    if copies is not None:
        torch._foreach_copy_(copies, p)


# -- cpp: csrc/ops/cpu/lamb.h -----------------------------------------------------------------------------------------


def _cpp(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor], steps: list[Tensor],
    grad_norm: Tensor | None = None, copies: list[Tensor] | None = None, *,
    lr: float | Tensor, beta1: float, beta2: float, eps: float, weight_decay: float, max_norm: float | None,
    use_nvlamb: bool,
) -> None:  # fmt: skip
    if params:
        lr_tensor, lr = (lr, 0.0) if isinstance(lr, Tensor) else (None, lr)
        torch.ops.perfsuite.lamb_cpp(
            params, grads, exp_avgs, exp_avg_sqs, steps, grad_norm, copies or [], lr_tensor, lr, beta1, beta2, eps,
            weight_decay, max_norm or 0.0, use_nvlamb,
        )  # fmt: skip


# -- cuda: csrc/ops/cuda/multi_tensor.cu ------------------------------------------------------------------------------


def _launch(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor], steps: list[Tensor],
    grad_norm: Tensor | None, copies: list[Tensor], lr_tensor: Tensor | None, lr: float, beta1: float, beta2: float,
    eps: float, weight_decay: float, max_norm: float, use_nvlamb: bool,
) -> None:  # fmt: skip
    cuda_tables.adam_step(
        "perfsuite_lamb", [params, exp_avgs, exp_avg_sqs, copies], grads, steps, grad_norm,
        lr if lr_tensor is None else lr_tensor, (beta1, beta2, eps, weight_decay, max_norm),
        int(use_nvlamb or weight_decay != 0), with_sums=True,
    )  # fmt: skip


_CUDA_OP = native.raw_op(
    "lamb_cuda(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
    "Tensor(d!)[] steps, Tensor? grad_norm, Tensor(e!)[] copies, Tensor? lr_tensor, float lr, float beta1, "
    "float beta2, float eps, float weight_decay, float max_norm, bool use_nvlamb) -> ()",
    _launch,
    lambda *arguments: None,
)


def _cuda(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor], steps: list[Tensor],
    grad_norm: Tensor | None = None, copies: list[Tensor] | None = None, *,
    lr: float | Tensor, beta1: float, beta2: float, eps: float, weight_decay: float, max_norm: float | None,
    use_nvlamb: bool,
) -> None:  # fmt: skip
    if params:
        lr_tensor, lr = (lr, 0.0) if isinstance(lr, Tensor) else (None, lr)
        _CUDA_OP(
            params, grads, exp_avgs, exp_avg_sqs, steps, grad_norm, copies or [], lr_tensor, lr, beta1, beta2, eps,
            weight_decay, max_norm or 0.0, use_nvlamb,
        )  # fmt: skip


OP = Op(
    name="lamb",
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
