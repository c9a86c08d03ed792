"""Why a GPU's clocks were lowered, and for how long: names of NVML's reasons, and a gate for runs that were throttled.

A power cap is no throttling here: at full load it is how a data-centre GPU runs (an H100 holds its power limit by
choosing its clock), the same in every run. Heat and brakes are: they depend on the room, the neighbours and the hour.
Constants: nvml.h, nvmlClocksEventReasons; time under a reason in ns: its fields 74, 76, 269 to 271.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

THROTTLED_SHARE = 0.01
"""Of the clock, above which a run counts as throttled. Slowdowns halve the clock or worse: 1 % of the time under one
costs about 1 % of the time, half of the 2 % within which two results are called the same."""


class Reason(NamedTuple):
    """One bit of the clocks event reasons."""

    bit: int
    name: str
    throttles: bool
    """Whether it makes a time one of an overheated or braked GPU."""
    counter: str | None
    """The sampler's column, without the GPU's prefix, that counts the time under it."""


REASONS = (
    Reason(0x1, "idle", False, None),
    Reason(0x2, "application clocks", False, None),
    Reason(0x4, "software power cap", False, "clock_event_sw_power_cap_ns"),
    Reason(0x8, "hardware slowdown", True, None),
    Reason(0x10, "sync boost", False, "clock_event_sync_boost_ns"),
    Reason(0x20, "software thermal slowdown", True, "clock_event_sw_thermal_ns"),
    Reason(0x40, "hardware thermal slowdown", True, "clock_event_hw_thermal_ns"),
    Reason(0x80, "hardware power brake", True, "clock_event_power_brake_ns"),
    Reason(0x100, "display clocks", False, None),
)
_IDLE = 0x1
_SEEN_MORE = 0.05
"""Of the clock, by which samples may see more of a reason than its counter, for their coarseness."""
POWER_CAP = "software power cap"


def names(bits: int) -> tuple[str, ...]:
    """What lowers the clocks now, power cap included; idle and clocks that somebody asked for are left out."""
    return tuple(r.name for r in REASONS if r.bit & bits and (r.throttles or r.name == POWER_CAP))


def clocks(sampler: Mapping[str, Any], t0_ns: int, t1_ns: int) -> dict[str, Any]:
    """Clock and throttle record of all GPUs between two monotonic times.

    sampler: what Sampler.stop() returned, or the same read back from a record. Returns {"available", "reason",
    "throttled": bool, "share": of the time under a throttling reason, "reasons": [{"name", "share", "time_s", "source":
    "counter" | "samples"}] longest first, "sm_clock_mhz": {"min", "median", "max"} of the samples that were not idle,
    "device": the GPU that all this is of, "devices": the same of each}: the GPU that was throttled the longest speaks
    for all. Where there is no GPU, or none can be read, "available" is False and the rest None or empty.
    """
    gpus = [f"gpu{gpu['index']}" for gpu in sampler.get("gpus", [])]
    found = [_of_one(sampler, gpu, t0_ns, t1_ns) for gpu in gpus]
    known = [device for device in found if device["available"]]
    if not known:
        reason = "; ".join(f"{d['device']}: {d['reason']}" for d in found) or sampler["absent"].get("gpu", "no GPU")
        return _nothing(reason) | {"devices": found}
    return max(known, key=lambda device: device["share"]) | {"devices": found}


def _nothing(reason: str) -> dict[str, Any]:
    return {"available": False, "reason": reason, "throttled": None, "share": None, "reasons": [],
            "sm_clock_mhz": None, "device": None}  # fmt: skip


def _of_one(sampler: Mapping[str, Any], gpu: str, t0_ns: int, t1_ns: int) -> dict[str, Any]:
    bits_column, clock_column = f"{gpu}_clock_event_reasons", f"{gpu}_clock_sm_mhz"
    if bits_column in sampler["absent"]:
        return _nothing(sampler["absent"][bits_column]) | {"device": gpu}
    t_ns = np.asarray(sampler["t_ns"])
    read = _column(sampler, bits_column)
    weights = np.where(np.isfinite(read), _held_ns(t_ns, t0_ns, t1_ns), 0.0)
    if not np.sum(weights):
        return _nothing("no sample of the clocks' reasons in this time") | {"device": gpu}
    bits = np.where(np.isfinite(read), read, 0).astype(np.int64)

    def share(mask: int) -> float:
        return float(np.sum(weights[(bits & mask) != 0]) / np.sum(weights))

    reasons = []
    for reason in REASONS:
        counted = _counted(sampler, gpu, reason, t_ns, t0_ns, t1_ns)
        if counted is not None and counted < share(reason.bit) - _SEEN_MORE:
            counted = None  # a counter that misses what the samples saw does not count this
        part = share(reason.bit) if counted is None else counted
        if part > 0:
            reasons.append({"name": reason.name, "share": part, "time_s": part * (t1_ns - t0_ns) / 1e9,
                            "source": "samples" if counted is None else "counter"})  # fmt: skip
    throttling = {r.name for r in REASONS if r.throttles}
    # Together by the samples; no less than any one by its counter, which misses nothing between two samples.
    together = share(sum(r.bit for r in REASONS if r.throttles))
    worst = max([together, *(row["share"] for row in reasons if row["name"] in throttling)])
    mhz = _column(sampler, clock_column)[(weights > 0) & (bits & _IDLE == 0)]
    mhz = mhz[np.isfinite(mhz)]
    return {
        "available": True, "reason": None, "throttled": worst > THROTTLED_SHARE, "share": worst,
        "reasons": sorted(reasons, key=lambda row: -row["share"]),
        "sm_clock_mhz": {"min": float(mhz.min()), "median": float(np.median(mhz)), "max": float(mhz.max())}
        if len(mhz) else None,
        "device": gpu,
    }  # fmt: skip


def _column(sampler: Mapping[str, Any], name: str) -> np.ndarray:
    return np.asarray(sampler["values"])[:, sampler["columns"].index(name)]


def _held_ns(t_ns: np.ndarray, t0_ns: int, t1_ns: int) -> np.ndarray:
    """How much of the window each sample stands for: from half way to its neighbours on either side."""
    middle = (t_ns[1:] + t_ns[:-1]) / 2
    edges = np.clip(np.concatenate([[-np.inf], middle, [np.inf]]), t0_ns, t1_ns)
    return np.diff(edges)


def _counted(
    sampler: Mapping[str, Any], gpu: str, reason: Reason, t_ns: np.ndarray, t0_ns: int, t1_ns: int
) -> float | None:
    """Share of the window under this reason by its counter; None where there is none that makes sense."""
    column = f"{gpu}_{reason.counter}"
    if reason.counter is None or column not in sampler["columns"] or column in sampler["absent"]:
        return None
    counted = _column(sampler, column)
    read = np.isfinite(counted)
    # Half a window without a reading would be extrapolation; a counter that fell was reset.
    if not np.any(t_ns[read] <= (t0_ns + t1_ns) / 2) or not np.any(t_ns[read] >= (t0_ns + t1_ns) / 2):
        return None
    if np.any(np.diff(counted[read]) < 0):
        return None
    begin, end = np.interp([t0_ns, t1_ns], t_ns[read], counted[read])
    share = float(end - begin) / (t1_ns - t0_ns)
    # More than all of the time: this driver does not count nanoseconds. A renewal's length of slack.
    return min(share, 1.0) if share <= 1.1 else None
