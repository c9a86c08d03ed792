"""Energy of a run from a submission's power logs: readings of every node, estimates of the interconnect.

Source: MLPerf power measurement rules, "Scoring": the sum over readings of power times the time since the reading
before, over the timed part of the run; for what is estimated, its power times the run's duration. The official
summarizer takes the mean power between the start and the stop of the measurement, times the run's duration, instead.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from perfsuite.mlperf import reader

LONGEST_GAP_MS = 1500
"""Between readings: one a second is the rule, and time stamps are whole seconds."""


@dataclass
class Energy:
    """Of one run, all nodes and switches."""

    joules: float | None
    """Of the timed part; None where `why` says why not."""
    bound_j: float | None = None
    """How far off it may be: what the parts without readings would add at the mean power, which is in `joules`."""
    num_nodes: int = 0
    flags: list[str] = field(default_factory=list)
    why: str | None = None


@dataclass
class _Node:
    joules: float
    covered_ms: float
    flags: list[str]


def of_run(folder: Path, start_ms: float | None, stop_ms: float | None) -> Energy:
    """The energy of one run from power/result_<i>/. Raises ValueError where a file cannot be opened."""
    nodes = sorted(folder.glob("node_*.txt"))
    if not nodes:
        return Energy(None, why=f"{folder.name} has no power log node_<i>.txt")
    if start_ms is None or stop_ms is None or stop_ms <= start_ms:
        return Energy(None, num_nodes=len(nodes), why="the run's own log does not say from when to when it was timed")
    whole_ms, joules, bound_j = stop_ms - start_ms, 0.0, 0.0
    flags: list[str] = []
    for path in nodes:
        node = _node(path, start_ms, stop_ms)
        flags += [f"{path.stem}: {flag}" for flag in node.flags]
        if node.covered_ms <= 0:
            return Energy(None, None, len(nodes), flags, f"{path.stem} has no reading in the timed part of the run")
        missing_j = node.joules / node.covered_ms * (whole_ms - node.covered_ms)
        joules, bound_j = joules + node.joules + missing_j, bound_j + missing_j
    for path in sorted(folder.glob("sw_*.txt")):
        joules += _estimate_w(path) * whole_ms / 1e3
    return Energy(joules, bound_j, len(nodes), flags)


def _node(path: Path, start_ms: float, stop_ms: float) -> _Node:
    readings, efficiency = [], 1.0
    for entry in reader.read(path).entries:
        if entry.key == "power_reading" and _is_power(entry.value):
            readings.append((entry.time_ms, float(entry.value)))
        elif entry.key == "power_measurement_start":
            readings.append((entry.time_ms, None))
        elif entry.key == "conversion_eff" and _is_power(entry.value):
            efficiency = float(entry.value)
    readings.sort(key=lambda reading: reading[0])
    joules = covered_ms = longest_ms = 0.0
    for (before_ms, _), (at_ms, power_w) in pairwise(readings):
        inside_ms = min(at_ms, stop_ms) - max(before_ms, start_ms)
        if power_w is None or inside_ms <= 0:
            continue
        joules += power_w * efficiency * inside_ms / 1e3
        covered_ms += inside_ms
        longest_ms = max(longest_ms, at_ms - before_ms)
    flags = []
    if longest_ms > LONGEST_GAP_MS:
        flags.append(f"up to {longest_ms / 1e3:.1f} s between readings, the rule is one a second")
    share = covered_ms / (stop_ms - start_ms)
    if share < 0.999:
        flags.append(f"readings cover {100 * share:.1f} % of the timed part")
    return _Node(joules, covered_ms, flags)


def _estimate_w(path: Path) -> float:
    power_w, efficiency = 0.0, 1.0
    for entry in reader.read(path).entries:
        if entry.key == "interconnect_power_est" and _is_power(entry.value):
            power_w = float(entry.value)
        elif entry.key == "conversion_eff" and _is_power(entry.value):
            efficiency = float(entry.value)
    return power_w * efficiency


def _is_power(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
