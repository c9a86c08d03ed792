"""perfsuite score by the rules text: means, intervals, windows, limits, energy, ties; worked by hand."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from perfsuite.cli import cli
from perfsuite.mlperf import folder_score, results, rounds

HERE = Path(__file__)
spec = importlib.util.spec_from_file_location("mlperf_logs", HERE.with_name("mlperf_logs.py"))
logs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(logs)


def later(events, seconds):
    """The same run, started later."""
    return [event | {"time_ms": event["time_ms"] + round(1000 * seconds)} for event in events]


def folder(tmp_path, runs, name="runs"):
    for i, events in enumerate(runs):
        logs.write(tmp_path / name / f"result_{i}.txt", later(events, 10_000 * i))
    return tmp_path / name


def scored(tmp_path, runs, name="runs", played=None):
    (found,) = results.find(folder(tmp_path, runs, name))
    return folder_score.score(found, played)


def run(minutes, seed=1, evals=10, **more):
    return logs.run(evals, minutes=minutes, seed=seed, **more)


def invoke(*arguments):
    return CliRunner().invoke(cli, ["score", *map(str, arguments)], standalone_mode=False)


TEN = [60, 61, 62, 63, 64, 65, 66, 67, 68, 90]


def test_olympic_mean_and_interval_by_hand(tmp_path):
    from scipy.stats import t

    one = scored(tmp_path, [run(minutes) for minutes in TEN])
    assert one["score_min"] == pytest.approx(64.5)  # of 61 ... 68
    assert [r["dropped"] for r in one["runs"]] == ["fastest", *[None] * 8, "slowest"]
    mean = sum(TEN) / 10
    spread = math.sqrt(sum((x - mean) ** 2 for x in TEN) / 9)
    # Evaluations are a tenth of the run apart: the grid is the middle gap of all.
    gaps = sorted(minutes / 10 for minutes in TEN for _ in range(9))
    half = t.ppf(0.975, 9) * spread / math.sqrt(10) + gaps[len(gaps) // 2] / 2
    assert one["ci95_min"] == pytest.approx([64.5 - half, 64.5 + half], abs=1e-3)
    assert one["num_converged"] == 10 and one["factor"] == 1.0 and one["why"] is None


def test_equal_times_are_not_known_better_than_the_evaluation_grid(tmp_path):
    one = scored(tmp_path, [run(60, evals=10) for _ in range(10)])
    assert one["ci95_min"] == pytest.approx([57, 63], abs=1e-3)  # half of 6 minutes on each side


def test_one_failure_is_the_slowest_and_two_are_too_many(tmp_path):
    failed = run(10, status="aborted")
    one = scored(tmp_path, [*[run(minutes) for minutes in TEN[:9]], failed], "one")
    assert one["score_min"] == pytest.approx(sum(TEN[1:9]) / 8)  # 61 ... 68; the failed one is dropped as slowest
    assert one["runs"][9]["dropped"] == "slowest" and one["runs"][9]["time_s"] is None and one["num_converged"] == 9
    two = scored(tmp_path, [*[run(minutes) for minutes in TEN[:8]], failed, failed], "two")
    assert two["score_min"] is None and two["why"] == "2 of 10 runs did not converge; the rules allow 1"
    assert two["ci95_min"] is None and invoke(tmp_path / "two").return_value == 1


def test_unet3d_drops_four_at_each_end(tmp_path):
    runs = [run(100 + i, benchmark="unet3d", evals=2) for i in range(40)]
    assert scored(tmp_path, runs, "all")["score_min"] == pytest.approx(119.5)
    for i in range(4):
        runs[i] = run(1, benchmark="unet3d", evals=2, status="aborted")
    # 104 ... 107 are the fastest four, the four that failed the slowest: 108 ... 139 are left.
    assert scored(tmp_path, runs, "four")["score_min"] == pytest.approx(sum(range(108, 140)) / 32)
    runs[4] = run(1, benchmark="unet3d", evals=2, status="aborted")
    assert "5 of 40 runs did not converge" in scored(tmp_path, runs, "five")["why"]


def test_the_median_window_of_more_runs_than_a_result_has(tmp_path):
    """llama31_405b has 3 runs, so a window's olympic mean is its middle one. By start the times are

    10, 12, 11, 20, 30: windows (10 12 11) = 11, (12 11 20) = 12, (11 20 30) = 20. The median score is 12.
    """
    one = scored(tmp_path, [run(minutes, benchmark="llama31_405b") for minutes in (10, 12, 11, 20, 30)])
    assert one["score_min"] == pytest.approx(12)
    assert [r["counts"] for r in one["runs"]] == [False, True, True, True, False]
    assert [r["dropped"] for r in one["runs"]] == [None, None, "fastest", "slowest", None]
    assert "of 3 windows of consecutive runs the one with the median score counts, runs 2 to 4" in one["notes"][0]


def test_windows_go_by_start_and_not_by_the_names_of_files(tmp_path):
    runs = [run(minutes, benchmark="llama31_405b") for minutes in (10, 12, 11, 20, 30)]
    where = folder(tmp_path, runs)
    order = {0: 4, 1: 2, 2: 0, 3: 1, 4: 3}
    texts = [(where / f"result_{i}.txt").read_text() for i in range(5)]
    for i, place in order.items():
        (where / f"result_{place}.txt").write_text(texts[i])
    (found,) = results.find(where)
    one = folder_score.score(found, None)
    assert one["score_min"] == pytest.approx(12)
    assert sorted(r["log"] for r in one["runs"] if r["counts"]) == ["result_0.txt", "result_1.txt", "result_2.txt"]


def test_a_window_that_does_not_converge_counts_as_infinite(tmp_path):
    """10, 12, fails, fails, 30, 8: windows 12 (one may fail), then two with two failures, then (fails, 30, 8) = 30.

    In order 12, 30, inf, inf: of the two in the middle the slower, so there is no score.
    """
    times = [10, 12, None, None, 30, 8]
    runs = [run(minutes or 5, benchmark="llama31_405b", status="success" if minutes else "aborted")
            for minutes in times]  # fmt: skip
    one = scored(tmp_path, runs)
    assert one["score_min"] is None and "2 of 3 runs did not converge" in one["why"]


def test_ncf_uses_the_first_fifty_that_converge(tmp_path):
    runs = [run(10 + i, benchmark="ncf", evals=1, status="aborted" if i % 2 else "success") for i in range(104)]
    one = scored(tmp_path, runs)
    counted = [10 + i for i in range(0, 100, 2)]
    assert one["score_min"] == pytest.approx(sum(counted[1:-1]) / 48) and sum(r["counts"] for r in one["runs"]) == 50


@pytest.mark.parametrize(("division", "init_s", "excess_s"), [
    ("closed", 1800, 0), ("closed", 2000, 200), ("open", 2000, 0), ("open", 4 * 3600 + 60, 60)])  # fmt: skip
def test_initialisation_beyond_its_limit_is_run_time(tmp_path, division, init_s, excess_s):
    one = scored(tmp_path, [run(60, init_s=init_s, division=division) for _ in range(10)])
    assert one["score_min"] == pytest.approx(60 + excess_s / 60)
    assert all(r["init_excess_s"] == pytest.approx(excess_s) for r in one["runs"])
    if excess_s:
        assert f"initialisation was {excess_s} s over the limit" in " ".join(invoke(tmp_path / "runs").output.split())


@pytest.mark.parametrize(("played", "excess_s"), [("1.0", 0), ("1.1", 300), ("0.7", 300), ("2.0", 0)])
def test_the_limit_of_initialisation_is_that_of_the_round(tmp_path, played, excess_s):
    one = scored(tmp_path, [run(60, init_s=25 * 60, benchmark="resnet")], played=rounds.parse(played))
    assert one["runs"][0]["init_excess_s"] == pytest.approx(excess_s)


def test_a_division_however_it_is_written(tmp_path):
    runs = [run(60 + i, seed=i, evals=14 + i % 2, division="Closed") for i in range(10)]
    one = scored(tmp_path, runs, played=rounds.parse("6.1"))
    assert one["division"] == "closed" and one["convergence_counts"] and one["factor"] > 1
    assert one["official"]["convergence"] is None  # the official tools ask for the word as it is


def test_a_negative_time_is_no_time(tmp_path):
    backwards = run(60)
    logs.find(backwards, "run_stop")["time_ms"] = logs.find(backwards, "run_start")["time_ms"] - 5_000_000
    one = scored(tmp_path, [*[run(60 + i) for i in range(9)], backwards], "one")
    assert one["score_min"] == pytest.approx(sum(range(61, 69)) / 8) and one["num_converged"] == 9
    assert one["runs"][9]["clock_s"] < 0 and one["runs"][9]["time_s"] is None  # said, and not counted
    assert scored(tmp_path, [backwards] * 10, "all")["score_min"] is None


def test_few_runs_have_a_plain_mean_and_say_so(tmp_path):
    one = scored(tmp_path, [run(60), run(70)])
    assert one["score_min"] == pytest.approx(65)
    assert one["notes"] == ["2 of the 10 runs that make a result",
                            "2 runs are too few for an olympic mean: the mean of all of them"]  # fmt: skip


def test_one_log_has_no_olympic_mean_to_check(tmp_path):
    pytest.importorskip("mlperf_logging")
    where = folder(tmp_path, [run(60)])
    done = invoke(where, "--round", "6.1", "--json")
    check = json.loads(done.stdout)["results"][0]["convergence"]["rules"]
    assert done.return_value == 1 and check["mean"] is None and not check["passed"]
    assert "too few runs for an olympic mean of what" in " ".join(invoke(where, "--round", "6.1").output.split())


def test_what_the_convergence_check_scales(tmp_path):
    pytest.importorskip("mlperf_logging")
    played = rounds.parse("6.1")
    good = scored(tmp_path, [run(60 + i, seed=i, evals=15) for i in range(10)], "good", played)
    assert good["factor"] == 1.0 and good["convergence"]["rules"]["passed"] and good["official"]["score_min"]
    quick = scored(tmp_path, [run(60 + i, seed=i, evals=14 + i % 2) for i in range(10)], "quick", played)
    check = quick["convergence"]["rules"]
    assert check["passed"] and quick["factor"] == pytest.approx(check["reference"]["mean"] / (14.5 * logs.EVERY))
    assert quick["score_min"] == pytest.approx(quick["unscaled_min"] * quick["factor"])
    assert quick["ci95_min"][0] < quick["score_min"] < quick["ci95_min"][1]
    early = scored(tmp_path, [run(60 + i, seed=i, evals=5) for i in range(10)], "early", played)
    assert not early["convergence"]["rules"]["passed"] and early["factor"] == 1.0
    assert invoke(tmp_path / "early", "--round", "6.1").return_value == 1
    assert invoke(tmp_path / "good", "--round", "6.1").return_value == 0


def power(where, name, watts_at, nodes=1, switch_w=None):
    """Power logs of one run: watts_at is {seconds since the log's begin: W}."""
    for node in range(nodes):
        events = [logs.event(0, "INTERVAL_START", "power_measurement_start")]
        events += [logs.event(at, "POINT_IN_TIME", "power_reading", watts) for at, watts in watts_at.items()]
        logs.write(where / "power" / name / f"node_{node}.txt", events)
    if switch_w is not None:
        estimate = [logs.event(0, "POINT_IN_TIME", "interconnect_power_est", switch_w),
                    logs.event(0, "POINT_IN_TIME", "conversion_eff", 0.5)]  # fmt: skip
        logs.write(where / "power" / name / "sw_0.txt", estimate)


def energy(tmp_path, name, *arguments, **more):
    """Three runs of llama31_405b of 10 minutes, each with the same power logs from second 0; init takes 60 s."""
    where = tmp_path / name
    for i in range(3):
        logs.write(where / f"result_{i}.txt", run(10, seed=i, benchmark="llama31_405b"))
        power(where, f"result_{i}", *arguments, **more)
    (found,) = results.find(where)
    return folder_score.score(found, None)["energy"]


def test_energy_is_summed_over_the_timed_part(tmp_path):
    whole = {at: 500.0 if at <= 60 else 1000.0 for at in range(1, 700)}
    found = energy(tmp_path, "one", whole)
    assert found["energy_j"] == pytest.approx(1000 * 600) and found["runs"]["result_0"]["flags"] == []
    assert found["runs"]["result_0"]["bound_j"] == pytest.approx(0, abs=1)
    found = energy(tmp_path, "two", whole, nodes=2, switch_w=100.0)
    assert found["energy_j"] == pytest.approx(2 * 600_000 + 0.5 * 100 * 600)


def test_energy_with_gaps_says_what_is_missing(tmp_path):
    # Readings end 60 s before the run does: what is missing is taken at the mean power, and is the bound.
    found = energy(tmp_path, "short", {at: 1000.0 for at in range(1, 601)})
    one = found["runs"]["result_0"]
    assert found["energy_j"] == pytest.approx(600_000) and one["bound_j"] == pytest.approx(60_000)
    assert one["flags"] == ["node_0: readings cover 90.0 % of the timed part"]
    # A hole of 100 s in the middle is covered by the reading that ends it, and flagged.
    found = energy(tmp_path, "hole", {at: 1000.0 for at in range(1, 700) if not 200 < at < 300})
    assert found["energy_j"] == pytest.approx(600_000)
    assert "up to 100.0 s between readings, the rule is one a second" in found["runs"]["result_0"]["flags"][0]
    found = energy(tmp_path, "none", {at: 1000.0 for at in range(1, 50)})
    assert found["energy_j"] is None and "no reading in the timed part" in found["why"]


def test_energy_of_the_same_runs_as_the_time(tmp_path):
    where = tmp_path / "runs"
    for i, (minutes, watts) in enumerate([(10, 1000.0), (11, 2000.0), (12, 9000.0)]):
        logs.write(where / f"result_{i}.txt", run(minutes, seed=i, benchmark="llama31_405b"))
        power(where, f"result_{i}", dict.fromkeys(range(1, 900), watts))
    (found,) = results.find(where)
    assert folder_score.score(found, None)["energy"]["energy_j"] == pytest.approx(2000 * 660)  # of the middle run


def against(tmp_path, first, second, name):
    a = logs.submission(tmp_path / f"{name}A", [run(minutes, seed=i) for i, minutes in enumerate(first)])
    b = logs.submission(tmp_path / f"{name}B", [run(minutes, seed=i) for i, minutes in enumerate(second)])
    before = logs.contents(tmp_path)
    done = invoke(a, "--against", b, "--json")
    assert done.exception is None and logs.contents(tmp_path) == before
    (found,) = json.loads(done.stdout)["compared"]
    return found


def test_against_another_result(tmp_path):
    first = [60 + 0.4 * i for i in range(10)]
    found = against(tmp_path, first, [x * 0.8 for x in first], "fast")
    assert found["says"] == "the second is faster" and found["ci95"][0] < 0.8 < found["ci95"][1]
    assert against(tmp_path, first, [x * 1.3 for x in first], "slow")["says"] == "the first is faster"
    noisy = [60, 75, 62, 70, 61, 68, 66, 59, 72, 64]
    assert against(tmp_path, noisy, [x * 1.01 for x in noisy[::-1]], "tie")["says"] == "a statistical tie"
    few = against(tmp_path, [60, 61], [70, 71], "few")
    assert few["says"] == "cannot tell" and few["ratio"] is None and "at least 3 are needed" in few["why"]
    assert "a statistical tie" in invoke(tmp_path / "tieA", "--against", tmp_path / "tieB").output
    other = folder(tmp_path, [run(60, benchmark="bert")], "bert")
    done = invoke(tmp_path / "tieA", "--against", other)
    assert "nothing to compare" in str(done.exception)


def test_a_result_without_a_score_is_compared_with_nothing(tmp_path):
    ended = ["aborted"] * 2 + ["success"] * 8
    failed = folder(tmp_path, [run(60 + i, seed=i, status=status) for i, status in enumerate(ended)], "failed")
    good = folder(tmp_path, [run(70 + i, seed=i) for i in range(10)], "good")
    (found,) = json.loads(invoke(good, "--against", failed, "--json").stdout)["compared"]
    assert found["says"] == "cannot tell" and "2 of 10 runs did not converge" in found["why"]


def test_what_would_be_markup_is_text(tmp_path):
    events = run(60)
    logs.find(events, "run_stop")["metadata"]["status"] = "[/bold]"
    where = folder(tmp_path, [run(61, seed=2), events], "a[b]")
    assert "[/bold]" in invoke(where, "--runs").output
    where = folder(tmp_path, [run(60 + i, seed=i) for i in range(10)], "c[d]")
    assert "c[d]" in invoke(where, "--against", where).output


def test_hpc_folders_strong_and_weak(tmp_path):
    root = tmp_path / "Lab"
    for scaling, count in (("strong", 10), ("weak", 12)):
        for i in range(count):
            events = later(run(10 + i, benchmark="cosmoflow", evals=2), 10_000 * i)
            logs.write(root / "results" / "box" / scaling / "cosmoflow" / f"result_{i}.txt", events)
    found = [folder_score.score(one, None) for one in results.find(tmp_path)]
    assert [one["label"] for one in found] == ["Lab/box/strong/cosmoflow", "Lab/box/weak/cosmoflow"]
    assert found[0]["score_min"] == pytest.approx(14.5) and found[0]["num_runs_wanted"] == 10
    assert invoke(root, "--round", "hpc-3.0").exception is None


V05 = """:::MLPv0.5.0 resnet 1542332000.0 (a.py:1) run_start
:::MLPv0.5.0 resnet {half} (a.py:2) eval_accuracy: {{"epoch": 30, "value": 0.6}}
:::MLPv0.5.0 resnet {stop} (a.py:2) eval_accuracy: {{"epoch": 61, "value": 0.76}}
:::MLPv0.5.0 resnet {stop} (a.py:3) run_stop: {{"success": {good}}}
:::MLPv0.5.0 resnet {stop} (a.py:4) run_final
"""
V06 = """:::MLL 1558640000.0 submission_benchmark: {{"value": "resnet", "metadata": {{}}}}
:::MLL 1558640000.0 run_start: {{"value": null, "metadata": {{}}}}
:::MLL {half} eval_accuracy: {{"value": 0.6, "metadata": {{"epoch_num": 30}}}}
:::MLL {stop} eval_accuracy: {{"value": 0.76, "metadata": {{"epoch_num": 61}}}}
:::MLL {stop} run_stop: {{"value": null, "metadata": {{"status": "{status}"}}}}
"""


@pytest.mark.parametrize(("form", "start_s"), [(V05, 1542332000.0), (V06, 1558640000.0)], ids=["v0.5", "v0.6"])
def test_logs_of_the_first_rounds(tmp_path, form, start_s):
    for i, time_s in enumerate([6000, 6060, 6120, 6300, 100]):
        good = time_s != 100
        text = form.format(half=start_s + time_s / 2, stop=start_s + time_s, good=str(good).lower(),
                           status="success" if good else "aborted")  # fmt: skip
        (tmp_path / f"result_{i}.txt").write_text(text)
    (found,) = results.find(tmp_path)
    one = folder_score.score(found, None)
    assert one["benchmark"] == "resnet" and one["score_min"] == pytest.approx((101 + 102 + 105) / 3)
    assert one["runs"][0]["quality"] == 0.76 and one["runs"][0]["units"] == 61 and one["num_converged"] == 4


def test_score_writes_nothing_and_says_the_same_twice(tmp_path):
    pytest.importorskip("mlperf_logging")
    root = logs.submission(tmp_path / "Acme", [run(60 + i, seed=i, evals=14) for i in range(10)])
    before = logs.contents(root)
    first, second = (invoke(root, "--round", "6.1", "--json") for _ in range(2))
    assert first.stdout == second.stdout and logs.contents(root) == before
    (one,) = json.loads(first.stdout)["results"]
    assert one["rules"].startswith("training 6.1.0") and "training.json" in one["rules"]
    text = invoke(root, "--round", "6.1").output
    assert "not verified by MLCommons" in text and "rules: training 6.1.0" in text


def test_any_log_and_any_folder_will_do(tmp_path):
    path = logs.write(tmp_path / "somewhere" / "train.log", run(60))
    for where in (path, path.parent):
        (one,) = json.loads(invoke(where, "--json").stdout)["results"]
        assert one["score_min"] == pytest.approx(60) and one["benchmark"] == "llama31_8b"
    assert "there is no file or folder" in str(invoke(tmp_path / "none").exception)
    (tmp_path / "empty").mkdir()
    assert "holds no MLPerf logs" in str(invoke(tmp_path / "empty").exception)


def test_whether_a_result_is_valid_is_said_beside_its_score(tmp_path):
    played = rounds.parse("6.1")
    good = [run(60 + i, seed=i, evals=15) for i in range(10)]
    fine = scored(tmp_path, good, "fine", played)
    assert fine["valid"] is True and fine["errors"] == []
    short = scored(tmp_path, good[:9], "short", played)
    assert short["valid"] is False and short["errors"][0].startswith("9 runs; a result of llama31_8b has 10")
    assert short["score_min"] is not None
    without = scored(tmp_path, good, "without")
    assert without["valid"] is None and without["errors"] is None
    shown = invoke(tmp_path / "short", "--round", "6.1")
    assert "not valid by the rules text: 9 runs" in shown.output


def test_a_score_and_a_verdict_on_the_same_tree_agree(tmp_path):
    from perfsuite.mlperf import verify

    logs.submission(tmp_path / "Acme", [run(60 + i, seed=i) for i in range(9)])
    (found,) = results.find(tmp_path)
    played = rounds.parse("6.1")
    assert folder_score.score(found, played)["valid"] is verify.verify(found, played)["valid"] is False
