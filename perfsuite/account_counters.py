"""The memory system as its counters saw it: bytes and bandwidth by level, over the run and by phase."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from perfsuite.account_blocks import MAX_POINTS
from perfsuite.account_bytes import LAG_LIMIT, byte_counts, lag_share, operation_counts, roofline_points
from perfsuite.account_kernels import level_of
from perfsuite.account_phases import Arrays
from perfsuite.account_samples import Samples, open_samples
from perfsuite.energy import phase_spans
from perfsuite.roofline import Gpu

# Level: columns read, written, both together, and what hits in it: a share, or the bytes that hit.
_LEVELS = (
    ("DRAM", "dram_read_bytes", "dram_write_bytes", "dram_bytes", None),
    ("L2", None, None, "l2_bytes", "l2_hit_share"),
    ("L1", None, None, "l1_bytes", "l1_hit_bytes"),
    ("PCIe", "pcie_read_bytes", "pcie_write_bytes", None, None),
    ("NVLink", "nvlink_rx_bytes", "nvlink_tx_bytes", None, None),
)
_PHASE_BYTES = ("dram_read_bytes", "dram_write_bytes", "l2_bytes")
_PHASE_SHARES = ("sm_active_share", "tensor_active_share")


def counters_block(record: Mapping[str, Any], arrays_of: Any, gpu: Gpu | None, ledger: Mapping[str, Any],
                   replay_said: Mapping[str, Any]) -> dict[str, Any]:  # fmt: skip
    """The account's `memory.counters`. ledger: {"pass": the ledger pass, "ops", "kernels": lines of the account}."""
    passes = record["passes"]
    pass_, samples, reason = open_samples(passes, arrays_of)
    if not record["device"].startswith("cuda") and pass_ is None:
        reason = "the run was not on a GPU"
    notes: list[str] = []
    block: dict[str, Any] = {
        "available": samples is not None, "reason": reason, "interval_s": None, "set": None, "chip": None,
        "columns": [], "absent": {}, "levels": [], "phases": [], "clock_s": None,
        "series": {"t_s": [], "columns": {}, "units": {}}, "sampled_share": None, "notes": notes,
        "replay": dict(replay_said),
        "roofline": roofline_points(ledger["kernels"], gpu), "operations": operation_counts(ledger),
    }  # fmt: skip
    spans: dict[str, np.ndarray] = {}
    if pass_ is not None and samples is not None:
        said = pass_["counters"]
        spans = _spans(pass_, arrays_of(pass_["arrays"]))
        block |= {"interval_s": said["interval_ns"] / 1e9, "set": said["set"], "chip": said["chip"],
                  "columns": said["columns"], "absent": said.get("absent") or {}, "clock_s": pass_["clock_ns"] / 1e9,
                  "sampled_share": samples.seconds() / (pass_["clock_ns"] / 1e9),
                  "levels": _levels(samples, gpu), "phases": _phases(samples, spans),
                  "series": _series(samples, pass_)}  # fmt: skip
        notes += _notes(said, block["sampled_share"])
        if pass_["num_steps"] != ledger["pass"]["num_steps"]:
            notes.append(f"the timeline pass took {pass_['num_steps']} steps, the {ledger['pass']['kind']} pass "
                         f"{ledger['pass']['num_steps']}: their counts are of different work")  # fmt: skip
    lag = lag_share(ledger["pass"])
    if block["phases"] and lag is not None and lag > LAG_LIMIT:
        notes.append(f"by phase: the phase is that of the host, and the device did {100 * lag:.0f} % of its work or "
                     "more while the host was in another one")  # fmt: skip
    block["byte_counts"] = byte_counts(samples, spans, lag, reason, ledger, replay_said)
    return block


def _spans(pass_: Mapping[str, Any], arrays: Arrays) -> dict[str, np.ndarray]:
    if "timeline" not in arrays or pass_.get("timeline_dropped"):
        return {}
    names = [phase["name"] for phase in pass_["phases"]]
    return phase_spans(np.asarray(arrays["timeline"]), names, pass_["start_ns"] + pass_["clock_ns"])


def _notes(said: Mapping[str, Any], sampled_share: float) -> list[str]:
    notes = list(said.get("notes") or [])
    if said["dropped"] or said["overflows"]:
        notes.append(f"{said['dropped']} counter samples were dropped, the buffer overflowed {said['overflows']} times")
    if sampled_share < 0.99:
        notes.append(f"counters were sampled over {100 * sampled_share:.1f} % of the clock; sums are of that time")
    return notes


def _levels(samples: Samples, gpu: Gpu | None) -> list[dict[str, Any]]:
    seconds = samples.seconds()
    active = next((name for name in ("gr_active_share", "sm_active_share") if name in samples.columns), None)
    busy_s = None if active is None else float(np.sum(samples.amounts(active))) / 1e9
    rows = []
    for name, read, written, both, hits in _LEVELS:
        found = {key: float(np.sum(samples.columns[column])) if column in samples.columns else None
                 for key, column in (("read", read), ("written", written), ("both", both))}  # fmt: skip
        total = found["both"]
        if total is None and None not in (found["read"], found["written"]):
            total = found["read"] + found["written"]
        if all(value is None for value in found.values()):
            continue
        # NVLink and PCIe move bytes with the engines idle as well: their busy time is not that of the kernels.
        on_chip = name in ("DRAM", "L2", "L1")
        busy = total / busy_s if total is not None and busy_s and on_chip else None
        level = level_of(gpu.machine, name) if gpu is not None and on_chip else None
        ceiling = None
        if level is not None and total:
            ceiling = level.bandwidth(found["written"] / total if found["written"] is not None else 0.5).value
        rows.append({
            "name": name, "read_bytes": found["read"], "write_bytes": found["written"], "bytes": total,
            "bandwidth_bytes_per_s": total / seconds if total is not None else None,
            "busy_bandwidth_bytes_per_s": busy, "busy_source": active if busy is not None else None,
            "ceiling_bytes_per_s": ceiling,
            "share_of_ceiling": busy / ceiling if busy is not None and ceiling else None,
            "hit_share": _hit_share(samples, both, hits), "source": "measured",
        })  # fmt: skip
    return rows


def _hit_share(samples: Samples, both: str | None, hits: str | None, spans: np.ndarray | None = None) -> float | None:
    """Of the bytes asked of a level, those that it had: a share is weighted with the bytes of its sample."""
    if hits is None or both is None or hits not in samples.columns or both not in samples.columns:
        return None
    asked = samples.columns[both]
    hit = samples.columns[hits] if hits.endswith("_bytes") else np.nan_to_num(samples.columns[hits] * asked)
    asked = asked if hits.endswith("_bytes") else np.where(np.isnan(samples.columns[hits]), 0.0, asked)
    if spans is None:
        total, had = float(np.sum(asked)), float(np.sum(hit))
    else:
        total, had = samples.within(asked, spans), samples.within(hit, spans)
    return had / total if total else None


def _phases(samples: Samples, spans: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    rows = []
    covered = (samples.end_ns - samples.begin_ns).astype(np.float64)
    for name, span in spans.items():
        if not len(span):
            continue
        sampled_ns = samples.within(covered, span)
        rows.append({
            "phase": name, "time_s": float(np.sum(span[:, 1] - span[:, 0])) / 1e9, "sampled_s": sampled_ns / 1e9,
            **{key: samples.within(samples.columns[key], span) if key in samples.columns else None
               for key in _PHASE_BYTES},
            "l2_hit_share": _hit_share(samples, "l2_bytes", "l2_hit_share", span),
            **{key: _mean_share(samples, key, span) for key in _PHASE_SHARES},
        })  # fmt: skip
    return rows


def _mean_share(samples: Samples, name: str, span: np.ndarray) -> float | None:
    """Mean over the part of the span in which it is known."""
    if name not in samples.columns:
        return None
    known_ns = samples.within(samples.known_ns(name), span)
    return samples.within(samples.amounts(name), span) / known_ns if known_ns else None


def _series(samples: Samples, pass_: Mapping[str, Any]) -> dict[str, Any]:
    """Thinned to at most MAX_POINTS stretches of samples: bytes as rates, shares as means over the stretch."""
    n = len(samples.begin_ns)
    edges = np.unique(np.linspace(0, n, min(MAX_POINTS, n) + 1).astype(np.int64))
    columns, units = {}, {}
    for name in samples.columns:
        sums = np.add.reduceat(samples.amounts(name), edges[:-1])
        seconds = np.add.reduceat(samples.known_ns(name), edges[:-1]) / 1e9
        if name.endswith("_share"):
            shown, unit, sums = name, "share", sums / 1e9
        else:
            shown, unit = f"{name}_per_s", "B/s" if name.endswith("_bytes") else "1/s"
        rates = np.divide(sums, seconds, out=np.full(len(sums), np.nan), where=seconds > 0)
        columns[shown], units[shown] = [None if np.isnan(x) else float(x) for x in rates], unit
    middle = (samples.begin_ns[edges[:-1]] + samples.end_ns[edges[1:] - 1]) / 2 - pass_["start_ns"]
    return {"t_s": (middle / 1e9).tolist(), "columns": columns, "units": units}
