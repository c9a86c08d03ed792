"""The memory-system character of hand-written records: shares that add up, bytes and flops by hand, and what is not
known, which stays apart with its reason."""

import pytest

from perfsuite.ledger import account

MS = 1_000_000
MM = "f32[512,512] f32[512,512] -> f32[512,512]"
MM_FLOPS = 2 * 512**3
ADD = "f32[1024] f32[1024] -> f32[1024]"


def rate(ceiling):
    return {"ceiling": ceiling, "median": ceiling, "lo": ceiling, "hi": ceiling}


CEILINGS = {
    "levels": [
        {"name": "L1", "capacity_bytes": 32768, "copy_bytes_per_s": rate(400e9)},
        {"name": "memory", "capacity_bytes": None, "copy_bytes_per_s": rate(20e9)},
    ],
    "gemm_flops_per_s": {"float32": rate(100e9)},
    "op_overhead_ns": rate(1000.0),
}


def row(name, phase, calls, self_ms, shapes, **more):
    return {
        "name": name, "direction": "forward", "op": "", "module": "", "phase": phase, "thread": "clock", "calls": calls,
        "total_ns": self_ms * MS, "self_ns": self_ms * MS, "shapes": shapes,
    } | more  # fmt: skip


def shape(signature, bytes_, **more):
    return {"signature": signature, "sampled_calls": 1, "sampled_self_ns": 1000, "bytes": bytes_,
            "footprint_bytes": bytes_} | more  # fmt: skip


ROWS = [
    row("aten::mm", "forward", 10, 400, [shape(MM, 3 << 20)]),  # 27 ms of flops, 1.6 ms of bytes
    row("aten::mm", "evaluation", 5, 100, [shape(MM, 3 << 20)]),
    row("aten::copy_", "data", 2, 300, [shape("f32[1000000] -> f32[1000000]", 8_000_000)]),
    row("aten::add", "backward", 30, 100, [shape(ADD, 12288)]),  # 31 ns of bytes, 1000 of a call
    row("AddBackward0", "backward", 30, 20, []),
    row("aten::odd", "backward", 1, 60, [shape("f32[8] -> f32[8]", None)]),
    row("aten::late", "evaluation", 1, 20, []),
    row("aten::loads", "data", 4, 5000, [shape(ADD, 12288)], thread="other"),
]


def made(rows=ROWS, ceilings=CEILINGS, device="cpu", **more):
    clock_ms = sum(r["self_ns"] for r in rows if r["thread"] == "clock") // MS
    pass_ = {
        "kind": "ledger", "index": 0, "seed": 1, "state": "done", "error": None, "stop_reason": "target",
        "reached": True, "quality": 2.3, "samples": 400, "num_steps": 4, "clock_ns": clock_ms * MS, "start_ns": 0,
        "init_ns": 0, "init_excess_ns": 0, "init": {}, "evaluations": [], "losses": [],
        "phases": [{"name": "forward", "time_ns": clock_ms * MS, "op_ns": clock_ms * MS, "host_ns": 0, "calls": 4}],
        "ops": {"rows": rows, "sampled_steps": 1, "every": 4, "dropped_rows": 0,
                "top_level_ns": clock_ms * MS, "events": 48},
        "allocator": None, "page_faults": None, "rss_peak_bytes": None, "sampler": None, "instruments": [],
        "arrays": None, "overhead": None, "compiled_regions": 0,
    } | more  # fmt: skip
    return {
        "schema": 3, "id": "0001-x", "kind": "run", "created": "2026-01-01T00:00:00", "command": [], "commit": None,
        "perfsuite_version": "0", "workload": "x", "scale": "tiny", "device": device, "division": "open", "use": {},
        "config": {}, "target": None, "schedule": {"eval_every_samples": 100}, "num_runs": 1,
        "machine": {"fingerprint": {}, "ceilings": ceilings, "ceilings_reason": None if ceilings else "not measured"},
        "passes": [pass_],
    }  # fmt: skip


def character(record):
    return account(record, lambda name: {})["character"]


def test_shares_are_of_the_ops_time_on_the_clock_and_add_up():
    found = character(made())
    assert found["ops_time_s"] == pytest.approx(1.0)
    assert found["compute_bound_share"] == pytest.approx(0.5)
    assert found["memory_bound_share"] == pytest.approx(0.3)
    assert found["overhead_bound_share"] == pytest.approx(0.1)
    assert found["unknown_share"] == pytest.approx(0.1)


def test_what_is_not_known_stays_apart_with_its_reason():
    found = character(made())
    assert [(r["reason"], pytest.approx(r["share"]), r["ops"]) for r in found["unknown"]] == [
        ("its bytes are not modelled", 0.06, ["aten::odd"]),
        ("autograd's own time around the ops", 0.02, ["AddBackward0"]),
        ("its shapes were not sampled", 0.02, ["aten::late"]),
    ]
    assert sum(r["share"] for r in found["unknown"]) == pytest.approx(found["unknown_share"])


def test_bytes_and_flops_are_of_training_and_of_a_sample():
    found = character(made())
    bytes_ = 10 * (3 << 20) + 2 * 8_000_000 + 30 * 12288
    assert found["bytes_per_sample"] == pytest.approx(bytes_ / 400)
    assert found["flops_per_sample"] == pytest.approx(10 * MM_FLOPS / 400)
    assert found["flops_per_byte"] == pytest.approx(10 * MM_FLOPS / bytes_)
    # Outside evaluation the ops took 880 ms: 60 of an op with unknown bytes; a node has neither bytes nor flops.
    assert found["flops_per_s"] == pytest.approx(10 * MM_FLOPS / 0.88)
    assert found["bytes_unknown_share"] == pytest.approx(0.06 / 0.88)


def test_top_ops_are_by_name():
    found = character(made())
    assert [(op["name"], pytest.approx(op["share"]), op["bound"]) for op in found["top_ops"]] == [
        ("aten::mm", 0.5, "compute"), ("aten::copy_", 0.3, "memory"), ("aten::add", 0.1, "overhead"),
    ]  # fmt: skip


def test_a_suite_op_counts_what_it_declares_however_it_is_done():
    costs = [{"region": "dcn_cross=cpp", "signature": "f32[8,8] grad", "calls": 4, "bytes": 1, "flops": 1000},
             {"region": "dcn_cross=cpp", "signature": "f32[8,8]", "calls": 9, "bytes": 1, "flops": 500}]  # fmt: skip
    inside = row("perfsuite::dcn_cross_cpp", "forward", 4, 100, [shape(ADD, 12288)], op="dcn_cross=cpp")
    found = character(made([*ROWS, inside], op_costs=costs))
    assert found["flops_per_sample"] == pytest.approx((10 * MM_FLOPS + 4 * 1000) / 400)
    assert found["flops_unknown_share"] == character(made([*ROWS, inside | {"name": "aten::mul"}],
                                                          op_costs=costs))["flops_unknown_share"]  # fmt: skip


def test_ops_without_arithmetic_have_known_flops():
    found = character(made([row("aten::copy_", "data", 1, 30, [shape(ADD, 12288)]),
                            row("aten::exp", "data", 1, 70, [shape(ADD, 12288)])]))  # fmt: skip
    assert found["flops_unknown_share"] == pytest.approx(0.7)


def test_hidden_ops_and_a_machine_without_ceilings_are_reasons():
    hidden = row("CompiledFunction", "forward", 4, 1000, [])
    found = character(made([*ROWS, hidden]))
    assert found["unknown"][0] == {"reason": "a compiled region hides its ops", "share": pytest.approx(0.5),
                                   "ops": ["CompiledFunction"]}  # fmt: skip
    found = character(made(ceilings=None))
    assert found["unknown_share"] == pytest.approx(1.0)
    assert "no ceilings: not measured" in {r["reason"] for r in found["unknown"]}
    assert found["bytes_per_sample"] is not None


def test_without_ops_there_is_a_reason_and_no_figure():
    found = character(made(ops=None, kind="clean"))
    assert not found["available"] and found["reason"] == "no op recorder ran in this clean pass"
    assert found["memory_bound_share"] is None and found["bytes_per_sample"] is None
    assert character(made(samples=None, kind="watch"))["per_sample_reason"] == "this watch pass counted no samples"
    assert account(made(state="failed"), lambda name: {})["character"] is None


def test_a_gpu_run_without_device_times_knows_no_bound():
    found = character(made(device="cuda"))
    assert found["unknown_share"] == pytest.approx(1.0)
    assert found["memory_bound_share"] == 0.0
