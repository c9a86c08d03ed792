"""bench/gpu.py: stages that resume, tested with scripted commands; what needs no GPU of it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("bench_gpu", ROOT / "bench" / "gpu.py")
gpu = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = gpu
spec.loader.exec_module(gpu)


def stage(name: str, code: str, limit_s: int = 60) -> "gpu.Stage":
    return gpu.Stage(name, name, limit_s, (sys.executable, "-c", code), f"{name}.json")


def state(folder: Path) -> dict:
    return json.loads((folder / "gpu.json").read_text())


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    counted = stage("counted", f"open({str(tmp_path / 'calls')!r}, 'a').write('x'); print('{{}}')")
    assert gpu.run([counted], tmp_path, 100) == 0
    assert gpu.run([counted], tmp_path, 100) == 0
    assert (tmp_path / "calls").read_text() == "x"
    assert (tmp_path / "counted.json").read_text() == "{}\n"
    assert state(tmp_path)["counted"]["state"] == "done"
    assert not list(tmp_path.glob("*.stderr"))


@pytest.mark.parametrize("code", ["print('half'); raise SystemExit('no such counter')",
                                  "print('half'); raise RuntimeError('no such counter')"])  # fmt: skip
def test_a_failure_says_why_and_the_next_stage_runs(tmp_path: Path, code: str) -> None:
    assert gpu.run([stage("bad", code), stage("good", "print('{}')")], tmp_path, 100) == 1
    bad, good = state(tmp_path)["bad"], state(tmp_path)["good"]
    assert bad["state"] == "failed" and "no such counter" in bad["reason"]
    assert not (tmp_path / "bad.json").exists() and (tmp_path / "bad.stdout").read_text() == "half\n"
    assert good["state"] == "done"


def test_a_stage_that_printed_nothing_has_not_measured(tmp_path: Path) -> None:
    assert gpu.run([stage("silent", "pass")], tmp_path, 100) == 1
    assert state(tmp_path)["silent"]["state"] == "failed"


def test_a_stage_that_is_cut_off_can_keep_what_it_has(tmp_path: Path) -> None:
    """It is interrupted, not killed: it writes its part, and is run again by the next call."""
    part = tmp_path / "part"
    code = ("import pathlib, time\n"
            f"p = pathlib.Path({str(part)!r})\n"
            "if p.exists(): print('rest'); raise SystemExit(0)\n"
            "try:\n    print('ready', flush=True); time.sleep(600)\n"
            "except KeyboardInterrupt:\n    p.write_text('kept'); raise SystemExit(130)")  # fmt: skip
    cut = stage("cut", code, limit_s=10)
    assert gpu.run([cut], tmp_path, 100) == 1
    assert state(tmp_path)["cut"]["state"] == "unfinished" and part.read_text() == "kept"
    assert gpu.run([cut], tmp_path, 100) == 0
    assert state(tmp_path)["cut"]["state"] == "done"


def test_a_stage_that_the_budget_cannot_hold_waits(tmp_path: Path) -> None:
    assert gpu.run([stage("long", "raise SystemExit(3)", limit_s=300)], tmp_path, 10) == 1
    assert not (tmp_path / "gpu.json").exists()


def test_a_workload_gets_its_name_when_all_of_it_is_done(tmp_path: Path) -> None:
    out = tmp_path / "unfinished-llama" / "0001-llama-gpu-x"
    out.mkdir(parents=True)
    (out / "record.json").write_text("{}")
    resumed = gpu.workload("llama", tmp_path)
    assert "--resume" in resumed.command and str(out) in resumed.command
    assert "--seed" in gpu.workload("resnet", tmp_path).command
    assert gpu.run([stage("llama", "print('reached')")], tmp_path, 100) == 0
    assert (tmp_path / "llama-gpu" / "record.json").exists() and not (tmp_path / "unfinished-llama").exists()


@pytest.mark.parametrize("arguments, says", [([], "needs a GPU"), (["--list", "llama"], "")])
def test_without_a_gpu(arguments: list[str], says: str) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, "-P", ROOT / "bench" / "gpu.py", *arguments], capture_output=True, text=True)
    assert done.returncode == (2 if says else 0)
    assert says in done.stderr and len(done.stderr.splitlines()) == (1 if says else 0)
