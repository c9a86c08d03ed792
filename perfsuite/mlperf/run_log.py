"""The facts of one run, from its log: when it ran, how it ended, what it reached, after how many samples.

Keys differ between rounds. v0.5 ends with run_final, and run_stop says whether it converged or says nothing: then what
counts is whether the last evaluation reached the log's eval_target. v0.6 and later say so in the status of run_stop,
but for minigo of v0.6, whose models are evaluated after the clock: its eval_result says how long after run_start the
first good one was saved. Rules: training_policies, "Run Results".
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfsuite.mlperf.reader import Entry, Log

_STOPS = ("run_stop", "run_final")
_UNITS = ("samples_count", "epoch_num", "step_num", "epoch")
_V06 = {"0.6"}
_DECIMAL = re.compile(r"\d+(\.\d*)?([eE][-+]?\d+)?")
_LISTED_METRICS = ("BBOX", "SEGM")
"""What the two numbers of a list are: maskrcnn of v0.6."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of the quality."""

    line: int
    time_ms: float
    quality: Any
    units: float | None
    """Samples or epochs seen by then."""
    unit: str | None
    """Name of the metadata that said so, e.g. "samples_count"."""
    metric: str | None
    """Which of several metrics of a benchmark."""
    qualities: dict[str | None, float] = field(default_factory=dict)
    """What of `quality` is a number that can be, by metric; None is the one number of a line that has one."""
    key: str = "eval_accuracy"
    """What the line is called; some benchmarks of the HPC suite have eval_error."""


@dataclass(slots=True)
class RunLog:
    """One log. None where the log does not say."""

    path: Path
    benchmark: str | None = None
    division: str | None = None
    organisation: str | None = None
    platform: str | None = None
    start_ms: float | None = None
    stop_ms: float | None = None
    stop_line: int = 0
    status: str | None = None
    init_start_ms: float | None = None
    init_stop_ms: float | None = None
    batch_size: int | float | None = None
    seeds: list[Any] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    eval_ms: float | None = None
    """Inside eval_start to eval_stop; None where the log has no such pair."""
    eval_start_ms: float | None = None
    """Of an evaluation that is not over; a helper of reading."""
    samples_to_converge: float | None = None
    """train_samples of a line after the evaluations, as bert may log it."""
    saved_s: float | None = None
    """eval_result of v0.6: how long after run_start the first model was saved that reached the target."""
    eval_target: float | None = None
    """v0.5: the quality to reach, of which more is better."""
    num_lines: int = 0
    num_faults: int = 0

    @property
    def time_to_train_s(self) -> float | None:
        """run_start to run_stop; None where one is missing. May be negative: a check says so, nothing hides it."""
        if self.start_ms is None or self.stop_ms is None:
            return None
        return (self.stop_ms - self.start_ms) / 1e3

    @property
    def init_s(self) -> float | None:
        """First init_start to last init_stop."""
        if self.init_start_ms is None or self.init_stop_ms is None:
            return None
        return (self.init_stop_ms - self.init_start_ms) / 1e3

    @property
    def converged(self) -> bool:
        """Whether the log says that the run reached its target, in a time that can be."""
        time_s = self.time_to_train_s
        return self.status == "success" and time_s is not None and time_s > 0

    @property
    def timed(self) -> list[Evaluation]:
        """The evaluations on the clock; all of them where the benchmark evaluates after it."""
        if self.stop_ms is None:
            return self.evaluations
        before = [e for e in self.evaluations if e.time_ms <= self.stop_ms or e.line < self.stop_line]
        return before or self.evaluations

    @property
    def last(self) -> Evaluation | None:
        """The last evaluation on the clock: what the run ended with."""
        timed = [e for e in self.evaluations if self.stop_ms is None or e.time_ms <= self.stop_ms]
        return timed[-1] if timed else None


def summarise(log: Log) -> RunLog:
    """The facts of a log that was read."""
    run = RunLog(log.path, num_lines=len(log.entries), num_faults=len(log.faults))
    is_v06 = log.formats == _V06
    for entry in log.entries:
        _take(run, entry, is_v06)
    if run.stop_ms is None and run.start_ms is not None and run.saved_s is not None:
        run.stop_ms = run.start_ms + 1e3 * run.saved_s
        run.status = "success" if run.saved_s > 0 else "aborted"  # 0: no model reached the target
    if run.status is None and run.stop_ms is not None and run.eval_target is not None:
        last = run.last
        reached = last is not None and _is_number(last.quality) and last.quality >= run.eval_target
        run.status = "success" if reached else "aborted"
    return run


def _take(run: RunLog, entry: Entry, is_v06: bool) -> None:
    if run.benchmark is None:
        run.benchmark = _text(entry.metadata.get("benchmark"))  # v0.5 names it on every line
    match entry.key:
        case "submission_benchmark":
            run.benchmark = _text(entry.value)
        case "submission_division":
            run.division = _text(entry.value)
        case "submission_org":
            run.organisation = _text(entry.value)
        case "submission_platform" | "submission_entry":
            run.platform = run.platform or _text(entry.value)
        case "run_start":
            run.start_ms = entry.time_ms if run.start_ms is None else run.start_ms
        case key if key in _STOPS:
            if run.stop_ms is None or key == "run_stop":
                run.stop_ms, run.stop_line = entry.time_ms, entry.line
            run.status = _status(entry, run.status)
        case "init_start":
            run.init_start_ms = entry.time_ms if run.init_start_ms is None else run.init_start_ms
        case "init_stop":
            run.init_stop_ms = entry.time_ms
        case "eval_start":
            run.eval_start_ms = entry.time_ms if run.eval_start_ms is None else run.eval_start_ms
        case "eval_stop":
            if run.eval_start_ms is not None:
                run.eval_ms = (run.eval_ms or 0.0) + entry.time_ms - run.eval_start_ms
            run.eval_start_ms = None
        case "global_batch_size" | "input_batch_size":
            if run.batch_size is None and _is_number(entry.value) and entry.value >= 1:
                run.batch_size = entry.value
        case "seed" | "run_set_random_seed":
            run.seeds.append(entry.value)
        case "eval_target" if _is_number(entry.value):
            run.eval_target = entry.value
        case "eval_accuracy" | "eval_error":
            run.evaluations.append(_evaluation(entry, is_v06))
        case "train_samples" if run.evaluations and _is_number(entry.value):
            run.samples_to_converge = float(entry.value)
        case "eval_result" if is_v06 and _is_number(entry.metadata.get("timestamp")):
            run.saved_s = float(entry.metadata["timestamp"])


def _status(entry: Entry, before: str | None) -> str | None:
    status = entry.metadata.get("status")
    if isinstance(status, str):
        return status
    if isinstance(entry.value, dict) and "success" in entry.value:  # v0.5; some say it as text
        return "success" if entry.value["success"] in (True, "true", "True") else "aborted"
    return before


def _evaluation(entry: Entry, is_v06: bool) -> Evaluation:
    value, where = entry.value, entry.metadata
    if isinstance(value, dict) and "value" in value:  # v0.5: {"epoch": 3, "value": 0.63}
        where, value = {**where, **value}, value["value"]
    unit = next((name for name in _UNITS if _is_number(where.get(name))), None)
    metric = _text(where.get("metric"))
    return Evaluation(entry.line, entry.time_ms, value, float(where[unit]) if unit else None, unit, metric,
                      _qualities(value, metric, is_v06), entry.key)  # fmt: skip


def _qualities(value: Any, metric: str | None, is_v06: bool) -> dict[str | None, float]:
    """Numbers by metric, of each form that rounds log them in.

    v0.6 alone has text of a number, {"accuracy": ...} around it, and a list of two; from v0.7 on a quality is a number,
    or several by metric.
    """
    if is_v06 and isinstance(value, dict) and "accuracy" in value:
        value = value["accuracy"]
    if is_v06 and isinstance(value, list) and len(value) == len(_LISTED_METRICS):
        value = dict(zip(_LISTED_METRICS, value, strict=True))
    named = value if isinstance(value, dict) else {None: value, metric: value}
    numbers = {name: _quality(one, is_v06) for name, one in named.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def _quality(value: Any, is_v06: bool) -> float | None:
    if is_v06 and isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = float(value)
    return float(value) if _is_number(value) and math.isfinite(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
