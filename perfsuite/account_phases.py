"""Lines of the account by phase: where the clock of a pass, or of a window of its steps, went. Whole nanoseconds.

The phases are timed on their own by the phase clock; what no phase claims is `unattributed`. A line below zero means
that the record is damaged or an instrument is wrong, and is an error.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]


class PhaseLine(NamedTuple):
    """One phase, without the phases nested in it."""

    name: str
    time_ns: int
    op_ns: int | None
    """Inside ops that no other op encloses; None where no op recorder ran."""
    host_ns: int | None
    """Between them."""
    calls: int | None
    """Entries; None in a window, where they are not kept by step."""


class OpLine(NamedTuple):
    """One row of the op recorder, as much of it as falls into the span."""

    row: Mapping[str, Any]
    calls: int
    self_ns: int


class Span(NamedTuple):
    """A pass or a part of it, in nanoseconds: sum(phases) + unattributed_ns == clock_ns."""

    start_ns: int
    """Monotonic."""
    clock_ns: int
    unattributed_ns: int
    phases: list[PhaseLine]
    ops: list[OpLine]
    ops_clock_ns: int
    """The clock over which `ops` were counted: that of the window snapped outward to the recorder's marks."""
    num_steps: int
    window: dict[str, Any] | None
    """As in the account; None for the whole pass."""


def _time(what: str, value_ns: Any) -> int:
    """value_ns as an int. Raises ValueError where it is not a whole number of nanoseconds or below zero."""
    if isinstance(value_ns, bool) or not isinstance(value_ns, int | np.integer):
        raise ValueError(f"{what} is {value_ns!r}, not a whole number of nanoseconds: the record is damaged, run again")
    if value_ns < 0:
        raise ValueError(f"{what} is negative ({value_ns} ns): the record is damaged or a clock is wrong, run again")
    return int(value_ns)


def _unattributed(clock_ns: int, lines: list[PhaseLine]) -> int:
    return _time("unattributed time (the clock less all phases)", clock_ns - sum(line.time_ns for line in lines))


def whole(pass_: Mapping[str, Any]) -> Span:
    """The whole of a pass, from the totals of the phase clock and of the op recorder.

    Raises ValueError for a negative line.
    """
    clock_ns = _time("the clock", pass_["clock_ns"])
    split = pass_.get("ops") is not None
    lines = []
    for phase in pass_["phases"]:
        name = phase["name"]
        time_ns = _time(f"phase '{name}'", phase["time_ns"])
        op_ns = _time(f"op time of phase '{name}'", phase["op_ns"]) if split else None
        host_ns = _time(f"host time of phase '{name}'", phase["host_ns"]) if split else None
        lines.append(PhaseLine(name, time_ns, op_ns, host_ns, phase["calls"]))
    ops = [_op_line(row, row["calls"], row["self_ns"]) for row in (pass_.get("ops") or {}).get("rows", [])]
    unattributed_ns = _unattributed(clock_ns, lines)
    return Span(pass_["start_ns"], clock_ns, unattributed_ns, lines, ops, clock_ns, pass_["num_steps"], None)


def _op_line(row: Mapping[str, Any], calls: Any, self_ns: Any) -> OpLine:
    what = f"{row['name']} in phase '{row['phase']}'"
    return OpLine(row, _time(f"the call count of {what}", calls), _time(f"the self time of {what}", self_ns))


def window(pass_: Mapping[str, Any], arrays: Arrays, first: int, stop: int) -> Span:
    """Steps first to stop - 1 of a pass (0-based), each with what followed it before the next one began.

    Phases are exact, from the table of steps. Ops are kept at marks every few steps, so theirs is the smallest stretch
    between marks that holds the window; where it is longer, each phase's split into ops and host is that stretch's.

    Raises ValueError for a window without steps in the pass, and for a negative line.
    """
    table, starts = np.asarray(arrays["step_table"]), np.asarray(arrays["step_starts"])
    num_steps = len(starts)
    if not 0 <= first < stop <= num_steps:
        raise ValueError(f"the window {first}:{stop} is not within the {num_steps} steps of this pass: "
                         f"give A:B with 0 <= A < B <= {num_steps}")  # fmt: skip
    names = [phase["name"] for phase in pass_["phases"]]
    begins = [int(t) for t in starts] + [int(pass_["start_ns"]) + _time("the clock", pass_["clock_ns"])]
    clock_ns = _time(f"the clock of steps {first}:{stop}", begins[stop] - begins[first])
    times = _phase_times(table, names, first + 1, stop + 1)

    ops, low, high, reason = _window_ops(pass_, arrays, first, stop)
    snapped = not reason and (low, high) != (first, stop)
    op_times: dict[str, int] = dict.fromkeys(names, 0)
    for line in ops:
        if line.row["thread"] == "clock" and line.row["phase"] in op_times:
            op_times[line.row["phase"]] += line.self_ns
    # low -1: no mark before the window, so that what came before the first step (row 0) is among the ops.
    stretch = _phase_times(table, names, low + 1, high + 1) if not reason else {}
    lines = []
    for name in names:
        if reason:
            lines.append(PhaseLine(name, times[name], None, None, None))
            continue
        _time(f"host time of phase '{name}' in steps {max(low, 0)}:{high}", stretch[name] - op_times[name])
        op_ns = times[name] * op_times[name] // stretch[name] if stretch[name] else 0
        lines.append(PhaseLine(name, times[name], op_ns, times[name] - op_ns, None))
    ops_clock_ns = 0 if reason else begins[high] - (int(pass_["start_ns"]) if low < 0 else begins[low])
    ops_first = max(low, 0)
    if reason:
        note = f"no ops in this window: {reason}"
    elif snapped:
        before = " and what came before it" if low < 0 else ""
        note = (f"ops are those of steps {ops_first} to {high - 1}{before}, the nearest marks of the op recorder; the "
                "split of each phase into ops and host is that stretch's")  # fmt: skip
    else:
        note = "ops are those of these steps"
    described = {"first_step": first, "last_step": stop - 1, "snapped": snapped, "note": note,
                 "ops_first_step": None if reason else ops_first, "ops_last_step": None if reason else high - 1,
                 "ops_clock_s": None if reason else ops_clock_ns / 1e9}  # fmt: skip
    unattributed_ns = _unattributed(clock_ns, lines)
    return Span(begins[first], clock_ns, unattributed_ns, lines, ops, ops_clock_ns, stop - first, described)


def _phase_times(table: np.ndarray, names: list[str], low: int, high: int) -> dict[str, int]:
    sums = table[low:high].sum(axis=0)
    return {
        name: _time(f"phase '{name}' in the table of steps", int(value))
        for name, value in zip(names, sums, strict=True)
    }


def _window_ops(pass_: Mapping[str, Any], arrays: Arrays, first: int, stop: int) -> tuple[list[OpLine], int, int, str]:
    """Ops between the marks around the window, the steps of those marks (-1: the start of the pass), a reason if none.

    A mark at step s holds what was counted before step s began.
    """
    if pass_.get("ops") is None:
        return [], first, stop, "no op recorder ran in this pass"
    if "ops_mark_steps" not in arrays:
        return [], first, stop, "the recorder kept no marks in this pass"
    steps = np.asarray(arrays["ops_mark_steps"])
    before = np.flatnonzero(steps <= first)
    after = np.flatnonzero(steps >= stop)
    if not len(after):
        return [], first, stop, f"the recorder's last mark is before step {stop}"
    begin, end = (int(before[-1]) if len(before) else None), int(after[0])
    self_ns, calls = np.asarray(arrays["ops_self_ns"]), np.asarray(arrays["ops_calls"])
    ops = []
    for i, row in enumerate(pass_["ops"]["rows"]):
        delta_calls = int(calls[end, i]) - (int(calls[begin, i]) if begin is not None else 0)
        delta_ns = int(self_ns[end, i]) - (int(self_ns[begin, i]) if begin is not None else 0)
        line = _op_line(row, delta_calls, delta_ns)
        if line.calls or line.self_ns:
            ops.append(line)
    return ops, (int(steps[begin]) if begin is not None else -1), int(steps[end]), ""
