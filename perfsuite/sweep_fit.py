"""The critical batch size: where more parallel samples stop saving steps. Pure functions of runs.

McCandlish et al., "An Empirical Model of Large-Batch Training" (2018): to reach a target takes S(B) = S_min (1 + B /
B_crit) samples in batches of B. Far below B_crit a larger batch costs nothing, far above it only samples.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from perfsuite.stats import student_t

LEVEL = 0.95
MISFIT = 0.01
"""Where the data are less probable than this under the model, its parameters say nothing."""
_REACH = 1e4
"""B_crit is looked for from the smallest batch size over this to the largest times this."""
_POINTS = 8001


class Point(NamedTuple):
    """A run that reached the target."""

    batch_size: int
    samples: int
    interval: int
    """Samples from an evaluation to the next: the target was crossed within the last one."""


def critical_batch_size(points: Sequence[Point]) -> dict[str, Any]:
    """{"value", "ci95": [low, high], "samples_min", "batch_sizes", "p_value", "reason"}; 3 batch sizes are needed.

    Least squares of the logarithms, as the spread of samples-to-target is a share of it; each run is taken to have
    crossed the target halfway between its last two evaluations. The interval is that of the profile likelihood. An end
    that is null is open, and then there is no value: the samples hardly grow (no high end) or grow about as fast as the
    batch size (no low end). reason: why there is no value.
    """
    sizes = sorted({p.batch_size for p in points})
    out = {"value": None, "ci95": None, "samples_min": None, "batch_sizes": sizes, "p_value": None, "reason": None}
    if len(sizes) < 3 or len(points) <= len(sizes):
        return out | {"reason": "it takes 3 batch sizes, with 2 runs each, at which every run reaches the target"}
    batch = np.array([p.batch_size for p in points], float)
    y = np.log([p.samples - p.interval / 2 for p in points])
    # Evaluations hide a uniform share of an interval: no data are known better than that.
    hidden = float(np.mean([(p.interval / p.samples) ** 2 / 12 for p in points]))
    candidates = np.geomspace(sizes[0] / _REACH, sizes[-1] * _REACH, _POINTS)
    residuals = y - np.log1p(batch / candidates[:, None])
    level = residuals.mean(1)
    squares = ((residuals - level[:, None]) ** 2).sum(1)
    best = int(squares.argmin())
    p_value = _misfit(batch, y, squares[best], hidden)
    if p_value < MISFIT:
        why = f"samples to target do not follow S_min (1 + B / B_crit) over these batch sizes (p = {p_value:.2g})"
        return out | {"p_value": p_value, "reason": why}
    variance = max(float(squares[best]) / (len(y) - 2), hidden)
    inside = np.flatnonzero(squares <= squares[best] + student_t(LEVEL, len(y) - 2) ** 2 * variance)
    low, high = (None if i in (0, _POINTS - 1) else float(candidates[i]) for i in (inside[0], inside[-1]))
    out |= {"p_value": p_value, "ci95": [low, high]}
    if low is None and high is None:
        return out | {"ci95": None, "reason": "the runs differ too much, or the batch sizes too little"}
    if low is None or high is None:
        grow = "hardly grow with the batch size" if high is None else "grow about as fast as the batch size"
        return out | {"reason": f"samples to target {grow} here"}
    return out | {"value": float(candidates[best]), "samples_min": float(np.exp(level[best]))}


def _misfit(batch: np.ndarray, y: np.ndarray, squares: float, hidden: float) -> float:
    """P-value of the F test for lack of fit: how far the means of the batch sizes lie off, against the runs' spread."""
    from scipy.special import fdtrc

    sizes = np.unique(batch)
    pure = sum(float(((y[batch == size] - y[batch == size].mean()) ** 2).sum()) for size in sizes)
    freedom, pure_freedom = len(sizes) - 2, len(y) - len(sizes)
    spread = max(pure / pure_freedom, hidden)
    return float(fdtrc(freedom, pure_freedom, max(0.0, squares - pure) / freedom / spread))
