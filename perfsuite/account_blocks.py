"""The account's blocks beside the ledger: memory, host stacks and the sampler's series."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perfsuite.account_phases import Arrays
from perfsuite.roofline import Machine

MAX_POINTS = 600
"""Of a series: more than a page shows, and few enough to be printed."""


def why_not(pass_: Mapping[str, Any], instrument: str, otherwise: str) -> str:
    """The reason that this instrument gave in this pass, or `otherwise`."""
    for entry in pass_.get("instruments") or []:
        if entry["name"] == instrument and not entry["available"] and entry["reason"]:
            return entry["reason"]
    return otherwise


def memory(pass_: Mapping[str, Any], ops: Sequence[Mapping[str, Any]], machine: Machine | None) -> dict[str, Any]:
    """Peak and churn of the allocator, resident set, page faults, and bytes by memory level (from the roofline).

    machine: what the ops ran on. Of a run on a GPU only the ops that launched something are in `ops`.
    """
    allocator = pass_.get("allocator") or {}
    peak = allocator.get("peak_bytes")
    return {
        "peak_bytes": peak,
        "peak_reason": why_not(pass_, "allocator", "no allocator was watched in this pass") if peak is None else None,
        "churn_bytes": allocator.get("churn_bytes"),
        "allocations": allocator.get("allocations"),
        "phases": allocator.get("phases"),
        "rss_peak_bytes": pass_.get("rss_peak_bytes"),
        "page_faults": pass_.get("page_faults"),
        "levels": [] if machine is None else _levels(ops, machine),
    }


def _levels(ops: Sequence[Mapping[str, Any]], machine: Machine) -> list[dict[str, Any]]:
    """Bytes and time of the ops placed at each level. Overhead-bound ops are in: their bytes move all the same."""
    rows = []
    for level in machine.levels:
        placed = [op for op in ops if op["level"] == level.name]
        bytes_ = sum(op["bytes"] for op in placed)
        time_s = sum(op["work_time_s"] for op in placed)
        achieved = bytes_ / time_s if time_s else None
        ceiling = level.bandwidth(0.5).value
        rows.append({"name": level.name, "bytes": bytes_, "time_s": time_s, "bandwidth_bytes_per_s": ceiling,
                     "achieved_bytes_per_s": achieved,
                     "share_of_ceiling": achieved / ceiling if achieved is not None else None,
                     "source": "modelled"})  # fmt: skip
    return rows


def host(passes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The folded stacks of the host-stack pass, or why there are none."""
    for pass_ in passes:
        if pass_["kind"] == "host_stacks" and pass_.get("host_stacks"):
            stacks = dict(pass_["host_stacks"])
            return {"available": stacks["reason"] is None, "functions": stacks.pop("rows"), **stacks}
        if pass_["kind"] == "host_stacks":
            reason = why_not(pass_, "host_stacks", pass_.get("error") or "the host-stack pass recorded no stacks")
            return {"available": False, "reason": reason, "functions": []}
    return {"available": False, "reason": "no host-stack pass was asked for (--host-stacks)", "functions": []}


# Counters become rates. Energy counters and bit masks are not shown: the first are the power block's, the second stay
# in the record.
_RATES = {"cpu_cores": (("cpu_user_s", "cpu_system_s"), "cores"), "minor_faults_per_s": (("minor_faults",), "1/s"),
          "major_faults_per_s": (("major_faults",), "1/s")}  # fmt: skip
_LEVELS = {"B": ("MB", 1e6), "W": ("W", 1.0), "%": ("%", 1.0), "MHz": ("MHz", 1.0), "C": ("C", 1.0),
           "share": ("share", 1.0), "B/s": ("GB/s", 1e9)}
"""Unit of a column that is a level, the unit it is shown in, and how many of the first make one of the second."""


def series(pass_: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    """The sampler's columns over the seconds since run_start, thinned to at most MAX_POINTS.

    Counters become rates over the stretch between two points ("cpu_cores" is CPU seconds per second), levels its mean.
    What was not read is null.
    """
    sampler = pass_.get("sampler") or {}
    absent = dict(sampler.get("absent", {}))
    t_ns = np.asarray(arrays["sampler_t_ns"]) if "sampler_t_ns" in arrays else np.empty(0, np.int64)
    if len(t_ns) < 2:
        return {"t_s": [], "columns": {}, "units": {}, "absent": absent}
    t_s = (t_ns - pass_["start_ns"]) / 1e9
    values = np.asarray(arrays["sampler_values"], dtype=np.float64)
    read = {name: values[:, i] for i, name in enumerate(sampler["columns"]) if name not in absent}
    edges = np.unique(np.linspace(0, len(t_s) - 1, min(MAX_POINTS, len(t_s) - 1) + 1).astype(np.int64))
    columns, units = {}, {}
    for shown, (sources, unit) in _RATES.items():
        if all(name in read for name in sources):
            total = sum(read[name] for name in sources)
            columns[shown], units[shown] = np.diff(total[edges]) / np.diff(t_s[edges]), unit
    for name, column in read.items():
        unit = sampler["units"][name]
        if unit in _LEVELS:
            shown_unit, scale = _LEVELS[unit]
            shown = name.removesuffix("_bytes") + "_mb" if unit == "B" else name
            columns[shown], units[shown] = _means(column, edges) / scale, shown_unit
    return {
        "t_s": ((t_s[edges[:-1]] + t_s[edges[1:]]) / 2).tolist(),
        "columns": {name: [None if np.isnan(x) else float(x) for x in column] for name, column in columns.items()},
        "units": units,
        "absent": absent,
    }


def _means(column: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean of what was read after each edge up to the next; NaN where nothing was."""
    read = ~np.isnan(column)
    sums = np.add.reduceat(np.where(read, column, 0.0)[1:], edges[:-1])
    counts = np.add.reduceat(read[1:].astype(np.int64), edges[:-1])
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
