"""Linear map without bias: y = x W^T, by the fastest matrix product that the machine's libraries have.

    grad_x = grad_y W,   grad_W = grad_y^T x

No kernel of our own: kernels/products.py has what torch carries.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perfsuite.kernels import native
from perfsuite.kernels.contract import Case, Cost, Implementation, Op
from perfsuite.kernels.products import HAS_ONEDNN, product, with_onednn


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T by the chosen implementation (perfsuite.kernels.contract.select).

    x: (..., inputs), weight: (outputs, inputs), of one floating-point dtype; under autocast both are cast as F.linear
    casts them. Returns (..., outputs). Differentiable in both; eager also twice. Raises ValueError for other shapes.
    """
    if weight.dim() != 2 or x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            "linear: x must be (..., inputs) and weight (outputs, inputs), "
            f"got {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    return OP(x, weight)


def reference(x: Tensor, weight: Tensor) -> Tensor:
    """The formula in plain torch; half precision is computed in float32."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return (x.to(wide) @ weight.to(wide).t()).to(x.dtype)


# -- cost and cases ---------------------------------------------------------------------------------------------------


def cost(case: Case) -> Cost:
    """x and W are read, y is written; with gradients those of all three as well. Three products of 2 flops a term."""
    rows, inputs, outputs = (case.shape[name] for name in ("rows", "inputs", "outputs"))
    elements = rows * inputs + outputs * inputs + rows * outputs
    passes = 2 if case.gradient else 1
    size = getattr(torch, case.dtype).itemsize
    return Cost(bytes=passes * elements * size, flops=(3 if case.gradient else 1) * 2 * rows * inputs * outputs)


def _case(rows: int, inputs: int, outputs: int, dtype: str = "float32", **draw: Any) -> Case:
    return Case(dtype, {"rows": rows, "inputs": inputs, "outputs": outputs}, draw=draw)


def cases(scale: str) -> list[Case]:
    """The products of the workload llama at its scales, and odd ones."""
    if scale in ("gpu", "code"):
        rows = 65536 if scale == "gpu" else 64
        return [_case(rows, *sizes, "bfloat16") for sizes in ((512, 1536), (512, 512), (512, 2816), (1408, 512))]
    if scale == "cpu":
        llama = [_case(1024, *sizes) for sizes in ((128, 384), (128, 128), (128, 704), (352, 128), (128, 256))]
        return [*llama, _case(1000, 333, 77), _case(2048, 1024, 1024)]
    if scale != "tiny":
        raise ValueError(f"linear has cases for the scales tiny, cpu, gpu and code, not {scale!r}")
    return [
        _case(64, 32, 48),
        _case(1, 1, 1),
        _case(0, 5, 3),
        _case(7, 33, 1),
        _case(17, 129, 65, layout="transposed"),
        _case(17, 40, 12, layout="every second"),
        _case(40, 300, 20, "bfloat16"),
        _case(9, 30, 20, "float16"),
        _case(9, 30, 20, "float64"),
    ]


def any_case() -> Any:
    """Small cases of any shape, dtype and layout."""
    from hypothesis import strategies as st

    layouts = st.sampled_from([{}, {"layout": "transposed"}, {"layout": "every second"}])
    return st.builds(
        lambda rows, inputs, outputs, dtype, draw: _case(rows, inputs, outputs, dtype, **draw),
        st.integers(0, 40), st.integers(1, 70), st.integers(1, 70),
        st.sampled_from(["float32", "float32", "bfloat16", "float16", "float64"]), layouts,
    )  # fmt: skip


def case_of(x: Tensor, weight: Tensor) -> Case:
    """The case that a call is, for its cost."""
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    outputs, inputs = weight.shape
    shape = {"rows": math.prod(x.shape[:-1]), "inputs": inputs, "outputs": outputs}
    return Case(str(x.dtype).removeprefix("torch."), shape, gradient=wanted)


def inputs(case: Case, device: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Normal x, and weights of the size that networks start with. case.draw["layout"]: of x."""
    rows, width, outputs = (case.shape[name] for name in ("rows", "inputs", "outputs"))
    dtype = getattr(torch, case.dtype)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    layout = case.draw.get("layout")
    if layout == "transposed":
        x = normal(width, rows).t()
    elif layout == "every second":
        x = normal(rows, 2 * width)[:, ::2]
    else:
        x = normal(rows, width)
    return {"x": x, "weight": normal(outputs, width) / max(1, width) ** 0.5}


def scales(tensors: dict[str, Tensor], options: dict[str, Any], upstream: Tensor) -> dict[str, Tensor]:
    """The size that partial sums of the products reach: the root of the sum of their squares."""
    x, w, g = tensors["x"].square(), tensors["weight"].square(), upstream.square()
    return {"output": (x @ w.t()).sqrt(), "grad_x": (g @ w).sqrt(), "grad_weight": (g.t() @ x).sqrt()}


# -- onednn -----------------------------------------------------------------------------------------------------------


class _OneDnn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None]:
        native.refuse_second_derivative("linear", "onednn")
        x, weight = ctx.saved_tensors
        grad_x = product(upstream, weight.t()) if ctx.needs_input_grad[0] else None
        grad_weight = product(upstream.t(), x.t()) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
    if not with_onednn(x, weight):
        return F.linear(x, weight)
    return _OneDnn.apply(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], weight.shape[0])


def _no_onednn(device: str) -> str | None:
    if device != "cpu":
        return "it runs on the CPU only"
    return None if HAS_ONEDNN else "this torch was built without oneDNN"


OP = Op(
    name="linear",
    reference=reference,
    defaults={},
    cost=cost,
    cases=cases,
    case_of=case_of,
    inputs=inputs,
    differentiable=("x", "weight"),
    scales=scales,
    implementations=[native.eager(F.linear), native.compiled(F.linear), Implementation("onednn", _onednn, _no_onednn)],
    any_case=any_case,
    row_wise=("x",),
)
