"""The changes of each series, with a verdict on each; false discoveries are controlled over all series together."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np

from perfsuite import verdict
from perfsuite.track import change_points
from perfsuite.track.change_points import ENOUGH_POINTS
from perfsuite.track.series import Series
from perfsuite.verdict import Comparison, Verdict

ALPHA = 0.05
"""False-discovery rate over the series."""
EXACT_MARGIN = 0.001
"""Relative; for what has no chance in it."""


@dataclass(frozen=True)
class Change:
    """The level of points[start:index] against that of points[index:stop]."""

    start: int
    index: int
    stop: int
    first: int
    """The change lies at one of the points first to last, at 95 %; index is the likeliest."""
    last: int
    comparison: Comparison | None
    """After over before; None where there are too few points for an interval."""
    verdict: Verdict
    usual: float
    """By how much, relative, stretches as long as these differ in this series without a change."""
    confirmed: bool = True
    """Whether more than one measurement shows it."""


def find(series: Sequence[Series]) -> list[list[Change]]:
    """Changes of each series, in the order of the points."""
    few = [i for i, one in enumerate(series) if _has_few(one)]
    many = [i for i, one in enumerate(series) if not one.quantity.exact and i not in few]
    logs = {i: series[i].logs() for i in many}
    related = {i: change_points.autocorrelation(logs[i]) for i in many}
    splits = {i: change_points.best_split(logs[i], related[i]) for i in many}
    p_values = {i: split.p_value for i, split in splits.items() if split is not None}
    p_values |= {i: _p_of_few(series[i]) for i in few}
    chosen = {i for i, keep in zip(p_values, verdict.selected(list(p_values.values()), ALPHA), strict=True) if keep}
    # Benjamini and Hochberg's level for the parts of a series too.
    level = 1 - verdict.adjusted_level(len(p_values), len(chosen), ALPHA)
    results: list[list[Change]] = []
    for i, one in enumerate(series):
        if one.quantity.exact:
            results.append(_exact(one))
        elif i not in chosen:
            results.append([])
        elif i in few:
            results.append(_of_few(one))
        else:
            found = change_points.divide(logs[i], level, related[i], splits[i])
            kept = change_points.pruned(found, _size(logs[i]), math.log(1 + verdict.MARGIN), len(logs[i]))
            results.append(_judged(one, logs[i], kept))
    return _with_newest(series, results)


def compare(series: Series, start: int, index: int, stop: int) -> Comparison | None:
    """Points index to stop against points start to index; their repeats where the points alone are too few."""
    for repeats in (False, True):
        before, after = series.values(start, index, repeats), series.values(index, stop, repeats)
        try:
            return verdict.unpaired(before, after)
        except ValueError:
            continue
    return None


def levels(series: Series, found: Sequence[Change]) -> list[tuple[int, int, float]]:
    """(first point, stop, median) of each stretch between changes."""
    edges = [0, *(change.index for change in found), len(series.points)]
    return [(a, b, median(series.values(a, b))) for a, b in pairwise(edges) if b > a]


def _judged(series: Series, logs: np.ndarray, indices: Sequence[int]) -> list[Change]:
    found = []
    edges = [0, *indices, len(logs)]
    for i, index in enumerate(indices):
        start, stop = edges[i], edges[i + 2]
        first, last = change_points.located(logs, indices, i)
        usual = _usual(logs, indices, min(index - start, stop - index))
        found.append(_change(series, start, index, stop, first, last, usual))
    return found


def _change(series: Series, start: int, index: int, stop: int, first: int, last: int, usual: float,
            confirmed: bool = True) -> Change:  # fmt: skip
    comparison = compare(series, start, index, stop)
    if comparison is None:
        ratio = median(series.values(index, stop)) / median(series.values(start, index))
        why = f"{index - start} and {stop - index} points are too few for an interval"
        found = verdict.cannot_tell(why)._replace(ratio=ratio)
    else:
        found = verdict.judge(comparison, noise=usual)
    return Change(start, index, stop, first, last, comparison, found, usual, confirmed)


def _size(logs: np.ndarray) -> Callable[[int, int, int], float]:
    return lambda start, index, stop: abs(float(np.median(logs[index:stop]) - np.median(logs[start:index])))


def _usual(logs: np.ndarray, indices: Sequence[int], length: int) -> float:
    """95 % quantile of the difference of neighbouring stretches of `length` points, relative, without the changes.

    Where the series is too short for enough stretches of that length, shorter ones are taken and scaled by the root.
    """
    parts = np.split(logs, list(indices))
    rest = np.concatenate([part - np.median(part) for part in parts])
    width = max(1, min(length, len(rest) // 6))
    middles = np.median(np.lib.stride_tricks.sliding_window_view(rest, width), axis=1)
    differences = np.abs(middles[width:] - middles[:-width])
    if not len(differences):
        return 0.0
    return math.expm1(float(np.quantile(differences, 0.95)) * math.sqrt(width / length))


def _exact(series: Series) -> list[Change]:
    values = series.values(0, len(series.points))
    steps = [i for i, (a, b) in enumerate(pairwise(values), 1)
             if relative_step(a, b) > EXACT_MARGIN and abs(b - a) > series.quantity.slack]  # fmt: skip
    edges = [0, *steps, len(values)]
    found = []
    for i, index in enumerate(steps):
        ratio = values[index] / values[index - 1]
        comparison = Comparison(ratio, ratio, ratio, verdict.LEVEL, 1)
        judged = verdict.judge(comparison, margin=EXACT_MARGIN)
        found.append(Change(edges[i], index, edges[i + 2], index, index, comparison, judged, 0.0))
    return found


def relative_step(before: float, after: float) -> float:
    """Size of a step, relative to the smaller of both."""
    return max(before, after) / min(before, after) - 1


def _has_few(series: Series) -> bool:
    """Whether there are too few points for permutations, and repeats that can be compared instead."""
    repeats = sum(len(point.repeats) for point in series.points)
    return not series.quantity.exact and 2 <= len(series.points) < ENOUGH_POINTS <= repeats


def _p_of_few(series: Series) -> float:
    """Of the clearest step between commits; times their number, as the clearest was picked."""
    steps = range(1, len(series.points))
    return min(1.0, len(steps) * min(_step_p(series, 0, step, len(series.points)) for step in steps))


def _step_p(series: Series, start: int, step: int, stop: int) -> float:
    before, after = (series.values(*each, repeats=True) for each in ((start, step), (step, stop)))
    return change_points.student_p(np.log([*before, *after]), len(before))


def _of_few(series: Series) -> list[Change]:
    """Steps between commits whose repeats, all of those before and after, have a verdict; by bisecting."""
    edges = [0, *_steps(series, 0, len(series.points)), len(series.points)]
    return [_change(series, edges[i - 1], edges[i], edges[i + 1], edges[i], edges[i], 0.0)
            for i in range(1, len(edges) - 1)]  # fmt: skip


def _steps(series: Series, start: int, stop: int) -> list[int]:
    if stop - start < 2:
        return []
    step = min(range(start + 1, stop), key=lambda each: _step_p(series, start, each, stop))
    try:
        found = verdict.unpaired(series.values(start, step, repeats=True), series.values(step, stop, repeats=True))
    except ValueError:
        return []
    if verdict.judge(found).word not in (verdict.SLOWER, verdict.FASTER):
        return []
    return [*_steps(series, start, step), step, *_steps(series, step, stop)]


def _with_newest(series: Sequence[Series], found: list[list[Change]]) -> list[list[Change]]:
    """With the newest commit alone, where it lies outside of what its series did before.

    One point is no segment. Its distance from the level before is tested by Student's t, as a new value of the same
    kind, and confirmed where repeats of it say the same.
    """
    candidates = {i: p for i, one in enumerate(series) if (p := _newest_p(one, found[i])) is not None}
    keep = verdict.selected(list(candidates.values()), ALPHA) if candidates else []
    for (i, _), selected in zip(candidates.items(), keep, strict=True):
        one, last = series[i], len(series[i].points) - 1
        start = found[i][-1].index if found[i] else 0
        if not selected:
            continue
        usual = max(relative_step(value, median(one.values(start, last))) for value in one.values(start, last))
        change = _change(one, start, last, last + 1, last, last, usual, len(one.points[last].repeats) > 1)
        if relative_step(change.verdict.ratio, 1) > max(usual, verdict.MARGIN):
            if found[i]:
                found[i][-1] = _change(one, found[i][-1].start, start, last, found[i][-1].first, found[i][-1].last,
                                       found[i][-1].usual, found[i][-1].confirmed)  # fmt: skip
            found[i].append(change)
    return found


def _newest_p(series: Series, found: Sequence[Change]) -> float | None:
    from scipy.special import stdtr

    last = len(series.points) - 1
    start = found[-1].index if found else 0
    before = np.log(series.values(start, last))
    if series.quantity.exact or len(before) < ENOUGH_POINTS - 1 or (found and found[-1].index == last):
        return None
    spread = float(np.std(before, ddof=1))
    distance = abs(math.log(series.points[last].value) - float(np.mean(before)))
    if spread == 0:
        return 0.0 if distance > 0 else 1.0
    t = distance / (spread * math.sqrt(1 + 1 / len(before)))
    return 2 * float(stdtr(len(before) - 1, -t))
