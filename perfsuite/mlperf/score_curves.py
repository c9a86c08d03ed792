"""What a page of a score draws beside the figures: evaluations and times of each run, and the reference's curve."""

from typing import Any

from perfsuite.mlperf import convergence, official_convergence, own_class, rounds, rulebook
from perfsuite.mlperf.rounds import Round
from perfsuite.mlperf.run_log import RunLog
from perfsuite.mlperf.scoring import Score


def curves(found: Score, benchmark: str | None, played: Round | None) -> dict[str, Any]:
    """{"runs": [{"log", "times", "evaluations"}], "reference": {mode: [...]} or None, "target": ...}."""
    rules = _rules(benchmark, played)
    return {
        "runs": [{"log": run.log.path.name, "times": times(run.log), "evaluations": _evaluations(run.log)}
                 for run in found.runs],
        "batch_sizes": sorted({run.log.batch_size for run in found.runs if run.log.batch_size}),
        "reference": _reference(benchmark, played),
        "targets": [{"value": target.value, "higher_is_better": target.higher_is_better, "name": target.name}
                    for target in rules.targets] if rules else [],
    }  # fmt: skip


def _rules(benchmark: str | None, played: Round | None) -> rulebook.Benchmark | None:
    try:
        return rulebook.of(played).benchmarks.get(benchmark or "") if played else None
    except ValueError:  # a usage without targets of its own
        return None


def times(log: RunLog) -> dict[str, float | None]:
    """Seconds of one run: init before the clock; on it evaluation, and the rest, which is training.

    Evaluation is None where the log has no eval_start and eval_stop, or more of them than the clock holds (several
    processes log, or an evaluation outlives the clock); the rest is then the whole clock.
    """
    clock_s = log.time_to_train_s
    eval_s = None if log.eval_ms is None else log.eval_ms / 1e3
    if clock_s is None or clock_s <= 0 or (eval_s is not None and not 0 <= eval_s <= clock_s):
        eval_s = None
    rest_s = clock_s - (eval_s or 0.0) if clock_s is not None else None
    return {"init_s": log.init_s, "training_s": rest_s, "evaluation_s": eval_s}


def _evaluations(log: RunLog) -> list[list[Any]]:
    """[units, quality, metric] of each evaluation that has both."""
    return [[e.units, float(e.quality), e.metric] for e in log.evaluations
            if e.units is not None and isinstance(e.quality, int | float) and abs(e.quality) < 1e9]  # fmt: skip


def _reference(benchmark: str | None, played: Round | None) -> dict[str, list[dict[str, float]]] | None:
    """For each mode its points: batch size, mean, and the least mean that passes. None where there is no reference."""
    if played is None or benchmark is None:
        return None
    try:
        if played.is_own:
            known, num_runs, drop = own_class.reference(played), own_class.rules_of(played).num_runs, own_class.DROP
        else:
            known = official_convergence.reference_of(benchmark, played.usage, played.ruleset)
            num_runs = official_convergence.NUM_RUNS[played.usage][benchmark]
            drop = rounds.dropped(benchmark)
    except (own_class.NoReference, official_convergence.Crash):
        return None
    found = {}
    for mode in convergence.MODES:
        earlier = 0.0 if played.is_own else official_convergence.earlier_by(benchmark, played.ruleset, mode)
        found[mode] = [
            {"batch_size": float(point.batch_size), "mean": point.mean, "lowest": lowest - earlier}
            for point, lowest in convergence.curve(known, num_runs=num_runs, drop=drop, mode=mode)
        ]
    return found
