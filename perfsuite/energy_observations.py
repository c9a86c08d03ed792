"""Energy of many short windows of a run, from a GPU's samples: what the split of energy between kernels is learnt from.

Between two renewals of the energy counter the GPU drew the difference of their values: every joule of it, no blind
spot. Where there is no counter, each power reading is the energy of the sensor's window before it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from perfsuite.energy_sources import gpu_counter, gpu_power
from perfsuite.power_sensors import PowerSensor, sensor_of
from perfsuite.renewals import Dates, dates


class Observations(NamedTuple):
    """Energy of m windows."""

    begin_ns: np.ndarray
    end_ns: np.ndarray
    """float64 (m,) monotonic."""
    joules: np.ndarray
    """float64 (m,)."""
    open_ns: float
    """How far the ends of the windows may be off."""
    regular: bool
    """Whether they are all off by the same: the sensor keeps a grid, and only the grid's place is open."""
    source: str
    """"counter" or "power"."""
    notes: list[str]


def observations(
    sampler: Mapping[str, Any], name: str, t0_ns: int, t1_ns: int, sensor: PowerSensor | None = None
) -> Observations:
    """Windows within [t0_ns, t1_ns] of the GPU `name`, e.g. "gpu0".

    sampler: what Sampler.stop() returned. sensor: how the power sensor works where that was measured; else what was
    published for this GPU. Raises ValueError, with the reason, where neither counter nor readings give windows.
    """
    try:
        found = _of_counter(*gpu_counter(sampler, name, t0_ns, t1_ns))
    except ValueError as error:
        gpu = next(gpu for gpu in sampler["gpus"] if f"gpu{gpu['index']}" == name)
        found = _of_power(*gpu_power(sampler, name, t0_ns, t1_ns), sensor or sensor_of(gpu["name"]), str(error))
    inside = (found.begin_ns >= t0_ns) & (found.end_ns <= t1_ns)
    return found._replace(
        begin_ns=found.begin_ns[inside], end_ns=found.end_ns[inside], joules=found.joules[inside]
    )


def _of_counter(begin_ns: np.ndarray, end_ns: np.ndarray, joules: np.ndarray) -> Observations:
    when = dates(begin_ns, end_ns, joules)
    if len(when.sample) < 2:
        raise ValueError("the energy counter moved less than twice")
    shown = joules[when.sample]
    return Observations(when.t_ns[:-1], when.t_ns[1:], np.diff(shown), *_open(when), "counter", _notes(when))


def _of_power(
    begin_ns: np.ndarray, end_ns: np.ndarray, watts: np.ndarray, sensor: PowerSensor | None, no_counter: str
) -> Observations:
    if sensor is None:
        raise ValueError(f"{no_counter}; and nobody has published over which time this GPU's power readings are means")
    when = dates(begin_ns, end_ns, watts)
    if when.period_ns is None:
        raise ValueError(f"{no_counter}; and the power readings cannot be dated: {when.reason}")
    numbers = np.arange(when.number[0], when.number[-1] + 1)
    t_ns = when.at(numbers)
    # The first sample surely after each renewal, where it is surely before the next one.
    sample = np.searchsorted(begin_ns, t_ns + when.open_ns[0], side="left")
    there = sample < len(watts)
    sample = np.minimum(sample, len(watts) - 1)
    there &= end_ns[sample] <= t_ns + when.period_ns - when.open_ns[0]
    window_ns = 1e9 * sensor.window_s
    t_ns, watts = t_ns[there], watts[sample[there]]
    notes = [f"no energy counter: {no_counter}",
             f"power readings are means over {sensor.window_s:g} s: {sensor.source}"]  # fmt: skip
    return Observations(t_ns - window_ns, t_ns, watts * sensor.window_s, *_open(when), "power", notes)


def _open(when: Dates) -> tuple[float, bool]:
    return float(np.median(when.open_ns)), when.regular


def _notes(when: Dates) -> list[str]:
    return [] if when.reason is None else [f"renewals are dated by their samples alone: {when.reason}"]
