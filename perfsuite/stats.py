"""The arithmetic of results: olympic means, intervals of a score, ratios of medians, what repetitions spread over.

Sources: MLPerf training_policies, section on results (olympic mean); Student's t for the interval of a mean of few
runs; Efron and Tibshirani, "An Introduction to the Bootstrap", for the percentile interval of a ratio of medians.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def olympic_mean(values: Sequence[float], drop: int = 1) -> float:
    """Mean after dropping the `drop` smallest and the `drop` largest values; inf (did not converge) counts as largest.

    Raises ValueError where nothing, or something infinite, would be left.
    """
    kept = sorted(values)[drop : len(values) - drop]
    if not kept:
        raise ValueError(f"an olympic mean that drops {drop} + {drop} needs {2 * drop + 1} values, not {len(values)}")
    if not math.isfinite(kept[-1]):
        raise ValueError("more runs did not converge than an olympic mean may drop")
    return float(np.mean(kept))


def student_t(level: float, degrees_of_freedom: int) -> float:
    """The two-sided quantile: |T| stays below it with probability `level`."""
    from scipy.special import stdtrit  # imported here: only scores need it

    return float(stdtrit(degrees_of_freedom, 0.5 + level / 2))


def score_interval(center: float, values: Sequence[float], grid: float, level: float = 0.95) -> tuple[float, float]:
    """Interval of the expected time-to-train around `center`, from finite run times `values` (2 or more), in seconds.

    Half width: t * s / sqrt(n), plus half an evaluation interval `grid`. Runs end at evaluations only, so their spread
    says nothing below the grid: five runs that stop at the same evaluation have spread 0 and are not known to the
    millisecond. With fewer than 5 runs it is a whole interval: three runs fall on one evaluation too easily
    (simulated: half an interval then covers 88 %). No time is below 0, so neither is the lower bound.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"an interval needs at least 2 runs, not {n}")
    half = student_t(level, n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    half += grid / 2 if n >= 5 else grid
    return max(0.0, center - half), center + half


def ratio_of_medians(
    a: Sequence[float], b: Sequence[float], level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """median(a) / median(b) of paired measurements, with its percentile bootstrap interval over pairs: (ratio, lo, hi).

    Raises ValueError for fewer than 5 pairs: a bootstrap of less says nothing.
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 5:
        raise ValueError(f"a ratio of medians needs at least 5 pairs, not {x.shape} and {y.shape}")
    picks = np.random.default_rng(seed).integers(0, len(x), size=(resamples, len(x)))
    ratios = np.median(x[picks], axis=1) / np.median(y[picks], axis=1)
    lo, hi = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(np.median(x) / np.median(y)), float(lo), float(hi)


def spread(samples: Sequence[float], best: str = "high") -> dict[str, Any]:
    """Ceiling, median and quartiles of samples, and the samples.

    A ceiling is something the machine did, so an interpolated or fitted value will not do, and what took at least so
    long because somebody else was running does not count: on a busy machine that is the median, and the 90th percentile
    as well. The best repetition alone might be a mistake; the third-best was reached three times.
    """
    third = sorted(samples, reverse=best == "high")[min(2, len(samples) - 1)]
    lo, median, hi = np.percentile(samples, [25, 50, 75]).tolist()
    return {"ceiling": third, "median": median, "lo": lo, "hi": hi, "samples": list(samples)}
