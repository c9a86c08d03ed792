"""From a py-spy trace to time by phase and line of Python: pure functions, no process, no torch.

py-spy's chrometrace says when a thread's stack was first seen to be another one; the samples in between, which saw the
same stack, are not in it. Its samples come as a Poisson process, so that a stack seen at t, with the next one seen at
u, is charged u - t: on average one sampling interval per sample that saw it, which is unbiased. A stack belongs to the
phase it was seen in: it is charged the time of that phase between t and u, and where u is in another phase one mean
interval more, for the sample of its own phase that would have ended it. That interval is the one with which the stacks
of a phase add up to the phase's own time, which the phase clock knows exactly.
"""

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from perfsuite.instruments.host_timeline import CallTree, Frame, timeline

MARK_NAME = "perfsuite_clock_mark"
MAX_ROWS = 200
PERSISTS_INTERVALS = 5.0
"""A stack not replaced through a whole stretch of another phase of so many mean intervals was there all the same:
chance leaves that without a sample 1 time in 150."""

Marks = Mapping[int, tuple[int, int]]


class Offset(NamedTuple):
    """What to add to the trace's time to get monotonic time, both in ns, at the trace's time `at_ns`."""

    at_ns: float
    offset_ns: float
    bound_ns: float
    sightings: int


def fold(trace: Sequence[Mapping[str, Any]], phases: np.ndarray, names: Sequence[str], marks: Marks, start_ns: int,
         stop_ns: int, interval_ns: float, roots: Sequence[str] = ()) -> dict[str, Any]:  # fmt: skip
    """Time between start_ns and stop_ns (monotonic) by phase, function, file and line of the innermost Python frame.

    trace is py-spy's list of events. phases is int64 (events, 3): monotonic ns, index into `names` of the phase that
    is innermost from then on (-1: none), step. marks says when each numbered marker ran; the thread that ran them is
    the one that is folded. interval_ns is the mean time between samples. roots are folders to leave off file names.

    Returns {"reason": None or why there is nothing, "rows": [{"phase" (None: in no phase), "function", "file", "line",
    "time_s", "share", "bound_s"}], "rest_s" (rows beyond MAX_ROWS), "unsampled": [{"phase", "time_s"}] (phases that no
    sample fell into), "clock_s", "interval_s", "clock_bound_s", "drift", "note"} and what host_timeline.timeline keeps
    of single stacks. Rows, rest and unsampled add up to the clock. share is of the clock, bound_s twice the standard
    error of time_s by the number of samples.
    """
    thread = _marked_thread(trace)
    if thread is None:
        return {"reason": "no sample shows a marker: the stacks cannot be laid beside the phases", "rows": []}
    early = _offset(thread, {n: mark for n, mark in marks.items() if mark[1] <= start_ns})
    late = _offset(thread, {n: mark for n, mark in marks.items() if mark[0] >= stop_ns})
    anchors = [offset for offset in (early, late) if offset is not None]
    if not anchors:
        return {"reason": "the markers in the trace are not those of this pass", "rows": []}
    tree = CallTree()
    runs = _runs(thread, anchors, tree)
    segments = _segments(phases, names, start_ns, stop_ns)
    clock_s = (stop_ns - start_ns) / 1e9
    rows, unsampled = [], []
    for phase, (time_ns, held, left) in _by_phase(runs, segments, interval_ns).items():
        if not held:
            unsampled.append({"phase": phase, "time_s": time_ns / 1e9})
            continue
        mean_ns, scale = _fit(time_ns, sum(held.values()), sum(left.values()))
        for frame, ns in held.items():
            ns = scale * ns + mean_ns * left[frame]
            rows.append({"phase": phase, "function": frame[0], "file": _short(frame[1], roots), "line": frame[2],
                         "time_s": ns / 1e9, "share": ns / 1e9 / clock_s,
                         "bound_s": 2 * math.sqrt(ns * max(mean_ns, interval_ns)) / 1e9})  # fmt: skip
    rows.sort(key=lambda row: -row["time_s"])
    bound_ns = max(anchor.bound_ns for anchor in anchors)
    return {
        "reason": None,
        "rows": rows[:MAX_ROWS],
        "rest_s": sum(row["time_s"] for row in rows[MAX_ROWS:]),
        "unsampled": unsampled,
        "clock_s": clock_s,
        "interval_s": interval_ns / 1e9,
        "clock_bound_s": bound_ns / 1e9,
        "drift": (anchors[1].offset_ns - anchors[0].offset_ns) / (anchors[1].at_ns - anchors[0].at_ns)
        if len(anchors) == 2 else None,
        "note": f"sampled every {interval_ns / 1e6:.3g} ms on average; laid beside the phases to "
                f"{bound_ns / 1e6:.2g} ms by {' and '.join(str(a.sightings) for a in anchors)} sightings of markers: "
                "a stack seen nearer to the edge of a phase may be charged to the phase beside it"
                + ("" if len(anchors) == 2 else "; only one end of the pass was marked, so that drift is not known"),
    } | timeline(((run.begin_ns, run.end_ns, run.node) for run in runs), tree, start_ns, stop_ns,
                 lambda file: _short(file, roots))  # fmt: skip


def _fit(time_ns: float, held_ns: float, left: int) -> tuple[float, float]:
    """The interval per last stack of a phase, and a factor on held times, with which a phase's stacks fill it."""
    if left and held_ns <= time_ns:
        return (time_ns - held_ns) / left, 1.0
    return 0.0, time_ns / held_ns


def _number(event: Mapping[str, Any]) -> int | None:
    prefix, _, digits = event["name"].rpartition("_")
    return int(digits) if prefix == MARK_NAME and digits.isdigit() else None


def _marked_thread(trace: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]] | None:
    """The events of the thread that ran the markers, in order."""
    events = [event for event in trace if event.get("ph") in ("B", "E")]
    key = next(((event["pid"], event["tid"]) for event in events if _number(event) is not None), None)
    return None if key is None else [event for event in events if (event["pid"], event["tid"]) == key]


def _offset(thread: Sequence[Mapping[str, Any]], marks: Marks) -> Offset | None:
    """From the markers that were seen: the median of (middle of the marker - trace time when it was first seen).

    py-spy stamps a sample after it is read, and later where it has to wait for a core. The median takes the usual delay
    off every sample. The bound is that within which 9 of 10 sightings lie, and no less than half a marker.
    """
    seen = [(_number(event), event["ts"] * 1000) for event in thread if event["ph"] == "B" and _number(event) in marks]
    if not seen:
        return None
    offsets = np.array([(marks[n][0] + marks[n][1]) / 2 - t for n, t in seen])
    median = float(np.median(offsets))
    half = max(end - begin for begin, end in marks.values()) / 2
    bound = max(half, float(np.quantile(np.abs(offsets - median), 0.9)))
    return Offset(sum(t for _, t in seen) / len(seen), median, bound, len(seen))


class Run(NamedTuple):
    """A stretch, in monotonic ns, from one change of the stack to the next, its innermost frame and its whole stack."""

    begin_ns: float
    end_ns: float
    frame: Frame | None
    node: int
    """In the tree of calls; -1 where there is no frame."""


def _runs(thread: Sequence[Mapping[str, Any]], anchors: Sequence[Offset], tree: CallTree) -> list[Run]:
    at = [anchor.at_ns for anchor in anchors]
    offsets = [anchor.offset_ns for anchor in anchors]

    def monotonic(trace_us: float) -> float:
        trace_ns = trace_us * 1000
        if len(at) == 1:
            return trace_ns + offsets[0]
        return trace_ns + offsets[0] + (offsets[1] - offsets[0]) * (trace_ns - at[0]) / (at[1] - at[0])

    runs: list[Run] = []
    stack: list[tuple[Frame, int]] = []
    since: float | None = None
    for event in thread:
        if since is not None and event["ts"] != since:
            runs.append(Run(monotonic(since), monotonic(event["ts"]), *(stack[-1] if stack else (None, -1))))
        since = event["ts"]
        if event["ph"] == "B":
            frame = (event["name"], event["args"]["filename"], event["args"].get("line"))
            stack.append((frame, tree.node(stack[-1][1] if stack else -1, frame)))
        elif stack:
            stack.pop()
    return runs


class Segment(NamedTuple):
    """A stretch of the clock in one phase, in monotonic ns."""

    begin_ns: int
    end_ns: int
    phase: str | None


def _segments(timeline: np.ndarray, names: Sequence[str], start_ns: int, stop_ns: int) -> list[Segment]:
    """The clock from start_ns to stop_ns without a gap."""
    times = [start_ns, *(min(max(int(t), start_ns), stop_ns) for t in timeline[:, 0]), stop_ns]
    phases = [-1, *(int(phase) for phase in timeline[:, 1])]
    return [
        Segment(begin, end, names[phase] if phase >= 0 else None)
        for begin, end, phase in zip(times, times[1:], phases, strict=False)
        if end > begin
    ]


def _by_phase(
    runs: Sequence[Run], segments: Sequence[Segment], interval_ns: float
) -> dict[str | None, tuple[int, dict[Frame, float], dict[Frame, int]]]:
    """By phase: its time, the time each frame was held there, and how often a frame was the last one seen there."""
    times: defaultdict[str | None, int] = defaultdict(int)
    for segment in segments:
        times[segment.phase] += segment.end_ns - segment.begin_ns
    held: dict[str | None, defaultdict[Frame, float]] = {phase: defaultdict(float) for phase in times}
    left: dict[str | None, defaultdict[Frame, int]] = {phase: defaultdict(int) for phase in times}
    begins = [segment.begin_ns for segment in segments]
    persists_ns = PERSISTS_INTERVALS * interval_ns
    for run in runs:
        if run.frame is None or run.begin_ns < begins[0] or run.begin_ns >= segments[-1].end_ns:
            if run.frame is None or run.begin_ns >= begins[0] or run.end_ns - begins[0] <= persists_ns:
                continue  # nothing on the stack, seen after the end, or seen before the start and gone by then
        first = max(bisect_right(begins, run.begin_ns) - 1, 0)
        seen_in = segments[first].phase
        last = seen_in
        for segment in segments[first : bisect_left(begins, run.end_ns)]:
            last = segment.phase
            # In a short stretch of another phase this stack was not replaced because no sample fell there.
            if segment.phase == seen_in or segment.end_ns - segment.begin_ns > persists_ns:
                part = min(run.end_ns, segment.end_ns) - max(run.begin_ns, segment.begin_ns)
                held[segment.phase][run.frame] += part
        if last != seen_in or run.end_ns > segments[-1].end_ns:
            left[seen_in][run.frame] += 1
    return {phase: (times[phase], held[phase], left[phase]) for phase in times}


def _short(file: str, roots: Sequence[str]) -> str:
    inside = [root.rstrip("/") + "/" for root in roots if root and file.startswith(root.rstrip("/") + "/")]
    return file[len(max(inside, key=len)) :] if inside else file
