"""What a sensor's readings say for certain of the energy of an interval: a lower bound, an estimate, an upper bound.

Every reading is known to have been taken between two times (`begin_ns`, `end_ns`), since the call itself takes time.
"""

from typing import NamedTuple, Protocol

import numpy as np

from perfsuite.power_sensors import PowerSensor


class Band(NamedTuple):
    """Energy of each of n intervals: float64 (n,) joules each. `high` is inf where nothing bounds it."""

    low: np.ndarray
    estimate: np.ndarray
    high: np.ndarray


class Meter(Protocol):
    """Anything that bounds the energy of intervals."""

    def between(self, a_ns: np.ndarray, b_ns: np.ndarray) -> Band:
        """Energy of the intervals [a, b], int64 (n,) each."""


class CounterMeter:
    """Bounds from an energy counter that is renewed from time to time.

    Let E(t) be the energy that has been drawn. A renewal at the unknown time u makes the counter show C with
    C <= E(u) < C + resolution. Where two samples in a row differ, the value of the second one was renewed after the
    first was begun and before the second was done: that confines u to `u_low`..`u_high`. E never falls, and never
    rises faster than `limit_w`, so at any time t

        E(t) >= C of any renewal surely before t,   and >= C - limit * (u_high - t) of the next one
        E(t) <= C of any renewal surely after t,    and <= C + limit * (t - u_low) of the last one

    and the energy of [a, b] lies between E_low(b) - E_high(a) and E_high(b) - E_low(a): true whatever the load does
    between renewals, and about one renewal's worth of energy wide at either end. The renewal before the first change
    is dated by the longest time seen between two. Without `limit_w`, and where the counter contradicts it by rising
    faster, the highest power seen between two renewals takes its place (`limit_is_known` is then False). The
    counter's own accuracy is not part of the bound.
    """

    def __init__(
        self, begin_ns: np.ndarray, end_ns: np.ndarray, joules: np.ndarray, resolution_j: float, limit_w: float | None
    ) -> None:
        """Samples in order of time, without resets. Raises ValueError where the counter moved less than twice."""
        first = np.flatnonzero(np.diff(joules, prepend=np.nan) != 0)  # samples that show a new value
        if len(first) < 3:
            raise ValueError(f"the energy counter moved {len(first) - 1} times while it was sampled: too short")
        self._value = joules[first]
        self._resolution = resolution_j
        self._u_high = end_ns[first].astype(np.float64)
        self._u_low = begin_ns[first - 1].astype(np.float64)
        longest = np.max(self._u_high[2:] - self._u_low[1:-1])
        self._u_low[0] = self._u_high[0] - longest
        self._middle = (self._u_low + self._u_high) / 2
        self.update_s = float(self._middle[-1] - self._middle[1]) / 1e9 / (len(first) - 2)
        self.update_resolved = len(first) < 0.8 * len(joules)
        self.limit_is_known = limit_w is not None and not self._rises_faster_than(limit_w)
        fastest_w = 1e9 * float(np.max(np.diff(self._value) / np.diff(self._middle)))
        self._limit_per_ns = (limit_w if self.limit_is_known else fastest_w) / 1e9

    def between(self, a_ns: np.ndarray, b_ns: np.ndarray) -> Band:
        """Energy of the intervals [a, b], int64 (n,) each."""
        low_a, estimate_a, high_a = self._until(a_ns)
        low_b, estimate_b, high_b = self._until(b_ns)
        low = np.maximum(0.0, low_b - high_a)
        high = high_b - low_a
        if self.limit_is_known:
            high = np.minimum(high, self._limit_per_ns * (b_ns - a_ns))
        return Band(low, np.clip(estimate_b - estimate_a, low, high), high)

    def mean_w(self, a_ns: int, b_ns: int) -> tuple[float, float, float] | None:
        """Mean power between the first and the last renewal that surely lie in [a, b]: lower bound, estimate, upper.

        What was drawn between the two is known to the counter's resolution, so only their dates leave something open:
        far less than between() says of the same time, which must allow for any load at the ends. None where fewer than
        two renewals lie in there.
        """
        inside = np.flatnonzero((self._u_low >= a_ns) & (self._u_high <= b_ns))
        if len(inside) < 2 or self._u_low[inside[-1]] <= self._u_high[inside[0]]:
            return None
        first, last = inside[0], inside[-1]
        joules = float(self._value[last] - self._value[first])
        shortest_s = float(self._u_low[last] - self._u_high[first]) / 1e9
        longest_s = float(self._u_high[last] - self._u_low[first]) / 1e9
        middle_s = float(self._middle[last] - self._middle[first]) / 1e9
        low, high = max(0.0, joules - self._resolution) / longest_s, (joules + self._resolution) / shortest_s
        return low, joules / middle_s, high

    def _rises_faster_than(self, watts: float) -> bool:
        """Whether the value rose between any two renewals by more than this power gives, however they are dated."""
        per_ns = watts / 1e9
        least_before = np.minimum.accumulate(self._value - per_ns * self._u_low)[:-1]
        return bool(np.any(self._value[1:] - per_ns * self._u_high[1:] > least_before + self._resolution))

    def _until(self, t_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        t = np.asarray(t_ns, np.float64)
        last = len(self._value) - 1

        after = np.searchsorted(self._u_high, t, side="right")  # first renewal that may be after t
        before = after - 1
        low = np.where(before >= 0, self._value[np.maximum(before, 0)], -np.inf)
        after_or_last = np.minimum(after, last)
        reach = self._value[after_or_last] - self._limit_per_ns * (self._u_high[after_or_last] - t)
        low = np.where(after <= last, np.maximum(low, reach), low)

        after = np.searchsorted(self._u_low, t, side="left")  # first renewal that is surely not before t
        before = np.maximum(after - 1, 0)
        high = np.where(after <= last, self._value[np.minimum(after, last)], np.inf)
        reach = self._value[before] + self._limit_per_ns * (t - self._u_low[before])
        high = np.where(after >= 1, np.minimum(high, reach), high) + self._resolution

        estimate = np.interp(t, self._middle, self._value)
        for end, neighbour in ((0, 1), (last, last - 1)):  # beyond the ends the power next to them goes on
            slope = (self._value[end] - self._value[neighbour]) / (self._middle[end] - self._middle[neighbour])
            beyond = t < self._middle[0] if end == 0 else t > self._middle[last]
            estimate = np.where(beyond, self._value[end] + slope * (t - self._middle[end]), estimate)
        return low, np.clip(estimate, low, np.maximum(low, high)), high


class PowerMeter:
    """Bounds from samples of a power reading alone.

    The sensor renews its reading every `update_s`; a reading is the mean power over the last `window_s` before its
    renewal. What it did not look at, and the readings that fell between two samples, are unobserved. Of an interval
    of length T in which n different readings r_k were surely seen, with their windows surely inside it,

        sum(r_k) * window + floor * (T - n * window)  <=  energy  <=  sum(r_k) * window + limit * (T - n * window)

    because the windows of different readings do not overlap and the power outside them lies between `floor_w` and
    `limit_w`. Two samples surely show different readings where their values differ, or where they lie further apart
    than a reading lives (1.1 * update_s is allowed). The window of a sample's reading lies within that time plus one
    window before the sample. For an unknown sensor n is 0: the interval is floor * T to limit * T. The estimate, the
    integral of the readings, is what other tools report; locked to the sensor, a load can put it anywhere in there.
    """

    def __init__(
        self,
        begin_ns: np.ndarray,
        end_ns: np.ndarray,
        watts: np.ndarray,
        sensor: PowerSensor | None,
        limit_w: float | None,
        floor_w: float = 0.0,
        resolution_w: float = 1e-3,
    ) -> None:
        """Samples in order of time. Raises ValueError where there are less than two."""
        if len(watts) < 2:
            raise ValueError(f"{len(watts)} samples of power: too few")
        self.contradicted = sensor is not None and _faster_than(sensor.update_s, begin_ns, end_ns, watts)
        self.sensor = None if self.contradicted else sensor
        self._floor_w = floor_w
        self._resolution_w = resolution_w
        self._limit_w = np.inf if limit_w is None else max(limit_w, float(np.max(watts)))
        life_ns = 1.1e9 * self.sensor.update_s if self.sensor else 0.0
        self._window_s = self.sensor.window_s if self.sensor else 0.0
        seen = _different(begin_ns, end_ns, watts, life_ns) if self.sensor else np.zeros(0, np.int64)
        self._window_low = begin_ns[seen] - life_ns - 1e9 * self._window_s
        self._window_high = end_ns[seen].astype(np.float64)
        self._seen_w = np.concatenate([[0.0], np.cumsum(watts[seen])])
        self._t = begin_ns.astype(np.float64)
        self._watts = watts
        steps = np.diff(self._t) / 1e9 * (watts[1:] + watts[:-1]) / 2
        self._integral = np.concatenate([[0.0], np.cumsum(steps)])

    def between(self, a_ns: np.ndarray, b_ns: np.ndarray) -> Band:
        """Energy of the intervals [a, b], int64 (n,) each."""
        first = np.searchsorted(self._window_low, a_ns, side="left")
        end = np.maximum(first, np.searchsorted(self._window_high, b_ns, side="right"))
        observed_s = (end - first) * self._window_s
        observed_j = (self._seen_w[end] - self._seen_w[first]) * self._window_s
        unobserved_s = np.maximum(0.0, (np.asarray(b_ns) - a_ns) / 1e9 - observed_s)
        low = observed_j + self._floor_w * unobserved_s
        # The limit is inf where it is not known; nothing unobserved must then stay nothing.
        most = np.where(unobserved_s > 0, self._limit_w, 0.0) * np.where(unobserved_s > 0, unobserved_s, 1.0)
        high = observed_j + self._resolution_w * observed_s + most
        return Band(low, np.clip(self._until(b_ns) - self._until(a_ns), low, high), high)

    def _until(self, t_ns: np.ndarray) -> np.ndarray:
        t = np.asarray(t_ns, np.float64)
        inside = np.interp(t, self._t, self._integral)
        before = np.minimum(0.0, t - self._t[0]) / 1e9 * self._watts[0]
        after = np.maximum(0.0, t - self._t[-1]) / 1e9 * self._watts[-1]
        return inside + before + after


def _different(begin_ns: np.ndarray, end_ns: np.ndarray, values: np.ndarray, life_ns: float) -> np.ndarray:
    """Indices of samples that surely show different readings, as many as can be told."""
    changed = np.diff(values) != 0
    kept, since_change, last = [0], False, 0
    for i in range(1, len(values)):
        since_change = since_change or bool(changed[i - 1])
        if since_change or begin_ns[i] - life_ns > end_ns[last]:
            kept.append(i)
            since_change, last = False, i
    return np.array(kept, np.int64)


def _faster_than(update_s: float, begin_ns: np.ndarray, end_ns: np.ndarray, values: np.ndarray) -> bool:
    """Whether the reading changed twice within less time than the sensor is said to need for it."""
    changed = np.diff(values) != 0
    twice = changed[1:] & changed[:-1]
    return bool(np.any(twice & (end_ns[2:] - begin_ns[:-2] < 0.9e9 * update_s)))
