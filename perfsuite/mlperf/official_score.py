"""What the official summarizer prints of one folder, to the last digit.

It takes logs that its compliance checker accepts, drops the rest as not converged, and multiplies by the factor in the
folder's scaling.json. Its convergence check writes that file only after it was read, so that its first call on a tree
may print another score than the second; both are told here, and nothing is written.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perfsuite.mlperf import (
    official_convergence,
    official_files,
    official_package,
    official_power,
    official_system,
    rounds,
)
from perfsuite.mlperf.convergence import Convergence
from perfsuite.mlperf.official_check import Crash
from perfsuite.mlperf.official_run import OfficialRun
from perfsuite.mlperf.results import Folder
from perfsuite.mlperf.rounds import Round

_ALIASES = {"mask": "maskrcnn"}


@dataclass
class Throughput:
    """The weak scaling metric of the HPC suite."""

    time_to_train_all_min: float
    """First run_start to last run_stop."""
    number_of_models: int
    instance_scale: int | None
    """Accelerators of each."""


@dataclass
class OfficialScore:
    """What the official summarizer says of a folder."""

    score_min: float | None = None
    """As a call on the tree prints it now; None where it prints none."""
    settled_min: float | None = None
    """As every later call prints it, once its convergence check has written scaling.json."""
    unscaled_min: float | None = None
    num_dropped: int = 0
    scaling_factor: float = 1.0
    """Of the folder's scaling.json, as it lies."""
    factor: float = 1.0
    """Of its convergence check."""
    convergence: Convergence | None = None
    """None where its convergence checker crashes, or does not look: open division, rounds before 1.0."""
    convergence_crashed: str | None = None
    energy_j: float | None = None
    """Where the folder has power logs: over the same runs, with the factor of scaling.json."""
    throughput: Throughput | None = None
    """Of a folder of weak scaling, which has no other score."""
    crashed: str | None = None
    """How its traceback ends at this folder; it prints nothing of the whole organisation then."""
    passed_over: str | None = None
    """Why it prints nothing of this folder, without a traceback."""


def score(
    folder: Folder, runs: Sequence[OfficialRun], played: Round, *, benchmark: str | None, division: str | None
) -> OfficialScore:
    """What it prints of a folder. benchmark, division: what the logs say, for a folder outside a submission."""
    said = OfficialScore()
    if folder.in_odd_place:
        said.passed_over = "the folder lies where the official tools do not look"
        return said
    described = official_system.read(folder, played, division)
    benchmark = folder.benchmark if folder.root is not None else benchmark
    benchmark = _ALIASES.get(benchmark, benchmark)
    if folder.root is not None and not folder.named_by_the_rules:
        runs = []
    ended = next((run.ends_the_summarizer for run in runs if run.ends_the_summarizer), None)
    try:
        if ended:
            raise Crash(ended)
        if folder.scaling == "weak":
            said.throughput = _throughput(runs, benchmark, played)
        else:
            _strong(said, folder, runs, benchmark, played, described.division)
        shown = said.throughput is not None or folder.scaling != "weak"
        if shown and folder.root is not None and benchmark not in official_files.benchmarks(played.usage,
                                                                                          played.ruleset):  # fmt: skip
            raise Crash(f"AssertionError: {benchmark} is no benchmark of {played.name}, its table has no column of it")
    except Crash as crash:
        said.crashed = str(crash)
    said.crashed = described.summarizer_crashed or said.crashed
    said.passed_over = described.passed_over
    if said.crashed or said.passed_over:
        said.score_min = said.settled_min = said.throughput = said.energy_j = None
    return said


def _strong(
    said: OfficialScore, folder: Folder, runs: Sequence[OfficialRun], benchmark: str | None, played: Round,
    division: str | None,
) -> None:  # fmt: skip
    counted = sorted((run for run in runs if run.minutes is not None), key=lambda run: run.minutes)
    drop = rounds.dropped(benchmark)
    said.num_dropped = len(runs) - len(counted)
    kept = slice(drop, len(counted) - (drop - said.num_dropped))
    minutes = [run.minutes for run in counted[kept]] if said.num_dropped <= drop else []
    said.unscaled_min = sum(minutes) * 1.0 / len(minutes) if minutes else None
    written = _check_convergence(said, runs, played) if division == "closed" else None
    said.scaling_factor = _scaling_factor(folder.path)
    power = folder.path / "power"
    joules = [official_power.energy_j(power, run.path.name.partition(".")[0], run.minutes * 60 * 1000, played.ruleset)
              for run in counted] if power.is_dir() else None  # fmt: skip
    if minutes:
        said.score_min = said.unscaled_min * said.scaling_factor
        said.settled_min = said.unscaled_min * (said.scaling_factor if written is None else written)
        if joules is not None:
            said.energy_j = sum(joules[kept]) * 1.0 / len(minutes) * said.scaling_factor


def _check_convergence(said: OfficialScore, runs: Sequence[OfficialRun], played: Round) -> float | None:
    """The factor that scaling.json has afterwards, 1 where the file is taken away; None where it is left as it is."""
    if played.version < official_convergence.FIRST_RULESET:
        return None
    try:
        said.convergence = official_package.convergence_of(runs, played)
    except official_convergence.Crash as crash:  # which the summarizer passes over
        said.convergence_crashed = str(crash)
        return None
    said.factor = said.convergence.factor
    return said.factor if said.convergence.reference is not None else None


def _scaling_factor(folder: Path) -> float:
    path = folder / "scaling.json"
    if not path.is_file():
        return 1.0
    try:
        factor = json.loads(path.read_text(encoding="utf-8"))["scaling_factor"]
        return factor * 1.0
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Crash(f"{type(error).__name__}: scaling.json: {error}") from error


def _throughput(runs: Sequence[OfficialRun], benchmark: str | None, played: Round) -> Throughput | None:
    """Weak scaling: of logs that comply; None where they are fewer than the runs of a result."""
    counted = [run for run in runs if run.minutes is not None]
    scales = {run.instance_scale for run in counted}
    if len(scales - {None}) > 1:
        raise Crash("AssertionError: the logs are of instances of several scales")
    if benchmark not in official_files.num_runs(played.usage):
        raise Crash(f"KeyError: {benchmark!r}")
    if len(counted) < official_files.num_runs(played.usage)[benchmark]:
        return None
    first, last = min(run.start_ms for run in counted), max(run.stop_ms for run in counted)
    return Throughput((last - first) / 60 / 1000, len(counted), next(iter(scales - {None}), None))
