"""What the instruments themselves cost: blocks of steps with them off and on, in turn, outside the clock.

Whole runs with and without drown in a shared machine's noise; many short blocks, next to each other in time and in a
drawn order, do not. Three arms: nothing at all, clock and sampler (what a scored pass carries), the recorders on top.
"""

import random
from collections.abc import Iterator
from typing import Any

from perfsuite import _native
from perfsuite.harness.train import no_phase, synchronize
from perfsuite.stats import ratio_of_medians
from perfsuite.watch import Watch
from perfsuite.workloads.contract import Job

BLOCK_NS = 100_000_000  # a block is at least two steps and about this long
MIN_TRIPLETS = 8
ARMS = ("off", "clock_and_sampler", "recorders")


def measure(
    job: Job, batches: Iterator[Any], watch: Watch, device: str, step_ns: float, budget_ns: int
) -> dict[str, Any]:
    """Ratios of step time with instruments over without, each with its 95 % interval and number of pairs."""
    steps = max(2, round(BLOCK_NS / step_ns))
    triplets = max(MIN_TRIPLETS, int(budget_ns / (steps * step_ns * len(ARMS))))
    order = random.Random(0)
    times: dict[str, list[float]] = {arm: [] for arm in ARMS}
    watch.start()
    try:
        for _ in range(triplets):
            for arm in order.sample(ARMS, len(ARMS)):
                watch.set_arm(arm)
                times[arm].append(_block(job, batches, watch, device, steps, marked=arm != "off"))
    finally:
        watch.set_arm("recorders")
        watch.stop()
    parts = {}
    for name, arm, base in (
        ("clock_and_sampler", "clock_and_sampler", "off"),
        ("recorders", "recorders", "clock_and_sampler"),
        ("all", "recorders", "off"),
    ):
        ratio, lo, hi = ratio_of_medians(times[arm], times[base])
        parts[name] = {"ratio": ratio, "ci95": [lo, hi], "pairs": triplets}
    total = parts.pop("all")
    return {**total, "parts": parts, "steps_per_block": steps, "block_ns": times}


def _block(job: Job, batches: Iterator[Any], watch: Watch, device: str, steps: int, marked: bool) -> float:
    phase = watch.phase if marked else no_phase
    data = phase("data")
    start_ns = _native.now_ns()
    for _ in range(steps):
        if marked:
            watch.begin_step()
        with data:
            batch = next(batches)
        job.train_step(batch, phase)
    synchronize(device)
    return float(_native.now_ns() - start_ns)
