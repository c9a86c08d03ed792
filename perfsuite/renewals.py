"""When a sensor renewed its value: dates from samples of it, sharpened by the grid that a regular sensor keeps."""

from typing import NamedTuple

import numpy as np

REGULAR = 0.2
"""A sensor counts as regular where its renewals keep a grid to within this share of what sampling leaves open."""
_SCANNED = 100
_TRIED = 10
LEAST = 8
"""Renewals: fewer tell no period."""


class Dates(NamedTuple):
    """Of n renewals, in order; each shows a new value at a sample."""

    sample: np.ndarray
    """int64 (n,): the first sample that shows it."""
    t_ns: np.ndarray
    """float64 (n,): the date of each."""
    open_ns: np.ndarray
    """float64 (n,): how far the date may be off, either way."""
    number: np.ndarray
    """int64 (n,): of each on the sensor's grid; renewals that changed nothing leave holes. 0, 1, ... without a grid."""
    period_ns: float | None
    """Of the grid; None where the renewals keep none, or are too few, or come as often as the samples."""
    period_open_ns: float | None
    jitters: bool
    """Whether single renewals were seen off the grid; open_ns then is how far."""
    reason: str | None
    """Why there is no grid."""

    @property
    def regular(self) -> bool:
        """Whether the dates lie on the grid exactly, and may only be off all together."""
        return self.period_ns is not None and not self.jitters

    def at(self, number: np.ndarray) -> np.ndarray:
        """Dates of any numbers on the grid, float64 ns."""
        return self.t_ns[0] + (np.asarray(number) - self.number[0]) * self.period_ns


def dates(begin_ns: np.ndarray, end_ns: np.ndarray, values: np.ndarray) -> Dates:
    """Dates of the renewals of `values`, float64 (n,), each read between begin_ns and end_ns, int64 (n,).

    A value that differs from the one before was renewed after that one's read had begun and before its own was done.
    Where the renewals keep a grid, the grid must pass through all of these stretches, which leaves it a fraction of one
    of them: the dates are then known far better than the samples are apart. A grid that they keep but for a small
    jitter is taken with that jitter as what is left open.
    """
    sample = np.flatnonzero(np.diff(values) != 0) + 1
    low, high = begin_ns[sample - 1].astype(np.float64), end_ns[sample].astype(np.float64)
    middle, half = (low + high) / 2, (high - low) / 2

    def without(reason: str) -> Dates:
        return Dates(sample, middle, half, np.arange(len(sample)), None, None, False, reason)

    if len(sample) < LEAST:
        return without(f"{len(sample)} renewals were seen: at least {LEAST} tell a period")
    apart = float(np.median(np.diff(begin_ns)))
    tolerated = REGULAR * float(np.median(half))
    for period, start in _candidates(middle[:_SCANNED], 1.5 * apart):
        number = _numbers(middle, period, start)
        grid = _Grid(number, low, high)
        if grid.slack >= -tolerated:
            break
    else:
        return without("the renewals keep no grid that the samples show: they are irregular, or nearly as frequent")
    start, period, slack = grid.start, grid.period, grid.slack
    t = start + number * period
    left, period_open = (-slack, -2 * slack / (number[-1] or 1)) if slack < 0 else grid.left_open()
    return Dates(sample, t, np.full(len(t), max(left, 1.0)), number, period, period_open, slack < 0, None)


def _candidates(middle: np.ndarray, shortest: float) -> list[tuple[float, float]]:
    """(period, start after the first middle) of grids that the middles may lie near, the longest period first.

    As points on a circle of a grid's period they lie close together. They do so on every part of a period too: of
    several grids that all stretches allow, the longest is the sensor's. The sampler's own grid passes through all
    stretches as well: periods about as short as its own are no candidates.
    """
    t = middle - middle[0]
    lowest, highest = 0.6 / float(np.median(np.diff(t))), 1 / shortest
    if highest <= lowest:
        return []
    frequency = np.arange(lowest, highest, 0.25 / t[-1])
    point = np.exp(2j * np.pi * np.outer(frequency, t)).mean(axis=1)
    together = np.abs(point)
    peak = np.ones(len(frequency), bool)
    peak[1:] &= together[1:] >= together[:-1]
    peak[:-1] &= together[:-1] >= together[1:]
    found = np.flatnonzero(peak & (together >= 0.5 * together.max()))
    return [(1 / frequency[i], float(np.angle(point[i])) / (2 * np.pi * frequency[i])) for i in found[:_TRIED]]


def _numbers(middle: np.ndarray, period: float, start: float) -> np.ndarray:
    """The place of each renewal on the grid near this one, by lines through more and more of them; from 0."""
    count = min(len(middle), _SCANNED)
    t = middle - middle[0]
    while True:
        number = np.round((t[:count] - start) / period)
        if len(np.unique(number)) > 1:
            period, start = np.polyfit(number, t[:count], 1)
        if count == len(middle):
            break
        count = min(2 * count, len(middle))
    number = np.round((t - start) / period).astype(np.int64)
    return number - number[0]


class _Grid:
    """The grid start + number * period that stays the furthest from the ends of the stretches.

    `slack` is that distance; below 0 no grid passes through all stretches, and it is by how much this one misses one.
    """

    def __init__(self, number: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        # In units of a period, so that the solver's tolerance is far below what matters.
        self._origin, self._unit = float(low[0]), float(np.median(np.diff(low)))
        ones, number = np.ones(len(number)), number.astype(np.float64)
        self._last = float(number[-1])
        self._rows = np.concatenate([np.stack([-ones, -number], axis=1), np.stack([ones, number], axis=1)])
        self._limits = np.concatenate([-(low - self._origin), high - self._origin]) / self._unit
        found = self._solve([0, 0, -1], np.column_stack([self._rows, np.ones(2 * len(number))]))
        self._found = found
        self.start = self._origin + float(found[0]) * self._unit
        self.period, self.slack = float(found[1]) * self._unit, float(found[2]) * self._unit

    def left_open(self) -> tuple[float, float]:
        """How far off the dates and the period may be: over all grids that pass through the stretches."""
        # A date is linear in start and period, so the first and the last one are off the furthest.
        dates_off = [self._reach([1, 0]), self._reach([1, self._last])]
        return self._unit * max(dates_off), self._unit * self._reach([0, 1])

    def _reach(self, of: list[float]) -> float:
        ends = [float(np.dot(of, self._solve([sign * c for c in of], self._rows))) for sign in (1, -1)]
        here = float(np.dot(of, self._found[:2]))
        return max(abs(end - here) for end in ends)

    def _solve(self, cost: list[float], rows: np.ndarray) -> np.ndarray:
        from scipy.optimize import linprog  # imported here: only sensors need it

        found = linprog(cost, rows, self._limits, bounds=[(None, None)] * len(cost), method="highs")
        if not found.success:
            raise RuntimeError(f"dating renewals on a grid failed: {found.message}")
        return found.x
