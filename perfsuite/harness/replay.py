"""The counters pass: a few steps of training, each kernel replayed until every counter has been read.

Not a run: a replayed step takes many times as long as a step, so nothing is scored and no target is looked for. The
steps are those that the seed's other passes begin with, after the same warm-up; the first ones, which fill caches and
let libraries choose their algorithms, are not replayed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from perfsuite.harness.data_guard import DataGuard
from perfsuite.harness.train import initialise, synchronize
from perfsuite.mlperf.log import MLLog
from perfsuite.watch import Watch
from perfsuite.workloads.contract import Basics, Job

SKIPPED_STEPS = 2
REPLAYED_STEPS = 2


def replay_steps(
    build: Callable[[Basics, str, int], Job],
    config: Basics,
    *,
    device: str,
    seed: int,
    folder: Path,
    log: MLLog,
    make_watch: Callable[[Job], Watch],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Train SKIPPED_STEPS + REPLAYED_STEPS steps and watch the last ones; what a record keeps of the pass, and arrays.

    Raises DataTouchedEarly where the workload opens its data too early, and whatever the workload raises.
    """
    import torch

    with DataGuard(folder, config.data_files) as guard:
        job, watch, init = initialise(build, config, device, seed, log, make_watch)
        guard.allow()
    batches = job.open(folder)
    for _ in range(SKIPPED_STEPS):
        job.train_step(next(batches), watch.phase)
    synchronize(device)
    watch.start()
    # The backward pass too is launched from here: CUPTI has been known to measure only kernels of the thread that
    # enabled its profiler, and launches of one thread are in a certain order.
    with torch.autograd.set_multithreading_enabled(False):
        for _ in range(REPLAYED_STEPS):
            watch.begin_step()
            with watch.phase("data"):
                batch = next(batches)
            job.train_step(batch, watch.phase)
    with watch.phase("device wait"):
        synchronize(device)
    watch.stop()
    result = {"seed": seed, "reached": False, "stop_reason": "counters pass", "samples": 0, "quality": None,
              "init": init, "evaluations": [], **watch.data()}  # fmt: skip
    return result, watch.arrays()
