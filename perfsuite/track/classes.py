"""What a change is: noise, the machine, the benchmark's own code, or real. Each with its evidence in words."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from perfsuite import verdict
from perfsuite.track.changes import Change
from perfsuite.track.git_history import History
from perfsuite.track.measurement import Quantity
from perfsuite.track.series import Point, Series, relative, settled, yardstick

NOISE, MACHINE, HARNESS, REAL = "noise", "machine changed", "harness changed", "real"
RETURNS_WITHIN = 5
"""Points. A level that is left again so soon, for the one before it, was a burst."""
_NEAR = 5
"""Points on each side whose conditions are compared."""
_TOGETHER, _MOST_OF, _ALIKE = 8, 0.8, 0.4
"""From so many series on, so large a share of them that changed by so nearly the same (of the logarithm)."""
_UNCHANGED = ("neither machine, options nor the benchmark's code changed",
              "neither machine nor options changed; whether the benchmark's code did is not known")  # fmt: skip
"""By whether the code is not known."""
_HARDWARE_ONLY = ("fingerprint", "host", "kernel")


@dataclass(frozen=True)
class Class:
    """The kind of a change and what says so."""

    word: str
    why: str


def classify(series: Sequence[Series], found: Sequence[Sequence[Change]], history: History) -> list[list[Class]]:
    """A class for every change."""
    together = _together(series, found)
    return [[_class(one, changes, i, history, together) for i in range(len(changes))]
            for one, changes in zip(series, found, strict=True)]  # fmt: skip


def _class(series: Series, changes: Sequence[Change], i: int, history: History,
           together: Callable[[Series, Change], str | None]) -> Class:  # fmt: skip
    change = changes[i]
    why = _noise(series, changes, i)
    if why:
        return Class(NOISE, why)
    before, after = series.points[change.start : change.index], series.points[change.index : change.stop]
    why = _machine(series, change, before, after)
    if why:
        return Class(MACHINE, why)
    code = _code(series, change, history)
    told = [f"option {key} {a} -> {b}" for key, (a, b) in _differing(series, change, "options").items()]
    if told or code:
        return Class(HARNESS, "; ".join([*told, *(code or [])]))
    why = together(series, change)
    if why:
        return Class(MACHINE, why)
    return Class(REAL, f"{_where(series, change, history)}: {_UNCHANGED[code is None]}")


def _noise(series: Series, changes: Sequence[Change], i: int) -> str | None:
    change, ratio = changes[i], changes[i].verdict.ratio
    if series.quantity.exact:
        return None
    if not change.confirmed:
        return "one measurement of the newest commit only: measure it again to confirm it"
    clear = change.comparison and verdict.judge(change.comparison).word != verdict.CANNOT_TELL
    if relative(ratio) <= math.log1p(change.usual) or (clear and change.verdict.word == verdict.CANNOT_TELL):
        return f"not beyond what this series does without a change ({100 * change.usual:.2g} %)"
    for first in range(i + 1):
        for last in range(max(i, first + 1), len(changes)):
            a, b = changes[first], changes[last]
            length = b.index - a.index
            if length > RETURNS_WITHIN:
                break
            levels = [median(series.values(*stretch)) for stretch in ((a.start, a.index), (b.index, b.stop))]
            if relative(levels[1] / levels[0]) <= max(0.3 * relative(ratio), math.log1p(verdict.MARGIN)):
                return f"the level returned after {length} points" if i < last else f"the end of {length} stray points"
    return None


def _machine(series: Series, change: Change, before: Sequence[Point], after: Sequence[Point]) -> str | None:
    if series.quantity.exact:  # counts do not depend on speed
        return None
    explained = _yardstick(change, before, after)
    differing = _differing(series, change, "conditions")
    if explained is False:  # the machine was as fast as before: what else changed may be the software on it
        differing = {key: pair for key, pair in differing.items() if key not in _HARDWARE_ONLY}
    told = [f"{key} {a} -> {b}" for key, (a, b) in differing.items() if key != "fingerprint" or len(differing) == 1]
    if isinstance(explained, str):
        told.insert(0, explained)
    return "; ".join(told) or None


def _yardstick(change: Change, before: Sequence[Point], after: Sequence[Point]) -> str | bool | None:
    """In words, where the yardsticks moved as the times did; False where they did not; None where there are none."""
    rates = yardstick(before), yardstick(after)
    shared = sorted(rates[0].keys() & rates[1].keys())
    if not shared or change.comparison is None:
        return None
    slowed = {name: rates[0][name] / rates[1][name] for name in shared}  # as a ratio of times
    for name, factor in slowed.items():
        same_way = (factor > 1) == (change.comparison.ratio > 1)
        left = verdict.judge(change.comparison.widened(factor), noise=change.usual).word
        if same_way and relative(factor) >= 0.5 * relative(change.comparison.ratio) and left == verdict.CANNOT_TELL:
            return f"the {name} yardstick took {factor:.3g}x the time too"
    return False


def _differing(series: Series, change: Change, of: str) -> dict[str, tuple[str, str]]:
    """What is settled on both sides of one of the places where the change may lie, and is not the same."""
    candidates = sorted(range(change.first, change.last + 1), key=lambda place: abs(place - change.index))
    for place in candidates:
        sides = (series.points[max(0, place - _NEAR) : place], series.points[place : place + _NEAR])
        if not all(sides):
            continue
        adjacent = sides[0][-1].repeats[-1], sides[1][0].repeats[0]
        before, after = (settled(side, of) for side in sides)
        found = {key: (before[key], after[key]) for key in sorted(before.keys() & after.keys())
                 if before[key] != after[key]
                 and getattr(adjacent[0], of).get(key) == before[key]
                 and getattr(adjacent[1], of).get(key) == after[key]}  # fmt: skip
        if found:
            return found
    return {}


def _code(series: Series, change: Change, history: History) -> list[str] | None:
    """Which files of the benchmark's own code changed; None where that is not known."""
    one = series.points[change.index].repeats[0]
    first = series.points[max(change.first - 1, change.start)]
    last = series.points[min(change.last, change.stop - 1)]
    if not one.source or not first.commit or not last.commit:
        return None
    files = history.changed_code(first.commit, last.commit, one.source, one.function)
    return None if files is None else [f"{file} changed between {first.name} and {last.name}" for file in files]


def _where(series: Series, change: Change, history: History) -> str:
    """Which commits a real change may come from."""
    first = series.points[max(change.first - 1, 0)]
    last = series.points[change.last]
    count = history.between(first.commit, last.commit) if first.commit and last.commit else None
    if count == 1:
        return f"in {last.name}"
    return f"{f'in one of {count} commits ' if count else ''}after {first.name}, up to {last.name}"


def _together(series: Sequence[Series], found: Sequence[Sequence[Change]]) -> Callable[[Series, Change], str | None]:
    """A judge of whether most series of a machine changed at a commit, the same way and by about as much."""
    timed = [(one, {point.commit for point in one.points[1:]}, changes)
             for one, changes in zip(series, found, strict=True) if not one.quantity.exact]  # fmt: skip

    def judged(series: Series, change: Change) -> str | None:
        return _common(series, change, timed)

    return judged


def _common(series: Series, change: Change,
            timed: Sequence[tuple[Series, set[str | None], Sequence[Change]]]) -> str | None:  # fmt: skip
    before, after = series.points[change.start : change.index], series.points[change.index : change.stop]
    if _yardstick(change, before, after) is False:
        return None
    quantity: Quantity = series.quantity
    places = {series.points[i].commit for i in range(change.first, change.last + 1)} - {None}
    measured, ratios = 0, []
    for other, commits, changes in timed:
        if other.machine != series.machine or other.quantity != quantity:
            continue
        if not places & commits:
            continue
        measured += 1
        ratios += [c.verdict.ratio for c in changes if other.points[c.index].commit in places][:1]
    if measured < _TOGETHER or not ratios:
        return None
    middle = math.log(median(ratios))
    alike = sum(abs(math.log(ratio) - middle) <= _ALIKE * abs(middle) for ratio in ratios)
    own = abs(math.log(change.verdict.ratio) - middle) <= _ALIKE * abs(middle)
    if not own or alike < _MOST_OF * measured:
        return None
    return f"{alike} of {measured} benchmarks of this machine changed together, by {math.exp(middle):.3g}x"
