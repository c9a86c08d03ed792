"""Closed and open as properties of a run of ours, and the classes of our own: rules, verification, score."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from perfsuite import ledger, record
from perfsuite.cli import cli
from perfsuite.harness import rule_files, run
from perfsuite.harness.run import Request
from perfsuite.mlperf import convergence, own_class, rounds, rulebook
from perfsuite.mlperf.division import closed_quality
from perfsuite.report import division
from perfsuite.report.terminal import summary
from perfsuite.workloads import registry

HERE = Path(__file__)
spec = importlib.util.spec_from_file_location("mlperf_records", HERE.with_name("mlperf_records.py"))
records = importlib.util.module_from_spec(spec)
spec.loader.exec_module(records)
SCRIPTED = str(HERE.with_name("data") / "scripted.py")


def invoke(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)), standalone_mode=False)


def closed(tmp_path, evals, name="0001-x", **changed):
    """A closed record of llama tiny; evals: at which evaluation each run ends."""
    made = records.new(division="closed")
    for field, value in changed.items():
        setattr(made, field, value)
    logs = [records.own_log(tmp_path, made, evals=n, seed=100 + i) for i, n in enumerate(evals)]
    return records.save(tmp_path / name, made, logs)


def verified(folder):
    done = invoke("verify", folder, "--json")
    assert done.exception is None, done.exception
    (one,) = json.loads(done.stdout)["results"]
    texts = [f["text"] for part in (one, *one["logs"]) for f in part["findings"] if f["severity"] == "error"]
    assert done.return_value == (0 if one["valid"] else 1)
    return one, " | ".join(texts)


# -- rule files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.names())
def test_rule_files_are_those_of_the_workloads(name):
    workload = registry.load(name)
    stored = json.loads(rulebook.own_path(name).read_text())
    assert stored == json.loads(json.dumps(rule_files.make(workload))), (
        f"make it anew: python -m perfsuite.harness.rule_files {name}"
    )


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize("scale", rule_files.SCALES)
def test_rules_agree_with_the_config(name, scale):
    """Said again, from the workload's side: target, evaluations, runs, hyperparameters as its job logs them."""
    config = registry.load(name).CONFIGS[scale]
    rules = own_class.rules_of(rounds.own(name, scale))
    for quality in (config.target.value, config.target.value + 1e-6, config.target.value - 1e-6):
        assert rules.targets[0].reached(quality) == config.target.reached(quality)
    batch, schedule = config.batch_size, config.schedule

    def steps(samples):
        return -(-samples // batch) * batch

    assert rules.schedule.interval(batch) == steps(schedule.eval_every_samples)
    assert rules.schedule.first(batch) == pytest.approx(steps(schedule.first_eval_samples), abs=batch)
    assert (rules.num_runs, rules.max_samples) == (config.num_runs, schedule.max_samples)
    assert rules.hyperparameters["global_batch_size"] == f"value == {batch}"
    assert not [key for key in rules.hyperparameters if "precision" in key or "parallelism" in key]
    assert rules.config["learning_rate"] == config.learning_rate


def test_a_job_logs_what_its_rules_ask_for():
    """The job that trains, on the CPU, against rules that were made without computing anything."""
    workload = registry.load("llama")
    config = workload.CONFIGS["tiny"]
    values = workload.build(config, "cpu", 1).log_values()
    for key, wanted in own_class.rules_of(rounds.own("llama", "tiny")).hyperparameters.items():
        value = values.get(key, getattr(config, key, None))
        assert wanted == f"value == {value!r}"


# -- run --division closed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([SCRIPTED], "scripted.py is not a workload of perfsuite"),
        (["llama", "--target", "2.3"], "the target is 2.3, not 2"),
    ],
)
def test_closed_refuses_before_anything_is_recorded(tmp_path, arguments, says):
    done = invoke("run", *arguments, "--division", "closed", "--out", tmp_path / "runs")
    assert isinstance(done.exception, ValueError) and says in str(done.exception)
    assert "\n" not in str(done.exception) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"batch_size": 16}, "batch_size is 16, not 8"),
        ({"learning_rate": 3e-3, "warmup_steps": 0}, "learning_rate is 0.003, not 0.004 (and 1 more)"),
        ({"depth": 2}, "depth is 2, not 3"),
        ({"autocast": True}, "autocast is True, not False"),
    ],
)
def test_closed_refuses_another_config(monkeypatch, changed, says):
    """Whatever changes the config: an option of the command, or somebody's edit of the workload file."""
    workload = registry.load("llama")
    monkeypatch.setitem(workload.CONFIGS, "tiny", replace(workload.CONFIGS["tiny"], **changed))
    with pytest.raises(ValueError) as raised:
        run.new_record(Request(division="closed", ledger=False))
    assert says in str(raised.value)
    assert run.new_record(Request(ledger=False)).config["batch_size"] == changed.get("batch_size", 8)  # open


def test_closed_refuses_ops_that_change_the_mathematics(monkeypatch):
    monkeypatch.setattr(run.ops_choice, "select", lambda *a: {})
    with pytest.raises(ValueError, match="--ops approximate is not one of eager, native, compile"):
        run.new_record(Request(division="closed", ops="approximate", ledger=False))


@pytest.mark.parametrize("request_", [{}, {"use": {"rms_norm": "eager"}}, {"ops": "compile"}, {"num_runs": 7}])
def test_kernels_may_be_swapped_freely(request_):
    assert run.new_record(Request(division="closed", ledger=False, **request_)).division == "closed"


# -- open --------------------------------------------------------------------------------------------------------------


def reported(folder):
    made = vars(record.load(folder))
    return {"division": made["division"], "closed_quality": closed_quality(made)}


def test_an_open_run_says_its_quality_on_the_closed_metric(tmp_path):
    made = records.new(target=2.3)
    logs = [records.own_log(tmp_path, made, evals=3, seed=i) for i in range(3)]
    account = reported(records.save(tmp_path / "0001-x", made, logs, quality=2.25))
    quality = account["closed_quality"]
    assert (quality["qualities"], quality["num_reached"], quality["target"]["value"]) == ([2.25] * 3, 0, 2.0)
    assert "0 of 3 runs reach the closed target ≤ 2" in division.said(account)
    assert "validation loss, nats per byte: 2.25 to 2.25" in division.said(account)


def test_of_another_model_it_is_not_known(tmp_path):
    made = records.new(workload=SCRIPTED)
    account = reported(records.save(tmp_path / "0001-x", made, ["x"], quality=2.25))
    assert account["closed_quality"]["qualities"] is None
    assert "not known: there are no rules of a closed division for" in division.said(account)


def test_the_report_of_a_real_record_says_it():
    folder = HERE.parents[1] / "bench/results/amd-epyc-2c-46b157/llama-tiny"
    if not folder.is_dir():
        pytest.skip("the records of bench/results are not here")
    account = ledger.account(vars(record.load(folder)), lambda name: record.arrays_of(folder, name))
    console = Console(width=200)
    with console.capture() as capture:
        console.print(summary(account, None))
    assert "open; validation loss, nats per byte: 1.966 to 1.992 at the end, 5 of 5 runs reach" in capture.get()
    with console.capture() as capture:
        console.print(summary(account | {"division": "closed", "closed_quality": None}, None))
    assert ["division", "closed"] in [line.split() for line in capture.get().splitlines()]


def test_a_closed_run_says_closed(tmp_path):
    assert division.said(reported(closed(tmp_path, [11] * 5))) == "closed"


# -- verify and score without a round ----------------------------------------------------------------------------------


def test_a_record_is_verified_by_the_rules_of_its_own_class(tmp_path):
    folder = closed(tmp_path, [11, 11, 11, 12, 10])
    one, errors = verified(folder)
    assert one["valid"] and errors == "" and one["official"] is None
    assert one["rules"].endswith("rules/own_llama.json") and one["round"] == "own llama tiny"
    text = invoke("verify", folder).output
    assert "own llama tiny" in text and "own_llama.json" in text
    assert invoke("verify", folder, "--official").exception is not None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"opt_base_learning_rate": 0.01}, "opt_base_learning_rate is 0.01"),
        ({"global_batch_size": 16}, "global_batch_size is 16"),
        ({"opt_name": "lamb"}, "opt_name is 'lamb'"),
    ],
)
def test_a_wrong_hyperparameter(tmp_path, change, says):
    made = records.new(division="closed")
    logs = [records.own_log(tmp_path, made, evals=11, seed=i, changed=change) for i in range(5)]
    _, errors = verified(records.save(tmp_path / "0001-x", made, logs))
    assert says in errors


def test_what_logs_must_have(tmp_path):
    made = records.new(division="closed")
    logs = [records.own_log(tmp_path, made, evals=11, seed=i) for i in range(5)]
    without = ["".join(line for line in log.splitlines(True) if '"init_stop"' not in line and '"opt_name"' not in line)
               for log in logs]  # fmt: skip
    _, errors = verified(records.save(tmp_path / "0001-x", made, without))
    assert "there is no init_stop" in errors and "opt_name is not logged" in errors
    _, errors = verified(records.save(tmp_path / "0002-x", made, logs[:4]))
    assert "4 runs; a result of llama31_8b has 5" in errors
    _, errors = verified(records.save(tmp_path / "0003-x", made, [*logs[:4], logs[0]]))
    assert "has the seed 0 of result_0.txt" in errors


def test_evaluations_and_target_of_the_class(tmp_path):
    made = records.new(division="closed")
    logs = [records.own_log(tmp_path, made, evals=11, seed=i).replace('"samples_count": 160,', '"samples_count": 80,')
            for i in range(5)]  # fmt: skip
    missed = [log.replace('"value": 2.0,', '"value": 2.05,') for log in logs]
    assert "the first evaluation is after 80" in verified(records.save(tmp_path / "0001-x", made, logs))[1]
    assert "the target is <= 2" in verified(records.save(tmp_path / "0002-x", made, missed))[1]


def test_a_record_that_says_closed_and_is_not(tmp_path):
    _, errors = verified(closed(tmp_path, [11] * 5, ops="approximate"))
    assert "not closed: --ops approximate is not one of" in errors
    config = records.new().config | {"width": 64}
    _, errors = verified(closed(tmp_path, [11] * 5, "0002-x", config=config))
    assert "not closed: width is 64, not 128" in errors


def test_convergence_is_held_against_the_workloads_own_points(tmp_path):
    """The band by hand: mean of the middle 18 of 20 seeds, less t at 5 % times the spread of those 18."""
    from scipy.stats import t

    points = json.loads((registry.data_folder().parent / "llama.rcp.json").read_text())["tiny"]
    kept = sorted(points["samples_to_target"])[1:-1]
    mean = sum(kept) / 18
    spread = (sum((x - mean) ** 2 for x in kept) / 18) ** 0.5
    lowest = mean - t.ppf(0.95, 18 + 3 - 2) * spread * (1 / 18 + 1 / 3) ** 0.5

    def scored(evals, name):
        done = invoke("score", closed(tmp_path, evals, name), "--json")
        (one,) = json.loads(done.stdout)["results"]
        return done.return_value, one

    code, one = scored([11, 11, 11, 12, 10], "0001-x")
    check = one["convergence"]["rules"]
    assert code == 0 and check["passed"] and set(one["convergence"]) == set(convergence.MODES)
    assert check["lowest"] == pytest.approx(lowest, abs=1e-3) and check["reference"]["mean"] == pytest.approx(mean)
    assert check["mean"] == 11 * 160 and one["rules"].endswith("own_llama.json")
    assert one["num_runs_wanted"] == 5  # and not the 10 of llama31_8b
    assert check["factor"] == pytest.approx(max(1.0, mean / 1760))
    assert one["score_min"] == pytest.approx(one["unscaled_min"] * check["factor"])
    code, one = scored([4] * 5, "0002-x")
    assert code == 1 and not one["convergence"]["rules"]["passed"] and one["convergence_counts"]
    assert "the least that passes" in verified(tmp_path / "0002-x")[1]


def test_of_the_open_division_convergence_tells_and_does_not_count(tmp_path):
    made = records.new()
    logs = [records.own_log(tmp_path, made, evals=4, seed=i) for i in range(5)]
    folder = records.save(tmp_path / "0001-x", made, logs)
    done = invoke("score", folder)
    assert done.return_value == 0 and "the convergence check tells, it does not count" in " ".join(done.output.split())
    other = records.new(target=2.3)
    folder = records.save(tmp_path / "0002-x", other, logs)
    (one,) = json.loads(invoke("score", folder, "--json").stdout)["results"]
    assert one["convergence"] is None and "the target is 2.3, not 2" in one["convergence_why"]


def test_runs_that_are_not_enough(tmp_path):
    folder = closed(tmp_path, [11])
    (one,) = json.loads(invoke("score", folder, "--json").stdout)["results"]
    assert one["convergence"] is None and "an olympic mean needs 3 runs, and here are 1" in one["convergence_why"]
    assert "nan" not in verified(folder)[1]


def test_points_that_are_not_enough(tmp_path, monkeypatch):
    folder = closed(tmp_path, [11] * 5)
    for name, points, says in (
        ("few", {"target": 2.0, "batch_size": 8, "samples_to_target": [1760] * 19 + [None]}, "19 seeds reached"),
        ("old", {"target": 2.2, "batch_size": 8, "samples_to_target": [1760] * 20}, "of the target 2.2"),
        ("none", None, "no reference convergence points: `perfsuite rcp llama --scale tiny`"),
    ):
        where = tmp_path / name / "workloads"
        (where / "data").mkdir(parents=True)
        if points:
            (where / "llama.rcp.json").write_text(json.dumps({"tiny": points}))
        monkeypatch.setattr(registry, "data_folder", lambda where=where: where / "data")
        (one,) = json.loads(invoke("score", folder, "--json").stdout)["results"]
        assert one["convergence"] is None and says in one["convergence_why"]


def test_records_without_rules_need_a_round(tmp_path):
    made = records.new(workload=SCRIPTED)
    folder = records.save(tmp_path / "0001-x", made, [records.own_log(tmp_path, records.new(), evals=2, seed=1)])
    done = invoke("verify", folder)
    assert "a workload file of its own" in str(done.exception) and "give --round" in str(done.exception)
    assert "no round was given" in invoke("score", folder).output
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "result_0.txt").write_text((folder / "result_0.txt").read_text())
    assert "is no record of perfsuite" in str(invoke("verify", bare).exception)
    llama = records.new()
    llama.scale = "mlperf"
    big = records.save(tmp_path / "0002-x", llama, ["x"])
    assert f"{big}: the rules of our own for llama are of scale tiny, gpu" in str(invoke("verify", big).exception)


def test_a_whole_folder_of_records_and_one_log(tmp_path):
    (tmp_path / "runs").mkdir()
    closed(tmp_path / "runs", [11] * 5, "0001-a")
    made = records.new(workload="resnet", division="closed")
    logs = [records.own_log(tmp_path, made, evals=9, seed=i) for i in range(5)]
    records.save(tmp_path / "runs" / "0002-b", made, logs, quality=0.88)
    done = invoke("verify", tmp_path / "runs", "--json")
    rounds_ = [one["round"] for one in json.loads(done.stdout)["results"]]
    assert rounds_ == ["own llama tiny", "own resnet tiny"] and done.return_value == 0
    assert invoke("verify", tmp_path / "runs" / "0002-b" / "result_3.txt").return_value == 0
