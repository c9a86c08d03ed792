"""Batch normalisation of images, an addition and a ReLU in one op, in channels_last (NHWC).

    over the n = N * H * W values of a channel, in training:  mean = sum x / n,  var = sum (x - mean)^2 / n
    rstd = 1 / sqrt(var + eps),  h = (x - mean) rstd,  z = weight h + bias + add,  y = max(z, 0)
    running_mean <- (1 - momentum) running_mean + momentum mean          running_var the same, with var n / (n - 1)
    g = dy where z > 0, else 0:  dadd = g,  dbias = sum g,  dweight = sum g h
    dx = weight rstd (g - sum g / n - h sum(g h) / n);  with given statistics (evaluation): weight rstd g

Ioffe and Szegedy 2015 (arXiv 1502.03167), sections 3 and 3.1. For the backward the kernels keep x and, in one bit an
element, where z > 0: x, dy and the bits are all it reads. Keeping y instead, or adding x up again to see the sign of z,
would read y or `add` twice more, once for the sums and once for dx: 32 times the bits in float32, 16 times in bfloat16.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from perfsuite.kernels import batch_norm_add_relu_gpu, native  # noqa: F401  its import registers operators
from perfsuite.kernels.contract import Case, Cost, Op

HALF = (torch.float16, torch.bfloat16)
DEFAULTS = {"training": True, "momentum": 0.1, "eps": 1e-5, "relu": True}
RUNNING = ("running_mean", "running_var")
DIFFERENTIABLE = ("x", "weight", "bias", "add")


def batch_norm_add_relu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    add: Tensor | None = None,
    *,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = True,
) -> Tensor:
    """relu(batch_norm(x) + add) by the chosen implementation (perfsuite.kernels.contract.select).

    x: (N, C, H, W) float32, bfloat16, float16 or float64, any strides; what is not channels_last is copied. add: like
    x, or None. weight, bias, running_mean, running_var: (C,) in the dtype of x, or float32 where x has half precision;
    None for 1, 0 and no running statistics. Returns (N, C, H, W) in the dtype of x, in channels_last. In training the
    running statistics are updated in place as torch.nn.BatchNorm2d does (unbiased variance; not where x is empty);
    otherwise they are what x is normalised with. Differentiable once in x, weight, bias and add; eager also twice.
    Raises ValueError for arguments of other shapes, dtypes and values, for one value a channel in training, and for
    evaluation without running statistics.
    """
    if x.dim() != 4 or not x.dtype.is_floating_point:
        raise ValueError(f"batch_norm_add_relu: x must be (N, C, H, W) floating-point, got {tuple(x.shape)} {x.dtype}")
    _check_channels("weight", weight, x)
    _check_channels("bias", bias, x)
    _check_channels("running_mean", running_mean, x)
    _check_channels("running_var", running_var, x)
    if add is not None and (add.shape != x.shape or add.dtype != x.dtype):
        raise ValueError(
            f"batch_norm_add_relu: add must be like x, {tuple(x.shape)} {x.dtype}, got {tuple(add.shape)} {add.dtype}"
        )
    if (running_mean is None) != (running_var is None):
        raise ValueError("batch_norm_add_relu: give running_mean and running_var both or neither")
    if not training and running_mean is None:
        raise ValueError("batch_norm_add_relu: evaluation (training=False) needs running_mean and running_var")
    if training and x.numel() == x.shape[1] and x.numel():
        raise ValueError(
            f"batch_norm_add_relu: Expected more than 1 value per channel when training, got input size {x.shape}"
        )
    if momentum is None:
        raise ValueError("batch_norm_add_relu: momentum must be a number; a cumulative average is 1 / batches so far")
    return OP(x, weight, bias, running_mean, running_var, add, training=training, momentum=momentum, eps=eps, relu=relu)


def _check_channels(name: str, values: Tensor | None, x: Tensor) -> None:
    if values is None:
        return
    allowed = (x.dtype, torch.float32) if x.dtype in HALF else (x.dtype,)
    if values.shape != (x.shape[1],) or values.dtype not in allowed:
        raise ValueError(
            f"batch_norm_add_relu: {name} must be ({x.shape[1]},) {' or '.join(str(dtype) for dtype in allowed)}, "
            f"got {tuple(values.shape)} {values.dtype}"
        )


def reference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    add: Tensor | None, *, training: bool, momentum: float, eps: float, relu: bool,
) -> Tensor:  # fmt: skip
    """The formula in plain torch; half precision is computed in float32."""
    dtype, x = x.dtype, x.to(_compute_dtype(x))
    if training and x.numel():
        mean = x.mean((0, 2, 3))
        squares = (x - _column(mean)).square()
        var = squares.mean((0, 2, 3))
        if running_mean is not None:
            n = x.numel() // x.shape[1]
            _update(running_mean, mean.detach(), momentum)
            _update(running_var, squares.detach().sum((0, 2, 3)) / (n - 1), momentum)
    elif training:
        mean, var = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
    else:
        mean, var = running_mean.to(x.dtype), running_var.to(x.dtype)
    z = (x - _column(mean)) * _column((var + eps).rsqrt())
    if weight is not None:
        z = z * _column(weight.to(x.dtype))
    if bias is not None:
        z = z + _column(bias.to(x.dtype))
    if add is not None:
        z = z + add.to(x.dtype)
    return (z.relu() if relu else z).to(dtype)


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _column(channels: Tensor) -> Tensor:
    return channels[:, None, None]


@torch.no_grad()
def _update(running: Tensor, batch: Tensor, momentum: float) -> None:
    if running.dtype == batch.dtype:
        running.lerp_(batch, momentum)
    else:
        running.copy_(running.to(batch.dtype).lerp_(batch, momentum))


# -- cost and cases ---------------------------------------------------------------------------------------------------


def cost(case: Case) -> Cost:
    """x and add are read, y and a bit an element are written; then dy, x and the bits are read, dx and dadd written.

    Everything once: a cache may hold x and dy from the sums to their second use. Channels are too few to count. Flops
    of an element: shift, square and two sums for the statistics, 3 to normalise, 1 to add and 1 for the ReLU; for the
    gradient 1 to mask, 4 for the sums, 5 for dx.
    """
    shape, options = case.shape, {**DEFAULTS, **case.options}
    elements = shape["images"] * shape["channels"] * shape["height"] * shape["width"]
    size, add, relu = getattr(torch, case.dtype).itemsize, bool(case.draw.get("add")), options["relu"]
    flops = 3 + add + relu + (4 if options["training"] else 0)
    moved = (2 + add) * size
    if case.gradient:
        flops += 9 + relu
        # Without a ReLU dy is the gradient of add.
        moved += 3 * size + (add * size + 2 / 8 if relu else 0)
    return Cost(bytes=int(moved * elements), flops=flops * elements)


def _case(
    images: int, channels: int, height: int, width: int, dtype: str = "float32", add: bool = False,
    draw: dict[str, Any] | None = None, **options: Any,
) -> Case:  # fmt: skip
    shape = {"images": images, "channels": channels, "height": height, "width": width}
    return Case(dtype, shape, options, {"add": add, **(draw or {})})


def _resnet(images: int, side: int, width: int, dtype: str) -> Iterable[Case]:
    """Of workloads/resnet.py, where a stage begins: within a bottleneck, at its end and on its shortcut."""
    yield _case(images, width, side, side, dtype)
    for stage in range(3):
        inner = width << stage
        if stage:
            yield _case(images, inner, side, side, dtype)
            side = (side + 1) // 2
            yield _case(images, inner, side, side, dtype)
        yield _case(images, 4 * inner, side, side, dtype, add=True)
        yield _case(images, 4 * inner, side, side, dtype, relu=False)


def cases(scale: str) -> list[Case]:
    """ "tiny", "cpu" (with resnet's at scale tiny, batches of 100), "gpu" (with resnet's, batches of 480) or "code"."""
    half, evaluation = "bfloat16", {"training": False}
    if scale == "cpu":
        odd = [_case(20, 24, 31, 33, add=True), _case(64, 1024, 4, 4, add=True)]
        return [_case(32, 64, 56, 56, add=True), *_resnet(100, 14, 16, "float32"), *odd]
    if scale == "gpu":
        odd = [_case(256, 64, 112, 112, half), _case(63, 100, 35, 33, half, add=True), _case(32, 64, 56, 56, add=True)]
        return [_case(256, 256, 56, 56, half, add=True), *_resnet(480, 28, 64, half), *odd]
    if scale == "code":
        widths = [(64, half), (256, half), (1024, half), (100, half), (64, "float32"), (256, "float16")]
        return [_case(4, width, 4, 4, dtype, add=True) for width, dtype in widths]
    if scale != "tiny":
        raise ValueError(f"batch_norm_add_relu has cases for tiny, cpu, gpu and code, not {scale!r}")
    large = {"values": "large"}
    return [
        _case(4, 16, 7, 5, add=True),
        _case(3, 37, 5, 3, add=True),
        _case(3, 37, 5, 3),
        _case(5, 1, 3, 3, add=True),
        _case(9, 20, 1, 1, add=True),
        _case(2, 1, 1, 1),
        _case(0, 5, 3, 3, add=True),
        _case(2, 130, 4, 3, add=True, relu=False, momentum=0.7),
        _case(2, 64, 4, 3, relu=False),
        _case(3, 16, 4, 4, add=True, draw={"layout": "contiguous"}),
        _case(3, 10, 4, 4, add=True, draw={"layout": "every second"}),
        _case(40, 8, 6, 6, add=True, draw=large),
        _case(40, 8, 6, 6, relu=False, draw=large),
        _case(6, 8, 6, 6, add=True, draw={"values": "outlier"}),
        _case(3, 16, 4, 4, add=True, draw={"values": "nan"}),
        _case(3, 16, 4, 4, draw={"values": "infinite"}),
        _case(3, 16, 4, 4, add=True, draw={"running": False}),
        _case(3, 16, 4, 4, add=True, draw={"affine": False}),
        _case(3, 37, 5, 3, add=True, **evaluation),
        _case(1, 16, 1, 1, relu=False, **evaluation),
        _case(3, 16, 4, 4, draw={"values": "infinite"}, **evaluation),
        _case(3, 37, 5, 3, half, add=True),
        _case(3, 40, 5, 3, half, draw={"parameters": half}),
        _case(3, 40, 5, 3, "float16", add=True),
        _case(40, 8, 6, 6, "float16", relu=False, eps=1e-3, draw=large),
        _case(3, 21, 5, 3, half, add=True, **evaluation),
        _case(3, 37, 5, 3, "float64", add=True),
        _case(40, 8, 6, 6, "float64", add=True, draw=large),
    ]


def any_case() -> Any:
    """Small cases of any shape, layout, dtype and option."""
    from hypothesis import strategies as st

    def build(shape, dtype, add, relu, training, layout, values, running, affine):  # type: ignore[no-untyped-def]
        images, _, height, width = shape
        training = training and images * height * width != 1
        draw = {"layout": layout, "values": values, "running": running or not training, "affine": affine}
        return _case(*shape, dtype, add=add, relu=relu, training=training, draw=draw)

    shapes = st.tuples(st.integers(0, 9), st.integers(1, 70), st.integers(1, 6), st.integers(1, 6))
    dtypes = st.sampled_from(["float32", "bfloat16", "float16", "float64"])
    layouts = st.sampled_from(["channels_last", "contiguous", "every second"])
    values, yes_or_no = st.sampled_from(["ordinary", "large"]), st.booleans()
    return st.builds(build, shapes, dtypes, yes_or_no, yes_or_no, yes_or_no, layouts, values, yes_or_no, yes_or_no)


def case_of(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    add: Tensor | None = None, **options: Any,
) -> Case:  # fmt: skip
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias, add))
    shape = dict(zip(("images", "channels", "height", "width"), x.shape, strict=True))
    return Case(str(x.dtype).removeprefix("torch."), shape, options, {"add": add is not None}, gradient=wanted)


def inputs(case: Case, device: str, generator: torch.Generator) -> dict[str, Tensor | None]:
    """Channels of different means and deviations, as convolutions give; draw "large": means around 3000,
    deviation 1, or in half precision as little as leaves several values."""
    dtype, shape, draw = getattr(torch, case.dtype), tuple(case.shape.values()), case.draw
    channels, values = shape[1], draw.get("values")
    parameters = getattr(torch, draw.get("parameters", "float32" if dtype in HALF else case.dtype))

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    def laid_out(tensor: Tensor) -> Tensor:
        tensor = tensor.to(device, dtype)
        if draw.get("layout") == "contiguous":
            return tensor.contiguous()
        if draw.get("layout") == "every second":
            return tensor.repeat_interleave(2, 3).contiguous(memory_format=torch.channels_last)[..., ::2]
        return tensor.contiguous(memory_format=torch.channels_last)

    def of_channels(tensor: Tensor) -> Tensor:
        return tensor.to(device, parameters)

    center, size = normal(channels), 0.5 + normal(channels).abs()
    if values == "large":
        center, size = 3000 + center, torch.full((channels,), max(1.0, 8 * 3000 * torch.finfo(dtype).eps))
    x = _column(center) + _column(size) * normal(*shape)
    if x.numel() and values in ("outlier", "nan", "infinite"):
        # The first value of all, where shifted sums may take their origin; others in one channel.
        x[0, 0, 0, 0] = {"outlier": 1e4, "nan": torch.nan, "infinite": torch.inf}[values]
        x[-1, channels // 2, -1, -1] = {"outlier": -1e4, "nan": torch.nan, "infinite": -torch.inf}[values]
    affine, running = draw.get("affine", True), draw.get("running", True)
    running_var = size.square() * (0.8 + 0.4 * torch.rand(channels, generator=generator))
    drawn = {
        "x": laid_out(x),
        "weight": of_channels(1 + 0.3 * normal(channels)) if affine else None,
        "bias": of_channels(0.3 * normal(channels)) if affine else None,
        "running_mean": of_channels(center + 0.1 * normal(channels)) if running else None,
        "running_var": of_channels(running_var) if running else None,
        "add": laid_out(normal(*shape)) if draw.get("add") else None,
    }
    if 0 < x.numel() < 1 << 20:  # larger ones are for timing
        _leave_zero(drawn, {**DEFAULTS, **case.options})
    return drawn


def _leave_zero(tensors: dict[str, Any], options: dict[str, Any]) -> None:
    """Moves elements whose z is 0 but for rounding: the ReLU takes or stops their gradient, and either is right."""
    x, add = tensors["x"], tensors["add"]
    moved, eps = x if add is None else add, torch.finfo(x.dtype).eps
    for _ in range(8 if options["relu"] else 0):
        exact = {name: None if tensor is None else tensor.double() for name, tensor in tensors.items()}
        terms = _terms(exact, options)
        weight = 1 if tensors["weight"] is None else _column(exact["weight"].abs())
        # float32 rounds x and the mean, the dtype of x what is added up.
        margin = 8 * eps * terms.added + 16 * min(eps, 2**-23) * terms.in_h * weight
        near = terms.z.abs() < margin
        if not near.any():
            return
        step = 4 * margin / (terms.slope.abs() if add is None else 1)
        moved.copy_(torch.where(near, moved + torch.maximum(step, 4 * eps * moved.abs()), moved))


class _Terms(NamedTuple):
    """Of a call on float64 tensors; sizes are absolute values."""

    z: Tensor
    added: Tensor
    """The largest size of (x - mean) slope, bias and add."""
    in_h: Tensor
    """The larger size of x rstd and mean rstd, or of what the mean is the sum of."""
    h: Tensor
    """(x - mean) rstd, with its sign."""
    slope: Tensor
    """rstd weight, (C, 1, 1)."""


def _terms(tensors: dict[str, Any], options: dict[str, Any]) -> _Terms:
    x, weight, bias, add = (tensors[name] for name in ("x", "weight", "bias", "add"))
    if options["training"]:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        mean_size = _size_of_sum(x, x) * (x.shape[1] / x.numel())
    else:
        mean, var = tensors["running_mean"], tensors["running_var"]
        mean_size = mean.abs()
    mean, rstd = _column(mean), _column((var + options["eps"]).rsqrt())
    slope = rstd if weight is None else rstd * _column(weight)
    z = (x - mean) * slope
    added = z.abs()
    for other in (None if bias is None else _column(bias), add):
        if other is not None:
            z, added = z + other, torch.maximum(added, other.abs())
    in_h = torch.maximum(x.abs(), _column(mean_size)) * rstd
    return _Terms(z, added, in_h, (x - mean) * rstd, slope)


def _size_of_sum(values: Tensor, terms: Tensor) -> Tensor:
    """Of a sum over all but the channels: the root of the sum of squared terms, as for random signs, or itself."""
    return torch.maximum(values.sum((0, 2, 3)).abs(), terms.square().sum((0, 2, 3)).sqrt())


def scales(tensors: dict[str, Any], options: dict[str, Any], upstream: Tensor) -> dict[str, Tensor]:
    """y: x and the mean, each times rstd and weight, bias and add. dx: the three terms in the brackets of its formula.

    Sums over rows count as _size_of_sum has it; in h x and the mean cancel, each times rstd.
    """
    x = tensors["x"]
    if x.numel() == 0:
        found = {f"grad_{name}": tensors[name] for name in DIFFERENTIABLE}
        found |= {"output": x, **{name: tensors[name] for name in RUNNING}}
        return {name: scale for name, scale in found.items() if scale is not None}
    n, terms = x.numel() // x.shape[1], _terms(tensors, options)
    weight = 1 if tensors["weight"] is None else _column(tensors["weight"].abs())
    g = upstream.where(terms.z > 0, 0) if options["relu"] else upstream
    g_sum, gh_sum = _size_of_sum(g, g), _size_of_sum(g * terms.h, g * terms.in_h)
    grad_x = g.abs()
    if options["training"]:
        grad_x = torch.maximum(grad_x, _column(g_sum / n))
        grad_x = torch.maximum(grad_x, terms.h.abs() * _column(gh_sum / n))
        grad_x = torch.maximum(grad_x, terms.in_h * _column((g * terms.h).sum((0, 2, 3)).abs() / n))
    found = {
        "output": torch.maximum(terms.added, terms.in_h * weight), "grad_x": grad_x * terms.slope.abs(),
        "grad_weight": gh_sum, "grad_bias": g_sum, "grad_add": g,
    }  # fmt: skip
    var = (x - x.mean((0, 2, 3), keepdim=True)).square().sum((0, 2, 3)) / max(1, n - 1)
    for name, batch in (("running_mean", _size_of_sum(x, x) / n), ("running_var", var)):
        if tensors[name] is not None:
            share = options["momentum"] if options["training"] else 0
            found[name] = torch.maximum(tensors[name].abs(), share * batch.nan_to_num())
    return found


# -- eager ------------------------------------------------------------------------------------------------------------


def _eager(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    add: Tensor | None, *, training: bool, momentum: float, eps: float, relu: bool,
) -> Tensor:  # fmt: skip
    x = x.contiguous(memory_format=torch.channels_last)
    y = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    if add is not None:
        y = y + add
    return F.relu(y) if relu else y


# -- cpp, triton and cuda: raw operators <op>_<name>_forward and _backward, the same for all ---------------------------


class _Function(torch.autograd.Function):
    """y, and the batch's mean and unbiased variance, which have no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, add: Tensor | None, mean: Tensor | None,
        var: Tensor | None, eps: float, relu: bool, name: str,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        x = x.contiguous(memory_format=torch.channels_last)
        y, batch_mean, rstd, batch_var, mask = _forward(x, weight, bias, add, mean, var, eps, relu, True, name)
        ctx.save_for_backward(x, weight, batch_mean, rstd, mask)
        ctx.options = (mean is None, relu, name)
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.mark_non_differentiable(batch_mean, batch_var)
        ctx.set_materialize_grads(False)
        return y, batch_mean, batch_var

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_stats: Any) -> tuple[Tensor | None, ...]:
        training, relu, name = ctx.options
        native.refuse_second_derivative("batch_norm_add_relu", name)
        if dy is None:
            return (None,) * 9
        x, weight, mean, rstd, mask = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        want_add = ctx.needs_input_grad[3]
        backward = getattr(torch.ops.perfsuite, f"batch_norm_add_relu_{name}_backward")
        dx, d_weight, d_bias, d_add = backward.default(
            dy, x, weight, mean, rstd, mask, training, relu, want_add and relu
        )
        return (
            dx,
            None if weight is None else d_weight.to(weight.dtype),
            None if ctx.bias_dtype is None else d_bias.to(ctx.bias_dtype),
            (d_add if relu else dy) if want_add else None,
            None, None, None, None, None,
        )  # fmt: skip


def _forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, add: Tensor | None, mean: Tensor | None, var: Tensor | None,
    eps: float, relu: bool, keep_mask: bool, name: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    if add is not None:
        add = add.contiguous(memory_format=torch.channels_last)
    forward = getattr(torch.ops.perfsuite, f"batch_norm_add_relu_{name}_forward")
    return forward.default(x, weight, bias, add, mean, var, eps, relu, keep_mask)


def _fused(name: str) -> Callable[..., Tensor]:
    """Runs the operators of this name."""

    def run(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
        running_var: Tensor | None, add: Tensor | None, *, training: bool, momentum: float, eps: float, relu: bool,
    ) -> Tensor:  # fmt: skip
        given = (None, None) if training else (running_mean, running_var)
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias, add)):
            y, mean, var = _Function.apply(x, weight, bias, add, *given, eps, relu, name)
        else:
            x = x.contiguous(memory_format=torch.channels_last)
            y, mean, _, var, _ = _forward(x, weight, bias, add, *given, eps, relu, False, name)
        # Out here and with torch's own functions: an operator that writes into its inputs, with a gradient registered,
        # may silently have a wrong one under torch.compile.
        if training and running_mean is not None and x.numel():
            _update(running_mean, mean, momentum)
            _update(running_var, var, momentum)
        return y

    return run


OP = Op(
    name="batch_norm_add_relu",
    reference=reference,
    defaults=DEFAULTS,
    cost=cost,
    cases=cases,
    case_of=case_of,
    inputs=inputs,
    differentiable=DIFFERENTIABLE,
    scales=scales,
    mutates=RUNNING,
    any_case=any_case,
    implementations=[
        native.eager(_eager),
        native.compiled(_eager),
        native.cpp(_fused("cpp")),
        native.in_triton(_fused("triton")),
        native.in_cuda(_fused("cuda")),
    ],
)
