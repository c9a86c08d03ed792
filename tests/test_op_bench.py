"""`perfsuite ops bench`: what a row says, and when it says that a kernel is faster, slower, wrong or impossible."""

import json
import math

import pytest
from click.testing import CliRunner

from perfsuite.cli import cli
from perfsuite.gpu_machine.device import agree
from perfsuite.gpu_state import State
from perfsuite.kernels import contract, tuning
from perfsuite.kernels.contract import Case, Cost
from perfsuite.op_bench.calls import footprint_bytes, make_inputs
from perfsuite.op_bench.measure import AGAIN, Timed
from perfsuite.op_bench.rows import rows, summary
from perfsuite.op_bench.run import bench, best
from perfsuite.roofline import Level, Machine, Rate

MACHINE = Machine((Level("L2", 2**20, {0.5: Rate(100e9, 0.0)}), Level("DRAM", math.inf, {0.5: Rate(10e9, 0.0)})),
                  {"f32": Rate(1e12, 0.0)}, None)  # fmt: skip
CASE = Case("float32", {"rows": 1000, "classes": 1000})
COSTS = Cost(4_000_000, 4_000_000), Cost(8_000_000, 6_000_000)


def timed(impl, forward_us, backward_us=None, spread=0.0):
    """Nine rounds around these times; spread is relative."""
    wave = [1 + spread * ((7 * i) % 9 - 4) / 4 for i in range(9)]
    forward = [1e3 * forward_us * w for w in wave]
    backward = [] if backward_us is None else [1e3 * backward_us * w for w in reversed(wave)]
    return Timed(impl, forward, backward, forward, backward, peak_bytes=1)


def both(*entries, machine=MACHINE, impl="cpp"):
    found = rows("op", CASE, "cpu", True, entries, COSTS, 4_000_000, machine)
    whole = "both" if entries[0].backward_ns else "forward"
    return next(row for row in found if row["impl"] == impl and row["direction"] == whole)


EAGER = timed("eager", 1000, 1000), timed(AGAIN, 1000, 1000)


@pytest.mark.parametrize(
    ("mine", "verdict"),
    [
        (timed("cpp", 500, 500), "FASTER"),
        (timed("cpp", 1100, 1000), "SLOWER"),
        (timed("cpp", 1005, 1000), "SAME"),
        (timed("cpp", 980, 985, spread=0.2), "CANNOT_TELL"),
    ],
)
def test_verdicts(mine, verdict):
    row = both(*EAGER, mine)
    assert (row["verdict"], row["why"].split()[-1]) == (verdict, "eager"), row


def test_the_fastest_yardstick_decides():
    row = both(*EAGER, timed("compile", 400, 400), timed("cpp", 500, 500))
    assert row["verdict"] == "SLOWER" and row["why"] == "than compile"
    ratios = [row["speedup"][name]["ratio"] for name in ("eager", "compile")]
    assert ratios == pytest.approx([2, 0.8])


def test_what_eager_differs_from_itself_raises_the_threshold():
    entries = timed("eager", 1000, 1000), timed(AGAIN, 1100, 1100), timed("cpp", 930, 930)
    assert both(*entries)["verdict"] == "CANNOT_TELL"
    assert both(*EAGER, timed("cpp", 930, 930))["verdict"] == "FASTER"


def test_faster_than_the_machine_is_rejected():
    # 8 MB at 100 GB/s, the fastest level, take 80 us.
    assert both(*EAGER, timed("cpp", 50, 50))["verdict"] == "FASTER"
    row = both(*EAGER, timed("cpp", 30, 30))
    assert row["verdict"] == "REJECTED" and "80 us" in row["why"]


def test_a_lowered_clock_leaves_no_verdict():
    mine = timed("cpp", 500, 500)
    mine.gpu_states = [State(10**9, (), None), State(8 * 10**8, ("software power cap",), None)]
    row = both(*EAGER, mine)
    assert row["verdict"] == "CANNOT_TELL" and "software power cap" in row["why"]
    assert row["gpu"] == {"sm_clock_hz": 9e8, "lowered_by": ["software power cap"], "reason": None}


def test_wrong_results_are_not_faster():
    mine = timed("cpp", 500, 500)
    mine.wrong = "differs from eager by 1e-1"
    assert both(*EAGER, mine)["verdict"] == "WRONG"


def test_shares_of_the_ceiling():
    fused = timed("cpp", 1600, 1)  # all is done in the forward
    found = {r["direction"]: r for r in rows("op", CASE, "cpu", True, [*EAGER, fused], COSTS, 4_000_000, MACHINE)
             if r["impl"] == "cpp"}  # fmt: skip
    assert found["both"]["share_of_ceiling"] == pytest.approx(0.8e-3 / 1.601e-3 * (0.25 * 0.1 + 0.75), rel=0.1)
    assert found["backward"]["share_of_ceiling"] is None
    assert both(*EAGER, fused, machine=None)["share_of_ceiling"] is None


def test_an_op_without_gradient_has_a_forward_only():
    entries = timed("eager", 1000), timed(AGAIN, 1000), timed("cpp", 500)
    found = rows("op", CASE, "cpu", True, entries, COSTS, 4_000_000, MACHINE)
    assert [(r["impl"], r["direction"]) for r in found] == [("eager", "forward"), ("cpp", "forward")]
    assert found[1]["bytes"] == COSTS[1].bytes and found[1]["verdict"] == "FASTER"


def test_summary_and_table():
    other = Case("float32", {"rows": 10, "classes": 1000})
    found = rows("op", CASE, "cpu", True, [*EAGER, timed("cpp", 250, 250)], COSTS, 4_000_000, MACHINE)
    found += rows("op", other, "cpu", True, [*EAGER, timed("cpp", 2000, 2000)], COSTS, 4_000_000, MACHINE)
    (line,) = summary(found, ["cpp"])
    assert line["geometric_mean"] == pytest.approx(math.sqrt(2)) and line["worst"] == pytest.approx(0.5)
    assert line["worst_case"] == other.name and line["cases"] == 2
    chosen = {(e.shape["rows"], e.impl, e.speedup) for e in best(found, "cpu")}
    assert chosen == {(1000, "cpp", 4.0), (10, "eager", 1.0)}


def test_two_timers_must_agree():
    assert agree(1_000_000, 1_040_000) and not agree(1_000_000, 1_060_000)
    assert agree(3_000, 4_900) and not agree(3_000, 5_100)


def test_cold_inputs_fill_three_times_the_cache():
    op = contract.op("cross_entropy")
    size = footprint_bytes(op, Case("float32", {"rows": 100, "classes": 100}))
    assert size == 100 * 100 * 4 + 100 * 8
    case = Case("float32", {"rows": 100, "classes": 100}, {"reduction": "mean"})
    cold, warm = (make_inputs(op, case, "cpu", 200_000, cold) for cold in (True, False))
    addresses = {copy["logits"].data_ptr() for copy in cold.copies}
    assert len(addresses) * size >= 600_000 and len(warm.copies) == 1


def test_the_command(tmp_path, monkeypatch):
    from perfsuite.kernels import native

    native._load_extension()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("perfsuite.ceilings.measure", lambda: FAKE_CEILINGS)
    monkeypatch.setattr("perfsuite.ceilings.save", lambda measured: (None, "a test"))
    out = tmp_path / "sub" / "bench.json"
    arguments = ["ops", "bench", "cross_entropy", "--scale", "tiny", "--case", "7x33", "--budget", "0.1"]
    done = CliRunner().invoke(cli, [*arguments, "--json", "--out", str(out)], standalone_mode=False)
    assert done.exception is None and done.return_value == 0
    result = json.loads(done.stdout)
    assert json.loads(out.read_text()) == result
    found = {(r["impl"], r["direction"], r["cache"]): r for r in result["rows"]}
    assert {impl for impl, _, _ in found} == {"eager", "compile", "cpp"}
    assert {direction for _, direction, _ in found} == {"forward", "backward", "both"}
    row = found["cpp", "both", "cold"]
    assert row["device_time_ns"] > 0 and row["peak_bytes"] > 0 and set(row["speedup"]) == {"eager", "compile"}
    lo, hi = row["speedup"]["eager"]["ci95"]
    assert lo <= row["speedup"]["eager"]["ratio"] <= hi
    assert {a["impl"] for a in result["absent"]} >= {"triton"}
    assert [e.shape for e in tuning.load()[0]] == [{"rows": 7, "classes": 33}]
    text = CliRunner().invoke(cli, arguments, standalone_mode=False).stdout
    assert "x eager" in text and "geometric mean" in text


def test_several_ops_are_timed_each_in_a_process_of_its_own():
    told = []
    result = bench(["linear", "softmax"], "cpu", scale="tiny", case_filter="1x1 float32", budget_s=0.1, tune=False,
                   warm_too=False, impls=["cpp"], progress=lambda what, share: told.append(what))  # fmt: skip
    assert {row["op"] for row in result["rows"]} <= {"linear", "softmax"}
    assert {"softmax 1x1 float32 cold"} <= set(told)
    with pytest.raises(ValueError, match=r"timing linear failed: .*no scale"):
        bench(["linear", "softmax"], "cpu", scale="no scale")


FAKE_CEILINGS = {
    "levels": [{"name": "DRAM", "capacity_bytes": None, **{f"{k}_bytes_per_s": {"ceiling": 1e13, "lo": 1e13, "hi": 1e13}
                                                           for k in ("read", "write", "copy", "triad")}}],
    "gemm_flops_per_s": {}, "op_overhead_ns": None,
}  # fmt: skip
