"""Hierarchical roofline: what bounds an op, and how close to that bound it ran.

The roofline is that of Williams et al. 2009, with a ceiling per memory level as in Ilic et al. 2014. The level of an op
is the smallest measured one that holds what a call touches; as much of that as fits into the next smaller level may be
served from there, so that the ceiling has no cliff at a capacity. A buffer that the call before has just used can be
nearer still: the ceiling is a model, and an op that beats it is reported, not clipped.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from perfsuite.signature import parse, write_share


class Rate(NamedTuple):
    """A measured rate per second, and by how much of itself its measurements spread."""

    value: float
    spread: float


class Level(NamedTuple):
    """One level of the memory system: bandwidths in bytes moved per second, all threads together."""

    name: str
    capacity_bytes: float
    """Infinite for memory."""
    bandwidths: dict[float, Rate]
    """By the share of the bytes that is written: read 0, triad 1/3, copy 1/2, write 1."""

    def bandwidth(self, written: float) -> Rate:
        """Bandwidth for a mix of reads and writes: seconds per byte are interpolated between the measured mixes."""
        points = sorted(self.bandwidths)
        below = max((p for p in points if p <= written), default=points[0])
        above = min((p for p in points if p >= written), default=points[-1])
        low, high = self.bandwidths[below], self.bandwidths[above]
        weight = (written - below) / (above - below) if above > below else 0.0
        seconds = (1 - weight) / low.value + weight / high.value
        return Rate(1 / seconds, max(low.spread, high.spread))


class Machine(NamedTuple):
    """The ceilings that a roofline needs."""

    levels: tuple[Level, ...]
    """Smallest first."""
    peak_flops_per_s: dict[str, Rate]
    """By dtype as signatures write it, e.g. "f32"."""
    op_overhead_ns: float | None
    """Time of an op that does nothing."""


class Gpu(NamedTuple):
    """One GPU: its own ceilings, and those of the link to the host."""

    machine: Machine
    links: dict[str, Rate]
    """Bytes per second of pinned copies, by direction: "HtoD", "DtoH"."""


class Placement(NamedTuple):
    """Where one line of the account stands. None where not known."""

    level: str | None
    bound: str | None
    """"memory", "compute" or "overhead"."""
    share_of_ceiling: float | None
    """Least time by bytes or flops over the time taken; above 1 it is faster than the ceiling."""
    spread: float
    """Of the ceiling, relative."""
    least_s: float | None
    """The larger of least memory time and least compute time."""
    floor_s: float | None = None
    """The same with all bytes from the fastest level: nothing on this machine is faster."""


UNKNOWN = Placement(None, None, None, 0.0, None)
_MIXES = {0.0: ("read",), 1 / 3: ("triad",), 0.5: ("copy", "streaming_copy"), 1.0: ("write", "streaming_write")}
"""Kernels by the share of the bytes that they write. Where there are two the faster one is the ceiling."""
_DTYPES = {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def place(machine: Machine, signature: str, calls: int, self_time_s: float, bytes_: int | None, flops: int | None,
          footprint_bytes: int | None) -> Placement:  # fmt: skip
    """Place `calls` calls that took self_time_s, moved bytes_ and computed flops, all calls together.

    footprint_bytes is what one call touches. Unknown flops (None) leave the bound to the bytes; unknown bytes leave it
    open.
    """
    if bytes_ is None:
        return UNKNOWN
    level = _level(machine, footprint_bytes) if bytes_ else None
    memory_s, memory_spread, floor_s = 0.0, 0.0, 0.0
    if bytes_:
        if level is None:
            return UNKNOWN
        written = write_share(signature)
        bandwidth = _bandwidth(machine, level, footprint_bytes, written)
        memory_s, memory_spread = bytes_ / bandwidth.value, bandwidth.spread
        floor_s = bytes_ / machine.levels[0].bandwidth(0.5 if written is None else written).value
    compute_s, compute_spread = 0.0, 0.0
    if flops:
        inputs = parse(signature).inputs
        peak = machine.peak_flops_per_s.get(inputs[0].dtype) if inputs else None
        if peak is None:
            return Placement(level.name if level else None, None, None, 0.0, None)
        compute_s, compute_spread = flops / peak.value, peak.spread
    least_s = max(memory_s, compute_s)
    spread = compute_spread if compute_s > memory_s else memory_spread
    overhead_s = None if machine.op_overhead_ns is None else calls * machine.op_overhead_ns / 1e9
    if overhead_s is not None and overhead_s > least_s:
        bound = "overhead"
    elif least_s == 0.0:
        bound = None  # moves and computes nothing, and the cost of a call was not measured
    else:
        bound = "compute" if compute_s > memory_s else "memory"
    share = least_s / self_time_s if least_s and self_time_s else None
    return Placement(level.name if level else None, bound, share, spread, least_s, max(floor_s, compute_s))


def _level(machine: Machine, footprint_bytes: int | None) -> Level | None:
    if footprint_bytes is None:
        return None
    return next((level for level in machine.levels if footprint_bytes <= level.capacity_bytes), None)


def _bandwidth(machine: Machine, level: Level, footprint_bytes: int, written: float | None) -> Rate:
    """Of a footprint at its level, with what fits into the next smaller one served from there."""
    mix = 0.5 if written is None else written
    outer = level.bandwidth(mix)
    position = machine.levels.index(level)
    if position == 0:
        return outer
    smaller = machine.levels[position - 1]
    inner, near = smaller.bandwidth(mix), smaller.capacity_bytes / footprint_bytes
    if inner.value <= outer.value:
        return outer
    return Rate(1 / (near / inner.value + (1 - near) / outer.value), max(inner.spread, outer.spread))


def machine_of(ceilings: Mapping[str, Any]) -> Machine:
    """The processors and their memory that `perfsuite machine` measured; or, of an entry of its "gpus", that GPU."""
    levels = []
    for level in ceilings["levels"]:
        bandwidths = {}
        for written, kernels in _MIXES.items():
            rates = [_rate(level[key]) for key in (f"{kernel}_bytes_per_s" for kernel in kernels) if level.get(key)]
            if rates:
                bandwidths[written] = max(rates)
        capacity = math.inf if level["capacity_bytes"] is None else level["capacity_bytes"]
        if bandwidths:
            levels.append(Level(level["name"], capacity, bandwidths))
    # The faster of what the arithmetic units and a matrix product reached: a library may be far from the units.
    peaks: dict[str, Rate] = {}
    for measured in (ceilings.get("gemm_flops_per_s") or {}, ceilings.get("fma_flops_per_s") or {}):
        for dtype, rate in measured.items():
            name = _DTYPES.get(dtype, dtype)
            if rate and (name not in peaks or rate["ceiling"] > peaks[name].value):
                peaks[name] = _rate(rate)
    overhead = ceilings.get("op_overhead_ns")
    by_size = tuple(sorted(levels, key=lambda level: level.capacity_bytes))
    return Machine(by_size, peaks, None if overhead is None else overhead["ceiling"])


def ceilings_for(part: Mapping[str, Any], device: str | None) -> tuple[Mapping[str, Any] | None, str | None]:
    """What ops on `device` are held against, of the machine part of a record: (ceilings, None) or (None, why not).

    On "cuda" the entry of the GPU; "cuda:1" as well: GPUs of one machine are taken to be alike.
    """
    ceilings = part["ceilings"]
    if ceilings is None:
        return None, part["ceilings_reason"]
    if (device or "cpu").partition(":")[0] != "cuda":
        return ceilings, None
    if ceilings.get("gpus"):
        return ceilings["gpus"][0], None
    old = "they were measured without the GPU: run `perfsuite machine` to measure again"
    return None, ceilings.get("gpus_reason") or old


def gpu_of(measured: Mapping[str, Any]) -> Gpu:
    """The GPU of an entry of the "gpus" in ceilings. The cost of a call is left out: the rest is device time."""
    links: dict[str, Rate] = {}
    for row in measured.get("transfers") or []:
        if row["pinned"] and row["direction"] in ("HtoD", "DtoH"):
            rate = _rate(row["bytes_per_s"])
            links[row["direction"]] = max(rate, links.get(row["direction"], rate))
    return Gpu(machine_of(measured)._replace(op_overhead_ns=None), links)


def _rate(measured: Mapping[str, Any]) -> Rate:
    """The ceiling, and the distance of the quartiles of its repetitions in relation to it."""
    return Rate(measured["ceiling"], (measured["hi"] - measured["lo"]) / measured["ceiling"])
