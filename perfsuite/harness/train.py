"""One run under MLPerf's clock: init, run_start, blocks of training and evaluations, run_stop.

Rules: training_policies, "Timing". The clock is wall time from run_start to run_stop. Building the model, compiling and
warming up on synthetic data happen before it, within a limit; data is opened after it has started; it never pauses; it
stops as soon as an evaluation shows the target.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from perfsuite import _native
from perfsuite.harness.data_guard import DataGuard
from perfsuite.instruments import idle
from perfsuite.mlperf.log import MLLog
from perfsuite.watch import Watch
from perfsuite.workloads.contract import Basics, Job

# MLPerf's limit for the closed division; the open one has 4 hours. Time beyond it counts as run time.
INIT_LIMIT_NS = {"closed": 30 * 60 * 10**9, "open": 4 * 3600 * 10**9}
WARMUP_STEPS = 4
LOSSES_KEPT = 500
PROGRESS_INTERVAL_NS = 100_000_000

Progress = Callable[[dict[str, Any]], None]


@dataclass
class Trained:
    """What a run leaves behind for who goes on with it (the blocks of steps that measure the instruments' own cost)."""

    job: Job
    batches: Any
    result: dict[str, Any]
    arrays: dict[str, np.ndarray]


def synchronize(device: str) -> None:
    """Wait for the device, so that the clock does not stop before the work does."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def steps_until(samples: int, goal: int, batch_size: int) -> int:
    """Whole steps from `samples` to the first step at or past `goal`, at least one."""
    return max(1, math.ceil((goal - samples) / batch_size))


def train_to_target(
    build: Callable[[Basics, str, int], Job],
    config: Basics,
    *,
    device: str,
    seed: int,
    folder: Path,
    division: str,
    benchmark: str,
    log: MLLog,
    make_watch: Callable[[Job], Watch],
    cache_clear: tuple[bool, str | None],
    on_progress: Progress = lambda message: None,
) -> Trained:
    """Train until an evaluation reaches the target, or the schedule gives up.

    Raises DataTouchedEarly where the workload opens its data before run_start, and whatever the workload raises.
    """
    _log_submission(log, benchmark, division, device, cache_clear)
    with DataGuard(folder, config.data_files) as guard:
        job, watch, init = initialise(build, config, device, seed, log, make_watch)
        guard.allow()

    log.start("run_start")
    monotonic_to_epoch_ns = time.time_ns() - _native.now_ns()
    watch.start()
    run = _Run(job, config, watch, log, device, on_progress)
    batches = run.train(folder)
    watch.stop()
    log.end("run_stop", samples_count=run.samples, status="success" if run.reached else "aborted")

    result = {
        "init_excess_ns": max(0, init["init_ns"] - INIT_LIMIT_NS[division]),
        "seed": seed,
        "stop_reason": run.stop_reason,
        "reached": run.reached,
        "quality": run.quality,
        "samples": run.samples,
        "init_ns": init.pop("init_ns"),
        "idle": init.pop("idle"),
        "init": init,
        "cache_clear": cache_clear[0],
        "cache_clear_reason": cache_clear[1],
        "epoch_minus_monotonic_ns": monotonic_to_epoch_ns,
        "evaluations": run.evaluations,
        "losses": thin(run.losses, LOSSES_KEPT),
        **watch.data(),
    }
    return Trained(job, batches, result, watch.arrays())


def initialise(
    build: Callable[[Basics, str, int], Job],
    config: Basics,
    device: str,
    seed: int,
    log: MLLog,
    make_watch: Callable[[Job], Watch],
) -> tuple[Job, Watch, dict[str, Any]]:
    """What comes before the clock: build the job, log its hyperparameters, make the instruments, warm up.

    On a GPU the power of doing nothing is measured then ("idle"): the next thing to happen is the run.
    """
    start_ns = _native.now_ns()
    log.start("init_start")
    log.event("seed", seed)
    job = build(config, device, seed)
    built_ns = _native.now_ns()
    for key, value in job.log_values().items():
        log.event(key, value)
    log.event("train_samples", config.train_samples)
    log.event("eval_samples", config.eval_samples)
    watch = make_watch(job)
    warmup = warm_up(job, device)
    synchronize(device)
    quiet = idle.measure(device)
    log.end("init_stop")
    init_ns = _native.now_ns() - start_ns
    return job, watch, {"init_ns": init_ns, "build_ns": built_ns - start_ns, "idle": quiet, **warmup}


def _log_submission(
    log: MLLog, benchmark: str, division: str, device: str, cache_clear: tuple[bool, str | None]
) -> None:
    log.event("submission_benchmark", benchmark)
    log.event("submission_division", division)
    log.event("submission_org", "perfsuite")
    log.event("submission_platform", device)
    log.event("submission_status", "research")
    cleared, reason = cache_clear
    log.event("cache_clear", cleared, **({"reason": reason} if reason else {}))


def warm_up(job: Job, device: str) -> dict[str, int]:
    """A few steps on synthetic batches, and the state as it was before them. Nanoseconds of the parts.

    compile_ns is what the first step took beyond the median of the others: compilation and first-use initialisation.
    """
    start_ns = _native.now_ns()
    before = job.state()
    durations = []
    for batch in islice(job.synthetic(), WARMUP_STEPS):
        step_start_ns = _native.now_ns()
        job.train_step(batch, no_phase)
        synchronize(device)
        durations.append(_native.now_ns() - step_start_ns)
    job.restore(before)
    later = sorted(durations[1:])
    return {
        "warmup_ns": _native.now_ns() - start_ns,
        "compile_ns": max(0, durations[0] - later[len(later) // 2]),
    }


def no_phase(name: str) -> nullcontext[None]:
    """The phase marker when nobody measures."""
    return nullcontext()


def thin(rows: list[Any], limit: int) -> list[Any]:
    """At most about `limit` of the rows, evenly spread, the last one kept."""
    stride = math.ceil(len(rows) / limit) if rows else 1
    kept = rows[::stride]
    return kept if not rows or kept[-1] is rows[-1] else [*kept, rows[-1]]


class _Run:
    """The clocked part: blocks of steps and evaluations until one of them ends it."""

    def __init__(self, job: Job, config: Basics, watch: Watch, log: MLLog, device: str, on_progress: Progress) -> None:
        self.job, self.config, self.watch, self.log, self.device = job, config, watch, log, device
        self.on_progress = on_progress
        self.samples = 0
        self.reached = False
        self.quality: float | None = None
        self.stop_reason = ""
        self.evaluations: list[dict[str, Any]] = []
        self.losses: list[tuple[int, float]] = []
        self._start_ns = _native.now_ns()
        self._last_progress_ns = 0

    def elapsed_ns(self) -> int:
        return _native.now_ns() - self._start_ns

    def train(self, folder: Path) -> Any:
        """Run to the end; returns the iterator of batches, to go on with."""
        schedule = self.config.schedule
        with self.watch.phase("data"):
            batches = self.job.open(folder)
        goal = schedule.first_eval_samples
        while not self.stop_reason:
            self._block(batches, goal)
            if not self.stop_reason:
                self._evaluate()
            goal = self.samples + schedule.eval_every_samples
        return batches

    def _block(self, batches: Any, goal: int) -> None:
        watch, config = self.watch, self.config
        phase, limit_ns = watch.phase, config.schedule.max_time_s * 1e9
        data, other = phase("data"), phase("other")
        with other:
            self.log.start("block_start", samples_count=self.samples)
        pending = []
        for _ in range(steps_until(self.samples, goal, config.batch_size)):
            watch.begin_step()
            with data:
                batch = next(batches)
            loss = self.job.train_step(batch, phase)
            with other:
                self.samples += config.batch_size
                pending.append((self.samples, loss))
                self._report(loss)
                if self.elapsed_ns() > limit_ns:
                    self.stop_reason = "max_time"
                    break
        if self.device != "cpu":
            with phase("device wait"):
                synchronize(self.device)
        with other:
            self.losses += [(samples, float(loss)) for samples, loss in pending]
            bad = next(((samples, loss) for samples, loss in self.losses if not math.isfinite(loss)), None)
            if bad:
                self.stop_reason = f"loss is {bad[1]} at sample {bad[0]}"
            self.log.end("block_stop", samples_count=self.samples)

    def _evaluate(self) -> None:
        watch, log, schedule = self.watch, self.log, self.config.schedule
        # Recent rulesets count samples, older ones epochs: an evaluation says both.
        when = {"samples_count": self.samples, "epoch_num": self.samples / self.config.train_samples}
        with watch.phase("other"):
            log.start("eval_start", **when)
            watch.begin_evaluation()
        with watch.phase("evaluation"):
            quality = float(self.job.evaluate(watch.phase))
        with watch.phase("other"):
            log.event("eval_accuracy", quality, **when)
            log.end("eval_stop", **when)
            self.quality = quality
            self.evaluations.append({"samples": self.samples, "quality": quality, "t_ns": self.elapsed_ns()})
            self.reached = self.config.target.reached(quality)
            if self.reached:
                self.stop_reason = "target"
            elif self.samples >= schedule.max_samples:
                self.stop_reason = "max_samples"
            self._report(None, force=True)

    def _report(self, loss: Any, force: bool = False) -> None:
        now_ns = _native.now_ns()
        if not force and now_ns - self._last_progress_ns < PROGRESS_INTERVAL_NS:
            return
        self._last_progress_ns = now_ns
        # A loss on a device is not waited for: progress must not cost a synchronisation.
        shown = float(loss) if loss is not None and self.device == "cpu" else None
        self.on_progress(
            {"samples": self.samples, "loss": shown, "quality": self.quality, "elapsed_s": self.elapsed_ns() / 1e9}
        )
