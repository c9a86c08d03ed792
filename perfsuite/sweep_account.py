"""The account of a sweep over batch sizes: samples-to-target and time-per-sample apart, and what their product does.

A larger batch takes less time per sample and more samples to the target; time-to-train is their product. Runs of one
seed at two batch sizes are compared as a pair. A run that does not reach the target would take infinitely many samples:
it counts as more than it had, and never speaks for its batch size. Pure functions of records; nothing is measured here.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import mean, stdev
from typing import Any

from perfsuite import verdict
from perfsuite.compare import as_json
from perfsuite.mlperf.score import evaluation_interval_samples, score
from perfsuite.stats import score_interval, student_t
from perfsuite.sweep_fit import Point, critical_batch_size
from perfsuite.verdict import CANNOT_TELL, FASTER, SLOWER, Verdict

SCHEMA = 1
_NOT_CHANGED = ("batch_size", "target", "schedule")
_OF_RUN = ("seed", "reached", "samples", "time_s", "time_per_sample_s", "quality", "stop_reason")


def account(sweep: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What `perfsuite sweep --json` prints: "batch_sizes", a row each; "steps" from each to the next; "best";
    "critical_batch_size".

    sweep: what sweep.json holds; records: one for each batch size, in ascending order.
    """
    rows = [_row(record) for record in records]
    for row, changed in zip(rows, _changed(records), strict=True):
        row["config"] = changed
    kept = ("workload", "scale", "device", "commit", "target", "ops", "use", "machine")
    return {
        "schema": SCHEMA,
        **{key: sweep[key] for key in ("id", "created", "command", "seeds", "records")},
        **{key: records[0][key] for key in kept},
        "batch_sizes": rows,
        "steps": [{"from": a["batch_size"], "to": b["batch_size"], **_step(a, b)}
                  for a, b in pairwise(rows)],
        "best": _best(rows),
        "critical_batch_size": _critical(rows),
        "notes": list(dict.fromkeys(note for record in records for note in record["notes"])),
    }  # fmt: skip


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    found, reason = score(record)
    runs = [] if found is None else found["runs"]
    figures = {key: (found or {}).get(key) for key in ("time_to_train_s", "samples_to_target", "time_per_sample_s")}
    interval = evaluation_interval_samples(record)
    samples = [run["samples"] for run in runs if run["reached"]]
    pace = [run["time_per_sample_s"] for run in runs if run["time_per_sample_s"]]
    if figures["time_per_sample_s"] is None and pace:
        figures["time_per_sample_s"] = mean(pace)
    return {
        "batch_size": record["config"]["batch_size"],
        "record": record["id"],
        **figures,
        "time_to_train_ci95_s": _from_0((found or {}).get("ci95_s")),
        "samples_to_target_ci95": _interval(figures["samples_to_target"], samples, interval),
        "time_per_sample_ci95_s": _interval(figures["time_per_sample_s"], pace, 0),
        "evaluation_interval_samples": interval,
        "max_samples": record["schedule"]["max_samples"],
        "num_runs": len(runs),
        "num_reached": len(samples),
        "reason": reason,
        "runs": [{key: run[key] for key in _OF_RUN} for run in runs],
    }


def _interval(center: float | None, values: Sequence[float], grid: int) -> list[float] | None:
    """95 % interval of a mean, no lower than 0. grid: what the values are known to; None where too few are there."""
    if center is None or len(values) < 2:
        return None
    if grid:
        low, high = score_interval(center, values, grid)
    else:
        half = student_t(verdict.LEVEL, len(values) - 1) * stdev(values) / math.sqrt(len(values))
        low, high = center - half, center + half
    return _from_0([low, high])


def _from_0(ends: list[float] | None) -> list[float] | None:
    return ends and [max(0.0, end) for end in ends]


def _changed(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What else differs between the configs, of each: learning rate, warm-up and so on."""
    configs = [record["config"] for record in records]
    first = configs[0]
    keys = [key for key in first if key not in _NOT_CHANGED and any(c.get(key) != first[key] for c in configs)]
    return [{key: config.get(key) for key in keys} for config in configs]


def _step(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Verdicts on row b against row a: of time, samples and time per sample."""
    return {"time_to_train": as_json(_to_target(a, b, "time_s")),
            "samples_to_target": as_json(_to_target(a, b, "samples")),
            "time_per_sample": as_json(_paired(a, b, "time_per_sample_s", 0.0))}  # fmt: skip


def _to_target(a: Mapping[str, Any], b: Mapping[str, Any], key: str) -> Verdict:
    """A side of which too many runs miss the target for a score loses against one that has a score."""
    scored = [row["time_to_train_s"] is not None for row in (a, b)]
    if not all(row["num_runs"] for row in (a, b)):
        return verdict.cannot_tell("one of them was not run yet")
    if not any(scored):
        return verdict.cannot_tell("neither reaches the target in enough of its runs")
    if not all(scored):
        lost, word = (b, SLOWER) if scored[0] else (a, FASTER)
        return Verdict(word, None, None, verdict.MARGIN, f"batch size {lost['batch_size']}: {lost['reason']}")
    # Runs end at evaluations only: half an interval between them is hidden.
    grid = max(row["evaluation_interval_samples"] / row["samples_to_target"] for row in (a, b))
    found = _paired(a, b, key, grid)
    missed = [row["num_reached"] < row["num_runs"] for row in (a, b)]
    sound = {(True, False): FASTER, (False, True): SLOWER}.get(tuple(missed))
    if any(missed) and found.word != sound:
        why = "a run did not reach the target, and counts as longer than it was"
        return found._replace(word=CANNOT_TELL, why=why)
    return found


def _paired(a: Mapping[str, Any], b: Mapping[str, Any], key: str, grid: float) -> Verdict:
    values = [{run["seed"]: run[key] for run in row["runs"] if run[key]} for row in (a, b)]
    seeds = [seed for seed in values[0] if seed in values[1]]
    try:
        found = verdict.paired([values[0][s] for s in seeds], [values[1][s] for s in seeds])
    except ValueError as error:
        return verdict.cannot_tell(str(error))
    return verdict.judge(found.widened(1 + grid / 2))


def _best(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The batch size of the shortest time-to-train, those that cannot be told from it, and the sentence for both.

    between: the smallest and the largest of them; the turn from shorter to longer training lies there. verdict: FASTER
    where the best one is faster than every other, else CANNOT_TELL.
    """
    scored = [row for row in rows if row["time_to_train_s"] is not None]
    if not scored:
        return {"batch_size": None, "between": None, "verdict": CANNOT_TELL, "against": [],
                "answer": "no batch size reaches the target: there is no time-to-train to compare"}  # fmt: skip
    best = min(scored, key=lambda row: row["time_to_train_s"])
    against = [{"batch_size": row["batch_size"], **as_json(_to_target(best, row, "time_s"))}
               for row in rows if row is not best]  # fmt: skip
    near = sorted([best["batch_size"], *(line["batch_size"] for line in against if line["verdict"] != SLOWER)])
    sizes = [row["batch_size"] for row in rows]
    return {"batch_size": best["batch_size"], "between": [near[0], near[-1]],
            "verdict": FASTER if len(near) == 1 else CANNOT_TELL, "against": against,
            "answer": _answer(sizes, near[0], near[-1])}  # fmt: skip


def _answer(sizes: Sequence[int], low: int, high: int) -> str:
    """Up to where more throughput shortens training; the best batch size is one from low to high."""
    smallest, largest = low == sizes[0], high == sizes[-1]
    if low == high:
        if largest:
            return f"more throughput shortens training up to batch size {high}, the largest that was tried"
        if smallest:
            return f"more throughput does not shorten training: batch size {low}, the smallest that was tried, is best"
        return f"more throughput shortens training up to batch size {low}; beyond it training takes longer"
    if smallest:
        beyond = "" if largest else f"; beyond batch size {high} training takes longer"
        return f"cannot tell whether more throughput shortens training{beyond}"
    where = f"{low} or more" if largest else f"one from {low} to {high}"
    return f"more throughput shortens training up to the best batch size, {where}; cannot tell which"


def _critical(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fitted to the batch sizes of which every run reached the target: the model knows no infinite samples."""
    points = [Point(row["batch_size"], run["samples"], row["evaluation_interval_samples"])
              for row in rows if row["num_reached"] == row["num_runs"] for run in row["runs"]]  # fmt: skip
    left_out = [row["batch_size"] for row in rows if row["num_reached"] < row["num_runs"]]
    return critical_batch_size(points) | {"left_out": left_out}
