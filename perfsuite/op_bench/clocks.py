"""Timing a block of calls: on the CPU by the wall clock, on a GPU by events behind a sleeping kernel, and by a graph.

On the CPU host and device are one: both times are the wall clock's. On a GPU the device time of a call is what lies
between two events, recorded while a kernel still sleeps, so that no launch is waited for; the same calls replayed from
one CUDA graph are the second timer. Source of both: nvbench's blocking kernel, and the rotated graphs of flashinfer's
and quack's benchmarks.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

Pair = Callable[[int], tuple[Callable[[], Any], ...]]
After = Callable[[int, Any], None]
"""Told the index of the call and what a step of it returned, at once and off the clock."""

_now = time.perf_counter_ns  # taken before anybody's kernel is imported, who might replace it


class Sample(NamedTuple):
    """Times of one call in ns; backward None where there is none."""

    forward_ns: float
    backward_ns: float | None
    host_forward_ns: float
    host_backward_ns: float | None


def cpu_block(pair: Pair, calls: int, start: int, after: After | None = None) -> list[Sample]:
    """`calls` calls in a row on copies start, start + 1, ... What a call returned is freed before the next, untimed."""
    samples = []
    for index in range(start, start + calls):
        times = []
        for step in pair(index):
            t0 = _now()
            result = step()
            times.append(_now() - t0)
            if after:
                after(index, result)
            del result
        backward = times[1] if len(times) > 1 else None
        samples.append(Sample(times[0], backward, times[0], backward))
    return samples


def cuda_block(pair: Pair, calls: int, start: int, after: After | None = None) -> list[Sample]:
    """The same on a GPU; waits once, at the end."""
    events, host = [], []
    for index in range(start, start + calls):
        torch.cuda._sleep(_SLEEP_CYCLES)
        spans, times = [], []
        for step in pair(index):
            span = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            span[0].record()
            t0 = _now()
            result = step()
            times.append(_now() - t0)
            span[1].record()
            if after:
                after(index, result)
            del result
            spans.append(span)
        events.append(spans)
        host.append(times)
    torch.cuda.synchronize()
    samples = []
    for spans, times in zip(events, host, strict=True):
        device = [1e6 * a.elapsed_time(b) for a, b in spans]
        samples.append(Sample(device[0], device[1] if len(device) > 1 else None,
                              times[0], times[1] if len(times) > 1 else None))  # fmt: skip
    return samples


# About 0.5 ms at 2 GHz: longer than the host needs to launch a forward and a backward.
_SLEEP_CYCLES = 1_000_000


def cuda_empty_ns(repeats: int = 50) -> float:
    """What two events with nothing between them are apart: the median, to be subtracted."""
    marks = []
    for _ in range(repeats):
        torch.cuda._sleep(_SLEEP_CYCLES // 10)
        pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        pair[0].record()
        pair[1].record()
        marks.append(pair)
    torch.cuda.synchronize()
    return 1e6 * sorted(a.elapsed_time(b) for a, b in marks)[repeats // 2]


def cuda_graph_ns(pair: Pair, copies: int, replays: int = 10) -> tuple[float | None, str | None]:
    """Device time of one call, forward and backward together, replayed from a graph over all copies: (ns, None), or
    (None, why there is none)."""
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            _run_all(pair, copies)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            _run_all(pair, copies)
        graph.replay()
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(_SLEEP_CYCLES)
        a.record()
        for _ in range(replays):
            graph.replay()
        b.record()
        torch.cuda.synchronize()
        return 1e6 * a.elapsed_time(b) / (replays * copies), None
    except Exception as error:  # not everybody's kernels can be captured
        torch.cuda.synchronize()
        return None, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _run_all(pair: Pair, copies: int) -> None:
    for index in range(copies):
        for step in pair(index):
            step()

