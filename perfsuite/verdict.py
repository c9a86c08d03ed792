"""FASTER, SLOWER, SAME or CANNOT_TELL: one rule for every comparison of the suite. A leaf: numbers in, a verdict out.

A comparison is of two sets of times of the same thing, B against A. Ratios are B over A: above 1, B takes longer.
Logarithms of times are compared, so that a ratio and its inverse are treated alike, and ranks of them, so that the
outliers of a shared machine do not carry the day. Estimates are those of Hodges and Lehmann (1963); intervals invert
Wilcoxon's signed-rank test (pairs) or his rank-sum test (two sets), whose null distributions are exact for small sets:
no bootstrap, which is too narrow for a handful of runs.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from perfsuite.stats import student_t

MARGIN = 0.02
"""Within it two things are SAME: what nobody acts on."""
LEVEL = 0.95
FASTER, SLOWER, SAME, CANNOT_TELL = "FASTER", "SLOWER", "SAME", "CANNOT_TELL"
EXIT_CODES = {FASTER: 0, SAME: 0, SLOWER: 1, CANNOT_TELL: 3}
_EXACT_UP_TO = 50


class Comparison(NamedTuple):
    """How B's times stand to A's."""

    ratio: float
    """B over A."""
    low: float
    high: float
    """Interval of `level`."""
    level: float
    size: int
    """Pairs, or the smaller of the two sets."""

    def widened(self, drift: float) -> "Comparison":
        """With the interval stretched by a factor that is not the doing of A or B; 1.05 and 1 / 1.05 do the same."""
        factor = max(drift, 1 / drift)
        return self._replace(low=self.low / factor, high=self.high * factor)


class Verdict(NamedTuple):
    """What to tell somebody, and what it stands on."""

    word: str
    ratio: float | None
    ci95: tuple[float, float] | None
    threshold: float
    """Beyond it, relative, a difference counts: the margin, or the noise that equals were seen to have."""
    why: str

    @property
    def exit_code(self) -> int:
        """Of a command whose last word this is."""
        return EXIT_CODES[self.word]


def paired(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> Comparison:
    """Compare times measured in turns: a[i] and b[i] next to each other, or of the same seed.

    Fewer pairs than ranks can tell the level with (6 for 95 %) are compared by Student's t of the logarithms. Raises
    ValueError where they are not pairs of positive numbers, or fewer than 2.
    """
    x, y = _logs(a), _logs(b)
    if len(x) != len(y):
        raise ValueError(f"pairs are needed, not {len(x)} times against {len(y)}")
    d = y - x
    n = len(d)
    if 2.0**-n > (1 - level) / 2:
        return _student(d, level)
    averages = np.sort(((d[:, None] + d[None, :]) / 2)[np.triu_indices(n)])
    return _invert(averages, signed_rank_quantile(n, (1 - level) / 2), level, n)


def unpaired(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> Comparison:
    """Compare two sets of times that were not taken in turns. ValueError as paired() (4 and 4 for 95 %)."""
    x, y = _logs(a), _logs(b)
    differences = np.sort((y[:, None] - x[None, :]).ravel())
    quantile = rank_sum_quantile(len(x), len(y), (1 - level) / 2)
    return _invert(differences, quantile, level, min(len(x), len(y)))


def judge(found: Comparison, noise: float = 0.0, margin: float = MARGIN) -> Verdict:
    """The verdict on a comparison.

    noise: by how much two equal things were seen to differ in the same sitting (0.03: 3 %). It raises what counts as a
    difference, and never what counts as the same.
    """
    threshold = max(margin, noise)
    interval = (found.low, found.high)

    def verdict(word: str, why: str) -> Verdict:
        return Verdict(word, found.ratio, interval, threshold, why)

    if found.low > 1 + threshold:
        return verdict(SLOWER, f"all of the interval is beyond {_percent(threshold)}")
    if found.high < 1 / (1 + threshold):
        return verdict(FASTER, f"all of the interval is beyond {_percent(threshold)}")
    if found.low >= 1 / (1 + margin) and found.high <= 1 + margin:
        return verdict(SAME, f"all of the interval is within {_percent(margin)}")
    if found.low > 1 + margin or found.high < 1 / (1 + margin):
        return verdict(CANNOT_TELL, f"two equal things differed by {_percent(noise)} meanwhile")
    return verdict(CANNOT_TELL, f"the interval reaches over {_percent(margin)}: more measurements are needed")


def cannot_tell(why: str) -> Verdict:
    """Where there is nothing to compare, or something forbids it."""
    return Verdict(CANNOT_TELL, None, None, MARGIN, why)


def adjusted_level(count: int, rejected: int | None = None, q: float = 1 - LEVEL) -> float:
    """Level of each interval where `count` comparisons are looked at and `rejected` of them will be acted on.

    Benjamini and Yekutieli (2005): with level 1 - q * rejected / count the expected share of false ones among those
    acted on is at most q. rejected None: at least one.
    """
    return 1 - q * max(1, rejected or 1) / max(1, count)


def selected(p_values: Sequence[float], q: float = 1 - LEVEL) -> list[bool]:
    """Benjamini and Hochberg (1995): which of the tests are rejected at false-discovery rate q."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    passed = p[order] <= q * np.arange(1, len(p) + 1) / len(p)
    keep = np.zeros(len(p), dtype=bool)
    if passed.any():
        keep[order[: int(np.flatnonzero(passed)[-1]) + 1]] = True
    return keep.tolist()


def signed_rank_quantile(n: int, tail: float) -> int:
    """How many of the n (n + 1) / 2 sorted Walsh averages lie below the interval's lower end; ValueError if n is small.

    The largest k with P(W <= k) <= tail of Wilcoxon's signed-rank statistic, exact up to 50, normal beyond.
    """
    if n > _EXACT_UP_TO:
        center, deviation = n * (n + 1) / 4, math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return math.floor(center - _normal(tail) * deviation - 0.5)
    counts = np.zeros(n * (n + 1) // 2 + 1)
    counts[0] = 1.0
    for rank in range(1, n + 1):
        counts[rank:] = counts[rank:] + counts[:-rank].copy()
    return _largest(np.cumsum(counts) / 2.0**n, tail, f"{n} pairs")


def rank_sum_quantile(m: int, n: int, tail: float) -> int:
    """The same for the m n sorted differences: Mann and Whitney's statistic, exact up to 50 in all, normal beyond."""
    if m < 1 or n < 1:
        raise ValueError("times of both sides are needed")
    if min(m, n) == 1:  # its rank is uniform, which no normal distribution is near
        return _largest(np.arange(1, m * n + 2) / (m + n), tail, f"{m} and {n} times")
    if m + n > _EXACT_UP_TO:
        return math.floor(m * n / 2 - _normal(tail) * math.sqrt(m * n * (m + n + 1) / 12) - 0.5)
    # Number of ways to choose m of m + n ranks by their statistic: Gaussian binomial coefficients.
    counts = np.zeros((m + 1, m * n + 1))
    counts[0, 0] = 1.0
    for larger in range(1, m + n + 1):
        for chosen in range(min(m, larger), 0, -1):
            shift = larger - chosen
            if shift <= m * n:
                counts[chosen, shift:] += counts[chosen - 1, : m * n + 1 - shift]
    return _largest(np.cumsum(counts[m]) / math.comb(m + n, m), tail, f"{m} and {n} times")


def _largest(cumulative: np.ndarray, tail: float, what: str) -> int:
    below = np.flatnonzero(cumulative <= tail * (1 + 1e-12))
    if not len(below):
        raise ValueError(f"{what} are too few for an interval of {_percent(1 - 2 * tail)}")
    return int(below[-1])


def _invert(values: np.ndarray, quantile: int, level: float, size: int) -> Comparison:
    low, high = values[quantile], values[len(values) - 1 - quantile]
    middle = float(np.median(values))
    return Comparison(math.exp(middle), math.exp(float(low)), math.exp(float(high)), level, size)


def _student(d: np.ndarray, level: float) -> Comparison:
    if len(d) < 2:
        raise ValueError(f"{len(d)} pairs are too few for an interval: 2 are needed")
    middle = float(np.mean(d))
    half = student_t(level, len(d) - 1) * float(np.std(d, ddof=1)) / math.sqrt(len(d))
    return Comparison(math.exp(middle), math.exp(middle - half), math.exp(middle + half), level, len(d))


def _logs(times: Sequence[float]) -> np.ndarray:
    values = np.asarray(times, dtype=float)
    if values.ndim != 1 or not np.all(np.isfinite(values)) or np.any(values <= 0):
        raise ValueError("times must be positive and finite")
    return np.log(values)


def _normal(tail: float) -> float:
    from scipy.special import ndtri

    return -float(ndtri(tail))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
