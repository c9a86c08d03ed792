"""The four steps of a proof, in order, up to the first refutation: right, faster, near the limit, shorter training."""

import hashlib
import json
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfsuite import conditions, machine, verdict
from perfsuite.harness.run import Observer
from perfsuite.op_bench.measure import AGAIN
from perfsuite.prove import faster, training

SCHEMA = 1
PROVEN, REFUTED, CANNOT_TELL = "PROVEN", "REFUTED", "CANNOT_TELL"
EXIT_CODES = {PROVEN: 0, REFUTED: 1, CANNOT_TELL: 3}
STEPS = ("right", "faster", "limit", "training")


@dataclass(frozen=True)
class Request:
    """What `perfsuite prove` was asked for."""

    file: Path
    op: str
    device: str | None = None
    scale: str | None = None
    """Of the op's cases that are timed; the device's own by default."""
    case: str = ""
    """Only cases whose name contains it are timed."""
    budget_s: float = 180.0
    """Of timing: no further look is begun after it."""
    draws: int = 32
    examples: int = 100
    workload: str | None = None
    workload_scale: str = "tiny"
    data: Path | None = None
    pairs: int = training.LOOKS[-1]
    """Runs of each side, at most."""
    seed: int | None = None
    out: Path = Path("runs")


def prove(request: Request, say: Callable[[str, float], None],
          observe: Callable[[], AbstractContextManager[Observer]]) -> dict[str, Any]:  # fmt: skip
    """The proof as `perfsuite prove --json` prints it. Raises ValueError for what cannot be proven at all.

    say: told what is done and the share of it that is. observe: called before training, for who is told of its runs.

    {"schema", "verdict", "why", "refuted_by", "file", "sha256", "op", "device", "machine", "steps": [{"step", "result":
    "passed" | "refuted" | "cannot tell" | "shown" | "not reached" | "not asked", "why", evidence ...}]}
    """
    from perfsuite.kernels import contract

    op, device = contract.op(request.op), conditions.device(request.device)
    if not request.file.is_file():
        raise ValueError(f"there is no file {request.file}: give a Python file that defines {op.name}(...)")
    if not any(request.case in case.name for case in op.cases(request.scale or device)):
        raise ValueError(f"no case of {op.name} has {request.case!r} in its name: without --case all are timed")
    asked = {"file": str(request.file), "op": op.name, "device": device, "scale": request.scale, "case": request.case,
             "budget_s": request.budget_s, "draws": request.draws, "examples": request.examples}  # fmt: skip
    digest = hashlib.sha256(request.file.read_bytes()).hexdigest()
    seen = in_a_process(asked, say)
    if "bad_input" in seen:
        raise ValueError(seen["bad_input"])
    steps = [_right(seen, request.file.name)]
    if steps[-1]["result"] != "refuted":
        steps.append(_faster(seen, request.file.name))
    if steps[-1]["result"] != "refuted":
        steps.append(_limit(seen, request.file.name))
        if request.workload:
            with observe() as observer:
                found = training.train(op.name, request.file, request.workload, request.workload_scale, device,
                                       request.data, request.pairs, request.seed, request.out, observer)  # fmt: skip
            steps.append({"step": "training", **found})
        else:
            steps.append({"step": "training", "result": "not asked", "why": "add --workload llama"})
    done = {step["step"] for step in steps}
    steps += [{"step": name, "result": "not reached", "why": ""} for name in STEPS if name not in done]
    about = {"file": request.file.name, "sha256": digest, "op": op.name, "device": device, "created": conditions.now()}
    return {"schema": SCHEMA, **_overall(steps), **about, "machine": machine.fingerprint(), "steps": steps}


def in_a_process(asked: Mapping[str, Any], say: Callable[[str, float], None]) -> dict[str, Any]:
    """perfsuite.prove.measure in a process of its own; how it died, as a failure, where it does."""
    command = [sys.executable, "-m", "perfsuite.prove.measure", json.dumps(asked)]
    result, last = None, "before its first call"
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            for line in process.stdout:
                message = json.loads(line)
                if isinstance(message, list):
                    last = f"at \"{message[0]}\""
                    say(*message)
                else:
                    result = message
        except BaseException:  # Ctrl-C above all
            process.kill()
            raise
        code = process.wait()
        errors.seek(0)
        said = [line for line in errors.read().splitlines() if line.strip()]
    if result is None and code >= 0:
        raise ValueError(f"measuring {asked['file']} failed {last}: {said[-1] if said else f'exit code {code}'}")
    if result is None:
        died = f"its process died {last} with signal {-code} ({signal.strsignal(-code)})"
        return {"checks": [], "failures": [died], "absent": {}}
    return result


def _right(seen: Mapping[str, Any], theirs: str) -> dict[str, Any]:
    rows = [row for row in seen.get("rows", []) if row["impl"] == theirs]
    impossible = [f"{row['case']} {row['direction']}: {row['impossible']}" for row in rows if row["impossible"]]
    failures = [*seen["failures"], *impossible]
    counted = Counter(check["check"] for check in seen["checks"] if check["ok"])
    looked_at = sum(one["calls"] for one in seen.get("timed", []))
    passed = ", ".join(f"{count} x {name}" for name, count in counted.items())
    notes = [f"{case}: runs the very operators of eager torch" for case in seen.get("fallback", [])]
    notes += [check["detail"] for check in seen["checks"] if check["ok"] is None]
    return {"step": "right", "result": "refuted" if failures else "passed",
            "why": failures[0] if failures else f"{passed}; {looked_at} of the timed calls",
            "failures": failures, "checks": seen["checks"], "timed": seen.get("timed", []), "notes": notes}  # fmt: skip


def _faster(seen: Mapping[str, Any], theirs: str) -> dict[str, Any]:
    found = faster.judge(seen["samples"], theirs, seen["yardsticks"], seen["ours"], AGAIN)
    word, than = found["verdict"], found["against"]
    disagree = [row["case"] for row in seen["rows"] if row["impl"] == theirs and row["second_timer"]["agrees"] is False]
    result = {verdict.FASTER: "passed", verdict.CANNOT_TELL: "cannot tell"}.get(word, "refuted")
    ratio = f"{found['ratio']:.3g} times the time of {than} over all cases"
    why = {"passed": f"{ratio}, the closest", "refuted": f"{word} than {than}: {ratio}".replace("SAME than", "SAME as"),
           "cannot tell": f"against {than}: {found['why']}"}[result]  # fmt: skip
    if disagree:
        result, why = "cannot tell", f"events and graph replays disagree about the time at {', '.join(disagree)}"
    return {"step": "faster", "result": result, "why": why, "rounds": seen["rounds"], "absent": seen["absent"],
            **{key: found[key] for key in ("verdict", "ratio", "ci95", "threshold", "against", "direction")},
            "overall": found["overall"], "cases": found["cases"], "losses": found["losses"], "audit": found["audit"],
            "samples_ns": seen["samples"]}  # fmt: skip


def _limit(seen: Mapping[str, Any], theirs: str) -> dict[str, Any]:
    rows = [{**row, "theirs": row["impl"] == theirs} for row in seen["rows"]]
    whole = "both" if any(row["direction"] == "both" for row in rows) else "forward"
    shares = [row["share_of_ceiling"] for row in rows if row["impl"] == theirs and row["direction"] == whole]
    known = [share for share in shares if share is not None]
    why = "no ceiling is known here"
    if known:
        why = f"{100 * min(known):.2g} % of the ceiling at the worst case, {100 * max(known):.2g} % at the best"
    return {"step": "limit", "result": "shown", "why": why, "rows": rows, "kernels": seen["kernels"],
            "kernels_reason": seen["kernels_reason"]}  # fmt: skip


def _overall(steps: list[dict[str, Any]]) -> dict[str, Any]:
    refuted = next((step for step in steps if step["result"] == "refuted"), None)
    if refuted:
        return {"verdict": REFUTED, "why": refuted["why"], "refuted_by": refuted["step"]}
    unsure = next((step for step in steps if step["result"] == "cannot tell"), None)
    if unsure:
        return {"verdict": CANNOT_TELL, "why": unsure["why"], "refuted_by": None}
    return {"verdict": PROVEN, "why": "; ".join(s["why"] for s in steps if s["result"] == "passed"), "refuted_by": None}
