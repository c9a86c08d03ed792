"""GPU performance monitoring (GPM) in the sampler, against the scripted driver library."""

import gc

import numpy as np
import pytest

START_NS = 1_000_000_000_000
MIB = 2**20
FULL = {
    "sm_share": 0.9,
    "tensor_share": 0.5,
    "dram_share": 0.4,
    "pcie_tx_bytes_per_s": 1000 * MIB,
    "pcie_rx_bytes_per_s": 2000 * MIB,
    "nvlink_rx_bytes_per_s": 3000 * MIB,
    "nvlink_tx_bytes_per_s": 4000 * MIB,
}
NAMES = [f"gpu0_gpm_{name}" for name in FULL]
NOT_SUPPORTED, GPU_IS_LOST = 3, 15


def column(data: dict, name: str) -> np.ndarray:
    return data["values"][:, data["columns"].index(name)]


@pytest.mark.parametrize("period_s, jitter", [(0.01, 0.5), (0.05, 0.5), (0.099, 0.0), (0.1, 0.0), (0.25, 0.5)])
def test_a_value_is_the_mean_since_the_last_one_and_spans_more_than_100_ms(standin, period_s, jitter):
    standin.load(low_w=100, high_w=500, duty=0.3, period_s=0.73)
    data = standin.sample(8.0, period_s=period_s, jitter=jitter)
    ends = np.flatnonzero(~np.isnan(column(data, "gpu0_gpm_sm_share")))
    t_ns = data["t_ns"]
    times = np.concatenate([t_ns[:1], t_ns[ends]])
    assert len(ends) > 20 and ends[0] > 0
    assert np.min(np.diff(times)) > 100_000_000
    assert np.max(np.diff(times)) <= 100_000_000 + 1.5 * (1 + jitter) * period_s * 1e9
    high_s = np.array([(standin.true_energy_j(0, (t - START_NS) / 1e9) - 100 * (t - START_NS) / 1e9) / 400
                       for t in times])  # fmt: skip
    activity = np.diff(high_s) / (np.diff(times) / 1e9)
    assert np.ptp(activity) > 0.2  # a window of another length or place would show
    for name, full in FULL.items():
        np.testing.assert_allclose(column(data, f"gpu0_gpm_{name}")[ends], full * activity, rtol=1e-6, atol=1e-9 * full)
    assert data["failed"] == []
    assert data["units"]["gpu0_gpm_dram_share"] == "share"
    assert data["units"]["gpu0_gpm_pcie_tx_bytes_per_s"] == "B/s"


def absent(data: dict) -> str:
    reasons = {data["absent"][name] for name in NAMES}
    assert len(reasons) == 1
    for name in NAMES:
        assert np.all(np.isnan(column(data, name)))
    return reasons.pop()


def test_each_way_of_not_having_it_gives_its_reason(standin, build_standin):
    standin.lib.standin_gpm(0, 0)
    assert absent(standin.sample(1.0)) == (
        "GPM: this GPU or its driver does not have it (Hopper and later do, vGPUs do not)"
    )
    standin.reset(mig=True)
    assert absent(standin.sample(1.0)) == "GPM: MIG mode is on, and it is not read of single instances"
    standin.reset()
    standin.fail("nvmlGpmQueryDeviceSupport", NOT_SUPPORTED)
    assert absent(standin.sample(1.0)) == "nvmlGpmQueryDeviceSupport: Not Supported"
    standin.reset()
    standin.fail("nvmlGpmSampleGet", NOT_SUPPORTED)
    assert absent(standin.sample(1.0)) == "nvmlGpmSampleGet: Not Supported"
    old = build_standin("nvmlGpmQueryDeviceSupport").sample(1.0)
    assert absent(old) == "GPM: not in this driver's library"
    assert np.all(np.isfinite(column(old, "gpu0_power_instant_w")))


def test_one_metric_that_is_not_there_leaves_the_others(standin):
    standin.fail("nvmlGpmMetricsGet", NOT_SUPPORTED, field=60)
    data = standin.sample(2.0)
    assert np.all(np.isnan(column(data, "gpu0_gpm_nvlink_rx_bytes_per_s")))
    assert np.nanmax(column(data, "gpu0_gpm_nvlink_tx_bytes_per_s")) == 4000 * MIB
    assert [(row["column"], row["reason"]) for row in data["failed"]] == [
        ("gpu0_gpm_nvlink_rx_bytes_per_s", "GPM metric 60: Not Supported")
    ]


@pytest.mark.parametrize("function", ["nvmlGpmSampleGet", "nvmlGpmMetricsGet"])
def test_a_failure_on_the_way_is_kept_and_the_windows_go_on(standin, function):
    standin.load(low_w=100, high_w=500, duty=1.0)
    standin.fail(function, GPU_IS_LOST, from_s=2.0, until_s=3.0)
    data = standin.sample(5.0)
    seconds = (data["t_ns"] - START_NS) / 1e9
    share = column(data, "gpu0_gpm_sm_share")
    assert np.all(np.isnan(share[(seconds >= 2.0) & (seconds < 3.0)]))
    np.testing.assert_allclose(share[~np.isnan(share)], 0.9)
    assert np.sum(~np.isnan(share[seconds > 3.0])) > 10
    assert {row["reason"] for row in data["failed"]} == {f"{function}: GPU is lost"}


def test_every_sample_buffer_is_given_back(standin):
    gc.collect()
    before = standin.lib.standin_gpm_samples()
    standin.reset(gpus=3)
    sampler = standin.sampler()
    sampler.start()
    assert standin.lib.standin_gpm_samples() == before + 6
    standin.lib.standin_end()
    sampler.stop()
    del sampler
    gc.collect()
    assert standin.lib.standin_gpm_samples() == before
