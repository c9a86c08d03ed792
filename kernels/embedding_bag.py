"""Embedding bag: sums of rows of a table, bag by bag.

    output[b] = sum over offsets[b] <= p < offsets[b + 1] of weight[indices[p]]
    gradient of weight[r] = sum over the lookups p of row r of upstream[bag of p]

It is torch.nn.functional.embedding_bag with mode="sum" and include_last_offset=True. Its gradient by autograd is as
large as the table: for small tables and for checks. Training calls embedding_bag_update with the gradient of the
output instead, which makes no gradient of the table at all (kernels/embedding_bag_update.py).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perfsuite.kernels import native
from perfsuite.kernels.contract import Case, Cost, Op

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton has no wheels for some platforms
    triton = None


def embedding_bag(weight: Tensor, indices: Tensor, offsets: Tensor, *, mode: str = "sum") -> Tensor:
    """Sums of rows of weight by the chosen implementation (perfsuite.kernels.contract.select).

    weight: (rows, width) float32, bfloat16, float16 or float64, any strides.
    indices: (lookups,) int64, each in [0, rows).
    offsets: (bags + 1,) int64, where each bag begins and the last one ends: from 0 up to lookups, never falling; equal
    ones are an empty bag, whose sum is 0.
    mode: "sum", the only one; it is named because torch's default is "mean".
    Returns (bags, width) in the dtype of weight. Differentiable once in weight (eager: twice).
    Raises ValueError for arguments of other shapes, dtypes and modes. On the CPU another index is an IndexError and
    other offsets are a ValueError (eager: torch's own); on a GPU, where nobody waits to look, such an index makes its
    bag NaN.
    """
    check_lookups("embedding_bag", weight, indices, offsets)
    if mode != "sum":
        raise ValueError(f"embedding_bag: mode must be 'sum', got {mode!r}")
    return OP(weight, indices, offsets)


def check_lookups(name: str, weight: Tensor, indices: Tensor, offsets: Tensor) -> None:
    """ValueError, for the op of this name, where shapes and dtypes do not fit."""
    if weight.dim() != 2 or indices.dim() != 1 or offsets.dim() != 1 or offsets.shape[0] == 0:
        raise ValueError(
            f"{name}: weight must be (rows, width), indices (lookups,) and offsets (bags + 1,), "
            f"got {tuple(weight.shape)}, {tuple(indices.shape)} and {tuple(offsets.shape)}"
        )
    if not weight.dtype.is_floating_point or indices.dtype != torch.int64 or offsets.dtype != torch.int64:
        raise ValueError(
            f"{name}: weight must be floating-point, indices and offsets int64, "
            f"got {weight.dtype}, {indices.dtype} and {offsets.dtype}"
        )


def reference(weight: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    """The formula in plain torch; half precision is computed in float32."""
    values = weight.to(compute_dtype(weight))[indices]
    sums = values.new_zeros(offsets.shape[0] - 1, weight.shape[1])
    return sums.index_add(0, bag_of_lookup(indices, offsets), values).to(weight.dtype)


def bag_of_lookup(indices: Tensor, offsets: Tensor) -> Tensor:
    """(lookups,) int64: the bag that each lookup belongs to."""
    return torch.searchsorted(offsets, torch.arange(indices.shape[0], device=indices.device), right=True) - 1


def compute_dtype(weight: Tensor) -> torch.dtype:
    """What sums are taken in."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


# -- cost and cases ---------------------------------------------------------------------------------------------------


def cost(case: Case) -> Cost:
    """Every distinct row is read once, and the indices and offsets; the sums are written. Backward: the upstream
    gradient is read and the gradient of the whole table written.

    One addition per lookup and column, and one more for the gradient.
    """
    shape, size = case.shape, getattr(torch, case.dtype).itemsize
    output, ids = shape["bags"] * shape["width"], 8 * (shape["lookups"] + shape["bags"] + 1)
    moved = size * (distinct_rows(case) * shape["width"] + output) + ids
    if case.gradient:
        moved += size * (output + shape["rows"] * shape["width"]) + ids
    return Cost(bytes=moved, flops=(2 if case.gradient else 1) * shape["lookups"] * shape["width"])


def distinct_rows(case: Case) -> int:
    """How many different rows the lookups of a case are expected to hit: those that repeat move once.

    Of a call whose distribution nobody knows, the least: 1.
    """
    shape, lookups = case.shape, case.shape["lookups"]
    if "distribution" not in case.draw:
        return min(1, lookups)
    p = probabilities(shape["rows"], case.draw["distribution"])
    return int((-torch.expm1(lookups * torch.log1p(-p.clamp_max(1 - 1e-15)))).sum())


def probabilities(rows: int, distribution: str) -> Tensor:
    """(rows,) float64. zipf: the k-th most frequent row has a share like k^-1.05."""
    weights = torch.arange(1, rows + 1, dtype=torch.float64) ** (-1.05 if distribution == "zipf" else 0.0)
    return weights / weights.sum()


def lookup_case(
    rows: int, width: int, bags: int, lookups: int, dtype: str = "float32", draw: dict[str, Any] | None = None,
    **options: Any,
) -> Case:  # fmt: skip
    """A case of this many lookups in all, uniform where draw does not say otherwise."""
    shape = {"rows": rows, "width": width, "bags": bags, "lookups": lookups}
    return Case(dtype, shape, options, {"distribution": "uniform", **(draw or {})})


ZIPF = {"distribution": "zipf"}


def cases(scale: str) -> list[Case]:
    """The first two of "cpu" are the tables of bench/embedding_bag_step.py; "gpu" begins with DLRMv2's width."""
    one = lookup_case
    if scale == "cpu":
        return [
            one(100_000, 64, 2048, 40_960),
            one(100_000, 64, 2048, 40_960, draw=ZIPF),
            one(10_000, 128, 1024, 8192, draw=ZIPF),
            one(5003, 33, 777, 5000),
        ]
    if scale in ("gpu", "code"):
        shapes = [(1_000_000, 128, 65536, 65536 * 8), (4_000_000, 64, 16384, 16384 * 20), (200_003, 96, 4093, 40_000)]
        return [
            one(*((64, width, 16, 64) if scale == "code" else (rows, width, bags, lookups)), dtype, draw=ZIPF)
            for rows, width, bags, lookups in shapes
            for dtype in ("float32", "bfloat16")
        ]
    if scale != "tiny":
        raise ValueError(f"embedding_bag has cases for the scales tiny, cpu, gpu and code, not {scale!r}")
    return [
        one(100, 64, 32, 300),
        one(20, 64, 9, 200, draw=ZIPF),
        one(1, 1, 1, 1),
        one(1, 5, 3, 40),
        one(7, 3, 0, 0),
        one(9, 130, 6, 0),
        one(50, 33, 20, 10),
        one(300, 257, 4, 90, draw={"layout": "padded rows"}),
        one(30, 17, 8, 50, draw={"layout": "every second"}),
        one(40, 16, 8, 60, draw={"layout": "transposed", **ZIPF}),
        one(40, 20, 8, 60, draw={"values": "infinite"}),
        one(40, 20, 8, 60, draw={"values": "nan"}),
        one(64, 64, 16, 200, "bfloat16", draw=ZIPF),
        one(64, 31, 16, 200, "float16", draw=ZIPF),
        one(64, 40, 16, 100, "float64", draw=ZIPF),
    ]


def any_case() -> Any:
    """Small cases of any shape, stride and dtype."""
    from hypothesis import strategies as st

    return st.builds(
        lambda rows, width, bags, lookups, dtype, layout, distribution: lookup_case(
            rows, width, bags, lookups if bags else 0, dtype, draw={"layout": layout, "distribution": distribution}
        ),
        st.integers(1, 40), st.integers(1, 70), st.integers(0, 12), st.integers(0, 60),
        st.sampled_from(["float32", "bfloat16", "float16", "float64"]),
        st.sampled_from([None, "padded rows", "every second", "transposed"]), st.sampled_from(["uniform", "zipf"]),
    )  # fmt: skip


def case_of(weight: Tensor, indices: Tensor, offsets: Tensor) -> Case:
    """The case that a call is, for its cost."""
    wanted = torch.is_grad_enabled() and weight.requires_grad
    shape = {
        "rows": weight.shape[0],
        "width": weight.shape[1],
        "bags": offsets.shape[0] - 1,
        "lookups": indices.shape[0],
    }
    return Case(str(weight.dtype).removeprefix("torch."), shape, gradient=wanted)


def inputs(case: Case, device: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh table and lookups of one call.

    case.draw: distribution of the rows ("uniform", "zipf": some are looked up often, and they lie anywhere in the
    table), layout of weight ("padded rows", "every second" column, "transposed") and values ("infinite", "nan": one
    row is). Bags are of random sizes, empty ones among them.
    """
    indices, offsets = draw_lookups(case, generator)
    weight = draw_rows(case.shape["rows"], case.shape["width"], case, generator)
    values = case.draw.get("values")
    if values:
        weight[indices[0], ::3] = torch.nan if values == "nan" else torch.inf
        weight[indices[1], 0] = -torch.inf
    return {"weight": weight.to(device), "indices": indices.to(device), "offsets": offsets.to(device)}


def draw_lookups(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """indices and offsets, on the CPU."""
    rows, bags, lookups = (case.shape[name] for name in ("rows", "bags", "lookups"))
    if case.draw.get("distribution") == "zipf" and lookups:
        ranks = torch.multinomial(probabilities(rows, "zipf"), lookups, replacement=True, generator=generator)
        indices = torch.randperm(rows, generator=generator)[ranks]
    else:
        indices = torch.randint(0, rows, (lookups,), generator=generator)
    inner = torch.randint(0, lookups + 1, (max(0, bags - 1),), generator=generator).sort().values
    ends = [inner, torch.tensor([lookups])] if bags else []
    return indices, torch.cat([torch.zeros(1, dtype=torch.int64), *ends])


def draw_rows(rows: int, width: int, case: Case, generator: torch.Generator) -> Tensor:
    """(rows, width) values of a table, small as they are after initialisation, in the case's dtype and layout."""

    def normal(*shape: int) -> Tensor:
        return (0.05 * torch.randn(*shape, generator=generator)).to(getattr(torch, case.dtype))

    layout = case.draw.get("layout")
    if layout == "transposed":
        return normal(width, rows).T
    if layout == "every second":
        return normal(rows, 2 * width)[:, ::2]
    return normal(rows, width + 3)[:, :width] if layout == "padded rows" else normal(rows, width)


def scales(tensors: dict[str, Tensor], _options: dict[str, Any], upstream: Tensor) -> dict[str, Tensor]:
    """Sums, of rows for the output and of upstream gradients for the gradient."""
    weight, indices, offsets = tensors["weight"], tensors["indices"], tensors["offsets"]
    bag = bag_of_lookup(indices, offsets)
    return {
        "output": largest_partial_sum(torch.zeros_like(upstream), bag, weight[indices]),
        "grad_weight": largest_partial_sum(torch.zeros_like(weight), indices, upstream[bag]),
    }


def largest_partial_sum(zeros: Tensor, where: Tensor, terms: Tensor) -> Tensor:
    """How large a sum of terms, added to zeros at rows `where`, is expected to be on its way: as large as it ends, or
    as a walk of as many random signs."""
    return torch.maximum(zeros.index_add(0, where, terms).abs(), zeros.index_add(0, where, terms.square()).sqrt())


# -- eager ------------------------------------------------------------------------------------------------------------


def _eager(weight: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    return F.embedding_bag(indices, weight, offsets, mode="sum", include_last_offset=True)


# -- cpp (csrc/ops/cpu/embedding_bag.h) and triton: raw operators under one autograd function -------------------------


class _EmbeddingBag(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, implementation: str, weight: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(indices, offsets)
        ctx.implementation, ctx.rows = implementation, weight.shape[0]
        return getattr(torch.ops.perfsuite, f"embedding_bag_{implementation}_forward")(weight, indices, offsets)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        native.refuse_second_derivative("embedding_bag", ctx.implementation)
        indices, offsets = ctx.saved_tensors
        backward = getattr(torch.ops.perfsuite, f"embedding_bag_{ctx.implementation}_backward")
        return None, backward(upstream, indices, offsets, ctx.rows), None, None


def _run(implementation: str, weight: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    if torch.is_grad_enabled() and weight.requires_grad:
        return _EmbeddingBag.apply(implementation, weight, indices, offsets)
    return getattr(torch.ops.perfsuite, f"embedding_bag_{implementation}_forward")(weight, indices, offsets)


def _cpp(weight: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    return _run("cpp", weight, indices, offsets)


def _triton(weight: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    return _run("triton", weight, indices, offsets)


if triton is not None:

    @triton.jit
    def forward_kernel(
        weight, row_stride, rows, indices, offsets, out, lookups, width,
        ACC: tl.constexpr, AT_ONCE: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """A program per bag and BLOCK columns; AT_ONCE rows are on their way together."""
        bag = tl.program_id(0).to(tl.int64)  # bags times width may need more than 32 bits
        columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = columns < width
        first = tl.maximum(tl.load(offsets + bag), 0)
        last = tl.minimum(tl.load(offsets + bag + 1), lookups)
        sums = tl.zeros((AT_ONCE, BLOCK), ACC)
        for start in range(first, last, AT_ONCE):
            p = start + tl.arange(0, AT_ONCE)
            index = tl.load(indices + p, mask=p < last, other=0)
            known = (index >= 0) & (index < rows)
            here = weight + index[:, None] * row_stride + columns[None, :]
            values = tl.load(here, mask=((p < last) & known)[:, None] & inside[None, :], other=0.0).to(ACC)
            # An index outside the table makes its bag NaN: loud, and nobody waits for the device.
            sums += tl.where(known[:, None], values, float("nan"))
        total = tl.sum(sums, 0).to(out.dtype.element_ty)
        tl.store(out + bag * width + columns, total, mask=inside)

    @triton.jit
    def backward_kernel(
        upstream, upstream_stride, row_of, bag_of, out, lookups, rows, width, ACC: tl.constexpr, BLOCK: tl.constexpr
    ):
        """A program per sorted lookup: the first one of a row sums the row's gradient. row_of and bag_of are sorted."""
        p = tl.program_id(0).to(tl.int64)
        columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = columns < width
        row = tl.load(row_of + p)
        before = tl.load(row_of + p - 1, mask=p > 0, other=-1)
        if (row != before) & (row >= 0) & (row < rows):
            total = tl.zeros((BLOCK,), ACC)
            current = row
            while current == row:
                gradient = upstream + tl.load(bag_of + p) * upstream_stride + columns
                total += tl.load(gradient, mask=inside, other=0.0).to(ACC)
                p += 1
                current = tl.load(row_of + p, mask=p < lookups, other=-1)
            tl.store(out + row * width + columns, total.to(out.dtype.element_ty), mask=inside)

    def _launch_options(weight: Tensor) -> dict[str, Any]:
        acc = tl.float64 if weight.dtype == torch.float64 else tl.float32
        return {"ACC": acc, "BLOCK": min(1024, triton.next_power_of_2(weight.shape[1])), "num_warps": 1}

    def _triton_forward(weight: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
        if weight.stride(1) != 1:
            weight = weight.contiguous()
        (rows, width), bags = weight.shape, offsets.shape[0] - 1
        out = weight.new_empty(bags, width)
        if out.numel():
            options = _launch_options(weight)
            at_once = max(1, min(8, 1024 // options["BLOCK"]))
            forward_kernel[(bags, triton.cdiv(width, options["BLOCK"]))](
                weight, weight.stride(0), rows, indices.contiguous(), offsets.contiguous(), out, indices.shape[0],
                width, AT_ONCE=at_once, **options,
            )  # fmt: skip
        return out

    def _triton_backward(upstream: Tensor, indices: Tensor, offsets: Tensor, rows: int) -> Tensor:
        if upstream.stride(1) != 1:
            upstream = upstream.contiguous()
        width, lookups = upstream.shape[1], indices.shape[0]
        out = upstream.new_zeros(rows, width)
        if lookups and width:
            row_of, order = indices.sort(stable=True)
            options = _launch_options(upstream)
            backward_kernel[(lookups, triton.cdiv(width, options["BLOCK"]))](
                upstream, upstream.stride(0), row_of, bag_of_lookup(indices, offsets)[order], out, lookups, rows, width,
                **options,
            )  # fmt: skip
        return out

    native.raw_op(
        "embedding_bag_triton_forward(Tensor weight, Tensor indices, Tensor offsets) -> Tensor",
        _triton_forward,
        lambda weight, indices, offsets: weight.new_empty(offsets.shape[0] - 1, weight.shape[1]),
    )
    native.raw_op(
        "embedding_bag_triton_backward(Tensor upstream, Tensor indices, Tensor offsets, SymInt rows) -> Tensor",
        _triton_backward,
        lambda upstream, indices, offsets, rows: upstream.new_empty(rows, upstream.shape[1]),
    )


OP = Op(
    name="embedding_bag",
    reference=reference,
    defaults={},
    cost=cost,
    cases=cases,
    case_of=case_of,
    inputs=inputs,
    differentiable=("weight",),
    scales=scales,
    implementations=[
        native.eager(_eager),
        native.compiled(_eager),
        native.cpp(_cpp),
        native.in_triton(_triton),
    ],
    any_case=any_case,
)
