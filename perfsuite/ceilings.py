"""Measures what this machine can do at best: bandwidth and latency of each memory level, arithmetic, cost of an op."""

import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from perfsuite import _native, machine, topology
from perfsuite.memory_levels import Level, plan_levels
from perfsuite.torch_rates import gemm, op_overhead, torch_reason, torch_threads

Progress = Callable[[int, int, str], None]
"""Called with rounds done, rounds in all, and what is being measured."""

STATISTIC = (
    "ceiling: the third-best repetition; lo, hi: quartiles; "
    "repetitions of all quantities are interleaved in random order"
)
BYTES = "bytes the program reads plus bytes it writes, without the line that an ordinary store reads (write-allocate)"

# Short repetitions: on a shared machine most of them then run without being interrupted.
_REPETITION_NS = 1_000_000
_MOST_SLICES = 16
_WARM_WALKS = 8
# A busy machine is not waited for: at most about this long, a third of it if quick, but at least some rounds.
_LIMIT_S = 20.0
_LEAST_ROUNDS = 3
# Others' use of the processors, as a share of those measured, from which on it is mentioned.
_BUSY = 0.1
_DTYPES = ("float32", "bfloat16")
_STREAMING = ("streaming_write", "streaming_copy")
_YARDSTICK_BYTES = 64 << 20
_YARDSTICK_GEMM = 512

# One call gives some samples of one quantity.
_Task = Callable[[], list[float]]


def measure(progress: Progress | None = None, quick: bool = False, threads: int | None = None) -> dict[str, Any]:
    """The ceilings of this machine with `threads` threads (default: one for each core that may be used).

    About 10 s on two cores, a third of that if quick. Rates are per second, times in ns, each as
    {"ceiling", "median", "lo", "hi", "samples"}. Raises ValueError where there are not that many processors.
    """
    began, busy_before = time.monotonic(), _others_busy_seconds()
    cpus = topology.worker_cpus(threads)
    fp = machine.fingerprint()
    caches, caches_reason = topology.data_caches(cpus)
    levels, notes = plan_levels(cpus, caches, caches_reason, _usable_memory_bytes())
    rounds = 6 if quick else 20
    total = 2 * rounds
    limit_s = _LIMIT_S / 3 if quick else _LIMIT_S

    def report(done: int, what: str) -> None:
        if progress:
            progress(done, total, what)

    report(0, "preparing")
    tasks, working_sets = _native_tasks(cpus, levels)
    found = _interleave(tasks, rounds, began + 0.7 * limit_s, lambda done: report(done, "memory and arithmetic"))
    del tasks  # and with them the memory they measured
    found_torch, gemm_n = _torch_part(
        len(cpus), rounds, began + limit_s, lambda done: report(rounds + done, "matrix products")
    )
    found |= found_torch
    elapsed_s = time.monotonic() - began
    others = None if busy_before is None else max(0.0, (_others_busy_seconds() or 0.0) - busy_before) / elapsed_s
    if others is not None and others > _BUSY * len(cpus):
        notes.append(
            f"others kept {others:.1f} processors busy meanwhile: ceilings are lower bounds, measure again in peace"
        )

    def level_entry(level: Level) -> dict[str, Any]:
        entry: dict[str, Any] = {"name": level.name, "capacity_bytes": level.capacity_bytes}
        entry["working_set_bytes"] = working_sets[level.name]
        for kernel in _kernels(level):
            entry[f"{kernel}_bytes_per_s"] = spread(found[level.name, kernel])
        entry["latency_working_set_bytes"] = level.chase_bytes
        entry["latency_ns"] = spread(found[level.name, "latency"], best="low")
        return entry

    return {
        "schema": machine.SCHEMA,
        "fingerprint_id": machine.fingerprint_id(fp),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "threads": len(cpus),
        "default_threads": len(topology.worker_cpus()),
        "quick": quick,
        "isa": _native.membench_isas()[0],
        "statistic": STATISTIC,
        "bytes": BYTES,
        "levels": [level_entry(level) for level in levels],
        "fma_flops_per_s": {"float32": spread(found["", "fma"])},
        "gemm_flops_per_s": {
            dtype: {"n": gemm_n[dtype]} | spread(found["", dtype]) if dtype in gemm_n else None for dtype in _DTYPES
        },
        "gemm_reason": torch_reason(),
        "op_overhead_ns": spread(found["", "op"], best="low") if ("", "op") in found else None,
        "op_overhead_reason": torch_reason(),
        "yardstick": yardstick(threads=len(cpus)),
        "others_busy_cpus": others,
        "notes": notes,
        "elapsed_s": elapsed_s,
    }


def save(ceilings: dict[str, Any]) -> tuple[Path | None, str | None]:
    """Keep the ceilings for machine.load_ceilings(): (the file, None), or (None, why they could not be kept)."""
    if ceilings["threads"] != ceilings["default_threads"]:
        # Whoever loads ceilings compares a training run with them, and that uses every core it may.
        return None, f"not kept: measured with {ceilings['threads']} threads instead of {ceilings['default_threads']}"
    path = machine.cache_path(ceilings["fingerprint_id"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(ceilings, file)
            os.replace(unfinished, path)
        except BaseException:
            os.unlink(unfinished)
            raise
    except OSError as error:
        return None, f"not kept: {error}; set XDG_CACHE_HOME to a folder that can be written"
    return path, None


def yardstick(repeats: int = 25, threads: int | None = None) -> dict[str, Any]:
    """A fixed copy (32 MiB to 32 MiB) and a fixed GEMM (512 x 512 float32), timed `repeats` times each; about 0.1 s.

    Raw rates, to tell how a machine drifts between two sittings; None with a reason where there is no torch.
    """
    cpus = topology.worker_cpus(threads)
    run = _native.MemoryBench(cpus, _YARDSTICK_BYTES).run("copy", _YARDSTICK_BYTES, 1, repeats)
    reason = torch_reason()
    rates = None
    if reason is None:
        with torch_threads(len(cpus)):
            rate, _ = gemm("float32", len(cpus), n=_YARDSTICK_GEMM)
            rates = [rate() for _ in range(repeats)]
    return {
        "copy_bytes_per_s": [run["bytes"] * 1e9 / ns for ns in run["samples_ns"]],
        "gemm_flops_per_s": rates,
        "gemm_reason": reason,
    }


def spread(samples: list[float], best: str = "high") -> dict[str, Any]:
    """Ceiling, median and quartiles of samples, and the samples.

    A ceiling is something the machine did, so an interpolated or fitted value will not do, and what took at least so
    long because somebody else was running does not count: on a busy machine that is the median, and the 90th percentile
    as well. The best repetition alone might be a mistake; the third-best was reached three times.
    """
    third = sorted(samples, reverse=best == "high")[min(2, len(samples) - 1)]
    lo, median, hi = np.percentile(samples, [25, 50, 75]).tolist()
    return {"ceiling": third, "median": median, "lo": lo, "hi": hi, "samples": samples}


def _others_busy_seconds() -> float | None:
    everybody, own = topology.busy_seconds(), os.times()
    return None if everybody is None else everybody - own.user - own.system


def _usable_memory_bytes() -> int | None:
    sizes = [topology.meminfo_bytes("MemAvailable"), topology.memory_limit_bytes()[0]]
    return min((size for size in sizes if size is not None), default=None)


def _kernels(level: Level) -> list[str]:
    # Streaming stores go past the caches: they belong to memory alone, where a large memcpy uses them.
    names = _native.membench_kernels()
    return [name for name in names if level.capacity_bytes is None or name not in _STREAMING]


def _native_tasks(cpus: list[int], levels: list[Level]) -> tuple[dict[tuple[str, str], _Task], dict[str, int]]:
    bench = _native.MemoryBench(cpus, max(level.working_set_bytes for level in levels))
    tasks: dict[tuple[str, str], _Task] = {}
    working_sets: dict[str, int] = {}
    for level in levels:
        for kernel in _kernels(level):
            task, working_sets[level.name] = _bandwidth_task(bench, kernel, level.working_set_bytes)
            tasks[level.name, kernel] = task
        tasks[level.name, "latency"] = _latency_task(level, cpus[0])
    tasks["", "fma"] = _fma_task(cpus)
    return tasks, working_sets


def _bandwidth_task(bench: Any, kernel: str, working_set_bytes: int) -> tuple[_Task, int]:
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


def _latency_task(level: Level, cpu: int) -> _Task:
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


def _fma_task(cpus: list[int]) -> _Task:
    trial = _native.fma_run(cpus, 10_000, 3)
    iterations = max(1, 10_000 * _REPETITION_NS // max(1, min(trial["samples_ns"])))

    def repeat() -> list[float]:
        run = _native.fma_run(cpus, iterations, 3)
        return [run["flops"] * 1e9 / ns for ns in run["samples_ns"]]

    return repeat


def _torch_part(
    threads: int, rounds: int, until: float, report: Callable[[int], None]
) -> tuple[dict[tuple[str, str], list[float]], dict[str, int]]:
    # After the native part, not mixed with it: torch's idle threads spin for a while and would disturb the others.
    if torch_reason():
        return {}, {}
    sizes: dict[str, int] = {}
    with torch_threads(threads):
        tasks: dict[tuple[str, str], _Task] = {}
        for dtype in _DTYPES:
            rate, sizes[dtype] = gemm(dtype, threads)
            tasks["", dtype] = lambda rate=rate: [rate() for _ in range(8)]
        overhead = op_overhead()
        tasks["", "op"] = lambda: [overhead() for _ in range(3)]
        return _interleave(tasks, rounds, until, report), sizes


def _interleave(
    tasks: dict[tuple[str, str], _Task], rounds: int, until: float, report: Callable[[int], None]
) -> dict[tuple[str, str], list[float]]:
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
