"""The arithmetic of energy on made-up samples. With a sensor behind it: tests/nvml_standin/test_energy_sensor.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfsuite.energy import energy_between, phase_spans
from perfsuite.energy_bands import CounterMeter
from perfsuite.energy_sources import sources
from perfsuite.power_sensors import sensor_of

S = 1_000_000_000


def rapl_samples(
    watts: float, seconds: float, range_j: float | None, start_j: float = 0.0, step_s: float = 0.05
) -> dict:
    """A package at constant power, read every step_s."""
    t = np.arange(0, seconds, step_s)
    joules = start_j + watts * t
    if range_j:
        joules = joules % range_j
    columns = ["rapl_package-0_energy_j", "rapl_read_ns"]
    return {
        "t_ns": np.round(t * S).astype(np.int64),
        "values": np.stack([joules, np.full_like(t, 20_000.0)], axis=1),
        "columns": columns,
        "absent": {"gpu": "no NVIDIA driver: none"},
        "failed": [],
        "gpus": [],
        "rapl": [{"name": "package-0", "column": columns[0], "range_j": range_j}],
    }


def test_a_processor_counter_that_wraps_is_unwrapped():
    data = rapl_samples(watts=80.0, seconds=20.0, range_j=300.0, start_j=250.0)
    got = energy_between(data, 2 * S, 12 * S)
    assert got["low_j"] <= 800.0 <= got["high_j"]
    assert got["energy_j"] == pytest.approx(800.0, rel=0.01)
    assert got["bound_j"] < 10.0
    assert any("no power limit known" in note for note in got["notes"])


def test_a_counter_that_goes_back_without_a_known_range_is_a_reason():
    data = rapl_samples(watts=80.0, seconds=20.0, range_j=300.0)
    data["rapl"][0]["range_j"] = None
    got = energy_between(data, 2 * S, 12 * S)
    assert not got["available"] and "does not say where it wraps" in got["reason"]


def test_samples_that_do_not_reach_over_the_window_are_a_reason():
    data = rapl_samples(watts=80.0, seconds=10.0, range_j=300.0)
    late = energy_between(data, 2 * S, 12 * S)
    assert not late["available"] and "last 2.05 s" in late["reason"]
    early = energy_between(data, -3 * S, 5 * S)
    assert not early["available"] and "first 3 s" in early["reason"]


def test_a_counter_that_stands_still_is_a_reason_and_not_zero_joules():
    data = rapl_samples(watts=0.0, seconds=10.0, range_j=None)
    got = energy_between(data, 2 * S, 8 * S)
    assert not got["available"] and "moved 0 times" in got["reason"] and got["energy_j"] is None


def test_a_part_of_a_package_is_not_counted_again():
    data = rapl_samples(watts=80.0, seconds=1.0, range_j=None)
    names = ["package-0", "package-0-core", "package-0-dram", "psys"]
    data["rapl"] = [{"name": name, "column": f"rapl_{name}_energy_j", "range_j": None} for name in names]
    assert sources(data) == ["package-0", "package-0-dram"]


def test_bad_requests_name_what_is_wrong():
    data = rapl_samples(watts=80.0, seconds=10.0, range_j=None)
    with pytest.raises(ValueError, match="empty: it ends 1 s before it begins"):
        energy_between(data, 3 * S, 2 * S)
    with pytest.raises(ValueError, match="no energy source 'gpu0' in this record: it has package-0"):
        energy_between(data, 2 * S, 3 * S, names=["gpu0"])


def test_sensors_are_known_by_the_name_of_the_gpu():
    assert sensor_of("NVIDIA A100-SXM4-80GB").window_s == 0.025
    assert sensor_of("NVIDIA H100 80GB HBM3").update_s == 0.100
    assert sensor_of("NVIDIA B300") is None and sensor_of(None) is None


def test_a_loop_that_named_no_phase_has_no_spans():
    assert [len(rows) for rows in phase_spans(np.zeros((0, 3), np.int64), ["forward"], 50).values()] == [0]


def test_phase_spans_follow_the_timeline():
    timeline = np.array([[10, 0, 0], [20, 1, 0], [25, 0, 0], [30, -1, 0], [40, 1, 1]])
    spans = phase_spans(timeline, ["forward", "data"], 50)
    np.testing.assert_array_equal(spans["forward"], [[10, 20], [25, 30]])
    np.testing.assert_array_equal(spans["data"], [[20, 25], [40, 50]])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_counter_bound_holds_for_any_load_and_any_sampling(data):
    """A random load below the limit, renewals and reads at random times: no window's energy escapes its bound."""
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    limit_w = 500.0
    edges = np.concatenate([[0.0], np.cumsum(draw.uniform(0.002, 0.4, 400))])
    energy = np.concatenate(
        [[0.0], np.cumsum(np.diff(edges) * draw.choice([0.0, 60.0, limit_w], 400, p=[0.1, 0.5, 0.4]))]
    )
    update_s = data.draw(st.sampled_from([0.01, 0.02, 0.1, 0.5]))
    renewals = np.arange(draw.uniform(0, update_s), edges[-1], update_s)
    begin = np.sort(draw.uniform(1.0, edges[-1] - 1.0, data.draw(st.sampled_from([200, 1000]))))
    read_at = begin + draw.uniform(0, 0.003, len(begin))
    end = np.maximum(read_at, begin + 0.003)
    read_at = np.maximum.accumulate(read_at)  # one read after another
    end = np.maximum(end, read_at)
    shown = np.interp(renewals, edges, energy)[np.searchsorted(renewals, read_at, side="right") - 1]
    shown = np.floor(shown * 1e3) / 1e3
    limit = data.draw(st.sampled_from([limit_w, 2 * limit_w]))
    meter = CounterMeter(np.floor(begin * S).astype(np.int64), np.ceil(end * S).astype(np.int64), shown, 1e-3, limit)
    assert meter.limit_is_known
    a = draw.uniform(3.0, edges[-1] - 3.0, 300)
    b = np.minimum(a + draw.choice([0.001, 0.05, 1.0, 20.0], 300), edges[-1] - 2.0)
    a, b = np.minimum(a, b), np.maximum(a, b)
    truth = np.interp(b, edges, energy) - np.interp(a, edges, energy)
    band = meter.between(np.round(a * S).astype(np.int64), np.round(b * S).astype(np.int64))
    rounding = 2 * limit_w * 1e-9
    assert np.all(band.low <= truth + rounding) and np.all(truth <= band.high + rounding)
    assert np.all((band.low <= band.estimate) & (band.estimate <= band.high))


def test_a_counter_faster_than_its_limit_is_not_bound_by_it():
    t = np.arange(0, 20 * S, S // 20)
    meter = CounterMeter(t, t, 300.0 * t / S, 1e-3, limit_w=200.0)
    assert not meter.limit_is_known
    band = meter.between(np.array([5 * S]), np.array([10 * S]))
    assert band.low[0] <= 1500 <= band.high[0]
