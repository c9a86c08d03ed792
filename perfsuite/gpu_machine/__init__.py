"""What a GPU can do at best: bandwidth and latency of its memory, copies, launches, matrix products, power sensors.

The document has the keys that perfsuite.ceilings has for the CPU, so that perfsuite.roofline reads both alike.
"""

import time
from collections.abc import Callable
from typing import Any

from perfsuite.gpu_machine import gemm, latency, launch, memory, sensor, transfer
from perfsuite.gpu_machine.device import Gpu, reason_for_none
from perfsuite.gpu_machine.sections import measure_parts, one_line

Progress = Callable[[float, str], None]
"""Told the share that is done, and what is being measured."""

PARTS = {"levels": memory.prepare, "latency": latency.prepare, "transfers": transfer.prepare, "launch": launch.prepare}
"""Measured together, interleaved; the products come afterwards, as they leave the GPU hot."""
_EMPTY = {"levels": [], "latency": None, "transfers": None, "launch": None, "op_overhead_ns": None,
          "gemm_flops_per_s": {}, "gemm_reasons": {}, "gemm_sustained": None, "sensor": None}  # fmt: skip
# Preparing (warm walks, calibration) comes on top of it.
_LIMIT_S = 20.0
_SUSTAINED_S, _SENSOR_CYCLES = 2.0, 16


def measure(progress: Progress = lambda share, what: None, quick: bool = False) -> tuple[dict[str, Any] | None, str]:
    """(the document of the current CUDA device, ""), or (None, why there is none). About a minute, a third if quick.

    What could not be measured is None in it, and has its reason in "absent" or beside it.
    """
    reason = reason_for_none()
    if reason:
        return None, reason
    try:
        return measure_on(Gpu(), progress, quick), ""
    except (RuntimeError, ValueError) as error:
        return None, f"measuring the GPU failed: {one_line(error)}"


def bandwidths_and_products() -> dict[str, Any]:
    """The document with bandwidths and products only, a few rounds of each: some seconds.

    Raises RuntimeError without a CUDA device.
    """
    gpu, notes = Gpu(), []
    limit_s = time.monotonic() + _LIMIT_S / 4
    entries, absent = measure_parts(gpu, {"levels": memory.prepare}, 4, limit_s, lambda done: None, notes)
    products, more = measure_parts(gpu, {"gemm": gemm.prepare}, 4, limit_s, lambda done: None, notes)
    return _document(gpu) | entries | products | {"absent": absent | more, "notes": notes}


def measure_on(gpu: Gpu, progress: Progress, quick: bool) -> dict[str, Any]:
    """As measure(), of this device."""
    began, notes = time.monotonic(), list[str]()
    rounds, limit_s = (5, _LIMIT_S / 3) if quick else (12, _LIMIT_S)
    states = [gpu.state()]
    if gpu.count > 1:
        notes.append(f"{gpu.count} GPUs are there, device {gpu.index} was measured")

    def report(start: float, share: float, what: str) -> Callable[[int], None]:
        progress(start, what)

        def told(done: int) -> None:
            states.append(gpu.state())
            progress(start + share * done / rounds, what)

        return told

    entries, absent = measure_parts(
        gpu, PARTS, rounds, time.monotonic() + limit_s, report(0.0, 0.5, "GPU memory, copies and launches"), notes
    )
    products, more = measure_parts(
        gpu, {"gemm": gemm.prepare}, rounds, time.monotonic() + limit_s, report(0.5, 0.2, "GPU matrix products"), notes
    )
    entries, absent = entries | products, absent | more
    _sustain(gpu, entries, absent, quick, lambda share: progress(0.7 + 0.1 * share, "GPU products, sustained"))
    progress(0.8, "GPU power sensors")
    try:
        # The tensor cores draw the most power.
        dtype = "bfloat16" if entries["gemm_flops_per_s"].get("bfloat16") else "float32"
        load = gemm.product(gpu, dtype, gemm.SIZES[0])
        entries["sensor"] = sensor.measure(gpu, load, _SENSOR_CYCLES // 2 if quick else _SENSOR_CYCLES)
    except (RuntimeError, ValueError) as error:
        absent["sensor"] = one_line(error)
    for level in entries.get("levels", []):
        level["latency_ns"] = latency.of_level(entries.get("latency"), level["name"])
    lowered = sorted({name for state in states for name in state.lowered_by})
    if lowered:
        notes.append(f"the clock was lowered meanwhile ({', '.join(lowered)}): ceilings are lower bounds")
    clocks = [state.sm_clock_hz for state in states if state.sm_clock_hz]
    return _document(gpu) | entries | {
        "absent": absent, "notes": notes, "quick": quick, "elapsed_s": time.monotonic() - began,
        "sm_clock_hz": {"lo": min(clocks), "hi": max(clocks)} if clocks else None, "sm_clock_reason": states[0].reason,
    }  # fmt: skip


def _document(gpu: Gpu) -> dict[str, Any]:
    return {
        "index": gpu.index, "name": gpu.name, "compute_capability": f"{gpu.capability[0]}.{gpu.capability[1]}",
        "multiprocessors": gpu.multiprocessors, "memory_bytes": gpu.memory_bytes, "l2_bytes": gpu.l2_bytes,
        "l1_bytes": gpu.l1_bytes, **_EMPTY,
    }  # fmt: skip


def _sustain(
    gpu: Gpu, entries: dict[str, Any], absent: dict[str, str], quick: bool, progress: Callable[[float], None]
) -> None:
    """Adds "gemm_sustained": {dtype: ...} for every dtype whose burst was measured."""
    chosen = {dtype: burst["n"] for dtype, burst in entries.get("gemm_flops_per_s", {}).items() if burst}
    found = {}
    for done, (dtype, n) in enumerate(chosen.items()):
        progress(done / len(chosen))
        try:
            found[dtype] = gemm.sustained(gpu, dtype, n, _SUSTAINED_S / 4 if quick else _SUSTAINED_S)
        except RuntimeError as error:
            absent[f"sustained {dtype}"] = one_line(error)
            gpu.recover()
    entries["gemm_sustained"] = found or None
