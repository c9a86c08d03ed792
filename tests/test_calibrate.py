"""bench/calibrate.py: the others' rules on worked examples, counting, judging samples again, a small collection."""

import importlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import beta

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"
sys.path.insert(0, str(BENCH))
rivals = importlib.import_module("rivals")
process = importlib.import_module("calibrate_process")
samples = importlib.import_module("calibrate_samples")
judge = importlib.import_module("calibrate_judge")
calibrate = importlib.import_module("calibrate")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCH / "calibrate.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def times(mean: float, stdev: float = 0.01, low: float = 0.98, q1: float = 0.991, q3: float = 1.009) -> rivals.Times:
    return rivals.Times(mean, stdev * mean, low * mean, q1 * mean, mean, q3 * mean)


def sitting(seed: int, spread: float, blocks: int = 6, slowdown: bool = True) -> dict:
    """A scripted sitting: the figures of each process are lognormal around 1 ms, without any outlier."""
    draw, slower = random.Random(seed), samples.plan(seed) if slowdown else {}
    processes = []
    for _ in range(blocks):
        for side in draw.sample((0, 0, 1, 1), 4):
            ops = {}
            for name, _, _ in process.OPS:
                level = 1e-3 * draw.lognormvariate(0, spread) * (1 + slower.get(name, 0.0) * side)
                ops[name] = process.summary([level * draw.lognormvariate(0, 0.01) for _ in range(30)])
            processes.append({"side": side, "wall_s": 1.0, "ops": ops})
    return {"seed": seed, "slower": slower, "budget_s": 0.06, "wall_s": 4.0 * blocks, "comparison_s": 3.0 * blocks,
            "load": [1.0, 2.0], "processes": processes}  # fmt: skip


def pair(seed: int, ratio: float) -> dict:
    runs = [{"side": 0, "time_s": 8.0 + seed / 10, "samples": 1760, "wall_s": 9.0}]
    runs.append({**runs[0], "side": 1, "time_s": runs[0]["time_s"] * ratio})
    return {"seed": seed, "wall_s": 18.0, "load": [1.0, 1.0], "runs": runs}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "samples.json"
    made = samples.empty() | {"sittings": [sitting(seed, 0.02) for seed in range(4)],
                              "llama": [pair(seed, 1.0 + 0.001 * (seed % 3 - 1)) for seed in range(8)]}  # fmt: skip
    samples.save(made, path)
    return path


def test_pytest_benchmark_looks_at_growing_means_only() -> None:
    words = [rivals.pytest_benchmark(times(1.0), times(mean)) for mean in (1.06, 1.0499, 0.5)]
    assert words == ["SLOWER", "SAME", "SAME"]


def test_nvbench_compares_with_the_smaller_noise() -> None:
    assert rivals.nvbench(times(1.0, 0.02), times(1.03, 0.05)) == "SLOWER"
    assert rivals.nvbench(times(1.0, 0.04), times(1.03, 0.05)) == "SAME"
    assert rivals.nvbench(times(1.0, 0.02), times(0.97, 0.05)) == "FASTER"


def test_nvbench_robust_wants_a_gap_between_least_and_third_quartile() -> None:
    assert rivals.nvbench_robust(times(1.0), times(1.10)) == "SLOWER"
    assert rivals.nvbench_robust(times(1.10), times(1.0)) == "FASTER"
    assert rivals.nvbench_robust(times(1.0), times(1.03)) == "CANNOT_TELL"  # a gap from 1.0090 to 1.0094
    assert rivals.nvbench_robust(times(1.0), times(1.004)) == "SAME"
    assert rivals.nvbench_robust(times(1.0, q3=1.02), times(1.0)) == "CANNOT_TELL"  # 3 % between the quartiles


def test_asv_wants_a_difference_and_the_factor() -> None:
    a = [1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07]
    assert rivals.asv(a, [1.2 * x for x in a]) == "SLOWER"
    assert rivals.asv([1.2 * x for x in a], a) == "FASTER"
    assert rivals.asv(a, [1.09 * x for x in a]) == "SAME"  # different, but by less than the factor
    assert rivals.asv(a, [0.9, 0.95, 1.0, 1.21, 1.22, 1.23, 1.24, 1.25]) == "SAME"  # p is 0.2 by ranks
    assert rivals.asv([1.0], [1.2, 1.0, 1.3]) == "SLOWER"  # a single sample is not tested
    assert rivals.asv([1.0, 1.1, 1.3], [1.5, 1.6, 1.7]) == "SAME"  # the intervals reach over each other


def test_asv_interval_of_a_median_is_asvs() -> None:
    """The figures are those of asv_runner 0.3.2, statistics.compute_stats."""
    assert rivals.median_interval([1.0, 1.1, 1.3]) == pytest.approx((0.43954102019737296, 1.8271256464692966))
    assert rivals.median_interval([1.0, 1.1]) == pytest.approx((-1.45, 3.55))
    assert rivals.median_interval([float(i) for i in range(10)]) == (0.0, 9.0)
    assert rivals.median_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)


def test_a_slowed_call_takes_its_share_more_and_an_unchanged_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0

    def tick(step: float = 1e-7) -> float:
        nonlocal clock
        clock += step
        return clock

    monkeypatch.setattr(process.time, "perf_counter", tick)
    found = [process.sample(lambda: tick(1e-3), share, 0.05) for share in (0.0, 0.1)]
    assert found[1]["median_s"] / found[0]["median_s"] == pytest.approx(1.1, abs=1e-3)
    assert [one["rounds"] for one in found] == [50, 46]
    assert len(found[0]["blocks_s"]) == 5 and len(found[0]["rounds_s"]) <= process.MOST_ROUNDS


def test_every_sitting_slows_other_ops_and_leaves_seven() -> None:
    plans = [samples.plan(seed) for seed in range(6)]
    assert all(sorted(plan.values()) == [0.05, 0.05, 0.1, 0.1, 0.1] for plan in plans)
    assert len({tuple(sorted(plan)) for plan in plans}) > 1
    assert plans[0] == samples.plan(0)


def test_a_share_has_clopper_and_pearsons_interval() -> None:
    low, high = judge.share(3, 100)["ci95"]
    assert (low, high) == pytest.approx((beta.ppf(0.025, 3, 98), beta.ppf(0.975, 4, 97)))
    assert judge.share(0, 20)["ci95"] == pytest.approx([0.0, 1 - 0.025 ** (1 / 20)])
    assert judge.share(20, 20)["ci95"] == pytest.approx([0.025 ** (1 / 20), 1.0])
    assert judge.share(0, 0)["share"] is None


def test_counting() -> None:
    words = [("FASTER", 0.0), ("SAME", 0.0), ("CANNOT_TELL", 0.0), ("SLOWER", 0.1), ("FASTER", 0.1), ("SLOWER", 0.05)]
    [row] = judge.count([judge.Found("r", slower, word) for word, slower in words])
    counts = {key: (cell["count"], cell["of"]) for key, cell in row.items() if key != "rule"}
    assert counts == {"false_alarms": (1, 3), "cannot_tell": (1, 6), "power_5_percent": (1, 1),
                      "power_10_percent": (1, 2)}  # fmt: skip


def test_our_rule_finds_what_stands_out_and_nothing_else() -> None:
    found = judge.judge_ops([sitting(seed, 0.01) for seed in range(3)])
    rows = {row["rule"]: row for row in judge.count(found)}
    for rule in ("perfsuite, alone", "perfsuite, in a suite"):
        assert rows[rule]["false_alarms"]["count"] == 0 and rows[rule]["false_alarms"]["of"] == 21
        assert rows[rule]["power_10_percent"]["count"] == rows[rule]["power_10_percent"]["of"] == 9
    assert len(rows) == 11


def test_our_rule_cannot_tell_where_processes_differ_by_more_than_the_slowdown() -> None:
    rows = {row["rule"]: row for row in judge.count(judge.judge_ops([sitting(1, 0.5, blocks=4)]))}
    assert rows["perfsuite, in a suite"]["cannot_tell"]["count"] == 12
    assert rows["nvbench-compare"]["false_alarms"]["count"] > 3
    assert rows["pytest-benchmark mean:5%"]["false_alarms"]["count"] > 1


def test_llama_comparisons_are_rings_of_six_pairs() -> None:
    same = judge.count(judge.judge_llama([pair(seed, 1.0 + 0.001 * (seed % 3 - 1)) for seed in range(8)]))
    slower = judge.count(judge.judge_llama([pair(seed, 1.06 + 0.01 * (seed % 3)) for seed in range(8)]))
    assert same[0]["rule"] == "perfsuite" and same[0]["false_alarms"]["count"] == 0
    assert slower[0]["false_alarms"]["count"] == slower[0]["false_alarms"]["of"] == 8
    assert judge.judge_llama([pair(0, 1.0)]) == []


def test_kept_samples_are_judged_again_to_the_same(kept: Path) -> None:
    before = kept.read_bytes()
    first, second = (run("--samples", kept, "--no-measure", "--json") for _ in range(2))
    assert first.returncode == 0 and first.stdout == second.stdout
    found = json.loads(first.stdout)
    assert found["ops"]["comparisons"] == 48 and found["llama"] | {"rules": 0, "pair_s": 0, "load": 0} == {
        "pairs": 8, "comparisons": 8, "disjoint": 1, "pairs_each": 6, "pair_s": 0, "load": 0, "rules": 0}  # fmt: skip
    text = run("--samples", kept, "--only", "ops", "--sittings", "4").stdout
    assert "finds +10 %" in text and "llama" not in text
    assert kept.read_bytes() == before


def test_what_is_complete_is_kept(kept: Path) -> None:
    def one(seed: int, say: object) -> dict:
        if seed == calibrate.FIRST_SEED + 5:
            raise KeyboardInterrupt
        return sitting(seed, 0.02)

    found = samples.load(kept)
    with pytest.raises(KeyboardInterrupt):
        calibrate.collect(found, kept, "sittings", 9, float("inf"), one)
    assert [each["seed"] for each in samples.load(kept)["sittings"]] == [0, 1, 2, 3, calibrate.FIRST_SEED + 4]
    calibrate.collect(found, kept, "sittings", 9, 1.0, one)  # a sitting takes 24 s: none is begun
    assert len(samples.load(kept)["sittings"]) == 5


@pytest.mark.parametrize(("text", "says"), [("{", "cannot read"), ("[]", "schema 1"), ('{"schema": 0}', "schema 1")])
def test_a_file_that_holds_no_samples_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "samples.json"
    path.write_text(text)
    done = run("--samples", path, "--only", "ops")
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


def test_samples_of_another_machine_are_not_added_to(kept: Path) -> None:
    samples.save(samples.load(kept) | {"machine": "another"}, kept)
    done = run("--samples", kept, "--only", "ops")
    assert done.returncode == 2 and "another" in done.stderr
    assert run("--samples", kept, "--no-measure").returncode == 0


def test_a_small_collection_of_real_processes(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    tiny = ("--sittings", "1", "--comparison-s", "0", "--op-s", "0.001")
    done = run("--samples", path, "--only", "ops", *tiny, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ops"]["comparisons"] == 12
    [one] = samples.load(path)["sittings"]
    assert sorted(each["side"] for each in one["processes"]) == [0, 0, 1, 1]
    assert all(set(each["ops"]) == {name for name, _, _ in process.OPS} for each in one["processes"])
    assert all(op["rounds"] >= 5 for each in one["processes"] for op in each["ops"].values())
