"""Kernels of batch_norm_add_relu for GPUs: in Triton here, in CUDA C++ in csrc/ops/cuda/batch_norm_add_relu.cu.

Both directions are three launches: sums over pieces of the rows (a row: the channels of a position of an NHWC tensor),
a small kernel that adds the pieces up in float64 and makes of them what each channel is multiplied with, and one that
goes over all elements. A piece is summed about the mean of its first rows, so that nothing cancels where x is far from
0, and that origin goes with its sums. Nothing waits for the device, and the number of pieces depends on sizes alone.
"""

from typing import Any

import torch
from torch import Tensor

from perfsuite import cuda_extension
from perfsuite.kernels import native

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton has no wheels for some platforms
    triton = None

Forward = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Backward = tuple[Tensor, Tensor, Tensor, Tensor]

FORWARD = (
    "batch_norm_add_relu_{}_forward(Tensor x, Tensor? weight, Tensor? bias, Tensor? add, Tensor? given_mean, "
    "Tensor? given_var, float eps, bool relu, bool keep_mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
BACKWARD = (
    "batch_norm_add_relu_{}_backward(Tensor dy, Tensor x, Tensor? weight, Tensor mean, Tensor rstd, Tensor mask, "
    "bool training, bool relu, bool want_add) -> (Tensor, Tensor, Tensor, Tensor)"
)


def _acc(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _rows(x: Tensor) -> int:
    return x.shape[0] * x.shape[2] * x.shape[3]


def _empty_forward(x: Tensor, relu: bool, keep_mask: bool) -> Forward:
    """y, mean, rstd and unbiased variance, mask: as the operators return them, not filled."""
    channels = x.shape[1]
    mean, rstd, var = (x.new_empty(channels, dtype=_acc(x)) for _ in range(3))
    mask = x.new_empty(_rows(x) if relu and keep_mask else 0, (channels + 7) // 8, dtype=torch.uint8)
    return torch.empty_like(x), mean, rstd, var, mask


def _empty_backward(x: Tensor, want_add: bool) -> Backward:
    """Gradients of x, weight, bias and add, not filled."""
    d_weight, d_bias = (x.new_empty(x.shape[1], dtype=_acc(x)) for _ in range(2))
    return torch.empty_like(x), d_weight, d_bias, torch.empty_like(x) if want_add else x.new_empty(0)


def _fake_forward(
    x: Tensor, weight: Any, bias: Any, add: Any, mean: Any, var: Any, eps: float, relu: bool, keep_mask: bool
) -> Forward:
    return _empty_forward(x, relu, keep_mask)


def _fake_backward(
    dy: Tensor, x: Tensor, weight: Any, mean: Any, rstd: Any, mask: Any, training: bool, relu: bool, want_add: bool
) -> Backward:
    return _empty_backward(x, want_add)


def _given(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """mean, rstd, scale and shift of given statistics."""
    acc = _acc(x)
    rstd = (var.to(acc) + eps).rsqrt()
    scale = rstd if weight is None else rstd * weight
    return mean.to(acc, copy=True), rstd, scale, torch.zeros_like(rstd) if bias is None else bias.to(acc)


def _multiprocessors(x: Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 132


def _pieces(x: Tensor, blocks_of_channels: int, least_rows: int) -> tuple[int, int]:
    """(number of pieces, rows of each): four programs for each multiprocessor; the last piece may be shorter."""
    rows = _rows(x)
    wanted = max(1, 4 * _multiprocessors(x) // blocks_of_channels)
    of_each = -(-rows // wanted)
    of_each = max(1, -(-of_each // least_rows)) * least_rows
    return -(-rows // of_each), of_each


# -- Triton -----------------------------------------------------------------------------------------------------------

TILE = 2048  # elements of each tensor that a program has in registers at a time
MOST_CHANNELS = 128  # of a tile: 256 bytes of a row in half precision

if triton is not None:

    @triton.jit
    def sums_kernel(
        x, partial, rows, rows_of_each, channels, ACC: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
    ):
        """partial (pieces, 3, channels): an origin near x, the sums of x - origin and of its square."""
        first = tl.program_id(0).to(tl.int64) * rows_of_each
        count = tl.minimum(rows - first, rows_of_each).to(tl.int32)
        r = tl.arange(0, ROWS)
        c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        inside = c < channels
        at = x + (first + r)[:, None] * channels + c[None, :]
        values = tl.load(at, mask=(r < count)[:, None] & inside[None, :], other=0.0).to(ACC)
        origin = tl.sum(values, 0) / tl.minimum(count, ROWS).to(ACC)
        origin = tl.where(origin - origin == 0, origin, 0.0)  # where it is infinite or NaN, any number will do
        s1 = tl.zeros((ROWS, CHANNELS), ACC)
        s2 = tl.zeros((ROWS, CHANNELS), ACC)
        for step in range(0, count, ROWS):
            mask = (step + r < count)[:, None] & inside[None, :]
            d = tl.where(mask, tl.load(at, mask=mask, other=0.0).to(ACC) - origin[None, :], 0.0)
            s1 += d
            s2 += d * d
            at += ROWS * channels
        out = partial + tl.program_id(0) * 3 * channels + c
        tl.store(out, origin, mask=inside)
        tl.store(out + channels, tl.sum(s1, 0), mask=inside)
        tl.store(out + 2 * channels, tl.sum(s2, 0), mask=inside)

    @triton.jit
    def statistics_kernel(
        partial, weight, bias, mean_out, rstd_out, var_out, scale_out, shift_out, rows, rows_of_each, pieces, channels,
        EPS: tl.constexpr, ACC: tl.constexpr, PIECES: tl.constexpr, CHANNELS: tl.constexpr,
    ):  # fmt: skip
        """Adds up the pieces about the origin of the first one: no NaN where there is one infinite value."""
        c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
        inside = c < channels
        origin = tl.load(partial + c, mask=inside, other=0.0).to(tl.float64)
        s1 = tl.zeros((PIECES, CHANNELS), tl.float64)
        s2 = tl.zeros((PIECES, CHANNELS), tl.float64)
        for first in range(0, pieces, PIECES):
            p = first + tl.arange(0, PIECES)
            mask = (p < pieces)[:, None] & inside[None, :]
            at = partial + p[:, None] * 3 * channels + c[None, :]
            n = tl.minimum(rows - p.to(tl.int64) * rows_of_each, rows_of_each).to(tl.float64)[:, None]
            step = tl.load(at, mask=mask, other=0.0).to(tl.float64) - origin[None, :]
            t1 = tl.load(at + channels, mask=mask, other=0.0).to(tl.float64)
            t2 = tl.load(at + 2 * channels, mask=mask, other=0.0).to(tl.float64)
            s1 += tl.where(mask, t1 + n * step, 0.0)
            s2 += tl.where(mask, t2 + step * (2 * t1 + n * step), 0.0)
        count = tl.zeros((), tl.float64) + rows
        step = tl.sum(s1, 0) / count
        squares = tl.sum(s2, 0) - step * step * count
        squares = tl.where(squares < 0, 0.0, squares)  # NaN stays
        mean = origin + step
        rstd = 1 / tl.sqrt(squares / count + EPS)
        scale = rstd
        if weight is not None:
            scale *= tl.load(weight + c, mask=inside, other=0.0).to(tl.float64)
        # What the mean loses when it is rounded comes back in the shift. Where that is no number nothing is lost.
        lost = (mean.to(ACC).to(tl.float64) - mean) * scale
        shift = tl.where(lost - lost == 0, lost, 0.0)
        if bias is not None:
            shift += tl.load(bias + c, mask=inside, other=0.0).to(tl.float64)
        tl.store(mean_out + c, mean.to(ACC), mask=inside)
        tl.store(rstd_out + c, rstd.to(ACC), mask=inside)
        tl.store(var_out + c, (squares / tl.maximum(count - 1, 1.0)).to(ACC), mask=inside)
        tl.store(scale_out + c, scale.to(ACC), mask=inside)
        tl.store(shift_out + c, shift.to(ACC), mask=inside)

    @triton.jit
    def apply_kernel(
        x, add, y, mask_out, mean, scale, shift, rows, channels, mask_bytes,
        RELU: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    ):  # fmt: skip
        """y, and where mask_out is not None a bit for each element, in whole bytes for each row."""
        r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        inside = c < channels
        at = r[:, None] * channels + c[None, :]
        mask = (r < rows)[:, None] & inside[None, :]
        centered = tl.load(x + at, mask=mask, other=0.0).to(ACC) - tl.load(mean + c, mask=inside, other=0.0)[None, :]
        z = centered * tl.load(scale + c, mask=inside, other=0.0)[None, :]
        z += tl.load(shift + c, mask=inside, other=0.0)[None, :]
        if add is not None:
            z += tl.load(add + at, mask=mask, other=0.0).to(ACC)
        if RELU:
            passes = (z > 0) | (z != z)
            if mask_out is not None:
                bits = tl.reshape(passes.to(tl.int32), (ROWS, CHANNELS // 8, 8)) << tl.arange(0, 8)[None, None, :]
                b = tl.program_id(1) * (CHANNELS // 8) + tl.arange(0, CHANNELS // 8)
                to = mask_out + r[:, None] * mask_bytes + b[None, :]
                tl.store(to, tl.sum(bits, 2).to(tl.uint8), mask=(r < rows)[:, None] & (b < mask_bytes)[None, :])
            z = tl.where(passes, z, 0.0)
        tl.store(y + at, z.to(y.dtype.element_ty), mask=mask)

    @triton.jit
    def _masked(dy, bits, at, r, c, mask, mask_bytes, ACC: tl.constexpr):
        """dy where its bit is set, else 0; all of dy where bits is None."""
        g = tl.load(dy + at, mask=mask, other=0.0).to(ACC)
        if bits is not None:
            byte = tl.load(bits + r[:, None] * mask_bytes + (c // 8)[None, :], mask=mask, other=0)
            g = tl.where((byte >> (c % 8)[None, :]) & 1 != 0, g, 0.0)
        return g

    @triton.jit
    def backward_sums_kernel(
        dy, bits, x, mean, partial, rows, rows_of_each, channels, mask_bytes,
        ACC: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    ):  # fmt: skip
        """partial (pieces, 2, channels): the sums of g and of g (x - mean)."""
        first = tl.program_id(0).to(tl.int64) * rows_of_each
        count = tl.minimum(rows - first, rows_of_each).to(tl.int32)
        c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        inside = c < channels
        center = tl.load(mean + c, mask=inside, other=0.0)[None, :]
        s1 = tl.zeros((ROWS, CHANNELS), ACC)
        s2 = tl.zeros((ROWS, CHANNELS), ACC)
        for step in range(0, count, ROWS):
            r = step + tl.arange(0, ROWS)
            mask = (r < count)[:, None] & inside[None, :]
            at = (first + r)[:, None] * channels + c[None, :]
            g = _masked(dy, bits, at, first + r, c, mask, mask_bytes, ACC)
            d = tl.load(x + at, mask=mask, other=0.0).to(ACC) - center
            s1 += g
            s2 += tl.where(mask, g * d, 0.0)
        out = partial + tl.program_id(0) * 2 * channels + c
        tl.store(out, tl.sum(s1, 0), mask=inside)
        tl.store(out + channels, tl.sum(s2, 0), mask=inside)

    @triton.jit
    def coefficients_kernel(
        partial, weight, rstd, d_weight, d_bias, a, b, d, rows, pieces, channels,
        ACC: tl.constexpr, PIECES: tl.constexpr, CHANNELS: tl.constexpr,
    ):  # fmt: skip
        """Adds up the pieces: gradients of weight and bias, and dx = a g + b (x - mean) + d."""
        c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
        inside = c < channels
        s1 = tl.zeros((PIECES, CHANNELS), tl.float64)
        s2 = tl.zeros((PIECES, CHANNELS), tl.float64)
        for first in range(0, pieces, PIECES):
            p = first + tl.arange(0, PIECES)
            mask = (p < pieces)[:, None] & inside[None, :]
            at = partial + p[:, None] * 2 * channels + c[None, :]
            s1 += tl.load(at, mask=mask, other=0.0).to(tl.float64)
            s2 += tl.load(at + channels, mask=mask, other=0.0).to(tl.float64)
        g_sum = tl.sum(s1, 0)
        gx_sum = tl.sum(s2, 0)
        count = tl.zeros((), tl.float64) + rows
        r = tl.load(rstd + c, mask=inside, other=0.0).to(tl.float64)
        slope = r
        if weight is not None:
            slope *= tl.load(weight + c, mask=inside, other=0.0).to(tl.float64)
        tl.store(d_weight + c, (gx_sum * r).to(ACC), mask=inside)
        tl.store(d_bias + c, g_sum.to(ACC), mask=inside)
        tl.store(a + c, slope.to(ACC), mask=inside)
        tl.store(b + c, (-slope * r * r * gx_sum / count).to(ACC), mask=inside)
        tl.store(d + c, (-slope * g_sum / count).to(ACC), mask=inside)

    @triton.jit
    def backward_kernel(
        dy, bits, x, mean, a, b, d, dx, d_add, rows, channels, mask_bytes,
        TRAINING: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    ):  # fmt: skip
        """dx, and g where d_add is not None."""
        r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        inside = c < channels
        at = r[:, None] * channels + c[None, :]
        mask = (r < rows)[:, None] & inside[None, :]
        g = _masked(dy, bits, at, r, c, mask, mask_bytes, ACC)
        gradient = g * tl.load(a + c, mask=inside, other=0.0)[None, :]
        if TRAINING:
            center = tl.load(mean + c, mask=inside, other=0.0)[None, :]
            rest = (tl.load(x + at, mask=mask, other=0.0).to(ACC) - center) * tl.load(b + c, mask=inside, other=0.0)[
                None, :
            ]
            gradient += rest + tl.load(d + c, mask=inside, other=0.0)[None, :]
        tl.store(dx + at, gradient.to(dx.dtype.element_ty), mask=mask)
        if d_add is not None:
            tl.store(d_add + at, g.to(d_add.dtype.element_ty), mask=mask)

    def _tile(x: Tensor) -> dict[str, Any]:
        """Rows and channels of a tile: whole rows where they are short, so that it is one piece of memory."""
        channels = min(MOST_CHANNELS, max(8, triton.next_power_of_2(x.shape[1])))
        acc = tl.float64 if x.dtype == torch.float64 else tl.float32
        return {"ACC": acc, "ROWS": TILE // channels, "CHANNELS": channels, "num_warps": 4}

    def _triton_forward(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, add: Tensor | None, given_mean: Tensor | None,
        given_var: Tensor | None, eps: float, relu: bool, keep_mask: bool,
    ) -> Forward:  # fmt: skip
        y, mean, rstd, var, mask = _empty_forward(x, relu, keep_mask)
        rows, channels, tile = _rows(x), x.shape[1], _tile(x)
        if x.numel() == 0:
            return y, mean.zero_(), rstd.fill_(1), var.fill_(1), mask
        blocks = triton.cdiv(channels, tile["CHANNELS"])
        if given_mean is None:
            pieces, rows_of_each = _pieces(x, blocks, tile["ROWS"])
            partial = x.new_empty(pieces, 3, channels, dtype=_acc(x))
            scale, shift = torch.empty_like(mean), torch.empty_like(mean)
            sums_kernel[(pieces, blocks)](x, partial, rows, rows_of_each, channels, **tile)
            statistics_kernel[(triton.cdiv(channels, 16),)](
                partial, weight, bias, mean, rstd, var, scale, shift, rows, rows_of_each, pieces, channels,
                EPS=eps, ACC=tile["ACC"], PIECES=64, CHANNELS=16, num_warps=4,
            )  # fmt: skip
        else:
            mean, rstd, scale, shift = _given(x, weight, bias, given_mean, given_var, eps)
            var.copy_(given_var)
        apply_kernel[(triton.cdiv(rows, tile["ROWS"]), blocks)](
            x, add, y, mask if relu and keep_mask else None, mean, scale, shift, rows, channels, mask.shape[1],
            RELU=relu, **tile,
        )  # fmt: skip
        return y, mean, rstd, var, mask

    def _triton_backward(
        dy: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, rstd: Tensor, mask: Tensor, training: bool,
        relu: bool, want_add: bool,
    ) -> Backward:  # fmt: skip
        dx, d_weight, d_bias, d_add = _empty_backward(x, want_add)
        rows, channels, tile = _rows(x), x.shape[1], _tile(x)
        if x.numel() == 0:
            return dx, d_weight.zero_(), d_bias.zero_(), d_add
        blocks = triton.cdiv(channels, tile["CHANNELS"])
        pieces, rows_of_each = _pieces(x, blocks, tile["ROWS"])
        partial = x.new_empty(pieces, 2, channels, dtype=_acc(x))
        a, b, d = (torch.empty_like(mean) for _ in range(3))
        bits = mask if relu else None
        backward_sums_kernel[(pieces, blocks)](
            dy, bits, x, mean, partial, rows, rows_of_each, channels, mask.shape[1], **tile
        )
        coefficients_kernel[(triton.cdiv(channels, 16),)](
            partial, weight, rstd, d_weight, d_bias, a, b, d, rows, pieces, channels,
            ACC=tile["ACC"], PIECES=64, CHANNELS=16, num_warps=4,
        )  # fmt: skip
        backward_kernel[(triton.cdiv(rows, tile["ROWS"]), blocks)](
            dy, bits, x, mean, a, b, d, dx, d_add if want_add else None, rows, channels, mask.shape[1],
            TRAINING=training, **tile,
        )  # fmt: skip
        return dx, d_weight, d_bias, d_add

    native.raw_op(FORWARD.format("triton"), _triton_forward, _fake_forward)
    native.raw_op(BACKWARD.format("triton"), _triton_backward, _fake_backward)


# -- CUDA C++ ---------------------------------------------------------------------------------------------------------

LEAST_ROWS = 128  # of a piece, for the threads of a block that lie along the rows


def _cuda_pieces(x: Tensor) -> tuple[int, int]:
    """As _pieces; a block has 32 threads along the channels at most, with 16 bytes each."""
    return _pieces(x, -(-x.shape[1] * x.element_size() // 512), LEAST_ROWS)


def _cuda_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, add: Tensor | None, given_mean: Tensor | None,
    given_var: Tensor | None, eps: float, relu: bool, keep_mask: bool,
) -> Forward:  # fmt: skip
    y, mean, rstd, var, mask = _empty_forward(x, relu, keep_mask)
    if x.numel() == 0:
        return y, mean.zero_(), rstd.fill_(1), var.fill_(1), mask
    pieces, rows_of_each = _cuda_pieces(x)
    weight, bias = (None if t is None else t.to(_acc(x)).contiguous() for t in (weight, bias))
    partial = None
    if given_mean is None:
        partial = x.new_empty(pieces, 3, x.shape[1], dtype=_acc(x))
        scale, shift = torch.empty_like(mean), torch.empty_like(mean)
    else:
        mean, rstd, scale, shift = _given(x, weight, bias, given_mean, given_var, eps)
        var.copy_(given_var)
    cuda_extension.call(
        "perfsuite_batch_norm_add_relu_forward", x.dtype, x, weight, bias, add, partial, mean, rstd, var, scale, shift,
        y, mask if relu and keep_mask else None, int(relu), _rows(x), rows_of_each, pieces, x.shape[1], eps,
    )  # fmt: skip
    return y, mean, rstd, var, mask


def _cuda_backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, rstd: Tensor, mask: Tensor, training: bool, relu: bool,
    want_add: bool,
) -> Backward:  # fmt: skip
    dx, d_weight, d_bias, d_add = _empty_backward(x, want_add)
    if x.numel() == 0:
        return dx, d_weight.zero_(), d_bias.zero_(), d_add
    pieces, rows_of_each = _cuda_pieces(x)
    partial = x.new_empty(pieces, 2, x.shape[1], dtype=_acc(x))
    a, b, c = (torch.empty_like(mean) for _ in range(3))
    cuda_extension.call(
        "perfsuite_batch_norm_add_relu_backward", x.dtype, dy, mask if relu else None, x,
        None if weight is None else weight.to(_acc(x)).contiguous(), mean, rstd, partial, a, b, c, dx, d_weight, d_bias,
        d_add if want_add else None, int(training), _rows(x), rows_of_each, pieces, x.shape[1],
    )  # fmt: skip
    return dx, d_weight, d_bias, d_add


native.raw_op(FORWARD.format("cuda"), _cuda_forward, _fake_forward)
native.raw_op(BACKWARD.format("cuda"), _cuda_backward, _fake_backward)
