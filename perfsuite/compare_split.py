"""Where a difference in time per sample comes from: phases, and ops within them, as lines that add up to it.

Phases are those of the clean passes, one figure a run; ops those of the ledger passes, which the same seed makes do the
same steps, so that stretches of steps between the recorder's marks can be compared pair by pair. The lines of one table
are many comparisons: their intervals have the level that keeps the share of false ones among those that stand out at
5 % (Benjamini and Yekutieli 2005).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from perfsuite import verdict
from perfsuite.account_phases import Arrays, Span, whole, window

MOST_OPS = 30
_SMALL = 0.002
"""Of the time per sample: lines that are and differ by less are put together."""
Passes = Sequence[Mapping[str, Any]]


def phase_split(a: Passes, b: Passes, drift: float | None) -> dict[str, Any]:
    """Time per sample by phase, mean over the runs of each side.

    {"reason", "total_s": [A, B], "lines": [{"name", "a_s", "b_s", "delta_s", "verdict", "ratio", "ci95", "threshold",
    "why"}]}: the deltas add up to the difference of the totals.
    """
    if not a or not b:
        return {"reason": "a side has no clean pass", "total_s": [None, None], "lines": []}
    sides = [[_phases(whole(p), p["samples"]) for p in side] for side in (a, b)]
    seeds = [[p["seed"] for p in side] for side in (a, b)]
    paired = seeds[0] == seeds[1] and len(a) >= 2
    names = list(dict.fromkeys(name for side in sides for run in side for name in run))
    values = {name: [[run.get(name, 0.0) for run in side] for side in sides] for name in names}
    return _table(values, paired, drift)


def op_split(a: tuple[Mapping[str, Any], Arrays] | None, b: tuple[Mapping[str, Any], Arrays] | None,
             drift: float | None) -> dict[str, Any]:  # fmt: skip
    """Time per sample by op and phase of the ledger passes, and the host time of each phase; lines as in phase_split().

    Names are "aten::mm (backward)"; shapes and modules are taken together. Stretches of steps of different batch sizes
    are no pairs: their samples are not the same.
    """
    if a is None or b is None:
        return {"reason": "a side has no ledger pass with ops", "total_s": [None, None], "lines": []}
    cuts = _common_marks(a, b)
    if cuts is None:
        return {"reason": "the ledger passes have no two marks at the same steps", "total_s": [None, None], "lines": []}
    sides = [[_ops(window(*side, first, stop), stop - first) for first, stop in cuts] for side in (a, b)]
    names = list(dict.fromkeys(name for side in sides for stretch in side for name in stretch))
    values = {name: [[stretch.get(name, 0.0) for stretch in side] for side in sides] for name in names}
    batch = [side[0]["samples"] / side[0]["num_steps"] for side in (a, b)]
    values = {name: [[x / n for x in side] for side, n in zip(both, batch, strict=True)]
              for name, both in values.items()}  # fmt: skip
    weights = [stop - first for first, stop in cuts]
    return _table(values, batch[0] == batch[1], drift, weights)


def _phases(span: Span, samples: int) -> dict[str, float]:
    lines = {line.name: line.time_ns / samples / 1e9 for line in span.phases}
    return lines | {"unattributed": span.unattributed_ns / samples / 1e9}


def _ops(span: Span, steps: int) -> dict[str, float]:
    """Seconds per step of a stretch: self time of ops on the clock's thread, the rest of each phase, and the rest."""
    out: dict[str, float] = defaultdict(float)
    in_phase: dict[str, int] = defaultdict(int)
    for op in span.ops:
        if op.row["thread"] == "clock":
            out[f"{op.row['name']} ({op.row['phase'] or 'no phase'})"] += op.self_ns / steps / 1e9
            in_phase[op.row["phase"]] += op.self_ns
    for line in span.phases:
        out[f"host ({line.name})"] += (line.time_ns - in_phase.pop(line.name, 0)) / steps / 1e9
    out["no phase"] += (span.unattributed_ns - sum(in_phase.values())) / steps / 1e9
    return dict(out)


def _common_marks(a: tuple[Mapping[str, Any], Arrays], b: tuple[Mapping[str, Any], Arrays]) -> list[Any] | None:
    """Stretches of steps [first, stop) between marks that both passes have."""
    steps = [set(np.asarray(side[1].get("ops_mark_steps", ())).tolist()) for side in (a, b)]
    last = min(len(side[1]["step_starts"]) for side in (a, b))
    marks = sorted(step for step in steps[0] & steps[1] if step <= last)
    return list(pairwise(marks)) if len(marks) >= 3 else None


def _table(values: Mapping[str, list[list[float]]], paired: bool, drift: float | None,
           weights: Sequence[float] | None = None) -> dict[str, Any]:  # fmt: skip
    means = {name: [float(np.average(side, weights=weights)) for side in both] for name, both in values.items()}
    total = [sum(mean[side] for mean in means.values()) for side in (0, 1)]
    order = sorted(means, key=lambda name: -abs(means[name][1] - means[name][0]))
    kept = [name for name in order if max(means[name]) > _SMALL * max(total)][:MOST_OPS]
    first = [_line(name, values[name], means[name], paired, drift, len(kept), None) for name in kept]
    acting = sum(line["verdict"] in (verdict.FASTER, verdict.SLOWER) for line in first)
    lines = [_line(name, values[name], means[name], paired, drift, len(kept), acting) for name in kept]
    rest = [sum(means[name][side] for name in order if name not in kept) for side in (0, 1)]
    if any(rest):
        lines.append({"name": f"{len(order) - len(kept)} smaller", "a_s": rest[0], "b_s": rest[1],
                      "delta_s": rest[1] - rest[0], "verdict": None, "ratio": None, "ci95": None, "threshold": None,
                      "why": "not compared: each is under 0.2 % of the time"})  # fmt: skip
    return {"reason": None, "total_s": total, "lines": lines}


def _line(name: str, both: list[list[float]], mean: list[float], paired: bool, drift: float | None, count: int,
          acting: int | None) -> dict[str, Any]:  # fmt: skip
    level = verdict.LEVEL if acting is None else verdict.adjusted_level(count, acting)
    out = {"name": name, "a_s": mean[0], "b_s": mean[1], "delta_s": mean[1] - mean[0]}
    try:
        found = (verdict.paired if paired else verdict.unpaired)(*both, level=level)
    except ValueError:
        found = None
    if found is None:
        only = [side for side, there in zip("AB", map(any, both), strict=True) if there]
        if len(only) == 1:
            why = f"only in {only[0]}"
        else:
            why = "not there in every run" if min(map(min, both)) <= 0 else f"too few runs for {count} lines at once"
        judged = verdict.cannot_tell(why)
    elif drift is None:
        judged = verdict.cannot_tell("nobody knows how the machine changed between the sittings")
    else:
        judged = verdict.judge(found.widened(drift))
    return out | {"verdict": judged.word, "ratio": judged.ratio, "ci95": judged.ci95 and list(judged.ci95),
                  "threshold": judged.threshold, "why": judged.why, "level": level}  # fmt: skip
