"""Joules from a sensor that sees 25 ms of every 100 ms: what is true lies within what is reported."""

import numpy as np
import pytest

from perfsuite.energy import energy_between, energy_by_phase

START_NS = 1_000_000_000_000
GPU_IS_LOST, NOT_SUPPORTED = 15, 3
LIMIT_W = 700.0

# Locked to the sensor's 100 ms (its divisors and multiples), near to it, and far from it.
PERIODS_S = [0.0125, 0.02, 0.025, 0.05, 0.0999, 0.1, 0.1003, 0.15, 0.2, 0.37, 0.5, 1.0, 3.1]
DUTIES = [0.1, 0.25, 0.3, 0.5, 0.75, 0.9]
PHASES_S = [0.0, 0.031, 0.077]


def at(seconds: float) -> int:
    return START_NS + round(seconds * 1e9)


def mean_reading_j(data: dict, t0_s: float, t1_s: float) -> float:
    """What a plain power sampler reports: mean of the readings times the length."""
    inside = (data["t_ns"] >= at(t0_s)) & (data["t_ns"] <= at(t1_s))
    return float(np.mean(data["values"][inside, data["columns"].index("gpu0_power_instant_w")])) * (t1_s - t0_s)


def no_counter(standin) -> None:
    standin.fail("nvmlDeviceGetFieldValues", NOT_SUPPORTED, field=83)
    standin.fail("nvmlDeviceGetTotalEnergyConsumption", NOT_SUPPORTED)


@pytest.mark.parametrize("period_s", PERIODS_S)
def test_the_counter_is_read_to_within_one_renewal(standin, period_s):
    for duty in DUTIES:
        for window_s in (1.0, 5.0, 30.0):
            standin.reset()
            standin.load(low_w=100, high_w=LIMIT_W, duty=duty, period_s=period_s, phase_s=0.013)
            standin.counter(update_ms=100, phase_ms=37)
            data = standin.sample(window_s + 2.0, seed=7)
            truth = standin.true_energy_j(1.0, 1.0 + window_s)
            got = energy_between(data, at(1.0), at(1.0 + window_s))
            assert got["available"] and got["method"] == "counter"
            assert got["low_j"] <= truth <= got["high_j"]
            assert abs(got["energy_j"] - truth) <= got["bound_j"]
            # An update at either end, and the distance of two samples in which it is dated.
            assert got["bound_j"] <= 2 * (0.1 + 0.075) * LIMIT_W
            assert abs(got["energy_j"] - truth) <= 0.1 * LIMIT_W
            assert got["sources"][0]["update_s"] == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("sampling", [dict(period_s=0.05, jitter=0.5), dict(period_s=0.1, jitter=0.0)])
@pytest.mark.parametrize("period_s", PERIODS_S)
def test_from_power_alone_the_truth_lies_within_the_bound(standin, period_s, sampling):
    for duty in DUTIES:
        for phase_s in PHASES_S:
            standin.reset()
            no_counter(standin)
            standin.load(low_w=90, high_w=LIMIT_W, duty=duty, period_s=period_s, phase_s=phase_s)
            data = standin.sample(12.0, **sampling)
            truth = standin.true_energy_j(1.0, 11.0)
            got = energy_between(data, at(1.0), at(11.0))
            assert got["available"] and got["method"] == "power"
            assert got["low_j"] <= truth <= got["high_j"]
            assert abs(got["energy_j"] - truth) <= got["bound_j"]
            # Readings that never change can be told apart every 0.2 s at worst: 22 ms of each are then known.
            assert got["high_j"] - got["low_j"] < 0.90 * LIMIT_W * 10


@pytest.mark.parametrize("update_ms, window_ms, name", [(20, 10, "Tesla V100"), (100, 100, "NVIDIA GeForce RTX 3090")])
def test_other_known_sensors_hold_their_bound_too(standin, update_ms, window_ms, name):
    for period_s in PERIODS_S:
        standin.reset(name=name, limit_w=350.0)
        no_counter(standin)
        standin.sensor(update_ms=update_ms, window_ms=window_ms, phase_ms=3)
        standin.load(low_w=40, high_w=350, duty=0.3, period_s=period_s)
        data = standin.sample(8.0, period_s=0.05)
        got = energy_between(data, at(1.0), at(7.0))
        assert got["low_j"] <= standin.true_energy_j(1.0, 7.0) <= got["high_j"]


def test_a_plain_fixed_step_sampler_is_far_off_when_locked_to_the_sensor(standin):
    errors = []
    for period_s, duty, phase_s in [(0.1, 0.25, 0.075), (0.1, 0.3, 0.0), (0.05, 0.5, 0.0), (0.1, 0.75, 0.0)]:
        standin.reset()
        no_counter(standin)
        standin.load(low_w=100, high_w=LIMIT_W, duty=duty, period_s=period_s, phase_s=phase_s)
        data = standin.sample(62.0, period_s=0.1, jitter=0.0)
        truth = standin.true_energy_j(1.0, 61.0)
        errors.append(abs(mean_reading_j(data, 1.0, 61.0) / truth - 1))
        got = energy_between(data, at(1.0), at(61.0))
        assert got["low_j"] <= truth <= got["high_j"]
    assert errors[0] > 1.0 and min(errors) > 0.3  # after a minute, still


def test_the_disagreement_of_counter_and_readings_is_reported(standin):
    standin.load(low_w=100, high_w=LIMIT_W, duty=0.25, period_s=0.1, phase_s=0.075)  # always high when it looks
    data = standin.sample(12.0)
    check = energy_between(data, at(1.0), at(11.0))["sources"][0]["cross_check"]
    assert check["power_energy_j"] == pytest.approx(7000, rel=0.01)
    assert check["disagreement_j"] == pytest.approx(7000 - 2500, rel=0.05)
    assert check["explained"]  # the sensor may have missed that much


def test_an_unknown_sensor_is_said_to_be_unknown_and_bounds_nothing(standin):
    standin.reset(name="NVIDIA Unheard-of")
    no_counter(standin)
    data = standin.sample(12.0)
    got = energy_between(data, at(1.0), at(11.0))
    assert (got["low_j"], got["high_j"]) == (0.0, 7000.0)
    assert got["energy_j"] == pytest.approx(1000, rel=1e-3)
    assert any("nobody has published" in note for note in got["notes"])
    assert energy_between(data, at(1.0), at(11.0), floor_w=60.0)["low_j"] == 600.0


def test_a_sensor_faster_than_published_is_not_trusted(standin):
    no_counter(standin)
    standin.sensor(update_ms=20, window_ms=5)
    standin.load(low_w=100, high_w=LIMIT_W, duty=0.5, period_s=0.083)
    got = energy_between(standin.sample(12.0, period_s=0.02), at(1.0), at(11.0))
    assert (got["low_j"], got["high_j"]) == (0.0, 7000.0)
    assert any("faster than published" in note for note in got["notes"])


def test_without_a_power_limit_readings_have_no_upper_bound_and_the_counter_still_has(build_standin):
    standin = build_standin("nvmlDeviceGetEnforcedPowerLimit")
    standin.load(low_w=100, high_w=600, duty=0.5, period_s=0.37)
    data = standin.sample(12.0)
    got = energy_between(data, at(1.0), at(11.0))
    assert got["low_j"] <= standin.true_energy_j(1.0, 11.0) <= got["high_j"]
    standin.reset()
    no_counter(standin)
    got = energy_between(standin.sample(12.0), at(1.0), at(11.0))
    assert got["available"] and got["bound_j"] is None and got["high_j"] is None
    assert any("nvmlDeviceGetEnforcedPowerLimit" in note for note in got["notes"])


def test_a_counter_reset_in_the_window_is_a_reason_and_outside_it_does_no_harm(standin):
    standin.load(low_w=300, high_w=300)
    standin.counter(reset_s=6.0)
    data = standin.sample(14.0)
    within = energy_between(data, at(1.0), at(11.0))
    assert within["method"] == "power"  # the readings stand in
    assert within["energy_j"] == pytest.approx(3000, rel=0.01)
    assert any("went back from" in note and "s into the window" in note for note in within["notes"])
    for t0, t1 in [(0.5, 5.5), (7.0, 13.0)]:
        got = energy_between(data, at(t0), at(t1))
        assert got["method"] == "counter"
        assert got["low_j"] <= 300 * (t1 - t0) <= got["high_j"]


def test_a_lost_gpu_has_no_energy_and_the_reason(standin):
    standin.reset(gpus=2)
    standin.fail("*", GPU_IS_LOST, gpu=1, from_s=6.0)
    data = standin.sample(14.0)
    got = energy_between(data, at(1.0), at(11.0))
    assert not got["available"] and got["energy_j"] is None
    assert "gpu1" in got["reason"] and "GPU is lost" in got["reason"] and "last 5" in got["reason"]
    assert energy_between(data, at(1.0), at(11.0), names=["gpu0"])["energy_j"] == pytest.approx(1000, rel=0.05)
    assert energy_between(data, at(1.0), at(5.0))["available"]


def test_several_gpus_add_up(standin):
    standin.reset(gpus=3)
    for i in range(3):
        standin.load(low_w=100 * (i + 1), high_w=100 * (i + 1), gpu=i)
        standin.counter(phase_ms=11 * i, gpu=i)
    got = energy_between(standin.sample(12.0), at(1.0), at(11.0))
    assert [row["source"] for row in got["sources"]] == ["gpu0", "gpu1", "gpu2"]
    assert got["energy_j"] == pytest.approx(6000, rel=0.02)
    assert got["low_j"] <= 6000 <= got["high_j"]
    assert got["bound_j"] <= sum(row["bound_j"] for row in got["sources"]) + 1e-9


def test_slow_calls_widen_the_bound_instead_of_breaking_it(standin):
    for call_ms in (1, 5, 30):
        standin.reset(gpus=2)
        standin.lib.standin_call_takes(call_ms * 1_000_000)
        for i in range(2):
            standin.load(low_w=1, high_w=LIMIT_W, duty=0.5, period_s=8.0, phase_s=4.0, gpu=i)
            standin.counter(update_ms=1, gpu=i)
        data = standin.sample(9.0)
        # From the low half into the high half: a value dated too early would show at one end only.
        for i, t1_s in [(0, 6.0), (0, 7.1), (1, 6.0), (1, 7.1)]:
            got = energy_between(data, at(2.0), at(t1_s), names=[f"gpu{i}"])
            assert got["low_j"] <= standin.true_energy_j(2.0, t1_s, gpu=i) <= got["high_j"]


def test_short_windows_say_so(standin):
    data = standin.sample(12.0)
    short = energy_between(data, at(3.0), at(3.5))
    assert any("0.5 s is short of 5 s" in note for note in short["notes"])
    assert short["low_j"] <= 50.0 <= short["high_j"]
    long = energy_between(data, at(3.0), at(9.0))
    assert not any("short of" in note for note in long["notes"])
    assert long["bound_j"] / long["energy_j"] < short["bound_j"] / short["energy_j"]


@pytest.mark.parametrize("period_s", [0.02, 0.1, 0.37, 4.0])
@pytest.mark.parametrize("counter", [True, False])
def test_the_energy_of_phases_is_bounded_and_adds_up(standin, period_s, counter):
    """Planted: the first 30 % of every step draws 650 W, the next 50 % draws 150 W, and 20 % is nobody's."""
    if not counter:
        no_counter(standin)
    standin.load(low_w=150, high_w=650, duty=0.3, period_s=period_s)
    data = standin.sample(14.0)
    steps = at(1.0) - at(1.0) % round(period_s * 1e9) + np.arange(1, int(12 / period_s)) * round(period_s * 1e9)
    forward = np.stack([steps, steps + round(0.3 * period_s * 1e9)], axis=1)
    backward = np.stack([forward[:, 1], steps + round(0.8 * period_s * 1e9)], axis=1)
    t1 = int(backward[-1, 1])
    got = energy_by_phase(data, at(1.0), t1, {"forward": forward, "backward": backward})
    phases = {row["name"]: row for row in got["phases"]}
    assert list(phases) == ["forward", "backward", "unattributed"]
    for name, watts in {"forward": 650, "backward": 150}.items():
        assert phases[name]["low_j"] <= watts * phases[name]["time_s"] <= phases[name]["high_j"], name
    assert sum(row["energy_j"] for row in phases.values()) == pytest.approx(got["energy_j"], rel=1e-9)
    assert sum(row["time_s"] for row in phases.values()) == pytest.approx((t1 - at(1.0)) / 1e9)
    for row in phases.values():
        assert row["low_j"] - 1e-6 <= row["energy_j"] <= row["high_j"] + 1e-6
    if counter and period_s == 4.0:  # long phases can be told apart
        assert phases["forward"]["mean_w"] == pytest.approx(650, rel=0.1)
        assert phases["forward"]["low_j"] > phases["backward"]["high_j"]
