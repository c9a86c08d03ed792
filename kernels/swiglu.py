"""Gated linear units: act(gate) * up, with act silu (SwiGLU), gelu or gelu_tanh (GeGLU).

    silu       act(x) = x sigmoid(x)
    gelu       act(x) = x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2
    gelu_tanh  act(x) = x (1 + tanh u) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)

    dgate = upstream up act'(gate), dup = upstream act(gate)

The backward computes act again from gate: gate and up are all that is kept. Shazeer 2020 (arXiv 2002.05202); gelu:
Hendrycks and Gimpel 2016 (arXiv 1606.08415).
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

ACTIVATIONS = ("silu", "gelu", "gelu_tanh")


def swiglu(gate: Tensor, up: Tensor | None = None, *, activation: str = "silu") -> Tensor:
    """act(gate) * up by the chosen implementation (perfsuite.kernels.contract.select).

    gate, up: of one shape and dtype, float32, bfloat16, float16 or float64 (half precision is computed in float32), any
    strides; the halves of one tensor, as chunk(2, -1) gives them, are read where they lie. Without up, gate holds both,
    (..., 2 * hidden) with gate first, and its gradient is written as one tensor, which spares autograd putting two
    together. activation: "silu", "gelu" or "gelu_tanh". Returns the shape of up, (..., hidden), in the dtype of gate.
    Differentiable in gate and up; eager also twice. Raises ValueError for arguments of other shapes, dtypes and values.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"swiglu: activation must be silu, gelu or gelu_tanh, got {activation!r}")
    if not gate.dtype.is_floating_point:
        raise ValueError(f"swiglu: gate must be floating-point, got {gate.dtype}")
    if up is None:
        if gate.dim() < 1 or gate.shape[-1] % 2:
            raise ValueError(f"swiglu: without up, gate must be (..., 2 * hidden), got {tuple(gate.shape)}")
    elif gate.dim() < 1 or gate.shape != up.shape or gate.dtype != up.dtype:
        have = f"{gate.dtype} {tuple(gate.shape)} and {up.dtype} {tuple(up.shape)}"
        raise ValueError(f"swiglu: gate and up must be of one dtype and shape (..., hidden), got {have}")
    return OP(gate, up, activation=activation)


def reference(gate: Tensor, up: Tensor | None = None, *, activation: str) -> Tensor:
    """The formula in plain torch; half precision is computed in float32."""
    dtype = gate.dtype
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    x, y = gate.to(acc).chunk(2, -1) if up is None else (gate.to(acc), up.to(acc))
    if activation == "silu":
        value = x * _sigmoid(x)
    elif activation == "gelu":
        value = x * 0.5 * torch.erfc(x * -(0.5**0.5))
    else:
        value = x * _sigmoid(_twice_u(x))
    return (value * y).to(dtype)


def _sigmoid(x: Tensor) -> Tensor:
    """torch.sigmoid takes its derivative from 1 - sigmoid(x), which has lost its last digits where x is large."""
    decay = torch.exp(-x.where(x > 0, -x))
    return torch.where(x > 0, 1.0, decay) / (1 + decay)


def _twice_u(x: Tensor) -> Tensor:
    return (8 / torch.pi) ** 0.5 * (x + 0.044715 * x * x * x)


# -- cost and cases ---------------------------------------------------------------------------------------------------


def cost(case: Case) -> Cost:
    """gate and up are read, the output is written; the backward reads them and the upstream and writes two gradients.

    Flops, of silu: exponential, add, divide and two multiplications; as many again and five more for the gradients.
    """
    elements = case.shape["rows"] * case.shape["hidden"]
    size = getattr(torch, case.dtype).itemsize
    return Cost(bytes=(8 if case.gradient else 3) * elements * size, flops=(15 if case.gradient else 5) * elements)


def _case(rows: int, hidden: int, dtype: str = "float32", activation: str = "silu", **draw: Any) -> Case:
    options = {} if activation == "silu" else {"activation": activation}
    return Case(dtype, {"rows": rows, "hidden": hidden}, options, draw)


def cases(scale: str) -> list[Case]:
    """Of scale "tiny", "cpu" (1024x352 is llama's), "gpu" (65536x1408: llama's, 14336: Llama 3.1 8B's) or "code"."""
    if scale == "cpu":
        return [
            _case(4096, 2816),
            _case(1024, 352, packed=True),
            _case(1024, 352, layout="halves"),
            _case(4096, 1408, activation="gelu"),
            _case(4096, 1408, activation="gelu_tanh"),
            _case(1021, 1031),
        ]
    if scale == "gpu":
        return [
            _case(65536, 1408, "bfloat16", packed=True),
            _case(8192, 14336, "bfloat16", packed=True),
            _case(8192, 14336, "bfloat16"),
            _case(8192, 14336, "bfloat16", "gelu"),
            _case(8192, 14336, "bfloat16", "gelu_tanh"),
            _case(4093, 5461, "bfloat16", packed=True),
            _case(4096, 8192),
        ]
    if scale == "code":
        return [Case(case.dtype, {**case.shape, "rows": 16}, case.options, case.draw) for case in cases("gpu")]
    if scale != "tiny":
        raise ValueError(f"swiglu has cases for the scales tiny, cpu, gpu and code, not {scale!r}")
    return [
        _case(64, 352, packed=True),
        _case(33, 65),
        _case(1, 1),
        _case(0, 8),
        _case(5, 0, packed=True),
        _case(7, 1, activation="gelu", packed=True),
        _case(9, 100, activation="gelu", layout="halves"),
        _case(9, 100, activation="gelu_tanh", layout="transposed"),
        _case(13, 37, layout="every second"),
        _case(13, 37, activation="gelu", values="large"),
        _case(13, 37, activation="gelu_tanh", values="large", packed=True),
        _case(13, 37, values="large"),
        _case(12, 40, values="infinite"),
        _case(12, 40, activation="gelu", values="infinite"),
        _case(12, 40, activation="gelu_tanh", values="infinite"),
        _case(12, 40, values="nan", packed=True),
        _case(16, 200, "bfloat16", packed=True),
        _case(5, 31, "bfloat16", activation="gelu", layout="padded rows"),
        _case(16, 200, "float16", activation="gelu_tanh"),
        _case(5, 31, "float16", layout="halves"),
        _case(6, 70, "float64"),
        _case(6, 70, "float64", activation="gelu", packed=True),
        _case(6, 70, "float64", activation="gelu_tanh", layout="transposed"),
    ]


def any_case() -> Any:
    """Small cases of any shape, dtype, layout and activation, as a hypothesis strategy."""
    from hypothesis import strategies as st

    layouts = st.sampled_from(["", "halves", "transposed", "every second", "padded rows"])
    return st.builds(
        lambda rows, hidden, dtype, activation, packed, layout, values: _case(
            rows, hidden, dtype, activation,
            **({"packed": True} if packed else {}), **({"layout": layout} if layout else {}),
            **({"values": values} if values else {}),
        ),
        st.integers(0, 9), st.integers(0, 70), st.sampled_from(["float32", "bfloat16", "float16", "float64"]),
        st.sampled_from(ACTIVATIONS), st.booleans(), layouts, st.sampled_from(["", "", "large"]),
    )  # fmt: skip


def case_of(gate: Tensor, up: Tensor | None = None, *, activation: str) -> Case:
    """The case that a call is, for its cost."""
    hidden = gate.shape[-1] // 2 if up is None else gate.shape[-1]
    rows = gate.numel() // gate.shape[-1] if gate.shape[-1] else 0
    draw = {"packed": True} if up is None else {}
    wanted = torch.is_grad_enabled() and _wants_gradient(gate, up)
    shape = {"rows": rows, "hidden": hidden}
    return Case(str(gate.dtype).removeprefix("torch."), shape, {"activation": activation}, draw, wanted)


def inputs(case: Case, device: str, generator: torch.Generator) -> dict[str, Tensor | None]:
    """Fresh gate and up of one call, (rows, hidden), normal with a spread of 1 to 4.

    case.draw: packed (gate and up are one tensor, up is None), layout ("halves" of one tensor, "transposed",
    "every second", "padded rows") and values ("large": gate as far as +-12 from 0; "infinite"; "nan").
    """
    rows, hidden = case.shape["rows"], case.shape["hidden"]
    packed, layout, values = (case.draw.get(key) for key in ("packed", "layout", "values"))
    spread = 1.0 + 3.0 * torch.rand((), generator=generator).item()

    def normal(*shape: int) -> Tensor:
        drawn = spread * torch.randn(*shape, generator=generator, dtype=torch.float32)
        return drawn.to(device, getattr(torch, case.dtype))

    def draw(width: int) -> Tensor:
        if layout == "transposed":
            return normal(width, rows).T
        if layout == "every second":
            return normal(rows, 2 * width)[:, ::2]
        return normal(rows, width + 3)[:, :width] if layout == "padded rows" else normal(rows, width)

    if packed or layout == "halves":
        both = draw(2 * hidden)
        gate, up = both.chunk(2, -1)
    else:
        gate, up = draw(hidden), draw(hidden)
    if values == "large":
        gate.mul_(3).clamp_(-12, 12)
    elif values == "infinite":
        if case.options.get("activation") != "gelu":  # torch's gelu of infinity is NaN in float32 and not in float64
            gate[1, 3] = torch.inf
        gate[2, 4], up[3, 5], up[4, 6] = -torch.inf, torch.inf, -torch.inf
        gate[3:5, 5:7] = 1.0  # else it depends on rounding whether 0 or a very small number meets the infinity
    elif values == "nan":
        gate[1, 3], up[2, 4] = torch.nan, torch.nan
    return {"gate": both, "up": None} if packed else {"gate": gate, "up": up}


def scales(tensors: dict[str, Tensor | None], options: dict[str, Any], upstream: Tensor) -> dict[str, Tensor]:
    """What cancels: 1 and erf or tanh where gate is below 0, and the two terms of the derivative act'(gate)."""
    gate, up = tensors["gate"], tensors["up"]
    x, y = gate.chunk(2, -1) if up is None else (gate, up)
    if options["activation"] == "silu":
        p, q = torch.sigmoid(x), torch.sigmoid(-x)
        value, slope = x * p, p * (x * q).abs().clamp_min(1)
    else:
        if options["activation"] == "gelu":
            p, change = 0.5 * torch.erfc(x * -(0.5**0.5)), torch.exp(-0.5 * x * x) * (0.5 / torch.pi) ** 0.5
        else:
            p = torch.sigmoid(_twice_u(x))
            change = p * torch.sigmoid(-_twice_u(x)) * (8 / torch.pi) ** 0.5 * (1 + 3 * 0.044715 * x * x)
        at_least = p.clamp_min(0.5)
        value, slope = x * at_least, torch.maximum(at_least, (x * change).abs())
    of_gate, of_up = (upstream * y * slope).abs(), (upstream * value).abs()
    output = {"output": (value * y).abs()}
    if up is None:
        return {**output, "grad_gate": torch.cat([of_gate, of_up], -1)}
    return {**output, "grad_gate": of_gate, "grad_up": of_up}


# -- eager ------------------------------------------------------------------------------------------------------------


def _eager(gate: Tensor, up: Tensor | None = None, *, activation: str) -> Tensor:
    if up is None:
        gate, up = gate.chunk(2, -1)
    if activation == "silu":
        return F.silu(gate) * up
    return F.gelu(gate, approximate="tanh" if activation == "gelu_tanh" else "none") * up


# -- autograd of cpp (csrc/ops/cpu/swiglu.h) and triton ---------------------------------------------------------------


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor | None, activation: str, implementation: str) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.options = activation, implementation
        return _raw(implementation, "forward")(gate, up, activation)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        activation, implementation = ctx.options
        native.refuse_second_derivative("swiglu", implementation)
        of_gate, of_up = _raw(implementation, "backward")(upstream, gate, up, activation)
        return of_gate, None if up is None else of_up, None, None


def _raw(implementation: str, direction: str) -> Any:
    return getattr(torch.ops.perfsuite, f"swiglu_{implementation}_{direction}").default


def _wants_gradient(gate: Tensor, up: Tensor | None) -> bool:
    return gate.requires_grad or (up is not None and up.requires_grad)


def _run(implementation: str) -> Any:
    def run(gate: Tensor, up: Tensor | None = None, *, activation: str) -> Tensor:
        if torch.is_grad_enabled() and _wants_gradient(gate, up):
            return _SwiGLU.apply(gate, up, activation, implementation)
        return _raw(implementation, "forward")(gate, up, activation)

    return run


# -- triton -----------------------------------------------------------------------------------------------------------

if triton is not None:

    @triton.jit
    def _sigmoids(x):
        """sigmoid(x) and sigmoid(-x) from exp(-|x|): 1 - sigmoid(x) has no digits left where x is large."""
        decay = tl.exp(-tl.abs(x))
        larger = 1 / (1 + decay)
        smaller = decay * larger
        return tl.where(x > 0, larger, smaller), tl.where(x > 0, smaller, larger)

    @triton.jit
    def _normal(x):
        """The normal distribution's integral up to x, to its last digits where x is far below 0, and its density."""
        decay = tl.exp(-0.5 * x * x)
        if x.dtype == tl.float64:
            cumulative = 0.5 * (1 + tl.erf(x * 0.70710678118654752440))
        else:  # the polynomial of vector_normal in csrc/ops/cpu/vector_math.h
            t = 1 / (1 + 0.35 * tl.abs(x))
            p = -0.029160598292946815 * t + 0.1440437138080597
            p = p * t - 0.25586462020874023
            p = p * t + 0.15934805572032928
            p = p * t - 0.023231297731399536
            p = p * t + 0.1055602952837944
            p = p * t + 0.11981936544179916
            p = p * t + 0.1398637741804123
            p = p * t + 0.1396212875843048
            below = decay * (t * p)
            cumulative = tl.where(x > 0, 1 - below, below)
        return cumulative, 0.39894228040143267794 * decay

    @triton.jit
    def _activation(x, KIND: tl.constexpr):
        """act(x) and its derivative."""
        if KIND == "gelu":
            p, density = _normal(x)
            slope = p + x * density
        elif KIND == "silu":
            p, q = _sigmoids(x)
            slope = p * (1 + x * q)
        else:
            twice: tl.constexpr = 1.5957691216057307118  # 2 sqrt(2 / pi)
            cube: tl.constexpr = twice * 0.044715
            square = x * x
            p, q = _sigmoids(x * (twice + cube * square))
            slope = p * (1 + x * (twice + 3 * cube * square) * q)
        return x * p, slope

    @triton.jit
    def forward_kernel(
        gate, gate_stride, up, up_stride, out, width, blocks,
        KIND: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """A program per block of a row."""
        program = tl.program_id(0).to(tl.int64)  # rows times width may need more than 32 bits
        row, start = program // blocks, (program % blocks) * BLOCK
        here = tl.arange(0, BLOCK)
        mask = here < width - start
        x = tl.load(gate + row * gate_stride + start + here, mask=mask).to(ACC)
        y = tl.load(up + row * up_stride + start + here, mask=mask).to(ACC)
        value, _ = _activation(x, KIND)
        tl.store(out + row * width + start + here, (value * y).to(out.dtype.element_ty), mask=mask)

    @triton.jit
    def backward_kernel(
        upstream, gate, gate_stride, up, up_stride, grad_gate, grad_up, grad_stride, width, blocks,
        KIND: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """A program per block of a row: both gradients."""
        program = tl.program_id(0).to(tl.int64)
        row, start = program // blocks, (program % blocks) * BLOCK
        here = tl.arange(0, BLOCK)
        mask = here < width - start
        g = tl.load(upstream + row * width + start + here, mask=mask).to(ACC)
        x = tl.load(gate + row * gate_stride + start + here, mask=mask).to(ACC)
        y = tl.load(up + row * up_stride + start + here, mask=mask).to(ACC)
        value, slope = _activation(x, KIND)
        into = row * grad_stride + start + here
        tl.store(grad_gate + into, (g * y * slope).to(grad_gate.dtype.element_ty), mask=mask)
        tl.store(grad_up + into, (g * value).to(grad_up.dtype.element_ty), mask=mask)

    def launch_options(width: int, dtype: torch.dtype) -> dict[str, Any]:
        """The block that leaves the fewest lanes idle, the largest of those; 8 elements to a thread."""
        block = min((2048, 1024, 512, 256), key=lambda size: triton.cdiv(width, size) * size)
        return {"ACC": tl.float64 if dtype == torch.float64 else tl.float32, "BLOCK": block, "num_warps": block // 256}

    def _halves(gate: Tensor, up: Tensor | None) -> tuple[Tensor, Tensor]:
        """gate and up as (rows, hidden) with adjacent elements: views where the strides allow."""
        rows = [x.reshape(x.numel() // x.shape[-1], x.shape[-1]) for x in (gate, up) if x is not None]
        rows = [x if x.stride(1) == 1 else x.contiguous() for x in rows]
        if up is None:
            first, second = rows[0].chunk(2, -1)
            return first, second
        if all(x.is_contiguous() for x in rows):
            return rows[0].view(1, -1), rows[1].view(1, -1)
        return rows[0], rows[1]

    def _triton_forward(gate: Tensor, up: Tensor | None, activation: str) -> Tensor:
        out = _empty_output(gate, up)
        if out.numel():
            x, y = _halves(gate, up)
            rows, width = x.shape
            options = launch_options(width, gate.dtype)
            blocks = triton.cdiv(width, options["BLOCK"])
            forward_kernel[(rows * blocks,)](
                x, x.stride(0), y, y.stride(0), out, width, blocks, KIND=activation, **options
            )  # fmt: skip
        return out

    def _triton_backward(upstream: Tensor, gate: Tensor, up: Tensor | None, activation: str) -> tuple[Tensor, Tensor]:
        grad_gate, grad_up = _empty_gradients(upstream, gate, up, activation)
        if gate.numel():
            x, y = _halves(gate, up)
            rows, width = x.shape
            options = launch_options(width, gate.dtype)
            blocks = triton.cdiv(width, options["BLOCK"])
            into = grad_gate.view(rows, -1).chunk(2, -1) if up is None else (grad_gate, grad_up)
            backward_kernel[(rows * blocks,)](
                upstream.contiguous(), x, x.stride(0), y, y.stride(0), *into, 2 * width if up is None else width,
                width, blocks, KIND=activation, **options,
            )  # fmt: skip
        return grad_gate, grad_up

    def _empty_output(gate: Tensor, up: Tensor | None, _activation: str = "") -> Tensor:
        return gate.new_empty(gate.shape if up is not None else (*gate.shape[:-1], gate.shape[-1] // 2))

    def _empty_gradients(_upstream: Tensor, gate: Tensor, up: Tensor | None, _activation: str) -> tuple[Tensor, Tensor]:
        """The second is (0,) where gate is packed."""
        return gate.new_empty(gate.shape), gate.new_empty(gate.shape if up is not None else (0,))

    native.raw_op(
        "swiglu_triton_forward(Tensor gate, Tensor? up, str activation) -> Tensor", _triton_forward, _empty_output
    )
    native.raw_op(
        "swiglu_triton_backward(Tensor upstream, Tensor gate, Tensor? up, str activation) -> (Tensor, Tensor)",
        _triton_backward,
        _empty_gradients,
    )


OP = Op(
    name="swiglu",
    reference=reference,
    defaults={"activation": "silu"},
    cost=cost,
    cases=cases,
    case_of=case_of,
    inputs=inputs,
    differentiable=("gate", "up"),
    scales=scales,
    implementations=[
        native.eager(_eager),
        native.compiled(_eager),
        native.cpp(_run("cpp")),
        native.in_triton(_run("triton")),
    ],
    any_case=any_case,
    row_wise=("gate", "up"),
)
