"""Quality and evaluations of one log: whether the run reached its target, and was evaluated when it should be.

Source: training_policies, training_rules, "Quality measure", as it stood for the round.
"""

from collections.abc import Iterator
from itertools import pairwise

from perfsuite.mlperf.case import Case
from perfsuite.mlperf.finding import ERROR, NOT_CHECKED, WARNING, Finding
from perfsuite.mlperf.rulebook import Schedule
from perfsuite.mlperf.run_log import Evaluation

QUALITY = "training_rules, Quality measure"
_SHOWN = 3
_LONGEST = 80
"""Letters of a value of a log."""
_Qualities = dict[str | None, float]


def quality(case: Case) -> Iterator[Finding]:
    """The last evaluation before run_stop reaches the targets of the closed division, all of them together.

    Where each metric has a line of its own, checkpoints may be evaluated after the clock and in any order: one of them
    reaches the targets.
    """
    benchmark = case.benchmark
    if benchmark is None or case.division != "closed" or case.run.status != "success":
        return
    targets = benchmark.targets
    evaluations = _of_one_key(case.run.timed, "eval_accuracy" if targets[0].higher_is_better else "eval_error")
    agrees = case.official("Failed checks for", "'eval_accuracy'", "'eval_error'")
    if not evaluations:
        yield Finding("quality", ERROR, "there is no evaluation", None, QUALITY, agrees)
        return
    apart = any(target.name and e.metric == target.name for e in evaluations for target in targets)
    points = _by_point(evaluations) if apart else [e.qualities for e in evaluations]
    for target in targets:
        if target.name and not any(target.name in point for point in points):
            yield Finding("quality", ERROR, f"there is no evaluation of {target.name}", None, QUALITY, agrees)
            return
    tried = points if apart else points[-1:]
    if any(all(target.reached(point.get(target.name)) for target in targets) for point in tried):
        return
    for target in targets:
        if not target.reached(points[-1].get(target.name)):
            last = points[-1].get(target.name)
            shown = evaluations[-1].quality if last is None else last
            named = f" of {target.name}" if target.name else ""
            sign = ">=" if target.higher_is_better else "<="
            text = f"the run ends at {str(shown)[:_LONGEST]}{named}; the target is {sign} {target.value:g}"
            yield Finding("quality", ERROR, text, evaluations[-1].line, QUALITY, agrees)


def _of_one_key(evaluations: list[Evaluation], key: str) -> list[Evaluation]:
    """Those that measure what the target is about, where a log has them beside others (an error, and it negated)."""
    return [one for one in evaluations if one.key == key] or evaluations


def _by_point(evaluations: list[Evaluation]) -> list[_Qualities]:
    """Metrics that were measured after as many samples, together."""
    points: dict[float | None, _Qualities] = {}
    for one in evaluations:
        points.setdefault(one.units, {}).update(one.qualities)
    return list(points.values())


def schedule(case: Case) -> Iterator[Finding]:
    """Evaluations of the closed division are where the rules put them."""
    benchmark, batch = case.benchmark, case.run.batch_size
    if benchmark is None or benchmark.schedule is None or case.division != "closed" or not batch or batch <= 0:
        return
    told = benchmark.schedule
    unit = "samples_count" if told.unit == "samples" else "epoch_num"
    points = _points(case, unit)
    if told.unit == "samples" and not points:
        points = _points(case, "epoch_num")  # rounds before 5 say samples as epoch_num for some benchmarks
        if points and points[-1][0] < batch:
            yield Finding("schedule", WARNING, "the evaluations do not say after how many samples they are: their "
                          "schedule is not checked", points[0][1], QUALITY, NOT_CHECKED)  # fmt: skip
            return
    wrong = list(_off_schedule(points, told, batch))
    for text, line, severity in wrong[:_SHOWN]:
        yield Finding("schedule", severity, f"{text} {told.unit}", line, QUALITY, NOT_CHECKED)
    if len(wrong) > _SHOWN:
        yield Finding("schedule", ERROR, f"{len(wrong) - _SHOWN} more evaluations are off the schedule", None, QUALITY)


def _points(case: Case, unit: str) -> list[tuple[float, int]]:
    """(samples or epochs, line) of the evaluations; one of 0 is before the training, and measures nothing."""
    return [(e.units, e.line) for e in case.run.evaluations if e.unit == unit and e.units is not None and e.units > 0]


def _off_schedule(points: list[tuple[float, int]], told: Schedule, batch: float) -> Iterator[tuple[str, int, str]]:
    """(what, line, severity) of evaluations that are further from where they belong than may be."""
    every, first = told.interval(batch), told.first(batch)
    if told.unit == "samples":
        early = every - told.unrounded(batch) + told.early_batches * batch
        late, first_late = told.late_batches * batch, told.first_late_batches * batch
    else:
        hundredths = every < 1 and all(round(at, 2) == at for at, _ in points)  # how fine the log says it
        early = late = first_late = 0.01 + 1e-9 if hundredths else 0.02 * every
    if points and not told.any_offset:
        at, line = points[0]
        if at > first + first_late or (at < first - early and not told.or_more_often):
            yield f"the first evaluation is after {at:g}, where the rules have {first:g}", line, ERROR
    for i, ((before, _), (at, line)) in enumerate(pairwise(points)):
        apart = at - before
        text = f"an evaluation {apart:g} after the one before, where the rules have {every:g}"
        if apart > every + late:
            yield text, line, ERROR
        elif 0 < apart < every - early and not told.or_more_often:
            # An offset moves where the first interval begins, and some logs number the epochs before it otherwise.
            yield text, line, WARNING if told.any_offset and i == 0 else ERROR
