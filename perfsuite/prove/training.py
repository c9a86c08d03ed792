"""Does training get shorter? Runs to target in turns, with and without the kernel, same seeds, each a process.

After fixed numbers of pairs it is looked whether more are needed; the looks share the 5 % among them (Bonferroni).
Convergence is tested apart from time: samples to target against the same seeds without the kernel, and against the
workload's reference convergence points (perfsuite rcp), so that a kernel that is fast and harms convergence is refuted.
"""

import random
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perfsuite import compare, machine, record, verdict
from perfsuite.harness import reference_points
from perfsuite.harness import run as harness
from perfsuite.record import Record

LOOKS = (4, 8, 12)
"""Pairs of runs."""


def train(op: str, file: Path, workload: str, scale: str, device: str, data: Path | None, most_pairs: int,
          seed: int | None, out: Path, observer: harness.Observer) -> dict[str, Any]:  # fmt: skip
    """{"result", "why", "pairs", "comparison": compare.compare(), "reference": {...}, "records": [A, B]}.

    A is eager, B the same with the kernel. The records are kept in `out`. Raises ValueError for what cannot be run.
    """
    looks = [pairs for pairs in LOOKS if pairs <= most_pairs] or [most_pairs]
    level = 1 - (1 - verdict.LEVEL) / len(looks)
    first = secrets.randbelow(2**31 - looks[-1]) if seed is None else seed
    sides = [_begin(use, workload, scale, device, data, looks[-1], first, out) for use in ({}, {op: str(file)})]
    points = reference_points.load(workload, scale)
    draw, found = random.Random(first), {}
    for index, seed_ in enumerate(sides[0][0].seeds):
        failed = False
        for made, folder in draw.sample(sides, 2):
            observer.pass_started("clean", index, looks[-1], made)
            result = harness.run_process(made, folder, "clean", index, seed_, observer)
            harness.take_over(made, folder, "clean", index, result)
            observer.pass_done(result)
            failed = failed or result["state"] == "failed"
        if index + 1 in looks or failed:
            found = judge([vars(made) for made, _ in sides], points, level)
            if failed or found["result"] != "cannot tell":
                break
    for made, folder in sides:
        made.num_runs = len(made.passes)
        made.seeds = made.seeds[: made.num_runs]
        record.save(made, folder)
    return {**found, "workload": workload, "scale": scale, "level": level, "pairs": len(sides[0][0].passes),
            "records": [str(folder) for _, folder in sides]}  # fmt: skip


def judge(sides: Sequence[Mapping[str, Any]], points: Mapping[str, Any] | None, level: float) -> dict[str, Any]:
    """What the runs so far say: sides are the records without and with the kernel."""
    eager, kernel = sides
    found = compare.compare([eager], [kernel], lambda made, name: {}, interleaved=True, level=level)
    reference = _against_reference(eager, kernel, points, level)
    paired = found["lines"]["samples_to_target"]
    tampered = [line for p in kernel["passes"] for line in p.get("tampered") or []]
    crashed = [p["error"] for p in kernel["passes"] if p["state"] == "failed"]
    if tampered:
        result, why = "refuted", f"the kernel changed what it is measured with: {tampered[0]}"
    elif crashed and not any(p["state"] == "failed" for p in eager["passes"]):
        result, why = "refuted", f"training fails with the kernel: {crashed[0]}"
    elif paired["verdict"] == verdict.SLOWER:
        ratio = paired["ratio"]
        result, why = "refuted", f"it harms convergence: {ratio:.3g} times the samples of the same seeds without it"
    elif reference["harms"]:
        ratio = reference["with"]["ratio"]
        result, why = "refuted", f"it harms convergence: {ratio:.3g} times the samples of the reference points"
    elif found["verdict"] == verdict.FASTER:
        result, why = "passed", f"training takes {found['ratio']:.3g} times the time, convergence is not worse"
    elif found["verdict"] in (verdict.SLOWER, verdict.SAME):
        result, why = "refuted", f"training does not get shorter: {found['why']}"
    else:
        result, why = "cannot tell", f"time to train: {found['why']}"
    return {"result": result, "why": why, "comparison": found, "reference": reference}


def _against_reference(eager: Mapping[str, Any], kernel: Mapping[str, Any], points: Mapping[str, Any] | None,
                       level: float) -> dict[str, Any]:  # fmt: skip
    """Samples to target of both sides against those of the reference points: {"with", "without", "harms", "reason"}."""
    reason = None
    if points is None:
        reason = "the workload has no reference points: perfsuite rcp makes them"
    elif points["batch_size"] != kernel["config"]["batch_size"] or points["target"] != kernel["target"]["value"]:
        reason = "the reference points are of another batch size or target"
    if reason:
        return {"with": None, "without": None, "harms": False, "reason": reason}
    known = [samples for samples in points["samples_to_target"] if samples is not None]
    lines = {}
    for name, made in (("without", eager), ("with", kernel)):
        # A run that did not get there would have needed more than what it had.
        samples = [p["samples"] for p in made["passes"] if p["state"] == "done" and p.get("samples")]
        try:
            judged = verdict.judge(verdict.unpaired(known, samples, level))
        except ValueError as error:
            judged = verdict.cannot_tell(str(error))
        lines[name] = compare.as_json(judged)
    off = lines["without"]["verdict"] == verdict.SLOWER
    harms = lines["with"]["verdict"] == verdict.SLOWER and not off
    why = "eager itself is off the reference points here: they are not used" if off else None
    return {**lines, "harms": harms, "reason": why, "seeds": len(known)}


def _begin(use: dict[str, str], workload: str, scale: str, device: str, data: Path | None, runs: int, seed: int,
           out: Path) -> tuple[Record, Path]:  # fmt: skip
    made = harness.new_record(harness.Request(workload=workload, scale=scale, num_runs=runs, seed=seed, device=device,
                                              use=use, data_folder=data, ledger=False, command=("perfsuite", "prove"))
                              )  # fmt: skip
    folder = record.new_folder(out, f"{made.workload}-{scale}-{machine.machine_name()}")
    made.id = folder.name
    record.save(made, folder)
    return made, folder
