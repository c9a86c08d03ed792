"""Cross-entropy of rows of logits against class indices, with label smoothing and z-loss.

    lse  = log sum_j exp(x_j)
    loss = lse - (1 - e) x_target - e mean_j x_j + z lse^2                    e: label_smoothing, z: z_loss
    dloss/dx_j = (1 + 2 z lse) softmax(x)_j - e / classes - (1 - e) [j = target]

Rows whose target is ignore_index have loss 0 and gradient 0 and do not count in the mean.
Label smoothing: Szegedy et al. 2016 (arXiv 1512.00567); z-loss: Chowdhery et al. 2022 (arXiv 2204.02311), section 5.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perfsuite.kernels import native
from perfsuite.kernels.ahead import times_upstream
from perfsuite.kernels.contract import Case, Cost, Op

NONE, MEAN, SUM = 0, 1, 2
REDUCTIONS = {"none": NONE, "mean": MEAN, "sum": SUM}


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy loss by the chosen implementation (perfsuite.kernels.contract.select).

    logits: (rows, classes) float32, bfloat16, float16 or float64, any strides. target: (rows,) int64, each in
    [0, classes) or ignore_index; another value is an IndexError on the CPU and makes the loss NaN on a GPU.
    Returns () or, for reduction "none", (rows,), in the dtype of logits, under autocast in float32. The mean over no
    rows is NaN, as in torch. Differentiable in logits; eager also twice.
    Raises ValueError for arguments of other shapes, dtypes and values.
    """
    if logits.dim() != 2 or target.dim() != 1 or logits.shape[0] != target.shape[0]:
        raise ValueError(
            "cross_entropy: logits must be (rows, classes) and target (rows,), "
            f"got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    if target.dtype != torch.int64 or not logits.dtype.is_floating_point:
        raise ValueError(
            f"cross_entropy: logits must be floating-point and target int64, got {logits.dtype} and {target.dtype}"
        )
    if reduction not in REDUCTIONS:
        raise ValueError(f"cross_entropy: reduction must be none, mean or sum, got {reduction!r}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"cross_entropy: label_smoothing must be within [0, 1], got {label_smoothing}")
    return OP(
        logits, target, ignore_index=ignore_index, label_smoothing=label_smoothing, z_loss=z_loss, reduction=reduction
    )


def reference(
    logits: Tensor, target: Tensor, *, ignore_index: int, label_smoothing: float, z_loss: float, reduction: str
) -> Tensor:
    """The formula in plain torch; half precision is computed in float32."""
    x = logits.to(_compute_dtype(logits))
    counted = target != ignore_index
    log_p = F.log_softmax(x, dim=-1)
    loss = -log_p.gather(1, target.where(counted, 0)[:, None])[:, 0]
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * log_p.mean(1)
    if z_loss:
        loss = loss + z_loss * x.logsumexp(1).square()
    return _reduce(loss.where(counted, 0), counted, reduction).to(loss_dtype(logits))


def _reduce(losses: Tensor, counted: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return losses.sum() / counted.sum() if reduction == "mean" else losses.sum()


def _compute_dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def loss_dtype(logits: Tensor) -> torch.dtype:
    return _compute_dtype(logits) if torch.is_autocast_enabled(logits.device.type) else logits.dtype


# -- cost and cases ---------------------------------------------------------------------------------------------------


def cost(case: Case) -> Cost:
    """Logits and target are read once, the gradient is written once; the loss is too small to count.

    Per element: compare, subtract, exponential, add; for the gradient multiply and subtract. A flop each.
    """
    elements = case.shape["rows"] * case.shape["classes"]
    size = getattr(torch, case.dtype).itemsize
    passes = 2 if case.gradient else 1
    return Cost(bytes=passes * elements * size + 8 * case.shape["rows"], flops=(6 if case.gradient else 4) * elements)


def _case(rows: int, classes: int, dtype: str = "float32", draw: dict[str, Any] | None = None, **options: Any) -> Case:
    return Case(dtype, {"rows": rows, "classes": classes}, options, draw or {})


def cases(scale: str) -> list[Case]:
    """Of scale "tiny", "cpu" (1024x256 is llama's, 100x10 resnet's), "gpu" (128256 classes are Llama 3.1's), "code"."""
    if scale == "cpu":
        return [
            _case(512, 32000),
            _case(1024, 256),
            _case(100, 10),
            _case(256, 50257, label_smoothing=0.1),
            _case(4093, 1001, reduction="none"),
        ]
    if scale == "gpu":
        return [
            _case(8192, 128256, "bfloat16"),
            _case(8192, 32000, "bfloat16"),
            _case(8192, 131072, "bfloat16"),
            _case(16384, 30522, "bfloat16"),
            _case(512, 32000),
            _case(1024, 256),
            _case(256, 1000),
            _case(4093, 50257, "bfloat16", label_smoothing=0.1),
            _case(65536, 128, "bfloat16", z_loss=1e-4),
        ]
    if scale == "code":
        widths = [(128256, "bfloat16"), (50257, "bfloat16"), (32000, "bfloat16"), (32000, "float32"), (256, "float32")]
        both = [_case(64, classes, dtype) for classes, dtype in widths]
        return [*both, _case(64, 32000, "bfloat16", reduction="none")]  # the last has a backward of its own
    if scale != "tiny":
        raise ValueError(f"cross_entropy has cases for the scales tiny, cpu, gpu and code, not {scale!r}")
    everything = {"label_smoothing": 0.1, "z_loss": 1e-3}
    ignoring = {"ignored": 0.4}
    return [
        _case(128, 256),
        _case(64, 10),
        _case(2, 32000),
        _case(2, 70001, draw=ignoring, **everything),
        _case(1, 1),
        _case(1, 1031, reduction="sum"),
        _case(0, 7, reduction="sum"),
        _case(7, 33, draw=ignoring, reduction="none", **everything),
        _case(9, 40, draw={"ignored": 1.0}),
        _case(13, 100, draw={**ignoring, "layout": "transposed"}, label_smoothing=0.3),
        _case(13, 100, draw={"layout": "every second"}, ignore_index=3, z_loss=1e-2),
        _case(8, 1040, draw={"values": "large"}),
        _case(12, 1500, draw={"values": "infinite"}, reduction="none"),
        _case(12, 50, draw={"values": "nan"}, label_smoothing=0.1, reduction="none"),
        _case(16, 512, "bfloat16", draw=ignoring, **everything),
        _case(5, 1030, "bfloat16", draw={"layout": "padded rows"}, reduction="sum"),
        _case(16, 512, "float16", draw=ignoring, **everything),
        _case(5, 1030, "float16", reduction="none"),
        _case(6, 1100, "float64", draw=ignoring, **everything),
    ]


def any_case() -> Any:
    """A hypothesis strategy of small cases."""
    from hypothesis import strategies as st

    def build(ignored: float, layout: str | None, **rest: Any) -> Case:
        return _case(**rest, draw={"ignored": ignored} | ({"layout": layout} if layout else {}))

    return st.builds(
        build,
        rows=st.integers(0, 9), classes=st.integers(1, 90) | st.sampled_from([1023, 1024, 1041, 2600]),
        dtype=st.sampled_from(["float32", "bfloat16", "float16", "float64"]), ignored=st.sampled_from([0.0, 0.3]),
        layout=st.sampled_from([None, "transposed", "every second", "padded rows"]),
        ignore_index=st.sampled_from([-100, 0]), label_smoothing=st.sampled_from([0.0, 0.1, 1.0]),
        z_loss=st.sampled_from([0.0, 1e-3]), reduction=st.sampled_from(["none", "mean", "sum"]),
    )  # fmt: skip


def case_of(logits: Tensor, target: Tensor, **options: Any) -> Case:
    """The case that a call is, for its cost."""
    wanted = torch.is_grad_enabled() and logits.requires_grad
    shape = {"rows": logits.shape[0], "classes": logits.shape[1]}
    return Case(str(logits.dtype).removeprefix("torch."), shape, options, gradient=wanted)


def inputs(case: Case, device: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh logits and target of one call.

    case.draw: ignored (share of the rows), layout ("transposed", "every second", "padded rows") and values ("large":
    far from 0; "infinite": half of each row and one whole row -inf, one logit +inf; "nan": one logit NaN).
    """
    rows, classes = case.shape["rows"], case.shape["classes"]
    dtype = getattr(torch, case.dtype)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float32).to(device)

    spread = 1.0 + 3.0 * torch.rand((), generator=generator).item()
    layout = case.draw.get("layout")
    if layout == "transposed":
        logits = (spread * normal(classes, rows)).to(dtype).T
    elif layout == "every second":
        logits = (spread * normal(rows, 2 * classes)).to(dtype)[:, ::2]
    elif layout == "padded rows":
        logits = (spread * normal(rows, classes + 3)).to(dtype)[:, :classes]
    else:
        logits = (spread * normal(rows, classes)).to(dtype)
    target = torch.randint(0, classes, (rows,), generator=generator).to(device)
    values = case.draw.get("values")
    if values == "large":
        logits = logits + 3000.0
    elif values == "infinite":
        logits[:, : classes // 2] = -torch.inf
        logits[1], logits[2, 5] = -torch.inf, torch.inf
        target[3:] = target[3:].clamp_min(classes // 2)
    elif values == "nan":
        logits[2, classes // 2] = torch.nan
    ignore = torch.rand(rows, generator=generator).to(device) < case.draw.get("ignored", 0.0)
    target[ignore] = case.options.get("ignore_index", -100)
    return {"logits": logits, "target": target}


def scales(tensors: dict[str, Tensor], options: dict[str, Any], upstream: Tensor) -> dict[str, Tensor]:
    """Loss: lse against the target's logit, reduced as the loss is. Gradient: softmax against one-hot and smoothing."""
    x, target = tensors["logits"], tensors["target"]
    smoothing, z = options["label_smoothing"], options["z_loss"]
    counted = target != options["ignore_index"]
    safe = target.where(counted, 0)[:, None]
    if x.shape[1] == 0:
        return {"output": upstream.abs(), "grad_logits": x}
    lse = x.logsumexp(1)
    losses = torch.maximum(lse.abs(), x.gather(1, safe)[:, 0].abs()) + z * lse.square()
    output = _reduce(losses.where(counted, 0), counted, options["reduction"])
    hot = torch.zeros_like(x).scatter_(1, safe, 1 - smoothing)
    softmax = (1 + 2 * z * lse).abs()[:, None] * (x - lse[:, None]).exp()
    count = counted.sum() if options["reduction"] == "mean" else 1
    gradient = torch.maximum(softmax, hot).clamp_min(smoothing / x.shape[1])
    rows = upstream.abs().expand(x.shape[0]).where(counted, 0) / count
    return {"output": output, "grad_logits": gradient * rows[:, None]}


# -- eager ------------------------------------------------------------------------------------------------------------


def eager(
    logits: Tensor, target: Tensor, *, ignore_index: int, label_smoothing: float, z_loss: float, reduction: str
) -> Tensor:
    logits = logits.to(loss_dtype(logits))
    loss = F.cross_entropy(
        logits, target, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction
    )
    if z_loss:
        counted = target != ignore_index
        loss = loss + z_loss * _reduce(logits.logsumexp(1).square().where(counted, 0), counted, reduction)
    return loss


# -- cpp, triton and cuda: operators of one signature, one autograd function ----------------------------------------


class CrossEntropyFunction(torch.autograd.Function):
    """Where the loss is reduced, the forward writes the gradient as well: the logits are read once and not kept.

    Without reduction, for float16 (whose gradients must be scaled before they are rounded, see torch.amp.GradScaler)
    and under torch.compile the backward writes it, from the maximum and the sum of each row.
    """

    @staticmethod
    def forward(
        ctx: Any, implementation: str, logits: Tensor, target: Tensor, ignore_index: int, smoothing: float, z: float,
        reduction: int,
    ) -> Tensor:  # fmt: skip
        ahead = reduction != NONE and logits.dtype != torch.float16 and not torch.compiler.is_compiling()
        options = (ignore_index, smoothing, z, reduction)
        loss, stats, gradient = _operator(implementation, "forward")(logits, target, *options, ahead)
        if ahead:
            ctx.save_for_backward(gradient)
        else:
            ctx.save_for_backward(logits, target, stats)
        ctx.implementation, ctx.options = implementation, options
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        native.refuse_second_derivative("cross_entropy", ctx.implementation)
        saved = ctx.saved_tensors
        if len(saved) == 1:
            gradient = times_upstream(saved[0], upstream)
        else:
            gradient = _operator(ctx.implementation, "backward")(upstream, *saved, *ctx.options)
        return None, gradient, None, None, None, None, None


def _operator(implementation: str, direction: str) -> Any:
    return getattr(torch.ops.perfsuite, f"cross_entropy_{implementation}_{direction}").default


def _native(implementation: str) -> Callable[..., Tensor]:
    def run(
        logits: Tensor, target: Tensor, *, ignore_index: int, label_smoothing: float, z_loss: float, reduction: str
    ) -> Tensor:
        options = (ignore_index, label_smoothing, z_loss, REDUCTIONS[reduction])
        if torch.is_grad_enabled() and logits.requires_grad:
            loss = CrossEntropyFunction.apply(implementation, logits, target, *options)
        else:
            loss = _operator(implementation, "forward")(logits, target, *options, False)[0]
        return loss.to(loss_dtype(logits))

    return run


def _register(implementation: str, kernels: Callable[[], Any]) -> None:
    """Operators from the launchers of a module: count_scale, launch_forward and launch_backward."""

    def forward(
        logits: Tensor, target: Tensor, ignore_index: int, smoothing: float, z: float, reduction: int, ahead: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits, target, scale = prepared(logits, target, ignore_index, reduction)
        gradient = logits.new_empty(logits.shape) if ahead else None
        losses, stats = kernels().launch_forward(logits, target, ignore_index, smoothing, z, scale, gradient)
        return reduced(losses, scale, reduction), stats, logits.new_empty(0) if gradient is None else gradient

    def backward(
        upstream: Tensor, logits: Tensor, target: Tensor, stats: Tensor, ignore_index: int, smoothing: float, z: float,
        reduction: int,
    ) -> Tensor:  # fmt: skip
        logits, target, scale = prepared(logits, target, ignore_index, reduction)
        gradient = logits.new_empty(logits.shape)
        upstream = upstream.to(stats.dtype).contiguous()
        kernels().launch_backward(logits, target, stats, ignore_index, smoothing, z, scale, upstream, gradient)
        return gradient

    def prepared(
        logits: Tensor, target: Tensor, ignore_index: int, reduction: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if logits.stride(1) != 1:
            logits = logits.contiguous()
        target = target.contiguous()
        mean = reduction == MEAN
        return logits, target, kernels().count_scale(target, ignore_index, _compute_dtype(logits)) if mean else None

    options = "int ignore_index, float smoothing, float z, int reduction"
    name = f"cross_entropy_{implementation}"
    native.raw_op(
        f"{name}_forward(Tensor logits, Tensor target, {options}, bool ahead) -> (Tensor, Tensor, Tensor)",
        forward, _forward_fake,
    )  # fmt: skip
    native.raw_op(
        f"{name}_backward(Tensor upstream, Tensor logits, Tensor target, Tensor stats, {options}) -> Tensor",
        backward, lambda upstream, logits, *rest: logits.new_empty(logits.shape),
    )  # fmt: skip


def reduced(losses: Tensor, scale: Tensor | None, reduction: int) -> Tensor:
    """The losses of rows as one, where that is asked for; scale: 1 / (rows that count), for the mean."""
    if reduction == NONE:
        return losses
    return losses.sum() * scale if reduction == MEAN else losses.sum()


def _forward_fake(
    logits: Tensor, target: Tensor, ignore_index: int, smoothing: float, z: float, reduction: int, ahead: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows, acc = logits.shape[0], _compute_dtype(logits)
    loss = logits.new_empty(rows if reduction == NONE else (), dtype=acc)
    return loss, logits.new_empty(rows, 2, dtype=acc), logits.new_empty(logits.shape if ahead else 0)


@cache
def cpp_kernels() -> Any:
    """The C++ operators as launchers, for perfsuite.kernels.linear_cross_entropy."""
    return import_module("perfsuite.kernels.cross_entropy_cpp")


@cache
def triton_kernels() -> Any:
    """The launchers in Triton."""
    return import_module("perfsuite.kernels.cross_entropy_triton")


@cache
def cuda_kernels() -> Any:
    """The launchers of the CUDA C++ kernels."""
    return import_module("perfsuite.kernels.cross_entropy_cuda")


_register("triton", triton_kernels)
_register("cuda", cuda_kernels)

OP = Op(
    name="cross_entropy",
    reference=reference,
    defaults={"ignore_index": -100, "label_smoothing": 0.0, "z_loss": 0.0, "reduction": "mean"},
    cost=cost,
    cases=cases,
    case_of=case_of,
    inputs=inputs,
    differentiable=("logits",),
    scales=scales,
    any_case=any_case,
    implementations=[
        native.eager(eager),
        native.compiled(reference),
        native.cpp(_native("cpp")),
        native.in_triton(_native("triton")),
        native.in_cuda(_native("cuda")),
    ],
    row_wise=("logits", "target"),
)
