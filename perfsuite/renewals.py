"""When a sensor renewed its value: dates from samples of it, sharpened by the grid that a regular sensor keeps."""

from typing import NamedTuple

import numpy as np

REGULAR = 0.2
"""A sensor counts as regular where its renewals keep a grid to within this share of what sampling leaves open."""
_SCANNED = 100
_TRIED = 10
_TOO_OFTEN = "the value is renewed about as often as it was read, or more often: read it more often"
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
    if len(sample) > 0.8 * (len(values) - 1):
        return without(_TOO_OFTEN)
    apart = float(np.median(np.diff(begin_ns)))
    tolerated = REGULAR * float(np.median(half))
    for period, start in _candidates(middle[:_SCANNED]):
        number = _numbers(middle, period, start)
        fitted = _fit(number, low, high)
        if fitted is not None and -fitted[2] <= tolerated:
            break
    else:
        return without(f"the renewals keep no grid to within {REGULAR:.0%} of what sampling leaves open")
    start, period, slack = fitted
    if period < 1.5 * apart:  # the sampler's own grid passes through all stretches too
        return without(_TOO_OFTEN)
    t = start + number * period
    left = max(abs(slack), 1.0) if slack < 0 else _left_open(number, low, high, start, period)
    period_open = 2 * left / max(1, int(number[-1] - number[0]))
    return Dates(sample, t, np.full(len(t), left), number, period, period_open, slack < 0, None)


def _candidates(middle: np.ndarray) -> list[tuple[float, float]]:
    """(period, start after the first middle) of grids that the middles may lie near, the longest period first.

    As points on a circle of a grid's period they lie close together. They do so on the sampler's own grid too, and on
    every part of a period: of several grids that all stretches allow, the longest is the sensor's.
    """
    t = middle - middle[0]
    lowest, highest = 0.6 / float(np.median(np.diff(t))), 1.6 / float(np.min(np.diff(t)))
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


def _fit(number: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[float, float, float] | None:
    """(start, period, slack) of the grid that stays the furthest from the ends of the stretches; slack < 0: outside."""
    from scipy.optimize import linprog  # imported here: only sensors need it

    origin, scale = low[0], float(np.median(np.diff(low)))
    ones = np.ones(len(number))
    above = np.stack([-ones, -number.astype(float), ones], axis=1)
    below = np.stack([ones, number.astype(float), ones], axis=1)
    limits = np.concatenate([-(low - origin), high - origin]) / scale
    found = linprog([0, 0, -1], np.concatenate([above, below]), limits, bounds=[(None, None)] * 3, method="highs")
    if not found.success:
        return None
    start, period, slack = found.x * scale
    return origin + float(start), float(period), float(slack)


def _left_open(number: np.ndarray, low: np.ndarray, high: np.ndarray, start: float, period: float) -> float:
    """How far a grid of this period may be moved before it leaves a stretch, the larger way."""
    t = start + number * period
    return float(max(np.min(high - t), np.min(t - low)))
