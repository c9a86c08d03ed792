"""The score of a record: olympic mean of its clean passes, its interval, and the two factors it is made of.

Rules: training_policies, "Results": sort the runs, drop the fastest and the slowest, mean of the rest; one run that did
not converge may count as the slowest; more make the result invalid. Seconds throughout.
"""

import math
from collections.abc import Mapping
from typing import Any

from perfsuite.stats import olympic_mean, score_interval

FOOTNOTE = "Unverified: result not verified by MLCommons Association; not an MLPerf result."


def score(record: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """(the score part of the account, None), or (its runs alone, why there is no score)."""
    passes = [p for p in record["passes"] if p["kind"] == "clean"]
    if not passes:
        return None, "no clean pass was run" if record["kind"] == "run" else "an accounted loop has no target to reach"
    runs = [_run(p) for p in passes]
    done = [r for r in runs if r["reached"]]
    result = {
        "time_to_train_s": None,
        "ci95_s": None,
        "ci95_reason": None,
        "samples_to_target": None,
        "samples_to_target_range": None,
        "time_per_sample_s": None,
        "time_per_sample_range_s": None,
        "num_runs": len(runs),
        "num_reached": len(done),
        "footnote": FOOTNOTE,
        "runs": runs,
    }
    allowed = 1 if len(runs) >= 3 else 0
    if len(runs) - len(done) > allowed:
        return result, _why_not(runs, allowed)
    times = [r["time_s"] if r["reached"] else math.inf for r in runs]
    drop = 1 if len(runs) >= 3 else 0
    finite = [t for t in times if math.isfinite(t)]
    samples = [r["samples"] for r in done]
    per_sample = [r["time_per_sample_s"] for r in done]
    center = olympic_mean(times, drop)
    # Both factors are of the runs that the mean keeps, so that their product is the mean.
    kept = sorted(runs, key=lambda r: r["time_s"] if r["reached"] else math.inf)[drop : len(runs) - drop]
    samples_to_target = sum(r["samples"] for r in kept) / len(kept)
    result |= {
        "time_to_train_s": center,
        "samples_to_target": samples_to_target,
        "samples_to_target_range": [min(samples), max(samples)],
        "time_per_sample_s": center / samples_to_target,
        "time_per_sample_range_s": [min(per_sample), max(per_sample)],
    }
    if len(finite) < 2:
        result["ci95_reason"] = "an interval needs at least 2 runs that reach the target"
    else:
        grid = evaluation_interval_samples(record) * result["time_per_sample_s"]
        result["ci95_s"] = list(score_interval(center, finite, grid))
    notes = [FOOTNOTE]
    asked = record["config"].get("num_runs", len(runs))
    if len(runs) != asked:
        notes.append(f"Made of {len(runs)} runs; the workload asks for {asked}.")
    if drop == 0:
        notes.append("Fewer than 3 runs: a plain mean, not an olympic one.")
    if len(done) < len(runs):
        notes.append("One run did not reach the target; it counts as the slowest and is dropped.")
    result["footnote"] = " ".join(notes)
    return result, None


def evaluation_interval_samples(record: Mapping[str, Any]) -> int:
    """Samples from an evaluation of a run to the next: whole steps."""
    batch_size = record["config"].get("batch_size") or 1
    return math.ceil(record["schedule"]["eval_every_samples"] / batch_size) * batch_size


def _run(p: dict[str, Any]) -> dict[str, Any]:
    time_s = (p["clock_ns"] + p["init_excess_ns"]) / 1e9 if "clock_ns" in p else None
    init = p.get("init", {})
    return {
        "seed": p["seed"],
        "time_s": time_s,
        "samples": p.get("samples"),
        "quality": p.get("quality"),
        "reached": bool(p.get("reached")),
        "stop_reason": p.get("stop_reason") or p.get("error"),
        "init_s": p["init_ns"] / 1e9 if "init_ns" in p else None,
        "init": {name.removesuffix("_ns") + "_s": None if ns is None else ns / 1e9 for name, ns in init.items()},
        "clean": True,
        "time_per_sample_s": time_s / p["samples"] if time_s and p.get("samples") else None,
        "log": p.get("log"),
        "cache_clear": p.get("cache_clear"),
        "cache_clear_reason": p.get("cache_clear_reason"),
        "evaluations": [
            {"samples": e["samples"], "time_s": e["t_ns"] / 1e9, "quality": e["quality"]}
            for e in p.get("evaluations", [])
        ],
        "losses": p.get("losses", []),
    }


def _why_not(runs: list[dict[str, Any]], allowed: int) -> str:
    missed = [r for r in runs if not r["reached"]]
    first = missed[0]
    return (
        f"{len(missed)} of {len(runs)} runs did not reach the target (the rules allow {allowed}): "
        f"seed {first['seed']} stopped by {first['stop_reason']}"
    )
