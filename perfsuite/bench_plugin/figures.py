"""What there is to tell of a benchmark beside its time: bytes, flops and the machine's ceiling, memory, joules, clock.

What is not known is None beside a reason. torch is used where the process has loaded it, and never loaded from here.
"""

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

Call = Callable[[], Any]


def ceiling(time_s: float, device: str, bytes_: int | None, flops: int | None, dtype: str) -> dict[str, Any]:
    """{"bytes_per_s", "flops_per_s", "share_of_ceiling", "bound", "level", "ceiling_reason"} of one call.

    bytes_ is taken as what one call touches, too; dtype names the peak that flops are held against.
    """
    rates = {
        "bytes_per_s": bytes_ / time_s if bytes_ and time_s else None,
        "flops_per_s": flops / time_s if flops and time_s else None,
    }
    unknown = rates | {"share_of_ceiling": None, "bound": None, "level": None}
    if bytes_ is None:
        return unknown | {"ceiling_reason": "no bytes were declared: perf_benchmark.cost(bytes=...)"}
    machine, reason = _machine(device) if time_s else (None, "the timer stood still")
    if machine is None:
        return unknown | {"ceiling_reason": reason}
    from perfsuite import roofline

    short = {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}.get(dtype, dtype)
    place = roofline.place(machine, f"{short}[1]", 1, time_s, bytes_, flops, bytes_)
    reason = None if place.share_of_ceiling is not None else f"no ceiling is measured for {dtype}"
    return rates | {"share_of_ceiling": place.share_of_ceiling, "bound": place.bound, "level": place.level,
                    "ceiling_reason": reason}  # fmt: skip


@cache
def _machine(device: str) -> tuple[Any, str | None]:
    """The machine for perfsuite.roofline, or (None, why there is none). A GPU is measured, once a process."""
    if device == "cuda":
        from perfsuite.op_bench import gpu_ceilings

        return gpu_ceilings.measure()[0], None
    from perfsuite import machine, roofline

    ceilings, reason = machine.load_ceilings()
    return (None, reason) if ceilings is None else (roofline.machine_of(ceilings), None)


def peak_memory(call: Call, device: str) -> dict[str, Any]:
    """{"peak_bytes", "peak_source", "peak_reason"}: memory that one call holds at most, beyond what was there before.

    On a GPU, torch's allocator; on the CPU torch's where it is loaded and perfsuite._torch is built, else Python's
    (tracemalloc: objects, numpy's arrays). The least of three calls: a first one fills caches.
    """
    if device == "cuda":
        return _peak("torch's CUDA allocator", call, _cuda_peak)
    if "torch" in sys.modules:
        from perfsuite import torch_extension

        if not torch_extension.status().built:
            why = "torch is loaded and its allocator cannot be watched: run `python -m perfsuite.torch_extension`"
            return {"peak_bytes": None, "peak_source": None, "peak_reason": why}
        return _peak("torch's CPU allocator", call, _torch_peak)
    if tracemalloc.is_tracing():
        return {"peak_bytes": None, "peak_source": None, "peak_reason": "somebody else is using tracemalloc"}
    return _peak("tracemalloc", call, _python_peak)


def _peak(source: str, call: Call, measure: Callable[[Call], int]) -> dict[str, Any]:
    return {"peak_bytes": min(measure(call) for _ in range(3)), "peak_source": source, "peak_reason": None}


def _python_peak(call: Call) -> int:
    tracemalloc.start()
    try:
        result = call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        result = None  # noqa: F841  held until the peak is read


def _torch_peak(call: Call) -> int:
    from perfsuite.instruments.allocator import AllocatorAccount

    account = AllocatorAccount()
    account.start()
    result = call()
    peak = account.stop()["peak_bytes"]
    del result
    return peak


def _cuda_peak(call: Call) -> int:
    import torch

    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def launches(device: str) -> dict[str, Any]:
    """{"launches", "launches_reason"} of one call."""
    if device == "cuda":
        why = "not counted: what counts kernels slows the process down even after it has stopped"
        return {"launches": None, "launches_reason": why}
    return {"launches": None, "launches_reason": "a CPU launches no kernels"}


@contextmanager
def energy(calls: Callable[[], int]) -> Iterator[dict[str, Any]]:
    """Fills {"joules", "bound_j", "reason", "window_s"}, per call, with what was drawn inside.

    calls: how many calls were made inside, asked afterwards. Without a sensor nothing is started.
    """
    found: dict[str, Any] = {"joules": None, "bound_j": None, "window_s": None, "reason": _no_sensor()}
    if found["reason"] is not None:
        yield found
        return
    from perfsuite.energy import energy_between
    from perfsuite.instruments.sampler import Sampler

    sampler = Sampler()
    sampler.start()
    try:
        yield found
    finally:
        data = sampler.stop()
    times = data["t_ns"]
    if times[-1] <= times[0]:
        found["reason"] = "the benchmark was over before the sensor was read twice"
        return
    drawn, made = energy_between(data, int(times[0]), int(times[-1])), max(1, calls())
    found |= {"window_s": float(times[-1] - times[0]) / 1e9, "reason": drawn["reason"]}
    if drawn["available"]:
        found["joules"] = drawn["energy_j"] / made
        found["bound_j"] = None if drawn["bound_j"] is None else drawn["bound_j"] / made


@cache
def _no_sensor() -> str | None:
    from perfsuite.instruments.sampler import Sampler

    sources = Sampler().sources()
    reasons = [f"{name}: {sources[name].reason}" for name in ("gpu", "rapl") if not sources[name].available]
    return f"no power sensor ({'; '.join(reasons)})" if len(reasons) == 2 else None


def clock(device: str) -> dict[str, Any]:
    """{"sm_clock_hz", "lowered_by", "reason"} at this moment."""
    if device != "cuda":
        return {"sm_clock_hz": None, "lowered_by": [], "reason": "the clock of a CPU is not read"}
    from perfsuite.op_bench import gpu_state

    state = gpu_state.read()
    return {"sm_clock_hz": state.sm_clock_hz, "lowered_by": list(state.lowered_by), "reason": state.reason}
