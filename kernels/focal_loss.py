"""Sigmoid focal loss of logits against class indices, as RetinaNet is trained with.

    u    = x_c, -x_c where c is the row's target class;   w = 1 - alpha, alpha where it is
    loss = 1 / normalizer sum_c w sigmoid(u)^gamma log(1 + exp(u))
    dloss/du = w sigmoid(u)^gamma (gamma sigmoid(-u) log(1 + exp(u)) + sigmoid(u)) / normalizer

that is -w (1 - p_t)^gamma log(p_t) with p_t = sigmoid(-u), written so that nothing cancels. The forward writes the
gradient as well: the logits are read once. Lin et al. 2017 (arXiv 1708.02002); torchvision.ops.sigmoid_focal_loss has
the formula, apex.contrib.focal_loss the targets.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perfsuite.kernels import native
from perfsuite.kernels.ahead import times_upstream
from perfsuite.kernels.contract import Case, Cost, Op

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton has no wheels for some platforms
    triton = None

BACKGROUND, IGNORED = -1, -2


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    normalizer: float | Tensor = 1.0,
) -> Tensor:
    """Focal loss, summed and divided by normalizer, by the chosen implementation (perfsuite.kernels.contract.select).

    logits: (..., classes), e.g. (images, anchors, classes), float32, bfloat16, float16 or float64, any strides.
    target: (...,) int64, a class, -1 for background (no class is the target) or -2 for an anchor that is ignored: its
    loss and gradient are 0 and its logits are not looked at. Another value is an error on the CPU and makes the loss
    NaN on a GPU.
    alpha: weight of the target class, 1 - alpha is that of the others; negative: no weights. gamma: at least 0.
    normalizer: a number, or a tensor of () on the logits' device, e.g. how many anchors have a class.
    Returns () in float32 (float64 for float64), also for half precision: sums of so many terms are out of its range.
    Differentiable in logits; eager also twice. Raises ValueError for arguments of other shapes, dtypes and values.
    """
    if logits.dim() < 1 or target.shape != logits.shape[:-1]:
        raise ValueError(
            "focal_loss: logits must be (..., classes) and target (...,), "
            f"got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    if target.dtype != torch.int64 or not logits.dtype.is_floating_point:
        raise ValueError(
            f"focal_loss: logits must be floating-point and target int64, got {logits.dtype} and {target.dtype}"
        )
    if not alpha <= 1.0 or not 0.0 <= gamma < float("inf"):
        raise ValueError(f"focal_loss: alpha must be at most 1 and gamma at least 0, got {alpha} and {gamma}")
    return OP(logits, target, _scalar(normalizer, logits), alpha=alpha, gamma=gamma)


def _scalar(normalizer: float | Tensor, logits: Tensor) -> Tensor | None:
    """As the kernels read it: None for 1, else () in the loss's dtype on the logits' device."""
    if not isinstance(normalizer, Tensor):
        return None if normalizer == 1 else logits.new_full((), normalizer, dtype=_loss_dtype(logits))
    if normalizer.dim() != 0 or normalizer.requires_grad or normalizer.device != logits.device:
        have = f"{tuple(normalizer.shape)} on {normalizer.device}, requires_grad={normalizer.requires_grad}"
        raise ValueError(f"focal_loss: normalizer must be () on {logits.device} and gets no gradient, got {have}")
    return normalizer.to(_loss_dtype(logits))


def reference(
    logits: Tensor, target: Tensor, normalizer: Tensor | None = None, *, alpha: float, gamma: float
) -> Tensor:
    """The formula in plain torch; half precision is computed in float32."""
    counted = (target != IGNORED)[..., None]
    x = logits.to(_loss_dtype(logits)).where(counted, 0)
    hot = _one_hot(target, x)
    u = torch.where(hot, -x, x)
    # torch.sigmoid takes its derivative from 1 - sigmoid(u), which has lost its last digits where u is large.
    decay = torch.exp(-u.where(u > 0, -u))
    q = torch.where(u > 0, 1.0, decay) / (1 + decay)
    loss = -q.pow(gamma) * F.logsigmoid(-u)
    if alpha >= 0:
        loss = torch.full_like(x, 1 - alpha).masked_fill(hot, alpha) * loss
    total = loss.where(counted, 0).sum()
    return total if normalizer is None else total / normalizer


def _one_hot(target: Tensor, like: Tensor) -> Tensor:
    return target[..., None] == torch.arange(like.shape[-1], device=like.device)


def _loss_dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


# -- cost and cases ---------------------------------------------------------------------------------------------------


def cost(case: Case) -> Cost:
    """Logits and targets are read once, the gradient is written once; the loss is too small to count.

    Per element: exponential, add, divide, multiply, logarithm, add, power, multiply, weight, sum; 5 more for the
    gradient. A flop each.
    """
    anchors = case.shape["images"] * case.shape["anchors"]
    elements = anchors * case.shape["classes"]
    passes = (2 if case.gradient else 1) * getattr(torch, case.dtype).itemsize
    return Cost(bytes=passes * elements + 8 * anchors, flops=(15 if case.gradient else 10) * elements)


def _case(
    images: int, anchors: int, classes: int, dtype: str = "float32", draw: dict[str, Any] | None = None, **options: Any
) -> Case:
    return Case(dtype, {"images": images, "anchors": anchors, "classes": classes}, options, draw or {})


def cases(scale: str) -> list[Case]:
    """Of scale "tiny", "cpu", "gpu" (120087 anchors of 264 classes: MLPerf's RetinaNet, 8732 of 81: SSD) or "code"."""
    if scale == "cpu":
        return [
            _case(4, 20000, 20),
            _case(2, 8732, 81, draw={"normalizer": True}),
            _case(4, 20000, 20, gamma=1.5),
            _case(64, 1, 1000, draw={"targets": 1.0}),
            _case(3, 10007, 13, draw={"layout": "transposed"}),
        ]
    if scale == "gpu":
        return [
            _case(4, 120087, 264, "bfloat16", draw={"normalizer": True}),
            _case(32, 120087, 264, "bfloat16", draw={"normalizer": True}),
            _case(32, 8732, 81, "bfloat16"),
            _case(8, 49104, 90, "float16"),
            _case(4, 120087, 264),
            _case(4, 120087, 264, "bfloat16", gamma=1.5),
        ]
    if scale == "code":
        few = [_case(1, 64, case.shape["classes"], case.dtype, **case.options) for case in cases("gpu")]
        return list({case.name: case for case in few}.values())
    if scale != "tiny":
        raise ValueError(f"focal_loss has cases for the scales tiny, cpu, gpu and code, not {scale!r}")
    with_normalizer = {"normalizer": True}
    return [
        _case(2, 60, 20),
        _case(1, 1, 1),
        _case(1, 0, 7),
        _case(2, 9, 1, draw=with_normalizer),
        _case(1, 3, 3001, draw={"targets": 0.7}),
        _case(2, 33, 5, draw={"targets": 1.0, **with_normalizer}, alpha=-1.0),
        _case(2, 33, 5, draw={"ignored": 1.0}),
        _case(2, 30, 17, gamma=0.0),
        _case(2, 30, 17, gamma=1.5, alpha=0.6),
        _case(1, 30, 17, gamma=5.0),
        _case(2, 21, 13, draw={"layout": "transposed"}),
        _case(2, 21, 13, draw={"layout": "every second"}, gamma=1.0),
        _case(2, 21, 13, draw={"layout": "padded rows"}),
        _case(2, 40, 20, draw={"values": "large"}),
        _case(2, 40, 20, draw={"values": "large"}, gamma=1.5),
        _case(2, 40, 20, draw={"values": "infinite"}),
        _case(2, 40, 20, draw={"values": "infinite"}, gamma=1.5),
        _case(2, 40, 20, draw={"values": "infinite loss"}),
        _case(2, 40, 20, draw={"values": "nan", **with_normalizer}),
        _case(2, 50, 20, "bfloat16", draw=with_normalizer),
        _case(1, 31, 7, "bfloat16", draw={"layout": "padded rows"}, gamma=3.0),
        _case(2, 50, 20, "float16", draw=with_normalizer),
        _case(1, 31, 7, "float16", draw={"layout": "transposed"}, alpha=0.5),
        _case(2, 30, 11, "float64", draw=with_normalizer),
        _case(1, 30, 11, "float64", draw={"values": "large"}, gamma=1.5),
    ]


def any_case() -> Any:
    """Small cases of any shape, dtype, layout and option, as a hypothesis strategy."""
    from hypothesis import strategies as st

    return st.builds(
        lambda images, anchors, classes, dtype, alpha, gamma, draw: _case(
            images, anchors, classes, dtype, {key: value for key, value in draw.items() if value},
            alpha=alpha, gamma=gamma,
        ),
        st.integers(0, 3), st.integers(0, 12), st.integers(1, 40),
        st.sampled_from(["float32", "bfloat16", "float16", "float64"]), st.sampled_from([0.25, 0.9, -1.0]),
        st.sampled_from([2.0, 0.0, 1.0, 1.5, 4.0]),
        st.fixed_dictionaries({
            "layout": st.sampled_from(["", "transposed", "every second", "padded rows"]),
            "values": st.sampled_from(["", "", "large"]),
            "normalizer": st.booleans(), "targets": st.sampled_from([0.0, 0.3, 1.0]),
        }),
    )  # fmt: skip


def case_of(logits: Tensor, target: Tensor, normalizer: Tensor | None = None, *, alpha: float, gamma: float) -> Case:
    """The case that a call is, for its cost."""
    shape = {"images": 1, "anchors": target.numel(), "classes": logits.shape[-1]}
    options = {"alpha": alpha, "gamma": gamma}
    wanted = torch.is_grad_enabled() and logits.requires_grad
    return Case(str(logits.dtype).removeprefix("torch."), shape, options, gradient=wanted)


def inputs(case: Case, device: str, generator: torch.Generator) -> dict[str, Tensor | None]:
    """Fresh logits and targets of one call: about -3 (few anchors have a class) with a spread of 1 to 4.

    case.draw: targets and ignored (shares of the anchors; 0.1 and 0.05), normalizer (the number of targets, as a
    tensor), layout ("transposed", "every second", "padded rows") and values ("large": +-100; "infinite": some logits of
    the first anchors, on the side where the loss is 0; "infinite loss": one on the other side; "nan": one NaN).
    """
    images, anchors, classes = (case.shape[key] for key in ("images", "anchors", "classes"))
    layout, values = case.draw.get("layout"), case.draw.get("values")
    spread = 1.0 + 3.0 * torch.rand((), generator=generator).item()

    def normal(*shape: int) -> Tensor:
        drawn = spread * torch.randn(*shape, generator=generator, dtype=torch.float32) - 3.0
        if values == "large":
            drawn = (8 * (drawn + 3.0)).clamp(-100, 100)
        return drawn.to(device, getattr(torch, case.dtype))

    if layout == "transposed":
        logits = normal(images, classes, anchors).transpose(1, 2)
    elif layout == "every second":
        logits = normal(images, anchors, 2 * classes)[..., ::2]
    elif layout == "padded rows":
        logits = normal(images, anchors, classes + 3)[..., :classes]
    else:
        logits = normal(images, anchors, classes)

    def share(name: str, usual: float) -> Tensor:
        return torch.rand(images, anchors, generator=generator) < case.draw.get(name, usual)

    target = torch.randint(0, classes, (images, anchors), generator=generator)
    target = target.where(share("targets", 0.1), BACKGROUND)
    target = target.where(~share("ignored", 0.05), IGNORED).to(device)
    if values == "infinite":
        target[0, :4] = torch.tensor([3, BACKGROUND, IGNORED, IGNORED])
        logits[0, :4, 3] = torch.tensor([torch.inf, -torch.inf, torch.inf, -torch.inf], dtype=logits.dtype)
    elif values == "infinite loss":
        target[0, 0], logits[0, 0, 3] = BACKGROUND, torch.inf
    elif values == "nan":
        target[0, :2] = torch.tensor([BACKGROUND, IGNORED])
        logits[0, :2, 1] = torch.nan
    count = (target >= 0).sum().clamp_min(1).to(_loss_dtype(logits)) if case.draw.get("normalizer") else None
    return {"logits": logits, "target": target, "normalizer": count}


def scales(tensors: dict[str, Tensor | None], options: dict[str, Any], upstream: Tensor) -> dict[str, Tensor]:
    """Where p_t is near 1, the 1 in 1 - p_t: what loss and gradient change by if it is off by 1. Else themselves."""
    logits, target, normalizer = tensors["logits"], tensors["target"], tensors["normalizer"]
    alpha, gamma = options["alpha"], options["gamma"]
    counted = (target != IGNORED)[..., None]
    x = logits.where(counted, 0)
    hot = _one_hot(target, x)
    u = torch.where(hot, -x, x)
    weight = torch.full_like(x, 1 - alpha).masked_fill(hot, alpha) if alpha >= 0 else torch.ones_like(x)
    q, p, softplus = torch.sigmoid(u), torch.sigmoid(-u), -F.logsigmoid(-u)
    inner = gamma * p * softplus + q
    power, change = q.pow(gamma), gamma * q.pow(max(gamma - 1, 0))
    losses, changes = (weight * factor * softplus * counted for factor in (power, change))
    total = losses.sum() if not x.numel() else torch.maximum(losses.sum(), changes.amax())
    divisor = 1.0 if normalizer is None else normalizer
    gradient = weight * torch.maximum(power, change) * inner * counted
    return {"output": total / divisor, "grad_logits": gradient * upstream.abs() / divisor}


# -- eager ------------------------------------------------------------------------------------------------------------


def _eager(logits: Tensor, target: Tensor, normalizer: Tensor | None = None, *, alpha: float, gamma: float) -> Tensor:
    x = logits.to(_loss_dtype(logits))
    hot = F.one_hot(target.clamp_min(0), x.shape[-1]).to(x.dtype) * (target >= 0)[..., None]
    p = torch.sigmoid(x)
    p_t = p * hot + (1 - p) * (1 - hot)
    loss = F.binary_cross_entropy_with_logits(x, hot, reduction="none") * (1 - p_t) ** gamma
    if alpha >= 0:
        loss = (alpha * hot + (1 - alpha) * (1 - hot)) * loss
    total = (loss * (target != IGNORED)[..., None]).sum()
    return total if normalizer is None else total / normalizer


# -- autograd of cpp (csrc/ops/cpu/focal_loss.h) and triton -----------------------------------------------------------


class _FocalLoss(torch.autograd.Function):
    """The forward writes the gradient for an upstream gradient of 1, which is what loss.backward() hands over.

    Not for float16, whose gradients must be scaled before they are rounded (torch.amp.GradScaler), and not under
    torch.compile, which may not look at the upstream gradient's value: there the backward reads the logits again.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, normalizer: Tensor | None, alpha: float, gamma: float, name: str
    ) -> Tensor:
        ctx.ahead = logits.dtype != torch.float16 and not torch.compiler.is_compiling()
        ctx.options, ctx.name = (alpha, gamma), name
        loss, gradient = _raw(name, "forward")(logits, target, normalizer, alpha, gamma, ctx.ahead)
        if ctx.ahead:
            ctx.save_for_backward(gradient)
        else:
            ctx.save_for_backward(logits, target, normalizer)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        native.refuse_second_derivative("focal_loss", ctx.name)
        if ctx.ahead:
            gradient = times_upstream(*ctx.saved_tensors, upstream)
        else:
            gradient = _raw(ctx.name, "backward")(upstream, *ctx.saved_tensors, *ctx.options)
        return gradient, None, None, None, None, None


def _raw(implementation: str, direction: str) -> Any:
    return getattr(torch.ops.perfsuite, f"focal_loss_{implementation}_{direction}").default


def _run(implementation: str) -> Any:
    def run(logits: Tensor, target: Tensor, normalizer: Tensor | None = None, *, alpha: float, gamma: float) -> Tensor:
        if torch.is_grad_enabled() and logits.requires_grad:
            return _FocalLoss.apply(logits, target, normalizer, alpha, gamma, implementation)
        return _raw(implementation, "forward")(logits, target, normalizer, alpha, gamma, False)[0]

    return run


# -- triton -----------------------------------------------------------------------------------------------------------

BLOCK = 2048

if triton is not None:

    @triton.jit
    def _log1p(x):
        """log(1 + x), x in [0, 1], to its last digits where x is small."""
        if x.dtype == tl.float64:
            y = 1 + x
            value = tl.where(y == 1, x, tl.log(y) * (x / tl.where(y == 1, 1.0, y - 1)))
        else:  # vector_log1p of csrc/ops/cpu/vector_math.h
            above = x > 0.41421356
            m = tl.where(above, 0.5 * (x - 1), x)
            p = 7.0376836292e-2 * m - 1.1514610310e-1
            p = p * m + 1.1676998740e-1
            p = p * m - 1.2420140846e-1
            p = p * m + 1.4249322787e-1
            p = p * m - 1.6668057665e-1
            p = p * m + 2.0000714765e-1
            p = p * m - 2.4999993993e-1
            p = p * m + 3.3333331174e-1
            square = m * m
            value = m + (p * (m * square) - 0.5 * square)
            value = tl.where(above, 0.69314718055994530942 + value, value)
        return value

    @triton.jit
    def focal_kernel(
        logits, target, normalizer, upstream, sums, gradient, count, CLASSES: tl.constexpr,
        TARGET_WEIGHT: tl.constexpr, OTHER_WEIGHT: tl.constexpr, GAMMA: tl.constexpr, DIVIDE: tl.constexpr,
        BACKWARD: tl.constexpr, WITH_GRADIENT: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """A program per BLOCK elements: the sum of their losses (not where BACKWARD) and their gradient, if wanted."""
        start = tl.program_id(0).to(tl.int64) * BLOCK  # anchors times classes may need more than 32 bits
        here = tl.arange(0, BLOCK)
        mask = here < count - start
        anchor = start // CLASSES
        place = (start - anchor * CLASSES).to(tl.int32) + here
        of_anchor = place // CLASSES
        at_target = tl.load(target + anchor + of_anchor, mask=mask, other=-2)
        x = tl.load(logits + start + here, mask=mask, other=0.0).to(ACC)
        # A target outside the classes makes its row NaN: loud, and nobody waits for the device.
        x = tl.where((at_target < -2) | (at_target >= CLASSES), float("nan"), x)
        hot = at_target == place - of_anchor * CLASSES
        counted = at_target != -2
        u = tl.where(hot, -x, x)
        decay = tl.exp(-tl.abs(u))
        larger = 1 / (1 + decay)
        smaller = decay * larger
        q = tl.where(u > 0, larger, smaller)
        small = _log1p(decay)
        softplus = tl.maximum(u, 0.0) + small
        weight = tl.where(hot, TARGET_WEIGHT, OTHER_WEIGHT).to(ACC)
        if GAMMA == 2:
            weight *= q * q
        elif GAMMA != 0:
            weight *= tl.exp(-GAMMA * tl.where(u < 0, softplus - u, small))  # softplus(-u) is -log(q)
        factor = tl.full((), 1, ACC)
        if DIVIDE:
            factor /= tl.load(normalizer)
        if BACKWARD:
            factor *= tl.load(upstream)
        else:
            tl.store(sums + tl.program_id(0), factor * tl.sum(tl.where(counted, weight * softplus, 0.0), 0))
        if WITH_GRADIENT:
            p = tl.where(u > 0, smaller, larger)
            slope = factor * weight * (GAMMA * p * softplus + q)
            slope = tl.where(counted, tl.where(hot, -slope, slope), 0.0)
            tl.store(gradient + start + here, slope.to(gradient.dtype.element_ty), mask=mask)

    def _launch(
        logits: Tensor, target: Tensor, normalizer: Tensor | None, upstream: Tensor | None, alpha: float, gamma: float,
        sums: Tensor, gradient: Tensor,
    ) -> None:  # fmt: skip
        if logits.numel():
            focal_kernel[(triton.cdiv(logits.numel(), BLOCK),)](
                logits.contiguous(), target.contiguous(), sums if normalizer is None else normalizer,
                sums if upstream is None else upstream, sums, gradient, logits.numel(), CLASSES=logits.shape[-1],
                TARGET_WEIGHT=alpha if alpha >= 0 else 1.0, OTHER_WEIGHT=1 - alpha if alpha >= 0 else 1.0, GAMMA=gamma,
                DIVIDE=normalizer is not None, BACKWARD=upstream is not None, WITH_GRADIENT=gradient.numel() > 0,
                ACC=tl.float64 if logits.dtype == torch.float64 else tl.float32, BLOCK=BLOCK, num_warps=8,
            )  # fmt: skip

    def _triton_forward(
        logits: Tensor, target: Tensor, normalizer: Tensor | None, alpha: float, gamma: float, with_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        """(loss, gradient for an upstream gradient of 1, or (0,) where it is not wanted)."""
        sums = logits.new_empty(triton.cdiv(logits.numel(), BLOCK), dtype=_loss_dtype(logits))
        gradient = logits.new_empty(logits.shape if with_gradient else (0,))
        _launch(logits, target, normalizer, None, alpha, gamma, sums, gradient)
        return sums.sum(), gradient

    def _triton_backward(
        upstream: Tensor, logits: Tensor, target: Tensor, normalizer: Tensor | None, alpha: float, gamma: float
    ) -> Tensor:
        gradient = logits.new_empty(logits.shape)
        _launch(logits, target, normalizer, upstream, alpha, gamma, upstream, gradient)
        return gradient

    native.raw_op(
        "focal_loss_triton_forward(Tensor logits, Tensor target, Tensor? normalizer, float alpha, float gamma, "
        "bool with_gradient) -> (Tensor, Tensor)",
        _triton_forward,
        lambda logits, target, normalizer, alpha, gamma, with_gradient: (
            logits.new_empty((), dtype=_loss_dtype(logits)),
            logits.new_empty(logits.shape if with_gradient else (0,)),
        ),
    )
    native.raw_op(
        "focal_loss_triton_backward(Tensor upstream, Tensor logits, Tensor target, Tensor? normalizer, float alpha, "
        "float gamma) -> Tensor",
        _triton_backward,
        lambda upstream, logits, *rest: logits.new_empty(logits.shape),
    )


OP = Op(
    name="focal_loss",
    reference=reference,
    defaults={"alpha": 0.25, "gamma": 2.0},
    cost=cost,
    cases=cases,
    case_of=case_of,
    inputs=inputs,
    differentiable=("logits",),
    scales=scales,
    implementations=[
        native.eager(_eager),
        native.compiled(_eager),
        native.cpp(_run("cpp")),
        native.in_triton(_run("triton")),
    ],
    any_case=any_case,
)
