"""Figures of stored files put into series: one for each benchmark, quantity and machine, in the order of commits."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from perfsuite.track.git_history import History
from perfsuite.track.measurement import Measurement, Quantity


@dataclass(frozen=True)
class Point:
    """A commit in a series."""

    commit: str | None
    """Full hash where the history has it."""
    dirty: bool
    repeats: tuple[Measurement, ...]
    """One for each file of this commit, oldest first."""

    @property
    def value(self) -> float:
        """Median of the repeats."""
        return median(m.value for m in self.repeats)

    @property
    def name(self) -> str:
        """E.g. "1a2b3c4d5e" or "1a2b3c4d5e+changes"; "no commit" where the file names none."""
        return (self.commit[:10] if self.commit else "no commit") + ("+changes" if self.dirty else "")


@dataclass(frozen=True)
class Series:
    """What one benchmark did on one machine."""

    benchmark: str
    quantity: Quantity
    machine: str
    points: tuple[Point, ...]

    def logs(self) -> np.ndarray:
        """Natural logarithm of each point's value."""
        return np.log([point.value for point in self.points])

    def values(self, start: int, stop: int, repeats: bool = False) -> list[float]:
        """Values of the points start to stop (not including it), or of all their repeats."""
        points = self.points[start:stop]
        return [m.value for p in points for m in p.repeats] if repeats else [p.value for p in points]


def group(measurements: Iterable[Measurement], history: History) -> list[Series]:
    """All series, by benchmark, quantity and machine.

    Points are in the order of the history. A commit that it lacks stands after the last one that is not younger.
    """
    cells: dict[tuple, dict[tuple[str, bool], list[Measurement]]] = defaultdict(lambda: defaultdict(list))
    for m in measurements:
        commit = (history.full(m.commit) or m.commit) if m.commit else f"no commit {m.file}"
        cells[m.benchmark, m.quantity, m.machine][commit, m.dirty].append(m)
    found = []
    for (benchmark, quantity, machine), commits in sorted(cells.items()):
        points = [Point(None if commit.startswith("no commit") else commit, dirty, _oldest_first(repeats))
                  for (commit, dirty), repeats in commits.items()]  # fmt: skip
        found.append(Series(benchmark, quantity, machine, tuple(_ordered(points, history))))
    return found


def strangers(series: Iterable[Series], history: History) -> list[str]:
    """Names of commits that the history lacks."""
    return sorted({point.name for one in series for point in one.points if point.commit not in history.position})


def since(series: Series, commit: str, history: History) -> Series:
    """Without what stands before `commit`, a full hash of the history."""
    first = history.position[commit]
    at = next((i for i, p in enumerate(series.points) if history.position.get(p.commit, -1) >= first), None)
    return Series(series.benchmark, series.quantity, series.machine, series.points[at:] if at is not None else ())


def settled(points: Sequence[Point], of: str, least: int = 3) -> dict[str, str]:
    """Conditions, options (`of`) that most of the points share, from the `least` points or more that say them."""
    values: Mapping[str, Counter] = defaultdict(Counter)
    for point in points:
        for m in point.repeats[-1:]:
            for key, value in getattr(m, of).items():
                values[key][value] += 1
    shared = {}
    for key, counted in values.items():
        value, times = counted.most_common(1)[0]
        if times > 0.7 * len(points) and times >= min(least, len(points)):
            shared[key] = value
    return shared


def yardstick(points: Sequence[Point]) -> dict[str, float]:
    """Median rate of each yardstick over the repeats of the points."""
    rates = defaultdict(list)
    for point in points:
        for m in point.repeats:
            for name, rate in m.yardstick.items():
                rates[name].append(rate)
    return {name: median(values) for name, values in rates.items()}


def _oldest_first(repeats: Iterable[Measurement]) -> tuple[Measurement, ...]:
    return tuple(sorted(repeats, key=lambda m: (m.time_s, str(m.file))))


def _ordered(points: Sequence[Point], history: History) -> list[Point]:
    known = [p for p in points if p.commit in history.position]
    known.sort(key=lambda p: (history.position[p.commit], p.dirty))
    others = sorted((p for p in points if p.commit not in history.position), key=lambda p: p.repeats[0].time_s)
    placed: list[Point] = []
    for point in known:
        committed = history.time_s[point.commit]
        while others and others[0].repeats[0].time_s < committed:
            placed.append(others.pop(0))
        placed.append(point)
    return placed + others


def relative(ratio: float) -> float:
    """How far a ratio is from 1, either way, as a logarithm above 0."""
    return abs(math.log(ratio))
