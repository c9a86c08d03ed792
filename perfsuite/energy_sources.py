"""Which devices of a record have an energy sensor, and the meters that their samples make."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from perfsuite.energy_bands import CounterMeter, Meter, PowerMeter
from perfsuite.power_sensors import sensor_of

_GPU_RESOLUTION_J = 1e-3
_RAPL_RESOLUTION_J = 1e-4
_END_SPACINGS = 3  # how many typical sample distances an end of the window may be away from the nearest sample
_NO_LIMIT = "with no power limit known, the window's ends are bounded by the highest power seen between two samples"


class Source(NamedTuple):
    """What there is to tell the energy of one device within one window."""

    name: str
    counter: Meter | None
    power: Meter | None
    facts: dict[str, Any]
    notes: list[str]

    @property
    def best(self) -> Meter | None:
        return self.counter or self.power

    @property
    def method(self) -> str | None:
        return "counter" if self.counter else "power" if self.power else None


def sources(sampler: Mapping[str, Any]) -> list[str]:
    """Names of the devices whose energy can be asked for: "gpu0", ... and RAPL's packages and memories.

    Zones that are part of a package ("core") or hold one ("psys") are left out, so that a sum counts nothing twice.
    """
    absent = sampler["absent"]
    gpus = [f"gpu{gpu['index']}" for gpu in sampler.get("gpus", [])]
    zones = [zone for zone in sampler.get("rapl", []) if zone["column"] not in absent]
    counted = [zone["name"] for zone in zones if _is_package(zone["name"]) or zone["name"].endswith("-dram")]
    return gpus + counted


def open_source(sampler: Mapping[str, Any], name: str, t0_ns: int, t1_ns: int, floor_w: float) -> Source:
    zone = next((zone for zone in sampler.get("rapl", []) if zone["name"] == name), None)
    if zone:
        return _open_rapl(sampler, zone, t0_ns, t1_ns)
    gpu = next(gpu for gpu in sampler["gpus"] if f"gpu{gpu['index']}" == name)
    return _open_gpu(sampler, name, gpu, t0_ns, t1_ns, floor_w)


def _open_rapl(sampler: Mapping[str, Any], zone: Mapping[str, Any], t0_ns: int, t1_ns: int) -> Source:
    try:
        begin, end, joules = _samples(sampler, zone["column"], "rapl_read_ns", t0_ns, t1_ns)
        back = np.diff(joules, prepend=joules[0]) < 0
        if np.any(back) and not zone["range_j"]:
            raise ValueError(f"{zone['column']} went back and the kernel does not say where it wraps")
        joules = joules + np.cumsum(back) * (zone["range_j"] or 0.0)
        counter = CounterMeter(begin, end, joules, _RAPL_RESOLUTION_J, None)
    except ValueError as error:
        return Source(zone["name"], None, None, {}, [str(error)])
    facts = {"update_s": counter.update_s if counter.update_resolved else None}
    return Source(zone["name"], counter, None, facts, [_NO_LIMIT])


def _open_gpu(
    sampler: Mapping[str, Any], name: str, gpu: Mapping[str, Any], t0_ns: int, t1_ns: int, floor_w: float
) -> Source:
    notes: list[str] = []
    power, limit_w = _power_meter(sampler, name, gpu, t0_ns, t1_ns, floor_w, notes)
    facts: dict[str, Any] = {"update_s": None, "sensor": None}
    if power and power.sensor:
        facts["sensor"] = power.sensor._asdict()
    counter = None
    try:
        begin, end, joules = gpu_counter(sampler, name, t0_ns, t1_ns)
        counter = CounterMeter(begin, end, joules, _GPU_RESOLUTION_J, limit_w)
        if limit_w is not None and not counter.limit_is_known:
            notes.append(f"the energy counter rises faster than the power limit of {limit_w:g} W allows")
        facts["update_s"] = counter.update_s if counter.update_resolved else None
        if not counter.limit_is_known:
            notes.append(_NO_LIMIT)
    except ValueError as error:
        notes.append(str(error))
    if gpu["mig"]:
        notes.append("MIG mode is on: this is the energy of the whole GPU, not of one of its instances")
    return Source(name, counter, power, facts, notes)


def gpu_counter(
    sampler: Mapping[str, Any], name: str, t0_ns: int, t1_ns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples of a GPU's energy counter: begin and end of the reads (int64 ns), joules (float64), (n,) each.

    Those between the resets around the window. Raises ValueError where they do not reach over it.
    """
    column = f"{name}_energy_j"
    begin, end, joules = _samples(sampler, column, f"{name}_read_ns", t0_ns, t1_ns)
    return _without_resets(column, begin, end, joules, t0_ns, t1_ns)


def gpu_power(
    sampler: Mapping[str, Any], name: str, t0_ns: int, t1_ns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples of a GPU's instant power in watts, as gpu_counter() has those of the counter."""
    return _samples(sampler, f"{name}_power_instant_w", f"{name}_read_ns", t0_ns, t1_ns)


def _power_meter(
    sampler: Mapping[str, Any],
    name: str,
    gpu: Mapping[str, Any],
    t0_ns: int,
    t1_ns: int,
    floor_w: float,
    notes: list[str],
) -> tuple[PowerMeter | None, float | None]:
    """The meter from power readings, and the most that this GPU may draw, in watts."""
    limit_w = gpu["power_limit_w"]
    if limit_w is None:
        notes.append(f"no power limit: {gpu['power_limit_reason']}")
    sensor = sensor_of(gpu["name"])
    columns = [f"{name}_{kind}_w" for kind in ("power_instant", "power_average", "power_usage")]
    column = next((c for c in columns if c in sampler["columns"] and c not in sampler["absent"]), columns[0])
    if column != columns[0]:
        why = sampler["absent"][columns[0]]
        notes.append(f"{columns[0]}: {why}; {column} is taken, and what it averages is unknown")
        sensor = None
    elif sensor is None:
        notes.append(f"nobody has published how the power sensor of {gpu['name']} works: readings alone bound nothing")
    try:
        begin, end, watts = _samples(sampler, column, f"{name}_read_ns", t0_ns, t1_ns)
        meter = PowerMeter(begin, end, watts, sensor, limit_w, floor_w)
    except ValueError as error:
        notes.append(str(error))
        return None, limit_w
    if meter.contradicted:
        notes.append(f"the power readings change faster than published for {gpu['name']}: they bound nothing")
    return meter, None if limit_w is None else max(limit_w, float(np.max(watts)))


def _samples(
    sampler: Mapping[str, Any], column: str, read_column: str, t0_ns: int, t1_ns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Begin and end of the reads (int64 ns), and values; ValueError where they do not reach over the window."""
    if column in sampler["absent"]:
        raise ValueError(f"{column}: {sampler['absent'][column]}")
    t_ns, values = np.asarray(sampler["t_ns"]), np.asarray(sampler["values"])[:, sampler["columns"].index(column)]
    took = np.asarray(sampler["values"])[:, sampler["columns"].index(read_column)]
    valid = np.isfinite(values) & np.isfinite(took)
    begin = t_ns[valid]
    why = "; ".join(row["reason"] for row in sampler.get("failed", []) if row["column"] == column) or "not sampled"
    if len(begin) < 2:
        raise ValueError(f"{column} has {len(begin)} values: {why}")
    allowed = _END_SPACINGS * float(np.median(np.diff(begin)))
    if begin[0] > t0_ns + allowed:
        raise ValueError(f"{column} has no value in the window's first {(begin[0] - t0_ns) / 1e9:.3g} s: {why}")
    if begin[-1] < t1_ns - allowed:
        raise ValueError(f"{column} has no value in the window's last {(t1_ns - begin[-1]) / 1e9:.3g} s: {why}")
    return begin, begin + took[valid].astype(np.int64), values[valid]


def _without_resets(
    column: str, begin: np.ndarray, end: np.ndarray, joules: np.ndarray, t0_ns: int, t1_ns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The samples between the resets around the window. ValueError where the counter was reset within it."""
    at = np.flatnonzero(np.diff(joules) < 0) + 1  # first sample after each reset
    for i in at[(end[at] >= t0_ns) & (begin[at - 1] <= t1_ns)]:
        where = (begin[i] - t0_ns) / 1e9
        raise ValueError(f"{column} went back from {joules[i - 1]:g} to {joules[i]:g} J {where:.3g} s into the window")
    first = max((int(i) for i in at if end[i] < t0_ns), default=0)
    last = min((int(i) for i in at if begin[i - 1] > t1_ns), default=len(joules))
    return begin[first:last], end[first:last], joules[first:last]


def _is_package(zone: str) -> bool:
    return zone.startswith("package-") and zone.count("-") == 1
