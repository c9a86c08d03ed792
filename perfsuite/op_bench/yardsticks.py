"""Other people's kernels, where they are installed: Liger-Kernel on a GPU. Imported when they are asked for.

Each takes the arguments of our op's reference and does the same work, or is left out for a case where it cannot. Liger
writes into its inputs (logits become their gradient) and upstream gradients: it is timed on copies of its own.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from perfsuite.kernels.contract import Implementation


def liger(op: str) -> Implementation | None:
    """Liger-Kernel's implementation of our op, or None where it has none."""
    run = _LIGER.get(op)
    return None if run is None else Implementation("liger", run, _no_liger)


def _no_liger(device: str) -> str | None:
    if find_spec("liger_kernel") is None:
        return "Liger-Kernel is not installed: pip install liger-kernel"
    return None if device == "cuda" else "it needs a GPU"


def _cross_entropy(logits: Any, target: Any, *, ignore_index: int, label_smoothing: float, z_loss: float,
                   reduction: str) -> Any:  # fmt: skip
    from liger_kernel.transformers.functional import liger_cross_entropy

    return liger_cross_entropy(logits, target, ignore_index=ignore_index, lse_square_scale=z_loss,
                               label_smoothing=label_smoothing, reduction=reduction)  # fmt: skip


def _linear_cross_entropy(x: Any, weight: Any, target: Any, *, ignore_index: int, label_smoothing: float,
                          z_loss: float, reduction: str, **_: Any) -> Any:  # fmt: skip
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return liger_fused_linear_cross_entropy(x, weight, target, ignore_index=ignore_index, lse_square_scale=z_loss,
                                            label_smoothing=label_smoothing, reduction=reduction)  # fmt: skip


def _rms_norm(x: Any, weight: Any, residual: Any = None, *, eps: float, dropout_p: float = 0.0, **_: Any) -> Any:
    from liger_kernel.transformers import functional

    if dropout_p:
        raise NotImplementedError("Liger's norms have no dropout")
    if residual is None:
        return functional.liger_rms_norm(x, weight, eps)
    return functional.liger_fused_add_rms_norm(x, residual, weight, eps)


def _layer_norm(x: Any, weight: Any, bias: Any, residual: Any = None, *, eps: float, dropout_p: float = 0.0,
                **_: Any) -> Any:  # fmt: skip
    from liger_kernel.transformers.functional import liger_layer_norm

    if dropout_p or residual is not None:
        raise NotImplementedError("Liger's LayerNorm has neither residual nor dropout")
    return liger_layer_norm(x, weight, bias, eps)


def _swiglu(gate: Any, up: Any, *, activation: str) -> Any:
    from liger_kernel.transformers import functional

    if up is None:
        gate, up = gate.chunk(2, dim=-1)
    if activation == "silu":
        return functional.liger_swiglu(gate, up)
    if activation == "gelu_tanh":
        return functional.liger_geglu(gate, up)
    raise NotImplementedError("Liger has silu and the tanh form of gelu")


def _softmax(x: Any, **_: Any) -> Any:
    from liger_kernel.transformers.functional import liger_softmax

    return liger_softmax(x)


_LIGER: dict[str, Callable[..., Any]] = {
    "cross_entropy": _cross_entropy,
    "linear_cross_entropy": _linear_cross_entropy,
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "swiglu": _swiglu,
    "softmax": _softmax,
}
