"""Gradients that a forward computes ahead, for an upstream gradient of 1, which is what loss.backward() hands over.

A loss that reads its inputs once for both saves half of the memory traffic. The backward multiplies by the upstream
gradient, unless that is 1.
"""

import torch
from torch import Tensor

from perfsuite.kernels.native import triton

if triton is not None:
    import triton.language as tl

    @triton.jit
    def multiply_kernel(values, factor, count, BLOCK: tl.constexpr):
        """values *= *factor, in place; where the factor is 1 nothing is read or written, and nobody waits for it."""
        k = tl.load(factor)
        if k != 1:
            here = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
            mask = here < count
            x = tl.load(values + here, mask=mask)
            tl.store(values + here, (x * k).to(values.dtype.element_ty), mask=mask)

    def launch_multiply(values: Tensor, factor: Tensor) -> None:
        """values: contiguous; factor: one number of the accumulation dtype on the same device."""
        if values.numel():
            multiply_kernel[(triton.cdiv(values.numel(), 4096),)](
                values, factor, values.numel(), BLOCK=4096, num_warps=8
            )


def times_upstream(gradient: Tensor, upstream: Tensor) -> Tensor:
    """A gradient that the forward saved, contiguous, times upstream (), in the backward of the graph that saved it.

    Works in place where nobody can ask the graph for it again, so that a large gradient is not held twice.
    """
    traced = torch.compiler.is_compiling() or type(upstream) is not Tensor  # then there is no value to look at
    if traced or torch._C._autograd._get_current_graph_task_keep_graph():
        return times(gradient, upstream)
    if gradient.is_cuda and triton is not None:
        launch_multiply(gradient, upstream)
        return gradient
    return gradient if not gradient.is_cuda and upstream.item() == 1 else times(gradient, upstream)


def times(gradient: Tensor, factor: Tensor) -> Tensor:
    """gradient * factor (), rounded once: torch would round the factor to a gradient in half precision first."""
    if gradient.dtype in (torch.float32, torch.float64):
        return gradient * factor
    return (gradient.float() * factor).to(gradient.dtype)
