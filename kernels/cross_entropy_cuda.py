"""Launchers of cross-entropy's CUDA C++ kernels (csrc/ops/cuda/cross_entropy.cu), the same as those in Triton."""

import torch
from torch import Tensor

from perfsuite.cuda_extension import call

SLICE_BYTES = 32768
"""Of a row to a block, where clusters can have it so: at least three blocks of 512 threads then share a multiprocessor,
and some read while others write. On an H100 not measured."""
MOST_BLOCKS = 8
"""To a row: clusters of up to 8 are portable."""
_SCRATCH_BYTES = 36 * 8


def split_row(row_bytes: int, shared_bytes: int, clusters: bool) -> tuple[int, int]:
    """(blocks to a row, bytes of it that each keeps in shared memory or 0), for blocks of so much shared memory."""
    packs = row_bytes // 16 + 2  # a row may begin and end within a pack of 16 bytes
    blocks = 1
    while clusters and blocks < MOST_BLOCKS and packs * 16 > SLICE_BYTES * blocks:
        blocks *= 2
    kept = -(-packs // blocks) * 16
    return blocks, kept if kept + _SCRATCH_BYTES <= shared_bytes else 0


def _split(logits: Tensor) -> tuple[int, int]:
    row_bytes = logits.shape[1] * logits.element_size()
    if not logits.is_cuda:
        return split_row(row_bytes, 227 << 10, True)  # as for an H100
    device = torch.cuda.get_device_properties(logits.device)
    return split_row(row_bytes, device.shared_memory_per_block_optin, device.major >= 9)


def count_scale(target: Tensor, ignore_index: int, dtype: torch.dtype) -> Tensor:
    """1 / (rows that count), on the device; infinite where none does."""
    scale = torch.empty((), dtype=dtype, device=target.device)
    call("perfsuite_cross_entropy_count", dtype, target, scale, target.shape[0], ignore_index)
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
        call(
            "perfsuite_cross_entropy_forward", logits.dtype, logits, logits.stride(0), target, scale, losses, stats,
            gradient, rows, classes, ignore_index, smoothing, z, *_split(logits),
        )  # fmt: skip
    return losses, stats


def launch_backward(
    logits: Tensor, target: Tensor, stats: Tensor, ignore_index: int, smoothing: float, z: float, scale: Tensor | None,
    upstream: Tensor, gradient: Tensor,
) -> None:  # fmt: skip
    """The gradient of sum(upstream * losses) (times scale) into `gradient`; upstream: () or (rows,)."""
    if gradient.numel():
        rows, classes = logits.shape
        call(
            "perfsuite_cross_entropy_backward", logits.dtype, logits, logits.stride(0), target, stats, scale, upstream,
            upstream.dim(), gradient, rows, classes, ignore_index, smoothing, z, _split(logits)[0],
        )  # fmt: skip
