"""Softmax over the last dimension.

    y_j  = exp(x_j - m) / sum_k exp(x_k - m), m = max_k x_k
    dx_j = y_j (upstream_j - sum_k upstream_k y_k)

The output is all that is kept for the backward. Masked elements are -inf; a row of nothing else is NaN, as in torch.
A control: torch's own softmax is at the limit of the memory already where a row fits into the caches.
"""

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


def softmax(x: Tensor, *, dim: int = -1) -> Tensor:
    """Softmax by the chosen implementation (perfsuite.kernels.contract.select).

    x: (..., width), float32, bfloat16, float16 or float64 (half precision is computed in float32), any strides.
    dim: the last one, -1 or x.dim() - 1. Returns x's shape and dtype; float32 where autocast on a GPU has torch do so.
    Differentiable in x; eager also twice. Raises ValueError for another dim, no dimensions and other dtypes.
    """
    if not x.dtype.is_floating_point:
        raise ValueError(f"softmax: x must be floating-point, got {x.dtype}")
    if x.dim() < 1 or dim not in (-1, x.dim() - 1):
        raise ValueError(f"softmax: dim must be the last dimension of x, got dim={dim} and x of {tuple(x.shape)}")
    return OP(x)


def reference(x: Tensor) -> Tensor:
    """The formula in plain torch; half precision is computed in float32."""
    if x.numel() == 0:
        return x.clone()
    acc = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    exponentials = torch.exp(acc - acc.amax(-1, keepdim=True).detach())
    return (exponentials / exponentials.sum(-1, keepdim=True)).to(_result_dtype(x))


def _result_dtype(x: Tensor) -> torch.dtype:
    """torch's autocast on a GPU computes softmax in float32 and leaves it so; on the CPU it does not touch it."""
    widens = x.is_cuda and torch.is_autocast_enabled("cuda") and x.dtype != torch.float64
    return torch.float32 if widens else x.dtype


# -- cost and cases ---------------------------------------------------------------------------------------------------


def cost(case: Case) -> Cost:
    """x is read, y is written; the backward reads y and the upstream gradient and writes the gradient.

    Flops: compare, subtract, exponential, add, divide; for the gradient multiply, add, subtract, multiply.
    """
    elements = case.shape["rows"] * case.shape["width"]
    size = getattr(torch, case.dtype).itemsize
    return Cost(bytes=(5 if case.gradient else 2) * elements * size, flops=(9 if case.gradient else 5) * elements)


def _case(rows: int, width: int, dtype: str = "float32", **draw: Any) -> Case:
    return Case(dtype, {"rows": rows, "width": width}, {}, draw)


def cases(scale: str) -> list[Case]:
    """Of scale "tiny", "cpu" (4096x128 is llama's attention), "gpu" or "code"."""
    if scale == "cpu":
        return [
            _case(8192, 1024),
            _case(4096, 128),
            _case(256, 32000),
            _case(4093, 333),
            _case(2048, 1024, layout="padded rows"),
        ]
    if scale == "gpu":
        return [
            _case(262144, 1024, "bfloat16"),
            _case(32768, 4096, "bfloat16"),
            _case(8192, 32000, "bfloat16"),
            _case(4096, 131072, "bfloat16"),
            _case(524288, 128, "bfloat16"),
            _case(4093, 5461, "bfloat16"),
            _case(8192, 1024),
        ]
    if scale == "code":
        return [_case(16, case.shape["width"], case.dtype) for case in cases("gpu")]
    if scale != "tiny":
        raise ValueError(f"softmax has cases for the scales tiny, cpu, gpu and code, not {scale!r}")
    return [
        _case(64, 128),
        _case(1, 1),
        _case(5, 1),
        _case(0, 7),
        _case(3, 0),
        _case(7, 33),
        _case(2, 5003),
        _case(13, 40, layout="transposed"),
        _case(13, 37, layout="every second"),
        _case(9, 65, layout="padded rows"),
        _case(8, 1040, values="large"),
        _case(12, 100, values="masked"),
        _case(12, 51, values="infinite"),
        _case(12, 50, values="nan"),
        _case(16, 200, "bfloat16"),
        _case(5, 1031, "bfloat16", values="masked"),
        _case(16, 200, "float16", values="infinite"),
        _case(5, 31, "float16", layout="transposed"),
        _case(6, 1100, "float64", values="masked"),
    ]


def any_case() -> Any:
    """Small cases of any shape, dtype, layout and values, as a hypothesis strategy."""
    from hypothesis import strategies as st

    return st.builds(
        lambda rows, width, dtype, layout, values: _case(
            rows, width, dtype, **({"layout": layout} if layout else {}), **({"values": values} if values else {})
        ),
        st.integers(0, 9), st.integers(0, 150), st.sampled_from(["float32", "bfloat16", "float16", "float64"]),
        st.sampled_from(["", "transposed", "every second", "padded rows"]), st.sampled_from(["", "large", "masked"]),
    )  # fmt: skip


def case_of(x: Tensor) -> Case:
    """The case that a call is, for its cost."""
    width = x.shape[-1]
    shape = {"rows": x.numel() // width if width else 0, "width": width}
    wanted = torch.is_grad_enabled() and x.requires_grad
    return Case(str(x.dtype).removeprefix("torch."), shape, gradient=wanted)


def inputs(case: Case, device: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh x of one call, (rows, width), normal with a spread of 1 to 4.

    case.draw: layout ("transposed", "every second", "padded rows") and values ("large": far from 0; "masked": -inf from
    a random column on, as a causal mask has it; "infinite": one row all -inf, one element +inf; "nan": one NaN).
    """
    rows, width = case.shape["rows"], case.shape["width"]
    layout, values = case.draw.get("layout"), case.draw.get("values")
    spread = 1.0 + 3.0 * torch.rand((), generator=generator).item()

    def normal(*shape: int) -> Tensor:
        drawn = spread * torch.randn(*shape, generator=generator, dtype=torch.float32)
        return drawn.to(device, getattr(torch, case.dtype))

    if layout == "transposed":
        x = normal(width, rows).T
    elif layout == "every second":
        x = normal(rows, 2 * width)[:, ::2]
    else:
        x = normal(rows, width + 3)[:, :width] if layout == "padded rows" else normal(rows, width)
    if values == "large":
        x.add_(3000.0)
    elif values == "masked" and width:
        kept = torch.randint(1, width + 1, (rows, 1), generator=generator)
        x.masked_fill_((torch.arange(width) >= kept).to(device), -torch.inf)
    elif values == "infinite":
        x[:, : width // 2] = -torch.inf
        x[1], x[2, 5] = -torch.inf, torch.inf
    elif values == "nan":
        x[2, width // 2] = torch.nan
    return {"x": x}


def scales(tensors: dict[str, Tensor], options: dict[str, Any], upstream: Tensor) -> dict[str, Tensor]:
    """In the output nothing cancels. In the gradient the upstream gradient and its mean over y do."""
    y = torch.softmax(tensors["x"], -1)
    mean = (upstream * y).abs().sum(-1, keepdim=True)
    return {"output": y, "grad_x": y * torch.maximum(upstream.abs(), mean)}


# -- eager ------------------------------------------------------------------------------------------------------------


def _eager(x: Tensor) -> Tensor:
    return torch.softmax(x, -1)


# -- autograd of cpp (csrc/ops/cpu/softmax.h) and triton --------------------------------------------------------------


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, implementation: str) -> Tensor:
        y = _raw(implementation, "forward")(x)
        ctx.save_for_backward(y)
        ctx.implementation = implementation
        return y

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        native.refuse_second_derivative("softmax", ctx.implementation)
        (y,) = ctx.saved_tensors
        return _raw(ctx.implementation, "backward")(upstream, y), None


def _raw(implementation: str, direction: str) -> Any:
    return getattr(torch.ops.perfsuite, f"softmax_{implementation}_{direction}").default


def _run(implementation: str) -> Any:
    def run(x: Tensor) -> Tensor:
        x = x.to(_result_dtype(x))
        if torch.is_grad_enabled() and x.requires_grad:
            return _Softmax.apply(x, implementation)
        return _raw(implementation, "forward")(x)

    return run


# -- triton -----------------------------------------------------------------------------------------------------------

# What is read of a row, at most so many bytes as it is computed, stays in registers; a longer row is read twice.
ONE_BLOCK_BYTES = 4 * 32768
LOOP_BLOCK = 8192
# Elements of the short rows that one program takes together.
TILE = 2048

if triton is not None:

    @triton.jit
    def forward_kernel(
        x, x_stride, y, rows, width,
        ACC: tl.constexpr, LOWEST: tl.constexpr, ONE_BLOCK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """A program per ROWS rows (one where a row is longer than BLOCK)."""
        first = tl.program_id(0).to(tl.int64) * ROWS  # rows times width may need more than 32 bits
        here = tl.arange(0, BLOCK)
        if ONE_BLOCK:
            row = first + tl.arange(0, ROWS)
            mask = (row < rows)[:, None] & (here < width)[None, :]
            values = tl.load(x + (row * x_stride)[:, None] + here[None, :], mask=mask, other=-float("inf")).to(ACC)
            exponentials = tl.exp(values - tl.max(values, 1)[:, None])
            result = exponentials * (1 / tl.sum(exponentials, 1))[:, None]
            tl.store(y + (row * width)[:, None] + here[None, :], result.to(y.dtype.element_ty), mask=mask)
        else:
            # The maximum starts at the lowest finite number: blocks of -inf shall add 0 and not NaN. A row of nothing
            # else ends as 0 / 0.
            m = tl.full((), LOWEST, ACC)
            s = tl.zeros((), ACC)
            x += first * x_stride
            for start in range(0, width, BLOCK):
                values = tl.load(x + start + here, mask=start + here < width, other=-float("inf")).to(ACC)
                larger = tl.maximum(m, tl.max(values, 0))
                s = s * tl.exp(m - larger) + tl.sum(tl.exp(values - larger), 0)
                m = larger
            factor = 1 / s
            y += first * width
            for start in range(0, width, BLOCK):
                mask = start + here < width
                values = tl.load(x + start + here, mask=mask, other=-float("inf")).to(ACC)
                tl.store(y + start + here, (tl.exp(values - m) * factor).to(y.dtype.element_ty), mask=mask)

    @triton.jit
    def backward_kernel(
        upstream, y, grad_x, rows, width,
        ACC: tl.constexpr, ONE_BLOCK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """A program per ROWS rows, all contiguous."""
        first = tl.program_id(0).to(tl.int64) * ROWS
        here = tl.arange(0, BLOCK)
        if ONE_BLOCK:
            row = first + tl.arange(0, ROWS)
            mask = (row < rows)[:, None] & (here < width)[None, :]
            place = (row * width)[:, None] + here[None, :]
            g = tl.load(upstream + place, mask=mask, other=0.0).to(ACC)
            p = tl.load(y + place, mask=mask, other=0.0).to(ACC)
            result = p * (g - tl.sum(g * p, 1)[:, None])
            tl.store(grad_x + place, result.to(grad_x.dtype.element_ty), mask=mask)
        else:
            sums = tl.zeros((BLOCK,), ACC)
            upstream += first * width
            y += first * width
            grad_x += first * width
            for start in range(0, width, BLOCK):
                mask = start + here < width
                g = tl.load(upstream + start + here, mask=mask, other=0.0).to(ACC)
                sums += g * tl.load(y + start + here, mask=mask, other=0.0).to(ACC)
            dot = tl.sum(sums, 0)
            for start in range(0, width, BLOCK):
                mask = start + here < width
                g = tl.load(upstream + start + here, mask=mask, other=0.0).to(ACC)
                p = tl.load(y + start + here, mask=mask, other=0.0).to(ACC)
                tl.store(grad_x + start + here, (p * (g - dot)).to(grad_x.dtype.element_ty), mask=mask)

    def launch_options(width: int, dtype: torch.dtype, tensors: int) -> dict[str, Any]:
        """Accumulator, block, rows to a program and warps, where so many tensors are read: 16 elements to a thread, 32
        of the longest rows."""
        wide = dtype == torch.float64
        one_block = tensors * width * (8 if wide else 4) <= ONE_BLOCK_BYTES
        block = max(16, triton.next_power_of_2(width)) if one_block else LOOP_BLOCK
        rows = max(1, TILE // block) if one_block else 1
        return {
            "ACC": tl.float64 if wide else tl.float32, "ONE_BLOCK": one_block, "ROWS": rows, "BLOCK": block,
            "num_warps": min(32, max(1, rows * block // 512)),
        }  # fmt: skip

    def _triton_forward(x: Tensor) -> Tensor:
        y = x.new_empty(x.shape)
        if x.numel():
            width = x.shape[-1]
            flat = x.reshape(x.numel() // width, width)
            flat = flat if flat.stride(1) == 1 else flat.contiguous()
            options = launch_options(width, x.dtype, 1)
            lowest = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32).min
            rows = flat.shape[0]
            forward_kernel[(triton.cdiv(rows, options["ROWS"]),)](
                flat, flat.stride(0), y, rows, width, LOWEST=lowest, **options
            )  # fmt: skip
        return y

    def _triton_backward(upstream: Tensor, y: Tensor) -> Tensor:
        grad_x = y.new_empty(y.shape)
        if y.numel():
            width = y.shape[-1]
            rows = y.numel() // width
            options = launch_options(width, y.dtype, 2)
            backward_kernel[(triton.cdiv(rows, options["ROWS"]),)](
                upstream.contiguous(), y.contiguous(), grad_x, rows, width, **options
            )  # fmt: skip
        return grad_x

    native.raw_op("softmax_triton_forward(Tensor x) -> Tensor", _triton_forward, lambda x: x.new_empty(x.shape))
    native.raw_op(
        "softmax_triton_backward(Tensor upstream, Tensor y) -> Tensor",
        _triton_backward,
        lambda upstream, y: y.new_empty(y.shape),
    )


OP = Op(
    name="softmax",
    reference=reference,
    defaults={},
    cost=cost,
    cases=cases,
    case_of=case_of,
    inputs=inputs,
    differentiable=("x",),
    scales=scales,
    implementations=[
        native.eager(_eager),
        native.compiled(_eager),
        native.cpp(_run("cpp")),
        native.in_triton(_run("triton")),
    ],
    any_case=any_case,
    row_wise=("x",),
)
