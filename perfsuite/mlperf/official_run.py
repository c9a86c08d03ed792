"""One log as all of the official tools see it: compliance, clock, seeds, convergence, the scale of the instance."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfsuite.mlperf import official_check, official_convergence
from perfsuite.mlperf.official_check import Answer, Line
from perfsuite.mlperf.official_convergence import Submitted

_KEYS = ("run_start", "run_stop", "seed", "number_of_nodes", "accelerators_per_node")
_CAUGHT = ("ValueError", "JSONDecodeError", "UnicodeDecodeError", "UnicodeError")


@dataclass
class OfficialRun:
    """One log as the official tools see it."""

    path: Path
    answer: Answer
    start_ms: float | None
    stop_ms: float | None
    seeds: list[tuple[Any, Any, int]] | None
    """(file, line, seed) of every seed; None where the seed checker cannot read one of them."""
    instance_scale: int | None
    """Accelerators of the run by its log; None where the log does not say."""
    submitted: Submitted | None
    """None where the convergence checker crashes on it."""
    crashed: str | None = None
    """How the convergence checker's traceback ends."""

    @property
    def minutes(self) -> float | None:
        """The run's time; None where the summarizer drops it: not compliant, or without run_start or run_stop."""
        if not self.answer.valid or self.start_ms is None or self.stop_ms is None:
            return None
        return (self.stop_ms - self.start_ms) / 60 / 1000

    @property
    def ends_the_summarizer(self) -> str | None:
        """How the summarizer's traceback ends on this log: it goes on after a ValueError, and after no other."""
        crashed = self.answer.crashed
        return crashed if crashed and crashed.partition(":")[0] not in _CAUGHT else None


def read(path: Path, data: bytes, usage: str, ruleset: str) -> OfficialRun:
    """One log. Raises ValueError for a ruleset that the official package lacks."""
    answer, every = official_check.check_lines(data, usage, ruleset)
    lines = [line for line in every if line.key in _KEYS]
    start, stop = _both(lines, "run_start", "run_stop")
    submitted = crashed = None
    try:
        submitted = official_convergence.read(data, ruleset)
    except official_convergence.Crash as crash:
        crashed = str(crash)
    return OfficialRun(
        path,
        answer,
        start.timestamp if start else None,
        stop.timestamp if stop else None,
        None if answer.num_faults else _seeds(lines),
        _scale(lines),
        submitted,
        crashed,
    )


def _both(lines: list[Line], first: str, second: str) -> tuple[Line | None, Line | None]:
    """As the summarizer looks for two keys: the last of each before both were seen."""
    found: dict[str, Line] = {}
    for line in lines:
        if line.key == first or line.key == second:
            found[line.key] = line
            if len(found) == 2:
                break
    return found.get(first), found.get(second)


def _seeds(lines: list[Line]) -> list[tuple[Any, Any, int]] | None:
    try:
        return [(line.value["metadata"]["file"], line.value["metadata"]["lineno"], int(line.value["value"]))
                for line in lines if line.key == "seed"]  # fmt: skip
    except (LookupError, TypeError, ValueError, OverflowError):
        return None


def _scale(lines: list[Line]) -> int | None:
    nodes, per_node = _both(lines, "number_of_nodes", "accelerators_per_node")
    try:
        return int(nodes.value["value"]) * max(int(per_node.value["value"]), 1)
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError):
        return None
