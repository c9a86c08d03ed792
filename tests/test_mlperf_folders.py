"""--official on folders: the package checker's answer and the summarizer's figures, on trees as people make them."""

import contextlib
import copy
import importlib.util
import io
import json
import os
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

from perfsuite.cli import cli
from perfsuite.mlperf import folder_score, results, rounds, tie, verify

pytest.importorskip("mlperf_logging")
pytestmark = pytest.mark.usefixtures("quiet_official_tools")
spec = importlib.util.spec_from_file_location("mlperf_logs", Path(__file__).with_name("mlperf_logs.py"))
logs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(logs)

ROUND = rounds.parse("6.1")
HPC = rounds.parse("hpc-3.0")


def silent(function, *arguments):
    """(what it returns, None), or (None, the name of the error that it ends with)."""
    from mlperf_logging.compliance_checker import mlp_compliance

    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            return function(*arguments), None
        except Exception as error:
            mlp_compliance.enqueued_configs.clear()
            return None, type(error).__name__


def package_check(root, usage="training", ruleset="6.1.0"):
    from mlperf_logging.package_checker import package_checker

    def check():
        systems = package_checker.check_systems(str(root), usage, ruleset)
        return package_checker.check_training_result_files(str(root), usage, ruleset, *[False] * 5) and systems

    return silent(check)


def summarise(root, column="llama31_8b", usage="training", ruleset="6.1.0"):
    """(the figure of its table, None) or (None, the error that it ends with); (None, None) where it has no row."""
    from mlperf_logging.result_summarizer import result_summarizer

    tables, error = silent(result_summarizer.summarize_results, str(root), usage, ruleset)
    if error:
        return None, error
    for table in tables:
        if len(table) and column in table and table[column].iloc[0] is not None:
            return float(table[column].iloc[0]), None
    return None, None


def ours(root, played=ROUND):
    (folder,) = results.find(root)
    return verify.verify(folder, played)["official"], folder_score.score(folder, played)["official"]


def runs(count=10, **kwargs):
    return [logs.run(15, seed=i, minutes=60 + i, **kwargs) for i in range(count)]


def folder_of(root):
    return root / "results" / "box" / "llama31_8b"


def twice_the_seed(root):
    events = logs.run(15, seed=99)
    events.insert(8, copy.deepcopy(logs.find(events, "seed")))
    logs.write(folder_of(root) / "result_0.txt", events)


def seed_of(value):
    def change(root):
        events = logs.run(15)
        logs.find(events, "seed")["value"] = value
        logs.write(folder_of(root) / "result_0.txt", events)

    return change


def batch_sizes(of_one, others=32):
    def change(root):
        for i in range(10):
            size = {"global_batch_size": of_one if i == 0 else others}
            events = logs.run(15, seed=i, **size)
            events = events if size["global_batch_size"] is not None else logs.without(events, "global_batch_size")
            logs.write(folder_of(root) / f"result_{i}.txt", events)

    return change


def parameters(text, above=False):
    def change(root):
        seed_of(2)(root)  # the same as another's
        where = folder_of(root).parent if above else folder_of(root)
        (where / "package_checker_params").write_text(text)

    return change


def described(change):
    def changed(root):
        path = root / "systems" / "box.json"
        told = json.loads(path.read_text())
        change(told)
        path.write_text(json.dumps(told))

    return changed


def power(spoil=lambda where: None):
    """Two nodes and a switch of every run, and then one thing that is wrong with them."""

    def change(root):
        for path in folder_of(root).glob("result_*.txt"):
            where = folder_of(root) / "power" / path.stem
            start_s = 60.0 if path.stem != "result_3" else 61.0
            for node, watts in enumerate((400, 500.5)):
                events = [logs.event(start_s, "POINT_IN_TIME", "power_measurement_start"),
                          logs.event(start_s, "POINT_IN_TIME", "conversion_eff", 0.9)]  # fmt: skip
                events += [logs.event(start_s + 100 * i, "POINT_IN_TIME", "power_reading", watts + i)
                           for i in range(1, 30)]  # fmt: skip
                if node:
                    events.append(logs.event(start_s + 2950, "POINT_IN_TIME", "power_measurement_stop"))
                logs.write(where / f"node_{node}.txt", events)
            logs.write(where / "sw_0.txt", [logs.event(0, "POINT_IN_TIME", "interconnect_power_est", 33)])
        spoil(folder_of(root) / "power")

    return change


def remove_all(where):
    for path in sorted(where.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


def renamed(root):
    for path in sorted(folder_of(root).iterdir()):
        path.rename(path.with_name(path.name.replace("result", "run")))


def lies(text):
    return lambda root: (folder_of(root) / "scaling.json").write_text(text)


CHANGES = {
    "good": lambda root: None,
    "a name that is no benchmark": lambda root: folder_of(root).rename(folder_of(root).with_name("llama")),
    "one log less": lambda root: (folder_of(root) / "result_3.txt").unlink(),
    "one log more": lambda root: logs.write(folder_of(root) / "result_10.txt", logs.run(15, seed=55)),
    "other names of logs": renamed,
    "a seed twice in one log": twice_the_seed,
    "a seed that is text": seed_of("x"),
    "a seed that is a number in text": seed_of("77"),
    "a seed that is a fraction of another": seed_of(2.5),
    "two batch sizes": batch_sizes(64),
    "a batch size that is a whole fraction": batch_sizes(32.0),
    "no batch size": batch_sizes(None, None),
    "parameters": parameters("seed-checker-bypass"),
    "parameters of the system": parameters("x\nseed-checker-bypass", above=True),
    "parameters with a last newline": parameters("seed-checker-bypass\n"),
    "no system description": lambda root: (root / "systems" / "box.json").unlink(),
    "a system description that is no JSON": lambda root: (root / "systems" / "box.json").write_text("org: Acme"),
    "a system description that is a list": lambda root: (root / "systems" / "box.json").write_text("[]"),
    "no division": described(lambda told: told.pop("division")),
    "open division": described(lambda told: told.update(division="open")),
    "no cooling": described(lambda told: told.pop("cooling")),
    "no notes": described(lambda told: told.pop("hw_notes")),
    "notes that are a number": described(lambda told: told.update(hw_notes=3)),
    "nodes that are no number": described(lambda told: told.update(number_of_nodes="two")),
    "nodes that are a number": described(lambda told: told.update(number_of_nodes=2)),
    "accelerators that are a number": described(lambda told: told.update(accelerators_per_node=8)),
    "a status of its own": described(lambda told: told.update(status="soon")),
    "power": power(),
    "power of one run is missing": power(lambda where: remove_all(where / "result_1") or (where / "result_1").rmdir()),
    "power of all runs is missing": power(remove_all),
    "power of one node is missing": power(lambda where: [(where / f"result_{i}/node_1.txt").unlink() for i in (1, 2)]),
    "power files with a gap": power(lambda where: [(where / f"result_{i}/node_0.txt").unlink() for i in (1, 2)]),
    "power files without a number": power(lambda where: (where / "result_0" / "node_a.txt").write_text("")),
    "power without a start": power(lambda where: (where / "result_0" / "node_0.txt").write_text("")),
    "scaling.json": lies('{"scaling_factor": 1.25}'),
    "scaling.json that is no JSON": lies("1.25"),
    "scaling.json without the factor": lies("{}"),
    "scaling.json with the factor as text": lies('{"scaling_factor": "1.25"}'),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_folder_gets_the_same_answer_and_the_same_score(tmp_path, name):
    root = logs.submission(tmp_path / "Acme", runs())
    CHANGES[name](root)
    before = logs.contents(root)
    package, score = ours(root)
    assert logs.contents(root) == before
    accepted, ended = package_check(copy_of(root, tmp_path / "checked"))
    if ended:
        assert package["crashed"] and package["crashed"].startswith(ended) and not package["accepted"]
    else:
        assert (package["accepted"], package["crashed"]) == (accepted, None), package
        assert package["accepted"] or package["why"]
    copied = copy_of(root, tmp_path / "summarised")
    first, ended = summarise(copied)
    if ended:
        assert score["crashed"] and score["score_min"] is None
        assert score["crashed"].startswith(ended) or name.startswith("power files without")
        return
    assert (score["score_min"], score["crashed"]) == (first, None)
    if name in ("good", "open division", "scaling.json"):
        assert score["settled_min"] == summarise(copied)[0]


def copy_of(root, where):
    for name, content in logs.contents(root).items():
        path = where / root.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for empty in (path for path in root.rglob("*") if path.is_dir()):
        (where / root.name / empty.relative_to(root)).mkdir(parents=True, exist_ok=True)
    return where / root.name


def test_energy_is_the_summarizers(tmp_path):
    from mlperf_logging.result_summarizer import result_summarizer

    root = logs.submission(tmp_path / "Acme", runs())
    power()(root)
    lies('{"scaling_factor": 1.25}')(root)
    (minutes, energy_j, _), _ = silent(result_summarizer._compute_strong_score_standalone, "llama31_8b", "box", True,
                                       str(folder_of(root)), "training", "6.1.0")  # fmt: skip
    _, score = ours(root)
    assert (score["score_min"], score["energy_j"]) == (minutes, pytest.approx(energy_j, rel=1e-14))


def test_a_folder_outside_a_submission_goes_by_its_logs(tmp_path):
    for i, events in enumerate(runs()):
        logs.write(tmp_path / "mine" / f"result_{i}.txt", events)
    package, score = ours(tmp_path / "mine")
    assert package["accepted"] and package["system_right"] is None and package["convergence_passed"]
    assert score["score_min"] == pytest.approx(64.5)
    (tmp_path / "mine" / "result_9.txt").unlink()
    assert not ours(tmp_path / "mine")[0]["accepted"]


def test_benchmark_folders_without_result_logs_are_found(tmp_path, monkeypatch):
    """The official checker counts no logs there; the rest of the submission does not hide it."""
    root = logs.submission(tmp_path / "Acme", runs())
    (root / "results" / "box" / "bert").mkdir()
    logs.write(root / "results" / "box" / "flux1" / "run_0.txt", logs.run(3, benchmark="flux1"))
    (root / "results" / "box" / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    for path in (root, Path("Acme"), Path()):
        found = {folder.benchmark: folder for folder in results.find(path)}
        assert {name: len(folder.logs) for name, folder in found.items()} == {"llama31_8b": 10, "bert": 0, "flux1": 1}
        said = verify.verify(found["flux1"], ROUND)["official"]
        assert not said["accepted"] and said["crashed"].startswith("KeyError: None")
        scored = folder_score.score(found["bert"], ROUND)
        assert scored["score_min"] is None and scored["why"] == "the folder has no logs of runs"
    invoked = CliRunner().invoke(cli, ["verify", str(root), "--round", "6.1", "--official"], standalone_mode=False)
    assert invoked.return_value == 1 and "0 logs result_<i>.txt, not 3" not in invoked.output
    assert package_check(root)[1] == "KeyError"


def model(seed, *, start_s, minutes=30.0, reached=0.12, benchmark="cosmoflow", **changed):
    """A log that complies with the rules of cosmoflow in the HPC suite."""
    point = "POINT_IN_TIME"
    about = {"submission_benchmark": benchmark, "submission_division": "closed", "submission_org": "Lab",
             "submission_platform": "box", "submission_status": "onprem", "cache_clear": True, "seed": seed,
             "number_of_nodes": 4, "accelerators_per_node": 0, "global_batch_size": 64, "opt_name": "sgd",
             "opt_base_learning_rate": 0.001, "opt_learning_rate_warmup_epochs": 4,
             "opt_learning_rate_warmup_factor": 1, "opt_learning_rate_decay_boundary_epochs": [16, 32],
             "opt_learning_rate_decay_factor": [0.25, 0.125], "train_samples": 524288, "eval_samples": 65536}
    about |= changed
    stop_s = start_s + 60 * minutes
    events = [logs.event(0, "INTERVAL_START", "init_start")]
    events += [logs.event(0, point, key, value) for key, value in about.items()]
    events += [
        logs.event(start_s - 1, "INTERVAL_END", "init_stop"),
        logs.event(start_s, "INTERVAL_START", "run_start"),
        logs.event(start_s, "INTERVAL_START", "epoch_start", epoch_num=1),
        logs.event(start_s + 1, "INTERVAL_START", "eval_start", epoch_num=40),
        logs.event(stop_s, point, "eval_error", reached, epoch_num=40),
        logs.event(stop_s, "INTERVAL_END", "eval_stop", epoch_num=40),
        logs.event(stop_s, "INTERVAL_END", "epoch_stop", epoch_num=40),
        logs.event(stop_s, "INTERVAL_END", "run_stop", status="success" if reached < 0.124 else "aborted"),
    ]  # fmt: skip
    return events


def throughput(tmp_path, models):
    root = logs.submission(tmp_path / "Lab", [])
    where = root / "results" / "box" / "weak" / "cosmoflow"
    for i, events in enumerate(models):
        logs.write(where / f"result_{i}.txt", events)
    return root


def test_throughput_is_from_the_first_start_to_the_last_stop(tmp_path):
    models = [model(i, start_s=10 + i, minutes=30 + i / 7) for i in range(12)]
    models.append(model(50, start_s=2, minutes=90, reached=0.2))  # has not converged: neither counts it
    root = throughput(tmp_path, models)
    (folder,) = results.find(root)
    scored = folder_score.score(folder, HPC)
    official = scored["official"]["throughput"]
    for key, column in (("time_to_train_all_min", "time_to_train_all"), ("number_of_models", "number_of_models"),
                        ("instance_scale", "instance_scale")):  # fmt: skip
        assert (official[key], None) == summarise(root, f"cosmoflow:{column}", "hpc", "3.0.0")
    assert scored["official"]["score_min"] is None
    assert scored["score_min"] == pytest.approx(official["time_to_train_all_min"])
    assert scored["throughput"] == {"num_models": 12, "instance_scale": 4, "system_scale": 1}
    assert "1 of 13 models did not converge" in scored["notes"][0] and scored["factor"] == 1 and not scored["ci95_min"]
    assert tie.judge(scored, scored).ratio is None
    shown = CliRunner().invoke(cli, ["score", str(root), "--round", "hpc-3.0", "--official"], standalone_mode=False)
    assert "12 models of 4 accelerators" in shown.output and repr(official["time_to_train_all_min"]) in shown.output


def test_models_with_the_seeds_of_another_are_left_out_by_the_rules(tmp_path):
    root = throughput(tmp_path, [model(i % 10, start_s=10, minutes=30 + i) for i in range(11)])
    (folder,) = results.find(root)
    scored = folder_score.score(folder, HPC)
    assert scored["score_min"] == pytest.approx(39) and scored["throughput"]["num_models"] == 10
    assert scored["official"]["throughput"]["number_of_models"] == 11  # which does not look
    (root / "results" / "box" / "weak" / "cosmoflow" / "result_9.txt").unlink()
    scored = folder_score.score(results.find(root)[0], HPC)
    assert scored["score_min"] is None and "9 models that count" in scored["why"]


def test_pruned_logs_are_no_result(tmp_path):
    root = throughput(tmp_path, [model(i, start_s=10) for i in range(10)])
    pruned = root / "results" / "box" / "weak" / "cosmoflow" / "pruned_results"
    logs.write(pruned / "result_0.txt", model(90, start_s=10, minutes=900))
    result, other = results.find(root)
    assert result.logs and len(result.logs) == 10 and other.is_pruned
    said = verify.verify(other, HPC)
    assert said["valid"] and said["official"]["accepted"] and said["official"]["passed_over"]
    scored = folder_score.score(other, HPC)
    assert scored["score_min"] is None and scored["why"] == "pruned logs are no result"
    assert not results.find(pruned)[0].in_odd_place  # asked for by itself, it is judged by itself


FIRST_ROUND = """:::MLPv0.5.0 {benchmark} 1541600000.5 (a.py:1) run_start
:::MLPv0.5.0 {benchmark} 1541600000.6 (a.py:2) eval_target: {target}
:::MLPv0.5.0 {benchmark} 1541600100.0 (a.py:3) eval_accuracy: {{"epoch": 1, "value": 0.1}}
:::MLPv0.5.0 {benchmark} {stop} (a.py:3) eval_accuracy: {{"value": {reached}, "epoch": 60}}
:::MLPv0.5.0 {benchmark} {stop} (a.py:4) run_stop{success}
:::MLPv0.5.0 {benchmark} 1541609999.9 (a.py:5) run_final
"""


@pytest.mark.parametrize(
    ("success", "reached", "converged"),
    [("", 0.75, True), ("", 0.749, True), ("", 0.74, False), (': {"success": "true"}', 0.1, True),
     (': {"success": "false"}', 0.8, False), (': {"success": true}', 0.75, True)],
)  # fmt: skip
def test_v05_says_success_in_several_ways(tmp_path, success, reached, converged):
    """By run_stop, as a truth value or as text; where it says nothing, by the target that the log names."""
    for i in range(5):
        text = FIRST_ROUND.format(benchmark="resnet", target=0.749, reached=reached, stop=1541606000.5 + 60 * i,
                                  success=success)  # fmt: skip
        (tmp_path / f"result_{i}.txt").write_text(text)
    for command in (["score", str(tmp_path), "--json"], ["score", str(tmp_path), "--round", "0.5", "--json"]):
        invoked = CliRunner().invoke(cli, command, standalone_mode=False)
        (one,) = json.loads(invoked.output)["results"]
        assert one["num_converged"] == 5 * converged and invoked.return_value == (0 if converged else 1)
        assert one["score_min"] == (pytest.approx(102) if converged else None)
    assert one["official"] is None and one["convergence_why"] == folder_score.BEFORE_REFERENCES
    for command in (["score", "--official"], ["verify"]):
        invoked = CliRunner().invoke(cli, [*command, str(tmp_path), "--round", "0.5"], standalone_mode=False)
        assert "no rules of training 0.5.0" in str(invoked.exception)


def test_one_log_of_a_folder_is_judged_by_itself(tmp_path):
    root = logs.submission(tmp_path / "Acme", runs(1))
    log = folder_of(root) / "result_0.txt"
    for path, code in ((log, 0), (folder_of(root), 1), (root, 1)):
        arguments = ["verify", os.fspath(path), "--round", "6.1", "--official", "--json"]
        assert CliRunner().invoke(cli, arguments, standalone_mode=False).return_value == code


def test_the_status_that_submissions_of_v40_wrote_is_no_traceback(tmp_path):
    root = logs.submission(tmp_path / "Acme", runs(), described={"status": "available"})
    (found,) = results.find(root)
    said = verify.verify(found, rounds.parse("4.0"))["official"]
    assert said["crashed"] is None and said["system_right"] is False


def test_what_is_said_of_one_log_is_of_that_log(tmp_path):
    """The seed checker and the counting of runs look at folders: of one log the compliance checker alone speaks."""
    root = logs.submission(tmp_path / "Acme", runs(1))
    log = folder_of(root) / "result_0.txt"

    def said(*more):
        invoked = CliRunner().invoke(cli, ["verify", os.fspath(log), "--round", "6.1", *more], standalone_mode=False)
        return invoked.return_value, " ".join(invoked.output.split())

    assert "the official checkers accept 1" in said()[1]
    (root / "systems" / "box.json").unlink()
    assert said()[0] == 0
    logs.write(log, logs.without(logs.run(15), "seed"))
    code, text = said("--differences")
    assert code == 1 and "rules text: no, by the official checkers: yes" in text and "no seed is logged" in text


def test_logs_of_two_benchmarks_are_no_result(tmp_path):
    for i in range(4):
        benchmark = "bert" if i == 1 else "llama31_8b"
        logs.write(tmp_path / f"result_{i}.txt", logs.run(15, seed=i, minutes=60 + i, benchmark=benchmark))
    for command in (["score"], ["score", "--round", "6.1"], ["verify", "--round", "6.1"],
                    ["verify", "--round", "6.1", "--official"]):  # fmt: skip
        invoked = CliRunner().invoke(cli, [*command, os.fspath(tmp_path)], standalone_mode=False)
        assert invoked.return_value == 1, command
    (folder,) = results.find(tmp_path)
    scored = folder_score.score(folder, None)
    assert scored["score_min"] is None and scored["why"] == "the logs are of 2 benchmarks: bert, llama31_8b"


def test_a_difference_that_no_check_is_about_is_explained(tmp_path):
    """One run may fail; the official seed checker cannot read a log with a damaged line, and refuses the folder."""
    root = logs.submission(tmp_path / "Acme", [logs.run(15, seed=i, minutes=60 + i) for i in range(10)])
    path = folder_of(root) / "result_3.txt"
    path.write_text(path.read_text() + ":::MLLOG {\n")
    (folder,) = results.find(root)
    verified = verify.verify(folder, rounds.parse("6.1"))
    assert verified["valid"] and not verified["official"]["accepted"]
    assert any("refuse what the rules text allows: the seed checker fails" in one["text"]
               for one in verify.differences(verified))  # fmt: skip
