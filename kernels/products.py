"""The fastest matrix product that torch carries for given tensors.

On a GPU that is torch's own (cuBLAS). On the CPU torch hands float32 to MKL, which leaves half of the arithmetic of
some processors unused; oneDNN, which torch carries as well, does not. Other dtypes torch hands to oneDNN itself.
"""

import torch
from torch import Tensor

HAS_ONEDNN = torch.backends.mkldnn.is_available()


def with_onednn(a: Tensor, b: Tensor) -> bool:
    """Whether `product` of these is oneDNN's."""
    float32 = a.dtype == b.dtype == torch.float32 and a.device.type == "cpu"
    return float32 and a.numel() > 0 and b.numel() > 0 and HAS_ONEDNN


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b^T: a (m, k) and b (n, k), of any strides, to (m, n). Not differentiable."""
    if not with_onednn(a, b):
        return torch.mm(a, b.t())
    # With a in columns oneDNN is faster where the result is wider than high; turning it costs less than that gains.
    if a.shape[0] > b.shape[0] and a.stride(0) == 1 < a.stride(1):
        return _onednn(b, a).t().contiguous()
    return _onednn(a, b)


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
