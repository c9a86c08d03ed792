"""What the official tools make of a folder's power logs: the package checker's questions, the summarizer's energy.

The summarizer takes the mean power between the start and the stop of the measurement, times the run's duration;
what the rules say is in power_log.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from perfsuite.mlperf import official_check
from perfsuite.mlperf.official_check import Crash, Line


def not_compliant(folder: Path, names: list[str]) -> set[str]:
    """Runs, by the names of their logs, whose power logs the package checker refuses. Raises Crash."""
    refused: set[str] = set()
    counts: dict[str, list[int]] = {"node": [], "sw": []}
    for name in names:
        if not (folder / name).exists():
            refused.add(name)
            continue
        files = [path.name for path in (folder / name).iterdir()] if (folder / name).is_dir() else []
        for kind, seen in counts.items():
            mine = [file for file in files if file.startswith(kind)]
            try:
                numbers = [int(Path(file).stem.split("_")[-1]) for file in mine]
            except ValueError as error:
                raise Crash(f"ValueError: power/{name}: {error}") from error
            if any(not 0 <= number < len(mine) for number in numbers):
                refused.add(name)
            seen.append(len(mine))
    for seen in counts.values():
        if not seen:
            raise Crash("ValueError: max() arg is an empty sequence (no run has a folder of power logs)")
        usual = Counter(seen).most_common(1)[0][0]
        # Its list has no place for a run without power logs, so that a name further on may be blamed.
        refused |= {names[i] for i, count in enumerate(seen) if count != usual}
    return refused


def energy_j(folder: Path, name: str, time_ms: float, ruleset: str) -> float:
    """Joules of one run as the summarizer adds them up. Raises Crash."""
    nodes, switches = sorted(folder.glob(f"{name}/node_*.txt")), sorted(folder.glob(f"{name}/sw_*.txt"))
    if not nodes:
        raise Crash(f"AssertionError: power/{name} has no node_*.txt")
    try:
        return sum([_node_j(_lines(path, ruleset), time_ms) for path in nodes]
                   + [_switch_j(_lines(path, ruleset), time_ms) for path in switches])  # fmt: skip
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise Crash(f"{type(error).__name__}: power/{name}: {error}") from error


def _lines(path: Path, ruleset: str) -> list[Line]:
    return official_check.read(path.read_bytes(), ruleset)[0]


def _node_j(lines: list[Line], time_ms: float) -> float:
    before = last = start = stop = 0.0
    watt_ms, efficiency = 0.0, 1.0
    started = stopped = False
    for line in sorted(lines, key=lambda line: line.timestamp):
        if line.key == "power_measurement_start":
            before = start = line.timestamp
            started = True
        elif line.key == "power_reading" and started and not stopped:
            watt_ms += _value(line) * (line.timestamp - before)
            before, last = line.timestamp, max(last, line.timestamp)
        elif line.key == "power_measurement_stop":
            stop, stopped = line.timestamp, True
        elif line.key == "conversion_eff":
            efficiency = _value(line)
    if not started:
        raise ValueError("Power start timestamp not found")
    return efficiency * watt_ms * time_ms / ((stop if stopped else last) - start) / 1000


def _switch_j(lines: list[Line], time_ms: float) -> float:
    watts, efficiency = 0.0, 1.0
    for line in lines:
        if line.key == "conversion_eff":
            efficiency = _value(line)
        elif line.key == "interconnect_power_est":
            watts = _value(line)
            break
    return efficiency * watts * time_ms / 1000


def _value(line: Line) -> Any:
    return line.value["value"]
