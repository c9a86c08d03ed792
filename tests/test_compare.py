"""`perfsuite compare` on records with planted differences: words, factors, splits that add up, refusals, exit codes."""

import copy
import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perfsuite import record
from perfsuite.compare import compare

PERFSUITE = Path(sysconfig.get_path("scripts"), "perfsuite")
RESULTS = Path(__file__).parents[1] / "bench" / "results" / "amd-epyc-2c-46b157"


def load(name: str) -> dict[str, Any]:
    return vars(record.load(RESULTS / name)) | {"folder": RESULTS / name}


def arrays(made: dict[str, Any], name: str) -> dict[str, np.ndarray]:
    found = dict(record.arrays_of(made["folder"], name))
    scale = made.get("scaled", {})
    if "ops_self_ns" in found and scale:
        names = [row["name"] for row in made["passes"][-1]["ops"]["rows"]]
        factor = np.array([scale.get(name, 1.0) for name in names])
        before = found["ops_self_ns"]
        found["ops_self_ns"] = np.rint(before * factor).astype(np.int64)
    return found


@pytest.fixture(scope="module")
def llama() -> dict[str, Any]:
    return load("llama-tiny")


def slowed(made: dict[str, Any], factor: float, phase: str = "backward", jitter: float = 0.0) -> dict[str, Any]:
    """The same runs with one phase of each clean pass longer."""
    rng = np.random.default_rng(1)
    out = copy.deepcopy(made)
    for p in out["passes"]:
        if p["kind"] != "clean":
            continue
        line = next(line for line in p["phases"] if line["name"] == phase)
        more = round(line["time_ns"] * (factor * (1 + jitter * rng.standard_normal()) - 1))
        line["time_ns"] += more
        p["clock_ns"] += more
    return out


def test_a_record_is_the_same_as_itself(llama: dict[str, Any]) -> None:
    found = compare([llama], [llama], arrays)
    assert found["verdict"] == "SAME" and found["ratio"] == 1.0 and found["ci95"] == [1.0, 1.0]
    assert {line["verdict"] for line in found["lines"].values()} == {"SAME"}
    assert found["memory"]["verdict"] == "SAME" and found["drift"]["factor"] == 1.0
    assert {line["verdict"] for line in found["phases"]["lines"]} == {"SAME"}


def test_a_slower_phase_is_found_and_named(llama: dict[str, Any]) -> None:
    found = compare([llama], [slowed(llama, 1.3, jitter=0.01)], arrays)
    assert found["verdict"] == "SLOWER"
    assert found["lines"]["samples_to_target"]["verdict"] == "SAME"
    assert found["lines"]["time_per_sample"]["verdict"] == "SLOWER"
    lines = {line["name"]: line for line in found["phases"]["lines"]}
    assert found["phases"]["lines"][0]["name"] == "backward" and lines["backward"]["verdict"] == "SLOWER"
    assert lines["backward"]["ratio"] == pytest.approx(1.3, rel=0.02)
    assert {lines[name]["verdict"] for name in lines if name != "backward"} <= {"SAME", None}
    assert compare([slowed(llama, 1.3)], [llama], arrays)["verdict"] == "FASTER"


def test_the_split_adds_up(llama: dict[str, Any]) -> None:
    for other in (slowed(llama, 1.3), load("llama-tiny-native")):
        found = compare([llama], [other], arrays)
        for split in (found["phases"], found["ops"]):
            a, b = split["total_s"]
            assert sum(line["delta_s"] for line in split["lines"]) == pytest.approx(b - a, rel=1e-9, abs=1e-15)
            assert sum(line["a_s"] for line in split["lines"]) == pytest.approx(a, rel=1e-9)
        a, b = found["time_per_sample_s"]
        factors = found["samples_to_target"][1] / found["samples_to_target"][0] * b / a
        assert factors == pytest.approx(found["time_to_train_s"][1] / found["time_to_train_s"][0])


def test_a_slower_op_is_found_in_the_ledger_passes(llama: dict[str, Any]) -> None:
    changed = copy.deepcopy(llama) | {"scaled": {"aten::silu_backward": 1.5}}
    found = compare([llama], [changed], arrays)
    words = {line["name"]: line["verdict"] for line in found["ops"]["lines"]}
    assert words["aten::silu_backward (backward)"] == "SLOWER"
    assert words["aten::mm (backward)"] == "SAME"


def test_convergence_and_throughput_are_told_apart(llama: dict[str, Any]) -> None:
    """Faster steps, more of them: a kernel that harms convergence."""
    worse = copy.deepcopy(llama)
    for p in worse["passes"]:
        if p["kind"] == "clean":
            p["samples"] = round(p["samples"] * 1.5)
    found = compare([llama], [worse], arrays)
    assert found["lines"]["samples_to_target"]["verdict"] == "SLOWER"
    assert found["lines"]["time_per_sample"]["verdict"] == "FASTER"
    # The clocks are equal, but the runs no longer end at the same evaluations.
    assert found["lines"]["time_to_train"]["verdict"] == "CANNOT_TELL"


def test_drift_between_sittings_takes_the_verdict_away(llama: dict[str, Any]) -> None:
    other = slowed(llama, 1.06)
    assert compare([llama], [other], arrays)["verdict"] == "SLOWER"
    for p in other["passes"]:
        p["yardstick"]["copy_bytes_per_s"] = [rate / 1.2 for rate in p["yardstick"]["copy_bytes_per_s"]]
    drifted = compare([llama], [other], arrays)
    assert drifted["verdict"] == "CANNOT_TELL" and drifted["drift"]["factor"] == pytest.approx(1.2)
    assert compare([llama], [other], arrays, interleaved=True)["verdict"] == "SLOWER"
    for p in other["passes"]:
        del p["yardstick"]
    assert "yardstick" in compare([llama], [other], arrays)["why"]


def test_runs_that_do_not_reach_the_target(llama: dict[str, Any]) -> None:
    lost = copy.deepcopy(llama)
    for p in lost["passes"][:3]:
        p["reached"] = False
    found = compare([llama], [lost], arrays)
    assert found["verdict"] == "SLOWER" and "B does not" in found["why"] and found["ratio"] is None
    assert compare([lost], [llama], arrays)["verdict"] == "CANNOT_TELL"


@pytest.mark.parametrize("change, says", [
    (lambda r: r.update(scale="gpu"), "scale: A tiny, B gpu"),
    (lambda r: r["target"].update(value=1.9), "target: A 2.0, B 1.9"),
    (lambda r: r["machine"]["fingerprint"]["cpu"].update(model="Another"), "processor: "),
    (lambda r: r["machine"]["fingerprint"].update(driver="580.1"), "GPU driver: A None, B 580.1"),
    (lambda r: r["machine"]["fingerprint"].update(gpus=[{"name": "H100", "power_limit_w": 700.0}]), "power limit"),
])  # fmt: skip
def test_what_cannot_be_compared_is_refused_or_named(llama: dict[str, Any], change: Any, says: str) -> None:
    other = copy.deepcopy(llama)
    change(other)
    with pytest.raises(ValueError, match="cannot be compared") as raised:
        compare([llama], [other], arrays)
    assert says in str(raised.value) and "\n" not in str(raised.value)
    assert any(says in line for line in compare([llama], [other], arrays, force=True)["ignored"])


def test_another_batch_size_is_another_configuration(llama: dict[str, Any]) -> None:
    """It is named; and runs that end after as many samples have not done the same steps, so that the grid counts."""
    other = copy.deepcopy(llama)
    other["config"] |= {"batch_size": 320, "learning_rate": 0.01}
    assert compare([llama], [llama], arrays)["lines"]["samples_to_target"]["ci95"] == [1.0, 1.0]
    found = compare([llama], [other], arrays)
    named = [line.split(":")[0] for line in found["differences"]]
    assert named == ["hyperparameter batch_size", "hyperparameter learning_rate"]
    samples = [p["samples"] for p in llama["passes"] if p["kind"] == "clean"]
    low, high = found["lines"]["samples_to_target"]["ci95"]
    assert high == pytest.approx(1 + 320 / np.median(samples) / 2) and low == pytest.approx(1 / high)


def test_several_records_of_a_side_count_as_one(llama: dict[str, Any]) -> None:
    halves = [copy.deepcopy(llama), copy.deepcopy(llama)]
    clean = [p for p in llama["passes"] if p["kind"] == "clean"]
    rest = [p for p in llama["passes"] if p["kind"] != "clean"]
    halves[0]["passes"], halves[1]["passes"] = clean[:2] + rest, clean[2:]
    found = compare([llama], halves, arrays)
    assert found["verdict"] == "SAME" and found["b"]["runs"] == 5 and len(found["b"]["records"]) == 2


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PERFSUITE, "compare", *arguments], capture_output=True, text=True, cwd=cwd, timeout=300)


def test_the_command(tmp_path: Path) -> None:
    a, b = str(RESULTS / "llama-tiny"), str(RESULTS / "llama-tiny-native")
    faster = run(a, b, "--json", cwd=tmp_path)
    assert faster.returncode == 0 and json.loads(faster.stdout)["verdict"] == "FASTER" and not faster.stderr
    slower = run(b, a, cwd=tmp_path)
    assert slower.returncode == 1 and slower.stdout.startswith("SLOWER")
    assert max(map(len, slower.stdout.splitlines())) <= 100
    for arguments, says in (((a, str(RESULTS / "resnet-tiny")), "workload: A llama, B resnet"), ((a, "77"), "77"),
                            (("main..",), "not in a git repository"), ((a,), "REV..REV")):  # fmt: skip
        refused = run(*arguments, cwd=tmp_path)
        lines = refused.stderr.strip().splitlines()
        assert refused.returncode == 2 and len(lines) == 1 and says in lines[0], refused.stderr


WORKLOAD = Path(__file__).parent / "data" / "scripted.py"


def test_two_revisions_are_run_in_turns(tmp_path: Path) -> None:
    """A workload in a repository of its own; its second revision needs twice the samples."""
    def git(*arguments: str) -> None:
        names = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *names, *arguments], check=True, cwd=tmp_path, capture_output=True)

    git("init", "-q")
    text = WORKLOAD.read_text()
    for file in WORKLOAD.parent.glob("scripted*"):
        (tmp_path / file.name).write_text(file.read_text())
    git("add", ".")
    git("commit", "-qm", "first")
    (tmp_path / "scripted.py").write_text(text + "\n# another revision\n")
    git("commit", "-qam", "second")
    done = run("HEAD~1..HEAD", "--workload", "scripted.py", "--runs", "2", "--seed", "3", "--no-ledger", "--json",
               cwd=tmp_path)  # fmt: skip
    assert done.returncode in (0, 1, 3), done.stderr
    found = json.loads(done.stdout)
    assert found["interleaved"] and found["a"]["runs"] == found["b"]["runs"] == 2
    assert found["lines"]["samples_to_target"]["verdict"] == "SAME"
    assert len(list((tmp_path / "runs").glob("[AB]-*/*/record.json"))) == 4
