"""The official package checker's answer on one folder of results, with what it asks beside the logs' compliance.

Two things it does that a reader may not expect: a folder that is not called after a benchmark of the round is passed
over without an error, and a file package_checker_params of the submitter's takes back its seed and convergence checks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfsuite.mlperf import (
    official_check,
    official_convergence,
    official_files,
    official_power,
    official_system,
    rounds,
)
from perfsuite.mlperf.convergence import Convergence
from perfsuite.mlperf.official_check import Crash
from perfsuite.mlperf.official_run import OfficialRun
from perfsuite.mlperf.results import Folder
from perfsuite.mlperf.rounds import Round

_BYPASSED = ("RCP found", "RCP Interpolation", "Missing RCP, please submit RCP with BS =")


@dataclass
class Package:
    """What it says of one folder. None: it does not ask."""

    accepted: bool
    why: list[str] = field(default_factory=list)
    """Its errors, in few words."""
    passed_over: str | None = None
    """Why it does not look at the folder, which then has no errors."""
    crashed: str | None = None
    """How its traceback ends."""
    logs_not_compliant: int = 0
    num_runs_right: bool | None = None
    seeds_right: bool | None = None
    convergence_passed: bool | None = None
    convergence: str | None = None
    system_right: bool | None = None


def check(
    folder: Folder, runs: Sequence[OfficialRun], played: Round, *, benchmark: str | None, division: str | None
) -> Package:
    """The answer on one folder. benchmark, division: what the logs say, for a folder outside a submission."""
    inside = folder.root is not None
    if folder.in_odd_place:
        return Package(True, passed_over="the folder lies where the official tools do not look")
    described = official_system.read(folder, played, division)
    said = Package(False, system_right=described.right)
    if described.package_crashed:
        return _ended(said, described.package_crashed)
    if described.right is False:
        said.why.append(f"the system description checker: {described.wrong}")
    benchmark = folder.benchmark if inside else benchmark
    if benchmark not in official_files.benchmarks(played.usage, played.ruleset):
        reason = f"{benchmark} is no benchmark of {played.name} in its table" if benchmark else "no one benchmark"
        if inside:
            said.passed_over = reason
        else:  # by its name in a submission it would be another
            said.why.append(reason)
        said.accepted = not said.why
        return said
    runs = sorted(runs, key=lambda run: str(run.path)) if folder.named_by_the_rules or not inside else []
    try:
        _compliance(said, folder, runs, benchmark, played)
        closed = described.division == "closed" and played.version >= official_convergence.FIRST_RULESET
        if closed:
            _seeds(said, folder, runs)
        if closed and benchmark != "minigo":
            _convergence(said, folder, runs, played)
    except Crash as crash:
        return _ended(said, str(crash))
    said.accepted = not said.why
    return said


def _ended(said: Package, crashed: str) -> Package:
    said.crashed = crashed
    said.why.append(f"ends with a traceback: {crashed}")
    return said


def _compliance(said: Package, folder: Folder, runs: Sequence[OfficialRun], benchmark: str, played: Round) -> None:
    wanted = official_files.num_runs(played.usage)[benchmark]
    said.num_runs_right = len(runs) >= wanted if folder.scaling == "weak" else len(runs) == wanted
    if not said.num_runs_right:
        said.why.append(f"{len(runs)} logs result_<i>.txt, not {wanted}")
    crashed = next((run.answer.crashed for run in runs if run.answer.crashed), None)
    if crashed:
        raise Crash(crashed)
    refused = {run.path.stem for run in runs if not run.answer.valid}
    power = folder.path / "power"
    if power.exists():
        refused |= official_power.not_compliant(power, [run.path.stem for run in runs])
    said.logs_not_compliant = len(refused)
    if len(refused) > rounds.dropped(benchmark):
        said.why.append(f"{len(refused)} of {len(runs)} logs do not comply{_first_message(runs)}")


def _first_message(runs: Sequence[OfficialRun]) -> str:
    message = next((message for run in runs for message in run.answer.messages), None)
    return f": {official_check.in_short(message)}" if message else ""


def _seeds(said: Package, folder: Folder, runs: Sequence[OfficialRun]) -> None:
    """Every log has a seed, each a whole number, and none is logged twice from the same line of the same file."""
    if bypasses_seeds(folder):
        said.seeds_right = True
        return
    seen: set[Any] = set()
    right = True
    for run in runs:
        right = right and bool(run.seeds)
        for seed in run.seeds or ():
            try:
                right = right and seed not in seen
                seen.add(seed)
            except TypeError as error:
                raise Crash(f"TypeError: {error} ({run.path.name})") from error
    said.seeds_right = right
    if not right:
        said.why.append("the seed checker fails")


def _convergence(said: Package, folder: Folder, runs: Sequence[OfficialRun], played: Round) -> None:
    try:
        found = convergence_of(runs, played)
    except official_convergence.Crash as crash:
        said.convergence = f"ends with a traceback: {crash}"
        raise Crash(str(crash)) from crash
    said.convergence, said.convergence_passed = found.message, found.passed
    if bypasses_convergence(folder, found):
        said.convergence, said.convergence_passed = f"{found.message} passed using rcp_bypass", True
    if not said.convergence_passed:
        said.why.append(f"the convergence checker: {found.message}")


def convergence_of(runs: Sequence[OfficialRun], played: Round) -> Convergence:
    """The convergence checker's answer on a folder. Raises official_convergence.Crash."""
    crashed = next((run.crashed for run in runs if run.crashed), None)
    if crashed:
        raise official_convergence.Crash(crashed)
    return official_convergence.check([run.submitted for run in runs], played.usage, played.ruleset)


def bypasses_seeds(folder: Folder) -> bool:
    """Whether a file of the submitter's takes back the seed check."""
    return _bypasses(folder, "seed-checker-bypass")


def bypasses_convergence(folder: Folder, found: Convergence) -> bool:
    """Whether a file of the submitter's takes back that the convergence check failed."""
    return not found.passed and found.message.startswith(_BYPASSED) and _bypasses(folder, "rcp-bypass")


def _bypasses(folder: Folder, what: str) -> bool:
    """Whether a file package_checker_params says so: the official code sees only a last line without a newline."""
    above = folder.path.parents[1] if folder.scaling else folder.path.parent
    places = [folder.path, above] if folder.root is not None else [folder.path]
    return any(_last_line(place / "package_checker_params") == what for place in places)


def _last_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").rpartition("\n")[2]
    except (OSError, ValueError):
        return None
