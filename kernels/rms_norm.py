"""RMSNorm over the last dimension, with the residual addition and the dropout before it fused in.

    h = residual + dropout(x)
    y = h / sqrt(mean_j h_j^2 + eps) * weight

Zhang and Sennrich 2019 (arXiv 1910.07467). Dropout: kernels/dropout_mask.py. Statistics are computed in float32, for
float64 in float64; in half precision y is the norm of the rounded h, as it is returned.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perfsuite.kernels import dropout_mask, native, norm_cases, norm_rows
from perfsuite.kernels.contract import Case, Cost, Op
from perfsuite.kernels.norm_cases import RESIDUAL, case


def rms_norm(
    x: Tensor,
    weight: Tensor | None,
    residual: Tensor | None = None,
    *,
    eps: float = 1e-5,
    dropout_p: float = 0.0,
    seed: int | Tensor = 0,
    offset: int | Tensor = 0,
) -> Tensor | tuple[Tensor, Tensor]:
    """RMSNorm by the chosen implementation (perfsuite.kernels.contract.select).

    x: (..., width) float32, bfloat16, float16 or float64, any strides. weight: (width,) of any of these dtypes, or None
    for 1. residual: of x's shape, or None for 0. dropout_p: probability that an element of x is dropped, from seed and
    offset (kernels/dropout_mask.py): ints, or int64 tensors of no dimensions on x's device, which a CUDA graph reads
    anew at each replay.
    Returns y or, with a residual or dropout, (y, h): both of x's shape and of the dtype of residual + x; y on a GPU
    under autocast is float32, as that of torch's norms. Differentiable once, in all three tensors; eager also twice.
    Raises ValueError for arguments of other shapes, dtypes and values.
    """
    norm_rows.check_arguments("rms_norm", x, weight, None, residual, dropout_p, seed, offset)
    return OP(x, weight, residual, eps=eps, dropout_p=dropout_p, seed=seed, offset=offset)


def reference(
    x: Tensor, weight: Tensor | None, residual: Tensor | None, *,
    eps: float, dropout_p: float, seed: int | Tensor, offset: int | Tensor,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """The formula in plain torch; half precision is computed in float32."""
    h = x
    if residual is not None or dropout_p:
        kind = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
        h = x.to(norm_rows.acc_dtype(kind))
        if dropout_p:
            h = h * dropout_mask.factors(x, dropout_p, seed, offset)
        h = (h if residual is None else residual + h).to(kind)
    wide = h.to(norm_rows.acc_dtype(h.dtype))
    y = wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    y = (y if weight is None else y * weight).to(norm_rows.output_dtype(h))
    return y if h is x else (y, h)


# -- cost and cases ---------------------------------------------------------------------------------------------------


def cost(case: Case) -> Cost:
    """norm_cases.cost. Flops per element: square, add and two products; backward: eight."""
    return norm_cases.cost(case, 4, 8)


def cases(scale: str) -> list[Case]:
    """Widths 128 (tiny) and 512 (gpu) are those of llama, 4096 and 16384 those of Llama 3.1 8B and 405B."""
    if scale == "tiny":
        return norm_cases.tiny()
    if scale == "cpu":
        return [case(8192, 1024), case(1024, 128), case(4096, 1024, draw=RESIDUAL), case(2003, 1001)]
    gpu = [
        case(65536, 512),
        case(65536, 512, "bfloat16", draw={"residual": "float32", "weight": "float32"}),
        case(8192, 4096, "bfloat16"),
        case(8192, 4096, "bfloat16", draw=RESIDUAL),
        case(4096, 8192, "bfloat16"),
        case(4096, 16384, "bfloat16"),
        case(4096, 16384, "bfloat16", draw=RESIDUAL),
        case(4093, 5003, "bfloat16"),
    ]
    if scale == "gpu":
        return gpu
    if scale == "code":
        return norm_cases.few_rows(gpu)
    raise ValueError(f"rms_norm has cases for the scales tiny, cpu, gpu and code, not {scale!r}")


def case_of(x: Tensor, weight: Tensor | None, residual: Tensor | None = None, **options: Any) -> Case:
    """The case that a call is, for its cost."""
    return norm_cases.case_of(x, weight, None, residual, options)


def inputs(case: Case, device: str, generator: torch.Generator) -> dict[str, Tensor | None]:
    """norm_cases.inputs."""
    return norm_cases.inputs(case, device, generator, centered=False)


def scales(tensors: dict[str, Any], options: dict[str, Any], upstream: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """norm_cases.scales."""
    return norm_cases.scales(tensors, options, upstream, centered=False)


# -- implementations --------------------------------------------------------------------------------------------------


def _eager(
    x: Tensor, weight: Tensor | None, residual: Tensor | None = None, *,
    eps: float, dropout_p: float, seed: int | Tensor, offset: int | Tensor,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """F.rms_norm. Its dropout draws the mask in int64 arithmetic, to have the same one: far slower than F.dropout."""
    h = norm_rows.residual_stream(x, residual, dropout_p, seed, offset)
    y = F.rms_norm(h, h.shape[-1:], weight, eps)
    return y if h is x else (y, h)


def _in(implementation: str) -> Any:
    def run(x: Tensor, weight: Tensor | None, residual: Tensor | None = None, **options: Any) -> Any:
        return norm_rows.norm_rows(implementation, x, weight, None, residual, centered=False, **options)

    return run


OP = Op(
    name="rms_norm",
    reference=reference,
    defaults={"eps": 1e-5, "dropout_p": 0.0, "seed": 0, "offset": 0},
    cost=cost,
    cases=cases,
    case_of=case_of,
    inputs=inputs,
    differentiable=("x", "weight", "residual"),
    scales=scales,
    implementations=[
        native.eager(_eager),
        native.compiled(_eager),
        native.cpp(_in("cpp")),
        native.in_triton(_in("triton")),
        native.in_cuda(_in("cuda")),
    ],
    outputs=("output", "h"),
    any_case=norm_cases.any_case,
    row_wise=("x", "residual"),
)
