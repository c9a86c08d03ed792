"""perfsuite verify by the rules text of older rounds: how they log qualities, when they evaluate, what of seeds.

Logs are short: only findings of the rule that a test is about are looked at.
"""

import importlib.util
import json
from pathlib import Path

import pytest

from perfsuite.mlperf import results, rounds, verify

pytest.importorskip("mlperf_logging")
HERE = Path(__file__)


def neighbour(name):
    spec = importlib.util.spec_from_file_location(name, HERE.with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


logs = neighbour("mlperf_logs")


def run(benchmark, batch, evaluations, *, division="closed", status="success", **more):
    """Events of a run. evaluations: (epoch_num or samples, quality, ...)."""
    point = "POINT_IN_TIME"
    about = {"submission_benchmark": benchmark, "submission_division": division, "cache_clear": True} | more
    events = [logs.event(0, point, key, value) for key, value in about.items()]
    events += [logs.event(0, "INTERVAL_START", "init_start"), logs.event(9, "INTERVAL_END", "init_stop")]
    events += [logs.event(10, "INTERVAL_START", "run_start"), logs.event(10, point, "global_batch_size", batch)]
    events += [logs.event(20 + i, point, "eval_accuracy", quality, epoch_num=at)
               for i, (at, quality) in enumerate(evaluations)]  # fmt: skip
    return [*events, logs.event(900, "INTERVAL_END", "run_stop", status=status)]


def v06(events):
    """The same events as lines of v0.6."""
    bodies = [json.dumps({"value": one["value"], "metadata": one["metadata"]}) for one in events]
    return "".join(f":::MLL {one['time_ms'] / 1e3:.3f} {one['key']}: {body}\n"
                   for one, body in zip(events, bodies, strict=True))  # fmt: skip


def verified(tmp_path, text, played):
    path = tmp_path / "result_0.txt"
    path.write_text(text if isinstance(text, str) else logs.text(text))
    (folder,) = results.find(path)
    return verify.verify(folder, rounds.parse(played))


def findings(tmp_path, text, played, rule, severity="error"):
    """Texts of one rule on one log."""
    (log,) = verified(tmp_path, text, played)["logs"]
    found = [one for one in log["findings"] if one["rule"] == rule and one["severity"] == severity]
    for one in log["findings"]:
        assert one["official"] != "the same" or not log["official_valid"], one
    return [one["text"] for one in found]


@pytest.mark.parametrize(
    ("played", "name", "good", "bad"),
    [
        ("0.7", "transformer", 0.2526, 0.2499),
        ("0.7", "gnmt", 0.2404, 0.2399),
        ("0.7", "transformer", 0.25, 25.26),  # a share, not points of a hundred
        ("0.6", "transformer", 25.3, 24.9),
        ("0.7", "maskrcnn", {"BBOX": 0.378, "SEGM": 0.34}, {"BBOX": 0.378, "SEGM": 0.338}),
        ("1.1", "maskrcnn", {"BBOX": 0.377, "SEGM": 0.339}, {"BBOX": 0.3769, "SEGM": 0.35}),
        ("1.0", "rnnt", 0.0579, -1.0),  # an error below 0 is none
        ("3.1", "gpt3", 2.69, 0),
        ("3.1", "resnet", 0.7591, 75.91),
    ],
)
def test_targets_are_in_the_units_of_the_round(tmp_path, played, name, good, bad):
    assert findings(tmp_path, run(name, 64, [(1, good)]), played, "quality") == []
    assert "the run ends at" in findings(tmp_path, run(name, 64, [(1, bad)]), played, "quality")[0]


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("transformer", "25.3298", "24.99"),
        ("transformer", "25", "nan"),
        ("transformer", "2.6e1", "inf"),
        ("maskrcnn", {"accuracy": {"BBOX": 0.3787, "SEGM": 0.3426}}, {"accuracy": {"BBOX": 0.3787, "SEGM": 0.3}}),
        ("maskrcnn", [0.3783, 0.3422], [0.3783, 0.3388]),
        ("resnet", {"accuracy": 0.7598}, {"accuracy": "0.7x"}),
    ],
)
def test_v06_logs_text_nested_and_listed_qualities(tmp_path, name, good, bad):
    assert findings(tmp_path, v06(run(name, 64, [(1, good)])), "0.6", "quality") == []
    assert findings(tmp_path, v06(run(name, 64, [(1, bad)])), "0.6", "quality")


@pytest.mark.parametrize("value", ["0.2526", {"accuracy": 0.2526}, [0.2526, 0.2526], True, None, 1e400, "25.26"])
def test_later_rounds_take_numbers_only(tmp_path, value):
    assert findings(tmp_path, run("transformer", 64, [(1, value)]), "0.7", "quality")


def test_both_metrics_are_reached_at_the_last_evaluation(tmp_path):
    apart = [(1, {"BBOX": 0.38, "SEGM": 0.33}), (2, {"BBOX": 0.37, "SEGM": 0.34})]
    (text,) = findings(tmp_path, run("maskrcnn", 64, apart), "2.0", "quality")
    assert text == "the run ends at 0.37 of BBOX; the target is >= 0.377"
    assert "no evaluation of SEGM" in findings(tmp_path, run("maskrcnn", 64, [(1, {"BBOX": 0.4})]), "2.0", "quality")[0]


def test_an_evaluation_after_the_clock_does_not_count(tmp_path):
    events = run("resnet", 64, [(4, 0.76)])
    late = logs.event(950, "POINT_IN_TIME", "eval_accuracy", 0.1, epoch_num=8)
    assert findings(tmp_path, [*events, late], "3.1", "quality") == []
    events = run("resnet", 64, [(4, 0.7)])
    late = logs.event(950, "POINT_IN_TIME", "eval_accuracy", 0.76, epoch_num=8)
    assert findings(tmp_path, [*events, late], "3.1", "quality")


def test_an_error_beside_it_negated(tmp_path):
    events = run("cosmoflow", 64, [(1, -0.13), (2, -0.123)])
    errors = [dict(one, key="eval_error", value=-one["value"]) for one in events if one["key"] == "eval_accuracy"]
    assert findings(tmp_path, [*events[:-1], *errors, events[-1]], "hpc-1.0", "quality") == []
    assert findings(tmp_path, events, "hpc-1.0", "quality")
    errors[-1]["value"] = 0.125
    assert findings(tmp_path, [*events[:-1], *errors, events[-1]], "hpc-1.0", "quality")


def test_minigo_of_v06_ends_with_eval_result(tmp_path):
    events = [one for one in run("minigo", 64, [(1, 0.2), (2, 0.51)]) if one["key"] != "run_stop"]
    saved = logs.event(990, "POINT_IN_TIME", "eval_result", None, iteration=2, timestamp=300.5)
    (log,) = verified(tmp_path, v06([*events, saved]), "0.6")["logs"]
    wrong = {one["rule"]: one["text"] for one in log["findings"] if one["severity"] == "error"}
    assert not {"order", "status", "quality"} & set(wrong)
    assert not any("run_stop" in one["text"] for one in log["findings"] if one["severity"] == "error")
    saved["metadata"]["timestamp"] = 0
    assert findings(tmp_path, v06([*events, saved]), "0.6", "status")


def at(*epochs):
    return [(epoch, 0.76) for epoch in epochs]


@pytest.mark.parametrize(
    ("played", "epochs", "good"),
    [
        ("1.0", (1, 5, 9, 13), True),
        ("1.0", (0, 1, 5, 9), True),  # 0 is before the training
        ("1.0", (2, 4, 6, 8), False),  # "at the same frequency"
        ("0.7", (2, 4, 6, 8), True),  # "at least as frequently"
        ("0.7", (4, 12, 16), False),
        ("1.0", (3, 6, 10, 14), True),  # the first interval begins at the offset
        ("4.0", (31, 33, 34, 35), False),
    ],
)
def test_schedule_of_resnet(tmp_path, played, epochs, good):
    assert (findings(tmp_path, run("resnet", 1024, at(*epochs)), played, "schedule") == []) == good


@pytest.mark.parametrize("played", ["0.7", "1.0", "3.1"])
def test_schedule_of_maskrcnn(tmp_path, played):
    def log(epochs):
        events = run("maskrcnn", 96, [(epoch, value) for epoch in epochs for value in (0.38, 0.34)])
        for i, one in enumerate(one for one in events if one["key"] == "eval_accuracy"):
            one["metadata"]["metric"] = ("BBOX", "SEGM")[i % 2]
        return events

    assert findings(tmp_path, log((1, 2, 3, 4)), played, "schedule") == []
    assert "an evaluation 2 after the one before" in findings(tmp_path, log((1, 3, 4)), played, "schedule")[0]
    assert "the first evaluation is after 3" in findings(tmp_path, log((3, 4)), played, "schedule")[0]


@pytest.mark.parametrize(
    ("tokens", "good"),
    [
        ((50_331_648, 100_663_296, 150_994_944), True),  # 24,576 sequences of 2048 tokens
        ((50_331_648, 150_994_944), False),
        ((25_165_824, 50_331_648, 75_497_472), False),
    ],
)
def test_schedule_of_gpt3(tmp_path, tokens, good):
    assert (findings(tmp_path, run("gpt3", 1536, [(n, 2.68) for n in tokens]), "4.0", "schedule") == []) == good


@pytest.mark.parametrize(
    ("samples", "good"),
    [
        ((150_000, 300_000, 450_000), True),
        ((150_080, 300_160, 450_240), True),
        ((150_100, 299_700, 449_300), True),  # packed: a batch has more or fewer samples than its size
        ((153_600, 303_600, 454_400), True),  # with batches that were skipped because numbers overflowed
        ((175_104, 350_208, 525_312), False),  # the interval of a larger batch
        ((75_000, 150_000, 225_000), False),
    ],
)
def test_schedule_of_bert(tmp_path, samples, good):
    events = run("bert", 448, [(n, 0.721) for n in samples])
    assert (findings(tmp_path, events, "3.0", "schedule") == []) == good


def test_bert_that_does_not_say_samples(tmp_path):
    events = run("bert", 448, [(1, 0.7), (1, 0.71), (1, 0.721)])
    assert findings(tmp_path, events, "1.0", "schedule") == []
    assert "not checked" in findings(tmp_path, events, "1.0", "schedule", "warning")[0]
    events = logs.run(3, qualities=[3.5, 3.4, 3.29])
    for one in events:
        if "samples_count" in one["metadata"]:
            one["metadata"]["samples_count"] = 1
    assert findings(tmp_path, events, "6.1", "schedule")  # who says samples is taken at its word


def test_hundredths_of_an_epoch(tmp_path):
    grid = [(0.05, 0.6), (0.1, 0.6), (0.15, 0.6), (0.19, 0.6), (0.24, 0.73)]
    assert findings(tmp_path, run("gnn", 4096, grid), "4.0", "schedule") == []
    assert findings(tmp_path, run("gnn", 4096, [*grid, (0.25, 0.73)]), "4.0", "schedule")
    assert findings(tmp_path, run("gnn", 4096, [(0.02, 0.6), (0.04, 0.73)]), "4.0", "schedule")


@pytest.mark.parametrize(("value", "good"), [(None, True), ("True", True), (1, True), (False, False), ("no", False)])
def test_cache_clear(tmp_path, value, good):
    events = run("resnet", 64, at(4), cache_clear=value)
    assert (findings(tmp_path, events, "1.0", "cache") == []) == good


def test_a_clock_that_starts_early_costs_only_time(tmp_path):
    events = run("resnet", 64, at(4))
    for key in ("init_start", "init_stop"):
        logs.find(events, key)["time_ms"] += 10**9
    assert findings(tmp_path, events, "1.0", "order") == []
    assert "comes before" in findings(tmp_path, events, "1.0", "order", "warning")[0]
    events = run("resnet", 64, at(4))
    logs.find(events, "run_start")["time_ms"] += 10**9
    assert findings(tmp_path, events, "1.0", "order")


def test_init_beyond_the_limit_counts_as_run_time(tmp_path):
    events = run("minigo", 64, [(1, 0.6)])
    for one in events:
        one["time_ms"] += 31 * 60_000 if one["key"] != "init_start" else 0
    (log,) = verified(tmp_path, events, "1.1")["logs"]
    said = [one for one in log["findings"] if "init" in one["text"]]
    assert [one["official"] for one in said if one["rule"] == "init"] == ["contrary"]
    assert not [one for one in said if one["severity"] == "error"]


def test_weights_need_no_logging_in_v11(tmp_path):
    (log,) = verified(tmp_path, run("bert", 448, [(150_080, 0.721)]), "1.1")["logs"]
    said = [one for one in log["findings"] if "weights_initialization" in one["text"]]
    assert said and all(one["severity"] == "warning" and one["official"] == "contrary" for one in said)


def folder(root, runs, benchmark, *, scaling=None, below="", described=None):
    """A tree with one result; its folder."""
    from perfsuite.mlperf.system_fields import FIELDS

    (root / "systems").mkdir(parents=True)
    description = dict.fromkeys(FIELDS, "x") | {"division": "closed", "status": "onprem"} | (described or {})
    (root / "systems" / "box.json").write_text(json.dumps(description))
    path = root.joinpath(*[part for part in ("results", "box", scaling, benchmark, below) if part])
    for i, events in enumerate(runs):
        logs.write(path / f"result_{i}.txt", events)
    return path


def whole(path, played, rule):
    """(severity, text, official) of one rule on one folder."""
    (found,) = [one for one in results.find(path) if one.path == path]
    one = verify.verify(found, rounds.parse(played))
    return [(f["severity"], f["text"], f["official"]) for f in one["findings"] if f["rule"] == rule], one


def seeded(seed, **more):
    return [*run("resnet", 1024, at(4, 8), **more), logs.event(5, "POINT_IN_TIME", "seed", seed)]


def test_seeds_before_v41(tmp_path):
    runs = [seeded(1) for _ in range(5)]
    found, one = whole(folder(tmp_path / "a", runs, "resnet"), "3.1", "seeds")
    assert [(severity, official) for severity, _, official in found] == [("warning", "contrary")]
    assert one["official"]["seeds_right"] is False
    assert whole(folder(tmp_path / "b", runs, "resnet"), "0.7", "seeds")[0] == []
    found, _ = whole(folder(tmp_path / "c", runs, "resnet"), "4.1", "seeds")
    assert [(severity, official) for severity, _, official in found] == [("error", "the same")]


def test_a_division_however_it_is_written(tmp_path):
    for i, (written, says) in enumerate([("Closed", "warning"), ("close", "warning"), ("shut", "error")]):
        path = folder(tmp_path / str(i), [seeded(n) for n in range(5)], "resnet", described={"division": written})
        found, one = whole(path, "1.0", "system")
        assert [severity for severity, _, _ in found] == [says]
        assert one["division"] == ("closed" if says == "warning" else "shut")


def test_status_of_a_system_is_asked_for_from_v41(tmp_path):
    for played, says in (("3.1", []), ("4.0", [("warning", "contrary")]), ("4.1", [("error", "the same")])):
        found, one = whole(folder(tmp_path / played, [seeded(n) for n in range(5)], "resnet"), played, "system")
        assert [(severity, official) for severity, _, official in found] == says
        assert (one["official"]["system_right"], one["official"]["crashed"]) == (not says, None)


def test_runs_that_only_our_rules_refuse_are_not_refused_by_the_official_checker(tmp_path):
    runs = [seeded(n, cache_clear=False) for n in range(5)]
    for one in runs:  # what the official checker looks at besides is of no matter here
        assert one
    found, one = whole(folder(tmp_path / "a", runs, "resnet"), "3.1", "failed")
    refused = one["official"]["logs_not_compliant"] > 1
    assert [(severity, official) for severity, _, official in found] == [
        ("error", "the same" if refused else "not checked")
    ]


def deepcam(seed, good=True):
    events = run("deepcam", 512, [(1, 0.83 if good else 0.5)], status="success" if good else "aborted")
    return [*events, logs.event(5, "POINT_IN_TIME", "seed", seed)]


def test_throughput_of_the_hpc_suite(tmp_path):
    left_out = folder(tmp_path / "a", [deepcam(1, good=False)], "deepcam", scaling="weak", below="pruned_results")
    found, one = whole(left_out, "hpc-2.0", "pruned")
    assert [severity for severity, _, _ in found] == ["warning"] and one["valid"]
    assert not [f for f in one["findings"] if f["rule"] in ("count", "failed", "convergence")]
    runs = [deepcam(1), *(deepcam(n) for n in range(1, 6))]
    assert whole(folder(tmp_path / "b", runs, "deepcam", scaling="weak"), "hpc-1.0", "seeds")[0][0][0] == "warning"
    assert whole(folder(tmp_path / "c", runs, "deepcam", scaling="weak"), "hpc-2.0", "seeds")[0][0][0] == "error"
    assert whole(folder(tmp_path / "d", runs[1:], "deepcam", scaling="strong"), "hpc-2.0", "seeds")[0] == []
    runs = [*(deepcam(n) for n in range(6)), deepcam(9, good=False)]  # one may fail, but not in throughput
    found, _ = whole(folder(tmp_path / "e", runs, "deepcam", scaling="weak"), "hpc-2.0", "failed")
    assert found[0][0] == "error" and "the rules allow 0" in found[0][1]


def test_bert_says_samples_to_converge_on_a_line_of_its_own(tmp_path):
    def bert(samples):
        line = logs.event(899, "POINT_IN_TIME", "train_samples", samples)
        return [*run("bert", 448, [(1, 0.7), (1, 0.721)]), line]

    found, one = whole(folder(tmp_path / "a", [bert(2_600_000)] * 10, "bert"), "1.0", "convergence")
    assert [(severity, official) for severity, _, official in found] == [("warning", "contrary")]
    assert one["official"]["convergence_passed"] is False
    found, _ = whole(folder(tmp_path / "b", [bert(1_000_000)] * 10, "bert"), "1.0", "convergence")
    assert [(severity, official) for severity, _, official in found] == [("error", "the same")]


def test_unet3d_says_epochs_where_the_points_count_samples(tmp_path):
    runs = [run("unet3d", 56, [(1000, 0.5), (2400, 0.909)])] * 40
    found, one = whole(folder(tmp_path / "a", runs, "unet3d"), "3.1", "convergence")
    assert [(severity, official) for severity, _, official in found] == [("warning", "contrary")]
    assert one["official"]["convergence_passed"] is False
    runs = [run("unet3d", 56, [(1000, 0.909)])] * 40
    assert whole(folder(tmp_path / "b", runs, "unet3d"), "3.1", "convergence")[0][0][0] == "error"


def test_a_scaled_score_is_no_refused_one(tmp_path):
    runs = [[*run("resnet", 1024, at(4, 8)), logs.event(5, "POINT_IN_TIME", "seed", n)] for n in range(5)]
    path = folder(tmp_path, runs, "resnet")
    found, _ = whole(path, "2.1", "convergence")
    assert [(severity, official) for severity, _, official in found] == [("error", "the same")]
    (path / "scaling.json").write_text('{"scaling_factor": 1.1}')
    assert whole(path, "2.1", "convergence")[0][0][0] == "warning"
