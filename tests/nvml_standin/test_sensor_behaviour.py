"""The behaviour of scripted power sensors is found again from their readings under a square wave."""

import numpy as np
import pytest

from perfsuite.sensor_behaviour import LEAST_EDGES, analyse

START_NS = 1_000_000_000_000


def at(seconds: float) -> int:
    return START_NS + round(seconds * 1e9)


def column(data: dict, name: str) -> np.ndarray:
    return data["values"][:, data["columns"].index(name)]


def measured(standin, edges_s: np.ndarray, period_s: float = 0.005, late_s: float = 0.0, **options) -> dict:
    """Readings of a load that is on from the first edge, off from the second, and so on."""
    watts = np.where(np.arange(len(edges_s) - 1) % 2 == 0, 620.0, 110.0)
    standin.schedule(np.concatenate([[0.0], edges_s]), np.concatenate([[110.0], watts]))
    data = standin.sample(float(edges_s[-1]), period_s=period_s, **options)
    edges_ns = START_NS + np.round((edges_s - late_s) * 1e9).astype(np.int64)
    return analyse(data["t_ns"], column(data, "gpu0_power_instant_w"), edges_ns, column(data, "gpu0_energy_j"))


def square(half_s: float, count: int = 60, spread: float = 0.3, seed: int = 0) -> np.ndarray:
    lengths = half_s * np.random.default_rng(seed).uniform(1 - spread, 1 + spread, count)
    return 1.0 + np.concatenate([[0.0], np.cumsum(lengths)])


SENSORS = [(100, 25, 13), (20, 10, 3), (100, 100, 41), (50, 20, 0), (100, 1000, 7)]


@pytest.mark.parametrize("update_ms, window_ms, phase_ms", SENSORS)
@pytest.mark.parametrize("seed", range(2))
def test_each_sensor_is_found_again(standin, update_ms, window_ms, phase_ms, seed):
    standin.sensor(update_ms, window_ms, phase_ms)
    standin.counter(update_ms=update_ms, phase_ms=9)
    half_s = max(3 * update_ms, 1.5 * window_ms) / 1e3
    got = measured(standin, square(half_s, seed=seed), seed=seed, period_s=0.2 * update_ms / 1e3)
    expected = {"update_period_s": update_ms / 1e3, "window_s": window_ms / 1e3, "lag_s": 0.0,
                "counter_update_period_s": update_ms / 1e3, "low_w": 110.0, "high_w": 620.0}  # fmt: skip
    for name, truth in expected.items():
        low, high = got[name]["spread"]
        slack = 1e-3 * truth + 1e-4
        assert got[name]["reason"] is None
        assert low - slack <= truth <= high + slack, (name, got[name])
        assert high - low < 0.2 * max(truth, update_ms / 1e3), (name, got[name])
    # Up to a period until the renewal after the window holds 90 % of the step.
    fastest, slowest = 0.9 * window_ms / 1e3, (0.9 * window_ms + update_ms) / 1e3
    for name in ("rise_s", "fall_s"):
        first, last = got[name]["spread"]
        assert fastest - 2e-3 <= first <= got[name]["value"] <= last <= slowest + 2e-3
    assert got["unexplained_share"] < 0.02
    alias = got["aliasing"]
    assert alias["unobserved_share"] == pytest.approx(max(0, 1 - window_ms / update_ms), abs=0.03)
    assert (alias["risk"] is None) == (window_ms >= update_ms) and alias["missed_share"] == 0


def test_readings_that_come_late_show_as_lag(standin):
    got = measured(standin, square(0.4), late_s=0.03)
    assert got["lag_s"]["value"] == pytest.approx(0.03, abs=0.003)
    assert got["window_s"]["value"] == pytest.approx(0.025, abs=0.003)


def test_noise_on_the_readings_is_in_the_spread(standin):
    edges_s = square(0.4)
    watts = np.where(np.arange(len(edges_s) - 1) % 2 == 0, 620.0, 110.0)
    standin.schedule(np.concatenate([[0.0], edges_s]), np.concatenate([[110.0], watts]))
    data = standin.sample(float(edges_s[-1]), period_s=0.01)
    clean = column(data, "gpu0_power_instant_w")
    draw = np.random.default_rng(3)
    # A renewal brings new noise, and keeps it for its samples.
    renewal = (data["t_ns"] - START_NS) // 100_000_000
    noisy = clean + draw.normal(0, 12, int(renewal.max()) + 1)[renewal]
    got = analyse(data["t_ns"], noisy, START_NS + np.round(edges_s * 1e9).astype(np.int64))
    low, high = got["window_s"]["spread"]
    assert low <= 0.025 <= high and 0.001 < high - low < 0.03
    assert got["counter_update_period_s"]["reason"] == "no energy counter was read"


def test_a_load_in_step_with_the_sensor_tells_no_window(standin):
    got = measured(standin, 1.0 + 0.3 * np.arange(41))
    assert got["update_period_s"]["value"] is None or "no multiple" in got["window_s"]["reason"]
    assert got["window_s"]["value"] is None and got["rise_s"]["value"] is None
    assert got["aliasing"]["unobserved_share"] is None and got["aliasing"]["reason"]


def test_a_sampler_as_slow_as_the_sensor_cannot_tell_its_period(standin):
    standin.sensor(20, 10)
    got = measured(standin, square(0.2, 100), period_s=0.05)
    assert got["update_period_s"]["value"] is None and got["window_s"]["value"] is None
    assert got["aliasing"]["reason"].startswith("the update period is not known")


def test_readings_that_are_no_mean_of_a_window_are_said_to_be_none(standin):
    edges_s = square(0.4)
    standin.schedule(np.concatenate([[0.0], edges_s]), np.full(len(edges_s), 300.0))
    data = standin.sample(float(edges_s[-1]), period_s=0.01)
    renewal = (data["t_ns"] - START_NS) // 100_000_000
    anything = np.random.default_rng(1).uniform(100, 600, int(renewal.max()) + 1)[renewal]
    got = analyse(data["t_ns"], anything, START_NS + np.round(edges_s * 1e9).astype(np.int64))
    assert got["update_period_s"]["value"] == pytest.approx(0.1, rel=1e-3)
    assert got["window_s"]["value"] is None and "no window explains" in got["window_s"]["reason"]


def test_too_few_edges_and_too_short_stretches_are_reasons(standin):
    got = measured(standin, square(0.4, 8))
    assert got["window_s"]["reason"] == f"9 edges of the load: at least {LEAST_EDGES} are needed"
    standin.reset()
    standin.sensor(100, 100)
    short = measured(standin, square(0.06, 200))
    assert short["rise_s"]["value"] is None and "longer" in short["rise_s"]["reason"]
