"""Kernels of batch_norm_add_relu for GPUs: in Triton here, in CUDA C++ in csrc/ops/cuda/batch_norm_add_relu.cu.

Both directions are three launches: sums over pieces of the rows (a row: the channels of one position of an NHWC tensor),
a small kernel that adds the pieces up in float64 and makes of them what each channel is multiplied with, and one that
goes over all elements. A piece is summed about the mean of its first rows, so that nothing cancels where x is far from
0, and that origin goes with its sums. Nothing waits for the device, and the number of pieces depends on sizes alone.
"""

from typing import Any

import torch
from torch import Tensor

from perfsuite.kernels import native

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton has no wheels for some platforms
    triton = None

Forward = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Backward = tuple[Tensor, Tensor, Tensor, Tensor]

FORWARD = (
    "batch_norm_add_relu_{}_forward(Tensor x, Tensor? weight, Tensor? bias, Tensor? add, Tensor? given_mean, "
    "Tensor? given_var, float eps, bool relu, bool keep_mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
BACKWARD = (
    "batch_norm_add_relu_{}_backward(Tensor dy, Tensor x, Tensor? weight, Tensor mean, Tensor rstd, Tensor mask, "
    "bool training, bool relu, bool want_add) -> (Tensor, Tensor, Tensor, Tensor)"
)


def _acc(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _rows(x: Tensor) -> int:
    return x.shape[0] * x.shape[2] * x.shape[3]


def _empty_forward(x: Tensor, relu: bool, keep_mask: bool) -> Forward:
    """y, mean, rstd and unbiased variance, mask: as the operators return them, not filled."""
    channels = x.shape[1]
    mean, rstd, var = (x.new_empty(channels, dtype=_acc(x)) for _ in range(3))
    mask = x.new_empty(_rows(x) if relu and keep_mask else 0, (channels + 7) // 8, dtype=torch.uint8)
    return torch.empty_like(x), mean, rstd, var, mask


def _empty_backward(x: Tensor, want_add: bool) -> Backward:
    """Gradients of x, weight, bias and add, not filled."""
    d_weight, d_bias = (x.new_empty(x.shape[1], dtype=_acc(x)) for _ in range(2))
    return torch.empty_like(x), d_weight, d_bias, torch.empty_like(x) if want_add else x.new_empty(0)


def _fake_forward(
    x: Tensor, weight: Any, bias: Any, add: Any, mean: Any, var: Any, eps: float, relu: bool, keep_mask: bool
) -> Forward:
    return _empty_forward(x, relu, keep_mask)


def _fake_backward(
    dy: Tensor, x: Tensor, weight: Any, mean: Any, rstd: Any, mask: Any, training: bool, relu: bool, want_add: bool
) -> Backward:
    return _empty_backward(x, want_add)


def _given(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """mean, rstd, scale and shift of given statistics."""
    acc = _acc(x)
    rstd = (var.to(acc) + eps).rsqrt()
    scale = rstd if weight is None else rstd * weight
    return mean.to(acc, copy=True), rstd, scale, torch.zeros_like(rstd) if bias is None else bias.to(acc)


def _multiprocessors(x: Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 132


def _pieces(x: Tensor, blocks_of_channels: int, least_rows: int) -> tuple[int, int]:
    """(number of pieces, rows of each): four programs for each multiprocessor; the last piece may be shorter."""
    rows = _rows(x)
    wanted = max(1, 4 * _multiprocessors(x) // blocks_of_channels)
    of_each = -(-rows // wanted)
    of_each = max(1, -(-of_each // least_rows)) * least_rows
    return -(-rows // of_each), of_each


if triton is not None:
    TILE = 2048  # elements that a program has in registers at a time

    @triton.jit
    def _add_up(partial, which, pieces, channels, c, inside, BLOCK_PIECES: tl.constexpr, SUMS: tl.constexpr):
        """Sum over pieces of partial (pieces, SUMS, channels) at [:, which, c], in float64."""
        total = tl.zeros((BLOCK_PIECES, c.shape[0]), tl.float64)
        for first in range(0, pieces, BLOCK_PIECES):
            p = first + tl.arange(0, BLOCK_PIECES)
            at = partial + (p[:, None] * SUMS + which) * channels + c[None, :]
            total += tl.load(at, mask=(p < pieces)[:, None] & inside[None, :], other=0.0).to(tl.float64)
        return tl.sum(total, 0)

    @triton.jit
    def sums_kernel(
        x, partial, rows, rows_of_each, channels, ACC: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
    ):
        """partial (pieces, 3, channels): an origin near x, the sums of x - origin and of its square."""
        first = tl.program_id(0).to(tl.int64) * rows_of_each
        count = tl.minimum(rows - first, rows_of_each)
        c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        r = tl.arange(0, ROWS)
        inside = c < channels
        tile = x + (first + r)[:, None] * channels + c[None, :]
        values = tl.load(tile, mask=(r < count)[:, None] & inside[None, :], other=0.0).to(ACC)
        origin = tl.sum(values, 0) / tl.minimum(count, ROWS).to(ACC)
        origin = tl.where(origin - origin == 0, origin, 0.0)  # any number, if that is none
        s1 = tl.zeros((ROWS, CHANNELS), ACC)
        s2 = tl.zeros((ROWS, CHANNELS), ACC)
        for step in range(0, rows_of_each, ROWS):
            mask = (step + r < count)[:, None] & inside[None, :]
            values = tl.load(tile + step.to(tl.int64) * channels if False else tile, mask=mask, other=0.0).to(ACC)
            d = tl.where(mask, values - origin[None, :], 0.0)
            s1 += d
            s2 += d * d
            tile += ROWS * channels
        out = partial + tl.program_id(0) * 3 * channels + c
        tl.store(out, origin, mask=inside)
        tl.store(out + channels, tl.sum(s1, 0), mask=inside)
        tl.store(out + 2 * channels, tl.sum(s2, 0), mask=inside)
