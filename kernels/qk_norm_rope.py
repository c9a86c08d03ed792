"""RMSNorm of queries and keys over the head dimension, each with its weight, then rotary positions.

    n = x / sqrt(mean_j x_j^2 + eps),   y = rope(n w)                                     x: a row of q or of k
    u = dy turned back by the angles,   dw = sum over rows of u n,   dx = (u w - n mean_j(u_j w_j n_j)) / rms(x)

RMSNorm: Zhang and Sennrich 2019 (arXiv 1910.07467); on queries and keys: Henry et al. 2020 (arXiv 2010.04245), Dehghani
et al. 2023 (arXiv 2302.05442); rope: see rope.py. The backward keeps q, k, the weights and the tables.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perfsuite.kernels import native, rope
from perfsuite.kernels.contract import Case, Cost, Op
from perfsuite.kernels.rope import compute_dtype, in_memory_order, placed_tables

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton has no wheels for some platforms
    triton = None


def qk_norm_rope(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, *, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """(q', k'): normalised and turned to their positions, by the chosen implementation (contract.select).

    q, k: (..., T, dim) of one dtype, float32, bfloat16, float16 or float64, dim even and at least 2; their other
    dimensions may differ. Strides are arbitrary; where dim is adjacent nothing is copied. q_weight, k_weight: (dim,),
    any floating-point dtype. cos, sin: (at least T, dim / 2), row t for position t; they get no gradient. Half
    precision is computed in float32. Returns contiguous tensors of the shapes and dtype of q and k, also under
    autocast; their gradients have the order of q and k in memory. Differentiable in q, k and the weights; eager also
    twice.
    Raises ValueError for arguments of other shapes, dtypes and values.
    """
    if q.dim() < 2 or k.dim() < 2 or q.shape[-2:] != k.shape[-2:] or q.shape[-1] % 2 or q.shape[-1] == 0:
        raise ValueError(
            f"qk_norm_rope: q and k must be (..., T, dim) with one T and one even dim, "
            f"got {tuple(q.shape)} and {tuple(k.shape)}"
        )
    if q.dtype != k.dtype or not q.dtype.is_floating_point:
        raise ValueError(f"qk_norm_rope: q and k must be of one floating-point dtype, got {q.dtype} and {k.dtype}")
    time, dim = q.shape[-2:]
    for name, weight in (("q_weight", q_weight), ("k_weight", k_weight)):
        if weight.shape != (dim,) or not weight.dtype.is_floating_point:
            raise ValueError(
                f"qk_norm_rope: {name} must be floating-point ({dim},), got {weight.dtype}{tuple(weight.shape)}"
            )
    rope.check_tables("qk_norm_rope", cos, sin, time, dim)
    if not eps >= 0:
        raise ValueError(f"qk_norm_rope: eps must be at least 0, got {eps}")
    return OP(q, k, q_weight, k_weight, cos, sin, eps=eps)


def reference(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    """The formula in plain torch; half precision is computed in float32."""

    def one(x: Tensor, weight: Tensor) -> Tensor:
        wide = x.to(compute_dtype(x))
        normal = wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
        return rope.reference(normal * weight.to(wide.dtype), cos, sin, position_dim=-2, inplace=False).to(x.dtype)

    return one(q, q_weight), one(k, k_weight)


# -- cost and cases ---------------------------------------------------------------------------------------------------


def cost(case: Case) -> Cost:
    """Forward: q and k read, the results written. Backward: both and their gradients read, gradients written.

    The weights are too small to count; the tables are read once by each pass. An element costs 2 operations for its
    square, 2 for the normalisation and 3 for the rotation; its gradient another 3 to turn back, 3 for the mean of the
    products, 4 for dx and 2 for dw.
    """
    shape, size = case.shape, getattr(torch, case.dtype).itemsize
    elements = shape["batch"] * (shape["heads"] + shape["kv_heads"]) * shape["time"] * shape["dim"]
    tables = shape["time"] * shape["dim"] * max(4, size)
    if not case.gradient:
        return Cost(bytes=2 * elements * size + tables, flops=7 * elements)
    return Cost(bytes=5 * elements * size + 2 * tables, flops=19 * elements)


def _case(
    batch: int, heads: int, kv_heads: int, time: int, dim: int, dtype: str = "float32",
    draw: dict[str, Any] | None = None, **options: Any,
) -> Case:  # fmt: skip
    sizes = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "time": time, "dim": dim}
    return Case(dtype, sizes, options, draw or {})


def cases(scale: str) -> list[Case]:
    """Of scale "tiny", "cpu" (8 x 4 heads x 128 of 32 are llama's), "gpu" or "code"."""
    qkv, tokens = {"layout": "qkv"}, {"layout": "tokens"}
    if scale == "cpu":
        return [
            _case(8, 16, 16, 512, 64),
            _case(8, 4, 4, 128, 32, draw=tokens),
            _case(4, 12, 4, 500, 80, draw=tokens),
            _case(2, 32, 8, 256, 128, "bfloat16", draw=tokens),
        ]
    if scale == "gpu":
        return [
            _case(64, 8, 8, 1024, 64, "bfloat16", draw=tokens),
            _case(1, 32, 8, 8192, 128, "bfloat16", draw=tokens),
            _case(4, 24, 24, 4096, 128, "bfloat16"),
            _case(8, 16, 16, 512, 64),
            _case(3, 25, 5, 1021, 80, "bfloat16", draw=tokens),
        ]
    if scale == "code":
        return [
            _case(2, 2, 1, 16, dim, dtype, draw=tokens) for dim in (64, 80, 128) for dtype in ("bfloat16", "float32")
        ]
    if scale != "tiny":
        raise ValueError(f"qk_norm_rope has cases for the scales tiny, cpu, gpu and code, not {scale!r}")
    return [
        _case(2, 3, 1, 5, 8),
        _case(2, 4, 2, 24, 32, draw=qkv),
        _case(1, 1, 1, 1, 2),
        _case(0, 2, 2, 3, 4),
        _case(2, 2, 1, 0, 4),
        _case(5, 8, 4, 33, 32, draw=tokens),
        _case(3, 2, 4, 7, 96, eps=0.1),
        _case(2, 3, 3, 9, 80, draw={**tokens, "table": 5}),
        _case(2, 3, 2, 6, 40, draw={"layout": "every second"}),
        _case(2, 3, 2, 6, 34, draw={"layout": "odd start"}),
        _case(1, 1, 1, 37, 64, draw={"layout": "flat"}),
        _case(4, 6, 2, 5, 16, draw={"layout": "deep"}),
        _case(2, 3, 1, 6, 32, draw={"values": "large"}),
        _case(2, 3, 1, 6, 32, draw={"values": "nan"}),
        _case(2, 3, 1, 11, 96, "bfloat16", draw=tokens),
        _case(2, 3, 1, 11, 20, "float16", draw={**qkv, "table": 2}),
        _case(2, 3, 1, 11, 24, "float64", draw=qkv),
    ]


def any_case() -> Any:
    """A hypothesis strategy of small cases."""
    from hypothesis import strategies as st

    return st.builds(
        lambda dtype, layout, table, values, eps, sizes: Case(
            dtype, dict(zip(("batch", "heads", "kv_heads", "time", "dim"), sizes, strict=True)), {"eps": eps},
            {"layout": layout, "table": table, "values": values},
        ),
        st.sampled_from(["float32", "bfloat16", "float16", "float64"]),
        st.sampled_from(rope.LAYOUTS),
        st.integers(0, 3),
        st.sampled_from(["normal", "large"]),
        st.sampled_from([1e-6, 1e-2]),
        st.tuples(
            st.sampled_from([0, 1, 2, 4]), st.sampled_from([2, 6]), st.sampled_from([0, 2, 4]), st.integers(0, 9),
            st.sampled_from([2, 6, 16, 30, 32, 34, 48, 64, 80, 96, 132]),
        ),
    )  # fmt: skip


def case_of(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, *, eps: float = 1e-6
) -> Case:
    """The case that a call is, for its cost. batch: what q and k have in common beside the heads."""
    time, dim = q.shape[-2:]
    heads, kv_heads = (x.shape[-3] if x.dim() > 2 else 1 for x in (q, k))
    batch = q.numel() // max(1, heads * time * dim)
    shape = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "time": time, "dim": dim}
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, q_weight, k_weight))
    return Case(str(q.dtype).removeprefix("torch."), shape, {"eps": eps}, gradient=wanted)


def inputs(case: Case, device: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh q and k, weights around 1, and the tables of Llama's angles.

    case.draw: layout and table as in rope.py; values "large": 1e4, "nan": one NaN in q.
    """
    q = rope.draw_rows(case, case.shape["heads"], device, generator)
    k = rope.draw_rows(case, case.shape["kv_heads"], device, generator)
    if case.draw.get("values") == "nan":
        q[0, 0, 0, 0] = torch.nan
    dim, dtype = case.shape["dim"], getattr(torch, case.dtype)
    weights = (1 + 0.3 * torch.randn(2, dim, generator=generator, dtype=torch.float32)).to(device, dtype)
    cos, sin = rope.draw_tables(case, device)
    return {"q": q, "k": k, "q_weight": weights[0].clone(), "k_weight": weights[1].clone(), "cos": cos, "sin": sin}


def scales(
    tensors: dict[str, Tensor], options: dict[str, Any], upstream: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """Results: the larger product of a pair. dx: that of the gradient turned back, against what is taken off along n,
    whose mean cancels too. dw: the length of the column that is summed, as products of random signs add up to."""
    found = {}
    for name, dy in zip(("q", "k"), upstream, strict=True):
        x, weight = tensors[name], tensors[f"{name}_weight"]
        cos, sin = placed_tables(x, tensors["cos"], tensors["sin"], -2)
        r = (x.square().mean(-1, keepdim=True) + options["eps"]).rsqrt()
        normal, turned_back = (x * r).abs(), rope.larger_product(dy, cos, sin)
        found[f"{name}_output"] = rope.larger_product(normal * weight, cos, sin)
        along = turned_back * weight.abs()
        found[f"grad_{name}"] = r * torch.maximum(along, normal * (along * normal).mean(-1, keepdim=True))
        found[f"grad_{name}_weight"] = (turned_back * normal).flatten(0, -2).square().sum(0).sqrt()
    return found


# -- eager ------------------------------------------------------------------------------------------------------------


def _eager(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    def one(x: Tensor, weight: Tensor) -> Tensor:
        normal = F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)
        return rope.reference(normal, cos, sin, position_dim=-2, inplace=False)

    return one(q, q_weight), one(k, k_weight)


# -- cpp and triton: one autograd function ----------------------------------------------------------------------------


class _NormRope(torch.autograd.Function):
    """Of q or k alone: torch.compile refuses a function that is handed one tensor twice, here a weight of both."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float, implementation: str
    ) -> Tensor:
        ctx.save_for_backward(x, weight, cos, sin)
        ctx.eps, ctx.implementation = eps, implementation
        return _forward(x, weight, cos, sin, eps, implementation)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        native.refuse_second_derivative("qk_norm_rope", ctx.implementation)
        x, weight, cos, sin = ctx.saved_tensors
        ops, order = torch.ops.perfsuite, in_memory_order(x)
        run = ops.qk_norm_rope_cpp_backward if ctx.implementation == "cpp" else ops.qk_norm_rope_triton_backward
        if order is None:
            gradient, weight_gradient = run(upstream, x, weight, cos, sin, x.dim() - 2, ctx.eps)
        else:
            # The kernel's results are contiguous: it is given the dimensions as x has them in memory.
            position, upstream, x = order.index(x.dim() - 2), upstream.permute(order), x.permute(order)
            gradient, weight_gradient = run(upstream, x, weight, cos, sin, position, ctx.eps)
            gradient = gradient.permute([order.index(d) for d in range(len(order))])
        return gradient, weight_gradient, None, None, None, None


def _forward(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float, implementation: str) -> Tensor:
    ops = torch.ops.perfsuite
    run = ops.qk_norm_rope_cpp_forward if implementation == "cpp" else ops.qk_norm_rope_triton_forward
    return run(x, weight, cos, sin, x.dim() - 2, eps)


def _run(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, eps: float, implementation: str
) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(q)
    options = (cos.to(dtype), sin.to(dtype), eps, implementation)

    def one(x: Tensor, weight: Tensor) -> Tensor:
        weight = weight.to(dtype)
        if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
            return _NormRope.apply(x, weight, *options)
        return _forward(x, weight, *options)

    return one(q, q_weight), one(k, k_weight)


def _cpp(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    return _run(q, k, q_weight, k_weight, cos, sin, eps, "cpp")


def _triton(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    return _run(q, k, q_weight, k_weight, cos, sin, eps, "triton")


# -- triton -----------------------------------------------------------------------------------------------------------

# Elements of a tile; the backward holds a tile of each of five tensors.
FORWARD_TILE, BACKWARD_TILE, WARPS = 4096, 2048, 4
# The backward's programs go on from tile to tile, and sum the weight's gradient in registers meanwhile.
PROGRAMS_PER_SM = 4

if triton is not None:

    @triton.jit
    def _place(tile, inner, heads, time, BLOCK_TIME: tl.constexpr, BLOCK_HEADS: tl.constexpr):
        """Outer and inner index of a tile, and its heads and positions."""
        time_blocks, head_blocks = tl.cdiv(time, BLOCK_TIME), tl.cdiv(heads, BLOCK_HEADS)
        h = (tile % head_blocks * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)).to(tl.int64)[None, :, None]
        tile = tile // head_blocks
        t = (tile % time_blocks * BLOCK_TIME + tl.arange(0, BLOCK_TIME)).to(tl.int64)[:, None, None]
        tile = tile // time_blocks
        return (tile // inner).to(tl.int64), (tile % inner).to(tl.int64), h, t

    @triton.jit
    def forward_kernel(
        x, out, weight, cos, sin, inner, heads, time, x_outer, x_inner, x_head, x_time,
        out_outer, out_inner, out_head, out_time,
        HALF: tl.constexpr, EPS: tl.constexpr, ACC: tl.constexpr,
        BLOCK_TIME: tl.constexpr, BLOCK_HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr,
    ):  # fmt: skip
        """A program: positions by heads of one (outer, inner), whole rows; tables are read once for the heads."""
        o, i, h, t = _place(tl.program_id(0), inner, heads, time, BLOCK_TIME, BLOCK_HEADS)
        j = tl.arange(0, BLOCK_HALF)[None, None, :]
        mask = (t < time) & (h < heads) & (j < HALF)
        at = x + o * x_outer + i * x_inner + h * x_head + t * x_time + j
        first = tl.load(at, mask=mask, other=0.0).to(ACC)
        second = tl.load(at + HALF, mask=mask, other=0.0).to(ACC)
        c = tl.load(cos + t * HALF + j, mask=(t < time) & (j < HALF), other=0.0).to(ACC)
        s = tl.load(sin + t * HALF + j, mask=(t < time) & (j < HALF), other=0.0).to(ACC)
        first_weight = tl.load(weight + j, mask=j < HALF, other=0.0)
        second_weight = tl.load(weight + HALF + j, mask=j < HALF, other=0.0)
        r = tl.rsqrt(tl.sum(first * first + second * second, 2, keep_dims=True) / (2 * HALF) + EPS)
        first = first * r * first_weight
        second = second * r * second_weight
        to = out + o * out_outer + i * out_inner + h * out_head + t * out_time + j
        tl.store(to, (first * c - second * s).to(out.dtype.element_ty), mask=mask)
        tl.store(to + HALF, (second * c + first * s).to(out.dtype.element_ty), mask=mask)

    @triton.jit
    def backward_kernel(
        upstream, x, out, weight, partial, cos, sin, tiles, inner, heads, time,
        up_outer, up_inner, up_head, up_time, x_outer, x_inner, x_head, x_time,
        out_outer, out_inner, out_head, out_time,
        HALF: tl.constexpr, EPS: tl.constexpr, ACC: tl.constexpr,
        BLOCK_TIME: tl.constexpr, BLOCK_HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr,
    ):  # fmt: skip
        """A program: every so manieth tile of dx, and their sum of dw in its row of partial."""
        j = tl.arange(0, BLOCK_HALF)[None, None, :]
        first_weight = tl.load(weight + j, mask=j < HALF, other=0.0)
        second_weight = tl.load(weight + HALF + j, mask=j < HALF, other=0.0)
        first_sum = tl.zeros((BLOCK_TIME, BLOCK_HEADS, BLOCK_HALF), ACC)
        second_sum = tl.zeros((BLOCK_TIME, BLOCK_HEADS, BLOCK_HALF), ACC)
        for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
            o, i, h, t = _place(tile, inner, heads, time, BLOCK_TIME, BLOCK_HEADS)
            mask = (t < time) & (h < heads) & (j < HALF)
            at = x + o * x_outer + i * x_inner + h * x_head + t * x_time + j
            first = tl.load(at, mask=mask, other=0.0).to(ACC)
            second = tl.load(at + HALF, mask=mask, other=0.0).to(ACC)
            at = upstream + o * up_outer + i * up_inner + h * up_head + t * up_time + j
            a = tl.load(at, mask=mask, other=0.0).to(ACC)
            b = tl.load(at + HALF, mask=mask, other=0.0).to(ACC)
            c = tl.load(cos + t * HALF + j, mask=(t < time) & (j < HALF), other=0.0).to(ACC)
            s = tl.load(sin + t * HALF + j, mask=(t < time) & (j < HALF), other=0.0).to(ACC)
            u = a * c + b * s
            v = b * c - a * s
            r = tl.rsqrt(tl.sum(first * first + second * second, 2, keep_dims=True) / (2 * HALF) + EPS)
            first *= r
            second *= r
            first_sum += u * first
            second_sum += v * second
            u *= first_weight
            v *= second_weight
            mean = tl.sum(u * first + v * second, 2, keep_dims=True) / (2 * HALF)
            to = out + o * out_outer + i * out_inner + h * out_head + t * out_time + j
            tl.store(to, (r * (u - first * mean)).to(out.dtype.element_ty), mask=mask)
            tl.store(to + HALF, (r * (v - second * mean)).to(out.dtype.element_ty), mask=mask)
        to = partial + tl.program_id(0) * 2 * HALF + tl.arange(0, BLOCK_HALF)
        tl.store(to, tl.sum(tl.sum(first_sum, 0), 0), mask=tl.arange(0, BLOCK_HALF) < HALF)
        tl.store(to + HALF, tl.sum(tl.sum(second_sum, 0), 0), mask=tl.arange(0, BLOCK_HALF) < HALF)


def _constants(x: Tensor) -> dict[str, Any]:
    return {"HALF": x.shape[-1] // 2, "ACC": tl.float64 if x.dtype == torch.float64 else tl.float32}


def _tiles(sizes: list[int], blocks: dict[str, int]) -> int:
    outer, inner, heads, time = sizes
    return outer * inner * triton.cdiv(heads, blocks["BLOCK_HEADS"]) * triton.cdiv(time, blocks["BLOCK_TIME"])


def _programs(x: Tensor) -> int:
    """As many as one GPU runs at a time; an H100's where there is none."""
    sms = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 132
    return PROGRAMS_PER_SM * sms


def _forward_triton(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, position_dim: int, eps: float) -> Tensor:
    out = x.new_empty(x.shape)
    if x.numel() == 0:
        return out
    (x, out), sizes, strides = rope.placed_rows([x, out], position_dim)
    blocks = rope.tile(sizes[2], x.shape[-1] // 2, FORWARD_TILE)
    forward_kernel[(_tiles(sizes, blocks),)](
        x, out, weight.contiguous(), cos.contiguous(), sin.contiguous(), *sizes[1:], *strides[0], *strides[1],
        EPS=eps, **_constants(x), **blocks, num_warps=WARPS,
    )  # fmt: skip
    return out


def _backward_triton(
    upstream: Tensor, x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, position_dim: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Gradients of x, contiguous, and of the weight."""
    out = x.new_empty(x.shape)
    if x.numel() == 0:
        return out, torch.zeros_like(weight)
    (upstream, x, out), sizes, strides = rope.placed_rows([upstream, x, out], position_dim)
    blocks = rope.tile(sizes[2], x.shape[-1] // 2, BACKWARD_TILE)
    tiles = _tiles(sizes, blocks)
    programs = min(tiles, _programs(x))
    partial = weight.new_empty(programs, x.shape[-1])
    backward_kernel[(programs,)](
        upstream, x, out, weight.contiguous(), partial, cos.contiguous(), sin.contiguous(), tiles, *sizes[1:],
        *strides[0], *strides[1], *strides[2], EPS=eps, **_constants(x), **blocks, num_warps=WARPS,
    )  # fmt: skip
    return out, partial.sum(0)


native.raw_op(
    "qk_norm_rope_triton_forward(Tensor x, Tensor weight, Tensor cos, Tensor sin, int position_dim, float eps) "
    "-> Tensor",
    _forward_triton,
    lambda x, *rest: x.new_empty(x.shape),
)
native.raw_op(
    "qk_norm_rope_triton_backward(Tensor upstream, Tensor x, Tensor weight, Tensor cos, Tensor sin, int position_dim, "
    "float eps) -> (Tensor, Tensor)",
    _backward_triton,
    lambda upstream, x, weight, *rest: (x.new_empty(x.shape), weight.new_empty(weight.shape)),
)


OP = Op(
    name="qk_norm_rope",
    reference=reference,
    defaults={"eps": 1e-6},
    cost=cost,
    cases=cases,
    case_of=case_of,
    inputs=inputs,
    differentiable=("q", "k", "q_weight", "k_weight"),
    scales=scales,
    outputs=("q_output", "k_output"),
    any_case=any_case,
    implementations=[
        native.eager(_eager),
        native.compiled(_eager),
        native.cpp(_cpp),
        native.in_triton(_triton),
    ],
)
