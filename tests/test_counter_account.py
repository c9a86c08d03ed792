"""The account of hardware counters by hand: levels, phases, three counts of the same bytes, roofline points."""

import copy
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from perfsuite.ledger import account


def _beside(name):
    """A module of this folder that is no test."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


small, _, gpu_records = (_beside(name) for name in ("small_gpu_record", "gpu_schedule", "gpu_records"))
MS = small.MS


def _counters(*passes, arrays=None, device="cuda", **more):
    def arrays_of(name):
        return arrays if arrays is not None and name == "timeline.npz" else small.arrays_of(name)

    return account(small.record(*passes, device=device, **more), arrays_of)["memory"]["counters"]


def _row(rows, **wanted):
    return next(row for row in rows if all(row[key] == value for key, value in wanted.items()))


def test_levels_by_hand():
    counters = _counters()
    assert (counters["available"], counters["interval_s"], counters["set"], counters["clock_s"]) == (
        True,
        0.1,
        "memory",
        0.9,
    )
    assert counters["absent"] == {"tensor_active_share": "a second pass"}
    # Of the ten samples the first begins 50 ms early and the last ends 50 ms late: half of each counts.
    # Read: half of 1, 2 to 9, half of 10 = 49.5 MB. Written and asked of L2: nine times 1 and 4 MB.
    assert counters["sampled_share"] == pytest.approx(1.0)
    dram = _row(counters["levels"], name="DRAM")
    assert (dram["read_bytes"], dram["write_bytes"], dram["bytes"]) == pytest.approx((49.5e6, 9e6, 58.5e6))
    assert dram["bandwidth_bytes_per_s"] == pytest.approx(58.5e6 / 0.9)
    # All but the last 50 ms are busy.
    assert dram["busy_bandwidth_bytes_per_s"] == pytest.approx(58.5e6 / 0.85)
    assert dram["share_of_ceiling"] == pytest.approx(58.5e6 / 0.85 / 1e12)
    assert (dram["busy_source"], dram["hit_share"], dram["source"]) == ("gr_active_share", None, "measured")
    l2 = _row(counters["levels"], name="L2")
    assert (l2["read_bytes"], l2["bytes"], l2["hit_share"]) == (None, pytest.approx(36e6), pytest.approx(0.5))
    assert [level["name"] for level in counters["levels"]] == ["DRAM", "L2"]
    assert json.loads(json.dumps(counters)) == counters


def test_phases_by_hand():
    phases = _counters()["phases"]
    assert [(row["phase"], row["time_s"]) for row in phases] == [("data", 0.1), ("forward", 0.3), ("backward", 0.5)]
    data, forward, backward = phases
    # Data: what is left of sample 0 and half of sample 1. Forward: the other half, 2, 3 and half of 4.
    assert data["dram_read_bytes"] == pytest.approx(0.5e6 + 1e6)
    assert forward["dram_read_bytes"] == pytest.approx(1e6 + 3e6 + 4e6 + 2.5e6)
    assert backward["dram_read_bytes"] == pytest.approx(2.5e6 + (6 + 7 + 8 + 9) * 1e6 + 5e6)
    assert [row["dram_write_bytes"] for row in phases] == pytest.approx([1e6, 3e6, 5e6])
    assert [row["l2_bytes"] for row in phases] == pytest.approx([4e6, 12e6, 20e6])
    # Not known in the first three samples, half in the others: unknown in data, and no zero in forward's mean.
    assert [row["l2_hit_share"] for row in phases] == [None, pytest.approx(0.5), pytest.approx(0.5)]
    assert [row["sm_active_share"] for row in phases] == pytest.approx([0.8] * 3)
    assert {row["tensor_active_share"] for row in phases} == {None}


def test_the_series_is_thinned_and_keeps_its_sum():
    arrays = small.timeline_arrays()
    n = 9000
    begins = 5000 * MS + np.arange(n, dtype=np.int64) * MS // 10
    values = np.tile([1000.0, 500.0, 4000.0, 0.5, 0.8, 1.0], (n, 1))
    values[::2, 3] = np.nan
    values[:100, 3] = np.nan
    arrays |= {"counters_t_ns": np.stack([begins, begins + MS // 10], axis=1), "counters_values": values}
    series = _counters(arrays=arrays)["series"]
    assert (
        len(series["t_s"]) == 600
        and series["t_s"][0] == pytest.approx(0.00075)
        and series["t_s"] == sorted(series["t_s"])
    )
    assert series["columns"]["dram_read_bytes_per_s"] == pytest.approx([1e7] * 600)
    assert series["units"]["dram_read_bytes_per_s"] == "B/s" and series["units"]["sm_active_share"] == "share"
    assert series["columns"]["l2_hit_share"][:6] == [None] * 6
    assert series["columns"]["l2_hit_share"][-1] == pytest.approx(0.5)


def test_samples_in_any_order_and_with_gaps():
    arrays = small.timeline_arrays()
    order = np.array([3, 0, 9, 1, 8, 2, 6, 7, 5])  # without the fifth
    arrays |= {"counters_t_ns": arrays["counters_t_ns"][order], "counters_values": arrays["counters_values"][order]}
    counters = _counters(arrays=arrays)
    assert counters["sampled_share"] == pytest.approx(8 / 9)
    assert any(note.startswith("counters were sampled over 88.9 % of the clock") for note in counters["notes"])
    dram = _row(counters["levels"], name="DRAM")
    assert dram["read_bytes"] == pytest.approx(44.5e6)
    assert dram["bandwidth_bytes_per_s"] == pytest.approx((44.5e6 + 8e6) / 0.8)  # of the time that was sampled
    forward = _row(counters["phases"], phase="forward")
    assert (forward["time_s"], forward["sampled_s"]) == (0.3, pytest.approx(0.25))
    assert forward["sm_active_share"] == pytest.approx(0.8)


def test_a_damaged_sample_is_left_out():
    arrays = small.timeline_arrays()
    arrays["counters_values"][4, 0] = np.nan
    assert _counters(arrays=arrays)["sampled_share"] == pytest.approx(8 / 9)


def test_what_was_lost_is_said():
    made = small.timeline_pass()
    made["counters"] |= {"dropped": 7, "overflows": 2, "notes": ["the samples' clock is not CUPTI's"]}
    notes = _counters(small.ledger_pass(), made)["notes"]
    assert "7 counter samples were dropped, the buffer overflowed 2 times" in notes
    assert "the samples' clock is not CUPTI's" in notes
    made["num_steps"] = 9
    assert any("took 9 steps, the ledger pass 10" in note for note in _counters(small.ledger_pass(), made)["notes"])


def test_three_counts_of_the_same_bytes():
    counts = _counters()["byte_counts"]
    assert [row["phase"] for row in counts] == ["data", "forward", "backward", "total"]
    forward = _row(counts, phase="forward")
    # Sampled 10.5 MB read and 3 written; replayed 10 calls of 6 MB; modelled 10 calls of 6 MB.
    assert (forward["sampled_bytes"], forward["replayed_bytes"], forward["modelled_bytes"]) == pytest.approx(
        (13.5e6, 60e6, 60e6)
    )
    assert (forward["replayed_share"], forward["sampled_reason"], forward["replayed_reason"]) == (1.0, None, None)
    backward = _row(counts, phase="backward")
    # 20 calls of 7 MB and the graph's 10 of 2 MB; 50 of the 440 ms are the graph's, whose bytes no op tells.
    assert backward["replayed_bytes"] == pytest.approx(20 * 7e6 + 10 * 2e6)
    assert (backward["modelled_bytes"], backward["modelled_reason"]) == (
        None,
        "of 11 % of the device time the bytes are not known",
    )
    total = _row(counts, phase="total")
    assert (total["sampled_bytes"], total["replayed_bytes"]) == pytest.approx((58.5e6, 220e6))
    data = _row(counts, phase="data")
    assert (data["replayed_bytes"], data["replayed_reason"]) == (None, "no kernel ran")
    assert (
        data["modelled_reason"] == "no op of the ledger pass is known to have run on the device"
    )  # a copy from the host


def test_bytes_that_were_not_counted_have_a_reason():
    counts = _counters(small.ledger_pass(), small.timeline_pass())["byte_counts"]
    assert {row["replayed_reason"] for row in counts} == {"no counter pass was run"}
    counts = _counters(small.ledger_pass(), small.counters_pass())["byte_counts"]
    assert {(row["sampled_bytes"], row["sampled_reason"]) for row in counts} == {(None, "no timeline pass was run")}
    assert _row(counts, phase="forward")["replayed_bytes"] == 60e6
    other = small.counters_pass()
    other["replay"]["rows"][1]["name"] = "another_gemm"
    row = _row(_counters(small.ledger_pass(), other)["byte_counts"], phase="backward")
    assert (row["replayed_bytes"], row["replayed_share"]) == (None, pytest.approx(50 / 450))
    assert row["replayed_reason"] == "kernels with 89 % of the kernel time were not replayed"
    columns = small.timeline_pass()
    columns["counters"]["columns"][0]["name"] = "pcie_read_bytes"
    row = _row(_counters(small.ledger_pass(), columns)["byte_counts"], phase="total")
    assert (row["sampled_bytes"], row["sampled_reason"]) == (None, "this set of counters has no DRAM bytes")


def test_bytes_by_phase_need_a_host_that_does_not_run_ahead():
    made = small.ledger_pass()
    # The host leaves forward 100 ms earlier and waits in backward; the device does what it did.
    made["phases"][1] |= {"time_ns": 200 * MS, "host_ns": 0}
    made["phases"][2] |= {"time_ns": 685 * MS, "host_ns": 685 * MS}
    counters = _counters(made, small.timeline_pass(), small.counters_pass())
    forward = _row(counters["byte_counts"], phase="forward")
    # Busy by the host's phase: data 40, forward 170, backward 570; by launch 40, 300, 440: 130 of 780 ms.
    reason = "the device did 17 % or more of its work while the host was in another phase"
    assert (forward["sampled_bytes"], forward["sampled_reason"]) == (None, reason)
    assert any(
        note.startswith("by phase: the phase is that of the host, and the device did 17 %")
        for note in counters["notes"]
    )
    assert _row(counters["byte_counts"], phase="total")["sampled_bytes"] == pytest.approx(58.5e6)
    unknown = _counters(small.ledger_pass(kernels=None), small.timeline_pass())
    row = _row(unknown["byte_counts"], phase="forward")
    assert row["sampled_reason"] == "the device did an unknown part of its work while the host was in another phase"


def test_roofline_points_from_measured_bytes():
    points = _counters()["roofline"]
    dram, l2 = (_row(points, kernel="gemm_backward", level=level) for level in ("DRAM", "L2"))
    # 20 calls of 2 G operations, 5 MB read, 2 MB written and 14 MB through L2, in 400 ms.
    assert (dram["operations"], dram["bytes"], l2["bytes"]) == (40e9, 140e6, 280e6)
    assert (dram["intensity_ops_per_byte"], l2["intensity_ops_per_byte"]) == pytest.approx((2000 / 7, 1000 / 7))
    assert dram["ops_per_s"] == l2["ops_per_s"] == pytest.approx(40e9 / 0.4)
    assert (dram["ceiling_ops_per_s"], l2["ceiling_ops_per_s"]) == (100e12, 100e12)  # compute is the lower roof
    assert (dram["bandwidth_bytes_per_s"], l2["bandwidth_bytes_per_s"], dram["peak_ops_per_s"]) == (1e12, 4e12, 100e12)
    assert not [point for point in points if point["kernel"] == "graph_node"]  # it computes nothing that was counted
    thin = small.counters_pass()
    thin["replay"]["rows"][1]["values"][3] = 4e6  # 1 M operations a call: a seventh of one per byte of DRAM
    dram = _row(_counters(small.ledger_pass(), thin)["roofline"], kernel="gemm_backward", level="DRAM")
    assert dram["ceiling_ops_per_s"] == pytest.approx(1e12 / 7)


def test_kernels_of_several_layers_are_one_point():
    made, twice = small.ledger_pass(), small.counters_pass()
    told = made["kernels"]
    told["sites"].append(small.BACKWARD | {"module": "second"})
    told["rows"].append(small.kernel("gemm_backward", 3, "backward", 10, 100, 100))
    twice["replay"]["sites"].append(small.BACKWARD | {"module": "second"})
    twice["replay"]["rows"].append(
        {"name": "gemm_backward", "site": 2, "phase": "backward", "calls": 2, "values": [10e6, 4e6, 28e6, 4e9, 40e6]}
    )
    points = _counters(made, twice)["roofline"]
    (dram,) = [point for point in points if point["kernel"] == "gemm_backward" and point["level"] == "DRAM"]
    assert (dram["operations"], dram["bytes"], dram["time_s"]) == (60e9, pytest.approx(210e6), pytest.approx(0.5))


def test_operations_of_a_dtype_without_a_peak_have_no_ceiling():
    made = small.counters_pass()
    made["replay"]["columns"][3]["name"] = "tensor_ops_int8"
    out = account(small.record(small.ledger_pass(), made), small.arrays_of)
    point = out["memory"]["counters"]["roofline"][0]
    assert (point["peak_ops_per_s"], point["ceiling_ops_per_s"]) == (None, None)
    line = next(line for line in out["ledger"]["kernels"] if line["name"] == "gemm_forward")
    assert (line["bound"], line["tensor_ops"]) == (None, 2e10)
    made["replay"]["columns"][3]["name"] = "tensor_ops_fp16"  # as CUPTI's columns call what the ceilings call f16
    point = _counters(small.ledger_pass(), made, machine=_with_float16())["roofline"][0]
    assert point["peak_ops_per_s"] == 50e12


def _with_float16():
    ceilings = small.ceilings(gemm_flops_per_s={"float16": small.rate(50e12)})
    return {"fingerprint": {}, "ceilings": ceilings, "ceilings_reason": None}


def test_counted_operations_against_those_of_the_shapes():
    assert _counters()["operations"] == {"replayed": 60e9, "modelled": 60_000_000_000, "ratio": 1.0, "reason": None}
    made = small.counters_pass()
    for row in made["replay"]["rows"]:
        row["values"][3] /= 2  # a multiply-add that counts as one
    assert _counters(small.ledger_pass(), made)["operations"]["ratio"] == 0.5
    assert _counters(small.ledger_pass())["operations"]["reason"] == "no op has both counts"


@pytest.mark.parametrize(
    ("passes", "device", "reason"),
    [
        ([small.ledger_pass(kernels=None)], "cpu", "the run was not on a GPU"),
        ([small.ledger_pass()], "cuda", "no timeline pass was run"),
        (
            [small.ledger_pass(), small.timeline_pass(state="failed", error="out of memory")],
            "cuda",
            "the timeline pass failed: out of memory",
        ),
        (
            [
                small.ledger_pass(),
                small.timeline_pass(
                    counters=None,
                    instruments=[{"name": "counter timeline", "available": False, "reason": "needs root"}],
                ),
            ],
            "cuda",
            "needs root",
        ),
    ],
)
def test_why_there_are_no_counters(passes, device, reason):
    counters = _counters(*passes, device=device)
    assert (counters["available"], counters["reason"]) == (False, reason)
    assert counters["levels"] == counters["phases"] == counters["series"]["t_s"] == []


def test_why_nothing_was_replayed():
    failed = small.counters_pass(state="failed", error="killed", replay=None)
    assert _counters(small.ledger_pass(), failed)["replay"]["reason"] == "the counter pass failed: killed"
    said = [{"name": "counter replay", "available": False, "reason": "needs root"}]
    without = small.counters_pass(replay=None, instruments=said)
    assert _counters(small.ledger_pass(), without)["replay"]["reason"] == "needs root"
    replay = _counters()["replay"]
    assert (replay["available"], replay["passes"], replay["steps"], replay["chip"]) == (True, 6, 2, "GH100")


def test_samples_outside_the_clock_are_no_samples():
    arrays = small.timeline_arrays()
    arrays["counters_t_ns"] = arrays["counters_t_ns"] + 10_000 * MS
    counters = _counters(arrays=arrays)
    assert counters["reason"] == "the timeline pass has no counter sample within its clock"


def test_the_made_up_run_counts_the_same_bytes_three_times():
    made, arrays = gpu_records.gpu_record()
    out = account(made, arrays)
    counters = out["memory"]["counters"]
    total = _row(counters["byte_counts"], phase="total")
    # Sampled is all but the first interval. Evaluations, 1.5 % of the kernels' time, were not replayed.
    assert total["replayed_bytes"] == pytest.approx(total["replayed_share"] * total["sampled_bytes"], rel=2e-3)
    assert total["modelled_bytes"] == pytest.approx(total["sampled_bytes"], rel=0.02)
    assert counters["operations"]["ratio"] == pytest.approx(1.0)
    copied = sum(row["bytes"] for row in out["memory"]["gpu"]["traffic"] if row["direction"] == "HtoD")
    assert _row(counters["levels"], name="PCIe")["read_bytes"] == pytest.approx(copied, rel=0.02)
    # Halved counts of one kernel are seen in the sums.
    planted = copy.deepcopy(made)
    replay = next(pass_ for pass_ in planted["passes"] if pass_["kind"] == "counters")["replay"]
    for row in replay["rows"]:
        row["values"] = [value / 2 for value in row["values"]]
    halved = account(planted, arrays)["memory"]["counters"]
    assert _row(halved["byte_counts"], phase="total")["replayed_bytes"] == pytest.approx(total["replayed_bytes"] / 2)
