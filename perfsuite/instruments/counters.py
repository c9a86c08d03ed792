"""Hardware counters of a GPU through CUPTI: over time (CounterTimeline), and for each kernel (CounterReplay).

Each goes into a pass of its own: CUPTI has one client at a time, and both disturb what the other passes measure.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from perfsuite import _native
from perfsuite.counters import library
from perfsuite.counters.planner import Column, Plan, plan
from perfsuite.counters.sets import SETS
from perfsuite.instruments import YES, Availability, Unavailable, no

HARDWARE_BUFFER_BYTES = 128 << 20
DECODE_PERIOD_S = 0.05
SAMPLES_AT_A_TIME = 4096
MAX_ROWS = 1 << 16
"""Rows that are kept; with more samples than that, neighbours become one row (see "merged")."""

MAX_LAUNCHES = 8192
"""Launches of one step that there is room for; what comes after them is counted in "dropped_ranges"."""


class CounterTimeline:
    """Samples a set of counters on one GPU at a fixed interval, on a native thread that never takes Python's lock."""

    NAME = "counter timeline"

    def __init__(self, set: str = "memory", interval_s: float = 0.001, device: int = 0) -> None:
        """set: "memory" or "compute", see perfsuite.counters.sets. device: CUDA's number.

        Raises ValueError for a set that is not sampled or an interval outside 10 us to 1 s.
        """
        _check(set, _native.Collection.sampling)
        if not 1e-5 <= interval_s <= 1:
            raise ValueError(f"interval_s is {interval_s}: it must lie between 0.00001 and 1 second")
        self._set = set
        self._interval_ns = round(interval_s * 1e9)
        self._device = device
        self._native: Any = None

    def available(self) -> Availability:
        """Whether this GPU's counters can be sampled by this user now."""
        try:
            self._plan()
        except RuntimeError as error:
            return no(str(error))
        return YES

    def _plan(self) -> tuple["_native.CounterLibrary", bytes, Plan]:
        cupti = _library()
        chip = cupti.chip_of(self._device)
        availability = _native.sampling_availability(cupti, self._device)
        return cupti, availability, _planned(plan(cupti, chip, self._set, availability=availability))

    def start(self) -> None:
        """Begin. Unavailable with the reason where it cannot; RuntimeError where it is running already."""
        if self._native is not None:
            raise RuntimeError("the counter timeline is running already: stop it first")
        cupti, availability, self._planned = self._plan()
        host = _native.CounterHost(cupti, self._planned.chip, _native.Collection.sampling, availability)
        self._by_time = samples_by_time(self._planned.chip)
        native = _native.PmSampling(
            host,
            self._device,
            self._planned.metrics,
            kinds(self._planned),
            self._by_time,
            self._interval_ns,  # cycles of the system clock, near 1 GHz, where it is not by time
            HARDWARE_BUFFER_BYTES,
            SAMPLES_AT_A_TIME,
            round(DECODE_PERIOD_S * 1e9),
            MAX_ROWS,
        )
        _started(native)
        self._native = native

    def stop(self) -> dict[str, Any]:
        """Stop, and return a pass's "counters" as plain data, with two arrays.

        "t_ns" int64 (n, 2): start and end of each row, monotonic. "values" float64 (n, columns): bytes of the row's
        time, shares from 0 to 1; NaN where there was nothing to take a share of. "interval_ns" as asked for. "set",
        "chip", "columns" [{name, metric, unit}], "absent" {name: reason}. "num_samples" kept; "dropped": samples that
        would fit the gaps between them; "overflows": times that the hardware's buffer was full and sampling began anew;
        "merged": samples in a row; "first_dropped": the first sample after each beginning holds what was counted before
        it and is left out. "clock" {"method", "bound_ns"}: how the samples' stamps were put on the monotonic clock, and
        the largest error of that, null where nothing is known. "cost" {"cpu_s"} of the reading thread. "notes" [str].
        """
        if self._native is None:
            raise RuntimeError("the counter timeline is not running: start it first")
        native, self._native = self._native, None
        native.stop()
        return timeline(native.result(), self._planned, self._interval_ns, self._by_time)


def samples_by_time(chip: str) -> bool:
    """Whether the hardware of this chip takes samples by time. Turing and GA100 count cycles of a clock that varies."""
    return not chip.startswith("TU") and chip != "GA100"


def kinds(planned: Plan) -> list[int]:
    """How samples of each metric become one, as _native.SampleStore wants it."""
    found = {}
    for column in planned.columns:
        average = column.quantity.average
        for metric in column.option.metrics:
            if average is None:
                found[metric] = _native.ADD_UP
            else:
                by = next((c for c in planned.columns if c.quantity.name == average), None)
                found[metric] = planned.metrics.index(by.option.metrics[0]) if by else _native.OVER_TIME
    return [found[metric] for metric in planned.metrics]


def in_columns(values: np.ndarray, metrics: list[str], columns: list[Column]) -> np.ndarray:
    """float64 (n, columns) in the columns' units, of float64 (n, metrics) as CUPTI gives them."""
    out = np.zeros((len(values), len(columns)))
    for c, column in enumerate(columns):
        for metric in column.option.metrics:
            out[:, c] += values[:, metrics.index(metric)] * column.option.scale
    return out


def timeline(raw: dict[str, Any], planned: Plan, interval_ns: int, by_time: bool) -> dict[str, Any]:
    """What CounterTimeline.stop() returns, of _native.PmSampling.result()."""
    method, offset_ns, bound_ns = raw["clock"]
    notes = []
    if not by_time:
        notes.append(f"{planned.chip} samples by cycles of its system clock: the interval varies with it")
    if method != "cupti":
        notes.append(f"the samples' clock is not CUPTI's: placed by {method}")
    if raw["invalid"]:
        notes.append(f"{raw['invalid']} counts were not numbers")
    if raw["error"]:
        notes.append(f"sampling ended early: {raw['error']}")
    known = method != "none"
    return {
        "t_ns": raw["stamps_ns"] + (offset_ns if known else 0),
        "values": in_columns(raw["values"], planned.metrics, planned.columns),
        "interval_ns": interval_ns,
        "set": planned.set,
        "chip": planned.chip,
        "columns": [column.as_dict() for column in planned.columns],
        "absent": planned.absent,
        "num_samples": raw["num_samples"],
        "dropped": raw["lost"],
        "overflows": raw["overflows"],
        "merged": raw["merged"],
        "first_dropped": True,
        "clock": {"method": method, "bound_ns": bound_ns if known else None},
        "cost": {"cpu_s": raw["cpu_ns"] / 1e9},
        "notes": notes,
    }


class CounterReplay:
    """Counts a set of counters for each kernel of a few steps, by replaying it: exact, and many times slower.

    Start it on the thread that launches, once something has run on the GPU, with nothing in flight.
    """

    NAME = "counter replay"

    def __init__(
        self,
        clock: "_native.PhaseClock | None" = None,
        set: str = "bytes",
        passes: int | None = None,
        *,
        site: int = 0,
        site_of: Callable[[int], dict[str, str] | None] = lambda number: None,
    ) -> None:
        """clock: gives the phases their names, None: "". passes: times a kernel may run, None for the set's own number.

        site_of: what a number of the op recorder's stands for (OpRecorder.site), asked at the end; launches have such a
        number where the op recorder records meanwhile. site: address of a C function `int64_t site(void)` to ask for
        the number of the calling thread's op in its place, 0 for none.
        Raises ValueError for a set that is not replayed.
        """
        _check(set, _native.Collection.ranges)
        self._clock = clock
        self._set = set
        self._passes = passes
        self._site = site
        self._site_of = site_of
        self._native: Any = None

    def available(self) -> Availability:
        """Whether kernels can be replayed by this user now, on the device of this thread's CUDA context."""
        try:
            self._plan()
        except RuntimeError as error:
            return no(str(error))
        return YES

    def _plan(self) -> tuple["_native.CounterLibrary", bytes, Plan]:
        cupti = _library()
        availability = _native.ranges_availability(cupti)
        chip = cupti.chip_of(_native.counter_current_device())
        return cupti, availability, _planned(plan(cupti, chip, self._set, self._passes, availability))

    def start(self) -> None:
        """Begin. Unavailable with the reason where it cannot; RuntimeError where it is running already."""
        if self._native is not None:
            raise RuntimeError("the counter replay is running already: stop it first")
        cupti, availability, self._planned = self._plan()
        host = _native.CounterHost(cupti, self._planned.chip, _native.Collection.ranges, availability)
        native = _native.RangeReplay(host, self._planned.metrics, MAX_LAUNCHES, self._site)
        _started(native)
        self._native = native
        self._steps = 0
        self._ended: str | None = None

    def begin_step(self, step: int) -> None:
        """What follows belongs to this step. Reads what came before, so that there is room for as much again."""
        if self._ended is None:
            self._steps += 1
            self._do(self._native.flush)

    def _do(self, call: Callable[[], None]) -> None:
        """A failure ends the replay and not the training around it."""
        try:
            call()
        except RuntimeError as error:
            self._ended = str(error)

    def stop(self) -> dict[str, Any]:
        """Stop, and return a pass's "replay" as plain data.

        "chip", "set", "passes", "steps", "columns" [{name, metric, unit}], "absent" {name: reason}. "rows": [{"name",
        "site": index into "sites" or null, "phase": of the launch, "calls", "values": sum of each column}], those with
        the most calls first; a graph is one row "(cuda graph)" where CUPTI measures it as one. "unjoined": ranges whose
        launch is not known, in the row "(not joined)". "dropped_ranges": kernels that there was no room for. "notes".
        """
        if self._native is None:
            raise RuntimeError("the counter replay is not running: start it first")
        native, self._native = self._native, None
        if self._ended is None:
            self._do(native.stop)
        names = [] if self._clock is None else list(self._clock.names)
        data = replay(native.result(), self._planned, names, self._site_of) | {"steps": self._steps}
        if self._ended is not None:
            data["notes"].append(f"the replay ended early: {self._ended}")
        return data


def replay(
    raw: dict[str, Any], planned: Plan, phases: list[str], site_of: Callable[[int], dict[str, str] | None]
) -> dict[str, Any]:
    """What CounterReplay.stop() returns but for "steps", of _native.RangeReplay.result()."""
    numbers = sorted({site for _, site, _, _, _ in raw["rows"]} - {0})
    named = {number: site for number in numbers if (site := site_of(number)) is not None}
    sites = list({tuple(site.items()): site for site in named.values()}.values())
    index = {number: sites.index(site) for number, site in named.items()}
    values = np.array([sums for *_, sums in raw["rows"]]).reshape(len(raw["rows"]), len(planned.metrics))
    table = in_columns(values, planned.metrics, planned.columns)
    rows = [
        {
            "name": name,
            "site": index.get(site),
            "phase": phases[phase] if 0 <= phase < len(phases) else "",
            "calls": calls,
            "values": table[i].tolist(),
        }
        for i, (name, site, phase, calls, _) in enumerate(raw["rows"])
    ]
    notes = []
    if raw["launches"] != raw["ranges"] + raw["dropped"]:
        notes.append(f"{raw['launches']} launches were seen and {raw['ranges'] + raw['dropped']} measured")
    return {
        "chip": planned.chip,
        "set": planned.set,
        "passes": planned.passes,
        "columns": [column.as_dict() for column in planned.columns],
        "absent": planned.absent,
        "rows": sorted(rows, key=lambda row: (-row["calls"], row["name"], row["phase"])),
        "sites": sites,
        "dropped_ranges": raw["dropped"],
        "unjoined": raw["unjoined"],
        "notes": notes,
    }


def _started(native: Any) -> None:
    try:
        native.start()
    except RuntimeError as error:  # e.g. another program's profiler holds the counters
        raise Unavailable(str(error)) from None


def _check(name: str, collection: "_native.Collection") -> None:
    possible = [known for known, wanted in SETS.items() if wanted.collection == collection]
    if name not in possible:
        raise ValueError(f"no such set of counters here: {name!r}; there is {', '.join(possible)}")


def _library() -> "_native.CounterLibrary":
    missing = _native.counter_driver_missing()
    if missing:  # said first: it is what most machines lack
        raise RuntimeError(missing)
    return library.load()


def _planned(planned: Plan) -> Plan:
    if not planned.columns:
        raise RuntimeError(next(iter(planned.absent.values())))
    return planned
