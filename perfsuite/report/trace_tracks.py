"""The tracks of one pass of a record in a Perfetto trace."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from perfsuite.report import trace_flows, trace_stacks
from perfsuite.report.trace_clock import Arrays, Mapped
from perfsuite.report.trace_writer import Facts, TraceWriter

MAX_SLICES = 300_000
"""Steps, or phases, of one pass: more make the viewer slow. The first ones are drawn, and it is said of how many."""
MAX_POINTS = 20_000
"""Of one counter: more are thinned out evenly."""


def add(writer: TraceWriter, group: int, pass_: Mapping[str, Any], arrays: Arrays, clock: Mapped,
        metric: str) -> list[str]:  # fmt: skip
    """Write everything a pass has below `group`. Returns one line for each thing that was left out or is not known."""
    tracks = _PassTracks(writer, group, pass_, arrays, clock)
    tracks.marks(metric)
    tracks.steps()
    tracks.phases()
    tracks.stacks()
    tracks.ops()
    tracks.kernels()
    tracks.sampler()
    tracks.counters()
    return tracks.notes


class _PassTracks:
    def __init__(
        self, writer: TraceWriter, group: int, pass_: Mapping[str, Any], arrays: Arrays, clock: Mapped
    ) -> None:
        self._writer, self._group, self._pass, self._arrays, self._clock = writer, group, pass_, arrays, clock
        self._start_ns = int(pass_["start_ns"])
        self._stop_ns = self._start_ns + int(pass_["clock_ns"])
        self._flows = trace_flows.find(pass_, arrays, first_number=group << 32)
        self.notes = [self._flows.note] if self._flows.note else []

    def marks(self, metric: str) -> None:
        """run_start, the evaluations with their quality, run_stop."""
        track = self._writer.track("marks", self._group)

        def mark(t_ns: int, name: str, facts: Facts) -> None:
            self._writer.instant(track, int(self._clock(np.array([t_ns]))[0]), name, facts)

        mark(self._start_ns, "run_start", {})
        for evaluation in self._pass.get("evaluations") or []:
            quality, samples = float(evaluation["quality"]), int(evaluation["samples"])
            mark(self._start_ns + int(evaluation["t_ns"]), f"{metric} {quality:.6g}",
                 {"quality": quality, "samples": samples})  # fmt: skip
        mark(self._stop_ns, "run_stop", {})

    def steps(self) -> None:
        """Every step, with what followed it before the next one began."""
        starts = np.asarray(self._arrays["step_starts"], np.int64)
        kept = self._first("steps", len(starts))
        ends = np.append(starts[1:], self._stop_ns)
        self._slices("steps", self._group, starts[:kept], ends[:kept], lambda i: f"step {i}")

    def phases(self) -> None:
        """The innermost phase over time."""
        timeline = np.asarray(self._arrays["timeline"], np.int64).reshape(-1, 3)
        if self._pass.get("timeline_dropped"):
            self.notes.append(f"phases: the clock kept {len(timeline)} changes of phase and dropped what came after")
            timeline = timeline[:-1]  # how long the last phase lasted is not known
        ends = np.append(timeline[1:, 0], self._stop_ns)[: len(timeline)]
        inside = np.flatnonzero(timeline[:, 1] >= 0)
        inside = inside[: self._first("phases", len(inside))]
        names = [phase["name"] for phase in self._pass["phases"]]
        self._slices("phases", self._group, timeline[inside, 0], ends[inside], lambda i: names[timeline[inside[i], 1]])

    def stacks(self) -> None:
        """Python stacks of the clock thread, each frame within its caller."""
        if not len(self._arrays.get("stack_slices", ())):
            return
        stacks = self._pass["host_stacks"]
        begin_ns, end_ns, frames = trace_stacks.nested(self._arrays["stack_slices"], self._arrays["stack_nodes"])
        names = [f"{function} ({file}:{line})" for function, file, line in stacks["frames"]]
        about = (f"Sampled by py-spy every {stacks['interval_s'] * 1e3:.3g} ms on average: a frame is drawn from the "
                 "first sample that shows it to the first one that does not.")  # fmt: skip
        self._slices("Python stack of the clock thread", self._group, begin_ns, end_ns, lambda i: names[frames[i]],
                     nested=True, description=about)  # fmt: skip
        if stacks["stacks_dropped"]:
            self.notes.append(f"host stacks: the last {stacks['stacks_dropped']} changes of the stack were not kept")

    def ops(self) -> None:
        """The ops of the steps that were kept one by one, a track for each thread."""
        ops = _table(self._arrays, "op_slices", 5)
        names, flows = self._pass.get("op_slice_names") or [], self._flows.of_ops
        for thread in np.unique(ops[:, 3]).tolist():
            these = np.flatnonzero(ops[:, 3] == thread)
            these = these[np.argsort(ops[these, 4], kind="stable")]  # of two with the same times the outer one first
            self._slices(f"ops, thread {thread}" + (" (clock)" if thread == 0 else ""), self._group,
                         ops[these, 0], ops[these, 1], lambda i, these=these: names[ops[these[i], 2]], nested=True,
                         flows_of=lambda i, these=these: flows.get(int(these[i]), []))  # fmt: skip

    def kernels(self) -> None:
        """Kernels and copies of the same steps, by device and stream."""
        slices = _table(self._arrays, "kernel_slices", 6)
        if not len(slices):
            return
        rows, sites, flows = self._pass["kernels"]["rows"], self._pass["kernels"]["sites"], self._flows.of_kernels
        facts = [self._writer.facts(_facts_of_row(row, sites)) for row in rows]
        is_kernel = np.array([row["kind"] == "kernel" for row in rows])[slices[:, 2]]
        for device in np.unique(slices[:, 3]).tolist():
            group = self._writer.track(f"device {device}", self._group)
            on_device = slices[:, 3] == device
            for stream in np.unique(slices[on_device, 4]).tolist():
                on_stream = on_device & (slices[:, 4] == stream)
                for what, chosen in (("kernels", is_kernel), ("copies and fills", ~is_kernel)):
                    these = np.flatnonzero(on_stream & chosen)
                    self._slices(f"stream {stream}, {what}", group, slices[these, 0], slices[these, 1],
                                 lambda i, these=these: rows[slices[these[i], 2]]["name"],
                                 facts_of=lambda i, these=these: facts[slices[these[i], 2]],
                                 flows_of=lambda i, these=these: flows.get(int(these[i]), []))  # fmt: skip

    def sampler(self) -> None:
        """Power, clocks and memory of the GPUs, processor energy, and the counters of the process."""
        sampler = self._pass["sampler"]
        self._counters("sampler", self._arrays["sampler_t_ns"], self._arrays["sampler_values"],
                       [(column, sampler["units"][column]) for column in sampler["columns"]])  # fmt: skip

    def counters(self) -> None:
        """Hardware counters. What an interval counted becomes a rate: intervals differ where some were merged."""
        spans_ns = _table(self._arrays, "counters_t_ns", 2)
        if not len(spans_ns):
            return
        values = np.array(self._arrays["counters_values"], float)
        length_s = (spans_ns[:, 1] - spans_ns[:, 0]) / 1e9
        drawn = []
        for i, column in enumerate(self._pass["counters"]["columns"]):
            name, unit = column["name"], column["unit"]
            if unit in ("B", "cycles"):
                values[:, i] = np.divide(values[:, i], length_s, out=np.full(len(values), np.nan), where=length_s > 0)
                name, unit = f"{name}_per_s", f"{unit}/s"
            drawn.append((name, unit))
        self._counters("hardware counters", spans_ns[:, 0], values, drawn)

    def _counters(self, what: str, t_ns: np.ndarray, values: np.ndarray, columns: list[tuple[str, str]]) -> None:
        every = -(-len(t_ns) // MAX_POINTS) or 1
        if every > 1:
            self.notes.append(f"{what}: one in {every} of {len(t_ns)} samples is drawn")
        drawn_ns, values = self._clock(np.asarray(t_ns)[::every]), np.asarray(values)[::every]
        group = self._writer.track(what, self._group)
        for i, (name, unit) in enumerate(columns):
            if not np.isnan(values[:, i]).all():
                self._writer.counter(self._writer.track(name, group, unit=unit), drawn_ns, values[:, i])

    def _first(self, what: str, count: int) -> int:
        if count > MAX_SLICES:
            self.notes.append(f"{what}: the first {MAX_SLICES} of {count} are drawn")
        return min(count, MAX_SLICES)

    def _slices(self, name: str, parent: int, start_ns: np.ndarray, end_ns: np.ndarray, name_of: Callable[[int], str],
                *, nested: bool = False, facts_of: Callable[[int], list[Any]] = lambda i: [],
                **options: Any) -> None:  # fmt: skip
        """Slices in ns of this pass; where its clock is not that of the trace, each says how long it was."""

        def with_length(i: int) -> list[Any]:
            return facts_of(i) + self._writer.facts({"measured_ns": int(end_ns[i] - start_ns[i])})

        self._writer.slices(name, parent, self._clock(start_ns), self._clock(end_ns), name_of, nested=nested,
                            facts_of=facts_of if self._clock.is_reference else with_length, **options)  # fmt: skip


def _table(arrays: Arrays, name: str, columns: int) -> np.ndarray:
    found = np.asarray(arrays.get(name, ()), np.int64)
    return found if found.size else np.zeros((0, columns), np.int64)


def _facts_of_row(row: Mapping[str, Any], sites: list[Mapping[str, Any]]) -> dict[str, str | int]:
    """What the trace says of every kernel, copy or fill of a row; what is not known is left out."""
    facts: dict[str, Any] = {"kind": row["kind"], "launched in phase": row["phase"]}
    if row["site"] is not None:
        site = sites[row["site"]]
        facts["launched by"] = site["name"]
        facts |= {part: site[part] for part in ("direction", "op", "module")}
    if row["graph"]:
        facts["graph"] = "launched as part of a CUDA graph"
    if row["copy"] is not None:
        pinned = {True: "pinned", False: "pageable", None: ""}[row["copy"]["pinned"]]
        facts |= {"copy": row["copy"]["direction"], "host memory": pinned}
    for part in ("grid", "block"):
        if row[part] is not None:
            facts[part] = " x ".join(str(size) for size in row[part])
    for part in ("registers", "shared_bytes"):
        if row[part] is not None:
            facts[part] = int(row[part])
    return {name: value for name, value in facts.items() if value != ""}
