"""RMSNorm and LayerNorm of rows in Triton: the launchers behind kernels/norm_rows.py and their kernels.

A tile of ROWS rows stays in registers from its first load to its last store; tiles are dealt out to a fixed number of
programs, a multiple of the processors, which load the next tile while they compute (num_stages). In the backward each
program keeps its own sums for weight and bias, in registers or, where rows are wide, in memory that stays in the L2
cache; a second kernel adds those of all programs in order. Rows too wide for registers are read again, see the kernels
named wide_*.
"""

from typing import Any

import torch
from torch import Tensor

from perfsuite.kernels import dropout_mask

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton has no wheels for some platforms
    triton = None

# The widest row that a tile holds, the widest beside which weight and bias or their sums stay in registers too, and the
# piece in which wider rows are read.
ONE_TILE = 16384
KEPT_IN_REGISTERS = 8192
WIDE_BLOCK = 8192
# Elements of a tile where rows are narrow.
TILE = 2048

if triton is not None:
    from perfsuite.kernels.dropout_mask import dropout_keep

    @triton.jit
    def _stream(
        x, x_stride, residual, residual_stride, seed, offset, h, row, columns, mask, width,
        THRESHOLD: tl.constexpr, SCALE: tl.constexpr, IN_FOURS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
        ACC: tl.constexpr,
    ):  # fmt: skip
        """A tile of h = residual + dropout(x), rounded as it is stored; where there are neither, x."""
        v = tl.load(x + row[:, None] * x_stride + columns[None, :], mask=mask, other=0.0).to(ACC)
        if seed is not None:
            keep = dropout_keep(row * width, columns, seed, offset, THRESHOLD, ROWS, BLOCK, IN_FOURS)
            v = v * SCALE * keep.to(ACC)
        if residual is not None:
            v += tl.load(residual + row[:, None] * residual_stride + columns[None, :], mask=mask, other=0.0).to(ACC)
        if h is not None:
            rounded = v.to(h.dtype.element_ty)
            tl.store(h + row[:, None] * width + columns[None, :], rounded, mask=mask)
            v = rounded.to(ACC)
        return v

    @triton.jit
    def _scaled(n, weight, bias, columns, inside, ACC: tl.constexpr):
        if weight is not None:
            n = n * tl.load(weight + columns, mask=inside, other=0.0).to(ACC)[None, :]
        if bias is not None:
            n += tl.load(bias + columns, mask=inside, other=0.0).to(ACC)[None, :]
        return n

    @triton.jit
    def forward_kernel(
        x, x_stride, residual, residual_stride, weight, bias, seed, offset, y, h, mean, rstd, rows, width,
        EPS: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr, IN_FOURS: tl.constexpr, ROWS: tl.constexpr,
        BLOCK: tl.constexpr, KEEP: tl.constexpr, STAGES: tl.constexpr, ACC: tl.constexpr,
    ):  # fmt: skip
        """Tiles of ROWS rows to programs in turn. mean None: RMSNorm. KEEP: weight and bias stay in registers."""
        columns = tl.arange(0, BLOCK)
        inside = columns < width
        if KEEP:
            if weight is not None:
                w = tl.load(weight + columns, mask=inside, other=0.0).to(ACC)[None, :]
            if bias is not None:
                b = tl.load(bias + columns, mask=inside, other=0.0).to(ACC)[None, :]
        first = tl.program_id(0).to(tl.int64) * ROWS  # rows times width may need more than 32 bits
        for start in tl.range(first, rows, tl.num_programs(0) * ROWS, num_stages=STAGES):
            row = start + tl.arange(0, ROWS)
            mask = (row < rows)[:, None] & inside[None, :]
            v = _stream(
                x, x_stride, residual, residual_stride, seed, offset, h, row, columns, mask, width,
                THRESHOLD, SCALE, IN_FOURS, ROWS, BLOCK, ACC,
            )  # fmt: skip
            if mean is not None:
                m = tl.sum(v, 1) / width
                tl.store(mean + row, m, mask=row < rows)
                v = tl.where(mask, v - m[:, None], 0.0)
            r = 1 / tl.sqrt(tl.sum(v * v, 1) / width + EPS)
            tl.store(rstd + row, r, mask=row < rows)
            out = v * r[:, None]
            if KEEP:
                if weight is not None:
                    out = out * w
                if bias is not None:
                    out += b
            else:
                out = _scaled(out, weight, bias, columns, inside, ACC)
            tl.store(y + row[:, None] * width + columns[None, :], out.to(y.dtype.element_ty), mask=mask)

    @triton.jit
    def wide_forward_kernel(
        x, x_stride, residual, residual_stride, weight, bias, seed, offset, y, h, mean, rstd, rows, width,
        EPS: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr, IN_FOURS: tl.constexpr, BLOCK: tl.constexpr,
        ACC: tl.constexpr,
    ):  # fmt: skip
        """A program per row; its blocks are read twice. Their means and squares are joined as Chan et al. (1979) do."""
        row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
        m = tl.zeros((1,), ACC)
        squares = tl.zeros((1,), ACC)
        for start in range(0, width, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            mask = (columns < width)[None, :]
            v = _stream(
                x, x_stride, residual, residual_stride, seed, offset, h, row, columns, mask, width,
                THRESHOLD, SCALE, IN_FOURS, 1, BLOCK, ACC,
            )  # fmt: skip
            if mean is not None:
                count = tl.minimum(width - start, BLOCK)
                here = tl.sum(v, 1) / count
                v = tl.where(mask, v - here[:, None], 0.0)
                apart = here - m
                share = count.to(ACC) / (start + count)
                squares += apart * apart * share * start
                m += apart * share
            squares += tl.sum(v * v, 1)
        tl.debug_barrier()  # what one thread has stored to h another may load
        r = 1 / tl.sqrt(squares / width + EPS)
        tl.store(rstd + row, r)
        if mean is not None:
            tl.store(mean + row, m)
        for start in range(0, width, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = columns < width
            if h is not None:
                v = tl.load(h + row[:, None] * width + columns[None, :], mask=inside[None, :], other=0.0).to(ACC)
            else:
                v = tl.load(x + row[:, None] * x_stride + columns[None, :], mask=inside[None, :], other=0.0).to(ACC)
            out = _scaled((v - m[:, None]) * r[:, None], weight, bias, columns, inside, ACC)
            at = y + row[:, None] * width + columns[None, :]
            tl.store(at, out.to(y.dtype.element_ty), mask=inside[None, :])

    @triton.jit
    def _store_gradients(
        d, upstream_h, seed, offset, grad_x, grad_residual, row, columns, mask, width,
        THRESHOLD: tl.constexpr, SCALE: tl.constexpr, IN_FOURS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
        ACC: tl.constexpr,
    ):  # fmt: skip
        """From d, the gradient that comes through the norm."""
        at = row[:, None] * width + columns[None, :]
        if upstream_h is not None:
            d += tl.load(upstream_h + at, mask=mask, other=0.0).to(ACC)
        if grad_residual is not None:
            tl.store(grad_residual + at, d.to(grad_residual.dtype.element_ty), mask=mask)
        if seed is not None:
            keep = dropout_keep(row * width, columns, seed, offset, THRESHOLD, ROWS, BLOCK, IN_FOURS)
            d = d * SCALE * keep.to(ACC)
        tl.store(grad_x + at, d.to(grad_x.dtype.element_ty), mask=mask)

    @triton.jit
    def _add_to(sums, v, inside):
        """sums += v, without waiting for sums. They are this program's own and each element is always added to by the
        same thread: in the order of the rows, atomic or not."""
        tl.atomic_add(sums, v, mask=inside, sem="relaxed")

    @triton.jit
    def backward_kernel(
        upstream, upstream_h, h, h_stride, weight, mean, rstd, seed, offset, grad_x, grad_residual, weight_sums,
        bias_sums, rows, width,
        THRESHOLD: tl.constexpr, SCALE: tl.constexpr, IN_FOURS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
        IN_REGISTERS: tl.constexpr, STAGES: tl.constexpr, ACC: tl.constexpr,
    ):  # fmt: skip
        """Tiles of ROWS rows to programs in turn; each adds up its own (width,) of weight_sums and bias_sums."""
        columns = tl.arange(0, BLOCK)
        inside = columns < width
        at_sums = tl.program_id(0).to(tl.int64) * width + columns
        if IN_REGISTERS:
            of_weight = tl.zeros((ROWS, BLOCK), ACC)
            of_bias = tl.zeros((ROWS, BLOCK), ACC)
        first = tl.program_id(0).to(tl.int64) * ROWS
        for start in tl.range(first, rows, tl.num_programs(0) * ROWS, num_stages=STAGES):
            row = start + tl.arange(0, ROWS)
            mask = (row < rows)[:, None] & inside[None, :]
            g = tl.load(upstream + row[:, None] * width + columns[None, :], mask=mask, other=0.0).to(ACC)
            v = tl.load(h + row[:, None] * h_stride + columns[None, :], mask=mask, other=0.0).to(ACC)
            r = tl.load(rstd + row, mask=row < rows, other=0.0)[:, None]
            if mean is not None:
                v -= tl.load(mean + row, mask=row < rows, other=0.0)[:, None]
            n = v * r
            if bias_sums is not None:
                if IN_REGISTERS:
                    of_bias += g
                else:
                    _add_to(bias_sums + at_sums, tl.sum(g, 0), inside)
            if weight_sums is not None:
                if IN_REGISTERS:
                    of_weight += g * n
                else:
                    _add_to(weight_sums + at_sums, tl.sum(g * n, 0), inside)
            gw = _scaled(g, weight, None, columns, inside, ACC)  # 0 beyond the row, whatever n is there
            d = gw - n * (tl.sum(gw * n, 1) / width)[:, None]
            if mean is not None:
                d -= (tl.sum(gw, 1) / width)[:, None]
            _store_gradients(
                d * r, upstream_h, seed, offset, grad_x, grad_residual, row, columns, mask, width,
                THRESHOLD, SCALE, IN_FOURS, ROWS, BLOCK, ACC,
            )  # fmt: skip
        if IN_REGISTERS:
            if weight_sums is not None:
                tl.store(weight_sums + at_sums, tl.sum(of_weight, 0), mask=inside)
            if bias_sums is not None:
                tl.store(bias_sums + at_sums, tl.sum(of_bias, 0), mask=inside)

    @triton.jit
    def wide_backward_kernel(
        upstream, upstream_h, h, h_stride, weight, mean, rstd, seed, offset, grad_x, grad_residual, weight_sums,
        bias_sums, rows, width,
        THRESHOLD: tl.constexpr, SCALE: tl.constexpr, IN_FOURS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
    ):  # fmt: skip
        """Rows to programs in turn; blocks are read twice. Sums are kept in memory, which stays in the cache."""
        at_sums = tl.program_id(0).to(tl.int64) * width
        for start in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
            row = start + tl.arange(0, 1)
            r = tl.load(rstd + row)[:, None]
            if mean is not None:
                m = tl.load(mean + row)[:, None]
            else:
                m = tl.zeros((1, 1), ACC)
            a = tl.zeros((1,), ACC)
            b = tl.zeros((1,), ACC)
            for begin in range(0, width, BLOCK):
                columns = begin + tl.arange(0, BLOCK)
                inside = columns < width
                mask = inside[None, :]
                g = tl.load(upstream + row[:, None] * width + columns[None, :], mask=mask, other=0.0).to(ACC)
                v = tl.load(h + row[:, None] * h_stride + columns[None, :], mask=mask, other=0.0).to(ACC)
                gw = _scaled(g, weight, None, columns, inside, ACC)
                a += tl.sum(gw * ((v - m) * r), 1)
                b += tl.sum(gw, 1)
            a = a / width
            b = b / width
            for begin in range(0, width, BLOCK):
                columns = begin + tl.arange(0, BLOCK)
                inside = columns < width
                mask = inside[None, :]
                g = tl.load(upstream + row[:, None] * width + columns[None, :], mask=mask, other=0.0).to(ACC)
                v = tl.load(h + row[:, None] * h_stride + columns[None, :], mask=mask, other=0.0).to(ACC)
                n = (v - m) * r
                d = _scaled(g, weight, None, columns, inside, ACC) - n * a[:, None]
                if mean is not None:
                    d -= b[:, None]
                _store_gradients(
                    d * r, upstream_h, seed, offset, grad_x, grad_residual, row, columns, mask, width,
                    THRESHOLD, SCALE, IN_FOURS, 1, BLOCK, ACC,
                )  # fmt: skip
                if weight_sums is not None:
                    _add_to(weight_sums + at_sums + columns, tl.sum(g * n, 0), inside)
                if bias_sums is not None:
                    _add_to(bias_sums + at_sums + columns, tl.sum(g, 0), inside)

    @triton.jit
    def sum_kernel(
        weight_sums, bias_sums, grad_weight, grad_bias, parts, width, ROWS: tl.constexpr, BLOCK: tl.constexpr
    ):  # fmt: skip
        """The (parts, width) sums of all programs, added in an order that is always the same."""
        columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = columns < width
        if weight_sums is not None:
            _sum_parts(weight_sums, grad_weight, parts, width, columns, inside, ROWS, BLOCK)
        if bias_sums is not None:
            _sum_parts(bias_sums, grad_bias, parts, width, columns, inside, ROWS, BLOCK)

    @triton.jit
    def _sum_parts(sums, out, parts, width, columns, inside, ROWS: tl.constexpr, BLOCK: tl.constexpr):
        total = tl.zeros((ROWS, BLOCK), sums.dtype.element_ty)
        for start in range(0, parts, ROWS):
            part = start + tl.arange(0, ROWS)
            at = sums + part[:, None].to(tl.int64) * width + columns[None, :]
            total += tl.load(at, mask=(part < parts)[:, None] & inside[None, :], other=0.0)
        tl.store(out + columns, tl.sum(total, 0), mask=inside)


def tile(width: int) -> tuple[int, int, int]:
    """Rows, columns and warps of a tile: 8 elements a thread, and 16 in the widest."""
    block = triton.next_power_of_2(width)
    rows = max(1, TILE // block)
    return rows, block, min(32, max(4, rows * block // 256))


def processors(x: Tensor) -> int:
    """Streaming multiprocessors of the GPU; where code is only compiled, those of an H100."""
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 132


def _stages(elements: int, loaded: list[Tensor | None]) -> int:
    """2, so that the next tile is on its way during this one, where what is loaded fits in shared memory; else 1."""
    tile_bytes = elements * sum(tensor.element_size() for tensor in loaded if tensor is not None)
    device = loaded[0].device
    limit = torch.cuda.get_device_properties(device).shared_memory_per_block_optin if device.type == "cuda" else 232448
    return 2 if tile_bytes <= limit - 8192 else 1


def rows_of(x: Tensor) -> tuple[Tensor, int]:
    """(rows, width) with adjacent columns, a view where that can be, and its row stride."""
    rows = x.reshape(-1, x.shape[-1])
    if rows.stride(1) != 1 and rows.shape[1] > 1:
        rows = rows.contiguous()
    return rows, rows.stride(0)


def _constants(dropout_p: float, width: int, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "THRESHOLD": dropout_mask.threshold(dropout_p),
        "SCALE": dropout_mask.scale(dropout_p),
        "IN_FOURS": width % 4 == 0,
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
    }


def forward(
    outputs: tuple[Tensor, ...], x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    seed: Tensor | None, offset: Tensor | None, centered: bool, eps: float, dropout_p: float, float32_output: bool,
) -> None:  # fmt: skip
    """Write y, h, mean and rstd, the outputs; see norm_rows.empty_forward."""
    y, h, mean, rstd = outputs
    rows, width = rstd.numel(), x.shape[-1]
    if not rows:
        return
    x, x_stride = rows_of(x)
    residual, residual_stride = (None, 0) if residual is None else rows_of(residual)
    arguments = (
        x, x_stride, residual, residual_stride, weight, bias, seed, offset, y, h if h.numel() else None,
        mean if centered else None, rstd, rows, width,
    )  # fmt: skip
    constants = {"EPS": eps, **_constants(dropout_p, width, rstd.dtype)}
    if width > ONE_TILE:
        block = min(WIDE_BLOCK, triton.next_power_of_2(width))
        wide_forward_kernel[(rows,)](*arguments, **constants, BLOCK=block, num_warps=16)
        return
    tile_rows, block, warps = tile(width)
    programs = min(triton.cdiv(rows, tile_rows), processors(x) * max(1, 32 // warps))
    keep = block <= KEPT_IN_REGISTERS
    stages = _stages(tile_rows * block, [x, residual] if keep else [x, residual, weight, bias])
    forward_kernel[(programs,)](
        *arguments, **constants, ROWS=tile_rows, BLOCK=block, KEEP=keep, STAGES=stages, num_warps=warps
    )


def backward(
    outputs: tuple[Tensor, ...], upstream: Tensor, upstream_h: Tensor | None, h: Tensor, weight: Tensor | None,
    mean: Tensor, rstd: Tensor, seed: Tensor | None, offset: Tensor | None, dropout_p: float, x_dtype: torch.dtype,
    centered: bool, separate_residual: bool, want_weight: bool, want_bias: bool,
) -> None:  # fmt: skip
    """Write the gradients of x, residual, weight and bias, the outputs; see norm_rows.empty_backward."""
    grad_x, grad_residual, grad_weight, grad_bias = outputs
    rows, width = rstd.numel(), h.shape[-1]
    if not rows:
        grad_weight.zero_()
        grad_bias.zero_()
        return
    wide = width > ONE_TILE
    tile_rows, block, warps = (1, min(WIDE_BLOCK, triton.next_power_of_2(width)), 16) if wide else tile(width)
    programs = min(triton.cdiv(rows, tile_rows), processors(h) * max(1, 32 // warps))
    in_registers = width <= KEPT_IN_REGISTERS
    make = torch.empty if in_registers else torch.zeros
    sums = [
        make(programs, width, dtype=rstd.dtype, device=rstd.device) if wanted else None
        for wanted in (want_weight, want_bias)
    ]
    h, h_stride = rows_of(h)
    arguments = (
        upstream.contiguous(), None if upstream_h is None else upstream_h.contiguous(), h, h_stride, weight,
        mean if centered else None, rstd, seed, offset, grad_x, grad_residual if separate_residual else None, *sums,
        rows, width,
    )  # fmt: skip
    constants = _constants(dropout_p, width, rstd.dtype)
    if wide:
        wide_backward_kernel[(programs,)](*arguments, **constants, BLOCK=block, num_warps=warps)
    else:
        backward_kernel[(programs,)](
            *arguments, **constants, ROWS=tile_rows, BLOCK=block, IN_REGISTERS=in_registers,
            STAGES=_stages(tile_rows * block, [upstream, upstream_h, h, weight]), num_warps=warps,
        )  # fmt: skip
    if want_weight or want_bias:
        sum_kernel[(triton.cdiv(width, 32),)](*sums, grad_weight, grad_bias, programs, width, ROWS=32, BLOCK=32)
