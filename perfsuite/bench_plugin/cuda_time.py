"""Device time of somebody's function on a GPU: events behind a sleeping kernel, the L2 cache cold. Loads torch."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from perfsuite.op_bench import clocks

_BLOCK = 10
_FLUSH = 2
"""Times the size of the L2 cache that is written before each call."""


def uses_gpu(call: Callable[[], Any]) -> bool:
    """Whether a call (it is made once) leaves work on the current stream, allocates on the GPU or returns its tensors.

    A function that does none of these, and waits for the GPU itself, is not found out: set perf_benchmark.device.
    """
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats().get("allocation.all.allocated", 0)
    result = call()
    pending = not torch.cuda.current_stream().query()
    allocated = torch.cuda.memory_stats().get("allocation.all.allocated", 0) != before
    several = result if isinstance(result, tuple | list) else (result,)
    return pending or allocated or any(isinstance(one, torch.Tensor) and one.is_cuda for one in several)


def measure(call: Callable[[], Any], rounds: int) -> tuple[list[float], list[float]]:
    """Device and host times of `rounds` calls, in seconds; what two events with nothing between them take is off.

    The host time is that of launching: nobody waits for the device within it.
    """
    size = _FLUSH * torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    flush = torch.empty(max(size, 1 << 20), dtype=torch.uint8, device="cuda")

    def pair(index: int) -> tuple[Callable[[], Any], ...]:
        # The block times two things after each other: the flush takes the place of the forward, the call that of the
        # backward, so that the event between them is recorded behind the flush.
        return (flush.zero_, call)

    clocks.cuda_block(pair, 2, 0)
    empty_ns = clocks.cuda_empty_ns()
    device_s: list[float] = []
    host_s: list[float] = []
    while len(device_s) < rounds:
        for sample in clocks.cuda_block(pair, min(_BLOCK, rounds - len(device_s)), 0):
            # Never 0: pytest-benchmark divides by it.
            device_s.append(max(1.0, (sample.backward_ns or 0.0) - empty_ns) / 1e9)
            host_s.append((sample.host_backward_ns or 0.0) / 1e9)
    return device_s, host_s


def repeat(call: Callable[[], Any], seconds: float) -> int:
    """Call back to back for about this long, with a warm cache; how often it was called."""
    made, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        for _ in range(_BLOCK):
            call()
        torch.cuda.synchronize()
        made += _BLOCK
    return made


def typical(call: Callable[[], Any]) -> float:
    """Device time of a call in seconds, roughly, for choosing how often to make it."""
    return median(measure(call, 3)[0])
