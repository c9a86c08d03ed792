"""Cross-entropy's Triton kernels and their launchers; the formula is in perfsuite.kernels.cross_entropy.

A program handles a row. One of up to ONE_BLOCK_CLASSES stays in registers: it is read once, its exponentials are
computed once and its gradient is written once. A longer one is read again for the gradient (from L2, if it is there).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ONE_BLOCK_CLASSES = 32768
LOOP_BLOCK = 8192


@triton.jit
def _gradient_block(exponentials, offsets, at_target, m, s, k, classes, SMOOTH: tl.constexpr, Z: tl.constexpr):
    """k times one block of a row's gradient; exponentials: exp(x - m)."""
    slope = 1 + 2 * Z * (m + tl.log(s))
    gradient = exponentials * (k * slope / s) - k * SMOOTH / classes
    return tl.where(offsets == at_target, gradient - k * (1 - SMOOTH), gradient)


@triton.jit
def count_kernel(target, scale, rows, ignore_index, BLOCK: tl.constexpr):
    """*scale = 1 / (rows that count), by one program."""
    count = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, rows, BLOCK):
        here = start + tl.arange(0, BLOCK)
        inside = here < rows
        count += (inside & (tl.load(target + here, mask=inside, other=0) != ignore_index)).to(tl.int32)
    tl.store(scale, 1.0 / tl.sum(count, 0).to(scale.dtype.element_ty))


@triton.jit
def forward_kernel(
    logits, row_stride, target, scale, loss, stats, gradient, classes, ignore_index,
    SMOOTH: tl.constexpr, Z: tl.constexpr, WITH_GRADIENT: tl.constexpr, SCALED: tl.constexpr, ONE_BLOCK: tl.constexpr,
    LOWEST: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program per row: loss, stats (maximum, sum of exponentials) and, if wanted, the gradient (times *scale).

    The gradient may be written over the logits.
    """
    row = tl.program_id(0).to(tl.int64)  # rows times classes may need more than 32 bits
    at_target = tl.load(target + row)
    offsets = tl.arange(0, BLOCK)
    out = gradient + row * classes
    if at_target == ignore_index:
        tl.store(loss + row, 0.0)
        tl.store(stats + 2 * row, 0.0)
        tl.store(stats + 2 * row + 1, 1.0)
        if WITH_GRADIENT:
            zeros = tl.zeros((BLOCK,), out.dtype.element_ty)
            for start in range(0, classes, BLOCK):
                tl.store(out + start + offsets, zeros, mask=start + offsets < classes)
    else:
        x_row = logits + row * row_stride
        inside = (at_target >= 0) & (at_target < classes)
        # A target outside the classes makes its row NaN: loud, and nobody waits for the device.
        x_target = tl.load(x_row + at_target, mask=inside, other=float("nan")).to(ACC)
        # The maximum starts at the lowest finite number: blocks of -inf shall add 0 and not NaN.
        m = tl.full((), LOWEST, ACC)
        s = tl.zeros((), ACC)
        total = tl.zeros((), ACC)
        if ONE_BLOCK:
            mask = offsets < classes
            x = tl.load(x_row + offsets, mask=mask, other=-float("inf")).to(ACC)
            m = tl.maximum(m, tl.max(x, 0))
            if SMOOTH > 0:
                total = tl.sum(tl.where(mask, x, 0.0), 0)
            exponentials = tl.exp(x - m)
            s = tl.sum(exponentials, 0)
        else:
            for start in range(0, classes, BLOCK):
                mask = start + offsets < classes
                x = tl.load(x_row + start + offsets, mask=mask, other=-float("inf")).to(ACC)
                larger = tl.maximum(m, tl.max(x, 0))
                s = s * tl.exp(m - larger) + tl.sum(tl.exp(x - larger), 0)
                m = larger
                if SMOOTH > 0:
                    total += tl.sum(tl.where(mask, x, 0.0), 0)
        log_s = tl.log(s)
        # The maximum is taken off before the small logarithm is added: nothing is lost where it is large.
        value = (m - x_target) + log_s
        if SMOOTH > 0:
            value = (1 - SMOOTH) * value + SMOOTH * ((m - total / classes) + log_s)
        if Z != 0:
            value += Z * (m + log_s) * (m + log_s)
        tl.store(loss + row, value)
        tl.store(stats + 2 * row, m)
        tl.store(stats + 2 * row + 1, s)
        if WITH_GRADIENT:
            k = tl.full((), 1.0, ACC)
            if SCALED:
                k = tl.load(scale).to(ACC)
            k = tl.where(inside, k, float("nan"))
            if ONE_BLOCK:
                block = _gradient_block(exponentials, offsets, at_target, m, s, k, classes, SMOOTH, Z)
                tl.store(out + offsets, block.to(out.dtype.element_ty), mask=mask)
            else:
                for start in range(0, classes, BLOCK):
                    here = start + offsets
                    mask = here < classes
                    x = tl.load(x_row + here, mask=mask, other=0.0).to(ACC)
                    block = _gradient_block(tl.exp(x - m), here, at_target, m, s, k, classes, SMOOTH, Z)
                    tl.store(out + here, block.to(out.dtype.element_ty), mask=mask)


@triton.jit
def backward_kernel(
    logits, row_stride, target, stats, scale, upstream, upstream_stride, gradient, classes, ignore_index,
    SMOOTH: tl.constexpr, Z: tl.constexpr, SCALED: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program per row: its gradient times upstream[row * upstream_stride] (and *scale), from the forward's stats."""
    row = tl.program_id(0).to(tl.int64)
    at_target = tl.load(target + row)
    counted = at_target != ignore_index
    inside = (at_target >= 0) & (at_target < classes)
    k = tl.load(upstream + row * upstream_stride).to(ACC)
    if SCALED:
        k *= tl.load(scale).to(ACC)
    k = tl.where(inside, k, float("nan"))
    k = tl.where(counted, k, 0.0)
    m = tl.load(stats + 2 * row)
    s = tl.load(stats + 2 * row + 1)
    for start in range(0, classes, BLOCK):
        here = start + tl.arange(0, BLOCK)
        mask = here < classes
        # An ignored row is not read: with its stats 0 and 1 the block below is 0.
        x = tl.load(logits + row * row_stride + here, mask=mask & counted, other=0.0).to(ACC)
        block = _gradient_block(tl.exp(x - m), here, at_target, m, s, k, classes, SMOOTH, Z)
        out = gradient + row * classes + here
        tl.store(out, block.to(gradient.dtype.element_ty), mask=mask)


def launch_options(classes: int, dtype: torch.dtype) -> dict[str, Any]:
    """Block, warps and accumulator for rows of this many classes: at most 32 elements of a row to a thread."""
    most = ONE_BLOCK_CLASSES if dtype != torch.float64 else ONE_BLOCK_CLASSES // 2
    one_block = classes <= most
    block = max(32, triton.next_power_of_2(classes)) if one_block else LOOP_BLOCK
    acc = tl.float64 if dtype == torch.float64 else tl.float32
    return {"ONE_BLOCK": one_block, "ACC": acc, "BLOCK": block, "num_warps": min(32, max(1, block // 1024))}


def count_scale(target: Tensor, ignore_index: int, dtype: torch.dtype) -> Tensor:
    """1 / (rows that count), on the device; infinite where none does."""
    scale = torch.empty((), dtype=dtype, device=target.device)
    rows = target.shape[0]
    block = min(8192, max(32, triton.next_power_of_2(rows)))
    count_kernel[(1,)](target, scale, rows, ignore_index, BLOCK=block, num_warps=min(16, max(1, block // 512)))
    return scale


def launch_forward(
    logits: Tensor, target: Tensor, ignore_index: int, smoothing: float, z: float, scale: Tensor | None,
    gradient: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Losses of the rows and stats (rows, 2); the gradient (times scale) into `gradient`, which may be the logits.

    The classes of a row are adjacent in logits; target and gradient are contiguous.
    """
    acc = torch.float64 if logits.dtype == torch.float64 else torch.float32
    rows, classes = logits.shape
    losses, stats = logits.new_empty(rows, dtype=acc), logits.new_empty(rows, 2, dtype=acc)
    if rows:
        forward_kernel[(rows,)](
            logits, logits.stride(0), target, losses if scale is None else scale, losses, stats,
            logits if gradient is None else gradient, classes, ignore_index, SMOOTH=smoothing, Z=z,
            WITH_GRADIENT=gradient is not None, SCALED=scale is not None, LOWEST=torch.finfo(acc).min,
            **launch_options(classes, logits.dtype),
        )  # fmt: skip
    return losses, stats


def launch_backward(
    logits: Tensor, target: Tensor, stats: Tensor, ignore_index: int, smoothing: float, z: float, scale: Tensor | None,
    upstream: Tensor, gradient: Tensor,
) -> None:  # fmt: skip
    """The gradient of sum(upstream * losses) (times scale) into `gradient`; upstream: () or (rows,)."""
    if gradient.numel():
        options = launch_options(logits.shape[1], logits.dtype)
        del options["ONE_BLOCK"]
        backward_kernel[(logits.shape[0],)](
            logits, logits.stride(0), target, stats, stats if scale is None else scale, upstream, upstream.dim(),
            gradient, logits.shape[1], ignore_index, SMOOTH=smoothing, Z=z, SCALED=scale is not None, **options,
        )  # fmt: skip
