"""Everything that `perfsuite score` says of one folder: times, interval, convergence in three readings, energy."""

from dataclasses import asdict
from typing import Any

from perfsuite.mlperf import (
    convergence,
    identity,
    official_convergence,
    official_score,
    own_class,
    power_log,
    rulebook,
    score_curves,
    scoring,
    seen,
    throughput,
    verify,
)
from perfsuite.mlperf.official_run import OfficialRun
from perfsuite.mlperf.results import Folder
from perfsuite.mlperf.rounds import Round
from perfsuite.mlperf.run_log import RunLog
from perfsuite.mlperf.score import FOOTNOTE

BEFORE_REFERENCES = "rounds before 1.0 have no reference convergence points"


def score(folder: Folder, played: Round | None, detailed: bool = False) -> dict[str, Any]:
    """One folder. Without a round the official reading and the convergence check are left out, with that reason.

    A record of ours has rules of its own (own_class). valid, errors: as verify.verify() says, None without rules.
    detailed: with "curves", what a page draws. Raises ValueError where a log cannot be opened.
    """
    looked = seen.look(folder, played)
    known = seen.official_rules_of(played)
    logs, official = [one.run for one in looked], [one.official for one in looked if one.official]
    verified = verify.verify(folder, played, looked) if known or (played and played.is_own) else None
    named = {log.benchmark for log in logs} - {None}
    about = identity.of(folder, logs)
    benchmark, division = about.benchmark, about.division
    described = folder.system_description() or {}
    weak = folder.scaling == "weak"
    init_limit_s = rulebook.of(played).init_limit_s if played else None
    if played is not None and played.is_own:
        found = scoring.score(logs, benchmark, own_class.rules_of(played).num_runs, init_limit_s)
        checks, why_no_check = _own_convergence(folder, found, played)
    else:
        found = throughput.score(logs, benchmark) if weak else scoring.score(logs, benchmark, None, init_limit_s)
        checks, why_no_check = _convergence(found, official, benchmark, division, played)
    if folder.is_pruned:
        found.time_s, found.ci95_s, found.why = None, None, "pruned logs are no result"
    elif len(named) > 1:
        found.time_s, found.ci95_s = None, None
        found.why = f"the logs are of {len(named)} benchmarks: {', '.join(sorted(named)[:4])}"
    elif folder.in_odd_place:
        found.notes.append("lies where a submission has no results: these are logs, not a result")
    factor = checks["rules"].factor if checks and division == "closed" and not weak else 1.0
    time_s = found.time_s * factor if found.time_s is not None else None
    return {
        "label": folder.label,
        "path": str(folder.path),
        "organisation": folder.organisation,
        "system": folder.system,
        "accelerators": _accelerators(described),
        "benchmark": benchmark,
        "division": division,
        "round": played.name if played else None,
        "rules": _rules(played, known),
        "valid": verified["valid"] if verified else None,
        "errors": verify.errors(verified) if verified else None,
        "score_min": time_s / 60 if time_s is not None else None,
        "ci95_min": [bound * factor / 60 for bound in found.ci95_s] if found.ci95_s else None,
        "unscaled_min": found.time_s / 60 if found.time_s is not None else None,
        "throughput": throughput.reported(found, [one.instance_scale for one in looked], described) if weak else None,
        "why": found.why,
        "notes": found.notes,
        "num_runs": len(logs),
        "num_runs_wanted": found.num_wanted,
        "num_converged": sum(log.converged for log in logs),
        "factor": factor,
        "convergence": {mode: asdict(check) for mode, check in checks.items()} if checks else None,
        "convergence_why": why_no_check,
        "convergence_counts": checks is not None and division == "closed",
        "official": _official(official, folder, benchmark, about.stated_division, played) if known else None,
        "energy": _energy(folder, found),
        "runs": [scoring.as_json(run) for run in found.runs],
        "footnote": FOOTNOTE,
        **({"curves": score_curves.curves(found, benchmark, played)} if detailed else {}),
    }


def _rules(played: Round | None, known: bool) -> str:
    if played is None:
        return "no round was given: runs that make a result, olympic mean"
    if known or played.is_own:
        return rulebook.said(played)
    return f"{played.name}: runs that make a result, olympic mean; the official package has no rules of it"


def _accelerators(described: dict[str, Any]) -> int | None:
    try:
        return int(described["number_of_nodes"]) * int(described["accelerators_per_node"])
    except (KeyError, ValueError, TypeError):
        return None


def _convergence(
    found: scoring.Score, official: list[OfficialRun], benchmark: str | None, division: str | None, played: Round | None
) -> tuple[dict[str, convergence.Convergence] | None, str | None]:
    """(the check in each reading, None), or (None, why there is none)."""
    if played is None:
        return None, "no round was given"
    if played.version < official_convergence.FIRST_RULESET:
        return None, BEFORE_REFERENCES
    if division != "closed":
        return None, "only the closed division is held against reference convergence points"
    crashed = next((run.crashed for run in official if run.crashed), None)
    if crashed:
        return None, f"a log cannot be read for it: {crashed}"
    counted = [run.submitted for run, own in zip(official, found.runs, strict=True) if own.counts]
    try:
        return {mode: official_convergence.check(counted, played.usage, played.ruleset, mode)
                for mode in convergence.MODES}, None  # fmt: skip
    except official_convergence.Crash as crash:
        return None, f"there is no reference to hold {benchmark} against: {crash}"


def _own_convergence(
    folder: Folder, found: scoring.Score, played: Round
) -> tuple[dict[str, convergence.Convergence] | None, str | None]:
    """The same against the workload's own points; of the open division too, where it tells and does not count."""
    counted = [run.log for run in found.runs if run.counts]
    try:
        return {mode: own_class.check_convergence(folder, counted, played, mode) for mode in convergence.MODES}, None
    except own_class.NoReference as reason:
        return None, str(reason)


def _official(
    official: list[OfficialRun], folder: Folder, benchmark: str | None, division: str | None, played: Round
) -> dict[str, Any]:
    said = official_score.score(folder, official, played, benchmark=benchmark, division=division)
    found = said.convergence
    return asdict(said) | {
        "convergence": found.message if found else None,
        "convergence_passed": found.passed if found else None,
    }


def _energy(folder: Folder, found: scoring.Score) -> dict[str, Any] | None:
    """Olympic over the same runs as the time; None where the folder has no power logs."""
    power = folder.path / "power"
    if not power.is_dir():
        return None
    runs = {run.log.path.stem: _run_energy(power, run.log) for run in found.runs}
    kept = [runs[run.log.path.stem] for run in found.runs if run.counts and not run.dropped]
    known = [energy.joules for energy in kept if energy.joules is not None]
    complete = bool(kept) and len(known) == len(kept) and found.time_s is not None
    return {
        "energy_j": sum(known) / len(known) if complete else None,
        "why": None if complete else next((e.why for e in kept if e.why), None) or found.why,
        "runs": {name: asdict(energy) for name, energy in runs.items()},
    }


def _run_energy(power: Any, log: RunLog) -> power_log.Energy:
    return power_log.of_run(power / log.path.stem, log.start_ms, log.stop_ms)

