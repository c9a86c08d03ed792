"""Dot products of every pair of features of a sample: DLRM's feature interaction.

    x = dense and the sparse features below it: (samples, F + 1, width)
    z_ij = sum_d x_id x_jd for j < i, in the order of torch.tril_indices(F + 1, F + 1, -1): z_10, z_20, z_21, ...
    output = dense, then z
    gradient of x_i = sum_j s_ij x_j, s symmetric with the upstream gradient of z_ij; for dense also that of its copy

Naumov et al. 2019 (arXiv 1906.00091), section 2.1.3.
"""

from functools import cache
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


def dot_interaction(dense: Tensor, sparse: Tensor) -> Tensor:
    """dense and the dot products of all pairs of features, by the chosen implementation (contract.select).

    dense: (samples, width), sparse: (samples, F, width), both float32, bfloat16, float16 or float64, any strides.
    Returns (samples, width + F (F + 1) / 2) in their dtype. Sums are taken in float32 (float64 for float64); on a GPU
    float32 products are exact, not TF32. Differentiable once in both (eager: twice). An infinite feature has gradients
    that are infinite or NaN where eager's, which multiplies by the zeros of the other triangle, are NaN.
    Raises ValueError for other shapes and dtypes, and where triton is chosen for F of more than 127.
    """
    fits = dense.dim() == 2 and sparse.dim() == 3 and dense.shape == (sparse.shape[0], sparse.shape[2])
    if not fits:
        raise ValueError(
            "dot_interaction: dense must be (samples, width) and sparse (samples, features, width), "
            f"got {tuple(dense.shape)} and {tuple(sparse.shape)}"
        )
    if not dense.dtype.is_floating_point or dense.dtype != sparse.dtype:
        raise ValueError(
            "dot_interaction: dense and sparse must be floating-point of the same dtype, "
            f"got {dense.dtype} and {sparse.dtype}"
        )
    return OP(dense, sparse)


def reference(dense: Tensor, sparse: Tensor) -> Tensor:
    """The formula in plain torch; half precision is computed in float32."""
    compute = torch.float64 if dense.dtype == torch.float64 else torch.float32
    x = torch.cat([dense[:, None], sparse], 1).to(compute)
    i, j = torch.tril_indices(x.shape[1], x.shape[1], -1, device=x.device)
    return torch.cat([dense, torch.bmm(x, x.transpose(1, 2))[:, i, j].to(dense.dtype)], 1)


# -- cost and cases ---------------------------------------------------------------------------------------------------


def cost(case: Case) -> Cost:
    """Features are read once, the output is written. Backward: features and upstream are read, gradients are written.

    A multiplication and an addition per pair and element; two of each for the gradients.
    """
    samples, others, width = (case.shape[name] for name in ("samples", "features", "width"))
    size, pairs = getattr(torch, case.dtype).itemsize, others * (others + 1) // 2
    inside, outside = samples * (others + 1) * width, samples * (width + pairs)
    passes = 3 if case.gradient else 1
    return Cost(
        bytes=size * (passes * inside + (2 if case.gradient else 1) * outside),
        flops=2 * passes * samples * pairs * width,
    )


def _case(samples: int, features: int, width: int, dtype: str = "float32", draw: dict[str, Any] | None = None) -> Case:
    """features: the sparse ones."""
    return Case(dtype, {"samples": samples, "features": features, "width": width}, {}, draw or {})


def cases(scale: str) -> list[Case]:
    """26 sparse features of width 128 are MLPerf's DLRM; of width 64, a smaller one."""
    if scale == "cpu":
        return [_case(2048, 26, 128), _case(2048, 26, 64), _case(513, 26, 16), _case(777, 13, 33)]
    if scale in ("gpu", "code"):
        shapes = [(8192, 26, 128), (65536, 26, 128), (8192, 26, 64), (4093, 30, 96)]
        return [
            _case(4 if scale == "code" else samples, features, width, dtype)
            for samples, features, width in shapes
            for dtype in ("bfloat16", "float32")
        ]
    if scale != "tiny":
        raise ValueError(f"dot_interaction has cases for the scales tiny, cpu, gpu and code, not {scale!r}")
    return [
        _case(5, 26, 128),
        _case(3, 26, 64),
        _case(1, 1, 1),
        _case(4, 0, 9),
        _case(0, 5, 8),
        _case(7, 3, 33),
        _case(3, 16, 47),
        _case(6, 7, 20, draw={"layout": "padded rows"}),
        _case(6, 7, 20, draw={"layout": "every second"}),
        _case(6, 7, 20, draw={"layout": "transposed"}),
        _case(4, 5, 19, draw={"values": "nan"}),
        _case(4, 26, 128, "bfloat16"),
        _case(5, 6, 31, "bfloat16", draw={"layout": "padded rows"}),
        _case(4, 10, 40, "float16"),
        _case(3, 9, 21, "float64"),
    ]


def any_case() -> Any:
    """Small cases of any shape, stride and dtype."""
    from hypothesis import strategies as st

    return st.builds(
        lambda samples, features, width, dtype, layout: _case(samples, features, width, dtype, {"layout": layout}),
        st.integers(0, 4), st.integers(0, 12), st.integers(1, 70),
        st.sampled_from(["float32", "bfloat16", "float16", "float64"]),
        st.sampled_from([None, "padded rows", "every second", "transposed"]),
    )  # fmt: skip


def case_of(dense: Tensor, sparse: Tensor) -> Case:
    """The case that a call is, for its cost."""
    wanted = torch.is_grad_enabled() and (dense.requires_grad or sparse.requires_grad)
    shape = {"samples": dense.shape[0], "features": sparse.shape[1], "width": dense.shape[1]}
    return Case(str(dense.dtype).removeprefix("torch."), shape, gradient=wanted)


def inputs(case: Case, device: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh features of one call, of size 0.3 or so, as embeddings and the bottom network give them.

    case.draw: layout ("padded rows", "every second" element, "transposed": features before samples) and values ("nan":
    one element of a sparse feature is).
    """
    samples, others, width = (case.shape[name] for name in ("samples", "features", "width"))
    layout = case.draw.get("layout")

    def normal(*shape: int) -> Tensor:
        return (0.3 * torch.randn(*shape, generator=generator)).to(getattr(torch, case.dtype)).to(device)

    if layout == "padded rows":
        dense, sparse = (
            normal(samples, width + 3)[:, :width],
            normal(samples, others + 2, width + 5)[:, :others, :width],
        )
    elif layout == "every second":
        dense, sparse = normal(samples, 2 * width)[:, ::2], normal(samples, others, 2 * width)[:, :, ::2]
    elif layout == "transposed":
        dense, sparse = normal(width, samples).T, normal(others, samples, width).transpose(0, 1)
    else:
        dense, sparse = normal(samples, width), normal(samples, others, width)
    if case.draw.get("values") == "nan":
        sparse[0, 1, width // 2] = torch.nan
    return {"dense": dense, "sparse": sparse}


def scales(tensors: dict[str, Tensor], _options: dict[str, Any], upstream: Tensor) -> dict[str, Tensor]:
    """A dot product passes through values as large as it ends, or as a walk of as many terms of random signs."""
    dense, sparse = tensors["dense"], tensors["sparse"]
    x = torch.cat([dense[:, None], sparse], 1)
    i, j = torch.tril_indices(x.shape[1], x.shape[1], -1)
    s = x.new_zeros(x.shape[0], x.shape[1], x.shape[1])
    s[:, i, j] = s[:, j, i] = upstream[:, dense.shape[1] :]

    def product(a: Tensor, b: Tensor) -> Tensor:
        return torch.maximum(torch.bmm(a, b).abs(), torch.bmm(a.square(), b.square()).sqrt())

    gradient = product(s, x)
    gradient[:, 0] = torch.maximum(gradient[:, 0], upstream[:, : dense.shape[1]].abs())
    return {
        "output": torch.cat([dense.abs(), product(x, x.transpose(1, 2))[:, i, j]], 1),
        "grad_dense": gradient[:, 0],
        "grad_sparse": gradient[:, 1:],
    }


# -- eager ------------------------------------------------------------------------------------------------------------


@cache
def _flat_pairs(rows: int, device: torch.device) -> Tensor:
    i, j = torch.tril_indices(rows, rows, -1, device=device)
    return i * rows + j


def _eager(dense: Tensor, sparse: Tensor) -> Tensor:
    """By index_select from the flat products: faster than [:, i, j]."""
    x = torch.cat([dense[:, None], sparse], 1)
    z = torch.bmm(x, x.transpose(1, 2)).flatten(1)
    return torch.cat([dense, z.index_select(1, _flat_pairs(x.shape[1], x.device))], 1)


# -- cpp (csrc/ops/cpu/dot_interaction.h) and triton: raw operators under one autograd function -----------------------


class _DotInteraction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, implementation: str, dense: Tensor, sparse: Tensor) -> Tensor:
        ctx.save_for_backward(dense, sparse)
        ctx.implementation = implementation
        return getattr(torch.ops.perfsuite, f"dot_interaction_{implementation}_forward")(dense, sparse)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        native.refuse_second_derivative("dot_interaction", ctx.implementation)
        backward = getattr(torch.ops.perfsuite, f"dot_interaction_{ctx.implementation}_backward")
        return None, *backward(upstream, *ctx.saved_tensors)


def _run(implementation: str, dense: Tensor, sparse: Tensor) -> Tensor:
    if torch.is_grad_enabled() and (dense.requires_grad or sparse.requires_grad):
        return _DotInteraction.apply(implementation, dense, sparse)
    return getattr(torch.ops.perfsuite, f"dot_interaction_{implementation}_forward")(dense, sparse)


def _cpp(dense: Tensor, sparse: Tensor) -> Tensor:
    return _run("cpp", dense, sparse)


def _triton(dense: Tensor, sparse: Tensor) -> Tensor:
    return _run("triton", dense, sparse)


MOST_FEATURES = 128  # of one program; more do not fit its registers

if triton is not None:

    @triton.jit
    def _load_features(
        dense, sparse, row_stride, features, width, start, ROWS: tl.constexpr, BLOCK: tl.constexpr
    ):  # fmt: skip
        """(ROWS, BLOCK) of one sample from column start on: dense, then the sparse features, then zeros."""
        row = tl.arange(0, ROWS)[:, None]
        column = start + tl.arange(0, BLOCK)[None, :]
        inside = column < width
        others = tl.load(
            sparse + (row - 1) * row_stride + column, mask=(row > 0) & (row < features) & inside, other=0.0
        )
        return tl.where(row == 0, tl.load(dense + column, mask=inside, other=0.0), others)

    @triton.jit
    def forward_kernel(
        dense, dense_stride, sparse, sample_stride, row_stride, out, features, width,
        ACC: tl.constexpr, OPERAND: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """A program per sample: all products at once, of which the lower triangle is written. OPERAND: see operand."""
        sample = tl.program_id(0).to(tl.int64)  # all samples' features may need more than 32 bits
        dense += sample * dense_stride
        sparse += sample * sample_stride
        out += sample * (width + features * (features - 1) // 2)
        z = tl.zeros((ROWS, ROWS), ACC)
        for start in range(0, width, BLOCK):
            x = _load_features(dense, sparse, row_stride, features, width, start, ROWS, BLOCK).to(OPERAND)
            z = tl.dot(x, tl.trans(x), z, input_precision="ieee", out_dtype=ACC)
            column = start + tl.arange(0, BLOCK)
            copied = tl.load(dense + column, mask=column < width)
            tl.store(out + column, copied, mask=column < width)
        i = tl.arange(0, ROWS)[:, None]
        j = tl.arange(0, ROWS)[None, :]
        tl.store(out + width + i * (i - 1) // 2 + j, z.to(out.dtype.element_ty), mask=(j < i) & (i < features))

    @triton.jit
    def backward_kernel(
        upstream, upstream_stride, dense, dense_stride, sparse, sample_stride, row_stride, grad_dense, grad_sparse,
        features, width, ACC: tl.constexpr, OPERAND: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """A program per sample: the symmetric matrix of upstream gradients times the features."""
        sample = tl.program_id(0).to(tl.int64)
        dense += sample * dense_stride
        sparse += sample * sample_stride
        upstream += sample * upstream_stride
        i = tl.arange(0, ROWS)[:, None]
        j = tl.arange(0, ROWS)[None, :]
        high, low = tl.maximum(i, j), tl.minimum(i, j)
        pair = upstream + width + high * (high - 1) // 2 + low
        s = tl.load(pair, mask=(high != low) & (high < features), other=0.0).to(OPERAND)
        for start in range(0, width, BLOCK):
            x = _load_features(dense, sparse, row_stride, features, width, start, ROWS, BLOCK).to(OPERAND)
            column = start + tl.arange(0, BLOCK)[None, :]
            inside = column < width
            of_copy = tl.load(upstream + column, mask=inside, other=0.0).to(ACC)
            gradient = tl.where(i == 0, of_copy, tl.zeros((ROWS, BLOCK), ACC))
            gradient = tl.dot(s, x, gradient, input_precision="ieee", out_dtype=ACC).to(grad_dense.dtype.element_ty)
            tl.store(grad_dense + sample * width + column + i, gradient, mask=(i == 0) & inside)
            to = grad_sparse + sample * (features - 1) * width + (i - 1) * width + column
            tl.store(to, gradient, mask=(i > 0) & (i < features) & inside)

    def operand(dtype: torch.dtype) -> Any:
        """What products are taken of: the features as they are. (Triton's interpreter has no products of bfloat16.)"""
        return getattr(tl, str(dtype).removeprefix("torch."))

    def _launch_options(sparse: Tensor) -> dict[str, Any]:
        features, width = sparse.shape[1] + 1, sparse.shape[2]
        if features > MOST_FEATURES:
            raise ValueError(f"dot_interaction=triton: at most {MOST_FEATURES - 1} sparse features, got {features - 1}")
        rows = max(16, triton.next_power_of_2(features))
        block = max(16, min(128, triton.next_power_of_2(width)))
        acc = tl.float64 if sparse.dtype == torch.float64 else tl.float32
        sizes = {"ROWS": rows, "BLOCK": block, "num_warps": 4 if rows <= 32 else 8}
        return {"ACC": acc, "OPERAND": operand(sparse.dtype), **sizes}

    def _adjacent(x: Tensor) -> Tensor:
        return x if x.stride(-1) == 1 else x.contiguous()

    def _triton_forward(dense: Tensor, sparse: Tensor) -> Tensor:
        dense, sparse = _adjacent(dense), _adjacent(sparse)
        samples, others, width = sparse.shape
        out = dense.new_empty(samples, width + others * (others + 1) // 2)
        if out.numel():
            forward_kernel[(samples,)](
                dense, dense.stride(0), sparse, sparse.stride(0), sparse.stride(1), out, others + 1, width,
                **_launch_options(sparse),
            )  # fmt: skip
        return out

    def _triton_backward(upstream: Tensor, dense: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
        upstream, dense, sparse = _adjacent(upstream), _adjacent(dense), _adjacent(sparse)
        samples, others, width = sparse.shape
        grad_dense, grad_sparse = dense.new_empty(dense.shape), sparse.new_empty(sparse.shape)
        if grad_dense.numel():
            backward_kernel[(samples,)](
                upstream, upstream.stride(0), dense, dense.stride(0), sparse, sparse.stride(0), sparse.stride(1),
                grad_dense, grad_sparse, others + 1, width, **_launch_options(sparse),
            )  # fmt: skip
        return grad_dense, grad_sparse

    native.raw_op(
        "dot_interaction_triton_forward(Tensor dense, Tensor sparse) -> Tensor",
        _triton_forward,
        lambda dense, sparse: dense.new_empty(
            dense.shape[0], dense.shape[1] + sparse.shape[1] * (sparse.shape[1] + 1) // 2
        ),
    )
    native.raw_op(
        "dot_interaction_triton_backward(Tensor upstream, Tensor dense, Tensor sparse) -> (Tensor, Tensor)",
        _triton_backward,
        lambda upstream, dense, sparse: (dense.new_empty(dense.shape), sparse.new_empty(sparse.shape)),
    )


OP = Op(
    name="dot_interaction",
    reference=reference,
    defaults={},
    cost=cost,
    cases=cases,
    case_of=case_of,
    inputs=inputs,
    differentiable=("dense", "sparse"),
    scales=scales,
    implementations=[
        native.eager(_eager),
        native.compiled(reference),
        native.cpp(_cpp),
        native.in_triton(_triton),
    ],
    any_case=any_case,
)
