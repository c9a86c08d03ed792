"""perfsuite verify by the rules text: each rule is broken once, and a thousand spoilt logs never pass or crash."""

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from perfsuite.cli import cli
from perfsuite.mlperf import results, rounds, rulebook, verify

pytest.importorskip("mlperf_logging")
HERE = Path(__file__)


def neighbour(name):
    spec = importlib.util.spec_from_file_location(name, HERE.with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


logs = neighbour("mlperf_logs")
ROUND = rounds.parse("6.1")


def verified(path, played=ROUND):
    (folder,) = results.find(Path(path))
    return verify.verify(folder, played)


def said(tmp_path, events, severity="error"):
    """What is said of one log."""
    one = verified(logs.write(tmp_path / "result_0.txt", events))
    found = [f for f in one["logs"][0]["findings"] if f["severity"] == severity]
    assert one["valid"] == (not found) or severity != "error"
    return " | ".join(f["text"] for f in found)


def test_a_good_log_has_no_finding(tmp_path):
    one = verified(logs.write(tmp_path / "result_0.txt", logs.run()))
    assert one["valid"] and one["logs"][0]["findings"] == []


KEYS = ["init_stop", "run_start", "run_stop", "opt_name", "seed", "submission_org", "eval_accuracy"]


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key(tmp_path, key):
    assert said(tmp_path, logs.without(logs.run(), key))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("opt_adamw_beta_2", 0.999, "0.95"),
        ("opt_end_learning_rate", 0.0005, "opt_end_learning_rate is 0.0005"),
        ("seed", "abc", "not a whole number"),
        ("submission_division", "half-open", "no division"),
        ("submission_benchmark", "nobody", "no benchmark of training 6.1.0"),
        ("cache_clear", False, "caches were not cleared"),
    ],
)
def test_a_wrong_value(tmp_path, key, value, says):
    events = logs.run()
    logs.find(events, key)["value"] = value
    assert says in said(tmp_path, events)


def test_the_target_is_missed(tmp_path):
    events = logs.run(4, qualities=[3.2, 3.5, 3.4, 3.31])
    assert "the run ends at 3.31; the target is <= 3.3" in said(tmp_path, events)


def test_order_of_the_clock(tmp_path):
    events = logs.run()
    logs.find(events, "run_start")["time_ms"] += 10**8
    assert "comes before run_start" in said(tmp_path, events)


def test_evaluations_belong_to_a_grid(tmp_path):
    events = logs.run(6)
    for one in events:
        if "samples_count" in one["metadata"]:
            one["metadata"]["samples_count"] //= 2
    assert "the first evaluation is after 6144, where the rules have 12288 samples" in said(tmp_path, events)


def test_open_division_may_do_much_and_not_all(tmp_path):
    events = logs.run(5, division="open", qualities=[3.9, 3.8, 3.7, 3.6, 3.5])
    for one in events:
        if "samples_count" in one["metadata"]:
            one["metadata"]["samples_count"] //= 3
    logs.find(events, "opt_adamw_beta_2")["value"] = 0.5
    one = verified(logs.write(tmp_path / "result_0.txt", events))
    assert one["valid"], one
    # The official rule wants a log perplexity below 1 there.
    assert not one["logs"][0]["official_valid"]
    assert any("below 1.0" in f["text"] and f["official"] == "contrary" for f in one["logs"][0]["findings"])
    logs.find(events, "run_stop")["metadata"]["status"] = "aborted"
    assert "aborted" in said(tmp_path, events)


def test_folder_rules(tmp_path):
    runs = [logs.run(seed=i, minutes=60 + i) for i in range(10)]
    good = verified(logs.submission(tmp_path / "A", runs))
    assert good["valid"] and good["official"]["accepted"]

    def errors(changed, name):
        one = verified(logs.submission(tmp_path / name, changed))
        return one, " | ".join(f["text"] for f in one["findings"] if f["severity"] == "error")

    one, text = errors([*runs[:9], logs.run(seed=3, minutes=61)], "B")
    assert "has the seed 3 of result_3.txt" in text and not one["official"]["accepted"]
    one, text = errors([*runs[:9], logs.run(seed=77, global_batch_size=64)], "C")
    assert "runs differ in global_batch_size: 32, 64" in text
    one, text = errors([*runs[:8], *(logs.run(seed=70 + i, status="aborted") for i in range(2))], "D")
    assert "2 of 10 runs are not valid" in text and not one["valid"]
    one, text = errors([*runs[:9], logs.run(seed=77, status="aborted")], "E")
    assert one["valid"] and not text  # one may fail
    one, text = errors(runs[:9], "F")
    assert "9 runs; a result of llama31_8b has 10" in text
    (tmp_path / "A" / "systems" / "box.json").write_text(json.dumps({"division": "closed"}))
    one = verified(tmp_path / "A")
    assert not one["valid"] and any("lacks submitter" in f["text"] for f in one["findings"])


def test_a_thousand_spoilt_logs_never_crash_and_never_pass_wrongly(tmp_path):
    """Whatever is spoilt, a log that is called valid still reads, ends well and reaches its target in time above 0."""
    official = neighbour("test_mlperf_official")
    draw = random.Random(11)
    passed = 0
    for _ in range(1000):
        path = tmp_path / "result_0.txt"
        path.write_bytes(official.spoilt(draw, logs.run(3)))
        one = verified(path)
        log = one["logs"][0]
        assert all(f["text"] and f["severity"] in ("error", "warning") for f in log["findings"])
        if log["valid"]:
            passed += 1
            text = path.read_bytes().decode("latin-1")
            lines = [json.loads(line.rpartition(":::MLLOG ")[2]) for line in text.splitlines() if ":::MLLOG " in line]
            times = {line["key"]: line["time_ms"] for line in lines}
            assert times["run_stop"] > times["run_start"]
            assert [line for line in lines if line["key"] == "run_stop"][-1]["metadata"]["status"] == "success"
            assert [line["value"] for line in lines if line["key"] == "eval_accuracy"][-1] <= 3.3
    assert passed < 500


@pytest.mark.parametrize("ruleset", ["0.6", "0.7", "1.0", "1.1", "2.0", "2.1", "3.0", "3.1", "4.0", "4.1", "5.0", "5.1",
                                     "6.0", "6.1"])  # fmt: skip
def test_every_round_has_rules_for_each_of_its_benchmarks(ruleset):
    from mlperf_logging.benchmark_meta import get_allowed_benchmarks

    book = rulebook.of(rounds.parse(ruleset))
    theirs = set(get_allowed_benchmarks("training", f"{ruleset}.0")) - {"ncf"}
    assert theirs <= set(book.benchmarks)
    for benchmark in book.benchmarks.values():
        assert benchmark.targets
        if benchmark.schedule:
            for batch in (8, 256, 1152, 65536):
                assert 0 < benchmark.schedule.interval(batch) <= benchmark.schedule.first(batch)


@pytest.mark.parametrize("ruleset", ["1.0", "2.0", "3.0"])
def test_the_hpc_suite_has_rules(tmp_path, ruleset):
    from mlperf_logging.benchmark_meta import get_allowed_benchmarks

    book = rulebook.of(rounds.parse(f"hpc-{ruleset}"))
    assert set(get_allowed_benchmarks("hpc", f"{ruleset}.0")) == set(book.benchmarks)
    path = logs.write(tmp_path / "result_0.txt", logs.run(3, benchmark="deepcam", qualities=[0.7, 0.8, 0.81]))
    one = verified(path, rounds.parse(f"hpc-{ruleset}"))
    assert any("the target is >= 0.82" in f["text"] for f in one["logs"][0]["findings"])


def test_schedules_are_those_of_the_rules_text():
    """training_rules, Quality measure, and its appendix."""
    names = [("5.1", "llama2_70b_lora"), ("5.0", "llama31_405b"), ("5.1", "llama31_405b"), ("5.0", "bert"),
             ("5.1", "flux1")]  # fmt: skip
    at = {(round_, name): rulebook.of(rounds.parse(round_)).benchmarks[name].schedule for round_, name in names}
    lora = at["5.1", "llama2_70b_lora"]
    assert (lora.interval(8), lora.first(8), lora.interval(72), lora.first(72)) == (384, 1536, 432, 5184)
    assert at["5.0", "llama31_405b"].first(1152) == 46_080
    assert (at["5.1", "llama31_405b"].interval(1152), at["5.1", "llama31_405b"].first(1152)) == (18_432, 276_480)
    assert at["5.0", "bert"].interval(448) == 448 * -(-150_000 // 448)
    assert at["5.1", "flux1"].interval(2304) == 262_656


def test_command(tmp_path):
    root = logs.submission(tmp_path / "Acme", [logs.run(seed=i, minutes=60 + i) for i in range(10)])
    before = logs.contents(root)
    runner = CliRunner()
    junit = tmp_path / "out.xml"
    done = runner.invoke(cli, ["verify", str(root), "--round", "6.1", "--junit", str(junit), "--json"],
                         standalone_mode=False)  # fmt: skip
    assert done.return_value == 0 and json.loads(done.stdout)["valid"] is True
    suite = ElementTree.parse(junit).getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("11", "0")
    assert logs.contents(root) == before
    bad = root / "results" / "box" / "llama31_8b" / "result_3.txt"
    bad.write_bytes(bad.read_bytes()[:-40] + b"\x00\x01\n")
    done = runner.invoke(cli, ["verify", str(bad), "--round", "6.1", "--junit", str(junit)], standalone_mode=False)
    assert done.return_value == 1 and "cannot be read" in done.output
    assert ElementTree.parse(junit).getroot()[0].get("failures") == "1"
    for arguments, says in (
        (["verify", str(root), "--round", "7.9"], "no rules of training 7.9.0"),
        (["verify", str(root), "--round", "new"], "is not a round"),
        (["verify", str(tmp_path / "none"), "--round", "6.1"], "there is no file or folder"),
    ):
        done = runner.invoke(cli, arguments, standalone_mode=False)
        assert isinstance(done.exception, ValueError) and says in str(done.exception)


def test_half_of_a_surrogate_pair_in_a_log_ends_no_command(tmp_path):
    events = logs.run(3)
    logs.find(events, "submission_benchmark")["value"] = "\ud800"
    path = logs.write(tmp_path / "result_0.txt", events)
    for *arguments, code in (["verify", path, "--junit", tmp_path / "out.xml", 1],
                             ["score", path, "--html", tmp_path / "out.html", 0]):  # fmt: skip
        command = [sys.executable, "-c", "from perfsuite.cli import main; main()", *arguments, "--round", "6.1"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == code and "\\ud800" in done.stdout, done.stderr
    ElementTree.parse(tmp_path / "out.xml")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("global_batch_size", value) for value in (float("nan"), float("inf"), 10**4000, 1e-320, -1, "32", [32])],
        *[("eval_accuracy", value) for value in (float("nan"), 10**4000, "x", [1], {"a": float("inf")})],
        *[("seed", value) for value in (float("inf"), {"a": float("nan")}, [[[]]])],
        *[("submission_division", value) for value in (False, 1, None)],
        *[("submission_benchmark", value) for value in (False, 10**20, None, "1" * 400, "\0")],
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_value_that_cannot_be_is_an_error_to_every_command(tmp_path, key, value):
    events = logs.run(15)
    logs.find(events, key)["value"] = value
    if key == "eval_accuracy" and not isinstance(value, float | int):  # where the official checker ends
        assert verified(logs.write(tmp_path / "result_0.txt", events))["logs"][0]["official_crashed"]
    else:
        [one for one in events if one["key"] == key][-1]["value"] = value
    path = str(logs.write(tmp_path / "result_0.txt", events))
    for arguments in (["verify"], ["verify", "--json"], ["verify", "--differences"], ["verify", "--official"],
                      ["score", "--json"], ["score", "--official"], ["score", "--html", f"{tmp_path}/p"]):  # fmt: skip
        done = CliRunner().invoke(cli, [*arguments, path, "--round", "6.1"], standalone_mode=False)
        is_free = arguments[0] == "score" or "--official" in arguments  # the official checker takes many of them
        assert done.exception is None and done.return_value in ((0, 1) if is_free else (1,)), arguments
