"""The score of one folder of logs: olympic mean, interval, what was dropped, which runs count where there are more.

Source: training_policies, "Benchmark Results", "Scoring" (the median window of M > N runs) and "Score scaling".
Times are in seconds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from perfsuite.mlperf import rounds
from perfsuite.mlperf.run_log import RunLog
from perfsuite.stats import olympic_mean, score_interval

_LARGEST = 1e300
INIT_LIMIT_S = {"closed": 30 * 60, "open": 4 * 3600}
"""Of the newest rounds: what holds where no round is given."""


@dataclass
class Run:
    """A run as it is scored."""

    log: RunLog
    time_s: float
    """On the clock, with what its initialisation took beyond the limit; inf where it did not converge."""
    init_excess_s: float = 0.0
    counts: bool = True
    """Whether it is among the N runs that are scored."""
    dropped: str | None = None
    """ "fastest" or "slowest" where the olympic mean leaves it out."""


@dataclass
class Score:
    """The score of a folder, before any normalisation."""

    runs: list[Run]
    num_wanted: int | None
    """Runs that make a result by the rules; None for a benchmark that they do not know."""
    time_s: float | None = None
    ci95_s: tuple[float, float] | None = None
    why: str | None = None
    """Why there is no score."""
    notes: list[str] = field(default_factory=list)


def score(
    logs: Sequence[RunLog],
    benchmark: str | None,
    own_num_runs: int | None = None,
    init_limit_s: Mapping[str, float] | None = None,
) -> Score:
    """Score the runs of one folder by the rules text. own_num_runs: of a class of our own, which drops one and one;
    init_limit_s: for "closed" and "open", by the rules of the round.
    """
    runs = [_run(log, init_limit_s or INIT_LIMIT_S) for log in logs]
    wanted = own_num_runs or rounds.NUM_RUNS.get(benchmark or "")
    drop = 1 if own_num_runs else rounds.dropped(benchmark)
    result = Score(runs, wanted)
    if benchmark == "ncf" and not own_num_runs:
        chosen = _first_that_converge(runs, wanted, result)
    elif wanted and len(runs) > wanted:
        chosen = _median_window(runs, wanted, drop, result)
    else:
        chosen = runs
    for run in runs:
        run.counts = any(run is one for one in chosen)
    if wanted and len(chosen) < wanted:
        result.notes.append(f"{len(chosen)} of the {wanted} runs that make a result")
    _olympic(chosen, drop, result)
    return result


def _run(log: RunLog, init_limit_s: Mapping[str, float]) -> Run:
    time_s, init_s = log.time_to_train_s, log.init_s
    limit_s = init_limit_s[rounds.division(log.division) or "closed"]
    excess_s = max(0.0, init_s - limit_s) if init_s is not None else 0.0
    if not log.converged or time_s is None:
        return Run(log, math.inf, excess_s)
    return Run(log, time_s + excess_s, excess_s)


def _olympic(chosen: list[Run], drop: int, result: Score) -> None:
    if not chosen:
        result.why = "the folder has no logs of runs"
        return
    failed = sum(math.isinf(run.time_s) for run in chosen)
    if len(chosen) < 2 * drop + 1:
        result.notes.append(f"{len(chosen)} runs are too few for an olympic mean: the mean of all of them")
        drop = 0
    if failed > drop:
        of = f"{failed} of {len(chosen)} runs did not converge"
        result.why = f"{of}; the rules allow {drop}" if drop else of
        return
    ordered = sorted(chosen, key=lambda run: run.time_s)
    for run in ordered[:drop]:
        run.dropped = "fastest"
    for run in ordered[len(ordered) - drop :] if drop else []:
        run.dropped = "slowest"
    times_s = [run.time_s for run in ordered]
    result.time_s = olympic_mean(times_s, drop)
    finite = [time_s for time_s in times_s if math.isfinite(time_s)]
    if len(finite) >= 2:
        result.ci95_s = score_interval(result.time_s, finite, _grid_s(chosen))


def _grid_s(runs: list[Run]) -> float:
    """Seconds between evaluations: a run ends at one, so its time is known no better. 0 where logs do not tell."""
    gaps = []
    for run in runs:
        times_ms = sorted({e.time_ms for e in run.log.evaluations})
        gaps += [(b - a) / 1e3 for a, b in pairwise(times_ms)]
    return sorted(gaps)[len(gaps) // 2] if gaps else 0.0


def _first_that_converge(runs: list[Run], wanted: int, result: Score) -> list[Run]:
    """ncf: run 100, use the first 50 that converge."""
    converged = [run for run in _by_start(runs) if math.isfinite(run.time_s)]
    if len(runs) > wanted:
        result.notes.append(f"{len(converged)} of {len(runs)} runs converged; the first {wanted} of them count")
        return converged[:wanted]
    return runs


def _median_window(runs: list[Run], wanted: int, drop: int, result: Score) -> list[Run]:
    """Of all windows of N consecutive runs, the one with the median score; invalid windows count as infinite."""
    ordered = _by_start(runs)
    windows = [ordered[i : i + wanted] for i in range(len(ordered) - wanted + 1)]
    by_score = sorted(windows, key=lambda window: _window_s(window, drop))
    # Of two windows in the middle the slower: both are as near to the median.
    chosen = by_score[len(by_score) // 2]
    first = ordered.index(chosen[0]) + 1
    result.notes.append(f"{len(runs)} runs for a result of {wanted}: of {len(windows)} windows of consecutive runs the "
                        f"one with the median score counts, runs {first} to {first + wanted - 1} by start")  # fmt: skip
    return chosen


def _window_s(window: list[Run], drop: int) -> float:
    if sum(math.isinf(run.time_s) for run in window) > drop:
        return math.inf
    return olympic_mean([run.time_s for run in window], drop)


def _by_start(runs: list[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: math.inf if run.log.start_ms is None else run.log.start_ms)


def _small(value: Any) -> Any:
    """A value of a log, as its text where it is a whole number that no float holds."""
    return value if not isinstance(value, int) or abs(value) < _LARGEST else str(value)


def as_json(run: Run) -> dict[str, Any]:
    """One run of `perfsuite score --json`."""
    last = run.log.last
    return {
        "log": run.log.path.name,
        "time_s": run.time_s if math.isfinite(run.time_s) else None,
        "clock_s": run.log.time_to_train_s,
        "status": run.log.status,
        "converged": run.log.converged,
        "quality": _small(last.quality) if last else None,
        "units": last.units if last else None,
        "unit": last.unit if last else None,
        "init_s": run.log.init_s,
        "init_excess_s": run.init_excess_s,
        "seeds": run.log.seeds,
        "counts": run.counts,
        "dropped": run.dropped,
    }
