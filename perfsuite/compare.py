"""Two records, or two sets of them, of one task on one machine: which one trains in less time, and where it comes from.

B against A: ratios are B over A of time (above 1: B takes longer). Time-to-train is samples-to-target times
time-per-sample, and both are compared by themselves: a kernel may be faster and harm convergence. Runs of the same seed
are compared pair by pair, so that the luck of the seeds cancels. What was not measured in turns is widened by the drift
of the machine between the sittings, as its yardsticks show it. Pure functions of records; nothing is measured here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from perfsuite import verdict
from perfsuite.account_phases import Arrays
from perfsuite.compare_conditions import Records, differences, obstacles
from perfsuite.compare_split import op_split, phase_split
from perfsuite.energy import energy_between
from perfsuite.mlperf.score import evaluation_interval_samples, score
from perfsuite.verdict import Comparison, Verdict

GetArrays = Callable[[Mapping[str, Any], str], Arrays]
"""(record, file name) -> the arrays of a pass."""


def compare(a: Records, b: Records, arrays: GetArrays, *, interleaved: bool = False,
            force: bool = False, level: float = verdict.LEVEL) -> dict[str, Any]:  # fmt: skip
    """The comparison of B with A, as `perfsuite compare --json` prints it.

    interleaved: their passes were run in turns, so that no drift lies between them. force: compare in spite of
    obstacles, which are then named in "ignored". level: of the intervals of the runs, higher where one looks several
    times. Raises ValueError with the obstacles where there are any.
    """
    refused = obstacles(a, b)
    if refused and not force:
        raise ValueError(f"these cannot be compared: {'; '.join(refused)} (--force compares all the same)")
    drift = {"factor": 1.0, "copy": None, "gemm": None, "reason": None} if interleaved else _drift(a, b)
    runs, grid = [_runs(side) for side in (a, b)], max(_grid(a), _grid(b))
    alike = a[0]["config"].get("batch_size") == b[0]["config"].get("batch_size")
    lines = {
        "time_to_train": _of_runs(runs, "time_s", drift, grid, reached=True, level=level, alike=alike),
        "samples_to_target": _of_runs(runs, "samples", None, grid, reached=True, level=level, alike=alike),
        "time_per_sample": _of_runs(runs, "time_per_sample_s", drift, 0.0, reached=False, level=level),
    }
    overall = _overall(a, b, lines["time_to_train"])
    scores = [_score(side) for side in (a, b)]
    return {
        "a": _name(a), "b": _name(b), **as_json(overall),
        "interleaved": interleaved, "drift": drift, "ignored": refused, "differences": differences(a, b),
        "time_to_train_s": [s["time_to_train_s"] for s in scores],
        "samples_to_target": [s["samples_to_target"] for s in scores],
        "time_per_sample_s": [s["time_per_sample_s"] for s in scores],
        "lines": {name: as_json(line) for name, line in lines.items()},
        "phases": phase_split(*(_clean(side) for side in (a, b)), drift["factor"]),
        "ops": op_split(*(_ledger(side, arrays) for side in (a, b)), drift["factor"]),
        "energy": _energy(a, b, arrays, drift),
        "memory": _memory(a, b),
    }  # fmt: skip


def as_json(found: Verdict) -> dict[str, Any]:
    """A verdict as it stands in every JSON document of the suite."""
    return {"verdict": found.word, "ratio": found.ratio, "ci95": None if found.ci95 is None else list(found.ci95),
            "threshold": found.threshold, "why": found.why}  # fmt: skip


def _runs(records: Records) -> list[dict[str, Any]]:
    return [run for record in records for run in _score([record])["runs"]]


def _score(records: Records) -> dict[str, Any]:
    """Of all clean passes of the records, as if they were one record's; figures are None where there is no score."""
    joined = {**records[0], "passes": [p for record in records for p in record["passes"]]}
    found, reason = score(joined)
    figures = dict.fromkeys(("time_to_train_s", "samples_to_target", "time_per_sample_s"))
    return {**figures, "runs": [], **(found or {}), "reason": reason}


def _overall(a: Records, b: Records, line: Verdict) -> Verdict:
    """A side that does not reach the target loses; where neither does, nobody can tell."""
    reasons = [_score(side)["reason"] for side in (a, b)]
    if reasons[0]:
        return verdict.cannot_tell(f"A has no time-to-train: {reasons[0]}")
    if reasons[1]:
        return Verdict(verdict.SLOWER, None, None, verdict.MARGIN, f"A reaches the target and B does not: {reasons[1]}")
    return line


def _of_runs(runs: Sequence[Sequence[Mapping[str, Any]]], key: str, drift: Mapping[str, Any] | None, grid: float,
             reached: bool, level: float = verdict.LEVEL, alike: bool = True) -> Verdict:  # fmt: skip
    """Compare a figure of the runs, by seed where both sides have the same ones.

    grid: what the figure is known to, relative (runs end at evaluations only); half of it widens the interval. alike:
    runs of one seed take the same steps.
    """
    kept = [[r for r in side if (r["reached"] or not reached) and r[key]] for side in runs]
    by_seed = [{r["seed"]: r[key] for r in side} for side in kept]
    seeds = sorted(set(by_seed[0]) & set(by_seed[1]))
    try:
        if len(seeds) >= 2 and len(seeds) == len(by_seed[0]) == len(by_seed[1]):
            found = verdict.paired([by_seed[0][s] for s in seeds], [by_seed[1][s] for s in seeds], level)
            # Runs of one seed that needed the same samples ended at the same evaluation: nothing is hidden in the grid.
            exact = alike and all(_samples(kept[0], s) == _samples(kept[1], s) for s in seeds)
            grid = 0.0 if exact else grid
        else:
            found = verdict.unpaired([r[key] for r in kept[0]], [r[key] for r in kept[1]], level)
    except ValueError as error:
        return verdict.cannot_tell(f"{len(kept[0])} runs of A and {len(kept[1])} of B: {error}")
    return _judged(found.widened(1 + grid / 2), drift)


def _judged(found: Comparison, drift: Mapping[str, Any] | None) -> Verdict:
    if drift is None:
        return verdict.judge(found)
    if drift["factor"] is None:
        return verdict.cannot_tell(drift["reason"])._replace(ratio=found.ratio, ci95=(found.low, found.high))
    return verdict.judge(found.widened(drift["factor"]))


def _samples(runs: Sequence[Mapping[str, Any]], seed: int) -> int | None:
    return next((r["samples"] for r in runs if r["seed"] == seed), None)


def _grid(records: Records) -> float:
    """The interval between evaluations, relative to the samples that a run needs."""
    samples = [r["samples"] for r in _runs(records) if r["reached"]]
    return evaluation_interval_samples(records[0]) / median(samples) if samples else 0.0


def _drift(a: Records, b: Records) -> dict[str, Any]:
    """How much faster or slower the machine itself was: the larger change of the two yardsticks, as a factor."""
    changes = {}
    for name, key in (("copy", "copy_bytes_per_s"), ("gemm", "gemm_flops_per_s")):
        rates = [[x for r in side for p in r["passes"] for x in (p.get("yardstick") or {}).get(key) or []]
                 for side in (a, b)]  # fmt: skip
        changes[name] = median(rates[1]) / median(rates[0]) if all(rates) else None
    known = [max(change, 1 / change) for change in changes.values() if change]
    if changes["copy"] is None or not known:
        why = "a record carries no yardstick, so that nobody knows how the machine changed: run both in one sitting"
        return {"factor": None, **changes, "reason": why}
    return {"factor": max(known), **changes, "reason": None}


def _clean(records: Records) -> list[Mapping[str, Any]]:
    return [p for r in records for p in r["passes"] if p["kind"] == "clean" and p["state"] == "done" and p["samples"]]


def _ledger(records: Records, arrays: GetArrays) -> tuple[Mapping[str, Any], Arrays] | None:
    """The first ledger pass of a side that holds ops, with its arrays."""
    for record in records:
        for pass_ in record["passes"]:
            if pass_["kind"] == "ledger" and pass_["state"] == "done" and pass_.get("ops") and pass_.get("arrays"):
                return pass_, arrays(record, pass_["arrays"])
    return None


def _energy(a: Records, b: Records, arrays: GetArrays, drift: Mapping[str, Any]) -> dict[str, Any]:
    """Joules of the clean runs that reached the target; the bound of the sensor widens the interval."""
    sides, bounds, reasons = [], [], []
    for side in (a, b):
        joules = []
        for record in side:
            for p in record["passes"]:
                if p["kind"] != "clean" or not p.get("reached") or not p.get("arrays"):
                    continue
                power = _energy_of(p, arrays(record, p["arrays"]))
                if not power["available"] or not power["energy_j"]:
                    reasons.append(power["reason"] or "the meter shows no energy")
                    continue
                run = {key: p[key] for key in ("seed", "samples", "reached")}
                joules.append(run | {"joules": power["energy_j"]})
                bounds.append(math.inf if power["bound_j"] is None else power["bound_j"] / power["energy_j"])
        sides.append(joules)
    if reasons or not all(sides):
        why = reasons[0] if reasons else "no run reached the target"
        return {"available": False, "reason": why, "joules": [None, None], **as_json(verdict.cannot_tell(why))}
    found = _of_runs(sides, "joules", drift, 2 * max(bounds) if math.isfinite(max(bounds)) else 0.0, reached=True)
    if not math.isfinite(max(bounds)):
        found = verdict.cannot_tell("the energy of a run has no bound")
    return {"available": True, "reason": None, "joules": [float(np.mean([r["joules"] for r in s])) for s in sides],
            **as_json(found)}  # fmt: skip


def _energy_of(pass_: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    if not pass_.get("sampler") or "sampler_t_ns" not in arrays:
        return {"available": False, "reason": "a pass has no sampler", "energy_j": None}
    sampler = {**pass_["sampler"], "t_ns": arrays["sampler_t_ns"], "values": arrays["sampler_values"]}
    return energy_between(sampler, pass_["start_ns"], pass_["start_ns"] + pass_["clock_ns"])


def _memory(a: Records, b: Records) -> dict[str, Any]:
    """Peak bytes of the ledger passes: no chance in it, so that the figures themselves are compared."""
    peaks = []
    for side in (a, b):
        ledgers = [p for r in side for p in r["passes"] if p["kind"] == "ledger"]
        peaks.append(max(filter(None, map(_peak_bytes, ledgers)), default=None))
    if None in peaks:
        return {"peak_bytes": peaks, **as_json(verdict.cannot_tell("a record has no ledger pass with an allocator"))}
    ratio = peaks[1] / peaks[0]
    found = verdict.judge(Comparison(ratio, ratio, ratio, verdict.LEVEL, 1))
    return {"peak_bytes": peaks, **as_json(found)}


def _peak_bytes(pass_: Mapping[str, Any]) -> int | None:
    """Of the GPU's allocator where the training ran there, else of the CPU's."""
    on_gpu = pass_.get("gpu_memory") or {}
    if (on_gpu.get("device") or "cpu") != "cpu":
        return on_gpu["allocated_peak_bytes"]
    return (pass_.get("allocator") or {}).get("peak_bytes")


def _name(records: Records) -> dict[str, Any]:
    first, clean = records[0], sum(p["kind"] == "clean" for r in records for p in r["passes"])
    return {"records": [r["id"] for r in records], "commit": first["commit"], "ops": first["ops"], "use": first["use"],
            "runs": clean}  # fmt: skip
