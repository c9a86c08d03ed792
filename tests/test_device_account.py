"""The account of a GPU: kernels, device time and what it is joined to, recomputed by hand; planted faults are found."""

import copy
import dataclasses
import functools
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from perfsuite import record as records
from perfsuite.ledger import account


def _beside(name):
    """A module of this folder that is no test."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


small, gpu_schedule, gpu_records = (_beside(name) for name in ("small_gpu_record", "gpu_schedule", "gpu_records"))
MM, MS = small.MM, small.MS
arrays_of, counters_pass, kernel, kernels = small.arrays_of, small.counters_pass, small.kernel, small.kernels
ledger_pass, record, shape = small.ledger_pass, small.record, small.shape

ROOT = Path(__file__).parents[1]


def _account(*passes, **more):
    return account(record(*passes, **more), arrays_of)


def _check(out, name):
    return next(check for check in out["ledger"]["checks"] if check["name"].startswith(name))


def _op(out, name, phase):
    return next(op for op in out["ledger"]["ops"] if (op["name"], op["phase"]) == (name, phase))


def _kernel(out, name):
    return next(line for line in out["ledger"]["kernels"] if line["name"] == name)


def test_the_device_ledger_adds_up_to_the_hosts_clock():
    out = _account()
    device = out["ledger"]["device"]
    assert (device["available"], device["reason"]) == (True, None)
    (gpu,) = device["devices"]
    assert (gpu["clock_s"], gpu["busy_s"], gpu["idle_s"], gpu["residual_s"], gpu["overlap_s"]) == (
        1,
        0.78,
        0.22,
        0,
        0.02,
    )
    assert [(part["cause"], part["phase"], part["time_s"], part["share"]) for part in gpu["idle"]] == [
        ("python", "backward", 0.061, 0.061),
        ("data", "data", 0.06, 0.06),
        ("sync", "backward", 0.054, 0.054),
        ("launch", "forward", 0.03, 0.03),
        ("ops", "other", 0.01, 0.01),
        ("python", "", 0.005, 0.005),
    ]
    assert [(part["phase"], part["time_s"]) for part in gpu["busy"]] == [
        ("backward", 0.44),
        ("forward", 0.3),
        ("data", 0.04),
    ]
    assert gpu["gaps"] == [{"up_to_s": 1e-6, "count": 0, "time_s": 0.0}, {"up_to_s": None, "count": 22, "time_s": 0.22}]
    assert device["syncs"] == [{"type": "stream", "calls": 10, "time_s": 0.045}]
    assert device["overheads"] == [{"kind": "buffer flush", "count": 2, "time_s": 0.003}]
    assert all(check["ok"] for check in out["ledger"]["checks"]), out["ledger"]["checks"]
    assert json.loads(json.dumps(out)) == out


def test_kernels_know_the_op_that_launched_them():
    out = _account()
    assert [line["name"] for line in out["ledger"]["kernels"]] == [
        "gemm_backward",
        "gemm_forward",
        "graph_node",
        "[memcpy HtoD]",
    ]
    line = _kernel(out, "gemm_backward")
    assert (line["aten"], line["direction"], line["module"], line["phase"], line["thread"]) == (
        "aten::mm",
        "backward",
        "first",
        "backward",
        "other",
    )
    assert (line["calls"], line["time_s"], line["share_s"], line["share_of_clock"]) == (20, 0.4, 0.39, 0.39)
    assert (line["rank"], line["min_s"], line["max_s"], line["joules"], line["registers"]) == (0, 0.02, 0.02, None, 90)
    graph = _kernel(out, "graph_node")
    assert (graph["aten"], graph["op"], graph["graph"], graph["phase"]) == (None, None, True, "backward")
    # 50 of 780 ms.
    assert "6.4 % of the device time was launched outside all ops" in out["ledger"]["notes"]
    assert out["power"]["kernels_available"] is False and out["power"]["kernels_reason"]


def test_a_suite_ops_kernel_names_op_and_implementation():
    told = kernels()
    told["sites"][0] = small.FORWARD | {"op": "linear=cuda"}
    line = _kernel(_account(ledger_pass(kernels=told)), "gemm_forward")
    assert (line["op"], line["impl"], line["aten"]) == ("linear", "cuda", "aten::mm")


def test_copies_stand_against_the_link_and_kernels_against_what_was_replayed():
    out = _account()
    moved = _kernel(out, "[memcpy HtoD]")
    # 1 GB in 50 ms is 20 of the 25 GB/s that pinned copies reach.
    assert (moved["bytes"], moved["bytes_source"], moved["bound"], moved["level"]) == (10**9, "copy", "memory", "PCIe")
    assert moved["share_of_ceiling"] == pytest.approx(0.8)
    line = _kernel(out, "gemm_forward")
    # 10 calls of 4 MB read, 2 MB written, 12 MB through L2 and 2 G operations: 60 us, 30 us and 200 us.
    assert (line["dram_read_bytes"], line["dram_write_bytes"], line["l2_bytes"], line["tensor_ops"]) == (
        4e7,
        2e7,
        12e7,
        2e10,
    )
    assert (line["bytes"], line["bytes_source"], line["bound"], line["level"]) == (6e7, "replayed", "compute", None)
    assert line["share_of_ceiling"] == pytest.approx(200e-6 / 0.3)
    graph = _kernel(out, "graph_node")
    assert (graph["bytes"], graph["bound"], graph["level"]) == (2e7, "memory", "DRAM")
    assert graph["share_of_ceiling"] == pytest.approx(20e-6 / 0.05)


def test_without_a_counter_pass_counters_are_unknown():
    out = _account(ledger_pass())
    line = _kernel(out, "gemm_forward")
    assert {line[key] for key in ("bytes", "bytes_source", "l2_bytes", "tensor_ops", "bound", "share_of_ceiling")} == {
        None
    }
    assert "kernel calls not checked: no counter pass replayed any" in out["ledger"]["notes"]
    assert out["memory"]["counters"]["replay"]["reason"] == "no counter pass was run"


def test_copies_and_fills_within_the_device():
    told = kernels()
    none = {"grid": None, "block": None, "registers": None, "shared_bytes": None}
    told["rows"] += [
        kernel(
            "[memcpy DtoD]",
            None,
            "data",
            10,
            1,
            1,
            kind="memcpy",
            copy={"direction": "DtoD", "pinned": None},
            bytes=100_000_000,
            **none,
        ),
        kernel("[memset]", None, "data", 10, 1, 1, kind="memset", bytes=1_000_000, **none),
        kernel(
            "[memcpy DtoH]",
            None,
            "data",
            10,
            1,
            1,
            kind="memcpy",
            copy={"direction": "DtoH", "pinned": True},
            bytes=1_000_000,
            **none,
        ),
    ]
    out = _account(ledger_pass(kernels=told))
    within, fill, back = (_kernel(out, name) for name in ("[memcpy DtoD]", "[memset]", "[memcpy DtoH]"))
    assert (within["level"], within["share_of_ceiling"]) == (
        "DRAM",
        pytest.approx(2e8 / 1e12 / 1e-3),
    )  # read and written
    assert (fill["level"], fill["share_of_ceiling"]) == ("L2", pytest.approx(1e6 / 4e12 / 1e-3))
    assert (back["bound"], back["share_of_ceiling"]) == (None, None)  # nobody measured this way


def test_an_op_costs_what_it_had_the_device_do():
    out = _account()
    mm = _op(out, "aten::mm", "forward")
    assert (mm["self_time_s"], mm["device_time_s"], mm["work_time_s"]) == (0.2, 0.3, 0.3)
    # The 1 MB that L2 holds counts as near, but products need more: 20 G operations at 100 T a second.
    assert (mm["bound"], mm["level"]) == ("compute", "DRAM")
    assert mm["share_of_ceiling"] == pytest.approx(200e-6 / 0.3)
    assert mm["gflops_per_s"] == pytest.approx(20 / 0.3)
    behind = _op(out, "aten::mm", "backward")
    # Shares add up to the clock; held against a ceiling are the durations, which overlap can only lengthen.
    assert (behind["device_time_s"], behind["work_time_s"]) == (0.39, 0.4)
    assert behind["share_of_ceiling"] == pytest.approx(400e-6 / 0.4)
    assert [op["name"] for op in out["ledger"]["ops"]] == ["aten::mm", "aten::mm", "aten::copy_", "aten::add"]
    busy = sum(op["device_time_s"] for op in out["ledger"]["ops"]) + _kernel(out, "graph_node")["share_s"]
    assert busy == pytest.approx(out["ledger"]["device"]["devices"][0]["busy_s"])


def test_what_stays_on_the_host_is_held_against_the_host():
    out = _account()
    add = _op(out, "aten::add", "data")
    # 10 calls of 6 MB at 10 GB/s are 6 of its 10 ms.
    assert (add["device_time_s"], add["work_time_s"], add["level"]) == (0.0, 0.01, "memory")
    assert add["share_of_ceiling"] == pytest.approx(0.6)
    moved = _op(out, "aten::copy_", "data")
    assert (moved["device_time_s"], moved["host_copy"], moved["bound"]) == (0.04, True, None)
    levels = {level["name"]: level for level in out["memory"]["levels"]}
    assert set(levels) == {"L2", "DRAM"}
    assert (levels["DRAM"]["bytes"], levels["DRAM"]["time_s"]) == (30 * 6_000_000, pytest.approx(0.7))


def test_on_a_cpu_nothing_of_this_is_there():
    out = _account(ledger_pass(kernels=None), device="cpu")
    mm = _op(out, "aten::mm", "forward")
    assert (mm["device_time_s"], mm["work_time_s"], mm["host_copy"]) == (None, 0.2, False)
    assert out["ledger"]["kernels"] == [] and out["ledger"]["device"]["available"] is False
    assert out["ledger"]["device"]["reason"] == out["memory"]["counters"]["reason"] == "the run was not on a GPU"
    assert not any("device" in check["name"] for check in out["ledger"]["checks"])


def test_a_loop_that_does_not_say_so_ran_on_a_gpu_where_kernels_did():
    out = _account(ledger_pass(kind="watch"), kind="watch", device="cpu", target=None)
    assert out["ledger"]["device"]["available"] and _op(out, "aten::mm", "forward")["device_time_s"] == 0.3
    assert out["mfu"]["reason"].startswith("the operations of ops with 7 %")


def test_without_a_kernel_recorder_no_op_has_a_device_time():
    said = [{"name": "kernel recorder", "available": False, "reason": "torch.profiler is recording"}]
    out = _account(ledger_pass(kernels=None, instruments=said))
    assert out["ledger"]["device"]["reason"] == "torch.profiler is recording"
    assert "no device ledger: torch.profiler is recording" in out["ledger"]["notes"]
    mm = _op(out, "aten::mm", "forward")
    # The host's self time says nothing of how near the GPU came to its ceilings.
    assert {mm[key] for key in ("device_time_s", "work_time_s", "bound", "share_of_ceiling", "gflops_per_s")} == {None}
    assert out["memory"]["levels"] == [] or all(level["bytes"] == 0 for level in out["memory"]["levels"])


def test_without_ceilings_of_the_gpu_those_of_the_host_are_not_taken():
    made = record(ledger_pass())
    made["machine"]["ceilings"] |= {"gpus": None, "gpus_reason": "no CUDA device"}
    out = account(made, arrays_of)
    mm = _op(out, "aten::mm", "forward")
    assert (mm["bound"], mm["device_time_s"]) == (None, 0.3)
    assert _kernel(out, "[memcpy HtoD]")["bound"] is None
    assert "no ceilings of the GPU: no CUDA device" in out["ledger"]["notes"]
    assert out["memory"]["levels"] == []


def test_device_time_by_shape_follows_what_the_shapes_need():
    small = MM.replace("1000", "500")  # an eighth of the operations
    made = ledger_pass()
    made["ops"]["rows"][0]["shapes"] = [shape(MM, 1, 6_000_000), shape(small, 1, 1_500_000)]
    out = _account(made)
    lines = {op["shape"]: op for op in out["ledger"]["ops"] if op["phase"] == "forward"}
    # 5 calls each: 300 ms as 8 to 1.
    assert lines[MM]["device_time_s"] == pytest.approx(0.3 * 8 / 9)
    assert lines[small]["device_time_s"] == pytest.approx(0.3 / 9)
    assert sum(op["device_time_ns"] for op in lines.values()) == 300 * MS
    made["ops"]["rows"][0]["shapes"][1]["bytes"] = None  # then all that is known is how often
    lines = [op for op in _account(made)["ledger"]["ops"] if op["phase"] == "forward"]
    assert [op["device_time_ns"] for op in lines] == [150 * MS, 150 * MS]


def test_the_headline_is_of_the_device():
    out = _account()
    assert out["headline"]["limits"] == (
        "aten::mm in the backward phase, 39 % of the clock, at 0 % of the measured compute ceiling"
    )
    told = kernels()
    told["devices"][0]["idle"][2]["time_ns"] = 500 * MS
    out = _account(ledger_pass(kernels=told))
    assert out["headline"]["limits"] == "device idle, Python in the backward phase, 50 % of the clock"
    told = kernels()
    told["rows"][3]["share_ns"] = 500 * MS
    assert (
        _account(ledger_pass(kernels=told))["headline"]["limits"]
        == "graph_node in the backward phase, 50 % of the clock"
    )


@pytest.mark.parametrize(
    ("plant", "check", "said"),
    [
        (lambda k: k["rows"][0].update(share_ns=302 * MS), "device busy + idle", "leave -2000000 of 1000000000 ns"),
        (lambda k: k["devices"][0]["idle"][0].update(time_ns=58 * MS), "device busy + idle", "0.200 %"),
        (lambda k: k["rows"][0].update(share_ns=299 * MS), "parts of the device", "shares of the rows"),
        (lambda k: k["devices"][0]["busy"][0].update(time_ns=299 * MS), "parts of the device", "busy time by phase"),
        (lambda k: k["devices"][0]["idle"][0].update(time_ns=61 * MS), "parts of the device", "by cause"),
        (lambda k: k["devices"][0].update(overlap_ns=21 * MS), "parts of the device", "overlap: -1000000 ns"),
        (lambda k: k["devices"][0]["gaps"][1].update(time_ns=219 * MS), "parts of the device", "gaps"),
        (lambda k: k.update(dropped=1), "the kernel recorder lost nothing", "1 of 60 records dropped"),
        (
            lambda k: k.update(late=3, late_ns=2 * MS),
            "the kernel recorder lost nothing",
            "3 came too late, with 0.200 %",
        ),
        (lambda k: k["rows"][1].update(calls=19), "kernel calls a step", "gemm_backward in the backward phase by -0.1"),
    ],
)
def test_planted_faults_are_found(plant, check, said):
    told = kernels()
    plant(told)
    found = _check(_account(ledger_pass(kernels=told), counters_pass()), check)
    assert not found["ok"] and said in found["detail"], found


def test_a_residual_within_a_thousandth_is_let_pass():
    told = kernels()
    told["rows"][0]["share_ns"] -= 900_000
    assert _check(_account(ledger_pass(kernels=told)), "device busy + idle")["ok"]


def test_a_negative_line_is_an_error():
    told = kernels()
    told["rows"][0]["share_ns"] = -1
    with pytest.raises(ValueError, match="negative"):
        _account(ledger_pass(kernels=told))


def test_what_the_recorder_could_not_place_is_said():
    told = kernels() | {"late": 2, "late_ns": 500_000, "unknown": 4, "notes": ["1 other client was seen"]}
    told["rows"][1]["time_ns"] += 500_000  # the late ones have a duration, and no share
    out = _account(ledger_pass(kernels=told))
    assert _check(out, "the kernel recorder lost nothing")["ok"] and _check(out, "parts of the device")["ok"]
    notes = out["ledger"]["notes"]
    assert "2 kernel records came after their time was accounted for: 0.000500 s of device time stand as idle" in notes
    assert any(note.startswith("4 activity records of a kind") for note in notes)
    assert "kernels: 1 other client was seen" in notes
    assert (out["ledger"]["device"]["late"], out["ledger"]["device"]["unknown"]) == (2, 4)


def test_two_devices_have_an_account_each():
    told = kernels()
    second = copy.deepcopy(told["devices"][0]) | {
        "device": 1,
        "busy_ns": 0,
        "overlap_ns": 0,
        "idle_ns": 1000 * MS,
        "busy": [],
    }
    second["idle"] = [{"cause": "ops", "phase": "forward", "time_ns": 1000 * MS}]
    second["gaps"] = [{"up_to_ns": None, "count": 1, "time_ns": 1000 * MS}]
    told["devices"].append(second)
    out = _account(ledger_pass(kernels=told))
    names = [check["name"] for check in out["ledger"]["checks"] if "busy + idle" in check["name"]]
    assert names == [f"device {i} busy + idle = clock within 0.1 %" for i in (0, 1)]
    assert all(check["ok"] for check in out["ledger"]["checks"])
    assert "aten::mm" in out["headline"]["limits"]  # of the device that works


def test_a_window_has_no_device_figures():
    out = account(record(ledger_pass(), counters_pass()), arrays_of, (2, 5))
    ledger = out["ledger"]
    assert ledger["kernels"] == [] and ledger["device"]["available"] is False
    assert ledger["device"]["reason"] == "device figures are of the whole pass only: give no --steps"
    assert f"no device ledger: {ledger['device']['reason']}" in ledger["notes"]
    assert {op["device_time_s"] for op in ledger["ops"]} <= {None}
    assert (out["mfu"]["available"], out["mfu"]["mfu"]) == (False, None)
    assert "host time" in out["headline"]["limits"] or "phase" in out["headline"]["limits"]


def test_traffic_between_host_and_device():
    told = kernels()
    more = {"kind": "memcpy", "grid": None, "block": None, "registers": None, "shared_bytes": None}
    told["rows"] += [
        kernel(
            "[memcpy HtoD]",
            None,
            "other",
            5,
            10,
            10,
            copy={"direction": "HtoD", "pinned": True},
            bytes=200_000_000,
            **more,
        ),
        kernel(
            "[memcpy HtoD]",
            None,
            "other",
            5,
            10,
            10,
            copy={"direction": "HtoD", "pinned": False},
            bytes=50_000_000,
            **more,
        ),
    ]
    held = {
        "device": "cuda:0",
        "allocated_peak_bytes": 5,
        "reserved_peak_bytes": 8,
        "fragmentation_share": 0.375,
        "peak": None,
        "retries": 1,
        "ooms": 0,
        "num_device_alloc": 3,
        "notes": [],
    }
    gpu = _account(ledger_pass(kernels=told, gpu_memory=held))["memory"]["gpu"]
    assert (gpu["available"], gpu["allocated_peak_bytes"], gpu["retries"]) == (True, 5, 1)
    assert [
        (t["direction"], t["pinned"], t["calls"], t["bytes"], t["bandwidth_bytes_per_s"]) for t in gpu["traffic"]
    ] == [
        ("HtoD", True, 15, 1_200_000_000, pytest.approx(20e9)),
        ("HtoD", False, 5, 50_000_000, pytest.approx(5e9)),
    ]
    none = _account(ledger_pass(kernels=None), device="cpu")["memory"]["gpu"]
    assert (none["available"], none["traffic"], none["allocated_peak_bytes"]) == (False, [], None)
    assert none["reason"] and none["traffic_reason"]


def _joules(made=None):
    out = account(record(made or small.sampled_pass()), arrays_of)
    return out, {line["name"]: line for line in out["ledger"]["kernels"]}


def test_joules_of_kernels_by_hand():
    out, lines = _joules()
    power = out["power"]
    assert abs(power["energy_j"] - 379) <= power["bound_j"] < 4
    assert power["kernels_available"] and power["kernels_reason"] is None
    true_j = {"gemm_forward": 180, "gemm_backward": 156, "graph_node": 15, "[memcpy HtoD]": 6}
    for name, joules in true_j.items():
        line = lines[name]
        assert abs(line["joules"] - joules) <= line["bound_j"], name
        assert line["told_apart"] is (name in ("gemm_forward", "gemm_backward"))
    assert lines["gemm_forward"]["bound_j"] < 2
    (others,) = [row for row in power["kernels"] if row["name"] == "other kernels"]
    assert lines["[memcpy HtoD]"]["joules"] == others["energy_j"]  # the only one without a column
    total = sum(line["joules"] for line in lines.values()) + power["no_kernel"]["energy_j"]
    assert total == pytest.approx(power["energy_j"])


def test_sites_of_a_kernel_share_its_joules_by_time():
    told = kernels()
    told["rows"][0] |= {"share_ns": 100 * MS}
    told["rows"].append(told["rows"][0] | {"site": None, "share_ns": 200 * MS})
    out, _ = _joules(small.sampled_pass(kernels=told))
    first, second = (line for line in out["ledger"]["kernels"] if line["name"] == "gemm_forward")
    assert (first["share_s"], second["share_s"]) == (0.2, 0.1)
    assert first["joules"] == pytest.approx(2 * second["joules"])


def test_joules_are_of_the_gpu_that_was_sampled_by_interval():
    told = kernels()
    told["power"] |= {"device": 1}
    _, lines = _joules(small.sampled_pass(kernels=told))
    assert {line["joules"] for line in lines.values()} == {None}
    told["power"] |= {"uuid": "GPU-another"}
    out, lines = _joules(small.sampled_pass(kernels=told))
    assert not out["power"]["kernels_available"] and "none of those" in out["power"]["kernels_reason"]
    assert {line["told_apart"] for line in lines.values()} == {None}


@pytest.mark.parametrize(
    ("power", "reason"),
    [
        (None, "kept no busy time by interval"),
        ({"device": 0, "uuid": None, "names": [], "reason": "the run was longer"}, "the run was longer"),
    ],
)
def test_without_busy_time_by_interval_there_are_no_joules_of_kernels(power, reason):
    out, lines = _joules(small.sampled_pass(kernels=kernels() | {"power": power}))
    assert out["power"]["available"] and reason in out["power"]["kernels_reason"]
    assert {line["joules"] for line in lines.values()} == {None}


def test_a_recorder_that_could_not_start_is_why_there_are_no_joules_of_kernels():
    told = [{"name": "kernel recorder", "available": False, "reason": "another CUPTI client is at work"}]
    out, _ = _joules(small.sampled_pass(kernels=None, instruments=told))
    assert out["power"]["kernels_reason"] == "another CUPTI client is at work"


def test_idle_time_of_no_known_cause_is_told():
    told = kernels()
    told["devices"][0]["idle"][1] |= {"cause": "unknown"}
    out = _account(ledger_pass(kernels=told))
    idle = out["ledger"]["device"]["devices"][0]["idle"]
    assert [(part["phase"], part["time_s"]) for part in idle if part["cause"] == "unknown"] == [("forward", 0.03)]
    assert any(note.startswith("13.6 % of the idle time has no known cause") for note in out["ledger"]["notes"])
    assert not any("no known cause" in note for note in _account()["ledger"]["notes"])


def test_the_made_up_run_has_the_joules_that_were_planted():
    made, arrays = gpu_records.gpu_record()
    out = account(made, arrays)
    power, planted = out["power"], gpu_schedule.watts_of
    assert power["kernels_available"]
    named = [row for row in power["kernels"] if row["name"] != "other kernels"]
    assert len(named) == gpu_records.NAMED
    for row in named:
        assert row["low_j"] <= planted(row["name"]) * row["time_s"] <= row["high_j"]
    other_j = sum(
        planted(line["name"]) * line["share_s"]
        for line in out["ledger"]["kernels"]
        if line["name"] not in {row["name"] for row in named}
    )
    (others,) = [row for row in power["kernels"] if row["name"] == "other kernels"]
    assert others["low_j"] <= other_j <= others["high_j"]
    total = sum(line["joules"] for line in out["ledger"]["kernels"]) + power["no_kernel"]["energy_j"]
    assert total == pytest.approx(power["energy_j"])
    assert power["above_idle_j"] == pytest.approx(power["energy_j"] - 92.0 * out["ledger"]["clock_s"])
    assert power["perf_per_watt"]["flops_per_j"] == pytest.approx(
        power["perf_per_watt"]["samples_per_j"] * out["mfu"]["model_flops_per_sample"]
    )


def test_the_made_up_run_passes_every_check():
    made, arrays = gpu_records.gpu_record()
    out = account(made, arrays)
    assert [check for check in out["ledger"]["checks"] if not check["ok"]] == []
    assert out["mfu"]["available"] and 0.2 < out["mfu"]["mfu"] < 1 and out["mfu"]["recomputed_flops"]
    device = out["ledger"]["device"]["devices"][0]
    assert sum(line["share_s"] for line in out["ledger"]["kernels"]) == pytest.approx(device["busy_s"])
    assert sum(part["time_s"] for part in device["idle"]) == pytest.approx(device["idle_s"])
    on_device = sum(op["device_time_s"] for op in out["ledger"]["ops"])
    outside = sum(line["share_s"] for line in out["ledger"]["kernels"] if line["aten"] is None)
    assert on_device + outside == pytest.approx(device["busy_s"])
    assert json.loads(json.dumps(out)) == out


FROM_BEFORE = [path for path in sorted(ROOT.glob("bench/results/*/*/record.json"))
               if json.loads(path.read_text())["schema"] < 3]  # fmt: skip


@pytest.mark.parametrize("folder", FROM_BEFORE, ids=lambda path: path.parent.name)
def test_records_from_before_are_read(folder):
    made = records.load(folder.parent)
    assert made.schema == records.SCHEMA and {"timeline", "counters"} <= made.wanted.keys()
    out = account(dataclasses.asdict(made), functools.partial(records.arrays_of, folder.parent))
    assert out["ledger"]["kernels"] == [] and out["ledger"]["device"]["reason"]
    assert {op["device_time_s"] for op in out["ledger"]["ops"]} == {None}
    assert out["memory"]["gpu"]["reason"] and out["memory"]["counters"]["reason"]
    # Both ways to run llama need the same operations, whatever they compute again and in which kernels.
    wanted = {"llama-tiny": 529_526_784, "llama-tiny-native": 529_526_784}.get(folder.parent.name)
    assert out["mfu"]["available"] and 0.2 < out["mfu"]["mfu"] < 1
    assert wanted is None or out["mfu"]["model_flops_per_sample"] == wanted


def test_reading_it_loads_no_torch():
    code = (
        "import sys; sys.path.insert(0, 'tests'); import small_gpu_record as s; from perfsuite.ledger import account;"
        "account(s.record(), s.arrays_of); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def _mfu(passes=(), device="cuda", costs=None, rows=None, **more):
    """Of the record, its graph outside the training phases."""
    told = kernels()
    told["rows"][3]["phase"] = "other"
    made = ledger_pass(kernels=told, op_costs=costs) | more
    made["ops"]["rows"] += rows or []
    return account(record(made, *passes, device=device), arrays_of)["mfu"]


def test_model_flops_utilisation_by_hand():
    mfu = _mfu([small.clean_pass()])
    # 30 products of 2 G operations over 40 samples; the clean pass took 800 ms.
    assert mfu["model_flops_per_sample"] == 30 * 2e9 / 40
    assert mfu["achieved_flops_per_s"] == pytest.approx(60e9 / 0.8)
    assert (mfu["peak_flops_per_s"], mfu["dtype"], mfu["unknown_share"]) == (100e12, "bf16", 0.0)
    assert mfu["mfu"] == pytest.approx(60e9 / 0.8 / 100e12)
    assert (mfu["time_s"], mfu["time_source"]) == (0.8, "the clean pass of the same seed")
    alone = _mfu([small.clean_pass(seed=2)])
    assert (alone["time_s"], alone["time_source"]) == (1.0, "this ledger pass")
    evaluated = small.clean_pass()
    evaluated["phases"].append({"name": "evaluation", "time_ns": 200 * MS, "op_ns": 0, "host_ns": 200 * MS, "calls": 1})
    assert _mfu([evaluated])["time_s"] == pytest.approx(0.6)


def test_operations_that_nobody_counted_leave_the_utilisation_unknown():
    # 50 of 740 ms of forward and backward were launched by a graph, outside all ops.
    mfu = _account()["mfu"]
    assert (mfu["mfu"], mfu["unknown_share"]) == (None, pytest.approx(50 / 740))
    assert (
        mfu["reason"] == "the operations of ops with 7 % of the time of forward and backward are not known (limit 5 %)"
    )
    own = small.BACKWARD | {"name": "mine::attention", "calls": 1, "total_ns": 0, "self_ns": 0}
    own["shapes"] = [shape("bf16[4] -> bf16[4]", 1, 16)]
    mfu = _mfu(kernels=None, rows=[own | {"self_ns": 100 * MS}])  # by the host's time: 100 of 600 ms
    assert (mfu["mfu"], mfu["unknown_share"]) == (None, pytest.approx(100 / 600))
    assert "no op recorder" in _account(small.clean_pass())["mfu"]["reason"]


def test_what_is_computed_again_is_not_the_models():
    again = {"calls": 10, "total_ns": 0, "self_ns": 0, "shapes": [shape(MM, 1, 6_000_000)]}
    rows = [small.FORWARD | {"phase": "backward", "thread": "other"} | again]
    mfu = _mfu(rows=rows)
    assert (mfu["model_flops_per_sample"], mfu["recomputed_flops"]) == (30 * 2e9 / 40, 10 * 2_000_000_000)
    # A convolution of the forward is told by its name, whatever direction the record gives it.
    conv = "f32[1,1,8,8] f32[1,1,1,1] -> f32[1,1,8,8]"
    rows = [small.BACKWARD | {"name": "aten::cudnn_convolution"} | again | {"shapes": [shape(conv, 1, 516)]}]
    assert _mfu(rows=rows)["recomputed_flops"] == 10 * 2 * 64
    # Fused attention: of the five products of its backward, the first is the forward's.
    heads = "bf16[1,4,1,2] " * 5 + "-> bf16[1,4,1,2] is_causal=0"
    rows = [small.BACKWARD | {"name": "aten::_flash_attention_backward"} | again | {"shapes": [shape(heads, 1, 96)]}]
    mfu = _mfu(rows=rows)
    each = 2 * 4 * 4 * 2
    assert mfu["recomputed_flops"] == 10 * each
    assert mfu["model_flops_per_sample"] == (30 * 2e9 + 10 * 4 * each) / 40


def test_evaluation_is_not_training():
    more = {"calls": 10, "total_ns": 0, "self_ns": 0, "shapes": [shape(MM, 1, 6_000_000)]}
    rows = [small.FORWARD | {"phase": "evaluation", "direction": "none"} | more]
    assert _mfu(rows=rows)["model_flops_per_sample"] == 30 * 2e9 / 40


def test_a_suite_op_counts_as_it_declares():
    rows = [
        small.BACKWARD
        | {
            "name": "perfsuite::fused",
            "op": "fused=cuda",
            "calls": 10,
            "total_ns": 0,
            "self_ns": 0,
            "shapes": [shape("bf16[4] -> bf16[4]", 1, 16)],
        },
        small.BACKWARD
        | {"op": "fused=cuda", "calls": 10, "total_ns": 0, "self_ns": 0, "shapes": [shape(MM, 1, 6_000_000)]},
    ]
    costs = [
        {"region": "fused=cuda", "signature": "bf16[4] grad", "calls": 10, "bytes": 0, "flops": 1000},
        {"region": "fused=cuda", "signature": "bf16[4]", "calls": 99, "bytes": 0, "flops": 300},  # of the evaluations
    ]
    assert _mfu(costs=costs, rows=rows)["model_flops_per_sample"] == (30 * 2e9 + 10 * 1000) / 40
    # Where its forward ran again it was declared twice: then what was seen is counted.
    rows.append(
        small.FORWARD
        | {
            "phase": "backward",
            "op": "fused=cuda",
            "calls": 1,
            "total_ns": 0,
            "self_ns": 0,
            "shapes": [shape(MM, 1, 6_000_000)],
        }
    )
    assert _mfu(costs=costs, rows=rows)["model_flops_per_sample"] == 40 * 2e9 / 40


def test_the_peak_is_that_of_the_device_and_dtype():
    half = MM.replace("bf16", "f16")
    made = ledger_pass(kernels=None)
    for row in made["ops"]["rows"][:2]:
        row["shapes"] = [shape(half, 1, 6_000_000)]
    mfu = _account(made)["mfu"]
    assert (mfu["mfu"], mfu["dtype"]) == (None, "f16")
    assert mfu["reason"] == "no matrix product in float16 was measured: it was not tried"
    for row in made["ops"]["rows"][:2]:
        row["shapes"] = [shape(MM.replace("bf16", "f32"), 1, 12_000_000)]
    assert _account(made)["mfu"]["peak_flops_per_s"] == 10e12
    assert _account(made, device="cpu")["mfu"]["peak_flops_per_s"] == 1e9
    unmeasured = account(record(made, machine={"ceilings": None, "ceilings_reason": "nobody did"}), arrays_of)["mfu"]
    assert (unmeasured["peak_flops_per_s"], unmeasured["reason"]) == (None, "no measured peak: nobody did")
    assert unmeasured["model_flops_per_sample"] == 30 * 2e9 / 40
