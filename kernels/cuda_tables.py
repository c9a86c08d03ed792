"""Calls of csrc/ops/cuda/multi_tensor.cu: addresses of many tensors in one table on the host."""

from array import array

import torch
from torch import Tensor

from perfsuite import cuda_extension
from perfsuite.kernels.adam_lists import Lists, compute_dtype, copy_back, in_memory_order

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
"""Numbers of csrc/ops/cuda/device.h's DType."""

BLOCK = 4096
"""Elements that one block of an optimizer's kernel updates."""
NORM_BLOCK = 32768
"""Elements whose squares one block adds."""


def adam_step(
    function: str, written: Lists, grads: list[Tensor], steps: list[Tensor], grad_norm: Tensor | None,
    lr: Tensor | float, numbers: tuple[float, ...], *more: int, with_sums: bool,
) -> None:  # fmt: skip
    """Call the optimizer's function; written: params, exp_avgs, exp_avg_sqs and copies, the last perhaps empty.

    numbers: beta1, beta2, eps, weight_decay, max_norm. Counts the step and does not wait for the device.
    """
    torch._foreach_add_(steps, 1)
    changed = [tensors for tensors in written if tensors]
    (params, exp_avgs, exp_avg_sqs, *copies), (grads,), replaced = in_memory_order(changed, [grads])
    columns = [params, grads, exp_avgs, exp_avg_sqs, steps, copies[0] if copies else None]
    rows = _rows(columns)
    first = params[0]
    if with_sums:  # two numbers for each block
        first = torch.empty(2 * _blocks(params, BLOCK), dtype=torch.float64, device=first.device)
    if grad_norm is not None:
        grad_norm = grad_norm.to(compute_dtype(params[0]))
    lr_tensor = lr.to(torch.float32) if isinstance(lr, Tensor) else None
    cuda_extension.call(
        function, params[0].dtype, first, rows.buffer_info()[0], len(params), BLOCK, DTYPES[grads[0].dtype],
        DTYPES[copies[0][0].dtype] if copies else 0, lr_tensor, grad_norm, 0.0 if lr_tensor is not None else lr,
        *numbers, *more,
    )  # fmt: skip
    copy_back(replaced)
    torch.autograd.graph.increment_version([tensor for tensors in changed for tensor in tensors])


def global_norm(tensors: list[Tensor], dtype: torch.dtype) -> Tensor:
    """The norm, () of this dtype."""
    tensors = [t if torch.ops.aten.is_non_overlapping_and_dense.default(t) else t.contiguous() for t in tensors]
    sums = torch.empty(_blocks(tensors, NORM_BLOCK), dtype=torch.float64, device=tensors[0].device)
    before = 0
    for kind in dict.fromkeys(tensor.dtype for tensor in tensors):
        alike = [tensor for tensor in tensors if tensor.dtype == kind]
        rows = _rows([None, alike, None, None, None, None])
        cuda_extension.call(
            "perfsuite_sums_of_squares", kind, sums[before:], rows.buffer_info()[0], len(alike), NORM_BLOCK
        )
        before += _blocks(alike, NORM_BLOCK)
    norm = torch.empty((), dtype=dtype, device=sums.device)
    cuda_extension.call("perfsuite_root_of_sum", dtype, sums, before, norm)
    return norm


def _rows(columns: list[list[Tensor] | None]) -> array:
    """The kernels' rows, one for each tensor: addresses by column, 0 for a column that is not there, and elements."""
    given = next(tensors for tensors in columns if tensors)
    addresses = [[t.data_ptr() for t in tensors] if tensors else [0] * len(given) for tensors in columns]
    rows = array("q")
    for row in zip(*addresses, (t.numel() for t in given), strict=True):
        rows.extend(row)
    return rows


def _blocks(tensors: list[Tensor], block: int) -> int:
    return sum(-(-tensor.numel() // block) for tensor in tensors)
