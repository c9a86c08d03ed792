"""Cross-entropy of a linear layer's outputs, without ever holding all of them.

    logits = x W^T                                     (rows, classes)
    loss   = cross_entropy(logits, target)             perfsuite.kernels.cross_entropy has its formula
    G      = dloss/dlogits,  dloss/dx = G W,  dloss/dW = G^T x

The rows go through in chunks. Each is a product into one workspace, a kernel that overwrites these logits with G, and
two products from there: nothing is computed twice. The forward does all of it, as G is not kept.

Chunks by a budget in bytes for the workspace, not by a number of rows, as in "Liger Kernel" (arXiv 2410.10989), whose
64 rows for 128,256 classes of width 4,096 leave each product with 64 operations for each byte of W, when an H100 needs
295 to be busy. The budget of 512 MiB gives 2,048 rows of 128,256 bfloat16 classes: 2,048 operations a byte.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perfsuite.kernels import cross_entropy as ce
from perfsuite.kernels import native
from perfsuite.kernels.ahead import times_upstream
from perfsuite.kernels.contract import Case, Cost, Op
from perfsuite.kernels.products import product, with_onednn

REDUCTIONS = ("mean", "sum")

CPU_WORKSPACE_BYTES = 32 << 20
"""Of 16, 32, 64, 128 and 256 MiB at 2048x512x32000: 5 % slower, then all within 4 % of each other."""
GPU_WORKSPACE_BYTES = 512 << 20
"""Not measured."""
TILE_ROWS = 128
"""Matrix products are done in tiles of as many rows: chunks are multiples of it where they can."""


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    workspace_bytes: int | None = None,
) -> Tensor:
    """Cross-entropy loss of F.linear(x, weight) by the chosen implementation (perfsuite.kernels.contract.select).

    x: (rows, width), weight: (classes, width), both float32, bfloat16, float16 or float64, any strides. target: (rows,)
    int64, each in [0, classes) or ignore_index; another value is an IndexError on the CPU and makes the loss NaN on a
    GPU. workspace_bytes: for the logits of a chunk of rows, of at least one; None: 32 MiB on the CPU, 512 MiB on a GPU.
    With several chunks the gradient of a weight in half precision is summed in float32, which takes 4 bytes an element.
    Returns () in the dtype of x, under autocast float32. The mean over no rows is NaN, as in torch. Differentiable in x
    and weight; eager also twice. Raises ValueError for arguments of other shapes, dtypes and values.
    """
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1] or target.shape != x.shape[:1]:
        raise ValueError(
            "linear_cross_entropy: x must be (rows, width), weight (classes, width) and target (rows,), "
            f"got {tuple(x.shape)}, {tuple(weight.shape)} and {tuple(target.shape)}"
        )
    if target.dtype != torch.int64 or not x.dtype.is_floating_point or not weight.dtype.is_floating_point:
        raise ValueError(
            "linear_cross_entropy: x and weight must be floating-point and target int64, "
            f"got {x.dtype}, {weight.dtype} and {target.dtype}"
        )
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(f"linear_cross_entropy: x and weight must have one dtype, got {x.dtype} and {weight.dtype}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"linear_cross_entropy: reduction must be mean or sum, got {reduction!r}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"linear_cross_entropy: label_smoothing must be within [0, 1], got {label_smoothing}")
    if workspace_bytes is not None and workspace_bytes <= 0:
        raise ValueError(f"linear_cross_entropy: workspace_bytes must be positive, got {workspace_bytes}")
    return OP(
        x, weight, target, ignore_index=ignore_index, label_smoothing=label_smoothing, z_loss=z_loss,
        reduction=reduction, workspace_bytes=workspace_bytes,
    )  # fmt: skip


def reference(x: Tensor, weight: Tensor, target: Tensor, *, workspace_bytes: int | None, **options: Any) -> Tensor:
    """The formula in plain torch; half precision is computed in float32."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return ce.reference(F.linear(x.to(wide), weight.to(wide)), target, **options).to(ce.loss_dtype(x))


# -- cost and cases ---------------------------------------------------------------------------------------------------


def cost(case: Case) -> Cost:
    """One product forward, two more with gradients. x and weight are read once, their gradients written once."""
    rows, width, classes = case.shape.values()
    products, passes = (3, 2) if case.gradient else (1, 1)
    operands = passes * (rows + classes) * width * getattr(torch, case.dtype).itemsize
    return Cost(bytes=operands + 8 * rows, flops=products * 2 * rows * width * classes)


def _case(
    rows: int, width: int, classes: int, dtype: str = "float32", draw: dict[str, Any] | None = None, **options: Any
) -> Case:
    return Case(dtype, {"rows": rows, "width": width, "classes": classes}, options, draw or {})


def cases(scale: str) -> list[Case]:
    """Of scale "tiny", "cpu" (1024x128x256 is llama's), "gpu" (4096 and 128256 are Llama 3.1's), or "code"."""
    if scale == "cpu":
        return [_case(1024, 128, 256), _case(512, 256, 32000), _case(509, 100, 10007, label_smoothing=0.1)]
    if scale == "gpu":
        return [
            _case(2048, 4096, 128256, "bfloat16"),
            _case(8192, 4096, 128256, "bfloat16"),
            _case(8192, 2048, 32000, "bfloat16"),
            _case(4096, 768, 50257, "bfloat16", label_smoothing=0.1),
        ]
    if scale == "code":
        return [_case(64, 16, 128256, "bfloat16"), _case(64, 16, 32000, "bfloat16"), _case(64, 16, 256)]
    if scale != "tiny":
        raise ValueError(f"linear_cross_entropy has cases for the scales tiny, cpu, gpu and code, not {scale!r}")
    everything = {"label_smoothing": 0.1, "z_loss": 1e-3}
    ignoring = {"ignored": 0.4}
    return [
        _case(64, 32, 256),
        _case(1, 1, 1),
        _case(1, 5, 1031, reduction="sum"),
        _case(0, 4, 7, reduction="sum"),
        _case(3, 0, 5),
        _case(37, 9, 33, draw=ignoring, workspace_bytes=1000, **everything),
        _case(9, 3, 40, draw={"ignored": 1.0}, workspace_bytes=640),
        _case(13, 10, 100, draw={**ignoring, "layout": "transposed"}, reduction="sum", workspace_bytes=1),
        _case(13, 10, 100, draw={"layout": "every second"}, ignore_index=3, z_loss=1e-2),
        _case(16, 40, 300, "bfloat16", draw=ignoring, **everything),
        _case(21, 40, 300, "bfloat16", draw={"layout": "padded rows"}, workspace_bytes=3000),
        _case(16, 40, 300, "float16", draw=ignoring, **everything),
        _case(21, 40, 300, "float16", reduction="sum", workspace_bytes=3000),
        _case(14, 20, 110, "float64", draw=ignoring, workspace_bytes=4000, **everything),
    ]


def any_case() -> Any:
    """A hypothesis strategy of small cases."""
    from hypothesis import strategies as st

    def build(ignored: float, layout: str | None, **rest: Any) -> Case:
        return _case(**rest, draw={"ignored": ignored} | ({"layout": layout} if layout else {}))

    return st.builds(
        build,
        rows=st.integers(0, 20), width=st.integers(0, 20), classes=st.integers(1, 90),
        dtype=st.sampled_from(["float32", "bfloat16", "float16", "float64"]), ignored=st.sampled_from([0.0, 0.3]),
        layout=st.sampled_from([None, "transposed", "every second", "padded rows"]),
        ignore_index=st.sampled_from([-100, 0]), label_smoothing=st.sampled_from([0.0, 0.1, 1.0]),
        z_loss=st.sampled_from([0.0, 1e-3]), reduction=st.sampled_from(REDUCTIONS),
        workspace_bytes=st.sampled_from([None, 1, 1000]),
    )  # fmt: skip


def case_of(x: Tensor, weight: Tensor, target: Tensor, **options: Any) -> Case:
    """The case that a call is, for its cost."""
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    shape = {"rows": x.shape[0], "width": x.shape[1], "classes": weight.shape[0]}
    return Case(str(x.dtype).removeprefix("torch."), shape, options, gradient=wanted)


def inputs(case: Case, device: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh x, weight and target of one call; logits are spread by 1 to 3.

    case.draw: ignored (share of the rows) and layout of x and weight ("transposed", "every second", "padded rows").
    """
    rows, width, classes = case.shape.values()
    dtype = getattr(torch, case.dtype)

    def matrix(high: int, wide: int, spread: float) -> Tensor:
        def normal(*shape: int) -> Tensor:
            return (spread * torch.randn(*shape, generator=generator)).to(device, dtype)

        layout = case.draw.get("layout")
        if layout == "transposed":
            return normal(wide, high).T
        if layout == "every second":
            return normal(high, 2 * wide)[:, ::2]
        return normal(high, wide + 3)[:, :wide] if layout == "padded rows" else normal(high, wide)

    spread = 1.0 + 2.0 * torch.rand((), generator=generator).item()
    x, weight = matrix(rows, width, 1.0), matrix(classes, width, spread / max(1, width) ** 0.5)
    target = torch.randint(0, classes, (rows,), generator=generator).to(device)
    ignore = torch.rand(rows, generator=generator).to(device) < case.draw.get("ignored", 0.0)
    target[ignore] = case.options.get("ignore_index", -100)
    return {"x": x, "weight": weight, "target": target}


def scales(tensors: dict[str, Tensor], options: dict[str, Any], upstream: Tensor) -> dict[str, Tensor]:
    """Loss: cross-entropy's. Gradients: the root of the sum of squares of the products that are added."""
    x, weight = tensors["x"], tensors["weight"]
    row_options = {key: value for key, value in options.items() if key != "workspace_bytes"}
    found = ce.scales({"logits": F.linear(x, weight), "target": tensors["target"]}, row_options, upstream)
    squares = found["grad_logits"].square()
    return {
        "output": found["output"],
        "grad_x": (squares @ weight.square()).sqrt(),
        "grad_weight": (squares.T @ x.square()).sqrt(),
    }


# -- eager ------------------------------------------------------------------------------------------------------------


def _eager(x: Tensor, weight: Tensor, target: Tensor, *, workspace_bytes: int | None, **options: Any) -> Tensor:
    return ce.eager(F.linear(x, weight), target, **options)


# -- chunks of rows, for cpp, triton and cuda -------------------------------------------------------------------------


def chunk_rows(rows: int, row_bytes: int, workspace_bytes: int) -> int:
    """Rows of a chunk: as few chunks as the workspace allows, of nearly the same size, and whole tiles."""
    most = max(1, workspace_bytes // max(1, row_bytes))
    if most >= rows:
        return max(1, rows)
    if most >= TILE_ROWS:
        most -= most % TILE_ROWS
    even = -(-rows // -(-rows // most))
    return min(most, -(-even // TILE_ROWS) * TILE_ROWS)


def _forward(
    kernels: Any, empty: Callable[..., Tensor], x: Tensor, weight: Tensor, target: Tensor, ignore_index: int,
    smoothing: float, z: float, mean: bool, workspace_bytes: int | None, with_x: bool, with_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """(loss, dloss/dx, dloss/dweight, scale): scale is 1 / (rows that count), or 1 for the sum.

    A gradient is empty where it is not wanted. In float16, scale would push G below the smallest numbers before a loss
    scale (torch.amp.GradScaler) lifts it: there it is left to the backward, and dloss/dweight, where every row may add
    up to 1, is in float32.

    kernels: the module of launchers of an implementation; empty: (like, shape, dtype) -> tensor.
    """
    x, weight, target = _for_products(x), _for_products(weight), target.contiguous()
    rows, classes = x.shape[0], weight.shape[0]
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    late, with_gradient = x.dtype == torch.float16, with_x or with_weight

    scale = kernels.count_scale(target, ignore_index, acc) if mean else x.new_ones((), dtype=acc)
    budget = workspace_bytes or (GPU_WORKSPACE_BYTES if x.is_cuda else CPU_WORKSPACE_BYTES)
    step = chunk_rows(rows, classes * x.element_size(), budget)
    losses = x.new_empty(rows, dtype=acc)
    onednn = with_onednn(x, weight)  # it writes to memory of its own
    workspace = None if onednn else empty(x, (min(step, rows), classes), x.dtype)
    grad_x = empty(x, x.shape, x.dtype) if with_x else x.new_empty(0)
    sum_dtype = acc if late or rows > step else x.dtype
    grad_weight = empty(x, weight.shape, sum_dtype) if with_weight else x.new_empty(0)
    if rows == 0:
        grad_weight.zero_()
    for begin in range(0, rows, step):
        some = slice(begin, min(rows, begin + step))
        if onednn:
            logits = product(x[some], weight)
        else:
            logits = torch.mm(x[some], weight.T, out=workspace[: some.stop - begin])
        in_place = logits if with_gradient else None
        losses[some], _ = kernels.launch_forward(
            logits, target[some], ignore_index, smoothing, z, None if late else scale, in_place
        )
        if with_x and onednn:
            grad_x[some] = product(logits, weight.T)
        elif with_x:
            torch.mm(logits, weight, out=grad_x[some])
        if with_weight:
            _add_product(grad_weight, logits.T, x[some], first=begin == 0)
    if not late:
        grad_weight = grad_weight.to(x.dtype)
    loss = losses.sum() * scale if mean else losses.sum()
    return loss, grad_x, grad_weight, scale


def _for_products(matrix: Tensor) -> Tensor:
    """With rows or columns of adjacent elements: the products would copy others every time."""
    return matrix if 1 in matrix.stride() else matrix.contiguous()


def _add_product(total: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
    """total += a b, or, first, total = a b; total has the dtype of a and b, or that of their sums."""
    if with_onednn(a, b):
        total.copy_(product(a, b.T)) if first else total.add_(product(a, b.T))
    elif total.dtype == a.dtype:
        torch.mm(a, b, out=total) if first else torch.addmm(total, a, b, out=total)
    elif a.is_cuda and first:
        torch.mm(a, b, out_dtype=total.dtype, out=total)
    elif a.is_cuda:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        _add_product(total, a.to(total.dtype), b.to(total.dtype), first)


def _forward_fake(
    x: Tensor, weight: Tensor, target: Tensor, ignore_index: int, smoothing: float, z: float, mean: bool,
    workspace_bytes: int | None, with_x: bool, with_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    weight_dtype = acc if x.dtype == torch.float16 else x.dtype
    grad_weight = x.new_empty(weight.shape, dtype=weight_dtype) if with_weight else x.new_empty(0)
    return (
        x.new_empty((), dtype=acc), x.new_empty(x.shape if with_x else 0), grad_weight, x.new_empty((), dtype=acc)
    )  # fmt: skip


def _new_empty(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return like.new_empty(shape, dtype=dtype)


def _empty_reused(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.ops.perfsuite.empty_reused(shape, dtype)


def _register(implementation: str, kernels: Callable[[], Any], empty: Callable[..., Tensor] = _new_empty) -> None:
    native.raw_op(
        f"linear_cross_entropy_{implementation}_forward(Tensor x, Tensor weight, Tensor target, int ignore_index, "
        "float smoothing, float z, bool mean, int? workspace_bytes, bool with_x, bool with_weight) "
        "-> (Tensor, Tensor, Tensor, Tensor)",
        lambda *args: _forward(kernels(), empty, *args), _forward_fake,
    )  # fmt: skip


class LinearCrossEntropyFunction(torch.autograd.Function):
    """The forward computes the gradients, the backward multiplies them."""

    @staticmethod
    def forward(ctx: Any, implementation: str, x: Tensor, weight: Tensor, *args: Any) -> Tensor:
        loss, grad_x, grad_weight, scale = _operator(implementation)(x, weight, *args)
        ctx.save_for_backward(grad_x, grad_weight, scale)
        ctx.implementation, ctx.wanted, ctx.dtype, ctx.rest = implementation, args[-2:], x.dtype, len(args)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        native.refuse_second_derivative("linear_cross_entropy", ctx.implementation)
        *gradients, scale = ctx.saved_tensors
        given: list[Tensor | None] = []
        for gradient, wanted in zip(gradients, ctx.wanted, strict=True):
            if not wanted:
                given.append(None)
            elif ctx.dtype == torch.float16:
                # Where no row counts, scale is infinite and the gradient 0; it is at most 1 otherwise.
                given.append((gradient.float() * (upstream * scale.clamp(max=1))).to(ctx.dtype))
            else:
                given.append(times_upstream(gradient, upstream))
        return None, *given, *[None] * ctx.rest


def _operator(implementation: str) -> Any:
    return getattr(torch.ops.perfsuite, f"linear_cross_entropy_{implementation}_forward").default


def _native(implementation: str) -> Callable[..., Tensor]:
    def run(
        x: Tensor, weight: Tensor, target: Tensor, *, ignore_index: int, label_smoothing: float, z_loss: float,
        reduction: str, workspace_bytes: int | None,
    ) -> Tensor:  # fmt: skip
        dtype = ce.loss_dtype(x)
        x, weight = _autocast(x), _autocast(weight)
        with_x, with_weight = (torch.is_grad_enabled() and t.requires_grad for t in (x, weight))
        options = (ignore_index, label_smoothing, z_loss, reduction == "mean", workspace_bytes, with_x, with_weight)
        if with_x or with_weight:
            loss = LinearCrossEntropyFunction.apply(implementation, x, weight, target, *options)
        else:
            loss = _operator(implementation)(x, weight, target, *options)[0]
        return loss.to(dtype)

    return run


def _autocast(matrix: Tensor) -> Tensor:
    """As F.linear has its arguments."""
    device = matrix.device.type
    if not torch.is_autocast_enabled(device) or matrix.dtype == torch.float64:
        return matrix
    return matrix.to(torch.get_autocast_dtype(device))


_register("cpp", ce.cpp_kernels, _empty_reused)
_register("triton", ce.triton_kernels)
_register("cuda", ce.cuda_kernels)

OP = Op(
    name="linear_cross_entropy",
    reference=reference,
    defaults={
        "ignore_index": -100, "label_smoothing": 0.0, "z_loss": 0.0, "reduction": "mean", "workspace_bytes": None,
    },
    cost=cost,
    cases=cases,
    case_of=case_of,
    inputs=inputs,
    differentiable=("x", "weight"),
    scales=scales,
    any_case=any_case,
    implementations=[
        native.eager(_eager),
        native.compiled(_eager),
        native.cpp(_native("cpp")),
        native.in_triton(_native("triton")),
        native.in_cuda(_native("cuda")),
    ],
)  # fmt: skip
