"""The official summarizer's score of one folder, to the last digit.

It takes logs that its compliance checker accepts, drops the rest as not converged, and multiplies by scaling.json,
which its convergence check writes into the tree only after it was read: the first call on a tree gives another score
than the second. Here the factor of the convergence check counts at once, and nothing is written.
"""

from dataclasses import dataclass

from perfsuite.mlperf import official_check, official_convergence, rounds
from perfsuite.mlperf.convergence import Convergence
from perfsuite.mlperf.official_check import Answer, Line
from perfsuite.mlperf.official_convergence import Submitted


@dataclass
class OfficialRun:
    """One log as the official tools see it."""

    answer: Answer
    minutes: float | None
    """None where the run is dropped: not compliant, or without run_start or run_stop."""
    submitted: Submitted | None
    """None where the convergence checker crashes on it."""
    crashed: str | None = None


@dataclass
class OfficialScore:
    """What the official summarizer says of a folder."""

    minutes: float | None
    """With the factor, where the convergence check gives one."""
    unscaled_minutes: float | None
    num_dropped: int
    convergence: Convergence | None
    """None where its convergence checker crashes, or does not look: open division, rounds before 1.0."""
    crashed: str | None = None


def read(data: bytes, usage: str, ruleset: str) -> OfficialRun:
    """One log. Raises ValueError for a ruleset that the official package lacks."""
    answer, lines = official_check.check_lines(data, usage, ruleset)
    minutes = _minutes(lines) if answer.valid else None
    try:
        return OfficialRun(answer, minutes, official_convergence.read(data, ruleset))
    except official_convergence.Crash as crash:
        return OfficialRun(answer, minutes, None, str(crash))


def _minutes(lines: list[Line]) -> float | None:
    """run_start to run_stop, as the summarizer looks for them: the last of each before both were seen."""
    start = stop = None
    for line in lines:
        if line.key == "run_start":
            start = line.timestamp
        if line.key == "run_stop":
            stop = line.timestamp
        if start is not None and stop is not None:
            return (float(stop) - float(start)) / 60 / 1000
    return None


def score(
    runs: list[OfficialRun], benchmark: str | None, division: str | None, usage: str, ruleset: str
) -> OfficialScore:
    """The score of a folder's runs. `benchmark` is the folder's name, as the summarizer goes by it."""
    minutes = sorted(run.minutes for run in runs if run.minutes is not None)
    num_dropped, drop = len(runs) - len(minutes), rounds.dropped(benchmark)
    unscaled = None
    if num_dropped <= drop:
        counted = minutes[drop : len(minutes) - (drop - num_dropped)]
        unscaled = sum(counted) * 1.0 / len(counted) if counted else None
    found, crashed = None, None
    version = tuple(int(part) for part in ruleset.split("."))
    if division == "closed" and version >= official_convergence.FIRST_RULESET and benchmark != "minigo":
        crashed = next((run.crashed for run in runs if run.crashed), None)
        if not crashed:
            try:
                found = official_convergence.check([run.submitted for run in runs], usage, ruleset)
            except official_convergence.Crash as crash:
                crashed = str(crash)
    factor = found.factor if found else 1.0
    return OfficialScore(unscaled * factor if unscaled is not None else None, unscaled, num_dropped, found, crashed)
