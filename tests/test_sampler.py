"""The sampler on this machine's own clock, and what it reads without a GPU."""

import mmap
import os

import numpy as np
import pytest

from perfsuite.energy import energy_between
from perfsuite.instruments.sampler import Sampler


def busy(sampler: Sampler, samples: int) -> dict:
    """Burn CPU time until there should be this many samples, within a bound on the work."""
    before = os.times()
    while os.times().user - before.user < samples * 0.002:
        sum(range(20_000))
    return sampler.stop()


def column(data: dict, name: str) -> np.ndarray:
    return data["values"][:, data["columns"].index(name)]


def test_process_columns_on_the_real_clock(tmp_path):
    sampler = Sampler(period_s=0.002, nvml_path=str(tmp_path / "none.so"), powercap=str(tmp_path))
    sampler.start()
    # 32 MiB of pages of their own, touched: what malloc gives may be resident already, left by another test.
    ballast = np.frombuffer(mmap.mmap(-1, 32 << 20), dtype=np.uint8)
    ballast[:] = 1
    data = busy(sampler, 40)
    assert len(data["t_ns"]) >= 5
    assert np.all(np.diff(data["t_ns"]) > 0)
    assert data["late_ns"].shape == data["t_ns"].shape and np.all(data["late_ns"] >= 0)
    assert data["values"].shape == (len(data["t_ns"]), len(data["columns"]))
    for name in ("cpu_user_s", "cpu_system_s", "minor_faults", "major_faults"):
        assert np.all(np.diff(column(data, name)) >= 0)
    used_s = np.ptp(column(data, "cpu_user_s"))
    assert 0.04 <= used_s <= 10
    assert np.ptp(column(data, "rss_bytes")) >= 0.9 * ballast.nbytes
    assert np.ptp(column(data, "minor_faults")) > 0
    assert set(data["absent"]) == {"gpu", "rapl"} and data["failed"] == [] and data["error"] is None
    assert 0 < data["cost"]["cpu_s"] < used_s


def test_sources_give_a_reason_where_there_is_nothing(tmp_path):
    sources = Sampler(nvml_path=str(tmp_path / "none.so"), powercap=str(tmp_path)).sources()
    assert sources["proc"] == (True, None)
    assert not sources["gpu"].available and "none.so" in sources["gpu"].reason
    assert not sources["rapl"].available and str(tmp_path) in sources["rapl"].reason


def test_no_sensor_means_no_energy_and_both_reasons(tmp_path):
    sampler = Sampler(period_s=0.001, nvml_path=str(tmp_path / "none.so"), powercap=str(tmp_path))
    sampler.start()
    data = sampler.stop()
    got = energy_between(data, int(data["t_ns"][0]), int(data["t_ns"][-1]) + 1)
    assert not got["available"] and got["energy_j"] is None and got["bound_j"] is None
    assert "gpu: no NVIDIA driver" in got["reason"] and "rapl: no intel-rapl zone" in got["reason"]


def zone(folder, number: str, name: str, energy_uj: int) -> None:
    path = folder / f"intel-rapl:{number}"
    path.mkdir()
    (path / "name").write_text(name + "\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    (path / "max_energy_range_uj").write_text("262143328850\n")


def test_rapl_zones_are_read_and_named_after_their_package(tmp_path):
    zone(tmp_path, "0", "package-0", 5_000_000)
    zone(tmp_path, "0:0", "dram", 250_000)
    (tmp_path / "intel-rapl-mmio:0").mkdir()  # a second view of the package
    sampler = Sampler(period_s=0.001, nvml_path="none.so", powercap=str(tmp_path))
    assert sampler.sources()["rapl"].available
    sampler.start()
    data = sampler.stop()
    assert data["rapl"] == [
        {"name": "package-0", "column": "rapl_package-0_energy_j", "range_j": pytest.approx(262143.32885)},
        {"name": "package-0-dram", "column": "rapl_package-0-dram_energy_j", "range_j": pytest.approx(262143.32885)},
    ]
    np.testing.assert_allclose(column(data, "rapl_package-0_energy_j"), 5.0)
    np.testing.assert_allclose(column(data, "rapl_package-0-dram_energy_j"), 0.25)
    assert np.all(column(data, "rapl_read_ns") > 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_rapl_zones_that_only_root_may_read_give_that_reason(tmp_path):
    zone(tmp_path, "0", "package-0", 1)
    (tmp_path / "intel-rapl:0" / "energy_uj").chmod(0)
    availability = Sampler(nvml_path="none.so", powercap=str(tmp_path)).sources()["rapl"]
    assert not availability.available and "only root may read it" in availability.reason


@pytest.mark.parametrize("options", [{"period_s": 0}, {"period_s": float("nan")}, {"jitter": -0.1}, {"jitter": 1.5}])
def test_impossible_schedules_are_refused(options):
    with pytest.raises(ValueError, match="the sampler's"):
        Sampler(**options)


def test_a_sampler_can_be_used_again_and_says_when_it_is_misused(tmp_path):
    sampler = Sampler(period_s=0.001, nvml_path="none.so", powercap=str(tmp_path))
    with pytest.raises(RuntimeError, match="not running"):
        sampler.stop()
    for _ in range(2):
        sampler.start()
        with pytest.raises(RuntimeError, match="running already"):
            sampler.start()
        assert len(sampler.stop()["t_ns"]) >= 2


def test_a_forked_child_can_drop_the_sampler(tmp_path):
    sampler = Sampler(period_s=0.001, nvml_path="none.so", powercap=str(tmp_path))
    sampler.start()
    child = os.fork()
    if child == 0:
        try:
            del sampler._native  # what the child's garbage collector would do
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(sampler.stop()["t_ns"]) >= 2
