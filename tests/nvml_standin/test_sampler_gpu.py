"""The sampler's GPU columns, against a scripted driver library on a virtual clock."""

import numpy as np
import pytest

from perfsuite.instruments.sampler import Sampler

START_NS = 1_000_000_000_000
NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, GPU_IS_LOST = 3, 4, 9, 15


def column(data: dict, name: str) -> np.ndarray:
    return data["values"][:, data["columns"].index(name)]


def test_reads_every_gpu_column_in_its_unit(standin):
    standin.load(low_w=321.5, high_w=321.5)
    data = standin.sample(5.0)
    expected = {
        "gpu0_power_instant_w": 321.5,
        "gpu0_power_average_w": 321.5,
        "gpu0_temperature_core_c": 55,
        "gpu0_temperature_memory_c": 70,
        "gpu0_utilisation_gpu_percent": 90,
        "gpu0_utilisation_memory_percent": 40,
        "gpu0_clock_sm_mhz": 1980,
        "gpu0_clock_memory_mhz": 2619,
        "gpu0_clock_event_reasons": 4,
        "gpu0_memory_used_bytes": 12 * 2**30,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(column(data, name), value, atol=1e-3, err_msg=name)
    now_ns = data["t_ns"]
    np.testing.assert_array_equal(column(data, "gpu0_pcie_tx_bytes"), now_ns // 1000)
    np.testing.assert_allclose(column(data, "gpu0_pcie_rx_bytes"), now_ns / 500)
    energy = column(data, "gpu0_energy_j")
    np.testing.assert_allclose(energy, 321.5 * (now_ns // 100_000_000) / 10, atol=2e-3)
    assert data["failed"] == []
    assert set(data["absent"]) == {"rapl"}
    assert set(data["units"]) == set(data["columns"])
    assert data["gpus"] == [
        {
            "index": 0,
            "name": "NVIDIA H100 80GB HBM3",
            "uuid": "GPU-00000000",
            "power_limit_w": 700.0,
            "power_limit_reason": None,
            "mig": False,
            "reason": None,
        }
    ]


def test_the_schedule_is_absolute_jittered_and_drawn_from_the_seed(standin):
    def times_s(**options):
        standin.reset()
        return (standin.sample(20.0, **options)["t_ns"][:-1] - START_NS) / 1e9  # the last sample is taken by stop()

    jittered = times_s(period_s=0.05, jitter=0.5, seed=3)
    assert len(jittered) == pytest.approx(400, abs=1)
    offset = jittered / 0.05 - np.arange(len(jittered))
    assert np.all(np.abs(offset) <= 0.25)  # no drift
    assert np.ptp(offset) > 0.45
    np.testing.assert_array_equal(jittered, times_s(period_s=0.05, jitter=0.5, seed=3))
    assert not np.array_equal(jittered, times_s(period_s=0.05, jitter=0.5, seed=4))
    plain = times_s(period_s=0.05, jitter=0.0)
    np.testing.assert_allclose(plain, np.arange(len(plain)) * 0.05, atol=1e-9)


def test_slow_reads_make_samples_late_and_are_counted(standin):
    standin.lib.standin_gpm(0, 0)
    standin.lib.standin_call_takes(12_000_000)  # seven calls a sample: 84 ms, more than the period
    data = standin.sample(10.0, period_s=0.05, jitter=0.0)
    late = data["late"]
    assert late["missed"] == pytest.approx(100, abs=3)  # every second deadline
    assert len(data["t_ns"]) == pytest.approx(101, abs=3)
    np.testing.assert_array_equal(column(data, "gpu0_read_ns"), 12_000_000)
    assert late["max_ns"] == int(data["late_ns"].max())


def test_several_gpus_have_columns_of_their_own(standin):
    standin.reset(gpus=3)
    for i in range(3):
        standin.load(low_w=100.0 * (i + 1), high_w=100.0 * (i + 1), gpu=i)
    data = standin.sample(3.0)
    for i in range(3):
        np.testing.assert_allclose(column(data, f"gpu{i}_power_instant_w"), 100.0 * (i + 1), atol=1e-3)
    assert [gpu["uuid"] for gpu in data["gpus"]] == ["GPU-00000000", "GPU-00000001", "GPU-00000002"]


def test_without_the_average_field_the_older_function_is_read_under_its_own_name(standin):
    standin.fail("nvmlDeviceGetFieldValues", NOT_SUPPORTED, field=185)
    standin.load(low_w=250.0, high_w=250.0)
    data = standin.sample(2.0)
    assert data["absent"]["gpu0_power_average_w"] == "field 185 (power_average_w): Not Supported"
    assert np.all(np.isnan(column(data, "gpu0_power_average_w")))
    np.testing.assert_allclose(column(data, "gpu0_power_usage_w"), 250.0, atol=1e-3)
    assert "gpu0_power_usage_w" not in data["absent"]


def test_functions_missing_from_the_library_give_reasons(build_standin):
    standin = build_standin(
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetCurrentClocksEventReasons",
    )
    data = standin.sample(1.0)
    for name, function in {
        "gpu0_power_instant_w": "nvmlDeviceGetFieldValues",
        "gpu0_temperature_memory_c": "nvmlDeviceGetFieldValues",
        "gpu0_energy_j": "nvmlDeviceGetTotalEnergyConsumption",
        "gpu0_utilisation_gpu_percent": "nvmlDeviceGetUtilizationRates",
    }.items():
        assert data["absent"][name] == f"{function}: not in this driver's library"
        assert np.all(np.isnan(column(data, name)))
    assert data["gpus"][0]["power_limit_w"] is None
    assert "nvmlDeviceGetEnforcedPowerLimit" in data["gpus"][0]["power_limit_reason"]
    np.testing.assert_array_equal(column(data, "gpu0_clock_event_reasons"), 8)  # by its older name
    np.testing.assert_allclose(column(data, "gpu0_power_usage_w"), 100.0, atol=1e-3)


def test_the_energy_function_replaces_a_missing_field(standin):
    standin.fail("nvmlDeviceGetFieldValues", NOT_SUPPORTED, field=83)
    data = standin.sample(2.0)
    assert "gpu0_energy_j" not in data["absent"]
    assert np.ptp(column(data, "gpu0_energy_j")) == pytest.approx(200.0, rel=0.1)


def test_mig_says_why_there_is_no_utilisation(standin):
    standin.reset(mig=True)
    data = standin.sample(1.0)
    expected = "nvmlDeviceGetUtilizationRates: Not Supported (MIG mode is on)"
    assert data["absent"]["gpu0_utilisation_gpu_percent"] == expected
    assert data["gpus"][0]["mig"] is True


def test_a_gpu_lost_midway_gives_nan_and_the_reason_from_then_on(standin):
    standin.fail("*", GPU_IS_LOST, from_s=2.0)
    data = standin.sample(4.0)
    seconds = (data["t_ns"] - START_NS) / 1e9
    power = column(data, "gpu0_power_instant_w")
    np.testing.assert_array_equal(np.isnan(power), seconds >= 2.0)
    failed = {row["column"]: row for row in data["failed"]}
    assert failed["gpu0_power_instant_w"] == {
        "column": "gpu0_power_instant_w",
        "reason": "nvmlDeviceGetFieldValues: GPU is lost",
        "first_t_ns": int(data["t_ns"][seconds >= 2.0][0]),
        "count": int(np.sum(seconds >= 2.0)),
    }
    assert failed["gpu0_clock_sm_mhz"]["reason"] == "nvmlDeviceGetClockInfo: GPU is lost"
    assert not np.any(column(data, "gpu0_energy_j") == 0)
    assert np.all(np.isfinite(column(data, "rss_bytes")))


def test_a_read_that_fails_for_a_while_comes_back(standin):
    standin.fail("nvmlDeviceGetFieldValues", 999, field=186, from_s=1.0, until_s=2.0)
    data = standin.sample(3.0)
    seconds = (data["t_ns"] - START_NS) / 1e9
    lost = np.isnan(column(data, "gpu0_power_instant_w"))
    np.testing.assert_array_equal(lost, (seconds >= 1.0) & (seconds < 2.0))
    assert [row["reason"] for row in data["failed"]] == ["field 186: Unknown Error"]


def test_one_unreadable_gpu_leaves_the_others(standin):
    standin.reset(gpus=2)
    standin.fail("nvmlDeviceGetHandleByIndex_v2", NO_PERMISSION, gpu=0)
    data = standin.sample(1.0)
    assert data["gpus"][0]["reason"] == "nvmlDeviceGetHandleByIndex_v2: Insufficient Permissions"
    assert data["absent"]["gpu0_energy_j"] == data["gpus"][0]["reason"]
    assert np.all(np.isnan(column(data, "gpu0_power_instant_w")))
    np.testing.assert_allclose(column(data, "gpu1_power_instant_w"), 100.0, atol=1e-3)


def test_no_gpu_and_no_driver_are_told_apart(standin, tmp_path):
    assert standin.sampler().available() == (True, None)
    standin.reset(gpus=0)
    assert "sees no GPU" in standin.sampler().available().reason
    standin.fail("nvmlInit_v2", DRIVER_NOT_LOADED)
    assert standin.sampler().available() == (False, "nvmlInit_v2: Driver Not Loaded")
    missing = Sampler(nvml_path=str(tmp_path / "none.so")).available()
    assert not missing.available and missing.reason.startswith("no NVIDIA driver: ")
    (tmp_path / "empty.so").write_text("not a library")
    assert not Sampler(nvml_path=str(tmp_path / "empty.so")).available().available


def test_a_driver_call_that_hangs_does_not_hang_the_run(standin):
    sampler = standin.sampler(stop_timeout_s=0.05)
    sampler.start()
    standin.lib.standin_advance_to(START_NS + 1_000_000_000)
    standin.lib.standin_hang(1)
    standin.lib.standin_end()  # the last sample hangs
    data = sampler.stop()
    standin.lib.standin_hang(0)
    assert data["error"] == "a sensor read did not return within 0.05 s of the end"
    assert len(data["t_ns"]) == pytest.approx(20, abs=2)
    assert np.all(np.isfinite(column(data, "gpu0_energy_j")))
