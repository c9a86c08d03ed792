"""How a power sensor works, from its readings under a load that is switched on and off: pure functions.

A reading is taken to be the mean power over a window that ended `lag` before the reading was renewed (the sensor of
arXiv:2312.02741). Where no window explains the readings, that is the answer.
"""

from typing import Any, NamedTuple

import numpy as np

from perfsuite.renewals import Dates, dates

UNEXPLAINED = 0.1
"""Of the step between the two powers: readings further off than this (rms) are not the mean of one window."""
LONGEST_S = 2.0
"""Window and lag are sought up to this."""
LEAST_EDGES = 16
_BLOCKS = 8
REACHED = 0.9


def analyse(
    t_ns: np.ndarray, watts: np.ndarray, load_edges_ns: np.ndarray, energy_j: np.ndarray | None = None
) -> dict[str, Any]:
    """Update period, averaging window and delays of a sensor under a square-wave load.

    t_ns: int64 (n,) monotonic, when each sample was taken, in order. watts: float64 (n,) the power readings, NaN where
    there is none. load_edges_ns: int64 (m,) monotonic, when the load changed: on at the first, off at the second, and
    so on in turn. energy_j: float64 (n,) the energy counter's readings of the same samples.

    For a good answer: samples several times as often as the sensor renews, at least 32 edges, on and off for several
    update periods each, of lengths that are no multiple of the update period (or drawn at random).

    Returns, each as {"value", "spread": [low, high], "reason"} with value None and a reason where it cannot be told:
    "update_period_s"; "window_s", the time that a reading is the mean of; "lag_s", from the end of that window to the
    renewal; "rise_s" and "fall_s", from an edge of the load to the renewal that shows 90 % of the step;
    "counter_update_period_s"; "low_w" and "high_w". The spread of the periods is what the samples' times leave open,
    of rise and fall the 5th to 95th percentile over the edges, of the others 3 standard errors (jackknife over 8
    blocks). "unexplained_share": rms of the readings about the model, over the step. "aliasing": {"sampler_period_s",
    "unobserved_share": of the time that no reading covers, "missed_share": of the renewals that no sample saw, "risk":
    a sentence or None, "reason"}.
    """
    t_ns, watts = np.asarray(t_ns, np.int64), np.asarray(watts, np.float64)
    edges = np.asarray(load_edges_ns, np.int64)
    read = np.isfinite(watts)
    when = dates(t_ns[read], t_ns[read], watts[read])
    out: dict[str, Any] = {"update_period_s": _period(when)}
    out |= _response(when, t_ns[read], watts[read], edges)
    out["counter_update_period_s"] = _counter_period(t_ns, energy_j)
    out["aliasing"] = _aliasing(when, t_ns[read], out["update_period_s"]["value"], out["window_s"]["value"])
    return out


def _known(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": float(value), "spread": [float(low), float(high)], "reason": None}


def _unknown(reason: str) -> dict[str, Any]:
    return {"value": None, "spread": None, "reason": reason}


def _period(when: Dates) -> dict[str, Any]:
    if when.period_ns is None:
        return _unknown(when.reason)
    period, left = when.period_ns / 1e9, when.period_open_ns / 1e9
    return _known(period, period - left, period + left)


def _counter_period(t_ns: np.ndarray, energy_j: np.ndarray | None) -> dict[str, Any]:
    if energy_j is None:
        return _unknown("no energy counter was read")
    joules = np.asarray(energy_j, np.float64)
    read = np.isfinite(joules)
    return _period(dates(t_ns[read], t_ns[read], joules[read]))


class _Readings(NamedTuple):
    """One for each renewal that a sample surely saw."""

    renewed_s: np.ndarray
    watts: np.ndarray
    edges_s: np.ndarray
    """Of the load, on the same clock."""


def _response(when: Dates, t_ns: np.ndarray, watts: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    names = ("window_s", "lag_s", "rise_s", "fall_s", "low_w", "high_w")
    reason = when.reason
    if len(edges) < LEAST_EDGES:
        reason = f"{len(edges)} edges of the load: at least {LEAST_EDGES} are needed"
    if when.period_ns is None or len(edges) < LEAST_EDGES:
        return {name: _unknown(reason) for name in names} | {"unexplained_share": None}
    readings = _readings(when, t_ns, watts, edges)
    if gap := _gap(when, edges):
        text = (f"the load's edges leave {gap:.0%} of the update period out: let its lengths be no multiple of "
                f"{when.period_ns / 1e9:.3g} s")  # fmt: skip
        return {name: _unknown(text) for name in names} | {"unexplained_share": None}
    window, lag = _search(readings)
    low, high, off = _levels(readings, window, lag)
    unexplained = off / abs(high - low) if high != low else np.inf
    if unexplained > UNEXPLAINED:
        text = f"no window explains the readings: they are {unexplained:.0%} of the step off (rms)"
        found = {name: _unknown(text) for name in ("window_s", "lag_s", "low_w", "high_w")}
        low, high = np.quantile(watts, [0.05, 0.95])
    else:
        found = _jackknife(readings, (window, lag, low, high), when.open_ns[0] / 1e9)
    steps = {name: _reached(readings, which, low, high) for name, which in (("rise_s", 0), ("fall_s", 1))}
    return found | steps | {"unexplained_share": float(unexplained) if np.isfinite(unexplained) else None}


def _readings(when: Dates, t_ns: np.ndarray, watts: np.ndarray, edges: np.ndarray) -> _Readings:
    number = np.arange(when.number[0], when.number[-1] + 1)
    renewed, left = when.at(number), when.open_ns[0]
    sample = np.searchsorted(t_ns, renewed + left, side="right")
    sample = np.minimum(sample, len(t_ns) - 1)
    seen = (t_ns[sample] > renewed + left) & (t_ns[sample] < renewed + when.period_ns - left)
    seen &= (renewed >= edges[0]) & (renewed <= edges[-1])
    zero = edges[0]
    return _Readings((renewed[seen] - zero) / 1e9, watts[sample[seen]], (edges - zero) / 1e9)


def _gap(when: Dates, edges: np.ndarray) -> float | None:
    """The largest part of the update period in which no edge of the load fell, where that is more than half."""
    phase = np.sort(((edges - when.t_ns[0]) % when.period_ns) / when.period_ns)
    gap = float(np.max(np.diff(np.append(phase, phase[0] + 1))))
    return gap if gap > 0.5 else None


def _on_share(readings: _Readings, window: float, lag: float) -> np.ndarray:
    """Share of each reading's window in which the load was on."""
    edges = readings.edges_s
    lengths = np.where(np.arange(len(edges) - 1) % 2 == 0, np.diff(edges), 0.0)
    on = np.concatenate([[0.0], np.cumsum(lengths)])
    end = readings.renewed_s - lag
    return (np.interp(end, edges, on) - np.interp(end - window, edges, on)) / window


def _levels(readings: _Readings, window: float, lag: float) -> tuple[float, float, float]:
    """Low and high power by least squares, and the rms of what is left."""
    share = _on_share(readings, window, lag)
    centred = share - share.mean()
    spread = float(centred @ centred)
    step = float(centred @ readings.watts) / spread if spread > 0 else 0.0
    low = float(readings.watts.mean()) - step * float(share.mean())
    return low, low + step, float(np.sqrt(np.mean((readings.watts - low - step * share) ** 2)))


def _search(readings: _Readings, start: tuple[float, float] | None = None) -> tuple[float, float]:
    """Window and lag that explain the readings best, in seconds."""
    from scipy.optimize import minimize  # imported here: only the measurement of a machine needs it

    if start is None:
        grid = [(w, g) for w in np.geomspace(0.002, LONGEST_S, 50) for g in np.linspace(0, LONGEST_S / 4, 101)]
        start = min(grid, key=lambda at: _levels(readings, *at)[2])

    def off(at: np.ndarray) -> float:
        return _levels(readings, abs(at[0]) + 1e-4, at[1])[2]

    first = np.array([start, (start[0] * 1.15, start[1]), (start[0], start[1] + 0.004)])
    best = minimize(off, start, method="Nelder-Mead", options={"initial_simplex": first, "maxiter": 120})
    return float(abs(best.x[0]) + 1e-4), float(best.x[1])


def _jackknife(readings: _Readings, best: tuple[float, ...], open_s: float) -> dict[str, Any]:
    """The values with 3 standard errors; the lag also with how far the renewals' dates may be off."""
    block = np.arange(len(readings.watts)) * _BLOCKS // len(readings.watts)
    without = []
    for k in range(_BLOCKS):
        part = readings._replace(renewed_s=readings.renewed_s[block != k], watts=readings.watts[block != k])
        window, lag = _search(part, (best[0], best[1]))
        without.append((window, lag, *_levels(part, window, lag)[:2]))
    error = 3 * np.sqrt((_BLOCKS - 1) * np.var(without, axis=0))
    error[:2] += open_s
    names = ("window_s", "lag_s", "low_w", "high_w")
    return {name: _known(v, v - e, v + e) for name, v, e in zip(names, best, error, strict=True)}


def _reached(readings: _Readings, first: int, low: float, high: float) -> dict[str, Any]:
    """From each edge on (first 0) or off (1) to the renewal that shows REACHED of the step."""
    share = (readings.watts - low) / (high - low) if high != low else np.zeros(len(readings.watts))
    share = share if first == 0 else 1 - share
    edges, took = readings.edges_s, []
    for i in range(first, len(edges) - 1, 2):
        within = (readings.renewed_s > edges[i]) & (readings.renewed_s < edges[i + 1])
        there = np.flatnonzero(within & (share >= REACHED))
        before = np.flatnonzero(within & (share < REACHED))
        # Where it is there from the first renewal on, it may be what it still shows of the stretch before.
        if len(there) and (not len(before) or there[0] > before[0] or there[0] == np.flatnonzero(within)[0]):
            took.append(readings.renewed_s[there[0]] - edges[i])
    of = len(range(first, len(edges) - 1, 2))
    if len(took) < max(4, of // 2):
        return _unknown(f"the reading reached {REACHED:.0%} of the step after {len(took)} of {of} edges only: let the "
                        "load stay as it is for longer")  # fmt: skip
    return _known(np.median(took), *np.quantile(took, [0.05, 0.95]))


def _aliasing(when: Dates, t_ns: np.ndarray, update_s: float | None, window_s: float | None) -> dict[str, Any]:
    """What a sampler of this period, and this sensor, do not see."""
    period_s = float(np.median(np.diff(t_ns))) / 1e9 if len(t_ns) > 1 else None
    out = {"sampler_period_s": period_s, "unobserved_share": None, "missed_share": None, "risk": None, "reason": None}
    if update_s is None:
        return out | {"reason": f"the update period is not known: {when.reason}"}
    number = np.arange(when.number[0], when.number[-1])
    renewed = when.at(number)
    seen = np.searchsorted(t_ns, renewed + when.period_ns) > np.searchsorted(t_ns, renewed)
    missed = float(1 - np.mean(seen))
    if window_s is None:
        return out | {"missed_share": missed, "reason": "the averaging window is not known"}
    unobserved = max(0.0, 1 - min(1.0, window_s / update_s) * (1 - missed))
    risk = None
    if unobserved > 0.02:
        risk = (f"{unobserved:.0%} of the time is in no reading: a load that repeats every {update_s:.3g} s, or every "
                "whole fraction of that, is misread by the same amount however long it runs")  # fmt: skip
    return out | {"unobserved_share": unobserved, "missed_share": missed, "risk": risk}
