"""RMSNorm and LayerNorm of rows in CUDA C++: the launchers behind kernels/norm_rows.py.

Kernels: csrc/ops/cuda/norm_rows_forward.cu and norm_rows_backward.cu.
"""

import torch
from torch import Tensor

from perfsuite import cuda_extension
from perfsuite.kernels import dropout_mask
from perfsuite.kernels.norm_triton import processors, rows_of

_NUMBERS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}  # device.h's DType


def _vectors(x_dtype: torch.dtype, acc: torch.dtype, *vectors: Tensor | None) -> tuple[list[Tensor | None], bool]:
    """Weight and bias as the kernels read them, and whether that is in x's dtype: else in the accumulator's."""
    narrow = x_dtype != acc and all(vector is None or vector.dtype == x_dtype for vector in vectors)
    made = [v if v is None else (v if narrow else v.to(acc)).contiguous() for v in vectors]
    return made, narrow


def forward(
    outputs: tuple[Tensor, ...], x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    seed: Tensor | None, offset: Tensor | None, centered: bool, eps: float, dropout_p: float, float32_output: bool,
) -> None:  # fmt: skip
    """Write y, h, mean and rstd, the outputs; see norm_rows.empty_forward."""
    y, h, mean, rstd = outputs
    if not rstd.numel():
        return
    x, x_stride = rows_of(x)
    residual, residual_stride = (None, 0) if residual is None else rows_of(residual)
    (weight, bias), narrow = _vectors(x.dtype, rstd.dtype, weight, bias)
    cuda_extension.call(
        "perfsuite_norm_rows_forward", x.dtype, x, x_stride, residual, residual_stride, weight, bias, int(narrow), seed,
        offset, y, h if h.numel() else None, mean if centered else None, rstd, rstd.numel(), x.shape[1],
        _NUMBERS[h.dtype], _NUMBERS[y.dtype], dropout_mask.threshold(dropout_p), dropout_mask.scale(dropout_p), eps,
        processors(x),
    )  # fmt: skip


def backward(
    outputs: tuple[Tensor, ...], upstream: Tensor, upstream_h: Tensor | None, h: Tensor, weight: Tensor | None,
    mean: Tensor, rstd: Tensor, seed: Tensor | None, offset: Tensor | None, dropout_p: float, x_dtype: torch.dtype,
    centered: bool, separate_residual: bool, want_weight: bool, want_bias: bool,
) -> None:  # fmt: skip
    """Write the gradients of x, residual, weight and bias, the outputs; see norm_rows.empty_backward."""
    grad_x, grad_residual, grad_weight, grad_bias = outputs
    rows, width = rstd.numel(), h.shape[-1]
    if not rows:
        grad_weight.zero_()
        grad_bias.zero_()
        return
    count = processors(h)
    parts = min(rows, count * min(4, max(1, 8192 // width)))
    sums = [rstd.new_empty(parts, width) if wanted else None for wanted in (want_weight, want_bias)]
    h, h_stride = rows_of(h)
    (weight,), narrow = _vectors(x_dtype, rstd.dtype, weight)
    upstream_h = None if upstream_h is None else upstream_h.contiguous()
    cuda_extension.call(
        "perfsuite_norm_rows_backward", x_dtype, upstream.contiguous(), upstream_h, h, h_stride, weight, int(narrow),
        mean if centered else None, rstd, seed, offset, grad_x, grad_residual if separate_residual else None, *sums,
        grad_weight, grad_bias, rows, width, _NUMBERS[h.dtype], _NUMBERS[upstream.dtype],
        dropout_mask.threshold(dropout_p), dropout_mask.scale(dropout_p), count, parts,
    )  # fmt: skip
