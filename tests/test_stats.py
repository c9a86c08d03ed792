"""Olympic means, the coverage of the score's interval (simulated), ratios of medians."""

import math

import numpy as np
import pytest

from perfsuite.stats import olympic_mean, ratio_of_medians, score_interval, student_t

RUNS = 2500


def test_an_olympic_mean_drops_both_ends() -> None:
    assert olympic_mean([5.0, 1.0, 2.0, 3.0, 100.0]) == pytest.approx(10 / 3)
    assert olympic_mean([1.0, 2.0, 4.0, math.inf]) == 3.0  # one run that did not converge is the slowest


def test_an_olympic_mean_refuses_what_it_cannot_mean() -> None:
    with pytest.raises(ValueError, match="needs 3 values, not 2"):
        olympic_mean([1.0, 2.0])
    with pytest.raises(ValueError, match="did not converge"):
        olympic_mean([1.0, 2.0, math.inf, math.inf])


def test_student_t_is_the_tabled_value() -> None:
    assert student_t(0.95, 4) == pytest.approx(2.776, abs=1e-3)


def coverage(runs: int, draw: str, grid: float) -> float:
    """Share of scores of `runs` runs whose interval holds the expected time-to-train. Runs end on the grid."""
    rng = np.random.default_rng(1)

    def times(shape: tuple[int, ...]) -> np.ndarray:
        crossing = {
            "normal, 5 %": lambda: rng.normal(15, 0.75, shape),
            "lognormal, 12 %": lambda: 15 * np.exp(rng.normal(0, 0.12, shape)),
            "normal, far below the grid": lambda: rng.normal(15, 0.1, shape),
        }[draw]()
        return np.ceil(crossing / grid) * grid if grid else crossing

    expected = times((200_000,)).mean()
    drop = 1 if runs >= 3 else 0
    inside = 0
    for sample in times((RUNS, runs)):
        lo, hi = score_interval(olympic_mean(sample, drop), sample, grid)
        inside += lo <= expected <= hi
    return inside / RUNS


@pytest.mark.parametrize("grid", [0.0, 0.25, 1.0, 3.0])
@pytest.mark.parametrize("draw", ["normal, 5 %", "lognormal, 12 %", "normal, far below the grid"])
@pytest.mark.parametrize("runs", [3, 5, 10])
def test_the_interval_covers_the_expected_time(runs: int, draw: str, grid: float) -> None:
    # 94 % is asked for; the simulation itself is known to 1.96 * sqrt(0.95 * 0.05 / RUNS) = 0.9 %.
    assert coverage(runs, draw, grid) >= 0.94 - 0.009


def test_without_the_grid_term_the_interval_would_not_cover() -> None:
    """The test above can fail: five runs on one evaluation have spread 0."""
    assert score_interval(16.0, [16.0] * 5, grid=0.0) == (16.0, 16.0)
    assert score_interval(16.0, [16.0] * 5, grid=1.0) == (15.5, 16.5)


def test_a_ratio_of_medians_holds_the_truth_and_refuses_too_few_pairs() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(100, 5, 60)
    ratio, lo, hi = ratio_of_medians(1.1 * base * rng.normal(1, 0.02, 60), base)
    assert lo < 1.1 < hi and lo <= ratio <= hi and hi - lo < 0.1
    with pytest.raises(ValueError, match="at least 5 pairs"):
        ratio_of_medians([1.0] * 4, [1.0] * 4)


def test_an_interval_of_a_time_does_not_go_below_zero() -> None:
    low, high = score_interval(1.3, [0.1, 1.3, 2.5], grid=0.1)
    assert low == 0.0 and high > 2.6
