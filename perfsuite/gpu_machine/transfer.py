"""Copies between host and device: each way and both at once, pinned and pageable, by size.

Timed by the host's clock, from before the copy is asked for until the device has it: what a training step would wait.
"""

from collections.abc import Callable
from typing import Any

from perfsuite.gpu_machine.device import Gpu, Run, TimerError, agree
from perfsuite.gpu_machine.sections import Found, Prepared
from perfsuite.stats import spread

SIZES = (8, 4 << 10, 64 << 10, 1 << 20, 16 << 20, 256 << 20)
"""The smallest is latency, the largest bandwidth."""
HTOD, DTOH, BOTH = "HtoD", "DtoH", "both"


def prepare(gpu: Gpu, notes: list[str]) -> Prepared:
    """Tasks by ("<direction> pinned|pageable", size) in ns; they give "transfers".

    [{"direction": "HtoD|DtoH|both", "pinned", "bytes" (of both ways together), "time_ns", "bytes_per_s"}].
    """
    import torch

    largest = max(size for size in SIZES if size <= max(SIZES[0], gpu.free_bytes() // 8))
    device_side = [torch.empty(largest, dtype=torch.uint8, device=gpu.device) for _ in range(2)]
    tasks: dict[tuple[str, str], Callable[[], list[float]]] = {}
    rows: list[tuple[str, bool, int]] = []
    for pinned in (True, False):
        host_side = [gpu.host_buffer(largest, pinned) for _ in range(2)]
        _check(gpu, host_side, device_side[0])
        for size in (size for size in SIZES if size <= largest):
            ways = {
                HTOD: _copy(device_side[0][:size], host_side[0][:size]),
                DTOH: _copy(host_side[1][:size], device_side[1][:size]),
            }
            if pinned:
                # One thread cannot have two pageable copies under way: each waits until the driver has staged it.
                ways[BOTH] = gpu.side_by_side(ways[HTOD], ways[DTOH])
            for way, run in ways.items():
                tasks[_key(way, pinned, size)] = lambda run=run: [gpu.host_ns(run) for _ in range(3)]
                rows.append((way, pinned, size * (2 if way == BOTH else 1)))
            if pinned and size == largest:
                for way in (HTOD, DTOH):
                    _check_timers(gpu, way, ways[way])
    notes.append("host-device copies: host memory is where this process's threads put it (one NUMA node)")

    def finish(found: Found) -> dict[str, Any]:
        return {"transfers": [_row(way, pinned, moved, found) for way, pinned, moved in rows]}

    return Prepared(tasks, finish)


def _key(way: str, pinned: bool, size: int) -> tuple[str, str]:
    return f"{way} {'pinned' if pinned else 'pageable'}", str(size)


def _copy(target: Any, source: Any) -> Run:
    return lambda: target.copy_(source, non_blocking=True)


def _check(gpu: Gpu, host_side: list[Any], device_side: Any) -> None:
    """There and back again, random bytes. RuntimeError where others come back."""
    import torch

    host_side[0].copy_(torch.randint(0, 256, host_side[0].shape, dtype=torch.uint8))
    device_side.zero_()
    _copy(device_side, host_side[0])()
    _copy(host_side[1], device_side)()
    gpu.synchronize()
    if not torch.equal(host_side[0], host_side[1]):
        raise RuntimeError("copies: what came back from the device is not what was sent")


def _check_timers(gpu: Gpu, way: str, run: Run) -> None:
    by_host_ns = min(gpu.host_ns(run) for _ in range(5))
    by_events_ns = min(gpu.event_ns(run) for _ in range(5))
    # The host's includes the call and the wait: some 10 us more are no disagreement.
    if not agree(by_host_ns, by_events_ns) and abs(by_host_ns - by_events_ns) > 20e3:
        raise TimerError(f"{way}: two timers disagree: {by_host_ns / 1e3:.4g} us by the host's clock, "
                         f"{by_events_ns / 1e3:.4g} us by events")  # fmt: skip


def _row(way: str, pinned: bool, moved: int, found: Found) -> dict[str, Any]:
    times = found[_key(way, pinned, moved // (2 if way == BOTH else 1))]
    return {
        "direction": way, "pinned": pinned, "bytes": moved, "time_ns": spread(times, best="low"),
        "bytes_per_s": spread([moved * 1e9 / ns for ns in times]),
    }  # fmt: skip
