"""Lays the passes of a record on one clock: each ran at another time, with the same steps in the same order.

A pass is tied to the reference pass at its start, at the start of every step both have, at both ends of every
evaluation both have and, where they have as many steps, at its end. Between two ties time is stretched evenly; before
the first and after the last one it is only shifted.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]
Tie = tuple[str, int]


class Mapped(NamedTuple):
    """From the monotonic clock of one pass to that of the reference pass."""

    from_ns: np.ndarray
    """int64 (ties,) rising, on the clock of the pass."""
    to_ns: np.ndarray
    """int64 (ties,) rising, on the clock of the reference pass."""
    is_reference: bool
    note: str
    """What was laid where, and how far it was stretched."""

    def __call__(self, t_ns: np.ndarray) -> np.ndarray:
        """int64 ns on the reference clock, in the order of t_ns, which need not rise."""
        t_ns = np.asarray(t_ns, np.int64)
        if self.is_reference:
            return t_ns
        # Differences are small enough for float64 to hold every nanosecond; the times since boot are not.
        moved = np.interp((t_ns - self.from_ns[0]).astype(float), (self.from_ns - self.from_ns[0]).astype(float),
                          (self.to_ns - self.to_ns[0]).astype(float))  # fmt: skip
        inside = self.to_ns[0] + np.rint(moved).astype(np.int64)
        before, after = t_ns - self.from_ns[0] + self.to_ns[0], t_ns - self.from_ns[-1] + self.to_ns[-1]
        return np.where(t_ns < self.from_ns[0], before, np.where(t_ns > self.from_ns[-1], after, inside))


def reference(pass_: Mapping[str, Any]) -> Mapped:
    """The clock of the pass that the others are laid on."""
    none = np.zeros(0, np.int64)
    return Mapped(none, none, True, "on its own clock: CLOCK_MONOTONIC in ns, as in the record")


def onto(pass_: Mapping[str, Any], arrays: Arrays, other: Mapping[str, Any], other_arrays: Arrays) -> Mapped:
    """How times of `pass_` are laid on the clock of `other`."""
    here, there = ties(pass_, arrays), ties(other, other_arrays)
    common = sorted((t_ns, there[tie], tie) for tie, t_ns in here.items() if tie in there)
    kept = common[:1]
    for point in common[1:]:
        if point[0] > kept[-1][0] and point[1] > kept[-1][1]:  # two at one time would make time stand still
            kept.append(point)
    from_ns = np.array([point[0] for point in kept], np.int64)
    to_ns = np.array([point[1] for point in kept], np.int64)
    steps = sum(tie[0] == "step" for _, _, tie in common)
    evaluations = sum(tie[0] == "evaluation" for _, _, tie in common)
    return Mapped(from_ns, to_ns, False, _note(pass_, other, from_ns, to_ns, steps, evaluations))


def ties(pass_: Mapping[str, Any], arrays: Arrays) -> dict[Tie, int]:
    """When what is the same in every pass happened in this one, in monotonic ns."""
    found: dict[Tie, int] = {("start", 0): int(pass_["start_ns"])}
    starts = np.asarray(arrays["step_starts"])
    found |= {("step", i): int(t) for i, t in enumerate(starts)}
    found |= evaluations(arrays["timeline"], [phase["name"] for phase in pass_["phases"]])
    found["stop", len(starts)] = int(pass_["start_ns"]) + int(pass_["clock_ns"])
    return found


def evaluations(timeline: np.ndarray, names: Sequence[str]) -> dict[Tie, int]:
    """Begin and end of the evaluation after each step that has one; phases nested in it belong to it.

    timeline is the phase clock's, int64 (events, 3); the number in it is that of the row of the table of steps.
    """
    if "evaluation" not in names or not len(timeline):
        return {}
    within = np.flatnonzero(timeline[:, 1] == list(names).index("evaluation"))
    found: dict[Tie, int] = {}
    for i in within:
        step = int(timeline[i, 2])
        found.setdefault(("evaluation", step), int(timeline[i, 0]))
        if i + 1 < len(timeline):
            found["evaluation end", step] = int(timeline[i + 1, 0])
    return found


def _note(pass_: Mapping[str, Any], other: Mapping[str, Any], from_ns: np.ndarray, to_ns: np.ndarray, steps: int,
          evaluations: int) -> str:  # fmt: skip
    what = f"the {other['kind']} pass {other['index']}"
    shift_s = (int(to_ns[0]) - int(from_ns[0])) / 1e9
    counts = (f"{steps} of its {pass_['num_steps']} steps (that one has {other['num_steps']}) and {evaluations} "
              "evaluations")  # fmt: skip
    if pass_["seed"] != other["seed"]:
        counts += f"; the seeds differ ({pass_['seed']}, {other['seed']}), so step n is another step n"
    if len(from_ns) < 2:
        return f"laid on the clock of {what} by its start alone: shifted by {shift_s:.6g} s, not stretched"
    stretch = np.diff(to_ns) / np.diff(from_ns)
    return (f"laid on the clock of {what} at the starts of {counts}: shifted by {shift_s:.6g} s and stretched piece by "
            f"piece by {stretch.min():.3g} to {stretch.max():.3g}, {np.median(stretch):.3g} in the middle; lengths "
            "here are therefore not those measured, which each slice has as measured_ns")  # fmt: skip
