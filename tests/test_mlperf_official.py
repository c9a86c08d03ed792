"""--official is what the official code says: message for message, on logs of every round's rules, whole and spoilt."""

import copy
import glob
import importlib.util
import json
import random
from pathlib import Path

import pytest

from perfsuite.mlperf import convergence, official_check, official_convergence, official_files, restricted, rounds

pytest.importorskip("mlperf_logging")
pytestmark = pytest.mark.usefixtures("quiet_official_tools")
spec = importlib.util.spec_from_file_location("mlperf_logs", Path(__file__).with_name("mlperf_logs.py"))
logs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(logs)

VALUES = [0, 1, 0.9, 0.95, 1e-5, 1e-8, 0.1, 8192, 32, -1, 2.5, True, None, "adamw", "lamb", "sgd", "", "x", [1, 2], {},
          0.76, 100, 3.3, float("nan"), 10**30]  # fmt: skip
ROUNDS = [(usage, ruleset) for usage in ("training", "hpc") for ruleset in official_files.rulesets(usage)]


def official(path, usage, ruleset):
    """(valid, number of messages) of the official checker, or how its traceback ends."""
    from mlperf_logging.compliance_checker import mlp_compliance

    checker = mlp_compliance.make_checker(usage, ruleset, False, False)
    try:
        valid, *_ = mlp_compliance.main(str(path), f"{usage}_{ruleset}/common.yaml", checker)
    except Exception as error:
        mlp_compliance.enqueued_configs.clear()
        return type(error).__name__
    return valid, len(checker.overwritable) + number_of(checker.not_overwritable)


def number_of(messages):
    """Messages; "A or B" and "B or A" are one: which of them the official checker says, or both, is up to its sets."""
    told = [frozenset(message.split()) if " or " in message.partition("\n")[0] else i for i, message in
            enumerate(messages)]  # fmt: skip
    return len(set(told))


def ours(path, usage, ruleset):
    answer = official_check.check(path.read_bytes(), usage, ruleset)
    return answer.crashed.partition(":")[0] if answer.crashed else (answer.valid, number_of(answer.messages))


def same(path, usage, ruleset):
    assert ours(path, usage, ruleset) == official(path, usage, ruleset), (usage, ruleset, path.read_text("latin-1"))


def test_a_valid_log_is_valid(tmp_path):
    path = logs.write(tmp_path / "result_0.txt", logs.run())
    assert official(path, "training", "6.1.0") == (True, 0) == ours(path, "training", "6.1.0")


@pytest.mark.parametrize(("usage", "ruleset"), ROUNDS, ids=lambda part: str(part))
def test_every_rule_file_of_a_round_says_the_same(tmp_path, usage, ruleset):
    """Each benchmark of the round with random values for every key that its rules name."""
    draw = random.Random(f"{usage}{ruleset}")
    folder = official_files.rule_folder(usage, ruleset)
    names = [path.stem.partition("_") for path in folder.glob("*_*.yaml")] or [("closed", "_", p.stem) for p in
                                                                              folder.glob("*.yaml")]  # fmt: skip
    names = [name for name in names if name[2] != "common"]  # the official checker would never end
    for division, _, benchmark in sorted(names):
        keys = [r["KEY"]["NAME"] for path in folder.glob(f"*{benchmark}*.yaml")
                for r in official_files.yaml_records(path) if "KEY" in r]  # fmt: skip
        for _ in range(1):
            events = logs.run(3, division=division, benchmark=benchmark)
            events[40:40] = [logs.event(50, "POINT_IN_TIME", key, draw.choice(VALUES)) for key in keys]
            for one in events:
                one["metadata"] |= {"epoch_num": draw.choice([1, 2, 0.5]), "metric": draw.choice(["FID", "CLIP"])}
                if draw.random() < 0.1:
                    one["value"] = draw.choice(VALUES)
            path = tmp_path / "result_0.txt"
            path.write_text(as_round(events, ruleset))
            same(path, usage, ruleset)


def as_round(events, ruleset):
    """The log in the format of its round."""
    if ruleset != "0.6.0":
        return logs.text(events)
    told = [json.dumps({"value": one["value"], "metadata": one["metadata"]}) for one in events]
    return "".join(f":::MLL {one['time_ms'] / 1e3:.3f} {one['key']}: {says}\n"
                   for one, says in zip(events, told, strict=True))  # fmt: skip


def spoilt(draw, events):
    """A log with a few of the things that go wrong in logs."""
    events = copy.deepcopy(events)
    for _ in range(draw.randrange(1, 4)):
        one = draw.choice(events)
        match draw.randrange(9):
            case 0:
                events.remove(one)
            case 1:
                events.insert(draw.randrange(len(events)), copy.deepcopy(one))
            case 2:
                one["value"] = draw.choice(VALUES)
            case 3:
                one["key"] = draw.choice(["", "run_stop", "eval_accuracy", "nobody", one["key"] + "_"])
            case 4:
                one["time_ms"] = draw.choice([0, -5, 1.5e12, "17", 10**15])
            case 5:
                one["metadata"] = draw.choice([{}, {"samples_count": "x"}, {"status": 3}, {"epoch_num": None}])
            case 6:
                events.reverse()
            case 7:
                del one[draw.choice(list(one))]
                events.append(events[0])
            case 8:
                one["value"] = {"nested": [one["value"]]}
    data = bytearray(logs.text(events).encode())
    match draw.randrange(6):
        case 0:
            data = data[: draw.randrange(len(data))]
        case 1:
            for _ in range(20):
                data[draw.randrange(len(data))] = draw.randrange(256)
        case 2:
            data[draw.randrange(len(data)) : 0] = bytes(draw.randrange(256) for _ in range(200))
    return bytes(data)


def test_500_spoilt_logs_get_the_same_answer(tmp_path):
    draw = random.Random(7)
    for division in ("closed", "open"):
        for _ in range(250):
            path = tmp_path / "result_0.txt"
            path.write_bytes(spoilt(draw, logs.run(3, division=division)))
            same(path, "training", "6.1.0")


def test_every_reference_curve_is_pruned_the_same():
    """Means, spreads, least means and which points are left, of every file that the package has."""
    from mlperf_logging.rcp_checker import rcp_checker

    folder = official_files.package_folder() / "rcp_checker"
    seen = wrongly_pruned = 0
    for path in sorted(folder.glob("*/rcps_*.json")):
        usage, _, ruleset = path.parent.name.partition("_")
        benchmark = path.stem.removeprefix("rcps_")
        runs = official_convergence.NUM_RUNS[usage].get(benchmark)
        if runs is None:
            continue
        theirs = rcp_checker.RCP_Checker(usage, ruleset, benchmark, False)
        reference, drop = convergence.load(path), rounds.dropped(benchmark)
        points = [convergence._point(size, values, drop, "official") for size, values in sorted(reference.items())]
        left = convergence.pruned(points, runs, "official")
        expected = {(r["BS"], r["RCP Mean"], r["RCP Stdev"], r["Min Epochs"]) for r in theirs.pruned_rcp_data.values()}
        found = {(p.batch_size, p.mean, p.stdev, convergence.lowest_mean(p, runs)) for p in left}
        assert found == expected, path
        hull = convergence.pruned(points, runs, "hull")
        wrongly_pruned += hull != left
        seen += 1
    assert seen >= 80
    assert wrongly_pruned >= 20  # the known pruning defect of the official code


UNITS = [[180_000] * 10, [120_000] * 10, [160_000] * 5 + [200_000] * 5, [1e9] + [180_000] * 9]


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("batch_size", [16, 24, 32, 48, 8, 1000])
def test_the_convergence_check_of_a_folder_says_the_same(tmp_path, units, batch_size):
    from mlperf_logging.rcp_checker import rcp_checker

    for i, at in enumerate(units):
        run = logs.run(1, seed=i, global_batch_size=batch_size, status="success" if at < 1e9 else "aborted")
        logs.find(run, "eval_accuracy")["metadata"]["samples_count"] = at
        logs.write(tmp_path / f"result_{i}.txt", run)
    passed, message, factor = rcp_checker.check_directory(str(tmp_path), "training", "5.1.0", False, False,
                                                          rcp_pass="pruned_rcps")  # fmt: skip
    read = [official_convergence.read(Path(p).read_bytes(), "5.1.0") for p in glob.glob(f"{tmp_path}/result_*.txt")]
    found = official_convergence.check(read, "training", "5.1.0")
    assert (found.passed, found.message) == (passed, message)
    assert not passed or found.factor == factor


def test_the_rules_texts_own_example_comes_out():
    """training_rules, Appendix: RCP Examples. The official code gives 6.56 % and 14.78 there."""
    reference = {128: [16, 14, 16, 17, 16, 16, 15, 16, 15, 16], 256: [20, 21, 21, 20, 22, 22, 21, 21, 20, 20]}

    def check(batch_size, units, mode="rules"):
        return convergence.check(reference, batch_size, units, num_runs=5, drop=1, mode=mode)

    s1, s2, s3 = (check(128, [15, 15, 15, 16, 16]), check(256, [19, 19, 19, 20, 21]), check(192, [17, 18, 18, 18, 20]))
    assert s1.passed and (round(s1.reference.mean, 2), round(s1.reference.stdev, 2)) == (15.75, 0.43)
    assert round(s1.lowest, 2) == 15.21 and round(s2.lowest, 2) == 19.93 and not s2.passed
    assert s3.passed and s3.reference.interpolated and round(s3.reference.stdev, 3) == 0.547
    assert round(100 * (s3.reference.mean / s3.lowest - 1), 2) == 3.68
    assert not check(512, [30] * 5).passed and check(64, [16] * 5).passed and not check(64, [15] * 5).passed
    assert round(check(128, [15] * 5, "official").lowest, 2) == 14.78


def test_a_benchmark_called_common_has_an_end(tmp_path):
    events = [e for e in logs.run(1) if e["key"] != "submission_benchmark"]
    events.insert(0, logs.event(0, "POINT_IN_TIME", "submission_benchmark", "common"))
    path = logs.write(tmp_path / "result_0.txt", events)
    path.write_text(as_round(events, "0.6.0"))
    answer = official_check.check(path.read_bytes(), "training", "0.6.0")
    assert not answer.valid and "no end" in answer.crashed


@pytest.mark.parametrize(
    "code",
    [
        "__import__('os').system('true')", "open('/etc/passwd')", "().__class__", "v.__class__", "'{0.x}'.format(v)",
        "lambda: 0", "[x for x in v]", "exec('1')", "math.factorial(9)", "v if", "s.pop('x')",
    ],
)  # fmt: skip
def test_a_rule_that_is_more_than_a_rule_is_refused(code):
    with pytest.raises((restricted.Refused, KeyError, AttributeError)):
        restricted.expression(code)({"v": {}, "s": {}})


@pytest.mark.parametrize("code", ["9 ** 9 ** 9", "'x' * 10 ** 9", "[1] * 10 ** 9"])
def test_a_number_in_a_log_cannot_fill_the_memory(code):
    with pytest.raises(OverflowError):
        restricted.expression(code)({})
