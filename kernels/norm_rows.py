"""What rms_norm and layer_norm share: checking of arguments, autograd, and the operators of every implementation.

    h = residual + dropout(x),  n = (h - mean) rstd,  y = n weight + bias          RMSNorm: mean = 0, no bias
    dh = dL/dh + rstd (g w - n mean_j(g w n) - mean_j(g w)),  g = dL/dy            RMSNorm: without the last term
    dx = dropout'(dh),  dresidual = dh,  dweight = sum g n,  dbias = sum g

The backward needs h (or x, where nothing comes before the norm) and per row rstd and mean; the dropout mask is computed
again. Sums over rows are added in a fixed order: the same call gives the same bits.
"""

from typing import Any

import torch
from torch import Tensor

from perfsuite.kernels import dropout_mask, native, norm_cuda, norm_triton


def check_arguments(
    op: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None,
    dropout_p: float, seed: int | Tensor, offset: int | Tensor,
) -> None:  # fmt: skip
    """ValueError, one line, for shapes, dtypes and values that no implementation takes."""
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"{op}: x must be (..., width) with a width of at least 1, got {tuple(x.shape)}")
    if not x.dtype.is_floating_point:
        raise ValueError(f"{op}: x must be floating-point, got {x.dtype}")
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector is not None and vector.shape != x.shape[-1:]:
            raise ValueError(f"{op}: {name} must be ({x.shape[-1]},) as x's last size, got {tuple(vector.shape)}")
        if vector is not None and not vector.dtype.is_floating_point:
            raise ValueError(f"{op}: {name} must be floating-point, got {vector.dtype}")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"{op}: residual must have x's shape {tuple(x.shape)}, got {tuple(residual.shape)}")
    if residual is not None and not residual.dtype.is_floating_point:
        raise ValueError(f"{op}: residual must be floating-point, got {residual.dtype}")
    if dropout_p or not isinstance(dropout_p, float):
        dropout_mask.check_arguments(op, x, dropout_p, seed, offset)


def acc_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums are computed in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def output_dtype(h: Tensor) -> torch.dtype:
    """Of y: that of h; under autocast on a GPU float32, as torch's norms are on its list of float32 operators there."""
    return acc_dtype(h.dtype) if h.is_cuda and torch.is_autocast_enabled("cuda") else h.dtype


def residual_stream(
    x: Tensor, residual: Tensor | None, dropout_p: float, seed: int | Tensor, offset: int | Tensor
) -> Tensor:
    """h in plain torch."""
    if dropout_p:
        x = (x * dropout_mask.factors(x, dropout_p, seed, offset)).to(x.dtype)
    return x if residual is None else residual + x


def norm_rows(
    implementation: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, *,
    centered: bool, eps: float, dropout_p: float, seed: int | Tensor, offset: int | Tensor,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """y, or (y, h) where there is a residual or dropout; by "cpp", "triton" or "cuda"."""
    if residual is not None and residual.dtype != x.dtype:
        # The kernels take x narrower than a float32 stream; what else may be mixed is converted first.
        stream = torch.promote_types(x.dtype, residual.dtype)
        residual = residual.to(stream)
        if x.dtype.itemsize != 2 or stream != torch.float32:
            x = x.to(stream)
    seeds: tuple[Any, Any] = dropout_mask.counters(x, seed, offset) if dropout_p else (None, None)
    narrow = (x if residual is None else residual).dtype.itemsize == 2
    float32_output = narrow and x.is_cuda and torch.is_autocast_enabled("cuda")
    arguments = (x, residual, weight, bias, *seeds, centered, eps, dropout_p, float32_output)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, residual, weight, bias)):
        return _NormRows.apply(implementation, *arguments)
    y, h, _, _ = FORWARD[implementation](*arguments)
    return (y, h) if residual is not None or dropout_p else y


class _NormRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, implementation: str, x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None,
        seed: Tensor | None, offset: Tensor | None, centered: bool, eps: float, dropout_p: float, float32_output: bool,
    ) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
        y, h, mean, rstd = FORWARD[implementation](
            x, residual, weight, bias, seed, offset, centered, eps, dropout_p, float32_output
        )
        makes_h = residual is not None or dropout_p != 0
        ctx.save_for_backward(h if makes_h else x, weight, mean, rstd, seed, offset)
        ctx.set_materialize_grads(False)
        ctx.implementation, ctx.centered, ctx.dropout_p = implementation, centered, dropout_p
        ctx.x_dtype, ctx.y_dtype = x.dtype, y.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        return (y, h) if makes_h else y

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, upstream_h: Tensor | None = None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            op = "layer_norm" if ctx.centered else "rms_norm"
            raise RuntimeError(
                f"{op}={ctx.implementation} has no second derivative; choose --use {op}=eager for create_graph=True"
            )
        h, weight, mean, rstd, seed, offset = ctx.saved_tensors
        _, _, for_residual, for_weight, for_bias, *_ = ctx.needs_input_grad
        if upstream is None:  # only h was used
            upstream = torch.zeros_like(h, dtype=ctx.y_dtype)
        separate = for_residual and (ctx.dropout_p != 0 or h.dtype != ctx.x_dtype)
        grad_x, grad_residual, grad_weight, grad_bias = BACKWARD[ctx.implementation](
            upstream, upstream_h, h, weight, mean, rstd, seed, offset, ctx.dropout_p, ctx.x_dtype, ctx.centered,
            separate, for_weight, for_bias,
        )  # fmt: skip
        return (
            None,
            grad_x,
            (grad_residual if separate else grad_x) if for_residual else None,
            grad_weight.to(weight.dtype) if for_weight else None,
            grad_bias.to(ctx.bias_dtype) if for_bias else None,
            *[None] * 6,
        )


# -- operators: the same two signatures for every implementation ------------------------------------------------------

_FORWARD = (
    "(Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor? seed, Tensor? offset, bool centered, "
    "float eps, float dropout_p, bool float32_output) -> (Tensor y, Tensor h, Tensor mean, Tensor rstd)"
)
_BACKWARD = (
    "(Tensor upstream, Tensor? upstream_h, Tensor h, Tensor? weight, Tensor mean, Tensor rstd, Tensor? seed, "
    "Tensor? offset, float dropout_p, ScalarType x_dtype, bool centered, bool separate_residual, bool want_weight, "
    "bool want_bias) -> (Tensor grad_x, Tensor grad_residual, Tensor grad_weight, Tensor grad_bias)"
)


def empty_forward(
    x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None, seed: Tensor | None,
    offset: Tensor | None, centered: bool, eps: float, dropout_p: float, float32_output: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Unwritten outputs of a forward operator: y, h (no elements where h is x), mean (none for RMSNorm) and rstd."""
    kind = x.dtype if residual is None else residual.dtype
    acc, rows = acc_dtype(kind), x.numel() // x.shape[-1]
    makes_h = residual is not None or dropout_p != 0
    return (
        x.new_empty(x.shape, dtype=torch.float32 if float32_output else kind),
        x.new_empty(x.shape if makes_h else (0,), dtype=kind),
        x.new_empty(rows if centered else 0, dtype=acc),
        x.new_empty(rows, dtype=acc),
    )


def empty_backward(
    upstream: Tensor, upstream_h: Tensor | None, h: Tensor, weight: Tensor | None, mean: Tensor, rstd: Tensor,
    seed: Tensor | None, offset: Tensor | None, dropout_p: float, x_dtype: torch.dtype, centered: bool,
    separate_residual: bool, want_weight: bool, want_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Unwritten gradients: of x, residual (no elements where x's serves), weight and bias (these in rstd's dtype)."""
    width = h.shape[-1]
    return (
        h.new_empty(h.shape, dtype=x_dtype),
        h.new_empty(h.shape if separate_residual else (0,)),
        rstd.new_empty(width if want_weight else 0),
        rstd.new_empty(width if want_bias else 0),
    )


def _launched(launch: Any, empty: Any) -> Any:
    def launcher(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        outputs = empty(*arguments)
        launch(outputs, *arguments)
        return outputs

    return launcher


FORWARD = {
    "cpp": native.raw_op("norm_rows_cpp_forward" + _FORWARD, None, empty_forward),
}
BACKWARD = {
    "cpp": native.raw_op("norm_rows_cpp_backward" + _BACKWARD, None, empty_backward),
}
for _name, _module in (("triton", norm_triton), ("cuda", norm_cuda)):
    FORWARD[_name] = native.raw_op(
        f"norm_rows_{_name}_forward" + _FORWARD, _launched(_module.forward, empty_forward), empty_forward
    )
    BACKWARD[_name] = native.raw_op(
        f"norm_rows_{_name}_backward" + _BACKWARD, _launched(_module.backward, empty_backward), empty_backward
    )
