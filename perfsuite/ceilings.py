"""Measures what this machine can do at best: bandwidth and latency of each memory level, arithmetic, cost of an op."""

import json
import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perfsuite import _native, gpu_machine, machine, topology
from perfsuite.ceiling_tasks import DTYPES, interleave, kernels, native_tasks, torch_samples
from perfsuite.memory_levels import Level, plan_levels
from perfsuite.stats import spread
from perfsuite.torch_rates import gemm, torch_reason, torch_threads

Progress = Callable[[int, int, str], None]
"""Called with rounds done, rounds in all, and what is being measured."""

STATISTIC = (
    "ceiling: the third-best repetition; lo, hi: quartiles; "
    "repetitions of all quantities are interleaved in random order"
)
BYTES = "bytes the program reads plus bytes it writes, without the line that an ordinary store reads (write-allocate)"

# A busy machine is not waited for: at most about this long, a third of it if quick, but at least some rounds.
_LIMIT_S = 20.0
# Others' use of the processors, as a share of those measured, from which on it is mentioned.
_BUSY = 0.1
_YARDSTICK_BYTES = 64 << 20
_YARDSTICK_GEMM = 512


def measure(progress: Progress | None = None, quick: bool = False, threads: int | None = None) -> dict[str, Any]:
    """The ceilings of this machine with `threads` threads (default: one for each core it may use), and of its GPU.

    About 10 s on two cores and a minute for the GPU, a third of that if quick. Rates are per second, times in ns, each
    as {"ceiling", "median", "lo", "hi", "samples"}. Raises ValueError where there are not that many processors.
    """
    began, busy_before = time.monotonic(), _others_busy_seconds()
    cpus = topology.worker_cpus(threads)
    fp = machine.fingerprint()
    caches, caches_reason = topology.data_caches(cpus)
    levels, notes = plan_levels(cpus, caches, caches_reason, _usable_memory_bytes())
    rounds = 6 if quick else 20
    total = 3 * rounds  # memory and arithmetic, products, the GPU
    limit_s = _LIMIT_S / 3 if quick else _LIMIT_S

    def report(done: int, what: str) -> None:
        if progress:
            progress(done, total, what)

    report(0, "preparing")
    tasks, working_sets = native_tasks(cpus, levels)
    found = interleave(tasks, rounds, began + 0.7 * limit_s, lambda done: report(done, "memory and arithmetic"))
    del tasks  # and with them the memory they measured
    found_torch, gemm_n = torch_samples(
        len(cpus), rounds, began + limit_s, lambda done: report(rounds + done, "matrix products")
    )
    found |= found_torch
    elapsed_s = time.monotonic() - began
    others = None if busy_before is None else max(0.0, (_others_busy_seconds() or 0.0) - busy_before) / elapsed_s
    if others is not None and others > _BUSY * len(cpus):
        notes.append(
            f"others kept {others:.1f} processors busy meanwhile: ceilings are lower bounds, measure again in peace"
        )

    gpu, gpu_reason = gpu_machine.measure(
        lambda share, what: report(2 * rounds + int(share * rounds), what), quick
    )

    def level_entry(level: Level) -> dict[str, Any]:
        entry: dict[str, Any] = {"name": level.name, "capacity_bytes": level.capacity_bytes}
        entry["working_set_bytes"] = working_sets[level.name]
        for kernel in kernels(level):
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
            dtype: {"n": gemm_n[dtype]} | spread(found["", dtype]) if dtype in gemm_n else None for dtype in DTYPES
        },
        "gemm_reason": torch_reason(),
        "op_overhead_ns": spread(found["", "op"], best="low") if ("", "op") in found else None,
        "op_overhead_reason": torch_reason(),
        "gpus": None if gpu is None else [gpu],
        "gpus_reason": gpu_reason or None,
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
    busy = ceilings["others_busy_cpus"]
    if busy is not None and busy > _BUSY * ceilings["threads"]:
        # A ceiling that is too low would stand in every later report: each run then measures again, until it is quiet.
        return None, f"not kept: other processes kept {busy:.1f} processors busy meanwhile; measure again in peace"
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


def yardstick(repeats: int = 25, threads: int | None = None, products: bool = True) -> dict[str, Any]:
    """A fixed copy (32 MiB to 32 MiB, a quarter at a time) and a fixed GEMM (512 x 512 float32), `repeats` times each.

    About 0.1 s in all. Raw rates, to tell how a machine drifts between two sittings; None with a reason without torch.
    products False: without the GEMM, and torch is not imported.
    """
    cpus = topology.worker_cpus(threads)
    run = _native.MemoryBench(cpus, _YARDSTICK_BYTES).run("copy", _YARDSTICK_BYTES, 1, repeats, slices=4)
    reason = torch_reason() if products else "not asked for: torch is not loaded in this process"
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


def _others_busy_seconds() -> float | None:
    everybody, own = topology.busy_seconds(), os.times()
    return None if everybody is None else everybody - own.user - own.system


def _usable_memory_bytes() -> int | None:
    sizes = [topology.meminfo_bytes("MemAvailable"), topology.memory_limit_bytes()[0]]
    return min((size for size in sizes if size is not None), default=None)


def main() -> None:
    """`python -m perfsuite.ceilings`: measure, keep, and print as JSON, in a process that does nothing else."""
    measured = measure()
    save(measured)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
