"""The GPU as the measurements use it: its sizes, its timers, its memory. torch is imported where it is used.

Device time is what lies between two events that are recorded while a kernel still sleeps, so that no launch is waited
for (nvbench's blocking kernel). The second timer is the host's clock around a replayed graph of the same calls.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from perfsuite import gpu_state

Run = Callable[[], Any]
# At 1 to 2 GHz the first is about half a millisecond, more than the host needs for some launches.
_SLEEP_CYCLES = (1 << 20, 1 << 23, 1 << 26)


class TimerError(RuntimeError):
    """What a timer says cannot be used."""


def agree(first_ns: float, second_ns: float) -> bool:
    """Whether two timers agree: within 5 % or 2 us, whichever is more."""
    return abs(first_ns - second_ns) <= max(0.05 * first_ns, 2000.0)


class Gpu:
    """The current CUDA device of this process."""

    device = "cuda"

    def __init__(self) -> None:
        import torch

        self.index, self.count = torch.cuda.current_device(), torch.cuda.device_count()
        found = torch.cuda.get_device_properties(self.index)
        self.name: str = found.name
        self.capability = (found.major, found.minor)
        self.multiprocessors: int = found.multi_processor_count
        self.memory_bytes: int = found.total_memory
        self.l2_bytes: int = found.L2_cache_size
        # L1 and shared memory are one memory of each multiprocessor; a kernel that shares nothing has at least this.
        self.l1_bytes: int = found.shared_memory_per_multiprocessor
        self.uuid = str(found.uuid)

    def free_bytes(self) -> int:
        """Of the device's memory, what may be allocated now."""
        import torch

        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]

    def synchronize(self) -> None:
        """Wait until the device has nothing to do."""
        import torch

        torch.cuda.synchronize()

    def event_ns(self, run: Run, behind_sleep: bool = True) -> float:
        """Device time of everything that `run` launches. TimerError where the host cannot launch it fast enough.

        behind_sleep: False for what takes far longer than its launches, so that the device need not be kept waiting.
        """
        import torch

        for cycles in _SLEEP_CYCLES:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            if behind_sleep:
                torch.cuda._sleep(cycles)
            start.record()
            run()
            end.record()
            asleep = not start.query()
            end.synchronize()
            if asleep or not behind_sleep:
                return 1e6 * start.elapsed_time(end)
        raise TimerError("the device was ready before the host had launched what was to be timed")

    def host_ns(self, run: Run) -> float:
        """Time on the host's clock from before `run` until the device has done it."""
        self.synchronize()
        start = time.monotonic_ns()
        run()
        self.synchronize()
        return time.monotonic_ns() - start

    def graph(self, run: Run, calls: int) -> Run:
        """A function that replays a CUDA graph of `calls` times `run`."""
        import torch

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                run()
        graph.replay()
        self.synchronize()
        return graph.replay

    def side_by_side(self, first: Run, second: Run) -> Run:
        """A function that runs both at the same time, each on a stream of its own; the caller waits for them."""
        import torch

        streams = torch.cuda.Stream(), torch.cuda.Stream()

        def both() -> None:
            for stream, run in zip(streams, (first, second), strict=True):
                with torch.cuda.stream(stream):
                    run()

        return both

    def host_buffer(self, size_bytes: int, pinned: bool) -> Any:
        """Host memory as a uint8 tensor, touched; pinned memory can be reached by the device at the same address."""
        import torch

        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=pinned).zero_()

    def state(self) -> gpu_state.State:
        """Clock and throttling now."""
        return gpu_state.read()

    def recover(self) -> None:
        """After an error: forget what can be forgotten, so that the next measurement starts afresh."""
        import torch

        with suppress(RuntimeError):
            torch.cuda.synchronize()
            torch.cuda.empty_cache()


def reason_for_none() -> str | None:
    """Why there is no GPU to measure, or None where there is one. Imports torch."""
    from perfsuite.torch_rates import torch_reason

    reason = torch_reason()
    if reason:
        return reason
    import torch

    if torch.cuda.is_available():
        return None if torch.version.cuda else "this torch is not built for CUDA"
    return "torch sees no CUDA device"


def check_second_timer(gpu: Gpu, run: Run) -> dict[str, float]:
    """{"events_ns", "graph_ns"}: device time of one call by both timers, the best of five; by turns, so that both find
    the same clock. TimerError where they disagree."""
    calls = max(1, min(1000, int(_GRAPH_NS / max(1.0, gpu.event_ns(run)))))
    replay = gpu.graph(run, calls)
    pairs = [(gpu.event_ns(run), gpu.host_ns(replay) / calls) for _ in range(5)]
    events_ns, graph_ns = (min(times) for times in zip(*pairs, strict=True))
    if not agree(events_ns, graph_ns):
        raise TimerError(f"two timers disagree: {events_ns / 1e3:.4g} us by events, {graph_ns / 1e3:.4g} us by a graph")
    return {"events_ns": events_ns, "graph_ns": graph_ns}


# Long against the 10 or 20 us that the host's clock sees besides, and short: a graph of many products draws more power,
# at a lower clock, than single ones.
_GRAPH_NS = 3e6
