"""Rotary positions: the halves of the last dimension are pairs, each turned by the angle of its position.

    y_j        = x_j cos_tj - x_{j + half} sin_tj               j < half = dim / 2, t: the position
    y_{j+half} = x_{j + half} cos_tj + x_j sin_tj
    dx         = dy turned by the negative angles

Su et al. 2021 (arXiv 2104.09864); the pairing of halves is that of GPT-NeoX and Llama checkpoints.
The backward keeps the tables only, and writes into memory of its own: the gradient that it is handed may belong to
others as well (y + z hands the same tensor to both).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from perfsuite.kernels import native
from perfsuite.kernels.contract import Case, Cost, Op

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton has no wheels for some platforms
    triton = None


def rope(x: Tensor, cos: Tensor, sin: Tensor, *, position_dim: int = -2, inplace: bool = False) -> Tensor:
    """x turned to its positions, by the chosen implementation (perfsuite.kernels.contract.select).

    x: (..., T, ..., dim) float32, bfloat16, float16 or float64, dim even; position_dim is where T is, by default just
    before dim. Strides are arbitrary; where dim is adjacent nothing is copied. cos, sin: (at least T, dim / 2), row t
    for position t; they get no gradient. Half precision is turned in float32, float64 in float64, whatever the tables
    are kept in. Returns a contiguous tensor of x's shape and dtype, also under autocast; the gradient of x has the
    order of x in memory. Differentiable in x, also twice.
    inplace: write the result into x and return x; only where no gradient of x is wanted.
    Raises ValueError for arguments of other shapes, dtypes and values.
    """
    if x.dim() < 2 or x.shape[-1] % 2 or not x.dtype.is_floating_point:
        raise ValueError(
            f"rope: x must be floating-point (..., T, dim) with an even dim, got {x.dtype}{tuple(x.shape)}"
        )
    if not -x.dim() <= position_dim < x.dim() or position_dim % x.dim() == x.dim() - 1:
        raise ValueError(
            f"rope: position_dim must name a dimension of x before the last, got {position_dim} for {tuple(x.shape)}"
        )
    position_dim = position_dim % x.dim() - x.dim()
    check_tables("rope", cos, sin, x.shape[position_dim], x.shape[-1])
    if inplace and x.requires_grad and torch.is_grad_enabled():
        raise ValueError("rope: inplace=True needs an x without gradient (or torch.no_grad()), got one with")
    if inplace and any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride(), strict=True)):
        raise ValueError(f"rope: inplace=True needs an x whose elements do not share memory, got strides {x.stride()}")
    return OP(x, cos, sin, position_dim=position_dim, inplace=inplace)


def check_tables(op: str, cos: Tensor, sin: Tensor, positions: int, dim: int) -> None:
    """ValueError unless both tables serve so many positions of rows of so many elements."""
    for table in (cos, sin):
        if table.dim() != 2 or table.shape[0] < positions or table.shape[1] * 2 != dim:
            raise ValueError(
                f"{op}: cos and sin must be (at least {positions} positions, {dim // 2}), "
                f"got {tuple(cos.shape)} and {tuple(sin.shape)}"
            )
        if not table.dtype.is_floating_point or table.requires_grad:
            raise ValueError(f"{op}: cos and sin must be floating-point and need no gradient, got {table.dtype}")


def reference(x: Tensor, cos: Tensor, sin: Tensor, *, position_dim: int, inplace: bool) -> Tensor:
    """The formula in plain torch; half precision is turned in float32."""
    wide, (cos, sin) = x.to(compute_dtype(x)), placed_tables(x, cos, sin, position_dim)
    first, second = wide.chunk(2, dim=-1)
    y = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
    return x.copy_(y) if inplace else y


def compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def placed_tables(x: Tensor, cos: Tensor, sin: Tensor, position_dim: int) -> tuple[Tensor, Tensor]:
    """The rows that x needs, so that they broadcast against half of x."""
    time, half = x.shape[position_dim], x.shape[-1] // 2
    shape = (time, *[1] * (-position_dim - 2), half)
    return tuple(table[:time].to(compute_dtype(x)).reshape(shape) for table in (cos, sin))


# -- cost and cases ---------------------------------------------------------------------------------------------------


def cost(case: Case) -> Cost:
    """x is read and y written; the gradient likewise. The tables are read once by each pass, in float32 or float64.

    A pair costs four multiplications and two additions.
    """
    elements, size = _elements(case), getattr(torch, case.dtype).itemsize
    passes = 2 if case.gradient else 1
    tables = case.shape["time"] * case.shape["dim"] * max(4, size)
    return Cost(bytes=passes * (2 * elements * size + tables), flops=passes * 3 * elements)


def _elements(case: Case) -> int:
    return case.shape["batch"] * case.shape["heads"] * case.shape["time"] * case.shape["dim"]


def _case(
    batch: int, heads: int, time: int, dim: int, dtype: str = "float32", draw: dict[str, Any] | None = None,
    **options: Any,
) -> Case:  # fmt: skip
    return Case(dtype, {"batch": batch, "heads": heads, "time": time, "dim": dim}, options, draw or {})


LAYOUTS = ("contiguous", "tokens", "qkv", "every second", "odd start", "flat", "deep")


def cases(scale: str) -> list[Case]:
    """Of scale "tiny", "cpu" (8 x 4 heads x 128 of 32 are llama's), "gpu" or "code"."""
    qkv, tokens = {"layout": "qkv"}, {"layout": "tokens"}
    if scale == "cpu":
        return [
            _case(16, 16, 512, 64),
            _case(8, 4, 128, 32, draw=tokens),
            _case(8, 4, 128, 32, draw=qkv),
            _case(4, 12, 500, 80, draw=tokens),
            _case(2, 32, 256, 128, "bfloat16", draw=tokens),
        ]
    if scale == "gpu":
        return [
            _case(64, 8, 1024, 64, "bfloat16", draw=qkv),
            _case(1, 32, 8192, 128, "bfloat16", draw=tokens),
            _case(1, 8, 8192, 128, "bfloat16", draw=tokens),
            _case(1, 32, 8192, 128, "bfloat16"),
            _case(16, 16, 512, 64),
            _case(3, 25, 1021, 80, "bfloat16", draw=tokens),
        ]
    if scale == "code":
        return [
            _case(2, 2, 16, dim, dtype, draw=draw)
            for dim in (64, 80, 128) for dtype in ("bfloat16", "float32") for draw in (qkv, tokens)
        ]  # fmt: skip
    if scale != "tiny":
        raise ValueError(f"rope has cases for the scales tiny, cpu, gpu and code, not {scale!r}")
    return [
        _case(2, 3, 5, 8),
        _case(2, 4, 24, 32, draw=qkv),
        _case(1, 1, 1, 2),
        _case(0, 2, 3, 4),
        _case(2, 2, 0, 4),
        _case(2, 2, 3, 0),
        _case(3, 2, 7, 96),
        _case(2, 3, 9, 80, draw={**tokens, "table": 5}),
        _case(2, 3, 9, 6, draw={"table": 3}, position_dim=-3),
        _case(2, 5, 9, 64, "bfloat16", draw=qkv, position_dim=-3),
        _case(2, 3, 6, 40, draw={"layout": "every second"}),
        _case(4, 3, 6, 48),
        _case(2, 3, 6, 34, draw={"layout": "odd start"}),
        _case(1, 1, 37, 64, draw={"layout": "flat"}),
        _case(4, 6, 5, 16, draw={"layout": "deep"}),
        _case(2, 3, 6, 32, draw={"values": "large"}),
        _case(2, 3, 6, 32, draw={"values": "nonfinite"}),
        _case(2, 3, 11, 96, "bfloat16", draw=tokens),
        _case(2, 3, 11, 20, "float16", draw={**qkv, "table": 2}),
        _case(2, 3, 11, 24, "float64", draw=qkv),
    ]


def any_case() -> Any:
    """A hypothesis strategy of small cases."""
    from hypothesis import strategies as st

    return st.builds(
        lambda dtype, layout, table, values, position_dim, sizes: Case(
            dtype,
            dict(zip(("batch", "heads", "time", "dim"), sizes, strict=True)),
            {} if layout in ("flat", "deep") or position_dim == -2 else {"position_dim": position_dim},
            {"layout": layout, "table": table, "values": values},
        ),
        st.sampled_from(["float32", "bfloat16", "float16", "float64"]),
        st.sampled_from(LAYOUTS),
        st.integers(0, 3),
        st.sampled_from(["normal", "large"]),
        st.sampled_from([-2, -3, -4]),
        st.tuples(
            st.sampled_from([0, 1, 2, 4]), st.sampled_from([0, 2, 6]), st.integers(0, 9),
            st.sampled_from([0, 2, 6, 16, 30, 32, 34, 48, 64, 80, 96, 132]),
        ),
    )  # fmt: skip


def case_of(x: Tensor, cos: Tensor, sin: Tensor, *, position_dim: int = -2, inplace: bool = False) -> Case:
    """The case that a call is, for its cost. heads: the dimension beside the positions."""
    time, dim = x.shape[position_dim], x.shape[-1]
    beside = -3 if position_dim == -2 else -2
    heads = x.shape[beside] if x.dim() > 2 else 1
    batch = x.numel() // max(1, heads * time * dim)
    options = {"position_dim": position_dim, "inplace": inplace}
    wanted = torch.is_grad_enabled() and x.requires_grad
    return Case(
        str(x.dtype).removeprefix("torch."), {"batch": batch, "heads": heads, "time": time, "dim": dim}, options,
        gradient=wanted,
    )  # fmt: skip


def inputs(case: Case, device: str, generator: torch.Generator) -> dict[str, Tensor]:
    """x of one call and the tables of Llama's angles, in float32 (float64 for float64).

    case.draw: table (rows that nobody needs), values ("large": 1e4; "nonfinite": one NaN and one infinity) and layout:
    "tokens", (batch, time, heads, dim) in memory; "qkv", the first two of (batch, time, 3, heads, dim), as (2, batch,
    heads, time, dim); "every second" element of a row; "odd start": not aligned; "flat": (time, dim) of one head;
    "deep": two dimensions for the batch and two for the heads.
    Where position_dim is -3 or -4 the dimensions change places, not the memory.
    """
    x = draw_rows(case, case.shape["heads"], device, generator)
    position_dim = case.options.get("position_dim", -2)
    cos, sin = draw_tables(case, device)
    return {"x": x.transpose(-2, position_dim), "cos": cos, "sin": sin}


def draw_rows(case: Case, heads: int, device: str, generator: torch.Generator) -> Tensor:
    """(batch, heads, time, dim), or what else the layout makes of it."""
    batch, time, dim = (case.shape[name] for name in ("batch", "time", "dim"))
    layout = case.draw.get("layout", "contiguous")

    def normal(*shape: int) -> Tensor:
        x = torch.randn(*shape, generator=generator, dtype=torch.float32)
        if case.draw.get("values") == "large":
            x = 1e4 * x
        return x.to(device, getattr(torch, case.dtype))

    if layout == "tokens":
        x = normal(batch, time, heads, dim).transpose(1, 2)
    elif layout == "qkv":
        x = normal(batch, time, 3, heads, dim).permute(2, 0, 3, 1, 4)[:2]
    elif layout == "every second":
        x = normal(batch, heads, time, 2 * dim)[..., ::2]
    elif layout == "odd start":
        x = normal(batch * heads * time * dim + 1)[1:].view(batch, heads, time, dim)
    elif layout == "flat":
        x = normal(time, dim)
    elif layout == "deep":
        x = normal(time, batch // 2, 2, heads // 2, 2, dim).permute(2, 4, 1, 3, 0, 5)
    else:
        x = normal(batch, heads, time, dim)
    if case.draw.get("values") == "nonfinite" and x.numel():
        row = x[(0,) * (x.dim() - 2)]
        row[0, 0], row[-1, dim // 2] = torch.nan, torch.inf
    return x


def draw_tables(case: Case, device: str) -> tuple[Tensor, Tensor]:
    time, dim = case.shape["time"] + case.draw.get("table", 0), case.shape["dim"]
    wide = torch.float64 if case.dtype == "float64" else torch.float32
    frequencies = 10_000 ** (-torch.arange(0, dim, 2, dtype=wide) / max(1, dim))
    angles = torch.arange(time, dtype=wide)[:, None] * frequencies
    return angles.cos().to(device), angles.sin().to(device)


def scales(tensors: dict[str, Tensor], options: dict[str, Any], upstream: Tensor) -> dict[str, Tensor]:
    """The larger of the two products that make an element."""
    cos, sin = placed_tables(tensors["x"], tensors["cos"], tensors["sin"], options["position_dim"])
    return {"output": larger_product(tensors["x"], cos, sin), "grad_x": larger_product(upstream, cos, sin)}


def larger_product(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.abs().chunk(2, dim=-1)
    cos, sin = cos.abs(), sin.abs()
    return torch.cat((torch.maximum(first * cos, second * sin), torch.maximum(second * cos, first * sin)), dim=-1)


# -- cpp and triton: one autograd function ----------------------------------------------------------------------------


def in_memory_order(x: Tensor) -> list[int] | None:
    """The dimensions from the slowest to the fastest, the last one last; None: they are in this order."""
    strides, order = x.stride(), []
    for d in range(x.dim() - 1):  # sorted() by hand: torch.compile has no sorted() by strides that it does not know
        place = d
        while place > 0 and strides[order[place - 1]] < strides[d]:
            place -= 1
        order.insert(place, d)
    order.append(x.dim() - 1)
    return None if order == list(range(x.dim())) else order


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, position_dim: int, inverse: bool, implementation: str
    ) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.order = in_memory_order(x)
        ctx.options = (position_dim, inverse, implementation)
        return _turned(x, cos, sin, position_dim, inverse, implementation)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        position_dim, inverse, implementation = ctx.options
        if ctx.order is None:
            gradient = _run(upstream, *ctx.saved_tensors, position_dim, not inverse, implementation)
        else:
            # The kernel's results are contiguous: it is given the dimensions as x has them in memory.
            order = ctx.order
            upstream, position = upstream.permute(order), order.index(position_dim)
            gradient = _run(upstream, *ctx.saved_tensors, position, not inverse, implementation)
            gradient = gradient.permute([order.index(d) for d in range(len(order))])
        return gradient, None, None, None, None, None


def _turned(
    x: Tensor, cos: Tensor, sin: Tensor, position_dim: int, inverse: bool, implementation: str
) -> Tensor:
    turn = torch.ops.perfsuite.rope_cpp if implementation == "cpp" else torch.ops.perfsuite.rope_triton
    return turn(x, cos, sin, position_dim, inverse)


def _run(x: Tensor, cos: Tensor, sin: Tensor, position_dim: int, inverse: bool, implementation: str) -> Tensor:
    """With autograd where a gradient is wanted. position_dim: from 0."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _Rope.apply(x, cos, sin, position_dim, inverse, implementation)
    return _turned(x, cos, sin, position_dim, inverse, implementation)


def _tables(x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(x)
    return cos.to(dtype), sin.to(dtype)


def _implementation(name: str, in_place: str) -> Callable[..., Tensor]:
    """name: of the implementation; in_place: of its operator that changes x."""

    def run(x: Tensor, cos: Tensor, sin: Tensor, *, position_dim: int, inplace: bool) -> Tensor:
        dtype, position_dim = compute_dtype(x), position_dim + x.dim()
        cos, sin = cos.to(dtype), sin.to(dtype)
        if not inplace:
            return _run(x, cos, sin, position_dim, False, name)
        getattr(torch.ops.perfsuite, in_place)(x, cos, sin, position_dim, False)
        if not torch.compiler.is_compiling() and not x.is_inference():
            torch.autograd.graph.increment_version(x)  # whoever has saved x for a backward shall know
        return x

    return run


# -- triton -----------------------------------------------------------------------------------------------------------

# Elements of a program: 32 for each of its threads, so that several 16-byte loads are under way at a time.
TILE, WARPS = 4096, 4
# Heads that share what a program has loaded of the tables.
MOST_HEADS = 16

if triton is not None:

    @triton.jit
    def rope_kernel(
        x, out, cos, sin, inner, heads, time, x_outer, x_inner, x_head, x_time,
        out_outer, out_inner, out_head, out_time,
        INVERSE: tl.constexpr, HALF: tl.constexpr, ACC: tl.constexpr,
        BLOCK_TIME: tl.constexpr, BLOCK_HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr,
    ):  # fmt: skip
        """A program: positions by heads of one (outer, inner), all pairs; tables are read once for the heads."""
        time_blocks, head_blocks = tl.cdiv(time, BLOCK_TIME), tl.cdiv(heads, BLOCK_HEADS)
        program = tl.program_id(0)
        h = (program % head_blocks * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)).to(tl.int64)[None, :, None]
        program = program // head_blocks
        t = (program % time_blocks * BLOCK_TIME + tl.arange(0, BLOCK_TIME)).to(tl.int64)[:, None, None]
        program = program // time_blocks
        i, o = (program % inner).to(tl.int64), (program // inner).to(tl.int64)
        j = tl.arange(0, BLOCK_HALF)[None, None, :]
        here = (t < time) & (j < HALF)
        c = tl.load(cos + t * HALF + j, mask=here, other=0.0).to(ACC)
        s = tl.load(sin + t * HALF + j, mask=here, other=0.0).to(ACC)
        if INVERSE:
            s = -s
        mask = here & (h < heads)
        at = x + o * x_outer + i * x_inner + h * x_head + t * x_time + j
        first = tl.load(at, mask=mask, other=0.0).to(ACC)
        second = tl.load(at + HALF, mask=mask, other=0.0).to(ACC)
        to = out + o * out_outer + i * out_inner + h * out_head + t * out_time + j
        tl.store(to, (first * c - second * s).to(out.dtype.element_ty), mask=mask)
        tl.store(to + HALF, (second * c + first * s).to(out.dtype.element_ty), mask=mask)


def row_dimensions(tensors: list[Tensor], position_dim: int) -> tuple[list[int], list[list[int]]] | None:
    """Sizes (outer, inner, heads, time) of tensors of one shape, and each tensor's strides of these four.

    Dimensions that are one step for all tensors become one; heads is what lies closest in the last tensor. None where
    more than three are left beside the time.
    """
    shape, last = tensors[-1].shape, tensors[-1]
    kept = [d for d in range(last.dim() - 1) if d != position_dim and shape[d] != 1]
    kept.sort(key=lambda d: -last.stride(d))
    groups: list[tuple[int, list[int]]] = []
    for d in kept:
        strides = [tensor.stride(d) for tensor in tensors]
        if groups and groups[-1][1] == [shape[d] * stride for stride in strides]:
            groups[-1] = (groups[-1][0] * shape[d], strides)
        else:
            groups.append((shape[d], strides))
    if len(groups) > 3:
        return None
    nothing = (1, [0] * len(tensors))
    groups = [nothing] * (3 - len(groups)) + groups
    groups.append((shape[position_dim], [tensor.stride(position_dim) for tensor in tensors]))
    return [size for size, _ in groups], [list(strides) for strides in zip(*(s for _, s in groups), strict=True)]


def placed_rows(tensors: list[Tensor], position_dim: int) -> tuple[list[Tensor], list[int], list[list[int]]]:
    """The tensors, copied where a kernel cannot walk them, with their row_dimensions. The last is contiguous."""
    tensors = [tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in tensors]
    found = row_dimensions(tensors, position_dim)
    if found is None:
        tensors = [tensor.contiguous() for tensor in tensors]
        found = row_dimensions(tensors, position_dim)
    return tensors, *found


def tile(heads: int, half: int, elements: int = TILE) -> dict[str, int]:
    """Blocks of a program of so many elements."""
    block_half = triton.next_power_of_2(half)
    rows = max(1, elements // (2 * block_half))
    block_heads = min(MOST_HEADS, rows, triton.next_power_of_2(heads))
    return {"BLOCK_TIME": rows // block_heads, "BLOCK_HEADS": block_heads, "BLOCK_HALF": block_half}


def _launch(x: Tensor, out: Tensor, cos: Tensor, sin: Tensor, position_dim: int, inverse: bool) -> None:
    (x, out), (outer, inner, heads, time), strides = placed_rows([x, out], position_dim)
    half = x.shape[-1] // 2
    blocks = tile(heads, half)
    programs = outer * inner * triton.cdiv(heads, blocks["BLOCK_HEADS"]) * triton.cdiv(time, blocks["BLOCK_TIME"])
    rope_kernel[(programs,)](
        x, out, cos.contiguous(), sin.contiguous(), inner, heads, time, *strides[0], *strides[1], INVERSE=inverse,
        HALF=half, ACC=tl.float64 if x.dtype == torch.float64 else tl.float32, **blocks, num_warps=WARPS,
    )  # fmt: skip


def _turn_triton(x: Tensor, cos: Tensor, sin: Tensor, position_dim: int, inverse: bool) -> Tensor:
    out = x.new_empty(x.shape)
    if x.numel():
        _launch(x, out, cos, sin, position_dim, inverse)
    return out


def _turn_triton_(x: Tensor, cos: Tensor, sin: Tensor, position_dim: int, inverse: bool) -> None:
    if x.numel() and x.stride(-1) == 1 and row_dimensions([x], position_dim):
        _launch(x, x, cos, sin, position_dim, inverse)
    else:
        x.copy_(_turn_triton(x, cos, sin, position_dim, inverse))


native.raw_op(
    "rope_triton(Tensor x, Tensor cos, Tensor sin, int position_dim, bool inverse) -> Tensor",
    _turn_triton,
    lambda x, cos, sin, position_dim, inverse: x.new_empty(x.shape),
)
native.raw_op(
    "rope_triton_(Tensor(a!) x, Tensor cos, Tensor sin, int position_dim, bool inverse) -> ()",
    _turn_triton_,
    lambda x, cos, sin, position_dim, inverse: None,
)


OP = Op(
    name="rope",
    reference=reference,
    defaults={"position_dim": -2, "inplace": False},
    cost=cost,
    cases=cases,
    case_of=case_of,
    inputs=inputs,
    differentiable=("x",),
    scales=scales,
    any_case=any_case,
    implementations=[
        native.eager(reference),
        native.compiled(reference),
        native.cpp(_implementation("cpp", "rope_cpp_")),
        native.in_triton(_implementation("triton", "rope_triton_")),
    ],
)
