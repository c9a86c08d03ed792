"""Joules with a bound, from what the sampler recorded. Pure functions on plain data; nothing is measured here.

The energy counter is preferred (perfsuite.energy_bands.CounterMeter), the integral of the power readings
(PowerMeter) checks it and stands in where there is none. `bound_j` is what sampling and renewal leave open: the
energy that the sensor reported lies within energy_j +- bound_j. The sensor's own accuracy is not part of it (vendors
state 5 %; arXiv:2312.02741 found -7 % to +13 % against an external meter).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perfsuite.energy_bands import Band
from perfsuite.energy_sources import Source, open_source, sources

SHORT_WINDOW_S = 5.0
"""Below this a sensor renewed ten times a second leaves more than about 2 % of the energy open."""


def energy_between(
    sampler: Mapping[str, Any], t0_ns: int, t1_ns: int, names: Sequence[str] | None = None, floor_w: float = 0.0
) -> dict[str, Any]:
    """Energy drawn between two monotonic times by the devices in `names` (all of sources() by default).

    sampler: what Sampler.stop() returned, or the same read back from a record. floor_w: the least that a device draws,
    for the bound from power readings alone.

    Returns {"available", "reason", "energy_j", "bound_j", "low_j", "high_j", "mean_w", "method": "counter" | "power" |
    "mixed", "notes": [str], "sources": [the same per device with "source", "update_s", "sensor", "cross_check"]}.
    bound_j is the larger distance to low_j and high_j, None where nothing limits the power. Where one device cannot be
    read the sum is not available, with its reason. Raises ValueError for an empty window and an unknown name.
    """
    _check_window(t0_ns, t1_ns)
    found = [open_source(sampler, name, t0_ns, t1_ns, floor_w) for name in _chosen(sampler, names)]
    rows = [_row(source, t0_ns, t1_ns) for source in found]
    return _sum(rows, t0_ns, t1_ns, _no_source(sampler)) | {"sources": rows}


def energy_by_phase(
    sampler: Mapping[str, Any],
    t0_ns: int,
    t1_ns: int,
    spans: Mapping[str, np.ndarray],
    names: Sequence[str] | None = None,
    floor_w: float = 0.0,
) -> dict[str, Any]:
    """The energy of a window, split between phases.

    spans: for each phase its intervals, int64 (n, 2) monotonic ns, as phase_spans() makes them; intervals of all phases
    together do not overlap. What they leave of the window is "unattributed".

    The estimate gives each interval what the meter's estimate rises by within it, so the phases add up to the window.
    The bound of a phase is the sum over its intervals of what the meter leaves open, at most limit * time, and at most
    what the other phases leave of the window: phases that take turns faster than the sensor is renewed cannot be told
    apart, and their bounds say so. Returns energy_between() of the window with "phases": [{"name", "time_s",
    "energy_j", "bound_j", "low_j", "high_j", "mean_w"}] beside it, empty where no energy is available.
    """
    total = energy_between(sampler, t0_ns, t1_ns, names, floor_w)
    parts = _complete(spans, t0_ns, t1_ns)
    if not total["available"]:
        return total | {"phases": []}
    bands = []
    for name in _chosen(sampler, names):
        meter = open_source(sampler, name, t0_ns, t1_ns, floor_w).best
        window = meter.between(np.array([t0_ns]), np.array([t1_ns]))
        each = [[np.sum(side) for side in meter.between(part[:, 0], part[:, 1])] for part in parts.values()]
        bands.append(_split(window, Band(*np.array(each).T)))
    low, estimate, high = (np.sum([band[i] for band in bands], axis=0) for i in range(3))
    seconds = [float(np.sum(part[:, 1] - part[:, 0])) / 1e9 for part in parts.values()]
    phases = [
        {"name": name, "time_s": s} | _figures(low[i], estimate[i], high[i], s)
        for i, (name, s) in enumerate(zip(parts, seconds, strict=True))
    ]
    return total | {"phases": phases}


def phase_spans(timeline: np.ndarray, names: Sequence[str], end_ns: int) -> dict[str, np.ndarray]:
    """Intervals of each phase, int64 (n, 2) ns, from a phase clock's timeline.

    timeline: int64 (events, 3): ns, index into `names` of the phase that is innermost from then on (-1: none), step.
    """
    begin = timeline[:, 0]
    end = np.append(begin[1:], end_ns)[: len(begin)]  # no event, no interval
    rows = np.stack([begin, end], axis=1)
    return {name: rows[(timeline[:, 1] == i) & (end > begin)] for i, name in enumerate(names)}


def _check_window(t0_ns: int, t1_ns: int) -> None:
    if t1_ns <= t0_ns:
        raise ValueError(f"the window for the energy is empty: it ends {(t0_ns - t1_ns) / 1e9:g} s before it begins")


def _chosen(sampler: Mapping[str, Any], names: Sequence[str] | None) -> list[str]:
    known = sources(sampler)
    for name in names or ():
        if name not in known:
            raise ValueError(f"no energy source {name!r} in this record: it has {', '.join(known) or 'none'}")
    return known if names is None else list(names)


def _no_source(sampler: Mapping[str, Any]) -> str:
    reasons = [f"{name}: {sampler['absent'][name]}" for name in ("gpu", "rapl") if name in sampler["absent"]]
    return "no power sensor (" + "; ".join(reasons) + ")"


def _row(source: Source, t0_ns: int, t1_ns: int) -> dict[str, Any]:
    """One device's line of the account."""
    seconds = (t1_ns - t0_ns) / 1e9
    head = {"source": source.name, "method": source.method}
    tail = {"update_s": None, "sensor": None, **source.facts, "cross_check": None, "notes": source.notes}
    if source.best is None:
        return head | {"available": False, "reason": "; ".join(source.notes)} | _unknown() | tail
    a, b = np.array([t0_ns]), np.array([t1_ns])
    low, energy, high = (float(side[0]) for side in source.best.between(a, b))
    if source.counter and source.power:
        tail["cross_check"] = _cross_check(Band(low, energy, high), source.power.between(a, b))
    figures = _figures(low, energy, high, seconds)
    notes = list(source.notes)
    if seconds < SHORT_WINDOW_S:
        share = "unknown" if figures["bound_j"] is None or energy == 0 else f"{figures['bound_j'] / energy:.0%} of it"
        notes.append(f"a window of {seconds:.3g} s is short of {SHORT_WINDOW_S:g} s: the energy's bound is {share}")
    return head | {"available": True, "reason": None} | figures | tail | {"notes": notes}


def _cross_check(counter: Band, power: Band) -> dict[str, Any]:
    """How far the integral of the readings is from the counter, and whether both can be true."""
    low, energy, high = (float(side[0]) for side in power)
    apart = energy - counter.estimate
    return {
        "power_energy_j": energy,
        "power_bound_j": _bound(low, energy, high),
        "disagreement_j": apart,
        "relative": apart / counter.estimate if counter.estimate else None,
        "explained": bool(low <= counter.high and counter.low <= high),
    }


def _bound(low: float, energy: float, high: float) -> float | None:
    return max(energy - low, high - energy) if np.isfinite(high) else None


def _figures(low: float, energy: float, high: float, seconds: float) -> dict[str, Any]:
    return {
        "energy_j": float(energy),
        "bound_j": None if (bound := _bound(low, energy, high)) is None else float(bound),
        "low_j": float(low),
        "high_j": float(high) if np.isfinite(high) else None,
        "mean_w": float(energy) / seconds if seconds else None,
    }


def _unknown() -> dict[str, Any]:
    return dict.fromkeys(("energy_j", "bound_j", "low_j", "high_j", "mean_w"))


def _sum(rows: list[dict[str, Any]], t0_ns: int, t1_ns: int, no_source: str) -> dict[str, Any]:
    missing = [f"{row['source']}: {row['reason']}" for row in rows if not row["available"]]
    if missing or not rows:
        reason = "; ".join(missing) or no_source
        return {"available": False, "reason": reason} | _unknown() | {"method": None, "notes": []}
    methods = {row["method"] for row in rows}
    high = sum(np.inf if row["high_j"] is None else row["high_j"] for row in rows)
    figures = _figures(sum(r["low_j"] for r in rows), sum(r["energy_j"] for r in rows), high, (t1_ns - t0_ns) / 1e9)
    notes = [f"{row['source']}: {note}" for row in rows for note in row["notes"]]
    method = methods.pop() if len(methods) == 1 else "mixed"
    return {"available": True, "reason": None} | figures | {"method": method, "notes": notes}


def _complete(spans: Mapping[str, np.ndarray], t0_ns: int, t1_ns: int) -> dict[str, np.ndarray]:
    """The spans cut to the window, and what they leave of it. ValueError where two overlap."""
    cut = {name: np.clip(np.asarray(rows, np.int64).reshape(-1, 2), t0_ns, t1_ns) for name, rows in spans.items()}
    cut = {name: rows[rows[:, 1] > rows[:, 0]] for name, rows in cut.items()}
    together = np.concatenate([np.zeros((0, 2), np.int64), *cut.values()])
    together = together[np.argsort(together[:, 0])]
    if np.any(together[1:, 0] < together[:-1, 1]):
        raise ValueError("the spans of the phases overlap: give each phase the time it is innermost")
    gaps = np.stack([np.append(t0_ns, together[:, 1]), np.append(together[:, 0], t1_ns)], axis=1)
    return cut | {"unattributed": gaps[gaps[:, 1] > gaps[:, 0]]}


def _split(window: Band, parts: Band) -> Band:
    """Bounds of the parts, tightened by each other, and estimates that lie within them and add up to the window's."""
    low, high = parts.low, np.minimum(parts.high, window.high)
    low, high = (
        np.maximum(low, window.low - (np.sum(high) - high)) if np.all(np.isfinite(high)) else low,
        np.maximum(low, np.minimum(high, window.high - (np.sum(low) - low))),
    )
    estimate = np.clip(parts.estimate, low, high)
    short = window.estimate - np.sum(estimate)
    room = np.where(np.isfinite(high), high - estimate, 1.0) if short > 0 else estimate - low
    if np.sum(room) > 0:
        estimate = estimate + short * room / np.sum(room)
    return Band(low, estimate, high)
