"""Idle power from a scripted sensor, and energy above it."""

import numpy as np
import pytest

from perfsuite.energy import energy_between
from perfsuite.energy_idle import above_idle, idle_power
from perfsuite.instruments import idle

START_NS = 1_000_000_000_000
NOT_SUPPORTED = 3


def at(seconds: float) -> int:
    return START_NS + round(seconds * 1e9)


def no_counter(standin) -> None:
    standin.fail("nvmlDeviceGetFieldValues", NOT_SUPPORTED, field=83)
    standin.fail("nvmlDeviceGetTotalEnergyConsumption", NOT_SUPPORTED)


@pytest.mark.parametrize("counter", [True, False])
@pytest.mark.parametrize("gpus", [1, 3])
def test_idle_power_is_found_within_its_bound(standin, counter, gpus):
    standin.reset(gpus=gpus)
    if not counter:
        no_counter(standin)
    for i in range(gpus):
        standin.load(low_w=71.3 * (i + 1), high_w=71.3 * (i + 1), gpu=i)
        standin.counter(phase_ms=13 * i, gpu=i)
    truth = sum(71.3 * (i + 1) for i in range(gpus))
    got = idle_power(standin.sample(5.0, period_s=0.02), at(1.0), at(4.0))
    assert got["reason"] is None and got["idle_s"] == 3.0
    assert got["idle_source"] == ("counter" if counter else "power")
    assert abs(got["idle_w"] - truth) <= got["idle_bound_w"] + 2e-3 * gpus
    assert got["idle_bound_w"] < 0.03 * truth
    assert [row["source"] for row in got["sources"]] == [f"gpu{i}" for i in range(gpus)]


def test_power_that_still_falls_widens_the_bound(standin):
    edges = np.arange(0, 6.01, 0.05)
    falling = 100 + 60 * np.exp(-edges[:-1] / 2)
    standin.schedule(edges, falling)
    got = idle_power(standin.sample(5.0, period_s=0.02), at(1.0), at(4.0))
    mean = standin.true_energy_j(1.0, 4.0) / 3
    assert abs(got["idle_w"] - mean) <= got["idle_bound_w"]
    assert 10 < got["idle_bound_w"] < 40  # it falls from 136 to 108 W


def test_a_device_that_cannot_be_read_leaves_no_sum_and_says_why(standin):
    standin.reset(gpus=2)
    standin.fail("*", 15, gpu=1, from_s=0.5)
    got = idle_power(standin.sample(5.0), at(1.0), at(4.0))
    assert got["idle_w"] is None and got["reason"].startswith("gpu1: ") and "GPU is lost" in got["reason"]
    standin.reset()
    short = idle_power(standin.sample(5.0), at(1.0), at(2.0))
    assert short["idle_w"] is None and "1 s long" in short["reason"]


def test_above_idle_subtracts_idle_over_the_time_and_adds_the_bounds(standin):
    standin.schedule(np.array([0.0, 5.0, 30.0]), np.array([80.0, 430.0]))
    data = standin.sample(27.0, period_s=0.02)
    quiet, run = idle_power(data, at(1.0), at(4.5)), energy_between(data, at(6.0), at(26.0))
    got = above_idle(run, quiet, 20.0)
    assert abs(got["above_idle_j"] - 350 * 20) <= got["above_idle_bound_j"]
    assert got["above_idle_j"] == pytest.approx(350 * 20, rel=0.01)
    assert got["above_idle_bound_j"] == pytest.approx(run["bound_j"] + 20 * quiet["idle_bound_w"])
    assert got["above_idle_reason"] is None
    without = above_idle(run, None, 20.0)
    assert without["above_idle_j"] is None and "no idle power was measured" in without["above_idle_reason"]
    other = quiet | {"sources": [{"source": "gpu7"}]}
    assert "other devices" in above_idle(run, other, 20.0)["above_idle_reason"]


def test_the_measurement_settles_first_and_runs_on_a_gpu_only(standin):
    edges = np.array([0.0, 0.9, 60.0])
    standin.schedule(edges, np.array([500.0, 95.0]))  # what the warm-up leaves behind ends before it has settled
    lib, waited = standin.lib, []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        lib.standin_advance_to(lib.standin_now_ns() + round(seconds * 1e9))
        if len(waited) == 2:
            lib.standin_end()

    got = idle.measure("cuda", standin.sampler(period_s=idle.PERIOD_S), wait, lib.standin_now_ns)
    assert waited == [idle.SETTLE_S, idle.MEASURE_S]
    assert abs(got["idle_w"] - 95.0) <= got["idle_bound_w"] and got["idle_s"] == idle.MEASURE_S
    assert idle.measure("cpu", standin.sampler(), wait)["reason"] == "measured before runs on a GPU only"
    standin.reset(gpus=0)
    nothing = idle.measure("cuda", standin.sampler(), wait)
    assert nothing["idle_w"] is None and "sees no GPU" in nothing["reason"]
    assert len(waited) == 2
