"""The account's power block, from a pass on a scripted GPU."""

import json
from pathlib import Path

import numpy as np
import pytest

from perfsuite.account_kernel_power import row_joules
from perfsuite.account_phases import whole
from perfsuite.account_power import per_joule, power, throttle_checks, throttle_notes
from perfsuite.energy_idle import idle_power

START_NS = 1_000_000_000_000
SECOND = 1_000_000_000
HW_THERMAL = 0x40


def at(seconds: float) -> int:
    return START_NS + round(seconds * 1e9)


def run(standin, seconds: float = 24.0, **more):
    """A pass of 20 s from second 1 on: 15 s forward, 5 s backward; 5000 samples in 100 steps."""
    data = standin.sample(seconds)
    arrays = {
        "timeline": np.array([[at(1.0), 0, 0], [at(16.0), 1, 0]]),
        "sampler_t_ns": data.pop("t_ns"),
        "sampler_values": data.pop("values"),
    }
    made = {
        "kind": "clean", "index": 0, "seed": 1, "start_ns": at(1.0), "clock_ns": 20 * SECOND, "num_steps": 100,
        "samples": 5000, "sampler": data, "instruments": [],
        "phases": [{"name": "forward", "time_ns": 15 * SECOND, "calls": 1},
                   {"name": "backward", "time_ns": 5 * SECOND, "calls": 1}],
    }  # fmt: skip
    return made | more, arrays


def idle_of(standin) -> dict:
    standin.reset()
    standin.load(low_w=80, high_w=80)
    return idle_power(standin.sample(5.0, period_s=0.02), at(1.0), at(4.0))


def test_energy_gross_and_above_idle_and_work_per_joule(standin):
    quiet = idle_of(standin)
    standin.reset()
    standin.load(low_w=400, high_w=400)
    pass_, arrays = run(standin, idle=quiet)
    got = power(pass_, arrays, whole(pass_), model_flops_per_sample=3e9)
    assert got["available"] and abs(got["energy_j"] - 8000) <= got["bound_j"]
    assert got["idle_w"] == pytest.approx(80, rel=0.02) and got["idle_source"] == "counter"
    assert abs(got["above_idle_j"] - 6400) <= got["above_idle_bound_j"]
    assert got["perf_per_watt"] == {
        "samples_per_j": pytest.approx(5000 / 8000, rel=0.02), "flops_per_j": pytest.approx(15e12 / 8000, rel=0.02),
        "reason": None,
    }  # fmt: skip
    assert [row["name"] for row in got["phases"]] == ["forward", "backward", "unattributed"]
    assert json.loads(json.dumps(got)) == got


def test_gpm_is_weighted_by_time_and_cut_to_the_window(standin):
    standin.load(low_w=100, high_w=500, duty=0.5, period_s=20.0, phase_s=1.0 - 1000 % 20)
    pass_, arrays = run(standin)
    got = power(pass_, arrays, whole(pass_))["gpm"]
    high_s = (standin.true_energy_j(1.0, 21.0) - 2000) / 400
    assert got["available"] and got["device"] == "gpu0"
    assert got["sm_share"] == pytest.approx(0.9 * high_s / 20, abs=0.01)
    assert got["dram_share"] == pytest.approx(0.4 * high_s / 20, abs=0.005)
    assert got["pcie_rx_bytes_per_s"] == pytest.approx(2000 * 2**20 * high_s / 20, rel=0.02)
    standin.reset(gpus=1)
    standin.lib.standin_gpm(0, 0)
    pass_, arrays = run(standin)
    none = power(pass_, arrays, whole(pass_))["gpm"]
    assert not none["available"] and "Hopper" in none["reason"]


def test_a_throttled_run_fails_its_check_and_is_named(standin):
    standin.clock_lowered(900, HW_THERMAL, 5.0, 7.0)
    pass_, arrays = run(standin)
    got = power(pass_, arrays, whole(pass_))
    (check,) = throttle_checks(got)
    assert not check["ok"] and check["detail"].startswith("10.0")
    assert check["detail"].endswith("on gpu0: hardware thermal slowdown 10.0 %")
    (note,) = throttle_notes([pass_ | {"clocks": got["clocks"]}, pass_ | {"clocks": None}])
    assert note.startswith("clean pass 0 (seed 1) ran on a throttled GPU, 10.0 % of its clock")
    standin.reset()
    pass_, arrays = run(standin)
    got = power(pass_, arrays, whole(pass_))
    assert throttle_checks(got)[0]["ok"] and not throttle_notes([pass_ | {"clocks": got["clocks"]}])


def test_what_is_not_known_is_none_with_its_reason(standin):
    pass_, arrays = run(standin, samples=None)
    got = power(pass_, arrays, whole(pass_))
    assert got["above_idle_j"] is None and got["above_idle_reason"] == "no idle power was measured in this pass"
    assert got["perf_per_watt"]["samples_per_j"] is None and "trained on" in got["perf_per_watt"]["reason"]
    standin.reset(gpus=0)
    pass_, arrays = run(standin)
    got = power(pass_, arrays, whole(pass_))
    assert not got["available"] and got["perf_per_watt"]["samples_per_j"] is None
    assert got["clocks"]["throttled"] is None and throttle_checks(got) == []
    nothing = power(pass_ | {"sampler": None}, {}, whole(pass_))
    assert nothing["reason"] == "no sampler ran in this pass"
    listed = {"sources", "low_j", "high_j", "notes", "kernels_windows", "kernels_unexplained_share", "kernels_notes"}
    assert not got.keys() - nothing.keys() - listed
    assert got["kernels_reason"] == "no kernel recorder ran in this pass"
    assert per_joule(100.0, None, 50.0, None)["flops_per_j"] is None


@pytest.mark.parametrize("uuid", ["GPU-00000001", "GPU-00000007", None])
def test_joules_by_kernel_are_those_of_the_gpu_that_was_recorded(standin, uuid):
    """Two kernels take turns on the second GPU; the first idles."""
    standin.reset(gpus=2)
    draw = np.random.default_rng(0)
    edges = np.concatenate([[0.0], np.cumsum(draw.exponential(0.03, 1000))])
    kernel = np.arange(1000) % 2
    standin.schedule(edges, np.where(kernel == 0, 600.0, 300.0), gpu=1)
    marks = np.arange(0, 24.0, 0.005)
    spent = [np.interp(marks, edges, np.concatenate([[0], np.cumsum(np.diff(edges) * (kernel == k))])) for k in (0, 1)]
    busy = np.round(np.diff(np.stack(spent, axis=1), axis=0) * 1e9).astype(np.int64)
    pass_, arrays = run(standin, kernels={"power": {"uuid": uuid, "names": ["gemm"]}})
    arrays |= {"kernel_power_edges_ns": START_NS + np.round(marks * 1e9).astype(np.int64), "kernel_power_busy": busy}
    got = power(pass_, arrays, whole(pass_))
    if uuid != "GPU-00000001":
        assert not got["kernels_available"] and "none of those" in got["kernels_reason"]
        assert row_joules(got, "gemm", 1.0) == (None, None)
        return
    assert got["kernels_available"], got["kernels_reason"]
    gemm, others = got["kernels"]
    assert (gemm["name"], others["name"]) == ("gemm", "other kernels")
    assert gemm["mean_w"] == pytest.approx(600, rel=0.03) and others["mean_w"] == pytest.approx(300, rel=0.03)
    joules, bound = row_joules(got, "gemm", 2.0)
    assert abs(joules - 1200) <= bound and bound < 60
    assert row_joules(got, "softmax", 1.0)[0] == pytest.approx(300, rel=0.03)
    total = next(row for row in got["sources"] if row["source"] == "gpu1")["energy_j"]
    assert gemm["energy_j"] + others["energy_j"] + got["no_kernel"]["energy_j"] == pytest.approx(total)


@pytest.mark.parametrize("limit_w", [450.0, 700.0, 2000.0])
def test_work_per_joule_is_that_of_the_measured_energy_whatever_the_card_is_rated_at(standin, limit_w):
    standin.reset(limit_w=limit_w)
    standin.load(low_w=400, high_w=400)
    pass_, arrays = run(standin)
    got = power(pass_, arrays, whole(pass_))["perf_per_watt"]
    assert got["samples_per_j"] == pytest.approx(5000 / standin.true_energy_j(1.0, 21.0), rel=0.02)


def test_no_rating_of_a_card_is_read_where_work_per_joule_is_made() -> None:
    source = (Path(__file__).parents[2] / "perfsuite/account_power.py").read_text().lower()
    assert "tdp" not in source and "power_limit" not in source and "limit_w" not in source
