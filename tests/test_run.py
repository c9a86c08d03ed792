"""`perfsuite run` as a user types it: record, score, exit codes, wrong input, kill -9 and --resume."""

import json
import os
import random
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PERFSUITE = Path(sysconfig.get_path("scripts"), "perfsuite")
SCRIPTED = str(HERE / "data/scripted.py")


def perfsuite(*arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PERFSUITE, *arguments], capture_output=True, text=True, cwd=cwd, timeout=300, **options)


def run_scripted(cwd: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return perfsuite("run", SCRIPTED, "--no-ledger", "--json", *arguments, cwd=cwd, **options)


def one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and lines[0].startswith("perfsuite: "), done.stderr
    assert all(word in lines[0] for word in words), lines[0]
    assert done.stdout == ""


def test_a_run_is_scored_recorded_and_reported(tmp_path: Path) -> None:
    done = run_scripted(tmp_path, "--seed", "11")
    assert done.returncode == 0, done.stderr
    account = json.loads(done.stdout)
    score = account["score"]
    assert [r["seed"] for r in score["runs"]] == [11, 12, 13]
    times = sorted(r["time_s"] for r in score["runs"])
    assert score["time_to_train_s"] == pytest.approx(times[1])  # the olympic mean of three is the middle one
    assert score["ci95_s"][0] < times[1] < score["ci95_s"][1]
    assert score["samples_to_target"] == 3 * 12288
    folder = tmp_path / "runs" / account["id"]
    assert json.loads((folder / "record.json").read_text())["id"] == account["id"]
    assert {f"result_{i}.txt" for i in range(3)} <= {p.name for p in folder.iterdir()}
    assert "not verified by MLCommons" in score["footnote"]
    ledger = account["ledger"]
    total = sum(p["time_s"] for p in ledger["phases"]) + ledger["unattributed_s"]
    assert total == pytest.approx(ledger["clock_s"], abs=1e-9)
    again = perfsuite("report", "last", "--json", cwd=tmp_path)
    assert json.loads(again.stdout) == account
    listed = json.loads(perfsuite("runs", "--json", cwd=tmp_path).stdout)
    assert [row["id"] for row in listed] == [account["id"]]


def test_a_target_that_is_not_reached_is_exit_code_1(tmp_path: Path) -> None:
    done = run_scripted(tmp_path, "--runs", "1", "--target", "1.0")
    assert done.returncode == 1
    account = json.loads(done.stdout)
    assert account["score"]["time_to_train_s"] is None
    assert "1 of 1 runs did not reach the target" in account["score_reason"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "lama"], ["no workload is called 'lama'", "llama"]),
        (["run", "nowhere.py"], ["nowhere.py", "no workload file"]),
        (["run", "llama", "--scale", "huge"], ["no scale 'huge'", "tiny"]),
        (["run", "llama", "--use", "cross_entropy=fast"], ["fast"]),
        (["run", "llama", "--use", "cross_entropy"], ["cross_entropy"]),
        (["run", "llama", "--runs", "0"], ["--runs"]),
        (["run", "llama", "--data", "nowhere"], ["nowhere"]),
        (["run", "llama", "--data", "."], ["lacks bible.xz", "--data"]),
        (["run", "--resume", "7"], ["no record '7'"]),
        (["report", "7"], ["no record '7'"]),
        (["report", "--steps", "9:3"], ["9:3"]),
        (["repot"], ["repot"]),
        (["run", "--fast"], ["--fast"]),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    one_line(perfsuite(*arguments, cwd=tmp_path), *words)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one_line(run_scripted(tmp_path, "--out", "file/runs"), "file/runs", "--out")


def test_a_corrupt_record_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "runs/0001-x"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text('{"schema": 1')
    one_line(perfsuite("report", "1", cwd=tmp_path), "record.json", "not JSON")
    assert "not JSON" in perfsuite("runs", "--json", cwd=tmp_path).stdout


def test_a_window_of_steps_is_reported(tmp_path: Path) -> None:
    run_scripted(tmp_path, "--runs", "1")
    done = perfsuite("report", "last", "--steps", "10:20", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ledger = json.loads(done.stdout)["ledger"]
    assert ledger["num_steps"] == 10 and ledger["clock_s"] > 0
    total = sum(p["time_s"] for p in ledger["phases"]) + ledger["unattributed_s"]
    assert total == pytest.approx(ledger["clock_s"], abs=1e-9)
    assert perfsuite("report", "last", "--steps", "10:20", cwd=tmp_path).returncode == 0
    one_line(perfsuite("report", "last", "--steps", "0:99999", cwd=tmp_path), "99999", "steps")


def test_a_record_is_shown_where_its_page_cannot_be_written(tmp_path: Path) -> None:
    run_scripted(tmp_path, "--runs", "1")
    folder = next((tmp_path / "runs").iterdir())
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    done = perfsuite("report", "last", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "reaches 3.3" in done.stdout and "no page: cannot write" in " ".join(done.stdout.split())


def test_a_workload_that_raises_is_recorded_as_failed(tmp_path: Path) -> None:
    source = (HERE / "data/scripted.py").read_text()
    (tmp_path / "broken.py").write_text(source.replace("self.steps += 1", 'raise RuntimeError("on fire")'))
    done = perfsuite("run", "broken.py", "--no-ledger", "--runs", "1", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "on fire" in json.loads(done.stdout)["score_reason"]


def test_somebodys_own_workload_runs_with_a_ledger(tmp_path: Path) -> None:
    (tmp_path / "my_workload.py").write_text((HERE / "data/my_workload.py").read_text())
    done = perfsuite("run", "./my_workload.py", "--runs", "1", "--target", "0.7", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    account = json.loads(done.stdout)
    ledger = account["ledger"]
    assert ledger["pass_kind"] == "ledger" and {o["name"] for o in ledger["ops"]} >= {"aten::addmm"}
    sums = [c for c in ledger["checks"] if "ceiling" not in c["name"] and "2 %" not in c["name"]]
    assert sums and all(c["ok"] for c in sums), sums
    assert account["overhead"]["pairs"] >= 8
    assert (tmp_path / "runs" / account["id"] / "report.html").stat().st_size > 1_000_000


def test_what_a_workload_prints_does_not_reach_standard_output(tmp_path: Path) -> None:
    source = (HERE / "data/scripted.py").read_text()
    (tmp_path / "loud.py").write_text(source.replace("self.steps += 1", 'self.steps += 1; print("noise")'))
    done = perfsuite("run", "loud.py", "--no-ledger", "--runs", "1", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["score"]["num_reached"] == 1


@pytest.mark.parametrize("attempt", range(3))
def test_kill_9_at_a_random_moment_loses_at_most_the_run_in_flight(tmp_path: Path, attempt: int) -> None:
    delay_s = random.uniform(0.3, 7.0)
    command = [PERFSUITE, "run", SCRIPTED, "--no-ledger", "--seed", "5"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(delay_s)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    folders = list((tmp_path / "runs").glob("0*")) if (tmp_path / "runs").exists() else []
    records = [f / "record.json" for f in folders if (f / "record.json").exists()]
    if not records:
        pytest.skip(f"killed after {delay_s:.2f} s, before there was a record: nothing was lost")
    before = json.loads(records[0].read_text())["passes"]
    done = perfsuite("run", "--resume", "last", "--json", cwd=tmp_path)
    assert done.returncode == 0, f"killed after {delay_s:.2f} s: {done.stderr}"
    after = json.loads(records[0].read_text())["passes"]
    assert after[: len(before)] == before, "a finished run was lost or changed"
    assert [(p["kind"], p["index"], p["seed"]) for p in after] == [("clean", i, 5 + i) for i in range(3)]
    assert not list(folders[0].glob("pass-*.json")), "a pass that was taken over leaves its file behind"


def test_who_starts_the_runs_loads_no_torch() -> None:
    """It would take seconds, and memory beside the runs that are measured."""
    code = "import sys; from perfsuite.harness import run; "
    code += f"made = run.new_record(run.Request(workload={SCRIPTED!r}, device='cpu', ledger=False)); "
    code += "print(made.workload, [m for m in ('torch', 'triton') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "scripted []", done.stdout + done.stderr


@pytest.mark.parametrize("flag", ["--timeline", "--counters"])
def test_counters_of_a_gpu_are_refused_on_the_cpu(tmp_path: Path, flag: str) -> None:
    one_line(perfsuite("run", SCRIPTED, flag, "--device", "cpu", cwd=tmp_path), flag, "CPU", "leave it out")
    assert not (tmp_path / "runs").exists()
