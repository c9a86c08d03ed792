"""The process that runs somebody's kernel: checks it, times it, and says what it saw. Steps one to three are in it.

    python -m perfsuite.prove.measure '{"file": ..., "op": "rms_norm", "device": "cpu", ...}'

One JSON document a line goes to standard output: [text, share] as progress, and at last what was measured. A kernel
that crashes takes this process with it and no other.
"""

import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from perfsuite import roofline, tampering
from perfsuite.kernels import contract
from perfsuite.kernels.contract import Case, Implementation, Op
from perfsuite.kernels.own_file import kernel_from_file
from perfsuite.op_bench import calls, clocks, rows
from perfsuite.op_bench.measure import AGAIN, Timed
from perfsuite.op_bench.run import machine_of
from perfsuite.op_check import check_implementation
from perfsuite.prove import faster
from perfsuite.prove.contenders import OURS, CaseBench, Rivals
from perfsuite.prove.fallback import falls_back
from perfsuite.prove.inspected import inspected

Say = Callable[[str, float], None]


def measure(request: dict[str, Any], say: Say) -> dict[str, Any]:
    """{"bad_input"}, or what was seen: {"checks", "failures", "absent", "timed", "fallback", "samples", "rows",
    "rounds", "yardsticks", "ours", "kernels", "kernels_reason"}.

    It ends at the first failure, and what was not reached is left out.
    """
    op, device = contract.op(request["op"]), request["device"]
    cases = [case for case in op.cases(request["scale"] or device) if request["case"] in case.name]
    before = tampering.picture()
    try:
        theirs = kernel_from_file(Path(request["file"]), op)
    except ValueError as error:
        return {"bad_input": str(error)}
    theirs = replace(theirs, name=Path(request["file"]).name)
    seen: dict[str, Any] = {"checks": [], "failures": tampering.changes(before), "absent": {}}
    if not seen["failures"]:
        _check(op, theirs, request, seen, say)
        seen["failures"] += tampering.changes(before)
    if seen["failures"]:
        return seen
    rivals = Rivals(op, device)
    machine, cache_bytes, _ = machine_of(device, say)
    torch._dynamo.config.recompile_limit = max(64, 4 * len(cases))
    seen["fallback"] = [case.name for case in cases if falls_back(op, theirs, case, device)]
    benches = []
    for case in cases:
        say(f"preparing {case.name}", 0.0)
        contenders = [*rivals.at(case), theirs]
        try:
            benches.append(CaseBench(op, case, device, cache_bytes, contenders))
        except Exception as error:
            seen["failures"].append(f"{case.name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            return seen
    failed = {name: reason for one in benches for name, reason in one.failed.items()}
    seen["absent"] = {**rivals.absent, **failed}
    seen["yardsticks"] = [one.name for one in rivals.yardsticks if one.name not in failed]
    seen["ours"] = OURS if rivals.has_ours and OURS not in failed else None
    _rounds(benches, theirs.name, seen, request["budget_s"], before, say)
    seen["rows"] = [row for one in benches for row in _rows(one, theirs.name, machine)]
    seen["kernels"], seen["kernels_reason"] = inspected(op, theirs, device)
    return seen


def _check(op: Op, theirs: Implementation, request: dict[str, Any], seen: dict[str, Any], say: Say) -> None:
    """perfsuite.op_check, up to the first failure."""
    cases = len(op.cases("tiny")) + 4
    results = check_implementation(op, theirs, request["device"], request["draws"], request["examples"],
                                   seed=secrets.randbits(31), fullgraph=False)  # fmt: skip
    for done, result in enumerate(results):
        say(f"right? {result.check} {result.case}", min(1.0, done / cases))
        seen["checks"].append({"check": result.check, "case": result.case, "ok": result.ok, "detail": result.detail,
                               "errors": [error._asdict() for error in result.errors]})  # fmt: skip
        if result.ok is False:
            seen["failures"].append(f"{result.check} {result.case}: {result.detail[:300]}")
            return


def _rounds(benches: list[CaseBench], theirs: str, seen: dict[str, Any], budget_s: float,
            before: tampering.Picture, say: Say) -> None:  # fmt: skip
    """Rounds up to the look that decides, the last look, or the look at which the budget is spent."""
    started, done = time.monotonic(), 0
    for look in faster.LOOKS:
        while done < look:
            say(f"faster? round {done + 1}, at most {faster.LOOKS[-1]}", done / faster.LOOKS[-1])
            for one in secrets.SystemRandom().sample(benches, len(benches)):
                one.round(look_closely=done < 2 or secrets.randbelow(4) == 0)
            done += 1
        if done == faster.LOOKS[0]:
            for one in benches:
                one.graphs()
        seen |= {"rounds": done, "samples": {one.case.name: _samples(one.timed) for one in benches}}
        seen["timed"] = [_looked(one) for one in benches]
        seen["failures"] = [*(f"{one.case.name}, a timed call: {line}" for one in benches
                              for line in one.found.report(one.op, theirs, one.case.name).failures),
                            *(one.disagreement for one in benches if one.disagreement),
                            *tampering.changes(before)]  # fmt: skip
        found = faster.judge(seen["samples"], theirs, seen["yardsticks"], seen["ours"], AGAIN)
        if seen["failures"] or found["verdict"] != "CANNOT_TELL" or time.monotonic() - started > budget_s:
            return


def _looked(one: CaseBench) -> dict[str, Any]:
    report = one.found.report(one.op, one.theirs, one.case.name)
    return {"case": one.case.name, "calls": report.draws, "errors": [error._asdict() for error in report.errors]}


def _samples(timed: list[Timed]) -> dict[str, Any]:
    # What two events are apart with nothing between them is no work of anybody.
    empty_ns = clocks.cuda_empty_ns() if timed[0].gpu_states else 0.0
    return {
        one.impl: {"forward": [max(1.0, ns - empty_ns) for ns in one.forward_ns],
                   "backward": [max(1.0, ns - empty_ns) for ns in one.backward_ns],
                   "clock_hz": [state.sm_clock_hz for state in one.gpu_states if state.sm_clock_hz],
                   "lowered_by": sorted({reason for state in one.gpu_states for reason in state.lowered_by})}
        for one in timed
    }  # fmt: skip


def _rows(bench: CaseBench, theirs: str, machine: roofline.Machine | None) -> list[dict[str, Any]]:
    """How near to the limit, by case and direction, of everybody."""
    op, case = bench.op, bench.case
    costs = op.cost(replace(case, gradient=False)), op.cost(case)
    size = calls.footprint_bytes(op, case)
    found = rows.rows(op.name, case, bench.device, True, bench.timed, costs, size, machine)
    kept = ("impl", "case", "direction", "device_time_ns", "host_time_ns", "bytes", "flops", "bytes_per_s", "level",
            "bound", "share_of_ceiling", "second_timer", "gpu")  # fmt: skip
    out = [{key: row[key] for key in kept} for row in found]
    for row in out:
        row["impossible"] = _impossible(case, costs, size, machine, row) if row["impl"] == theirs else None
    return out


def _impossible(case: Case, costs: tuple[contract.Cost, contract.Cost], size: int, machine: roofline.Machine | None,
                row: dict[str, Any]) -> str | None:  # fmt: skip
    """Why no call can have taken so little time. A backward alone may, where the forward did its work."""
    if row["direction"] == "backward":
        return None
    cost = costs[row["direction"] == "both"]
    return rows.too_fast(rows.placed(machine, case, cost, row["device_time_ns"], size), row["device_time_ns"])


def main() -> None:
    """Runs what the first argument describes; see the top."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a kernel prints must not garble the channel

    def say(what: str, share: float) -> None:
        channel.write(json.dumps([what, share]) + "\n")

    channel.write(json.dumps(measure(json.loads(sys.argv[1]), say)) + "\n")


if __name__ == "__main__":
    main()
