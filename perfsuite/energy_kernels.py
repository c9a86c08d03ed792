"""Joules by kernel: the run's energy split between the kernels by what ran in each of many short windows.

Model: while kernel k runs the device draws P_k, and P_0 while none runs. The energy of a window is the sum of P_k times
the seconds that k had in it. With as many windows as a run has (ten a second from the energy counter) the powers follow
by least squares (energy_fit); the joules of a kernel are its power times all of its seconds, and with those of no
kernel they add up to the energy of the run.

What the windows do not tell is not guessed: kernels that always run in the same proportion get joules by their time,
and a bound as wide as they are mixed up.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from perfsuite.energy_fit import Fit, Windows, fit, intervals
from perfsuite.energy_observations import Observations

TOLD_APART = 0.25
"""A kernel counts as told apart from the others where its joules are known to this share of them."""
WINDOWS_PER_POWER = 4
"""At least; kernels with little time are put together for that."""
LEAST_WINDOWS = 12
LATEST_NS = 20e6
"""How much later than the energy was drawn a sensor is taken to show it, at most."""
_SHIFT_NS = 2e6
_SHIFTS_KEPT = 5


class Busy(NamedTuple):
    """Which kernels had how much of a device's time, in intervals that touch each other."""

    edges_ns: np.ndarray
    """int64 (n + 1,) monotonic."""
    busy_ns: np.ndarray
    """int64 (n, k): time of each kernel in each interval, overlap shared equally, so that a row adds up to at most the
    interval; what it leaves is time in which none ran."""
    names: Sequence[str]
    """k names."""


def by_kernel(
    observed: Observations, busy: Busy, energy: Mapping[str, Any], t0_ns: int, t1_ns: int, floor_w: float = 0.0
) -> dict[str, Any]:
    """Energy of each kernel of one device in [t0_ns, t1_ns].

    observed: energy_observations.observations() of the device. energy: energy_between() of the same device and time:
    the rows add up to its "energy_j". floor_w: what the device draws at least, e.g. its idle power less the bound.

    Returns {"available", "reason", "rows": [{"name", "time_s", "energy_j", "bound_j", "low_j", "high_j", "mean_w",
    "told_apart"}] in the order of busy.names, "none": the same of the time without a kernel, "windows": their number,
    "unexplained_share": rms of what the model leaves of a window over the windows' mean, "late_s": how much later the
    windows were taken to be, "scale": what the rows were multiplied by to add up, "notes"}. A kernel without time has
    0 J. Raises ValueError for an empty time.
    """
    if t1_ns <= t0_ns:
        raise ValueError("the time to split the energy of is empty")
    if not energy["available"]:
        return _unavailable(energy["reason"])
    if busy.edges_ns[0] > t0_ns or busy.edges_ns[-1] < t1_ns:
        return _unavailable("kernels were not recorded over all of the time")
    margin = LATEST_NS + observed.open_ns
    inside = (observed.begin_ns - margin >= t0_ns) & (observed.end_ns + margin <= t1_ns)
    count = int(np.sum(inside))
    if count < LEAST_WINDOWS:
        return _unavailable(f"{count} windows of known energy: at least {LEAST_WINDOWS} are needed")
    begin_ns, end_ns, joules = observed.begin_ns[inside], observed.end_ns[inside], observed.joules[inside]
    record = _Record(busy)
    time_s = record.seconds(np.array([t0_ns]), np.array([t1_ns]))[0]
    groups = _groups(time_s, count)

    def shifted(late_ns: float) -> Windows:
        begin, end = begin_ns - late_ns, end_ns - late_ns
        return Windows(
            _together(record.seconds(begin, end), groups), joules, record.open(begin, end, observed, groups),
            np.array([time_s[members].sum() for members in groups]), energy["energy_j"],
            max(energy["bound_j"] or energy["energy_j"], 1e-3), floor_w,
        )  # fmt: skip

    late_ns, best, low_w, high_w = _over_shifts(shifted, observed.open_ns)
    total_s = np.array([time_s[members].sum() for members in groups])
    scale = energy["energy_j"] / float(best.watts @ total_s)
    rows = _rows(best.watts * scale, low_w, high_w, groups, time_s, busy.names)
    notes = list(observed.notes)
    merged = sum(len(members) for members in groups if len(members) > 1)
    if merged:
        notes.append(f"{merged} kernels with little time share one power: {count} windows tell no more")
    return {
        "available": True, "reason": None, "rows": rows[:-1], "none": rows[-1], "windows": count,
        "unexplained_share": float(np.sqrt(best.squares / count) / np.mean(joules)), "late_s": late_ns / 1e9,
        "scale": scale, "notes": notes,
    }  # fmt: skip


def _unavailable(reason: str) -> dict[str, Any]:
    return {"available": False, "reason": reason, "rows": [], "none": None, "windows": 0, "unexplained_share": None,
            "late_s": None, "scale": None, "notes": []}  # fmt: skip


class _Record:
    """Seconds of each kernel, and of none as the last column, between any two times."""

    def __init__(self, busy: Busy) -> None:
        spent = np.concatenate([np.zeros((1, busy.busy_ns.shape[1])), np.cumsum(busy.busy_ns, axis=0)])
        self._edges = busy.edges_ns
        self._spent = np.column_stack([spent, (busy.edges_ns - busy.edges_ns[0]) - spent.sum(axis=1)]) / 1e9

    def seconds(self, begin_ns: np.ndarray, end_ns: np.ndarray) -> np.ndarray:
        """(m, k + 1): time within an interval of the record is taken as even."""
        return np.maximum(0.0, self._until(end_ns) - self._until(begin_ns))

    def open(
        self, begin_ns: np.ndarray, end_ns: np.ndarray, observed: Observations, groups: list[list[int]]
    ) -> np.ndarray:
        """energy_fit's Windows.open.

        Within the interval of the record that holds a window's end it is not known which kernel came first: the energy
        is off by the spread of power within the interval, over up to half of it either way. Where the windows' own
        ends are off one by one, so is all of the energy next to them, over that stretch.
        """
        ends = np.concatenate([begin_ns, end_ns])
        at = np.clip(np.searchsorted(self._edges, ends, side="right") - 1, 0, len(self._edges) - 2)
        length_s = np.diff(self._edges)[at] / 1e9
        share = _together(self._spent[at + 1] - self._spent[at], groups) / length_s[:, None]
        weight = length_s**2 / 12
        inner = np.diag(weight @ share) - (share * weight[:, None]).T @ share
        if observed.regular:
            return inner
        reach = observed.open_ns
        around = _together(self.seconds(ends - reach, ends + reach), groups) / (2e-9 * reach)
        return inner + np.diag(around.sum(axis=0)) * (reach / 1e9) ** 2 / 3

    def _until(self, t_ns: np.ndarray) -> np.ndarray:
        place = np.interp(t_ns, self._edges, np.arange(len(self._edges)))
        left = np.minimum(place.astype(np.int64), len(self._edges) - 2)
        part = (place - left)[:, None]
        return self._spent[left] * (1 - part) + self._spent[left + 1] * part


def _groups(time_s: np.ndarray, count: int) -> list[list[int]]:
    """Columns that get a power of their own, longest first, and at the end those that share one for want of windows."""
    used = [int(i) for i in np.argsort(-time_s) if time_s[i] > 0]
    own = max(1, count // WINDOWS_PER_POWER - 1)
    return [[i] for i in used[:own]] + ([used[own:]] if used[own:] else [])


def _together(seconds: np.ndarray, groups: list[list[int]]) -> np.ndarray:
    return np.stack([seconds[:, members].sum(axis=1) for members in groups], axis=1)


def _over_shifts(shifted: Any, open_ns: float) -> tuple[float, Fit, np.ndarray, np.ndarray]:
    """The shift of all windows that explains them best, its fit, and the intervals over all that do nearly as well.

    Windows dated on a grid may all be off by as much as the grid is; and a sensor shows its value a little late.
    """
    coarse = np.arange(-open_ns, open_ns + LATEST_NS + _SHIFT_NS, _SHIFT_NS)
    middle = coarse[np.argmin([fit(shifted(float(by))).squares for by in coarse])]
    late = np.unique(np.append(coarse, middle + np.arange(-_SHIFT_NS, _SHIFT_NS, _SHIFT_NS / 8)))
    fits = [fit(shifted(float(by))) for by in late]
    best = int(np.argmin([one.squares for one in fits]))
    allowed = fits[best].allowed + fits[best].open_squares
    near = np.flatnonzero([one.squares <= allowed for one in fits])
    kept = near[np.unique(np.linspace(0, len(near) - 1, _SHIFTS_KEPT).astype(int))]
    found = [intervals(shifted(float(late[i])), fits[i]) for i in {*kept.tolist(), best}]
    return (float(late[best]), fits[best], np.min([low for low, _ in found], axis=0),
            np.max([high for _, high in found], axis=0))  # fmt: skip


def _rows(
    watts: np.ndarray, low_w: np.ndarray, high_w: np.ndarray, groups: list[list[int]], time_s: np.ndarray,
    names: Sequence[str],
) -> list[dict[str, Any]]:  # fmt: skip
    rows = [{"name": name, "time_s": 0.0, "energy_j": 0.0, "bound_j": 0.0, "low_j": 0.0, "high_j": 0.0, "mean_w": None,
             "told_apart": True} for name in [*names, ""]]  # fmt: skip
    for group, power_w, least_w, most_w in zip(groups, watts, low_w, high_w, strict=True):
        group_s = float(time_s[group].sum())
        for i in group:
            seconds = float(time_s[i])
            joules = float(power_w) * seconds
            # Of kernels put together only the sum is known: one of them may have drawn all of it.
            low_j = min(joules, float(least_w) * seconds if len(group) == 1 else 0.0)
            high_j = max(joules, float(most_w) * (seconds if len(group) == 1 else group_s))
            bound_j = max(joules - low_j, high_j - joules)
            rows[i] |= {"time_s": seconds, "energy_j": joules, "bound_j": bound_j, "low_j": low_j, "high_j": high_j,
                        "mean_w": float(power_w), "told_apart": bound_j <= TOLD_APART * joules}  # fmt: skip
    return rows
