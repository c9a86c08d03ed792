"""The samples of bench/calibrate.py: collected by real processes and kept in one JSON file, to be judged again.

Ops: a sitting runs blocks of four processes of bench/calibrate_process.py, two of A and two of B in a drawn order, as
`pytest --perfsuite-baseline REV` does. B's processes slow some ops, drawn for each sitting; the others are the same on
both sides. Each op of a sitting is one comparison, and its time is what the sitting would have taken with that op
alone: all of it but the timing of the other ops. The sitting ends when the next block would pass that time.
Llama: whole training runs in pairs, both of the same seed and of the same code, in a drawn order.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calibrate_process import OPS

from perfsuite import conditions, machine
from perfsuite.bench_plugin.looks import BLOCKS

SCHEMA = 1
SLOWED = {0.10: 3, 0.05: 2}
"""How many ops of a sitting are slowed by which share; the other seven are not."""
Samples = dict[str, Any]
Say = Callable[[str], None]


def empty() -> Samples:
    """The file as it begins."""
    return {"schema": SCHEMA, "created": conditions.now(), "commit": conditions.commit(),
            "machine": machine.machine_name(), "cpus": os.cpu_count(), "sittings": [], "llama": []}  # fmt: skip


def load(path: Path) -> Samples:
    """The samples of a file. ValueError, one line, where it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the samples {path}: {error}") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ValueError(f"{path} does not hold samples of schema {SCHEMA}: collect them anew, into another file")
    return found


def same_machine(samples: Samples, path: Path) -> None:
    """ValueError where more samples would be of another machine."""
    if samples["machine"] != machine.machine_name():
        raise ValueError(f"{path} is of {samples['machine']}, this is {machine.machine_name()}: use another file")


def save(samples: Samples, path: Path) -> None:
    """Write all of it, or leave the file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(samples), encoding="utf-8")
    part.replace(path)


def plan(seed: int) -> dict[str, float]:
    """Which ops B slows in the sitting of this seed, and by what share."""
    names = random.Random(seed).sample([name for name, _, _ in OPS], sum(SLOWED.values()))
    shares = [share for share, count in SLOWED.items() for _ in range(count)]
    return dict(zip(names, shares, strict=True))


def sitting(seed: int, seconds: float, budget_s: float, say: Say) -> dict[str, Any]:
    """All comparisons of one sitting, of `seconds` each. At least one block is run."""
    slower, draw = plan(seed), random.Random(seed + 1)
    began, load, processes = time.monotonic(), os.getloadavg()[0], []
    while True:
        for side in draw.sample((0, 0, 1, 1), 4):
            request = {"budget_s": budget_s, "slower": slower if side else {}}
            started = time.monotonic()
            ops = _process(request)
            processes.append({"side": side, "wall_s": time.monotonic() - started, "ops": ops})
        blocks, wall_s = len(processes) // 4, time.monotonic() - began
        alone_s = wall_s - len(processes) * (len(OPS) - 1) * budget_s
        say(f"block {blocks}, {alone_s:.0f} of {seconds:.0f} s")
        if blocks >= BLOCKS[-1] or alone_s * (blocks + 1) / blocks > seconds:
            break
    return {"seed": seed, "slower": slower, "budget_s": budget_s, "wall_s": wall_s, "comparison_s": alone_s,
            "load": [load, os.getloadavg()[0]], "processes": processes}  # fmt: skip


def llama_pair(seed: int) -> dict[str, Any]:
    """Two whole runs of `perfsuite run llama --scale tiny` with one seed, by the same code."""
    from perfsuite.harness.run import Request, new_record, prepare, run_process

    began, load, runs = time.monotonic(), os.getloadavg()[0], []
    for side in random.Random(seed).sample((0, 1), 2):
        started = time.monotonic()
        made = new_record(Request(num_runs=1, seed=seed, ledger=False))
        with tempfile.TemporaryDirectory(prefix="perfsuite-calibrate-") as folder:
            prepare(made, Path(folder), _Quiet())
            result = run_process(made, Path(folder), "clean", 0, seed, _Quiet())
        if result["state"] != "done" or not result["reached"]:
            raise ValueError(f"llama with seed {seed} did not reach its target: {result.get('error')}")
        runs.append({"side": side, "time_s": sum(phase["time_ns"] for phase in result["phases"]) / 1e9,
                     "samples": result["samples"], "wall_s": time.monotonic() - started})  # fmt: skip
    return {"seed": seed, "wall_s": time.monotonic() - began, "load": [load, os.getloadavg()[0]], "runs": runs}


class _Quiet:
    """An observer that shows nothing."""

    def update(self, message: dict[str, Any]) -> None:
        """Nothing: a line for each pair is enough."""

    def note(self, text: str) -> None:
        """Nothing either."""


def _process(request: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-P", str(Path(__file__).with_name("calibrate_process.py")), json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        said = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it said nothing")
        raise ValueError(f"a process of the ops failed: {said}")
    return json.loads(done.stdout)
