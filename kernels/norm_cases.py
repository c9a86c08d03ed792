"""Costs, cases, inputs and scales that rms_norm and layer_norm share."""

from typing import Any

import torch
from torch import Tensor

from perfsuite.kernels import norm_rows
from perfsuite.kernels.contract import Case, Cost

RESIDUAL = {"residual": "same"}


def case(rows: int, width: int, dtype: str = "float32", draw: dict[str, Any] | None = None, **options: Any) -> Case:
    """draw: see `inputs`."""
    return Case(dtype, {"rows": rows, "width": width}, options, draw or {})


def tiny() -> list[Case]:
    """Small, odd, at the edge; 1024x128 is llama's."""
    dropout = {"dropout_p": 0.3, "seed": 2**40 + 7, "offset": 2**33 + 5}
    return [
        case(1024, 128),
        case(1, 1),
        case(0, 7),
        case(1, 1031),
        case(3, 20011),
        case(7, 33, draw=RESIDUAL, **dropout),
        case(13, 100, draw={"layout": "transposed"}, eps=0.1),
        case(13, 100, draw={"layout": "every second", **RESIDUAL}),
        case(14, 64, draw={"layout": "steps first", **RESIDUAL}, **dropout),
        case(11, 256, dropout_p=0.5),
        case(8, 1040, draw={"values": "large"}),
        case(8, 1040, draw={"values": "large", **RESIDUAL}),
        case(9, 70, draw={"values": "zeros"}),
        case(12, 150, draw={"values": "infinite"}),
        case(12, 50, draw={"values": "nan", **RESIDUAL}),
        case(6, 40, draw={"weight": "none"}),
        case(16, 512, "bfloat16", draw=RESIDUAL),
        case(16, 512, "bfloat16", draw={"weight": "float32"}),
        case(5, 1030, "bfloat16", draw={"layout": "padded rows"}),
        case(9, 72, "bfloat16", draw={"weight": "float32", "residual": "float32"}),
        case(9, 72, "bfloat16", draw={"weight": "float32", "residual": "float32"}, **dropout),
        case(16, 512, "float16", draw=RESIDUAL, **dropout),
        case(5, 1030, "float16", draw={"weight": "float32"}),
        case(6, 1100, "float64", draw=RESIDUAL, **dropout),
        case(5, 31, "float64"),
    ]


def few_rows(cases: list[Case]) -> list[Case]:
    """The same widths, dtypes and options, each once, with 8 rows."""
    small = [case(8, c.shape["width"], c.dtype, dict(c.draw), **c.options) for c in cases]
    return list({c.name: c for c in small}.values())


def case_of(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, options: dict[str, Any]
) -> Case:
    """The case that a call is, for its cost."""
    wanted = any(t is not None and t.requires_grad for t in (x, weight, bias, residual))
    draw = {}
    if residual is not None:
        draw["residual"] = "same" if residual.dtype == x.dtype else _name(residual.dtype)
    width = x.shape[-1]
    shape = {"rows": x.numel() // max(1, width), "width": width}
    return Case(_name(x.dtype), shape, options, draw, gradient=wanted and torch.is_grad_enabled())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def cost(case: Case, flops: int, gradient_flops: int) -> Cost:
    """Each tensor of the size of x moves once; weights, statistics and the dropout mask's words do not count.

    Forward: x and the residual are read, y and h (where it is not x) written. Backward: the upstream gradients and h
    are read, the gradient of x is written, and that of the residual where it differs.
    flops: per element, of the forward, without residual and dropout; gradient_flops: of the backward.
    """
    elements = case.shape["rows"] * case.shape["width"]
    size = getattr(torch, case.dtype).itemsize
    residual, dropout = case.draw.get("residual"), bool(case.options.get("dropout_p"))
    stream = size if residual in (None, "same") else getattr(torch, residual).itemsize
    makes_h = residual is not None or dropout
    moved = size + stream + (stream if residual else 0) + (stream if makes_h else 0)
    flops += bool(residual) + dropout
    if case.gradient:
        separate = residual is not None and (dropout or stream != size)
        moved += 2 * stream + size + (stream if makes_h else 0) + (stream if separate else 0)
        flops += gradient_flops + bool(residual) + dropout
    return Cost(bytes=moved * elements, flops=flops * elements)


def inputs(case: Case, device: str, generator: torch.Generator, centered: bool) -> dict[str, Tensor | None]:
    """Fresh x, weight, residual and, where centered, bias.

    case.draw: layout of x and residual ("transposed", "every second", "padded rows", "steps first": (rows / 2, 2,
    width) in memory as (2, rows / 2, width)), values of x ("large": around 3000, "zeros": two whole rows, "infinite":
    two elements, "nan": one), residual ("same": of x's dtype, "float32"), weight ("float32", "none": no bias either).
    """
    rows, width = case.shape["rows"], case.shape["width"]
    dtype = getattr(torch, case.dtype)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float32).to(device)

    def drawn(spread: float, dtype: torch.dtype) -> Tensor:
        layout = case.draw.get("layout")
        if layout == "transposed":
            return (spread * normal(width, rows)).to(dtype).T
        if layout == "every second":
            return (spread * normal(rows, 2 * width)).to(dtype)[:, ::2]
        if layout == "padded rows":
            return (spread * normal(rows, width + 3)).to(dtype)[:, :width]
        if layout == "steps first":
            return (spread * normal(2, rows // 2, width)).to(dtype).transpose(0, 1)
        return (spread * normal(rows, width)).to(dtype)

    x = drawn(0.5 + 2.0 * torch.rand((), generator=generator).item(), dtype)
    values = case.draw.get("values")
    if values == "large":
        x = x + 3000.0
    elif values == "zeros":
        x[1], x[4] = 0.0, 0.0
    elif values == "infinite":
        x[1, 3], x[5, width // 2] = torch.inf, -torch.inf
    elif values == "nan":
        x[2, width // 2] = torch.nan
    kind = dtype
    residual = None
    if "residual" in case.draw:
        kind = dtype if case.draw["residual"] == "same" else getattr(torch, case.draw["residual"])
        residual = drawn(1.5, kind)
    of_weight = case.draw.get("weight", _name(kind))
    weight = bias = None
    if of_weight != "none":
        weight = (1 + 0.4 * normal(width)).to(getattr(torch, of_weight))
        bias = (0.5 * normal(width)).to(getattr(torch, of_weight))
    tensors = {"x": x, "weight": weight, "residual": residual}
    return {"x": x, "weight": weight, "bias": bias, "residual": residual} if centered else tensors


def scales(
    tensors: dict[str, Any], options: dict[str, Any], upstream: tuple[Tensor, ...], centered: bool
) -> dict[str, Tensor]:
    """What cancels: residual against x in h; h against the mean, whose own sum cancels down from about the root of the
    sum of squares; the three terms of the gradient of h; and in sums over
    rows the largest summand, or the sum where it is larger.

    An error of the normalised value is passed on to the means of the gradient, where it counts with the magnitudes of
    the summands.
    """
    x, residual, weight, bias = (tensors.get(name) for name in ("x", "residual", "weight", "bias"))
    dropping = {name: options[name] for name in ("dropout_p", "seed", "offset")}
    alone = norm_rows.residual_stream(x, None, **dropping)
    h = alone if residual is None else residual + alone
    of_h = alone.abs() if residual is None else torch.maximum(alone.abs(), residual.abs())
    mean = h.mean(-1, keepdim=True) if centered else h.new_zeros(())
    rstd = ((h - mean).square().mean(-1, keepdim=True) + options["eps"]).rsqrt()
    of_mean = torch.maximum(mean.abs(), h.square().sum(-1, keepdim=True).sqrt() / h.shape[-1]) if centered else mean
    n, of_n = (h - mean) * rstd, torch.maximum(of_h, of_mean) * rstd
    w = x.new_ones(()) if weight is None else weight.abs()
    g = upstream[0]
    gw = g.abs() * w
    dh = torch.maximum(gw, of_n * (gw * of_n).mean(-1, keepdim=True))
    if centered:
        dh = torch.maximum(dh, gw.mean(-1, keepdim=True))
    dh = dh * rstd
    if len(upstream) > 1:
        dh = torch.maximum(dh, upstream[1].abs())
    dx = dh
    if options["dropout_p"]:
        dx = (norm_rows.residual_stream(torch.ones_like(x), None, **dropping)) * dh
    rows = (-1, x.shape[-1])
    of_y = of_n * w if bias is None else torch.maximum(of_n * w, bias.abs())
    return {
        "output": of_y,
        "h": of_h,
        "grad_x": dx,
        "grad_residual": dh,
        "grad_weight": _of_sum((g * n).reshape(rows), (g.abs() * of_n).reshape(rows)),
        "grad_bias": _of_sum(g.reshape(rows), g.abs().reshape(rows)),
    }


def _of_sum(summands: Tensor, scales: Tensor) -> Tensor:
    if not len(summands):
        return summands.new_zeros(summands.shape[1])
    return torch.maximum(summands.sum(0).abs(), scales.amax(0))


def any_case() -> Any:
    """Small cases of any shape, layout, dtype and option."""
    from hypothesis import strategies as st

    @st.composite
    def cases(draw: Any) -> Case:
        dtype = draw(st.sampled_from(["float32", "bfloat16", "float16", "float64"]))
        rows, width = draw(st.integers(0, 9)), draw(st.integers(1, 200))
        how: dict[str, Any] = {}
        layout = draw(st.sampled_from([None, "transposed", "every second", "padded rows"]))
        if layout:
            how["layout"] = layout
        narrow = dtype in ("bfloat16", "float16")
        residual = draw(st.sampled_from([None, "same", "float32"] if narrow else [None, "same"]))
        if residual:
            how["residual"] = residual
        weight = draw(st.sampled_from([None, "none", "float32"] if narrow else [None, "none"]))
        if weight:
            how["weight"] = weight
        options: dict[str, Any] = {}
        if draw(st.booleans()):
            options = {"dropout_p": draw(st.sampled_from([0.1, 0.5, 1.0])), "seed": draw(st.integers(0, 2**62)),
                       "offset": draw(st.sampled_from([0, 1, 2**32 - 1, 2**40]))}  # fmt: skip
        if draw(st.booleans()):
            options["eps"] = 1e-3
        return case(rows, width, dtype, how, **options)

    return cases()
