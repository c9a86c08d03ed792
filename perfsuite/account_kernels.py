"""Lines of the account by kernel: what ran on the GPU, for which op, how long, and what the counters say it moved.

A kernel is joined to the op that launched it by its site, and to the counter pass by name and site. `time_s` is the sum
of durations, `share_s` the device time with what overlaps shared out equally: shares and idle time add up to the clock.
Ceilings are held against durations, which overlap can only lengthen: no kernel looks faster than it was.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from perfsuite.account_replay import Replay, per_call
from perfsuite.roofline import Gpu, Level, Machine, Rate

Site = tuple[str, ...]
SITE = ("name", "direction", "op", "module", "phase", "thread")
HOST_COPIES = ("HtoD", "DtoH")


class OnDevice(NamedTuple):
    """What one row of the op recorder had the GPU do."""

    share_ns: int
    """Device time, what overlaps shared out."""
    time_ns: int
    """Sum of durations."""
    host_copy_ns: int
    """Of that, copies between host and device: their ceiling is the link."""


class Bound(NamedTuple):
    """Where measured work stands. None where not known."""

    bound: str | None
    """"memory" or "compute"."""
    level: str | None
    least_s: float | None
    spread: float
    """Of the ceiling, relative."""


def device_times(kernels: Mapping[str, Any] | None) -> dict[Site, OnDevice] | None:
    """By op row: what its launches took. None where no kernel recorder ran."""
    if kernels is None:
        return None
    found: defaultdict[Site, list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in kernels["rows"]:
        if row["site"] is None:
            continue
        sums = found[site_key(kernels["sites"][row["site"]])]
        sums[0] += row["share_ns"]
        sums[1] += row["time_ns"]
        sums[2] += row["time_ns"] if _is_host_copy(row) else 0
    return {key: OnDevice(*sums) for key, sums in found.items()}


def site_key(row: Mapping[str, Any]) -> Site:
    """Key of a site or of a row of the op recorder: they have the same fields."""
    return tuple(row[part] for part in SITE)


def kernel_lines(
    kernels: Mapping[str, Any], clock_ns: int, replay: Replay | None, gpu: Gpu | None
) -> list[dict[str, Any]]:
    """The account's `kernels`, longest first. Counters are the counter pass's, per call, times the calls here."""
    lines = [_line(row, kernels["sites"], clock_ns, replay, gpu) for row in kernels["rows"]]
    return sorted(lines, key=lambda line: -line["share_s"])


def _line(row: Mapping[str, Any], sites: Sequence[Mapping[str, Any]], clock_ns: int, replay: Replay | None,
          gpu: Gpu | None) -> dict[str, Any]:  # fmt: skip
    site = None if row["site"] is None else sites[row["site"]]
    op, _, implementation = (site["op"] if site else "").partition("=")
    calls, time_s = row["calls"], row["time_ns"] / 1e9
    each = per_call(replay, row["name"], site, row["phase"]) if row["kind"] == "kernel" else None
    values = {name: calls * value for name, value in (each or {}).items()}
    if row["kind"] == "kernel":
        placed = UNPLACED if gpu is None else place_measured(gpu.machine, values)
    else:
        placed = UNPLACED if gpu is None else _place_copy(gpu, row)
    moved = dram_bytes(values)
    return {
        "name": row["name"], "kind": row["kind"], "copy": row["copy"], "op": op or None, "impl": implementation or None,
        "aten": site["name"] if site else None, "direction": site["direction"] if site else None,
        "module": site["module"] if site else None, "thread": site["thread"] if site else None,
        "phase": row["phase"], "rank": 0, "device": row["device"], "graph": row["graph"], "calls": calls,
        "time_s": time_s, "share_s": row["share_ns"] / 1e9,
        "share_of_clock": row["share_ns"] / clock_ns if clock_ns else None,
        "min_s": row["min_ns"] / 1e9, "max_s": row["max_ns"] / 1e9,
        "bytes": row["bytes"] if row["kind"] != "kernel" else moved,
        "bytes_source": "copy" if row["kind"] != "kernel" else "replayed" if moved is not None else None,
        "dram_read_bytes": values.get("dram_read_bytes"), "dram_write_bytes": values.get("dram_write_bytes"),
        "l2_bytes": values.get("l2_bytes"), "tensor_ops": total_ops(values, "tensor_ops"),
        "flops": total_ops(values, "flops"),
        "counters": values or None, "bound": placed.bound, "level": placed.level,
        "share_of_ceiling": placed.least_s / time_s if placed.least_s is not None and time_s else None,
        "ceiling_spread": placed.spread,
        "joules": None, "bound_j": None, "told_apart": None,  # account_kernel_power.add_joules()
        **{key: row.get(key) for key in ("grid", "block", "registers", "shared_bytes")},
    }  # fmt: skip


UNPLACED = Bound(None, None, None, 0.0)
_DTYPES = {"fp16": "f16", "fp32": "f32", "fp64": "f64", "fp8": "float8_e4m3fn"}
"""Of a column's name, where the ceilings write it differently."""


def dram_bytes(values: Mapping[str, float]) -> float | None:
    """Read and written together; None unless both were measured. Chips that count them together have `dram_bytes`."""
    if "dram_bytes" in values:
        return values["dram_bytes"]
    parts = [values.get(name) for name in ("dram_read_bytes", "dram_write_bytes")]
    return None if None in parts else sum(parts)


def ops_by_dtype(values: Mapping[str, float]) -> dict[str, float]:
    """Operations of columns such as "tensor_ops_bf16" and "flops_f32", by dtype as signatures write it."""
    found: dict[str, float] = {}
    for name, value in values.items():
        for prefix in ("tensor_ops_", "flops_"):
            if name.startswith(prefix):
                dtype = name.removeprefix(prefix)
                dtype = _DTYPES.get(dtype, dtype)
                found[dtype] = found.get(dtype, 0.0) + value
    return found


def total_ops(values: Mapping[str, float], kind: str) -> float | None:
    """Sum of the columns "<kind>_<dtype>"; None where none was measured."""
    found = [value for name, value in values.items() if name.startswith(kind + "_")]
    return sum(found) if found else None


def level_bytes(values: Mapping[str, float]) -> dict[str, tuple[float, float | None]]:
    """Measured bytes of each level, and which share of them was written (None: not known)."""
    found: dict[str, tuple[float, float | None]] = {}
    moved = dram_bytes(values)
    if moved is not None:
        written = values.get("dram_write_bytes")
        found["DRAM"] = (moved, written / moved if moved and written is not None else None)
    for name, column in (("L2", "l2_bytes"), ("L1", "l1_bytes")):
        if column in values:
            found[name] = (values[column], None)
    return found


def level_of(machine: Machine, name: str) -> Level | None:
    """The machine's level of this name; memory is its largest, whatever it is called."""
    if name == "DRAM":
        return machine.levels[-1] if machine.levels else None
    return next((level for level in machine.levels if level.name == name), None)


def place_measured(machine: Machine, values: Mapping[str, float]) -> Bound:
    """What bounds measured bytes and operations: the level or the arithmetic units that they need the most time of."""
    times: list[tuple[float, str | None, float]] = []
    for name, (moved, written) in level_bytes(values).items():
        level = level_of(machine, name)
        if level is not None and moved:
            rate = level.bandwidth(0.5 if written is None else written)
            times.append((moved / rate.value, name, rate.spread))
    compute_s, spread = 0.0, 0.0
    for dtype, operations in ops_by_dtype(values).items():
        if not operations:
            continue
        peak = machine.peak_flops_per_s.get(dtype)
        if peak is None:
            return UNPLACED
        compute_s, spread = compute_s + operations / peak.value, max(spread, peak.spread)
    if compute_s:
        times.append((compute_s, None, spread))
    if not times:
        return UNPLACED
    least_s, level_name, spread = max(times, key=lambda found: found[0])
    return Bound("compute" if level_name is None else "memory", level_name, least_s, spread)


def _is_host_copy(row: Mapping[str, Any]) -> bool:
    return row["kind"] == "memcpy" and bool(row["copy"]) and row["copy"]["direction"] in HOST_COPIES


def _place_copy(gpu: Gpu, row: Mapping[str, Any]) -> Bound:
    """Copies between host and device against the link, those within the device against the level that holds them."""
    moved = row["bytes"]
    if not moved or not row["calls"]:
        return UNPLACED
    if row["kind"] == "memcpy":
        direction = row["copy"]["direction"] if row["copy"] else ""
        if direction in HOST_COPIES:
            link: Rate | None = gpu.links.get(direction)
            return UNPLACED if link is None else Bound("memory", "PCIe", moved / link.value, link.spread)
        if direction != "DtoD":
            return UNPLACED
        moved, written = 2 * moved, 0.5  # read and written
    else:
        written = 1.0
    levels = gpu.machine.levels
    level = next((level for level in levels if moved / row["calls"] <= level.capacity_bytes), None)
    if level is None:
        return UNPLACED
    rate = level.bandwidth(written)
    return Bound("memory", "DRAM" if level is levels[-1] else level.name, moved / rate.value, rate.spread)
