"""Where the level of a series changes: E-divisive (Matteson and James, 2014), bisecting, with permutation tests.

The energy distance of two stretches of numbers, at exponent 1, is twice the integral of the squared difference of their
distribution functions (Szekely and Rizzo, 2013). That form takes one pass over the points for each threshold instead of
all pairs of points, so that 5000 points and their permutations are affordable. Numbers in, indices out; a change at
index i lies between points i - 1 and i.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

MIN_SEGMENT = 2
"""Points. One point cannot be told from a stray one."""
LEAST_POINTS = 5
ENOUGH_POINTS = 8
"""4 against 4 are the least that Wilcoxon's test, or a permutation, can tell apart at 95 %."""
_THRESHOLDS = 32
_PERMUTATIONS = 999
_ENOUGH = 10
"""So many permutations above the observed value settle that it is nothing special (Besag and Clifford, 1991)."""
_CLIP = 6.0
_LOCATED = -2 * math.log(1 - math.sqrt(0.95))
"""95 % quantile of the likelihood ratio of a change's place: Hansen (2000), equation 9."""


class Split(NamedTuple):
    """The best place to divide a stretch."""

    index: int
    p_value: float


def best_split(values: Sequence[float], autocorrelation: float = 0.0, seed: int = 0) -> Split | None:
    """The likeliest change in the values and the probability of one so clear where there is none.

    autocorrelation: between neighbours where nothing changes. Means of such values spread by (1 + r) / (1 - r) times
    the variance that a permutation sees, and the statistic is divided by that. Where all points before are below all
    after (or above), Student's t, times the number of splits, goes on from where few points leave permutations. None
    for fewer than LEAST_POINTS.
    """
    x = np.asarray(values, dtype=float)
    n = len(x)
    if n < LEAST_POINTS:
        return None
    below, widths = _thresholds(_clipped(x))
    if not len(widths):
        return None
    statistics = _energy(below[None], widths)[0]
    index = int(np.argmax(statistics)) + MIN_SEGMENT
    shrunk = (1 - autocorrelation) / (1 + autocorrelation)
    p_value = max(_p_value(below, widths, float(statistics.max()) * shrunk, seed), 1 / math.comb(n, index))
    before, after = x[:index], x[index:]
    if before.max() < after.min() or before.min() > after.max():  # orders can say no more, distances can
        p_value = min(p_value, (n - 2 * MIN_SEGMENT + 1) * student_p(x, index, shrunk))
    return Split(index, p_value)


def divide(values: Sequence[float], level: float, autocorrelation: float = 0.0,
           first: Split | None = None) -> list[int]:  # fmt: skip
    """Indices of all changes, by bisecting until no part has one with a p-value of at most `level`.

    first: the split of the whole, where it is known.
    """
    x = np.asarray(values, dtype=float)
    found: list[int] = []
    open_parts = [(0, len(x), first)]
    while open_parts:
        start, stop, known = open_parts.pop()
        split = known or best_split(x[start:stop], autocorrelation)
        if split is None or split.p_value > level:
            continue
        index = start + split.index
        found.append(index)
        open_parts += [(start, index, None), (index, stop, None)]
    return relocate(x, sorted(found))


def relocate(values: np.ndarray, indices: Sequence[int]) -> list[int]:
    """Each change moved to where it fits best between its neighbours: a bisection places the first ones roughly."""
    moved = list(indices)
    for _ in range(2):
        for i in range(len(moved)):
            start, stop = _around(moved, i, len(values))
            moved[i] = start + _locate(values[start:stop])[0]
    return moved


def located(values: np.ndarray, indices: Sequence[int], i: int) -> tuple[int, int]:
    """First and last index at which the i-th change may lie, at 95 %."""
    start, stop = _around(indices, i, len(values))
    _, low, high = _locate(np.asarray(values, dtype=float)[start:stop], indices[i] - start)
    return start + low, start + high


def pruned(indices: Sequence[int], size: Callable[[int, int, int], float], margin: float, length: int) -> list[int]:
    """Without the changes that are smaller than `margin`, the smallest first.

    size(start, index, stop): how far the stretches on both sides of index stand apart, in logarithms, above 0.
    """
    kept = list(indices)
    while kept:
        sizes = [size(start, kept[i], stop) for i in range(len(kept)) for start, stop in [_around(kept, i, length)]]
        smallest = int(np.argmin(sizes))
        if sizes[smallest] >= margin:
            break
        del kept[smallest]
    return kept


def autocorrelation(values: Sequence[float]) -> float:
    """Lag-1 autocorrelation, 0 to 0.9, that neither changes of level nor outliers inflate.

    From the spread of differences of neighbours and of neighbours but one: their variances are 2 s^2 (1 - r) and
    2 s^2 (1 - r^2) in a first-order autoregression, so that their ratio is 1 + r. Its own standard error, about
    1 / sqrt(n), is taken off: independent noise must not cost power.
    """
    x = np.asarray(values, dtype=float)
    if len(x) < 2 * ENOUGH_POINTS:
        return 0.0
    most = 3.5 * math.sqrt(2) * noise_scale(x)
    if most == 0:
        return 0.0
    differences = [x[lag:] - x[:-lag] for lag in (1, 2)]
    one, two = (float(np.mean(d[np.abs(d) <= most] ** 2)) for d in differences)
    return min(max(two / one - 1 - 1 / math.sqrt(len(x)), 0.0), 0.9)


def student_p(values: Sequence[float], index: int, shrunk: float = 1.0) -> float:
    """Two-sided p-value of Student's t for equal means before and after index; shrunk: share of points that count."""
    from scipy.special import stdtr

    x = np.asarray(values, dtype=float)
    a, b = x[:index], x[index:]
    within = float(np.sum((a - a.mean()) ** 2) + np.sum((b - b.mean()) ** 2))
    if within == 0:
        return float(a[0] == b[0])
    error = math.sqrt(within / (len(x) - 2) * (1 / len(a) + 1 / len(b)) / shrunk)
    return 2 * float(stdtr(len(x) - 2, -abs(float(b.mean() - a.mean())) / error))


def noise_scale(values: np.ndarray) -> float:
    """Standard deviation of normal noise around levels that seldom change: from the differences of neighbours."""
    if len(values) < 2:
        return 0.0
    return 1.4826 * float(np.median(np.abs(np.diff(values)))) / math.sqrt(2)


def _clipped(x: np.ndarray) -> np.ndarray:
    """Logarithms of times have a heavy upper tail: a stray point counts as far out, and no more than that."""
    scale, middle = noise_scale(x), np.median(x)
    return np.clip(x, middle - _CLIP * scale, middle + _CLIP * scale) if scale > 0 else x


def _thresholds(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(point is below threshold, (n, k) float32; the gap that the threshold stands for, (k,)), k <= _THRESHOLDS."""
    levels = np.unique(x)
    if len(levels) > _THRESHOLDS + 1:
        levels = np.unique(np.quantile(levels, np.linspace(0, 1, _THRESHOLDS + 1)))
    middles = (levels[1:] + levels[:-1]) / 2
    return (x[:, None] < middles[None, :]).astype(np.float32), np.diff(levels)


def _energy(below: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The statistic at each allowed split: below (r, n, k) -> (r, n - 2 MIN_SEGMENT + 1)."""
    n = below.shape[1]
    counts = np.cumsum(below, axis=1)
    left = np.arange(MIN_SEGMENT, n - MIN_SEGMENT + 1, dtype=np.float32)
    before = counts[:, MIN_SEGMENT - 1 : n - MIN_SEGMENT]
    total = counts[:, -1:]
    # F - G = before / left - (total - before) / (n - left), over a common denominator.
    apart = (before * n - total * left[None, :, None]) ** 2 @ widths.astype(np.float32)
    return 2 * apart / (left * (n - left) * n)[None]


def _p_value(below: np.ndarray, widths: np.ndarray, observed: float, seed: int) -> float:
    """Share of permutations whose best split is at least as clear.

    Where hardly any is, an exponential tail is fitted to the highest tenth (Knijnenburg et al., 2009, with the shape
    parameter 0): a false-discovery rate over hundreds of series needs smaller values than 1 in 1000.
    """
    rng = np.random.default_rng(seed)
    batch = max(1, min(99, 2_000_000 // below.size))
    null: list[float] = []
    while len(null) < _PERMUTATIONS:
        # Orders rather than rows are drawn: a row of `below` belongs together.
        orders = np.argsort(rng.random((batch, len(below))), axis=1)
        null += _energy(below[orders], widths).max(axis=1).tolist()
        above = sum(value >= observed for value in null)
        if above >= _ENOUGH:
            return (1 + above) / (1 + len(null))
    tail = float(np.quantile(null, 0.9))
    excess = float(np.mean([value - tail for value in null if value > tail] or [0.0]))
    counted = (1 + above) / (1 + len(null))
    return min(counted, 0.1 * math.exp((tail - observed) / excess)) if excess > 0 and observed > tail else counted


def _around(indices: Sequence[int], i: int, length: int) -> tuple[int, int]:
    return (indices[i - 1] if i else 0), (indices[i + 1] if i + 1 < len(indices) else length)


def _locate(x: np.ndarray, chosen: int | None = None) -> tuple[int, int, int]:
    """(best, first, last) index of one change in x: least squares of what is not stray, with Hansen's interval."""
    n = len(x)
    scale = noise_scale(x)
    if chosen is None:
        y = _clipped(x)
    else:  # each side is clipped around its own level: a large change must not be
        sides = (x[:chosen], x[chosen:])
        y = np.concatenate([np.clip(s, np.median(s) - 4 * scale, np.median(s) + 4 * scale) for s in sides])
        y = y if scale > 0 else x
    if n < 2 * MIN_SEGMENT:
        return n // 2, n // 2, n // 2
    left = np.arange(MIN_SEGMENT, n - MIN_SEGMENT + 1)
    sums = np.cumsum(y - y.mean())[left - 1]
    total = float(np.sum((y - y.mean()) ** 2))
    explained = sums**2 * n / (left * (n - left))
    rest = np.maximum(total - explained, 1e-12 * max(total, 1e-300))
    best = int(np.argmin(rest))
    if chosen is not None:
        best = chosen - MIN_SEGMENT
    near = np.flatnonzero(n * np.log(rest / rest[best]) <= _LOCATED)
    return int(left[best]), int(left[min(near.min(), best)]), int(left[max(near.max(), best)])
