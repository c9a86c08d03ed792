"""The account of hand-written records: its sums recomputed by hand, what it refuses, and what it leaves unknown."""

import copy
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsuite import _native
from perfsuite.headline import answer
from perfsuite.ledger import account

MS = 1_000_000
PHASES = ["data", "forward", "backward", "other"]
MM = "f32[512,512] f32[512,512] -> f32[512,512]"  # 3 MiB touched, 2^28 flops
ADD = "f32[1024] f32[1024] -> f32[1024]"  # 12 KiB touched


def _row(name, phase, calls, self_ns, shapes, **more):
    row = {"name": name, "direction": "forward", "op": "", "module": "layers.0", "phase": phase, "thread": "clock",
           "calls": calls, "total_ns": self_ns, "self_ns": self_ns, "shapes": shapes}  # fmt: skip
    return row | more


def _shape(signature, sampled_calls, sampled_self_ns, bytes_, footprint_bytes=None):
    return {"signature": signature, "sampled_calls": sampled_calls, "sampled_self_ns": sampled_self_ns,
            "bytes": bytes_, "footprint_bytes": bytes_ if footprint_bytes is None else footprint_bytes}  # fmt: skip


def _phase(name, time_ms, op_ms, calls):
    return {"name": name, "time_ns": time_ms * MS, "op_ns": op_ms * MS, "host_ns": (time_ms - op_ms) * MS,
            "calls": calls}  # fmt: skip


def _pass(kind="ledger", **more):
    """1000 ms: data 100, forward 500, backward 390, other 5, unattributed 5."""
    rows = [
        _row("aten::mm", "forward", 10, 400 * MS, [_shape(MM, 2, 80 * MS, 3 << 20)]),
        _row("aten::add", "backward", 30, 240 * MS,
             [_shape(ADD, 4, 10 * MS, 12288), _shape(MM.replace("512", "64"), 2, 30 * MS, 49152)]),
        _row("aten::t", "forward", 7, 1 * MS, [_shape("f32[8,8] -> f32[8,8]", 1, 100, 0)]),
        _row("aten::odd", "backward", 1, 10 * MS, [_shape("f32[8] -> f32[8]", 1, 10 * MS, None)]),
        _row("aten::copy_", "backward", 5, 33 * MS, [], thread="other"),
    ]  # fmt: skip
    made = {
        "kind": kind, "index": 0, "seed": 1, "state": "done", "error": None, "stop_reason": "target", "reached": True,
        "quality": 2.3, "samples": 400, "num_steps": 4, "clock_ns": 1000 * MS, "start_ns": 5000 * MS,
        "init_ns": 2000 * MS, "init_excess_ns": 0,
        "init": {"build_ns": 1500 * MS, "compile_ns": None, "warmup_ns": 500 * MS},
        "epoch_minus_monotonic_ns": 0, "evaluations": [{"samples": 400, "quality": 2.3, "t_ns": 990 * MS}],
        "losses": [[100, 3.0], [200, 2.5]], "log": "result_0.txt", "yardstick": {},
        "phases": [_phase("data", 100, 0, 4), _phase("forward", 500, 401, 4), _phase("backward", 390, 250, 4),
                   _phase("other", 5, 0, 9)],
        "ops": {"rows": rows, "sampled_steps": 1, "every": 4, "dropped_rows": 0,
                "top_level_ns": 651 * MS, "events": 48},
        "allocator": None, "page_faults": {"minor": 3, "major": 0}, "rss_peak_bytes": 1 << 28, "sampler": None,
        "instruments": [{"name": "sampler", "available": False, "reason": "switched off"}],
        "arrays": "pass.npz", "overhead": None, "compiled_regions": 0,
    }  # fmt: skip
    return made | more


def _record(*passes, ceilings=None):
    return {
        "schema": 1, "id": "0001-x", "kind": "run", "created": "2026-01-01T00:00:00", "command": ["perfsuite"],
        "commit": None, "perfsuite_version": "0", "workload": "llama", "scale": "tiny", "device": "cpu",
        "division": "open", "use": {}, "config": {},
        "target": {"metric": "loss", "unit": "nats per byte", "value": 2.4, "higher_is_better": False},
        "schedule": {"eval_every_samples": 100}, "num_runs": 5,
        "machine": {"fingerprint": {}, "ceilings": ceilings,
                    "ceilings_reason": None if ceilings else "not measured: perfsuite machine"},
        "passes": list(passes),
    }  # fmt: skip


def _arrays(**more):
    """Four steps of 240 ms after 40 ms; each 20 data (30 first), 120 forward, 95 backward; marks at 0, 2 and 4."""
    table = np.zeros((5, 4), np.int64)
    table[0] = [20 * MS, 20 * MS, 0, 0]
    table[1:] = [20 * MS, 120 * MS, 97 * MS, 1 * MS]
    made = {
        "step_table": table,
        "step_starts": np.array([5040 + 240 * i for i in range(4)], np.int64) * MS,
        "timeline": np.zeros((0, 3), np.int64),
        "ops_mark_steps": np.array([0, 2, 4]),
        "ops_self_ns": np.array([[0] * 5, [200, 100, 0, 10, 10], [400, 240, 1, 10, 33]]) * MS,
        "ops_calls": np.array([[0] * 5, [5, 15, 3, 1, 2], [10, 30, 7, 1, 5]]),
    }
    return lambda name: made | more


def _check(out, name):
    return next(check for check in out["ledger"]["checks"] if check["name"].startswith(name))


def _op(out, name):
    return next(op for op in out["ledger"]["ops"] if op["name"] == name)


def _rate(ceiling):
    """Quartiles 5 % apart."""
    return {"ceiling": ceiling, "median": 0.97 * ceiling, "lo": 0.95 * ceiling, "hi": ceiling, "samples": [ceiling]}


def _ceilings(**more):
    def level(name, capacity_bytes, read, write, copy_, triad):
        rates = {"read": read, "write": write, "copy": copy_, "triad": triad}
        entry = {f"{kernel}_bytes_per_s": _rate(value) for kernel, value in rates.items()}
        return {"name": name, "capacity_bytes": capacity_bytes, "latency_ns": _rate(1.0)} | entry

    made = {
        "levels": [level("L1", 32768, 400e9, 200e9, 300e9, 350e9), level("L2", 1 << 20, 200e9, 100e9, 150e9, 175e9),
                   level("memory", None, 20e9, 8e9, 15e9, 18e9) | {"streaming_write_bytes_per_s": _rate(10e9)}],
        "gemm_flops_per_s": {"float32": _rate(100e9), "bfloat16": None}, "op_overhead_ns": _rate(1000.0),
    }  # fmt: skip
    return made | more


def test_lines_add_up_to_the_clock():
    out = account(_record(_pass()), _arrays())
    ledger = out["ledger"]
    assert ledger["clock_s"] == 1.0
    assert [(p["name"], p["time_s"], p["ops_s"], p["host_s"], p["calls"]) for p in ledger["phases"]] == [
        ("data", 0.1, 0.0, 0.1, 4),
        ("forward", 0.5, 0.401, 0.099, 4),
        ("backward", 0.39, 0.25, 0.14, 4),
        ("other", 0.005, 0.0, 0.005, 9),
    ]
    assert ledger["unattributed_s"] == 0.005
    assert sum(p["time_ns"] for p in ledger["phases"]) + ledger["unattributed_ns"] == ledger["clock_ns"]
    assert ledger["residuals"] == {"unattributed_share": 0.005, "other_share": 0.005}
    assert all(check["ok"] for check in ledger["checks"]), ledger["checks"]
    assert json.loads(json.dumps(out)) == out


def test_ops_are_split_by_shape_and_keep_their_sums():
    out = account(_record(_pass()), _arrays())
    add = sorted((op for op in out["ledger"]["ops"] if op["name"] == "aten::add"), key=lambda op: op["shape"])
    # 30 calls in 240 ms; sampled 4 calls in 10 ms of one shape, 2 in 30 ms of the other.
    assert [(op["calls"], op["self_time_s"], op["bytes"]) for op in add] == [
        (20, 0.060, 20 * 12288),
        (10, 0.180, 10 * 49152),
    ]
    assert all(op["estimated"] for op in add)
    assert any("estimated" in note for note in out["ledger"]["notes"])
    mm = _op(out, "aten::mm")
    assert (mm["flops"], mm["gflops_per_s"]) == (10 * 2**28, pytest.approx(10 * 2**28 / 0.4 / 1e9))


def test_unknown_is_null_and_nothing_moved_is_zero():
    out = account(_record(_pass()), _arrays())
    odd, view, other = _op(out, "aten::odd"), _op(out, "aten::t"), _op(out, "aten::copy_")
    assert (odd["bytes"], odd["flops"], odd["gbytes_per_s"]) == (None, None, None)
    assert (view["bytes"], view["flops"]) == (0, 0)
    assert (other["bytes"], other["shape"], other["thread"]) == (None, None, "other")
    assert _op(out, "aten::add")["flops"] is None
    assert {op["bound"] for op in out["ledger"]["ops"]} == {None}  # no ceilings
    assert any(note.startswith("no ceilings: not measured") for note in out["ledger"]["notes"])
    # 10 ms of odd and 33 of copy_ in 684 ms of op time.
    assert "bytes are unknown for ops with 6.3 % of the op time" in out["ledger"]["notes"]
    assert (out["memory"]["peak_bytes"], out["memory"]["levels"]) == (None, [])
    assert out["power"]["reason"] == "switched off" and out["power"]["energy_j"] is None
    assert "--host-stacks" in out["host"]["reason"]


def test_roofline_by_hand():
    out = account(_record(_pass(), ceilings=_ceilings()), _arrays())
    mm = _op(out, "aten::mm")
    # A third of the bytes is written: triad. 10 calls of 3 MiB at 18 GB/s are 1.7 ms, 2.7 Gflop at 100 Gflop/s 26.8 ms.
    assert (mm["level"], mm["bound"]) == ("memory", "compute")
    assert mm["share_of_ceiling"] == pytest.approx(10 * 2**28 / 100e9 / 0.4)
    add = {op["shape"]: op for op in out["ledger"]["ops"] if op["name"] == "aten::add"}
    # 20 calls of 12 KiB in L1 at triad's 350 GB/s take 0.7 us, and 20 us of overhead.
    assert (add[ADD]["level"], add[ADD]["bound"]) == ("L1", "overhead")
    assert add[ADD]["share_of_ceiling"] == pytest.approx(20 * 12288 / 350e9 / 0.060)
    assert add[MM.replace("512", "64")]["level"] == "L2"
    assert _op(out, "aten::t")["share_of_ceiling"] is None
    assert _op(out, "aten::odd")["bound"] is None
    levels = {level["name"]: level for level in out["memory"]["levels"]}
    assert levels["memory"]["bytes"] == 10 * (3 << 20)
    assert levels["memory"]["achieved_bytes_per_s"] == pytest.approx(10 * (3 << 20) / 0.4)
    assert levels["L2"]["bandwidth_bytes_per_s"] == pytest.approx(150e9)
    assert {level["source"] for level in levels.values()} == {"modelled"}
    assert out["headline"]["limits"] == (
        "aten::mm in the forward phase, 40 % of the clock, at 7 % of the measured compute ceiling"
    )


def test_the_bandwidth_follows_the_mix_of_reads_and_writes():
    shapes = [_shape("f32[1048576] -> f32[]", 1, 100, 4 << 20), _shape("f32[] -> f32[1048576]", 1, 100, 4 << 20)]
    rows = [
        _row("aten::sum", "forward", 1, 401 * MS, shapes[:1]),
        _row("aten::fill_", "backward", 1, 250 * MS, shapes[1:]),
    ]
    out = account(_record(_pass(ops=_pass()["ops"] | {"rows": rows}), ceilings=_ceilings()), _arrays())
    # 4 MiB are in memory but for the 1 MiB that L2 holds: no cliff between 1 MiB and a little more.
    assert _op(out, "aten::sum")["least_time_s"] == pytest.approx((3 << 20) / 20e9 + (1 << 20) / 200e9, rel=1e-5)
    assert _op(out, "aten::fill_")["least_time_s"] == pytest.approx((3 << 20) / 10e9 + (1 << 20) / 100e9, rel=1e-5)


def test_an_op_faster_than_light_is_reported_and_not_clipped():
    out = account(_record(_pass(), ceilings=_ceilings(gemm_flops_per_s={"float32": _rate(5e9)})), _arrays())
    assert _op(out, "aten::mm")["share_of_ceiling"] == pytest.approx(10 * 2**28 / 5e9 / 0.4)  # 1.34
    check = _check(out, "no op is faster")
    assert not check["ok"] and "aten::mm" in check["detail"] and "1.34 times" in check["detail"]
    within = _ceilings(gemm_flops_per_s={"float32": _rate(6.5e9)})  # 1.03, within the spread
    assert _check(account(_record(_pass(), ceilings=within), _arrays()), "no op is faster")["ok"]


def test_no_peak_for_a_dtype_leaves_the_bound_open():
    out = account(_record(_pass(), ceilings=_ceilings(gemm_flops_per_s={})), _arrays())
    assert (_op(out, "aten::mm")["bound"], _op(out, "aten::mm")["share_of_ceiling"]) == (None, None)


def test_attention_whose_mask_is_unknown_has_no_bound():
    name, shape = "aten::_scaled_dot_product_flash_attention_for_cpu", "f32[2,3,16,8] f32[2,3,16,8] f32[2,3,16,8]"
    for suffix, bound in (("", None), (" causal=1", "compute")):
        rows = [_row(name, "forward", 1, 401 * MS, [_shape(f"{shape} -> f32[2,3,16,8]{suffix}", 1, 100, 12288)])]
        record = _record(_pass(ops=_pass()["ops"] | {"rows": rows}), ceilings=_ceilings(op_overhead_ns=None))
        out = account(record, _arrays())
        assert (_op(out, name)["bound"], _op(out, name)["level"]) == (bound, "L1")
        expected = "counts half" if suffix else "flops of attention are unknown"
        assert any(expected in note for note in out["ledger"]["notes"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p["phases"][1].update(time_ns=-1),
        lambda p: p["phases"][1].update(host_ns=-1),
        lambda p: p["phases"][1].update(time_ns=506 * MS),  # more than the clock: unattributed below zero
        lambda p: p["ops"]["rows"][0].update(self_ns=-5),
        lambda p: p["ops"]["rows"][0].update(calls=-5),
        lambda p: p.update(clock_ns=None),
    ],
)
def test_a_negative_line_is_an_error(damage):
    broken = _pass()
    damage(broken)
    with pytest.raises(ValueError, match=r"negative|whole number"):
        account(_record(broken), _arrays())


def test_checks_fail_where_the_timers_disagree():
    broken = _pass()
    broken["phases"][1].update(op_ns=405 * MS, host_ns=95 * MS)
    broken["phases"][2].update(host_ns=139 * MS)
    broken["ops"].update(dropped_rows=2, top_level_ns=652 * MS)
    broken["phases"][0]["time_ns"] -= 30 * MS
    broken["phases"][0]["host_ns"] -= 30 * MS
    out = account(_record(broken), _arrays())
    assert {check["name"] for check in out["ledger"]["checks"] if not check["ok"]} == {
        "other + unattributed under 2 %",
        "self times of the ops = op time of their phase",
        "self times of the ops = time of the outermost ones",
        "ops + host = phase",
        "the recorder dropped nothing",
    }
    assert "-4000000 ns, in phase 'forward'" in _check(out, "self times")["detail"]


def test_losses_are_compared_with_the_clean_pass_of_the_same_seed():
    same = _pass("clean", ops=None, clock_ns=980 * MS)
    other = _pass("clean", ops=None, seed=2, losses=[[100, 9.0]])
    out = account(_record(other, same, _pass()), _arrays())
    assert _check(out, "losses")["ok"]
    assert any("1.020 times the clean pass" in note for note in out["ledger"]["notes"])
    parted = _pass("clean", ops=None, losses=[[100, 3.0], [200, 2.5000001]])
    check = _check(account(_record(parted, _pass()), _arrays()), "losses")
    assert not check["ok"] and "part at 200 samples" in check["detail"]
    nan = {"losses": [[100, math.nan]]}
    assert _check(account(_record(_pass("clean", **nan), _pass(**nan)), _arrays()), "losses")["ok"]
    alone = account(_record(other, _pass()), _arrays())
    assert any("none with seed 1" in note for note in alone["ledger"]["notes"])


def test_a_clean_pass_gives_phases_only():
    failed = _pass(state="failed", error="out of memory")
    out = account(_record(_pass("clean", ops=None), failed), _arrays())
    assert out["ledger"]["pass_kind"] == "clean" and out["ledger"]["ops"] == []
    assert {p["ops_s"] for p in out["ledger"]["phases"]} == {None}
    assert any("without an op recorder" in note for note in out["ledger"]["notes"])
    assert out["notes"] == ["ledger pass 0 (seed 1) failed: out of memory"]
    assert out["headline"]["limits"] == "the forward phase, 50 % of the clock"


def test_a_record_without_a_finished_pass_says_so():
    out = account(_record(_pass("clean", state="failed", error="killed")), _arrays())
    assert out["ledger"] is None and "no pass of this record has finished" in out["notes"][0]


def test_a_compiled_region_hides_its_ops():
    rows = _pass()["ops"]["rows"]
    rows[0].update(name="Torch-Compiled Region: 0/0")
    rows[1].update(op="cross_entropy=compile")
    out = account(_record(_pass(ops=_pass()["ops"] | {"rows": rows}), ceilings=_ceilings()), _arrays())
    hidden = [op for op in out["ledger"]["ops"] if op["hidden"]]
    assert {(op["name"], op["op"], op["impl"]) for op in hidden} == {
        ("Torch-Compiled Region: 0/0", None, None),
        ("aten::add", "cross_entropy", "compile"),
    }
    assert {op["bytes"] for op in hidden} == {op["bound"] for op in hidden} == {None}
    assert any(note.startswith("a compiled region hides its ops: 93.6 %") for note in out["ledger"]["notes"])
    unseen = account(_record(_pass(compiled_regions=2)), _arrays())
    assert any(note.startswith("a compiled region hides its ops") for note in unseen["ledger"]["notes"])
    assert not any("compiled" in note for note in account(_record(_pass()), _arrays())["ledger"]["notes"])


def test_a_wrapper_does_not_count_its_childs_work_again():
    signature = "f32[2,4,16,16] f32[6,4,3,3] -> f32[2,6,14,14]"
    rows = [_row("aten::convolution", "forward", 2, 1 * MS, [_shape(signature, 1, 100, 0)]),
            _row("aten::mkldnn_convolution", "forward", 2, 400 * MS, [_shape(signature, 1, 100, 32768)])]  # fmt: skip
    out = account(_record(_pass(ops=_pass()["ops"] | {"rows": rows})), _arrays())
    assert _op(out, "aten::convolution")["flops"] == 0
    assert _op(out, "aten::mkldnn_convolution")["flops"] == 2 * (2 * 2 * 6 * 196 * 4 * 9)


def test_the_suites_own_ops_bring_their_cost():
    shape = _shape("f32[64] -> f32[64]", 1, 1 * MS, 999) | {"cost": {"bytes": 512, "flops": 128}}
    rows = [_row("perfsuite::rms_norm", "forward", 3, 401 * MS, [shape], op="rms_norm=cpp")]
    op = _op(account(_record(_pass(ops=_pass()["ops"] | {"rows": rows})), _arrays()), "perfsuite::rms_norm")
    assert (op["bytes"], op["flops"], op["op"], op["impl"]) == (3 * 512, 3 * 128, "rms_norm", "cpp")


def test_a_window_on_the_marks_is_exact():
    out = account(_record(_pass()), _arrays(), (2, 4))
    ledger = out["ledger"]
    assert (ledger["window"]["first_step"], ledger["window"]["last_step"], ledger["window"]["snapped"]) == (2, 3, False)
    # From step 2's begin at 5520 ms to the end of the pass at 6000.
    assert ledger["clock_s"] == 0.48
    forward = next(p for p in ledger["phases"] if p["name"] == "forward")
    assert (forward["time_s"], forward["ops_s"], forward["host_s"]) == (0.240, 0.201, 0.039)
    assert forward["calls"] is None
    assert ledger["unattributed_ns"] == 480 * MS - 2 * (20 + 120 + 97 + 1) * MS
    assert _op(out, "aten::mm")["calls"] == 5 and _op(out, "aten::mm")["self_time_s"] == 0.2
    assert any("not checked: in a window" in note for note in ledger["notes"])
    assert all(check["ok"] for check in ledger["checks"])


def test_a_window_between_marks_snaps_its_ops_outward():
    ledger = account(_record(_pass()), _arrays(), (1, 2))["ledger"]
    assert (ledger["window"]["snapped"], ledger["window"]["ops_first_step"], ledger["window"]["ops_last_step"]) == (
        True,
        0,
        1,
    )
    assert ledger["clock_s"] == 0.24
    forward = next(p for p in ledger["phases"] if p["name"] == "forward")
    # Ops have 200 of the 240 ms of forward in steps 0 and 1, so 100 of this step's 120.
    assert (forward["time_s"], forward["ops_s"], forward["host_s"]) == (0.120, 0.100, 0.020)


def test_windows_that_are_not_there():
    for window in ((0, 5), (2, 2), (-1, 2), (3, 1)):
        with pytest.raises(ValueError, match="not within the 4 steps"):
            account(_record(_pass()), _arrays(), window)
    late = account(_record(_pass()), _arrays(ops_mark_steps=np.array([0, 1, 2])), (2, 4))["ledger"]
    assert late["ops"] == [] and "last mark is before step 4" in late["window"]["note"]
    clean = account(_record(_pass("clean", ops=None)), _arrays(), (2, 4))["ledger"]
    assert clean["clock_s"] == 0.48 and clean["ops"] == []


def test_a_window_before_the_first_mark_takes_in_what_came_before_the_first_step():
    arrays = _arrays(ops_mark_steps=np.array([1, 2, 4]))
    ledger = account(_record(_pass()), arrays, (0, 2))["ledger"]
    assert ledger["window"]["snapped"] and "what came before it" in ledger["window"]["note"]
    forward = next(p for p in ledger["phases"] if p["name"] == "forward")
    assert forward["time_s"] == 0.24  # exact all the same: only the split is of the longer stretch
    assert forward["ops_s"] == pytest.approx(0.24 * 200 / 260)


def test_host_stacks_are_those_of_their_own_pass():
    stacks = {"reason": None, "rows": [{"phase": "forward", "function": "f", "time_s": 0.1}], "clock_bound_s": 0.001}
    out = account(_record(_pass(), _pass("host_stacks", host_stacks=stacks)), _arrays())["host"]
    assert out == {"available": True, "reason": None, "functions": stacks["rows"], "clock_bound_s": 0.001}
    none = {"reason": "py-spy left no samples", "rows": []}
    out = account(_record(_pass(), _pass("host_stacks", host_stacks=none)), _arrays())["host"]
    assert (out["available"], out["reason"], out["functions"]) == (False, "py-spy left no samples", [])


def test_the_allocators_account_is_passed_on():
    allocator = {"peak_bytes": 5, "current_bytes": 1, "churn_bytes": 9, "allocations": 2, "phases": []}
    memory = account(_record(_pass(allocator=allocator)), _arrays())["memory"]
    assert (memory["peak_bytes"], memory["churn_bytes"], memory["allocations"]) == (5, 9, 2)
    assert memory["peak_reason"] is None and memory["page_faults"] == {"minor": 3, "major": 0}


def test_series_are_rates_and_means_and_thinned():
    n = 5001
    sampler = {"columns": ["cpu_user_s", "cpu_system_s", "rss_bytes", "gpu0_power_instant_w"],
               "units": {"cpu_user_s": "s", "cpu_system_s": "s", "rss_bytes": "B", "gpu0_power_instant_w": "W"},
               "absent": {"gpu0_power_instant_w": "no GPU", "gpu": "no driver"}}  # fmt: skip
    t_ns = 5000 * MS + np.arange(n, dtype=np.int64) * 10 * MS
    values = np.stack([np.arange(n) * 0.015, np.arange(n) * 0.005, np.full(n, 3e8), np.full(n, np.nan)], axis=1)
    values[2000:2100, 2] = np.nan
    arrays = _arrays(sampler_t_ns=t_ns, sampler_values=values)
    from perfsuite.account_blocks import series

    out = series(_pass(sampler=sampler), arrays("pass.npz"))
    assert 500 < len(out["t_s"]) <= 600 and out["t_s"] == sorted(out["t_s"])
    assert out["columns"]["cpu_cores"] == pytest.approx([2.0] * len(out["t_s"]))
    assert {value for value in out["columns"]["rss_mb"]} == {None, 300.0}
    assert out["units"] == {"cpu_cores": "cores", "rss_mb": "MB"}
    assert out["absent"] == {"gpu0_power_instant_w": "no GPU", "gpu": "no driver"}


@given(st.data())
def test_random_nestings_keep_every_sum(data):
    """A random program of nested phases and ops, timed by hand as the instruments do, accounts for every nanosecond."""
    names = ["data", "forward", "backward", "other"]
    totals = {name: [0, 0, 0] for name in names}  # time, op, host
    rows: dict[tuple[str, str], int] = {}
    unattributed = 0
    spans = st.integers(0, 10**9)

    def run(phase, depth):
        nonlocal unattributed
        for _ in range(data.draw(st.integers(0, 3))):
            kind = data.draw(st.sampled_from(["wait", "op", "phase"]))
            if kind == "phase" and depth < 4:
                run(data.draw(st.sampled_from(names)), depth + 1)
                continue
            ns = data.draw(spans)
            if phase is None:
                unattributed += ns
                continue
            totals[phase][0] += ns
            totals[phase][1 if kind == "op" else 2] += ns
            if kind == "op":
                key = (data.draw(st.sampled_from(["aten::a", "aten::b"])), phase)
                rows[key] = rows.get(key, 0) + ns

    run(None, 0)
    clock_ns = unattributed + sum(time for time, _, _ in totals.values())
    shapes = [_shape("f32[1] -> f32[1]", data.draw(st.integers(0, 5)), data.draw(spans), 8) for _ in range(3)]
    pass_ = _pass(
        clock_ns=clock_ns,
        phases=[
            dict(zip(("name", "time_ns", "op_ns", "host_ns", "calls"), (n, *totals[n], 1), strict=True)) for n in names
        ],
        ops=_pass()["ops"] | {"rows": [_row(n, p, 17, ns, copy.deepcopy(shapes)) for (n, p), ns in rows.items()]},
    )
    ledger = account(_record(pass_, ceilings=_ceilings()), _arrays())["ledger"]
    assert ledger["unattributed_ns"] == unattributed
    assert sum(p["time_ns"] for p in ledger["phases"]) + ledger["unattributed_ns"] == clock_ns
    for check in ("phases + unattributed", "self times", "ops + host"):
        assert _check({"ledger": ledger}, check)["ok"]
    for (name, phase), ns in rows.items():
        found = [op for op in ledger["ops"] if (op["name"], op["phase"]) == (name, phase)]
        assert sum(op["self_time_ns"] for op in found) == ns
        assert sum(op["calls"] for op in found) == 17


def test_the_phase_clocks_own_totals_are_accepted():
    clock = _native.PhaseClock(PHASES)
    forward, data = clock.phase("forward"), clock.phase("data")
    start_ns = clock.start()
    for _ in range(50):
        clock.begin_step()
        with forward, data:
            pass
    clock.stop()
    pass_ = _pass("clean", ops=None, clock_ns=clock.elapsed_ns, start_ns=start_ns, phases=clock.totals(), num_steps=50)
    arrays = _arrays(step_table=clock.step_table(), step_starts=clock.step_starts())
    whole = account(_record(pass_), arrays)["ledger"]
    assert sum(p["time_ns"] for p in whole["phases"]) + whole["unattributed_ns"] == clock.elapsed_ns
    parts = [account(_record(pass_), arrays, (a, a + 10))["ledger"] for a in range(0, 50, 10)]
    for i, name in enumerate(PHASES):
        assert sum(part["phases"][i]["time_ns"] for part in parts) == whole["phases"][i]["time_ns"], name


def test_the_headline_answers():
    watched = _record(_pass("watch")) | {"target": None, "kind": "watch"}
    assert account(watched, _arrays())["headline"]["answer"] == "4 steps in 1 s"
    score = {"time_to_train_s": 14.23, "ci95_s": [13.05, 15.31]}
    assert answer(_record(), score, None, None) == "reaches 2.4 nats per byte in 14.2 s (95 % interval 13.1 to 15.3 s)"
    assert answer(_record(), None, "2 of 5 runs did not reach it", None) == (
        "no time to 2.4 nats per byte: 2 of 5 runs did not reach it"
    )


def test_reading_a_record_loads_no_torch():
    code = "import sys, perfsuite.ledger; sys.exit('torch' in sys.modules or 'triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_compute_ceiling_is_the_faster_of_product_and_units():
    ceilings = _ceilings(fma_flops_per_s={"float32": _rate(400e9)})
    out = account(_record(_pass(), ceilings=ceilings), _arrays())
    assert _op(out, "aten::mm")["share_of_ceiling"] == pytest.approx(10 * 2**28 / 400e9 / 0.4)


def test_an_op_that_finds_its_data_nearer_is_a_note_and_no_failure():
    # 4 MiB read in 0.1 ms: faster than memory's 20 GB/s, well within L1's 400 GB/s.
    shape = _shape("f32[1048576] -> f32[]", 1, 100, 4 << 20)
    rest = _row("aten::rest", "forward", 1, 401 * MS - MS // 10, [])
    rows = [_row("aten::sum", "forward", 1, MS // 10, [shape]), rest]
    out = account(_record(_pass(ops=_pass()["ops"] | {"rows": rows}), ceilings=_ceilings()), _arrays())
    assert _check(out, "no op is faster")["ok"]
    assert any("1 op lines beat the ceiling" in note and "1.63" in note for note in out["ledger"]["notes"])


def test_a_wrong_split_by_shape_is_not_faster_than_light():
    # Two shapes of one op: the samples gave all its time to one of them, which says nothing of the other's speed.
    big, small = _shape("f32[1048576] -> f32[]", 10, 1, 4 << 20), _shape("f32[1024] -> f32[]", 10, 10**6, 4 << 10)
    rows = [_row("aten::sum", "forward", 20, 401 * MS, [big, small])]
    out = account(_record(_pass(ops=_pass()["ops"] | {"rows": rows}), ceilings=_ceilings()), _arrays())
    assert _check(out, "no op is faster")["ok"]
