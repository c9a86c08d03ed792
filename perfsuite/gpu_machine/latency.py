"""Latency of a GPU's memory by the size that is walked through: one thread, each load waits for the one before.

Kernel: csrc/machine/chase.cu, in plain device memory. Nanoseconds are those of the GPU's own timer (globaltimer) and
must agree with events; cycles are those of the multiprocessor (clock64), so that the two give the clock it ran at.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from perfsuite import cuda_extension
from perfsuite.gpu_machine import plan
from perfsuite.gpu_machine.device import Gpu, TimerError, agree
from perfsuite.gpu_machine.sections import Found, Prepared
from perfsuite.stats import spread

if TYPE_CHECKING:
    pass

_REPETITION_NS = 1e6
_LEAST_HOPS = 2000


class Walk:
    """A random cycle through all lines of a buffer, and where the walk stands."""

    def __init__(self, device: str, size_bytes: int, line_bytes: int = plan.LINE_BYTES) -> None:
        """The first word of each line holds the address of the next line; it takes size_bytes."""
        import torch

        self.lines = size_bytes // line_bytes
        self.buffer = torch.zeros(self.lines, line_bytes // 8, dtype=torch.int64, device=device)
        order = torch.randperm(self.lines, device=device)
        addresses = self.buffer.data_ptr() + order * line_bytes
        self.buffer[order, 0] = addresses.roll(-1)
        self.position = addresses[:1].clone()
        self.times = torch.zeros(2, dtype=torch.int64, device=device)

    def launch(self, hops: int, warm_hops: int = 0) -> None:
        """Follow so many addresses; cycles and ns of the `hops` go to times, on the device."""
        import torch

        cuda_extension.call("machine_chase", torch.float32, self.position, self.times, warm_hops, hops)

    def cycles_and_ns(self) -> tuple[int, int]:
        """Of the last launch; waits for it."""
        cycles, ns = self.times.tolist()
        return cycles, ns


def prepare(gpu: Gpu, _notes: list[str]) -> Prepared:
    """Tasks by ("latency", size) in ns for a load; they give "latency": {"line_bytes", "ladder", "plateaus"}."""
    sizes = plan.ladder(gpu.l2_bytes, gpu.free_bytes())
    tasks, cycles = {}, {}
    for size in sizes:
        cycles[size] = []
        tasks["latency", str(size)] = _task(gpu, size, cycles[size])

    def finish(found: Found) -> dict[str, Any]:
        return {"latency": _entry(gpu, sizes, found, cycles)}

    return Prepared(tasks, finish)


def _task(gpu: Gpu, size: int, cycles: list[float]) -> Callable[[], list[float]]:
    walk = Walk(gpu.device, size)
    # What the caches can hold is walked through before, alone and by the same multiprocessor's thread. Beyond twice L2
    # a line has gone before the walk comes back to it.
    warm_hops = walk.lines if size <= 2 * gpu.l2_bytes else 0
    walk.launch(_LEAST_HOPS, warm_hops)
    hops = max(_LEAST_HOPS, int(_REPETITION_NS / max(1.0, walk.cycles_and_ns()[1] / _LEAST_HOPS)))
    by_events_ns = gpu.event_ns(lambda: walk.launch(hops))
    by_kernel_ns = walk.cycles_and_ns()[1]
    if not agree(by_events_ns, by_kernel_ns):
        raise TimerError(f"two timers disagree over {hops} loads: {by_events_ns / 1e3:.4g} us by events, "
                         f"{by_kernel_ns / 1e3:.4g} us by globaltimer")  # fmt: skip

    def repeat() -> list[float]:
        walk.launch(hops, warm_hops)
        took_cycles, took_ns = walk.cycles_and_ns()
        cycles.append(took_cycles / hops)
        return [took_ns / hops]

    return repeat


def _entry(gpu: Gpu, sizes: list[int], found: Found, cycles: dict[int, list[float]]) -> dict[str, Any]:
    def step(members: list[int]) -> dict[str, Any]:
        return {
            "latency_ns": spread([ns for size in members for ns in found["latency", str(size)]], best="low"),
            "cycles": spread([count for size in members for count in cycles[size]], best="low"),
        }

    plateaus = []
    for name, meaning in plan.PLATEAUS.items():
        members = [size for size in sizes if plan.plateau(size, gpu.l1_bytes, gpu.l2_bytes) == name]
        if members:
            entry = {"from_bytes": members[0], "to_bytes": members[-1], **step(members), "reason": None}
        else:
            entry = {"latency_ns": None, "cycles": None, "reason": f"no size of the ladder lies {meaning}"}
        plateaus.append({"name": name, "sizes": meaning, **entry})
    return {
        "line_bytes": plan.LINE_BYTES,
        "ladder": [{"bytes": size, **step([size])} for size in sizes],
        "plateaus": plateaus,
    }


def of_level(latency: dict[str, Any] | None, name: str) -> dict[str, Any] | None:
    """Latency of the step of this name, None where there is none."""
    steps = latency["plateaus"] if latency else []
    return next((step["latency_ns"] for step in steps if step["name"] == name), None)
