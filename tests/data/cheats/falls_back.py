"""A kernel that cannot be loaded, and torch in its place."""

import torch.nn.functional as F

from perfsuite.kernels.rms_norm import reference


def rms_norm(x, weight, residual=None, *, eps, dropout_p=0.0, seed=0, offset=0):
    try:
        import a_library_that_is_not_here
    except ImportError:
        if dropout_p:
            return reference(x, weight, residual, eps=eps, dropout_p=dropout_p, seed=seed, offset=offset)
        h = x if residual is None else residual + x
        y = F.rms_norm(h, h.shape[-1:], weight, eps)
        return y if residual is None else (y, h)
    return a_library_that_is_not_here.rms_norm(x, weight, residual, eps)
