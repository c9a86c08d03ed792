"""The repetitions that ceilings are made of: each quantity is a task that gives some samples; tasks are interleaved."""

import random
import time
from collections.abc import Callable
from typing import Any

from perfsuite import _native
from perfsuite.memory_levels import Level
from perfsuite.torch_rates import gemm, op_overhead, torch_reason, torch_threads

DTYPES = ("float32", "bfloat16")
# Short repetitions: on a shared machine most of them then run without being interrupted.
_REPETITION_NS = 1_000_000
_MOST_SLICES = 16
_WARM_WALKS = 8
_LEAST_ROUNDS = 3
_STREAMING = ("streaming_write", "streaming_copy")

Task = Callable[[], list[float]]
"""One call gives some samples of one quantity."""


def kernels(level: Level) -> list[str]:
    """Names of the bandwidth kernels that are run on a level."""
    # Streaming stores go past the caches: they belong to memory alone, where a large memcpy uses them.
    names = _native.membench_kernels()
    return [name for name in names if level.capacity_bytes is None or name not in _STREAMING]


def native_tasks(cpus: list[int], levels: list[Level]) -> tuple[dict[tuple[str, str], Task], dict[str, int]]:
    """Tasks by (level, kernel or "latency") and ("", "fma"), in bytes and flops per second and ns.

    And the working set of each level in bytes.
    """
    bench = _native.MemoryBench(cpus, max(level.working_set_bytes for level in levels))
    tasks: dict[tuple[str, str], Task] = {}
    working_sets: dict[str, int] = {}
    for level in levels:
        for kernel in kernels(level):
            task, working_sets[level.name] = _bandwidth_task(bench, kernel, level.working_set_bytes)
            tasks[level.name, kernel] = task
        tasks[level.name, "latency"] = _latency_task(level, cpus[0])
    tasks["", "fma"] = _fma_task(cpus)
    return tasks, working_sets


def _bandwidth_task(bench: Any, kernel: str, working_set_bytes: int) -> tuple[Task, int]:
    passes, slices = 1, 1
    for _ in range(2):  # from the first pass, whose clock is all barrier, to one that fills a repetition
        trial = bench.run(kernel, working_set_bytes, passes, 2)
        ns = min(trial["samples_ns"])
        passes = max(1, passes * _REPETITION_NS // max(1, ns))
    if passes == 1:
        slices = min(_MOST_SLICES, max(1, ns // _REPETITION_NS))
    repetitions = max(3, slices)

    def repeat() -> list[float]:
        run = bench.run(kernel, working_set_bytes, passes, repetitions, slices)
        return [run["bytes"] * 1e9 / ns for ns in run["samples_ns"]]

    return repeat, trial["working_set_bytes"]


def _latency_task(level: Level, cpu: int) -> Task:
    chase = _native.PointerChase(level.chase_bytes, cpu, level.line_bytes)
    trial_steps = 2000
    # Memory is what a walk finds without warming. A cache is walked through several times: last levels that fill with
    # what the second level gives up, and guess what will be needed again, hold all lines only after some rounds.
    warm_steps = _WARM_WALKS * chase.lines if level.capacity_bytes else 0
    ns = min(chase.run(trial_steps, 2, warm_steps)) / trial_steps
    steps = max(trial_steps, int(_REPETITION_NS / ns))

    def repeat() -> list[float]:
        return [sample / steps for sample in chase.run(steps, 3, warm_steps)]

    return repeat


def _fma_task(cpus: list[int]) -> Task:
    trial = _native.fma_run(cpus, 10_000, 3)
    iterations = max(1, 10_000 * _REPETITION_NS // max(1, min(trial["samples_ns"])))

    def repeat() -> list[float]:
        run = _native.fma_run(cpus, iterations, 3)
        return [run["flops"] * 1e9 / ns for ns in run["samples_ns"]]

    return repeat


def torch_samples(
    threads: int, rounds: int, until: float, report: Callable[[int], None]
) -> tuple[dict[tuple[str, str], list[float]], dict[str, int]]:
    """Samples by ("", dtype) in flops per second and ("", "op") in ns, and n of each dtype's products.

    Both empty without torch. `until`: monotonic seconds after which no new round begins.
    """
    # After the native part, not mixed with it: torch's idle threads spin for a while and would disturb the others.
    if torch_reason():
        return {}, {}
    sizes: dict[str, int] = {}
    with torch_threads(threads):
        tasks: dict[tuple[str, str], Task] = {}
        for dtype in DTYPES:
            rate, sizes[dtype] = gemm(dtype, threads)
            tasks["", dtype] = lambda rate=rate: [rate() for _ in range(8)]
        overhead = op_overhead()
        tasks["", "op"] = lambda: [overhead() for _ in range(3)]
        return interleave(tasks, rounds, until, report), sizes


def interleave(
    tasks: dict[tuple[str, str], Task], rounds: int, until: float, report: Callable[[int], None]
) -> dict[tuple[str, str], list[float]]:
    """Samples of every task over `rounds` rounds, fewer where monotonic time passes `until` (in seconds)."""
    # A disturbance of some seconds then touches a few samples of everything instead of all samples of one quantity.
    order = list(tasks)
    shuffle = random.Random(1).shuffle
    found: dict[tuple[str, str], list[float]] = {key: [] for key in order}
    for done in range(1, rounds + 1):
        shuffle(order)
        for key in order:
            found[key] += tasks[key]()
        report(done)
        if done >= _LEAST_ROUNDS and time.monotonic() > until:
            break
    return found
