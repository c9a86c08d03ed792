"""The kernel recorder: every kernel, copy and fill on the GPUs, by the op and the phase that launched it.

The recording and its sums are native (csrc/native/kernel_recorder.h); this file finds CUPTI and puts names on the sums.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from perfsuite import _native
from perfsuite.instruments import YES, Availability, Unavailable, no
from perfsuite.instruments.ops import TIMELINE_STEPS, OpRecorder

DRIVER = "libcuda.so.1"
DATA_PHASE = "data"
MAX_SLICES = 200_000
COUNTS = {
    "damaged": "buffers could not be read to their end: their records are missing",
    "untimed": "records of the device have no times (CUPTI lacked memory for them): they are in no sum",
    "outside": "records lie before the start or after the stop: work that ran on, or times of another clock",
    "unlaunched": "pieces of work whose launch call was not seen: they have no op and no phase",
    "other": "pieces of work found no row of their own and are summed under (other)",
    "shortened": "times more records were waiting than there was room for: some may be counted as late",
    "slices_dropped": "single kernels found no room in the timeline",
}
"""What may be counted and should not be, as the notes say it."""


class KernelRecorder:
    """Records what runs on every GPU of this process; one runs at a time, and CUPTI serves no one else meanwhile.

    ops: tells where launches come from; it must record at the same time. None: no piece of work has a site.
    clock: gives the phases their names. None: phases are named "".
    slice_steps: steps whose single pieces of work are kept, at most 200 000 of them.
    driver, cupti: what to load in place of "libcuda.so.1" and of the CUPTI that torch has loaded.
    """

    NAME = "kernel recorder"

    def __init__(
        self,
        ops: OpRecorder | None = None,
        clock: "_native.PhaseClock | None" = None,
        slice_steps: range = TIMELINE_STEPS,
        *,
        driver: str = DRIVER,
        cupti: str | None = None,
    ):
        self._ops, self._clock, self._slice_steps = ops, clock, slice_steps
        self._where = (driver, cupti_candidates(), True) if cupti is None else (driver, [cupti], False)
        self._native: Any = None
        self._start_ns = 0
        self._slicing = False

    def available(self) -> Availability:
        """Whether there is a GPU, a CUPTI that is known here, and no torch.profiler at work.

        Whether another program's profiler holds CUPTI is seen by start() alone.
        """
        reason = _native.find_cupti(*self._where)["reason"] or _torch_profiler()
        return no(reason) if reason else YES

    def start(self) -> None:
        """Start with empty sums. The account begins when the clock starts; now where there is none or it runs already.

        Raises Unavailable with the reason where it cannot record; nothing is changed then.
        """
        if self._native is not None:
            raise RuntimeError("the kernel recorder is running already: stop it first")
        availability = self.available()
        if not availability.available:
            raise Unavailable(availability.reason)
        names = self._phases()
        try:
            native = _native.KernelRecorder(*self._where)
            data_phase = names.index(DATA_PHASE) if DATA_PHASE in names else -1
            native.start(data_phase, _devices(), self._clock is not None and not self._clock.running)
        except RuntimeError as error:
            raise Unavailable(str(error)) from None
        self._native, self._start_ns = native, _native.now_ns()

    def begin_step(self, step: int) -> None:
        """What follows belongs to step `step`: keeps single pieces of work or does so no more."""
        if (step in self._slice_steps) == self._slicing:
            return
        self._slicing = not self._slicing
        if self._slicing:
            self._native.begin_slices(MAX_SLICES)
        else:
            self._native.end_slices()

    def pause(self) -> None:
        """Record nothing until resume(). CUPTI stays attached, and so does a part of its cost."""
        self._native.pause()

    def resume(self) -> None:
        """Go on after pause(); the time between counts as idle."""
        self._native.resume()

    def stop(self) -> dict[str, Any]:
        """Wait for the GPUs, stop and return the account, as plain data. It ends when the clock was stopped, else now.

        rows: one for each (name, kind, copy, site, phase of the launch, device, graph). time_ns is the sum of its
            durations; share_ns of its shares of the device's time, which what runs at once shares equally; null is what
            its kind does not have. site: index into sites, which are the fields of the op recorder's rows.
        devices: clock_ns = busy_ns + idle_ns; the rows' share_ns of a device add up to busy_ns;
            idle by cause and phase; gaps by length. syncs, overheads: by type and kind.
        slices: int64 (n, 6), by start: start_ns, end_ns, index into rows, device, stream, correlation id.
        launch_ns: int64 (n,): when the launch call of each slice began, monotonic; -1 where that is not known.
        power: busy time by interval, for energy by kernel, of one device: the one torch works on, else the first seen.
            {"device", "uuid": as NVML writes it or None, "names": k of the rows' names, those with the most time,
            "reason": why there is none}; None where no device was seen.
        power_edges_ns: int64 (m + 1,): from the start to the end of the account. power_busy: int64 (m, k + 1) ns: of
            each name, and last of all others. A column adds up to the share_ns of its name's rows on that device.
        dropped: records that CUPTI had no room for. late, late_ns: work whose record came after its time was accounted;
            it is in its row, but the device counts as idle. unknown: records of other kinds. notes: what is not as it
            should be.
        """
        if self._native is None:
            raise RuntimeError("the kernel recorder is not running: start it first")
        native, self._native, self._slicing = self._native, None, False
        stopped_ns = 0 if self._clock is None else self._clock.start_ns + self._clock.elapsed_ns
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        raw = native.stop(stopped_ns if stopped_ns > self._start_ns else _native.now_ns())
        raw["cupti"] = native.cupti
        if raw["busy"] is not None:
            raw["busy"]["uuid"] = _uuid(raw["busy"]["device"])
        return assemble(raw, self._phases(), self._ops.site if self._ops is not None else lambda number: None)

    def _phases(self) -> list[str]:
        return [] if self._clock is None else list(self._clock.names)


def cupti_candidates() -> list[str]:
    """Where CUPTI may be when torch has not loaded it yet: beside torch, then wherever the loader finds it."""
    spec = importlib.util.find_spec("torch")
    found: list[Path] = []
    if spec is not None and spec.origin is not None:
        packages = Path(spec.origin).parents[1]
        found = [*packages.glob("torch/lib/libcupti*.so*"), *packages.glob("nvidia/*/lib/libcupti.so.*")]
    return [*map(str, found), "libcupti.so.13", "libcupti.so.12"]


def _torch_profiler() -> str | None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.autograd._profiler_enabled():
        return "torch.profiler is recording in this process: CUPTI serves one at a time"
    return None


def _devices() -> list[int]:
    """The GPU that torch works on: it is accounted even where nothing runs on it."""
    torch = sys.modules.get("torch")
    return [torch.cuda.current_device()] if torch is not None and torch.cuda.is_initialized() else []


def _uuid(device: int) -> str | None:
    """As NVML writes it, whose numbers of GPUs are not CUDA's; None where torch has not met the device."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized() or device >= torch.cuda.device_count():
        return None
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)  # not in torch before 2.5
    return None if uuid is None else f"GPU-{str(uuid).removeprefix('GPU-')}"


def assemble(
    raw: dict[str, Any], phases: list[str], site_of: Callable[[int], dict[str, str] | None]
) -> dict[str, Any]:
    """The native sums with names for numbers; rows of one op that launched it under several numbers are one."""

    def phase_name(phase: int) -> str:
        return phases[phase] if 0 <= phase < len(phases) else ""

    sites: dict[tuple[str, ...], int] = {}
    site_list: list[dict[str, str]] = []
    by_number: dict[int, int | None] = {0: None}
    for number in {row["external"] for row in raw["rows"]} - {0}:
        site = site_of(number)
        if site is not None and sites.setdefault(tuple(site.values()), len(site_list)) == len(site_list):
            site_list.append(site)
        by_number[number] = None if site is None else sites[tuple(site.values())]

    rows: list[dict[str, Any]] = []
    merged: dict[tuple[Any, ...], int] = {}
    where = np.zeros(len(raw["rows"]), dtype=np.int64)
    for i, counted in enumerate(raw["rows"]):
        row = counted | {"site": by_number[counted["external"]], "phase": phase_name(counted["phase"])}
        del row["external"]
        copy = tuple(row["copy"].values()) if row["copy"] else None
        key = (row["name"], row["kind"], copy, row["site"], row["phase"], row["device"], row["graph"])
        where[i] = merged.setdefault(key, len(rows))
        if where[i] == len(rows):
            rows.append(row)
        else:
            _add(rows[where[i]], row)

    slices = raw["slices"].copy()
    slices[:, 2] = where[slices[:, 2]]
    devices = [
        device
        | {
            "idle": [row | {"phase": phase_name(row["phase"])} for row in device["idle"]],
            "busy": [row | {"phase": phase_name(row["phase"])} for row in device["busy"]],
        }
        for device in raw["devices"]
    ]
    kept = ("syncs", "overheads", "dropped", "late", "late_ns", "unknown", "records", "buffers_most_held", "cupti")
    busy = raw["busy"]
    power = None if busy is None else {key: busy.get(key) for key in ("device", "uuid", "names", "reason")}
    notes = [*raw["notes"], *(f"{raw[name]} {text}" for name, text in COUNTS.items() if raw[name])]
    return {
        "rows": rows, "sites": site_list, "devices": devices, **{name: raw[name] for name in kept}, "notes": notes,
        "slices": slices, "launch_ns": raw["launch_ns"], "power": power,
        "power_edges_ns": busy["edges_ns"] if busy else np.zeros(0, np.int64),
        "power_busy": busy["busy_ns"] if busy else np.zeros((0, 1), np.int64),
    }  # fmt: skip


def _add(row: dict[str, Any], other: dict[str, Any]) -> None:
    for part in ("calls", "time_ns", "share_ns"):
        row[part] += other[part]
    row["min_ns"], row["max_ns"] = min(row["min_ns"], other["min_ns"]), max(row["max_ns"], other["max_ns"])
    if row["bytes"] is not None:
        row["bytes"] += other["bytes"]
    for part in ("grid", "block", "registers", "shared_bytes"):  # as last seen
        row[part] = other[part]
