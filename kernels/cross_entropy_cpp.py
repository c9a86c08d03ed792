"""Cross-entropy of rows by the C++ operators, called as the launchers in Triton and CUDA are."""

import torch
from torch import Tensor


def count_scale(target: Tensor, ignore_index: int, dtype: torch.dtype) -> Tensor:
    """1 / (rows that count); infinite where none does."""
    return (target != ignore_index).sum().to(dtype).reciprocal()


def launch_forward(
    logits: Tensor, target: Tensor, ignore_index: int, smoothing: float, z: float, scale: Tensor | None,
    gradient: Tensor | None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Losses of the rows; the gradient (times scale) into `gradient`, which has to be the logits: contiguous."""
    if gradient is None:
        return torch.ops.perfsuite.cross_entropy_cpp_forward(logits, target, ignore_index, smoothing, z, 0, False)[:2]
    return torch.ops.perfsuite.cross_entropy_cpp_overwrite(logits, target, scale, ignore_index, smoothing, z), None
