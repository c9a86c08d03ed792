"""Everything that wants a GPU, in stages that can be resumed: `make gpu`, or `make gpu STAGE=llama`.

Each stage is a process, writes into bench/results/<machine>/, and is ended when its limit is over; what it finished is
kept, and the next call goes on from there. A call starts no stage that its budget may not hold. gpu.json beside the
results says which stages are done, at which commit, how long they took, and why others are not.
Exit code: 0 all asked for are done, 1 some are left (call again) or failed, 2 no GPU or no such stage.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfsuite import conditions, record
from perfsuite.instruments.host_stacks import HostStacks
from perfsuite.machine import machine_name
from perfsuite.workloads import registry

ROOT = Path(__file__).parents[1]
PERFSUITE = (sys.executable, "-P", "-c", "from perfsuite.cli import main; main()")
PYTHON = (sys.executable, "-P")
COST = ("--scale", "gpu", "--rounds", "5", "--steps", "30")
"""20 processes: a call keeps nothing of a measurement that it cuts off."""
GRACE_S = 20
"""After an interrupt, for a stage to keep what it has, before it is killed."""


@dataclass(frozen=True)
class Stage:
    """One command, and where what it prints goes."""

    name: str
    what: str
    limit_s: int
    command: tuple[str, ...]
    output: str
    """File in the results folder that keeps what it prints."""
    measured: tuple[int, ...] = (0,)
    """Exit codes of a stage that has measured: 1 too where it means a target that was not reached or a slow op."""


def workload(name: str, folder: Path) -> Stage:
    """One run and every pass of a workload at scale gpu. Cut off, it is resumed: finished passes are kept."""
    out = folder / f"unfinished-{name}"
    started = record.list_folders(out) if out.is_dir() else []
    stacks = ("--host-stacks",) if HostStacks().available().available else ()  # else a pass for nothing
    arguments = ("--resume", str(started[-1])) if started else (
        name, "--scale", "gpu", "--runs", "2", "--seed", "1", "--timeline", "--counters", *stacks,
    )  # fmt: skip
    to = os.path.relpath(out, ROOT)
    return Stage(name, f"train {name} at scale gpu, all passes", 590,
                 (*PERFSUITE, "run", *arguments, "--out", to), f"{name}-gpu.txt", (0, 1))  # fmt: skip


def stages(folder: Path) -> list[Stage]:
    """In the order in which a short budget is best spent."""
    return [
        Stage("doctor", "what works here, with the native code built", 240, (*PERFSUITE, "doctor", "--json"),
              "doctor.json"),
        Stage("tests", "the tests that need a GPU", 480, (*PYTHON, "-m", "pytest", "-q", "-m", "gpu", "tests"),
              "gpu-tests.txt"),
        Stage("machine", "ceilings and sensors", 180, (*PERFSUITE, "machine", "--json"), "machine.json"),
        Stage("instruments", "what counters and energy meters can be trusted with", 420,
              (*PYTHON, "bench/counters_gpu.py", "--rounds", "9"), "counters.json"),
        workload("llama", folder),
        Stage("recorder-llama", "cost of the kernel recorder on llama, against torch.profiler", 560,
              (*PYTHON, "bench/kernel_recorder_cost.py", "llama", *COST), "recorder-cost-llama.json"),
        workload("resnet", folder),
        Stage("recorder-resnet", "the same on resnet", 560,
              (*PYTHON, "bench/kernel_recorder_cost.py", "resnet", *COST), "recorder-cost-resnet.json"),
        Stage("ops", "every implementation of every op, timed", 590,
              (*PERFSUITE, "ops", "bench", "--budget", "1", "--cold-only", "--json"), "ops.json", (0, 1)),
        Stage("check", "every implementation of every op, checked", 590,
              (*PERFSUITE, "ops", "check", "--examples", "10", "--json"), "ops-check.json", (0, 1)),
        *(workload(name, folder) for name in registry.names() if name not in ("llama", "resnet")),
    ]  # fmt: skip


def run(wanted: list[Stage], folder: Path, budget_s: float) -> int:
    """Run the stages that are not done yet, as far as the budget goes; print a line each. Returns the exit code."""
    state = _load(folder)
    end_s = time.monotonic() + budget_s
    for stage in wanted:
        if state.get(stage.name, {}).get("state") == "done":
            print(f"{stage.name}: done before", flush=True)
            continue
        left_s = end_s - time.monotonic()
        if left_s < min(stage.limit_s, 60):
            print(f"{stage.name}: left for the next call, {left_s:.0f} s of the budget remain", flush=True)
            continue
        print(f"{stage.name}: {stage.what} ...", flush=True)
        state[stage.name] = _one(stage, folder, min(stage.limit_s, left_s))
        record.write_json(folder / "gpu.json", state)
        row = state[stage.name]
        why = f": {row['reason']}" if row["reason"] else ""
        print(f"{stage.name}: {row['state']} in {row['seconds']:.0f} s{why}", flush=True)
    return 0 if all(state.get(stage.name, {}).get("state") == "done" for stage in wanted) else 1


def _load(folder: Path) -> dict[str, Any]:
    path = folder / "gpu.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _one(stage: Stage, folder: Path, limit_s: float) -> dict[str, Any]:
    """Run one stage; how it ended, as gpu.json keeps it. Its output is in place only once it is whole."""
    started_s = time.monotonic()
    log = folder / f"{stage.name}.stderr"
    printed = folder / f".{stage.name}.stdout"
    with log.open("w") as errors, printed.open("w") as output:
        process = subprocess.Popen(stage.command, stdout=output, stderr=errors, cwd=ROOT)
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
            process.send_signal(signal.SIGINT)
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    done = code in stage.measured and printed.stat().st_size > 0
    reason = None
    if code is None:
        reason = f"not finished in {limit_s:.0f} s; call again to go on"
    elif not done:
        reason = _last_line(log) or _last_line(printed) or f"exit code {code}"
    if printed.stat().st_size:
        os.replace(printed, folder / (stage.output if done else f"{stage.name}.stdout"))
    printed.unlink(missing_ok=True)
    if done:
        log.unlink()
        _take_over(folder, stage.name)
    return {"state": "done" if done else "unfinished" if code is None else "failed", "exit_code": code,
            "reason": reason, "seconds": round(time.monotonic() - started_s, 1), "commit": conditions.commit(),
            "finished": conditions.now(), "command": [Path(sys.executable).name, *stage.command[1:]]}  # fmt: skip


def _take_over(folder: Path, name: str) -> None:
    """The record of a workload gets its name once every pass is done."""
    unfinished = folder / f"unfinished-{name}"
    if unfinished.is_dir():
        made = record.list_folders(unfinished)[-1]
        shutil.rmtree(folder / f"{name}-gpu", ignore_errors=True)
        os.replace(made, folder / f"{name}-gpu")
        shutil.rmtree(unfinished)


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", nargs="*", help="only these stages")
    parser.add_argument("--budget", type=float, default=570.0, metavar="SECONDS", help="of this call")
    parser.add_argument("--list", action="store_true", help="name the stages and stop")
    arguments = parser.parse_args()
    if not arguments.list and conditions.default_device() != "cuda":
        print("perfsuite: make gpu needs a GPU and torch sees none: `make test` runs without one", file=sys.stderr)
        return 2
    folder = ROOT / "bench" / "results" / machine_name()
    known = stages(folder)
    if arguments.list:
        print("\n".join(f"{stage.name:16} {stage.limit_s:4} s  {stage.what}" for stage in known))
        return 0
    names = {stage.name for stage in known}
    unknown = [name for name in arguments.stage if name not in names]
    if unknown:
        print(f"perfsuite: no stage {unknown[0]!r}; there are {', '.join(s.name for s in known)}", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    return run([s for s in known if not arguments.stage or s.name in arguments.stage], folder, arguments.budget)


if __name__ == "__main__":
    sys.exit(main())
