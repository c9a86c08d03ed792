"""DRAM bytes counted three ways, none made from another, and the roofline of what was measured.

Sampled: the timeline pass, over time, copies and all. Replayed: the counter pass, per kernel call, times the calls of
the ledger pass. Modelled: what the ops of the ledger pass must move at least, by their shapes. Copies between host and
device are in the first count alone.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perfsuite.account_kernels import level_bytes, level_of, ops_by_dtype
from perfsuite.account_samples import Samples
from perfsuite.roofline import Gpu, Level

LAG_LIMIT = 0.05
"""Of the device's busy time: what may run while the host is in another phase, for bytes by phase to mean something."""
COVERED = 0.95
"""Of a phase's kernel time: what must have been replayed, or be of ops with known bytes, for bytes to be given."""
MAX_POINTS = 40


def lag_share(pass_: Mapping[str, Any]) -> float | None:
    """The least share of the device's busy time that ran while the host was in another phase than at the launch.

    While the host is in a phase the device is busy or idle, and its idle time is known by the host's phase: the rest is
    busy time by the host's phase, to be held against busy time by the phase of the launch. None where not known.
    """
    kernels = pass_.get("kernels")
    if not kernels or len(kernels["devices"]) != 1:
        return None
    device = kernels["devices"][0]
    launched = {part["phase"]: part["time_ns"] for part in device["busy"]}
    idle: dict[str, int] = {}
    for part in device["idle"]:
        idle[part["phase"]] = idle.get(part["phase"], 0) + part["time_ns"]
    apart = sum(
        abs(launched.get(phase["name"], 0) - (phase["time_ns"] - idle.get(phase["name"], 0)))
        for phase in pass_["phases"]
    )
    return apart / 2 / device["busy_ns"] if device["busy_ns"] else None


def byte_counts(samples: Samples | None, spans: Mapping[str, np.ndarray], lag: float | None, reason: str | None,
                 ledger: Mapping[str, Any], replay_said: Mapping[str, Any]) -> list[dict[str, Any]]:  # fmt: skip
    """DRAM bytes by phase and in total, counted three ways; null with a reason where there is no count."""
    kernels, ops = ledger["kernels"], ledger["ops"]
    if samples is None and not kernels:
        return []
    dram = None if samples is None else _dram(samples)
    timed = [name for name, span in spans.items() if len(span)]
    phases = [name for name in dict.fromkeys([*timed, *(line["phase"] for line in kernels)]) if name]
    rows = []
    for phase in [*phases, "total"]:
        mine = [line for line in kernels if phase in ("total", line["phase"])]
        if samples is None:
            sampled, why = None, reason
        elif dram is None:
            sampled, why = None, "this set of counters has no DRAM bytes"
        elif phase == "total":
            sampled, why = float(np.sum(dram)), None
        elif phase not in spans:
            sampled, why = None, "the timeline pass kept no spans of this phase"
        elif lag is None or lag > LAG_LIMIT:
            known = "an unknown part" if lag is None else f"{100 * lag:.0f} % or more"
            sampled, why = None, f"the device did {known} of its work while the host was in another phase"
        else:
            sampled, why = samples.within(dram, spans[phase]), None
        replayed, replayed_share, why_replayed = _replayed(mine, replay_said)
        modelled, why_modelled = _modelled([op for op in ops if phase in ("total", op["phase"])], mine)
        rows.append({"phase": phase, "sampled_bytes": sampled, "sampled_reason": why, "replayed_bytes": replayed,
                     "replayed_reason": why_replayed, "replayed_share": replayed_share, "modelled_bytes": modelled,
                     "modelled_reason": why_modelled})  # fmt: skip
    return rows


def _dram(samples: Samples) -> np.ndarray | None:
    if "dram_bytes" in samples.columns:
        return samples.columns["dram_bytes"]
    parts = [samples.columns.get(name) for name in ("dram_read_bytes", "dram_write_bytes")]
    return None if any(part is None for part in parts) else parts[0] + parts[1]


def _replayed(
    lines: Sequence[Mapping[str, Any]], said: Mapping[str, Any]
) -> tuple[float | None, float | None, str | None]:
    """(bytes, the share of the kernels' time that was replayed, why there are no bytes)."""
    if not said["available"]:
        return None, None, said["reason"]
    kernels = [line for line in lines if line["kind"] == "kernel"]
    total_s = sum(line["time_s"] for line in kernels)
    found = [line for line in kernels if line["bytes_source"] == "replayed"]
    share = sum(line["time_s"] for line in found) / total_s if total_s else None
    if share is None:
        return None, None, "no kernel ran"
    if share < COVERED:
        return None, share, f"kernels with {100 * (1 - share):.0f} % of the kernel time were not replayed"
    return sum(line["bytes"] for line in found), share, None


def _modelled(ops: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]) -> tuple[int | None, str | None]:
    """Least bytes of the ops that launched something, but for copies between host and device."""
    on_device = [op for op in ops if op["device_time_ns"] and not op["host_copy"]]
    if not on_device:
        return None, "no op of the ledger pass is known to have run on the device"
    launched_s = sum(line["share_s"] for line in lines)
    unknown_s = sum(op["device_time_s"] for op in on_device if op["bytes"] is None) + sum(
        line["share_s"] for line in lines if line["aten"] is None
    )
    if unknown_s > (1 - COVERED) * launched_s:
        return None, f"of {100 * unknown_s / launched_s:.0f} % of the device time the bytes are not known"
    return sum(op["bytes"] or 0 for op in on_device), None


def operation_counts(ledger: Mapping[str, Any]) -> dict[str, Any]:
    """Tensor operations as the counter pass counts them against those of the shapes, of ops that have both counts.

    {"replayed", "modelled", "ratio", "reason"}: a ratio of 1 says that a multiply-add counts as two for both.
    """
    site = ("direction", "module", "phase", "thread")
    counted: defaultdict[tuple[Any, ...], float] = defaultdict(float)
    partly = set()
    for line in ledger["kernels"]:
        key = (line["aten"], *(line[part] for part in site))
        if line["tensor_ops"] is not None:
            counted[key] += line["tensor_ops"]
        elif line["kind"] == "kernel":
            partly.add(key)
    shaped: defaultdict[tuple[Any, ...], int] = defaultdict(int)
    for op in ledger["ops"]:
        key = (op["name"], *(op[part] for part in site))
        if op["flops"] is None:
            partly.add(key)
        else:
            shaped[key] += op["flops"]
    both = [key for key, operations in counted.items() if operations and shaped.get(key) and key not in partly]
    if not both:
        return {"replayed": None, "modelled": None, "ratio": None, "reason": "no op has both counts"}
    replayed, modelled = sum(counted[key] for key in both), sum(shaped[key] for key in both)
    return {"replayed": replayed, "modelled": modelled, "ratio": replayed / modelled, "reason": None}


def roofline_points(kernels: Sequence[Mapping[str, Any]], gpu: Gpu | None) -> list[dict[str, Any]]:
    """Points of the hierarchical roofline from measured bytes and operations: one a kernel, op, phase and level."""
    groups: defaultdict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for line in kernels:
        if line["counters"]:
            groups[line["name"], line["aten"], line["phase"]].append(line)
    points = []
    for (kernel, op, phase), group in groups.items():
        values = {name: sum(line["counters"][name] for line in group) for name in group[0]["counters"]}
        operations, time_s = sum(ops_by_dtype(values).values()), sum(line["time_s"] for line in group)
        if not operations or not time_s:
            continue
        peak = _peak(values, gpu)
        for name, (moved, written) in level_bytes(values).items():
            if not moved:
                continue
            level: Level | None = level_of(gpu.machine, name) if gpu is not None else None
            rate = None if level is None else level.bandwidth(0.5 if written is None else written).value
            points.append({
                "kernel": kernel, "op": op, "phase": phase, "level": name, "bytes": moved, "operations": operations,
                "time_s": time_s, "intensity_ops_per_byte": operations / moved, "ops_per_s": operations / time_s,
                "ceiling_ops_per_s": None if rate is None or peak is None else min(rate * operations / moved, peak),
                "bandwidth_bytes_per_s": rate, "peak_ops_per_s": peak,
            })  # fmt: skip
    points.sort(key=lambda point: -point["time_s"])
    return points[:MAX_POINTS]


def _peak(values: Mapping[str, float], gpu: Gpu | None) -> float | None:
    """Peak of the mix of dtypes that the kernel computed in: all operations over the least time for them."""
    if gpu is None:
        return None
    computed = ops_by_dtype(values)
    parts = [(n, gpu.machine.peak_flops_per_s.get(dtype)) for dtype, n in computed.items() if n]
    if any(rate is None for _, rate in parts):
        return None
    return sum(n for n, _ in parts) / sum(n / rate.value for n, rate in parts)
