"""Dates of a sensor's renewals, found from when its value was read."""

import numpy as np
import pytest

from perfsuite.renewals import dates


def sampled(period_s: float, step_s: float, seconds: float, jitter: float = 0.5, wobble_s: float = 0.0, seed: int = 0):
    """Reads with a jitter, of a counter that moves at each renewal: begin and end of the reads, values, renewals."""
    draw = np.random.default_rng(seed)
    count = int(seconds / step_s)
    reads = (np.arange(count) + jitter * draw.uniform(-0.5, 0.5, count)) * step_s
    renewals = 0.0371 + np.arange(int(seconds / period_s) + 1) * period_s
    renewals = np.sort(renewals + wobble_s * draw.uniform(-1, 1, len(renewals)))
    shown = np.searchsorted(renewals, reads).astype(float)
    begin = np.round((reads - 1e-5) * 1e9).astype(np.int64)
    return begin, begin + 20_000, shown, renewals * 1e9


@pytest.mark.parametrize("period_s, step_s", [(0.1, 0.047), (0.1, 0.02), (0.02, 0.009), (0.02, 0.003), (0.25, 0.047)])
@pytest.mark.parametrize("seed", range(3))
def test_a_regular_sensor_is_dated_far_better_than_it_was_read(period_s, step_s, seed):
    begin, end, shown, renewals = sampled(period_s, step_s, 300 * period_s, seed=seed)
    when = dates(begin, end, shown)
    assert when.reason is None and when.regular
    assert when.period_ns == pytest.approx(period_s * 1e9, abs=when.period_open_ns)
    truth = renewals[shown[when.sample].astype(int) - 1]
    assert np.all(np.abs(when.t_ns - truth) <= when.open_ns)
    assert when.open_ns[0] < 0.05 * step_s * 1e9
    np.testing.assert_allclose(when.at(when.number), when.t_ns)


def test_renewals_that_change_nothing_leave_holes_in_the_grid():
    begin, end, shown, _ = sampled(0.1, 0.02, 60.0)
    seen = np.floor(shown / 3) + np.isin(shown % 7, (2, 5))  # a value that often stays the same
    when = dates(begin, end, seen)
    assert when.period_ns == pytest.approx(1e8, abs=when.period_open_ns)
    assert set(np.diff(when.number)) > {1}


def test_a_small_wobble_is_what_is_left_open_and_a_large_one_leaves_no_grid():
    begin, end, shown, renewals = sampled(0.1, 0.047, 60.0, wobble_s=0.004)
    when = dates(begin, end, shown)
    assert when.period_ns == pytest.approx(1e8, rel=1e-3) and not when.regular
    assert 1e6 < when.open_ns[0] < 6e6
    begin, end, shown, renewals = sampled(0.1, 0.047, 60.0, wobble_s=0.04)
    when = dates(begin, end, shown)
    assert when.period_ns is None and "irregular" in when.reason and not when.regular
    truth = renewals[shown[when.sample].astype(int) - 1]
    assert np.all(np.abs(when.t_ns - truth) <= when.open_ns)


@pytest.mark.parametrize("step_s", [0.09, 0.1, 0.13, 0.25])
def test_a_sensor_read_too_seldom_keeps_no_grid_that_anybody_could_know(step_s):
    begin, end, shown, _ = sampled(0.1, step_s, 60.0)
    when = dates(begin, end, shown)
    assert when.period_ns is None and "irregular, or nearly as frequent" in when.reason


def test_few_renewals_tell_no_period():
    begin, end, shown, _ = sampled(0.1, 0.02, 0.7)
    assert "at least 8 tell a period" in dates(begin, end, shown).reason
    assert len(dates(begin, end, np.zeros(len(begin))).sample) == 0
