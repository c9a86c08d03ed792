"""Did the runs need as many samples as the reference does? The check against reference convergence points (RCPs).

Rules: training_policies, "Reference Convergence Points" and its appendix. Three readings of them:

    official   as the official checker computes: the spread of all reference runs, points pruned in one sweep
    rules      as the text says: the spread without the best and the worst run, points pruned to the lower convex hull
    hull       as the official checker, with the points pruned to the lower convex hull

A unit is whatever the points count: samples or epochs.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LEVEL = 0.05
_TOLERANCE = 1e-4
NOT_CONVERGED = 1e9
"""What a run counts that did not converge."""
MODES = ("official", "rules", "hull")
ONE_EVALUATION_405B = 46_080
"""Samples by which llama31_405b may converge earlier: in v5.0 by the rules, from v5.0 on by the official code."""


@dataclass(frozen=True)
class Point:
    """What the reference needs at one batch size."""

    batch_size: float
    mean: float
    stdev: float
    num_kept: int
    """Reference runs that the mean keeps; for an interpolated point twice the number of runs of a submission."""
    interpolated: bool = False


@dataclass(frozen=True)
class Convergence:
    """The verdict of one mode."""

    mode: str
    passed: bool
    message: str
    batch_size: float | None = None
    mean: float | None = None
    """Olympic mean of the submission; None where too few runs are left for one, which does not pass."""
    reference: Point | None = None
    lowest: float | None = None
    """The least mean that passes."""
    factor: float = 1.0
    """What a score is multiplied by where runs converged faster than the reference's mean, and passed."""


def load(path: Path) -> dict[float, list[float]]:
    """{batch size: runs} of a file in the official format (rcps_<benchmark>.json). A later record of a batch size wins.

    Raises ValueError, in one line, for a file that is not of this form.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        return {record["BS"]: sorted(map(float, _runs(record))) for record in records.values()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} holds no reference convergence points: {type(error).__name__}: {error}") from error


def _runs(record: dict[str, Any]) -> list[float]:
    return record["samples to converge"] if "samples to converge" in record else record["Epochs to converge"]


def check(
    reference: dict[float, list[float]],
    batch_size: float,
    submission: Sequence[float],
    *,
    num_runs: int,
    drop: int,
    mode: str,
    earlier_by: float = 0.0,
) -> Convergence:
    """Hold a submission's units to converge (one a run, NOT_CONVERGED where it did not) against the reference's.

    num_runs: runs of a submission; drop: how many an olympic mean drops at each end; earlier_by: units that the lowest
    passing mean is lowered by.
    """
    points = pruned([_point(size, runs, drop, mode) for size, runs in sorted(reference.items())], num_runs, mode)
    kept = sorted(submission)[drop : len(submission) - drop]
    mean = float(np.mean(kept)) if kept else math.nan
    said = mean if kept else None
    exact = next((p for p in points if p.batch_size == batch_size), None)
    below = max((p for p in points if p.batch_size < batch_size), key=lambda p: p.batch_size, default=None)
    above = min((p for p in points if p.batch_size > batch_size), key=lambda p: p.batch_size, default=None)
    if exact:
        point, message = exact, "RCP found"
    elif below and above:
        point, message = interpolated(batch_size, below, above, num_runs), "RCP Interpolation"
    elif above:
        point, message = above, "RCP not found but slower convergence on smaller batch size"
    else:
        nothing = "Cannot find any RCPs" if not below else f"Missing RCP, please submit RCP with BS = {batch_size}"
        return Convergence(mode, False, nothing, batch_size, said)
    lowest = lowest_mean(point, num_runs) - earlier_by
    # The official code divides by the largest speed-up, and does not compare with the lowest mean.
    passed = mean >= point.mean / (point.mean / lowest)
    if not passed and point.batch_size != batch_size:
        message = f"Missing RCP, please submit RCP with BS = {batch_size}"
    factor = max(1.0, point.mean / mean) if passed else 1.0
    return Convergence(mode, passed, message, batch_size, said, point, lowest, factor)


def curve(reference: dict[float, list[float]], *, num_runs: int, drop: int, mode: str) -> list[tuple[Point, float]]:
    """The points that count in a mode, smallest batch size first, each with the least mean that passes there."""
    points = pruned([_point(size, runs, drop, mode) for size, runs in sorted(reference.items())], num_runs, mode)
    return [(point, lowest_mean(point, num_runs)) for point in points]


def _point(batch_size: float, runs: Sequence[float], drop: int, mode: str) -> Point:
    runs = sorted(runs)
    kept = runs[drop : len(runs) - drop]
    spread_over = kept if mode == "rules" else runs
    return Point(batch_size, float(np.mean(kept)), float(np.std(spread_over)), len(kept))


def interpolated(batch_size: float, below: Point, above: Point, num_runs: int) -> Point:
    """The point on the straight line between two others."""
    sizes = [below.batch_size, above.batch_size]
    mean = float(np.interp(batch_size, sizes, [below.mean, above.mean]))
    return Point(batch_size, mean, float(np.interp(batch_size, sizes, [below.stdev, above.stdev])), 2 * num_runs, True)


def pruned(points: list[Point], num_runs: int, mode: str) -> list[Point]:
    """The points that count: from the fastest-converging batch size on, none above the line between two others."""
    if not points:
        return []
    fastest = min(points, key=lambda p: p.mean)
    left = [p for p in points if p.batch_size >= fastest.batch_size]
    return _one_sweep(left, num_runs) if mode == "official" else _hull(left, num_runs)


def _one_sweep(points: list[Point], num_runs: int) -> list[Point]:
    """As the official code: after a point is dropped, the one before it is not looked at again."""
    kept, i = list(points), 1
    while i < len(kept) - 1:
        if kept[i].mean > interpolated(kept[i].batch_size, kept[i - 1], kept[i + 1], num_runs).mean:
            del kept[i]
        else:
            i += 1
    return kept


def _hull(points: list[Point], num_runs: int) -> list[Point]:
    """The lower convex hull (Andrew's monotone chain)."""
    kept: list[Point] = []
    for point in points:
        while len(kept) >= 2:
            line = interpolated(kept[-1].batch_size, kept[-2], point, num_runs)
            if kept[-1].mean <= line.mean:
                break
            kept.pop()
        kept.append(point)
    return kept


def lowest_mean(point: Point, num_runs: int) -> float:
    """The least mean of a submission that a one-sided t-test at 5 % does not call faster than the reference.

    Found by bisection to 1e-4, as the official code does, so that the same mean comes out to the last bit. Both sides
    have the reference's spread; the submission has num_runs - 2 runs.
    """
    if point.stdev == 0:
        return point.mean
    low, high = 0.0, point.mean
    middle = (low + high) / 2
    while high - low > _TOLERANCE:
        if _p_value(middle, point, num_runs - 2) > LEVEL:
            high = middle
        else:
            low = middle
        middle = (low + high) / 2
    return middle


def _p_value(mean: float, point: Point, n_submission: int) -> float:
    """One-sided p of Student's t-test of equal variances from summary statistics, in scipy's order of arithmetic."""
    from scipy.special import stdtr  # imported here: only this check needs it

    n1, n2, variance = point.num_kept, n_submission, point.stdev**2
    degrees = n1 + n2 - 2.0
    pooled = ((n1 - 1) * variance + (n2 - 1) * variance) / degrees
    t = (mean - point.mean) / math.sqrt(pooled * (1.0 / n1 + 1.0 / n2))
    return float(stdtr(degrees, t))
