"""Turns instruments on and off: the only place that does.

A Watch covers one clocked stretch of one process. The harness, `prove` and people's own loops all observe through it.
"""

import resource
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from perfsuite import _native, clock_events
from perfsuite.instruments import YES, Availability, Unavailable, no
from perfsuite.instruments.host_stacks import HostStacks
from perfsuite.instruments.sampler import Sampler

PHASES = ("data", "forward", "backward", "optimizer", "evaluation", "other")
RECORDED = ("ledger", "watch")
"""Kinds of passes that carry the recorders."""
STEPPED = ("op recorder", "kernel recorder", "memory account", "counter replay")
"""Instruments that are told when a step begins."""


def page_faults() -> dict[str, int]:
    """Page faults of this process so far, all threads: minor ones found their page in memory, major ones read it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"minor": usage.ru_minflt, "major": usage.ru_majflt}


class Watch:
    """The phase clock and the sampler always; what else is on depends on the kind of the pass.

    "clean": nothing. "ledger", "watch": recorders of ops and kernels, allocator and memory account. "timeline": the
    GPU's counters over time. "counters": its counters for each kernel, and the op recorder. "host_stacks": py-spy.

    Life: start() when the clock starts, stop() when it stops, then data() and arrays(). In between the owner calls
    begin_step() before each step and wraps its parts in phase(name).
    """

    def __init__(self, kind: str = "clean", model: Any = None, optimizer: Any = None) -> None:
        """`model` gives ops the names of its modules, and with `optimizer` tells what holds the memory."""
        self._stacks = HostStacks() if kind == "host_stacks" else None
        self._stacks_availability = self._stacks.available() if self._stacks else None
        self._clock = _native.PhaseClock(list(PHASES))
        self._phases: dict[str, Any] = {}
        self._sampler: Sampler | None = Sampler()
        self._recorders: dict[str, Any] = {}
        self._recorder_availability: dict[str, Availability] = {}
        self._recording = True
        self._step = 0
        self._data: dict[str, Any] = {}
        self._arrays: dict[str, np.ndarray] = {}
        if kind in RECORDED:
            self._make_recorders(model, optimizer)
        elif kind in ("timeline", "counters"):
            self._make_counters(kind, model)

    def _make_recorders(self, model: Any, optimizer: Any) -> None:
        from perfsuite.instruments.allocator import AllocatorAccount  # these load torch
        from perfsuite.instruments.gpu_memory import MemoryAccount
        from perfsuite.instruments.kernels import KernelRecorder
        from perfsuite.instruments.op_costs import OpCosts
        from perfsuite.instruments.ops import OpRecorder

        self._add("op recorder", lambda: OpRecorder(model, self._clock))
        self._add("allocator", lambda: AllocatorAccount(self._clock))
        self._add("memory account", lambda: MemoryAccount(model, optimizer, self._clock))
        self._add("op costs", OpCosts)
        # The last to start: its account of the device begins with the clock.
        self._add_available(KernelRecorder(self._recorders.get("op recorder"), self._clock))

    def _make_counters(self, kind: str, model: Any) -> None:
        from perfsuite.instruments.counters import CounterReplay, CounterTimeline

        if kind == "timeline":
            self._add_available(CounterTimeline())
            return
        from perfsuite.instruments.ops import OpRecorder  # loads torch

        self._add("op recorder", lambda: OpRecorder(model, self._clock))
        ops = self._recorders.get("op recorder")
        self._add_available(CounterReplay(self._clock, site_of=ops.site) if ops else CounterReplay(self._clock))

    def _add(self, name: str, make: Callable[[], Any]) -> None:
        """An instrument of perfsuite._torch, which may not be there."""
        from perfsuite.torch_extension import TorchExtensionError

        try:
            self._recorders[name] = make()
            self._recorder_availability[name] = YES
        except TorchExtensionError as error:
            self._recorder_availability[name] = no(str(error))

    def _add_available(self, instrument: Any) -> None:
        """An instrument that knows by itself whether it works here; start() may still learn that it does not."""
        self._recorder_availability[instrument.NAME] = availability = instrument.available()
        if availability.available:
            self._recorders[instrument.NAME] = instrument

    def phase(self, name: str) -> AbstractContextManager[Any]:
        """Time inside it belongs to the phase of this name; phases nest, the inner one gets the time."""
        phase = self._phases.get(name)
        if phase is None:
            phase = self._phases[name] = self._clock.phase(name)
        return phase

    def start(self) -> int:
        """Start every instrument, the clock last. Returns monotonic ns."""
        if self._stacks is not None:
            self._stacks.start()
        self._sampler.start()
        self._clock.set_split("op recorder" in self._recorders)
        for name, recorder in list(self._recorders.items()):
            try:
                recorder.start()
            except Unavailable as error:
                self._recorder_availability[name] = no(str(error))
                del self._recorders[name]
        self._faults = page_faults()
        return self._clock.start()

    def set_arm(self, arm: str) -> None:
        """For measuring the instruments' own cost, between start and stop: "off" stops all but the clock (which costs
        nothing while no phase is entered), "clock_and_sampler" pauses the recorders, "recorders" turns everything on.
        """
        if arm == "off" and self._sampler is not None:
            self._sampler.stop()
            self._sampler = None
        elif arm != "off" and self._sampler is None:
            self._sampler = Sampler()
            self._sampler.start()
        if (arm == "recorders") != self._recording:
            self._recording = not self._recording
            self._clock.set_split(self._recording and "op recorder" in self._recorders)
            for recorder in self._recorders.values():
                (recorder.resume if self._recording else recorder.pause)()

    def begin_step(self) -> None:
        """What follows belongs to the next step."""
        self._clock.begin_step()
        for name in STEPPED:
            if self._recording and name in self._recorders:
                self._recorders[name].begin_step(self._step)
        self._step += 1

    def begin_evaluation(self) -> None:
        """An evaluation follows, until the next step."""
        for name in ("op recorder", "memory account"):
            if self._recording and name in self._recorders:
                self._recorders[name].begin_evaluation()

    def stop(self) -> int:
        """Stop the clock, then every instrument. Returns monotonic ns."""
        stopped_ns = self._clock.stop()
        faults = {kind: count - self._faults[kind] for kind, count in page_faults().items()}
        recorded = {name: recorder.stop() for name, recorder in self._recorders.items()}
        sampled = self._sampler.stop()
        self._collect(recorded, sampled)
        self._data["page_faults"] = faults
        if self._stacks is not None:
            clock = self._clock
            stacks = self._stacks.stop(clock.timeline(), clock.names, clock.start_ns, stopped_ns)
            self._arrays |= stacks.pop("arrays")
            self._data["host_stacks"] = stacks
        return stopped_ns

    def data(self) -> dict[str, Any]:
        """Plain data of the stretch, under the names of a record's pass."""
        return self._data

    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays, under the names of a pass's npz."""
        return self._arrays

    def _collect(self, recorded: dict[str, dict[str, Any]], sampled: dict[str, Any]) -> None:
        clock = self._clock
        values = sampled["values"]
        lowered = clock_events.clocks(sampled, clock.start_ns, clock.start_ns + clock.elapsed_ns)
        rss_bytes = values[:, sampled["columns"].index("rss_bytes")]
        self._arrays = {
            "step_table": clock.step_table(),
            "step_starts": clock.step_starts(),
            "timeline": clock.timeline(),
            "sampler_t_ns": sampled.pop("t_ns"),
            "sampler_values": values,
            "sampler_late_ns": sampled.pop("late_ns"),
        }
        self._data = {
            "start_ns": clock.start_ns,
            "clock_ns": clock.elapsed_ns,
            "num_steps": self._step,
            "phases": clock.totals(),
            "timeline_dropped": clock.timeline_dropped,
            "rss_peak_bytes": None if np.isnan(rss_bytes).all() else int(np.nanmax(rss_bytes)),
            "sampler": {key: value for key, value in sampled.items() if key not in ("values",)},
            "clocks": lowered if lowered["available"] else None,
            "ops": None,
            "kernels": None,
            "allocator": recorded.get("allocator"),
            "op_costs": recorded.get("op costs"),
            "gpu_memory": recorded.get("memory account"),
            "counters": None,
            "replay": recorded.get("counter replay"),
            "compiled_regions": 0,
        }
        ops = recorded.get("op recorder")
        if ops is not None:
            marks = ops.pop("marks")
            self._arrays["ops_mark_steps"] = marks["steps"]
            self._arrays["ops_self_ns"] = marks["self_ns"]
            self._arrays["ops_calls"] = marks["calls"]
            self._data["compiled_regions"] = ops.pop("compiled_regions")
            self._arrays["op_slices"] = ops.pop("slices")
            self._data["op_slice_names"] = ops.pop("slice_names")
            self._data["ops"] = ops
        kernels = recorded.get("kernel recorder")
        if kernels is not None:
            for name in ("slices", "launch_ns", "power_edges_ns", "power_busy"):
                self._arrays[f"kernel_{name}"] = kernels.pop(name)
            self._data["kernels"] = kernels
        counters = recorded.get("counter timeline")
        if counters is not None:
            self._arrays["counters_t_ns"] = counters.pop("t_ns")
            self._arrays["counters_values"] = counters.pop("values")
            self._data["counters"] = counters
        self._data["instruments"] = self._instruments()

    def _instruments(self) -> list[dict[str, Any]]:
        rows = [{"name": "phase clock", **YES._asdict()}]
        for name, availability in self._sampler.sources().items():
            rows.append({"name": f"sampler: {name}", **availability._asdict()})
        for name, availability in self._recorder_availability.items():
            rows.append({"name": name, **availability._asdict()})
        if self._stacks_availability is not None:
            rows.append({"name": "host stacks", **self._stacks_availability._asdict()})
        return rows
