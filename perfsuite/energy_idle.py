"""Power of an idle stretch, with its bound, so that energy can be stated above idle as well as gross."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from perfsuite.energy_bands import CounterMeter
from perfsuite.energy_sources import Source, open_source, sources

LEAST_S = 2.0
"""Of an idle stretch: a counter renewed ten times a second has then moved twenty times."""


def idle_power(sampler: Mapping[str, Any], t0_ns: int, t1_ns: int) -> dict[str, Any]:
    """Mean power between two monotonic times in which nothing ran, summed over all devices with an energy sensor.

    sampler: what Sampler.stop() returned. Returns {"idle_w", "idle_bound_w", "idle_source": "counter" | "power" |
    "mixed", "idle_s", "reason", "sources": [{"source", "idle_w", "idle_bound_w", "method"}]}; the figures are None with
    a reason where one device cannot be told, as energy_between() has no sum then. The bound holds what dating the
    renewals leaves open, and the difference between the two halves of the stretch: a GPU that has just worked draws
    less and less.
    """
    seconds = (t1_ns - t0_ns) / 1e9
    if seconds < LEAST_S:
        return none(f"the idle stretch was {seconds:.3g} s long: at least {LEAST_S:g} s are needed", seconds)
    names = sources(sampler)
    if not names:
        return none("no device here has an energy sensor", seconds)
    rows, reasons = [], []
    for name in names:
        source = open_source(sampler, name, t0_ns, t1_ns, 0.0)
        row = _row(sampler, source, t0_ns, t1_ns)
        rows.append(row)
        if row["idle_w"] is None:
            reasons.append(f"{name}: {'; '.join(source.notes)}")
    if reasons:
        return none("; ".join(reasons), seconds) | {"sources": rows}
    methods = {row["method"] for row in rows}
    return {
        "idle_w": sum(row["idle_w"] for row in rows),
        "idle_bound_w": sum(row["idle_bound_w"] for row in rows),
        "idle_source": methods.pop() if len(methods) == 1 else "mixed",
        "idle_s": seconds,
        "reason": None,
        "sources": rows,
    }


def none(reason: str, seconds: float | None = None) -> dict[str, Any]:
    """The answer where no idle power was measured."""
    return {"idle_w": None, "idle_bound_w": None, "idle_source": None, "idle_s": seconds, "reason": reason,
            "sources": []}  # fmt: skip


def above_idle(power: Mapping[str, Any], idle: Mapping[str, Any] | None, seconds: float) -> dict[str, Any]:
    """Energy above idle of a window: {"above_idle_j", "above_idle_bound_j", "above_idle_reason"}.

    power: what energy_between() says of the window. idle: what idle_power() said of the same process. Both bounds add.
    """
    reason = None
    if idle is None or idle["idle_w"] is None:
        reason = "no idle power" + (f": {idle['reason']}" if idle else " was measured in this pass")
    elif power["energy_j"] is None:
        reason = power["reason"]
    elif {row["source"] for row in idle["sources"]} != {row["source"] for row in power["sources"]}:
        reason = "the idle power is of other devices than the energy"
    if reason:
        return {"above_idle_j": None, "above_idle_bound_j": None, "above_idle_reason": reason}
    bound = None if power["bound_j"] is None else power["bound_j"] + idle["idle_bound_w"] * seconds
    return {"above_idle_j": power["energy_j"] - idle["idle_w"] * seconds, "above_idle_bound_j": bound,
            "above_idle_reason": None}  # fmt: skip


def _row(sampler: Mapping[str, Any], source: Source, t0_ns: int, t1_ns: int) -> dict[str, Any]:
    row = {"source": source.name, "idle_w": None, "idle_bound_w": None, "method": source.method}
    middle_ns = (t0_ns + t1_ns) // 2
    if isinstance(source.counter, CounterMeter) and (mean := source.counter.mean_w(t0_ns, t1_ns)):
        low, watts, high = mean
        halves = source.counter.mean_w(t0_ns, middle_ns), source.counter.mean_w(middle_ns, t1_ns)
        drift_w = abs(halves[1][1] - halves[0][1]) if all(halves) else 0.0
        return row | {"idle_w": watts, "idle_bound_w": max(watts - low, high - watts, drift_w)}
    if source.power is not None:
        # The readings of a steady load: between two of them the power was what they say, as far as anybody can see.
        t_ns = np.asarray(sampler["t_ns"])
        watts = _readings(sampler, source.name)[(t_ns >= t0_ns) & (t_ns <= t1_ns)]
        watts = watts[np.isfinite(watts)]
        if len(watts):
            middle_w = float(np.median(watts))
            spread_w = float(max(watts.max() - middle_w, middle_w - watts.min()))
            return row | {"idle_w": middle_w, "idle_bound_w": spread_w, "method": "power"}
    return row


def _readings(sampler: Mapping[str, Any], name: str) -> np.ndarray:
    for kind in ("power_instant", "power_average", "power_usage"):
        column = f"{name}_{kind}_w"
        if column in sampler["columns"] and column not in sampler["absent"]:
            return np.asarray(sampler["values"])[:, sampler["columns"].index(column)]
    raise ValueError(f"{name} has no power readings")
