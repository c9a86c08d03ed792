"""Cross-entropy of rows of logits against class indices, with label smoothing and z-loss.

    lse  = log sum_j exp(x_j)
    loss = lse - (1 - e) x_target - e mean_j x_j + z lse^2                    e: label_smoothing, z: z_loss
    dloss/dx_j = (1 + 2 z lse) softmax(x)_j - e / classes - (1 - e) [j = target]

Rows whose target is ignore_index have loss 0 and gradient 0 and do not count in the mean.
Label smoothing: Szegedy et al. 2016 (arXiv 1512.00567); z-loss: Chowdhery et al. 2022 (arXiv 2204.02311), section 5.
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
    return _reduce(loss.where(counted, 0), counted, reduction).to(_loss_dtype(logits))


def _reduce(losses: Tensor, counted: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return losses.sum() / counted.sum() if reduction == "mean" else losses.sum()


def _compute_dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _loss_dtype(logits: Tensor) -> torch.dtype:
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
    """Of scale "tiny" (1024x256 is llama's, 64x10 resnet's), "gpu" (128256 classes are Llama 3.1's) or "code"."""
    if scale == "gpu":
        return [
            _case(1024, 256),
            _case(256, 1000),
            _case(512, 32000),
            _case(8192, 32000, "bfloat16"),
            _case(8192, 128256, "bfloat16"),
            _case(4093, 50257, "bfloat16", label_smoothing=0.1),
        ]
    if scale == "code":
        widths = [(128256, "bfloat16"), (50257, "bfloat16"), (32000, "bfloat16"), (32000, "float32"), (256, "float32")]
        return [_case(64, classes, dtype) for classes, dtype in widths]
    if scale != "tiny":
        raise ValueError(f"cross_entropy has cases for the scales tiny, gpu and code, not {scale!r}")
    everything = {"label_smoothing": 0.1, "z_loss": 1e-3}
    ignoring = {"ignored": 0.4}
    return [
        _case(1024, 256),
        _case(64, 10),
        _case(4, 32000),
        _case(3, 70001, draw=ignoring, **everything),
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


def _eager(
    logits: Tensor, target: Tensor, *, ignore_index: int, label_smoothing: float, z_loss: float, reduction: str
) -> Tensor:
    logits = logits.to(_loss_dtype(logits))
    loss = F.cross_entropy(
        logits, target, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction
    )
    if z_loss:
        counted = target != ignore_index
        loss = loss + z_loss * _reduce(logits.logsumexp(1).square().where(counted, 0), counted, reduction)
    return loss


# -- cpp: csrc/ops/cpu/cross_entropy.h ---------------------------------------------------------------------------------


def _cpp(
    logits: Tensor, target: Tensor, *, ignore_index: int, label_smoothing: float, z_loss: float, reduction: str
) -> Tensor:
    loss = torch.ops.perfsuite.cross_entropy(
        logits, target, ignore_index, label_smoothing, z_loss, REDUCTIONS[reduction]
    )
    return loss.to(_loss_dtype(logits))


# -- triton -----------------------------------------------------------------------------------------------------------

# A row of at most this many classes is read once and stays in registers; a longer one is read again for its gradient.
ONE_BLOCK_CLASSES = 16384
LOOP_BLOCK = 8192

if triton is not None:

    @triton.jit
    def _gradient_block(exponentials, offsets, at_target, m, s, k, classes, SMOOTH: tl.constexpr, Z: tl.constexpr):
        """k times one block of a row's gradient; exponentials: exp(x - m)."""
        slope = 1 + 2 * Z * (m + tl.log(s))
        gradient = exponentials * (k * slope / s) - k * SMOOTH / classes
        return tl.where(offsets == at_target, gradient - k * (1 - SMOOTH), gradient)

    @triton.jit
    def forward_kernel(
        logits, row_stride, target, scale, loss, stats, gradient, classes, ignore_index,
        SMOOTH: tl.constexpr, Z: tl.constexpr, WITH_GRADIENT: tl.constexpr, ONE_BLOCK: tl.constexpr,
        LOWEST: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """A program per row: loss, stats (maximum, sum of exponentials) and, if wanted, the gradient times *scale."""
        row = tl.program_id(0).to(tl.int64)  # rows times classes may need more than 32 bits
        at_target = tl.load(target + row)
        offsets = tl.arange(0, BLOCK)
        out = gradient + row * classes
        if at_target == ignore_index:
            tl.store(loss + row, 0.0)
            tl.store(stats + 2 * row, 0.0)
            tl.store(stats + 2 * row + 1, 1.0)
            if WITH_GRADIENT:
                zeros = tl.zeros((BLOCK,), out.dtype.element_ty)
                for start in range(0, classes, BLOCK):
                    tl.store(out + start + offsets, zeros, mask=start + offsets < classes)
        else:
            x_row = logits + row * row_stride
            inside = (at_target >= 0) & (at_target < classes)
            # A target outside the classes makes its row NaN: loud, and nobody waits for the device.
            x_target = tl.load(x_row + at_target, mask=inside, other=float("nan")).to(ACC)
            # The maximum starts at the lowest finite number: blocks of -inf shall add 0 and not NaN.
            m = tl.full((), LOWEST, ACC)
            s = tl.zeros((), ACC)
            total = tl.zeros((), ACC)
            if ONE_BLOCK:
                mask = offsets < classes
                x = tl.load(x_row + offsets, mask=mask, other=-float("inf")).to(ACC)
                m = tl.maximum(m, tl.max(x, 0))
                exponentials = tl.exp(x - m)
                s = tl.sum(exponentials, 0)
                if SMOOTH > 0:
                    total = tl.sum(tl.where(mask, x, 0.0), 0)
            else:
                for start in range(0, classes, BLOCK):
                    mask = start + offsets < classes
                    x = tl.load(x_row + start + offsets, mask=mask, other=-float("inf")).to(ACC)
                    larger = tl.maximum(m, tl.max(x, 0))
                    s = s * tl.exp(m - larger) + tl.sum(tl.exp(x - larger), 0)
                    m = larger
                    if SMOOTH > 0:
                        total += tl.sum(tl.where(mask, x, 0.0), 0)
            log_s = tl.log(s)
            # The maximum is taken off before the small logarithm is added: nothing is lost where it is large.
            value = (m - x_target) + log_s
            if SMOOTH > 0:
                value = (1 - SMOOTH) * value + SMOOTH * ((m - total / classes) + log_s)
            if Z != 0:
                value += Z * (m + log_s) * (m + log_s)
            tl.store(loss + row, value)
            tl.store(stats + 2 * row, m)
            tl.store(stats + 2 * row + 1, s)
            if WITH_GRADIENT:
                k = tl.where(inside, tl.load(scale), float("nan"))
                if ONE_BLOCK:
                    block = _gradient_block(exponentials, offsets, at_target, m, s, k, classes, SMOOTH, Z)
                    tl.store(out + offsets, block.to(out.dtype.element_ty), mask=mask)
                else:
                    for start in range(0, classes, BLOCK):
                        here = start + offsets
                        mask = here < classes
                        x = tl.load(x_row + here, mask=mask, other=0.0).to(ACC)
                        block = _gradient_block(tl.exp(x - m), here, at_target, m, s, k, classes, SMOOTH, Z)
                        tl.store(out + here, block.to(out.dtype.element_ty), mask=mask)

    @triton.jit
    def backward_kernel(
        logits, row_stride, target, stats, upstream, gradient, classes, ignore_index,
        SMOOTH: tl.constexpr, Z: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """A program per row: its gradient times upstream[row], from the stats of the forward."""
        row = tl.program_id(0).to(tl.int64)
        at_target = tl.load(target + row)
        counted = at_target != ignore_index
        inside = (at_target >= 0) & (at_target < classes)
        k = tl.where(inside, tl.load(upstream + row), float("nan"))
        k = tl.where(counted, k, 0.0)
        m = tl.load(stats + 2 * row)
        s = tl.load(stats + 2 * row + 1)
        for start in range(0, classes, BLOCK):
            here = start + tl.arange(0, BLOCK)
            mask = here < classes
            # An ignored row is not read: with its stats 0 and 1 the block below is 0.
            x = tl.load(logits + row * row_stride + here, mask=mask & counted, other=0.0).to(ACC)
            block = _gradient_block(tl.exp(x - m), here, at_target, m, s, k, classes, SMOOTH, Z)
            out = gradient + row * classes + here
            tl.store(out, block.to(gradient.dtype.element_ty), mask=mask)

    @triton.jit
    def multiply_kernel(values, factor, count, BLOCK: tl.constexpr):
        """values *= *factor, in place; where the factor is 1 nothing is read or written."""
        k = tl.load(factor)
        if k != 1:
            here = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
            mask = here < count
            x = tl.load(values + here, mask=mask)
            tl.store(values + here, (x * k).to(values.dtype.element_ty), mask=mask)

    def launch_options(classes: int, dtype: torch.dtype) -> dict[str, Any]:
        """Block, warps and accumulator for rows of this many classes: at most 32 elements of a row to a thread."""
        one_block = classes <= ONE_BLOCK_CLASSES
        block = max(32, triton.next_power_of_2(classes)) if one_block else LOOP_BLOCK
        acc = tl.float64 if dtype == torch.float64 else tl.float32
        return {"ONE_BLOCK": one_block, "ACC": acc, "BLOCK": block, "num_warps": min(16, max(1, block // 1024))}

    def _triton_forward(
        logits: Tensor, target: Tensor, ignore_index: int, smoothing: float, z: float, scale: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(losses, stats, gradient times scale); the gradient is empty where scale is None."""
        if logits.stride(1) != 1:
            logits = logits.contiguous()
        (rows, classes), acc = logits.shape, _compute_dtype(logits)
        losses, stats = logits.new_empty(rows, dtype=acc), logits.new_empty(rows, 2, dtype=acc)
        gradient = logits.new_empty(0 if scale is None else logits.shape)
        if rows:
            forward_kernel[(rows,)](
                logits, logits.stride(0), target.contiguous(), losses if scale is None else scale, losses, stats,
                gradient, classes, ignore_index, SMOOTH=smoothing, Z=z, WITH_GRADIENT=scale is not None,
                LOWEST=torch.finfo(acc).min, **launch_options(classes, logits.dtype),
            )  # fmt: skip
        return losses, stats, gradient

    @torch.library.custom_op("perfsuite::cross_entropy_triton", mutates_args=())
    def _rows_op(
        logits: Tensor, target: Tensor, ignore_index: int, smoothing: float, z: float
    ) -> tuple[Tensor, Tensor]:
        """Losses of the rows and stats."""
        return _triton_forward(logits, target, ignore_index, smoothing, z, None)[:2]

    @_rows_op.register_fake
    def _(logits: Tensor, target: Tensor, ignore_index: int, smoothing: float, z: float) -> tuple[Tensor, Tensor]:
        rows, acc = logits.shape[0], _compute_dtype(logits)
        return logits.new_empty(rows, dtype=acc), logits.new_empty(rows, 2, dtype=acc)

    @torch.library.custom_op("perfsuite::cross_entropy_triton_backward", mutates_args=())
    def _rows_backward_op(
        upstream: Tensor, logits: Tensor, target: Tensor, stats: Tensor, ignore_index: int, smoothing: float, z: float
    ) -> Tensor:
        """The gradient of sum(upstream * losses)."""
        if logits.stride(1) != 1:
            logits = logits.contiguous()
        gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        if gradient.numel():
            options = launch_options(logits.shape[1], logits.dtype)
            del options["ONE_BLOCK"]
            backward_kernel[(logits.shape[0],)](
                logits, logits.stride(0), target.contiguous(), stats, upstream.contiguous(), gradient, logits.shape[1],
                ignore_index, SMOOTH=smoothing, Z=z, **options,
            )  # fmt: skip
        return gradient

    @_rows_backward_op.register_fake
    def _(upstream: Tensor, logits: Tensor, *_rest: Any) -> Tensor:
        return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)

    def _rows_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        logits, target, *ctx.options = inputs
        ctx.save_for_backward(logits, target, output[1])

    def _rows_backward(ctx: Any, upstream: Tensor, _stats: Tensor) -> tuple[Tensor | None, ...]:
        return _rows_backward_op(upstream, *ctx.saved_tensors, *ctx.options), None, None, None, None

    _rows_op.register_autograd(_rows_backward, setup_context=_rows_setup)

    class _FusedTriton(torch.autograd.Function):
        """The forward writes the gradient of the reduced loss as well; the backward multiplies it, unless by 1."""

        @staticmethod
        def forward(
            ctx: Any, logits: Tensor, target: Tensor, ignore_index: int, smoothing: float, z: float, reduction: str
        ) -> Tensor:
            counted = target != ignore_index
            count = counted.sum() if reduction == "mean" else counted.new_ones(())
            scale = count.to(_compute_dtype(logits)).reciprocal()
            losses, _, gradient = _triton_forward(logits, target, ignore_index, smoothing, z, scale)
            ctx.save_for_backward(gradient)
            ctx.factor = None
            return _reduce(losses, counted, reduction)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
            (gradient,) = ctx.saved_tensors
            if ctx.factor is not None:  # the graph was kept, and the gradient has been multiplied before
                return gradient * (upstream / ctx.factor), None, None, None, None, None
            ctx.factor = upstream
            if gradient.numel():
                grid = (triton.cdiv(gradient.numel(), 4096),)
                multiply_kernel[grid](gradient, upstream, gradient.numel(), BLOCK=4096, num_warps=8)
            return gradient, None, None, None, None, None


def _triton(
    logits: Tensor, target: Tensor, *, ignore_index: int, label_smoothing: float, z_loss: float, reduction: str
) -> Tensor:
    wants_gradient = torch.is_grad_enabled() and logits.requires_grad
    # float16 gradients must be scaled before they are rounded (torch.amp.GradScaler): not in the forward.
    ahead = wants_gradient and reduction != "none" and logits.dtype != torch.float16
    if ahead and not torch.compiler.is_compiling():
        loss = _FusedTriton.apply(logits, target, ignore_index, label_smoothing, z_loss, reduction)
    else:
        losses, _ = _rows_op(logits, target, ignore_index, label_smoothing, z_loss)
        loss = _reduce(losses, target != ignore_index, reduction)
    return loss.to(_loss_dtype(logits))


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
    implementations=[
        native.eager(_eager),
        native.compiled(reference),
        native.cpp(_cpp),
        native.in_triton(_triton),
    ],
)
