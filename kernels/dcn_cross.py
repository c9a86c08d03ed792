"""Cross layer of DCNv2 in its low-rank form.

    p = x v^T,  q = p u^T                               matrix products, by torch
    y = x0 (q + bias) + x                               one pass over the elements

    backward, with upstream g:
    grad_x0 = g (q + bias),  grad_q = g x0,
    grad_bias = sum of grad_q over the rows             one pass over the elements
    grad_p = grad_q u,  grad_x = g + grad_p v,
    grad_u = grad_q^T p,  grad_v = grad_p^T x           matrix products

Wang et al. 2021 (arXiv 2008.13535), section 3.3; MLPerf's DLRMv2 has three such layers of width 3456 and rank 512.
There the products decide the time: fusing pays where the rank is small.
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


def dcn_cross(x0: Tensor, x: Tensor, v: Tensor, u: Tensor, bias: Tensor) -> Tensor:
    """x0 (u (v x) + bias) + x for every row, by the chosen implementation (perfsuite.kernels.contract.select).

    x0: the first layer's input, x: this layer's, both (rows, width); v: (rank, width), u: (width, rank), bias:
    (width,); all float32, bfloat16, float16 or float64 and of one dtype, any strides. Under autocast x0 and x may have
    another dtype than v, u and bias, and the products are taken in autocast's.
    Returns (rows, width) in the dtype of x0. Differentiable once in all five (eager: twice).
    Raises ValueError for arguments of other shapes and dtypes.
    """
    shapes = [tuple(tensor.shape) for tensor in (x0, x, v, u, bias)]
    rank = v.shape[0] if v.dim() == 2 else 0
    width = x0.shape[-1] if x0.dim() == 2 else 0
    if x0.dim() != 2 or shapes[1:] != [shapes[0], (rank, width), (width, rank), (width,)]:
        raise ValueError(
            "dcn_cross: x0 and x must be (rows, width), v (rank, width), u (width, rank) and bias (width,), "
            f"got {', '.join(map(str, shapes))}"
        )
    dtypes = [tensor.dtype for tensor in (x0, x, v, u, bias)]
    same = len(set(dtypes)) == 1 or (_lower(x0) and len(set(dtypes[:2])) == len(set(dtypes[2:])) == 1)
    if not same or not all(dtype.is_floating_point for dtype in dtypes):
        raise ValueError(
            f"dcn_cross: all tensors must be floating-point of one dtype, got {', '.join(map(str, dtypes))}"
        )
    return OP(x0, x, v, u, bias)


def _lower(x0: Tensor) -> torch.dtype | None:
    """What autocast wants products to be taken in."""
    device = x0.device.type
    cast = torch.is_autocast_enabled(device) and x0.dtype != torch.float64
    return torch.get_autocast_dtype(device) if cast else None


def reference(x0: Tensor, x: Tensor, v: Tensor, u: Tensor, bias: Tensor) -> Tensor:
    """The formula in plain torch; half precision is computed in float32."""
    compute = torch.float64 if x0.dtype == torch.float64 else torch.float32
    wide_x = x.to(compute)
    q = wide_x @ v.to(compute).T @ u.to(compute).T
    return (x0.to(compute) * (q + bias.to(compute)) + wide_x).to(x0.dtype)


# -- cost and cases ---------------------------------------------------------------------------------------------------


def cost(case: Case) -> Cost:
    """x0 and x are read, y is written. Backward: x0, x and g are read, grad_x0 and grad_x written. The weights once
    each way and their gradients.

    Two products of 2 rows width rank flops, in the backward four; per element add, multiply, add, in the backward add,
    two multiplications and two additions.
    """
    rows, width, rank = (case.shape[name] for name in ("rows", "width", "rank"))
    matrix, weights = rows * width, 2 * rank * width + width
    passes, elements, products = (8, 8, 6) if case.gradient else (3, 3, 2)
    moved = passes * matrix + (3 if case.gradient else 1) * weights
    return Cost(
        bytes=getattr(torch, case.dtype).itemsize * moved,
        flops=2 * products * matrix * rank + elements * matrix,
    )


def _case(rows: int, width: int, rank: int, dtype: str = "float32", draw: dict[str, Any] | None = None) -> Case:
    return Case(dtype, {"rows": rows, "width": width, "rank": rank}, {}, draw or {})


def cases(scale: str) -> list[Case]:
    """ "gpu" begins with DLRMv2's layer; the ranks of "cpu" show how the products take over."""
    if scale == "cpu":
        return [_case(2048, 1024, 64), _case(2048, 1024, 16), _case(2048, 512, 64), _case(777, 431, 8)]
    if scale in ("gpu", "code"):
        shapes = [(8192, 3456, 512), (65536, 1024, 64), (4093, 1000, 32)]
        return [
            _case(16 if scale == "code" else rows, width, rank, dtype)
            for rows, width, rank in shapes
            for dtype in ("bfloat16", "float32")
        ]
    if scale != "tiny":
        raise ValueError(f"dcn_cross has cases for the scales tiny, cpu, gpu and code, not {scale!r}")
    return [
        _case(40, 64, 8),
        _case(130, 33, 5),
        _case(1, 1, 1),
        _case(0, 8, 4),
        _case(3, 1030, 3),
        _case(70, 20, 4, draw={"layout": "padded rows"}),
        _case(30, 20, 4, draw={"layout": "every second"}),
        _case(30, 20, 4, draw={"layout": "transposed"}),
        _case(9, 20, 4, draw={"values": "infinite"}),
        _case(9, 20, 4, draw={"values": "nan"}),
        _case(40, 64, 16, "bfloat16"),
        _case(70, 31, 4, "bfloat16", draw={"layout": "padded rows"}),
        _case(40, 48, 8, "float16"),
        _case(40, 21, 5, "float64"),
    ]


def any_case() -> Any:
    """Small cases of any shape, stride and dtype."""
    from hypothesis import strategies as st

    return st.builds(
        lambda rows, width, rank, dtype, layout: _case(rows, width, rank, dtype, {"layout": layout}),
        st.integers(0, 80), st.integers(1, 70), st.integers(1, 9),
        st.sampled_from(["float32", "bfloat16", "float16", "float64"]),
        st.sampled_from([None, "padded rows", "every second", "transposed"]),
    )  # fmt: skip


def case_of(x0: Tensor, x: Tensor, v: Tensor, u: Tensor, bias: Tensor) -> Case:
    """The case that a call is, for its cost."""
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x0, x, v, u, bias))
    shape = {"rows": x0.shape[0], "width": x0.shape[1], "rank": v.shape[0]}
    return Case(str(x0.dtype).removeprefix("torch."), shape, gradient=wanted)


def inputs(case: Case, device: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh features and weights of one call; the weights are small enough to keep the size of the features.

    case.draw: layout of x0 and x ("padded rows", "every second" column, "transposed") and values ("infinite", "nan":
    one element of x0 is).
    """
    rows, width, rank = (case.shape[name] for name in ("rows", "width", "rank"))
    layout = case.draw.get("layout")

    def normal(*shape: int, size: float = 1.0) -> Tensor:
        return (size * torch.randn(*shape, generator=generator)).to(getattr(torch, case.dtype)).to(device)

    def features() -> Tensor:
        if layout == "transposed":
            return normal(width, rows).T
        if layout == "every second":
            return normal(rows, 2 * width)[:, ::2]
        return normal(rows, width + 3)[:, :width] if layout == "padded rows" else normal(rows, width)

    x0, x = features(), features()
    if case.draw.get("values"):
        x0[2, width // 2] = torch.nan if case.draw["values"] == "nan" else torch.inf
    v, u = normal(rank, width, size=width**-0.5), normal(width, rank, size=rank**-0.5)
    return {"x0": x0, "x": x, "v": v, "u": u, "bias": normal(width, size=0.1)}


def scales(tensors: dict[str, Tensor], _options: dict[str, Any], upstream: Tensor) -> dict[str, Tensor]:
    """Each product of matrices passes through values as large as it ends, or as a walk of as many terms of random
    signs, and hands on the error of its first factor, which counts as large as its own scale."""
    x0, x, v, u, bias = (tensors[name] for name in ("x0", "x", "v", "u", "bias"))

    def product(a: Tensor, b: Tensor) -> Tensor:
        return (a.square() @ b.square()).sqrt()

    p = torch.maximum(product(x, v.T), (x @ v.T).abs())
    q = torch.maximum(torch.maximum(product(p, u.T), (x @ v.T @ u.T).abs()), bias.abs())
    of_q = upstream * x0
    of_p = torch.maximum(product(of_q, u), (of_q @ u).abs())
    return {
        "output": torch.maximum(x0.abs() * q, x.abs()),
        "grad_x0": upstream.abs() * q,
        "grad_x": torch.maximum(product(of_p, v), upstream.abs()),
        "grad_v": torch.maximum(product(of_p.T, x), ((of_q @ u).T @ x).abs()),
        "grad_u": torch.maximum(product(of_q.T, p), (of_q.T @ (x @ v.T)).abs()),
        "grad_bias": torch.maximum(of_q.square().sum(0).sqrt(), of_q.sum(0).abs()),
    }


# -- eager ------------------------------------------------------------------------------------------------------------


def _eager(x0: Tensor, x: Tensor, v: Tensor, u: Tensor, bias: Tensor) -> Tensor:
    return torch.addcmul(x, x0, F.linear(F.linear(x, v), u, bias))


# -- cpp (csrc/ops/cpu/dcn_cross.h) and triton: raw operators under one autograd function -----------------------------


class _DcnCross(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, implementation: str, x0: Tensor, x: Tensor, v: Tensor, u: Tensor, bias: Tensor) -> Tensor:
        forward = getattr(torch.ops.perfsuite, f"dcn_cross_{implementation}_forward")
        y, p, q = forward(x0, x, v, u, bias)
        ctx.save_for_backward(x0, x, p, q, v, u, bias)
        ctx.implementation = implementation
        return y

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        native.refuse_second_derivative("dcn_cross", ctx.implementation)
        backward = getattr(torch.ops.perfsuite, f"dcn_cross_{ctx.implementation}_backward")
        return None, *backward(upstream, *ctx.saved_tensors)


def _run(implementation: str, x0: Tensor, x: Tensor, v: Tensor, u: Tensor, bias: Tensor) -> Tensor:
    lower = _lower(x0)
    if lower:
        v, u, bias = v.to(lower), u.to(lower), bias.to(x0.dtype)
    tensors = (x0, x, v, u, bias)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return _DcnCross.apply(implementation, *tensors)
    return getattr(torch.ops.perfsuite, f"dcn_cross_{implementation}_forward")(*tensors)[0]


def _cpp(x0: Tensor, x: Tensor, v: Tensor, u: Tensor, bias: Tensor) -> Tensor:
    return _run("cpp", x0, x, v, u, bias)


def _triton(x0: Tensor, x: Tensor, v: Tensor, u: Tensor, bias: Tensor) -> Tensor:
    return _run("triton", x0, x, v, u, bias)


if triton is not None:

    @triton.jit
    def forward_kernel(
        x0, x0_stride, x, x_stride, q, bias, y, rows, width, ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
    ):
        """A program per ROWS x BLOCK elements of y."""
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
        mask = (row < rows) & (column < width)
        b = tl.load(bias + column, mask=column < width, other=0.0).to(ACC)
        left = tl.load(x0 + row * x0_stride + column, mask=mask, other=0.0).to(ACC)
        inner = tl.load(q + row * width + column, mask=mask, other=0.0).to(ACC) + b
        result = left * inner + tl.load(x + row * x_stride + column, mask=mask, other=0.0).to(ACC)
        tl.store(y + row * width + column, result.to(y.dtype.element_ty), mask=mask)

    @triton.jit
    def backward_kernel(
        upstream, upstream_stride, x0, x0_stride, q, bias, grad_x0, grad_q, bias_sums, rows, width, rows_per_program,
        ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """A program per rows_per_program rows and BLOCK columns; it leaves one row of sums for the bias."""
        part = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
        inside = column < width
        b = tl.load(bias + column, mask=inside, other=0.0).to(ACC)
        total = tl.zeros((ROWS, BLOCK), ACC)
        first = part * rows_per_program
        for start in range(0, rows_per_program, ROWS):
            row = first + start + tl.arange(0, ROWS)[:, None]
            mask = (row < rows) & (row < first + rows_per_program) & inside
            at = row * width + column
            g = tl.load(upstream + row * upstream_stride + column, mask=mask, other=0.0).to(ACC)
            of_q = g * tl.load(x0 + row * x0_stride + column, mask=mask, other=0.0).to(ACC)
            of_x0 = g * (tl.load(q + at, mask=mask, other=0.0).to(ACC) + b)
            tl.store(grad_q + at, of_q.to(grad_q.dtype.element_ty), mask=mask)
            tl.store(grad_x0 + at, of_x0.to(grad_x0.dtype.element_ty), mask=mask)
            total += of_q
        sums = tl.sum(total, 0, keep_dims=True)
        tl.store(bias_sums + part * width + column, sums, mask=inside)

    def _launch_options(x0: Tensor) -> dict[str, Any]:
        block = min(1024, max(16, triton.next_power_of_2(x0.shape[1])))
        acc = tl.float64 if x0.dtype == torch.float64 else tl.float32
        return {"ACC": acc, "ROWS": max(1, 2048 // block), "BLOCK": block, "num_warps": 4}

    def _adjacent(x: Tensor) -> Tensor:
        return x if x.stride(-1) == 1 else x.contiguous()

    def _triton_forward(x0: Tensor, x: Tensor, v: Tensor, u: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y, p and q, the last two in the dtype of v and u."""
        x0, x = _adjacent(x0), _adjacent(x)
        with torch.autocast(x0.device.type, enabled=False):
            p = torch.mm(x.to(v.dtype), v.T)
            q = torch.mm(p, u.T)
        (rows, width), y = x0.shape, x0.new_empty(x0.shape)
        if y.numel():
            options = _launch_options(x0)
            forward_kernel[(triton.cdiv(rows, options["ROWS"]), triton.cdiv(width, options["BLOCK"]))](
                x0, x0.stride(0), x, x.stride(0), q, bias.contiguous(), y, rows, width, **options
            )
        return y, p, q

    def _triton_backward(
        upstream: Tensor, x0: Tensor, x: Tensor, p: Tensor, q: Tensor, v: Tensor, u: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Gradients of x0, x, v, u and bias."""
        upstream, x0 = _adjacent(upstream), _adjacent(x0)
        (rows, width), options = x0.shape, _launch_options(x0)
        columns = triton.cdiv(width, options["BLOCK"])
        # Eight programs a multiprocessor, but at least eight tiles of rows each.
        processors = torch.cuda.get_device_properties(x0.device).multi_processor_count if x0.is_cuda else 132
        per_program = max(8 * options["ROWS"], triton.cdiv(rows * columns, 8 * processors))
        parts = triton.cdiv(rows, per_program)
        grad_x0, grad_q = x0.new_empty(x0.shape), torch.empty_like(q)
        bias_sums = x0.new_empty(parts, width, dtype=torch.float64 if x0.dtype == torch.float64 else torch.float32)
        if grad_x0.numel():
            backward_kernel[(parts, columns)](
                upstream, upstream.stride(0), x0, x0.stride(0), q, bias.contiguous(), grad_x0, grad_q, bias_sums, rows,
                width, per_program, **options,
            )  # fmt: skip
        with torch.autocast(x0.device.type, enabled=False):
            grad_p = torch.mm(grad_q, u)
            if v.dtype == upstream.dtype:
                grad_x = torch.addmm(upstream, grad_p, v)
            else:
                grad_x = upstream + torch.mm(grad_p, v)
            grad_v, grad_u = torch.mm(grad_p.T, x.to(v.dtype)), torch.mm(grad_q.T, p)
        return grad_x0, grad_x, grad_v, grad_u, bias_sums.sum(0).to(bias.dtype)

    native.raw_op(
        "dcn_cross_triton_forward(Tensor x0, Tensor x, Tensor v, Tensor u, Tensor bias) -> (Tensor, Tensor, Tensor)",
        _triton_forward,
        lambda x0, x, v, u, bias: (
            x0.new_empty(x0.shape), v.new_empty(x0.shape[0], v.shape[0]), v.new_empty(x0.shape)
        ),
    )  # fmt: skip
    native.raw_op(
        "dcn_cross_triton_backward(Tensor upstream, Tensor x0, Tensor x, Tensor p, Tensor q, Tensor v, Tensor u, "
        "Tensor bias) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
        _triton_backward,
        lambda upstream, x0, x, p, q, v, u, bias: tuple(t.new_empty(t.shape) for t in (x0, x, v, u, bias)),
    )


OP = Op(
    name="dcn_cross",
    reference=reference,
    defaults={},
    cost=cost,
    cases=cases,
    case_of=case_of,
    inputs=inputs,
    differentiable=("x0", "x", "v", "u", "bias"),
    scales=scales,
    implementations=[
        native.eager(_eager),
        native.compiled(_eager),
        native.cpp(_cpp),
        native.in_triton(_triton),
    ],
    any_case=any_case,
)
