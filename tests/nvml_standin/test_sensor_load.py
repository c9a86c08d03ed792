"""The square-wave load behind the behaviour of a power sensor: what reaches the analysis, from a scripted driver."""

import io
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from perfsuite import sensor_behaviour
from perfsuite.gpu_machine import sensor
from perfsuite.report.gpu_text import render_sensors


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(sensor, "_HALF_S", 0.01)
    return SimpleNamespace(index=0, uuid="00000001", event_ns=lambda run: 2e6, synchronize=lambda: None)


def test_readings_of_this_gpu_and_the_edges_reach_the_analysis(standin, gpu, monkeypatch):
    standin.reset(gpus=2)
    standin.load(low_w=250.0, high_w=250.0, gpu=1)
    seen, launched = [], []

    def analyse(t_ns, watts, edges_ns, energy_j=None):
        seen.append((t_ns, watts, edges_ns, energy_j))
        return {"update_period_s": 0.1}

    monkeypatch.setattr(sensor_behaviour, "analyse", analyse)
    before = time.monotonic_ns()
    found = sensor.measure(gpu, lambda: launched.append(time.monotonic_ns()), 3, nvml_path=standin.path)
    assert found["cycles"] == 3 and set(found["sensors"]) == set(sensor.SENSORS)
    for t_ns, watts, edges_ns, energy_j in seen:
        assert edges_ns.shape == (6,) and bool((np.diff(edges_ns) > 0).all())
        assert before <= t_ns[0] <= edges_ns[0] and edges_ns[-1] <= t_ns[-1]
        assert len(watts) == len(energy_j) == len(t_ns) == found["samples"]
        np.testing.assert_allclose(watts, 250.0, atol=1e-3)
    on = [any(a <= t <= b for a, b in edges_ns.reshape(-1, 2)) for t in launched]
    assert launched and all(on), "a load outside of the edges"
    assert len(launched) % 5 == 0  # batches of 10 ms of a load of 2 ms


def test_a_gpu_that_nvml_does_not_know_is_said(standin, gpu):
    with pytest.raises(RuntimeError, match="NVML knows no GPU with the UUID of CUDA's device 0"):
        sensor.measure(gpu, lambda: None, 1, nvml_path=standin.path)


def test_without_power_readings_the_drivers_reason_is_given(standin, gpu):
    standin.reset(gpus=2)
    for function in ("nvmlDeviceGetFieldValues", "nvmlDeviceGetPowerUsage"):
        standin.fail(function, 3)
    with pytest.raises(RuntimeError, match="nvmlDeviceGetFieldValues: Not Supported"):
        sensor.measure(gpu, lambda: None, 1, nvml_path=standin.path)


def test_without_nvml_the_reason_is_given(gpu):
    with pytest.raises(RuntimeError, match="nowhere"):
        sensor.measure(gpu, lambda: None, 1, nvml_path="/nowhere/libnvidia-ml.so.1")


def test_what_the_analysis_says_is_kept(standin, gpu):
    """The real analysis, of readings that never change: it cannot tell, and says so."""
    standin.reset(gpus=2)
    found = sensor.measure(gpu, lambda: None, 2, nvml_path=standin.path)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for one in found["sensors"].values():
        assert one["window_s"]["value"] is None and one["window_s"]["reason"]
    text = io.StringIO()
    Console(file=text, width=100).print(*render_sensors(found["sensors"]))
    assert "renewed every" in text.getvalue() and "unknown (" in text.getvalue()
