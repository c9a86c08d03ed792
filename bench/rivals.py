"""The rules by which others call a benchmark changed: pure functions of the times of A and of B, to a verdict's word.

Written anew from what the projects document or do. None of them knows CANNOT_TELL but nvbench's robust comparison.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from perfsuite.verdict import CANNOT_TELL, FASTER, SAME, SLOWER


class Times(NamedTuple):
    """Statistics of the rounds of one run, in seconds."""

    mean_s: float
    stdev_s: float
    min_s: float
    q1_s: float
    median_s: float
    q3_s: float


def pytest_benchmark(a: Times, b: Times, percent: float = 5.0) -> str:
    """`--benchmark-compare-fail=mean:5%` against one stored run: fails where the mean grew by more than that.

    It never says FASTER. Source: pytest-benchmark 5, documentation "Comparing past runs" and PercentageRegressionCheck
    in utils.py.
    """
    return SLOWER if b.mean_s / a.mean_s * 100 - 100 > percent else SAME


def nvbench(a: Times, b: Times) -> str:
    """nvbench-compare(-legacy): means that differ by more than the smaller of the two relative standard deviations.

    Source: compare_gpu_timings in scripts/nvbench_compare.py, since 2021; the summary line it prints says
    "Pass (diff <= min_noise)".
    """
    difference = b.mean_s / a.mean_s - 1
    if abs(difference) <= min(a.stdev_s / a.mean_s, b.stdev_s / b.mean_s):
        return SAME
    return FASTER if difference < 0 else SLOWER


def nvbench_robust(a: Times, b: Times) -> str:
    """nvbench-compare-robust, its default preset: intervals from the least time to the third quartile.

    Different where they leave a gap of 0.5 %; the same where the medians are within 0.5 %, the intervals share half of
    the narrower one and the interquartile ranges are at most 2 % of the medians; else AMBG, here CANNOT_TELL. On a GPU
    a gap has to be there in clock cycles too; a CPU has no such reading, and it is taken for confirmed. The coverage
    of bulk samples, asked for beyond that before it says SAME, is left out. Source: docs/nvbench_compare_robust.md.
    """
    if b.min_s / a.q3_s >= 1.005:
        return SLOWER
    if a.min_s / b.q3_s >= 1.005:
        return FASTER
    close = max(a.median_s, b.median_s) / min(a.median_s, b.median_s) <= 1.005
    shared = min(a.q3_s, b.q3_s) - max(a.min_s, b.min_s)
    overlap = shared >= 0.5 * min(a.q3_s - a.min_s, b.q3_s - b.min_s)
    quiet = max((side.q3_s - side.q1_s) / side.median_s for side in (a, b)) <= 0.02
    return SAME if close and overlap and quiet else CANNOT_TELL


def asv(a: Sequence[float], b: Sequence[float], factor: float = 1.1) -> str:
    """`asv continuous`: the samples differ, and the medians by more than the factor (1.1 by default).

    They differ where Mann and Whitney's test says p < 0.002, or, of too few for that, where the 99 % intervals of the
    medians do not overlap; a single sample on a side is not tested at all. Source: asv 0.6, _stats.is_different and
    _is_result_better, documentation of --factor.
    """
    if len(a) > 1 and len(b) > 1 and not _different(a, b):
        return SAME
    if median(b) < median(a) / factor:
        return FASTER
    return SLOWER if median(a) < median(b) / factor else SAME


def _different(a: Sequence[float], b: Sequence[float], p_threshold: float = 0.002) -> bool:
    if 1 / math.comb(len(a) + len(b), len(a)) < p_threshold:
        from scipy.stats import mannwhitneyu

        method = "exact" if max(len(a), len(b)) <= 20 else "asymptotic"
        return float(mannwhitneyu(a, b, method=method, use_continuity=False).pvalue) < p_threshold
    (low_a, high_a), (low_b, high_b) = median_interval(a), median_interval(b)
    return high_a < low_b or high_b < low_a


def median_interval(times: Sequence[float], level: float = 0.99) -> tuple[float, float]:
    """asv's interval of a median: of order statistics, and of a posterior under Laplace noise where they are too few.

    That posterior is p(m) ~ (sum |t - m|)^-n; beyond the samples the sum is linear in m, and its tails are powers.
    Source: asv_runner 0.3, statistics.compute_stats and the docstring of LaplacePosterior.
    """
    t, n, tail = sorted(times), len(times), (1 - level) / 2
    below = 0.0
    rank = 0
    while (below := below + math.comb(n, rank) / 2**n) <= tail:
        rank += 1
    if rank:
        return t[rank - 1], t[n - rank]
    spread = sum(abs(x - median(t)) for x in t)
    if not spread:
        return t[0], t[-1]
    # The mass of each piece between two neighbours, where the sum goes from s to s' linearly with this slope.
    sums = [sum(abs(x - m) for x in t) for m in t]
    masses = [(s ** (1 - n)) / (n * (n - 1)) for s in (sums[0], sums[-1])]
    for k in range(1, n):
        slope, s, s_next = 2 * k - n, sums[k - 1], sums[k]
        inside = (t[k] - t[k - 1]) * s**-n if not slope else (s ** (1 - n) - s_next ** (1 - n)) / ((n - 1) * slope)
        masses.append(inside)
    reach = (n * (n - 1) * tail * sum(masses)) ** (1 / (1 - n))
    return min(t[0], (sum(t) - reach) / n), max(t[-1], (sum(t) + reach) / n)
