"""Peaks of matrix products by dtype: two n x n matrices of random numbers, through torch (cuBLAS).

Random, because data decides the power that a product draws, and power the clock: 257 TFLOP/s with random numbers were
295 with zeros on an A100 (H. He, "Strangely, Matrix Multiplications on GPUs Run Faster When Given 'Predictable' Data!",
thonking.ai, 2024). A burst is one product after a pause; sustained is product after product, at the clock that power
and heat leave.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Any

from perfsuite.ceiling_tasks import Task
from perfsuite.gpu_machine.device import Gpu, Run, check_second_timer
from perfsuite.gpu_machine.sections import Found, Prepared, one_line
from perfsuite.stats import spread

SIZES = (4096, 8192, 16384)
# (bytes of an element, least compute capability, torch's name) by our name.
DTYPES: dict[str, tuple[int, tuple[int, int], str]] = {
    "float32": (4, (0, 0), "float32"),
    "tf32": (4, (8, 0), "float32"),
    "bfloat16": (2, (8, 0), "bfloat16"),
    "float16": (2, (0, 0), "float16"),
    "float8_e4m3fn": (1, (8, 9), "float8_e4m3fn"),
    "float64": (8, (0, 0), "float64"),
}
_LONGEST_NS = 50e6
_BATCH_NS = 200e6


def prepare(gpu: Gpu, notes: list[str]) -> Prepared:
    """Tasks by (dtype, n) in flops per second (2 n^3 flops each); they give "gemm_flops_per_s" and "gemm_reasons".

    {dtype: {"n", "ceiling", ..., "timers", "sizes": [{"n", "ceiling"}]} or None}: the spread is that of the best n.
    """
    tasks: dict[tuple[str, str], Task] = {}
    timers: dict[tuple[str, str], dict[str, float]] = {}
    reasons: dict[str, str] = {}
    for dtype in DTYPES:
        try:
            _plan(gpu, dtype, tasks, timers)
        except (RuntimeError, AttributeError, TypeError) as error:  # this torch or this GPU may not have the product
            reasons[dtype] = one_line(error)
            for key in [key for key in tasks if key[0] == dtype]:
                del tasks[key]
            gpu.recover()
    if "float8_e4m3fn" not in reasons:
        notes.append("GEMM float8_e4m3fn: torch._scaled_mm with fast accumulation, one scale a matrix, bfloat16 result")

    def finish(found: Found) -> dict[str, Any]:
        entries = {dtype: None if dtype in reasons else _entry(dtype, found, timers) for dtype in DTYPES}
        return {"gemm_flops_per_s": entries, "gemm_reasons": reasons}

    return Prepared(tasks, finish)


def _plan(gpu: Gpu, dtype: str, tasks: dict[tuple[str, str], Task], timers: dict[tuple[str, str], Any]) -> None:
    expected_ns = 0.0
    for n in SIZES:
        if expected_ns > _LONGEST_NS or 4 * n * n * DTYPES[dtype][0] > gpu.free_bytes() // 4:
            break
        run = product(gpu, dtype, n)
        gpu.event_ns(run)  # chooses a kernel
        took_ns = min(gpu.event_ns(run) for _ in range(3))
        if took_ns > _LONGEST_NS and expected_ns:
            break
        timers[dtype, str(n)] = check_second_timer(gpu, run)
        tasks[dtype, str(n)] = lambda run=run, n=n: [2 * n**3 * 1e9 / gpu.event_ns(run) for _ in range(3)]
        expected_ns = 8 * took_ns
    if not expected_ns:
        raise RuntimeError(f"free memory is too small for products of {SIZES[0]} x {SIZES[0]}")


def product(gpu: Gpu, dtype: str, n: int) -> Run:
    """A function that launches one product. RuntimeError where this GPU has no such units."""
    import torch

    _, least, name = DTYPES[dtype]
    if gpu.capability < least:
        raise RuntimeError(f"{dtype} needs compute capability {least[0]}.{least[1]}, this GPU has "
                           f"{gpu.capability[0]}.{gpu.capability[1]}")  # fmt: skip
    kind = getattr(torch, name)
    a, b = (torch.randn(n, n, device=gpu.device).to(kind) for _ in range(2))
    if dtype == "float8_e4m3fn":
        one, b = torch.ones((), device=gpu.device), b.t()  # the second operand has to lie by columns
        return lambda: torch._scaled_mm(a, b, one, one, out_dtype=torch.bfloat16, use_fast_accum=True)
    out = torch.empty_like(a)

    def run() -> None:
        with _float32_as("high" if dtype == "tf32" else "highest"):
            torch.mm(a, b, out=out)

    return run


@contextmanager
def _float32_as(precision: str) -> Iterator[None]:
    import torch

    before = torch.get_float32_matmul_precision()
    if before == precision:
        yield
        return
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _entry(dtype: str, found: Found, timers: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    by_n = {int(n): spread(samples) for (name, n), samples in found.items() if name == dtype}
    best = max(by_n, key=lambda n: by_n[n]["ceiling"])
    return {
        "n": best, **by_n[best], "timers": timers[dtype, str(best)],
        "sizes": [{"n": n, "ceiling": rate["ceiling"]} for n, rate in sorted(by_n.items())],
    }  # fmt: skip


def sustained(gpu: Gpu, dtype: str, n: int, seconds: float) -> dict[str, Any]:
    """Rate, clock and throttling while products follow each other for so many seconds; of the second half.

    {"seconds", "flops_per_s": spread, "sm_clock_hz": median or None, "lowered_by": [...], "reason" (no clock)}.
    """
    run = product(gpu, dtype, n)
    gpu.event_ns(run)
    batch = max(1, int(_BATCH_NS / max(1.0, gpu.event_ns(run))))
    start, rates, states = time.monotonic(), [], []
    while not rates or time.monotonic() < start + seconds:
        rates.append(batch * 2 * n**3 * 1e9 / gpu.event_ns(lambda: [run() for _ in range(batch)], behind_sleep=False))
        states.append(gpu.state())  # at once after the last product: the clock has not gone down yet
    rates, states = rates[len(rates) // 2 :], states[len(states) // 2 :]
    clocks = [state.sm_clock_hz for state in states if state.sm_clock_hz]
    return {
        "seconds": time.monotonic() - start,
        "flops_per_s": spread(rates),
        "sm_clock_hz": median(clocks) if clocks else None,
        "lowered_by": sorted({name for state in states for name in state.lowered_by}),
        "reason": states[0].reason,
    }
