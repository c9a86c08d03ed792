"""Throughput of the HPC suite (weak scaling): many models trained at once, and the time until the last has converged.

Source: hpc_training_rules, "Throughput" and "Benchmark Results": TTTa = max(run_stop) - min(run_start) over the models
that are reported, at least as many as runs make a result; runs that did not converge, and runs with the seeds of
another, are pruned. No olympic mean, and no normalisation by convergence.
"""

import math
from collections.abc import Sequence
from typing import Any

from perfsuite.mlperf import rounds
from perfsuite.mlperf.reader import Log
from perfsuite.mlperf.run_log import RunLog
from perfsuite.mlperf.scoring import Run, Score

_SCALE = ("number_of_nodes", "accelerators_per_node")


def score(logs: Sequence[RunLog], benchmark: str | None) -> Score:
    """The time in which the models of one folder were trained, all together."""
    runs = [Run(log, log.time_to_train_s if log.converged else math.inf) for log in logs]
    result = Score(runs, rounds.NUM_RUNS.get(benchmark or ""))
    failed = repeated = 0
    seen: set[str] = set()
    for run in runs:
        seeds = repr(run.log.seeds)
        if not run.log.converged:
            failed, run.counts = failed + 1, False
        elif run.log.seeds and seeds in seen:
            repeated, run.counts = repeated + 1, False
        seen.add(seeds)
    counted = [run.log for run in runs if run.counts]
    result.notes += [f"{failed} of {len(runs)} models did not converge and are left out"] if failed else []
    result.notes += [f"{repeated} of {len(runs)} models have the seeds of another and are left out"] if repeated else []
    if result.num_wanted and len(counted) < result.num_wanted:
        result.why = f"{len(counted)} models that count; throughput of {benchmark} wants at least {result.num_wanted}"
    elif counted:
        result.time_s = (max(log.stop_ms for log in counted) - min(log.start_ms for log in counted)) / 1e3
    return result


def reported(found: Score, scales: Sequence[int | None], system: dict[str, Any]) -> dict[str, Any]:
    """What is reported with the time: (T, S, M'). scales: of each log; system: the system's description."""
    of_models = {scale for run, scale in zip(found.runs, scales, strict=True) if run.counts and scale is not None}
    return {
        "num_models": sum(run.counts for run in found.runs),
        "instance_scale": next(iter(of_models)) if len(of_models) == 1 else None,
        "system_scale": _scale(system),
    }


def instance_scale(log: Log) -> int | None:
    """Accelerators, or nodes where these have none, that trained one model; None where the log does not say."""
    return _scale({entry.key: entry.value for entry in log.entries if entry.key in _SCALE})


def _scale(said: dict[str, Any]) -> int | None:
    try:
        return int(said["number_of_nodes"]) * max(int(said["accelerators_per_node"]), 1)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
