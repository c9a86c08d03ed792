"""perfsuite.account_for: an existing loop is accounted for in three lines, with the same record and report."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

LOOP = """
import torch
import perfsuite

model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with perfsuite.account_for("my loop", model=model) as run:
    for step in range(40):
        run.step()
        with run.phase("forward"):
            loss = model(torch.randn(64, 32)).square().mean()
        with run.phase("backward"):
            loss.backward()
        with run.phase("optimizer"):
            optimizer.step()
            optimizer.zero_grad()
        if step == FAIL_AT:
            raise RuntimeError("out of patience")
print(run.folder)
"""


def run_loop(tmp_path: Path, fail_at: int) -> subprocess.CompletedProcess[str]:
    (tmp_path / "loop.py").write_text(LOOP.replace("FAIL_AT", str(fail_at)))
    return subprocess.run([sys.executable, "loop.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)


def report(tmp_path: Path) -> dict:
    perfsuite = Path(sysconfig.get_path("scripts"), "perfsuite")
    done = subprocess.run([perfsuite, "report", "last", "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_loop_is_accounted_for(tmp_path: Path) -> None:
    done = run_loop(tmp_path, fail_at=-1)
    assert done.returncode == 0, done.stderr
    account = report(tmp_path)
    ledger = account["ledger"]
    assert (account["kind"], account["score"], ledger["num_steps"]) == ("watch", None, 40)
    phases = {p["name"]: p for p in ledger["phases"]}
    assert phases["backward"]["calls"] == 40 and phases["backward"]["ops_s"] > 0
    total = sum(p["time_s"] for p in ledger["phases"]) + ledger["unattributed_s"]
    assert total == pytest.approx(ledger["clock_s"], abs=1e-9)
    forward = [o for o in ledger["ops"] if o["name"] == "aten::addmm" and o["phase"] == "forward"]
    assert {o["module"] for o in forward} == {"0", "2"}
    assert {o["flops"] for o in forward} == {2 * 64 * 32 * 64 * 40, 2 * 64 * 64 * 8 * 40}
    assert all(check["ok"] for check in ledger["checks"] if "add up" in check["name"])


def test_a_loop_that_raises_keeps_its_record(tmp_path: Path) -> None:
    done = run_loop(tmp_path, fail_at=9)
    assert done.returncode == 1 and "out of patience" in done.stderr
    record = json.loads(next((tmp_path / "runs").glob("*/record.json")).read_text())
    assert record["passes"][0]["error"] == "RuntimeError: out of patience"
    assert record["passes"][0]["num_steps"] == 10
