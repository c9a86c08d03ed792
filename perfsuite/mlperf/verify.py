"""Verify logs, folders of logs and whole trees: by the rules text, or with exactly the official tools' answers."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from perfsuite.mlperf import (
    case,
    check_folder,
    check_log,
    convergence,
    official_check,
    official_convergence,
    official_files,
    reader,
    rounds,
    rulebook,
    run_log,
    system_fields,
)
from perfsuite.mlperf.finding import ERROR, SAME, Finding
from perfsuite.mlperf.results import Folder
from perfsuite.mlperf.rounds import Round


def verify(folder: Folder, played: Round) -> dict[str, Any]:
    """One folder. Raises ValueError for an unknown round or a log that cannot be opened.

    valid: by the rules text; official: what the official compliance, seed and convergence checkers say of the folder.
    """
    rules = rulebook.of(played)
    known = not played.is_own and played.ruleset in official_files.rulesets(played.usage)
    logs, runs, answers, seeds, submitted, crashed = [], [], [], [], [], None
    for path in folder.logs:
        data = reader.content(path)
        log = reader.read_content(path, data)
        run = run_log.summarise(log)
        answer = official_check.check(data, played.usage, played.ruleset) if known else None
        found = check_log.check(case.Case(log, run, rules, answer))
        try:
            if known:
                submitted.append(official_convergence.read(data, played.ruleset))
        except official_convergence.Crash as crash:
            crashed = crashed or str(crash)
        seeds.append(check_folder.seeds_of(log))
        runs.append(run)
        answers.append(answer)
        logs.append(_log(path, found, answer))
    valid = [one["valid"] for one in logs]
    by_official = [answer.valid for answer in answers] if known else None
    read = None if crashed or played.is_own else submitted
    together = check_folder.Runs(folder, played, runs, seeds, valid, by_official, read)
    whole = [*_layout(folder, played), *check_folder.check(together)]
    each = len(logs) == 1 and not together.is_pruned
    return {
        "label": folder.label,
        "path": str(folder.path),
        "benchmark": together.benchmark,
        "division": together.division,
        "round": played.name,
        "rules": rulebook.said(played),
        "valid": not any(finding.severity == ERROR for finding in whole) and (not each or all(valid)),
        "findings": [asdict(finding) for finding in whole],
        "logs": logs,
        "official": _official(together, answers, crashed) if known else None,
    }


def _log(path: Path, found: list[Finding], answer: official_check.Answer | None) -> dict[str, Any]:
    valid = not any(finding.severity == ERROR for finding in found)
    return {
        "log": path.name,
        "valid": valid,
        "official_valid": answer.valid if answer else None,
        "official_crashed": answer.crashed if answer else None,
        "findings": [asdict(finding) for finding in found],
        "official_messages": answer.messages if answer else [],
    }


def _layout(folder: Folder, played: Round) -> Iterator[Finding]:
    if folder.root is None or folder.system is None or played.version < (1,):
        return
    path = folder.root / "systems" / f"{folder.system}.json"
    if not path.is_file():
        yield Finding("system", ERROR, f"there is no system description systems/{path.name}", None,
                      system_fields.SOURCE, SAME)  # fmt: skip
        return
    yield from system_fields.check(path, played)


def _official(of: check_folder.Runs, answers: list[Any], crashed: str | None) -> dict[str, Any]:
    """The official package checker's parts on one folder. It accepts one log that does not comply (four of unet3d)."""
    wrong = sum(not answer.valid for answer in answers)
    wanted = rounds.NUM_RUNS.get(of.benchmark or "")
    if of.benchmark == "ncf":
        wanted = 10  # the official table's number
    enough = wanted is None or (len(answers) >= wanted if of.folder.scaling == "weak" else len(answers) == wanted)
    checked = of.stated_division == "closed" and of.round.version >= official_convergence.FIRST_RULESET
    seeds_good = all(of.seeds) and check_folder.logged_twice(of) is None
    found, why = _official_convergence(of, crashed) if checked and of.benchmark != "minigo" else (None, None)
    accepted = wrong <= rounds.dropped(of.benchmark)
    return {
        "logs_not_compliant": wrong,
        "num_runs_right": enough,
        "seeds_right": seeds_good if checked else None,
        "convergence_passed": found.passed if found else None,
        "convergence": found.message if found else why,
        "accepted": accepted and enough and (not checked or seeds_good) and (found is None or found.passed) and not why,
    }


def _official_convergence(
    of: check_folder.Runs, crashed: str | None
) -> tuple[convergence.Convergence | None, str | None]:
    if crashed or of.submitted is None:
        return None, f"ends with a traceback: {crashed}"
    try:
        return official_convergence.check(of.submitted, of.round.usage, of.round.ruleset), None
    except official_convergence.Crash as crash:
        return None, f"ends with a traceback: {crash}"


def differences(verified: dict[str, Any]) -> list[dict[str, Any]]:
    """Findings of a folder in which the rules text and the official tools part ways, each with its rule."""
    if verified["official"] is None:
        return []
    everything = [dict(one, log=None) for one in verified["findings"]]
    everything += [dict(one, log=log["log"]) for log in verified["logs"] for one in log["findings"]]
    return [one for one in everything if one["official"] != SAME and (one["severity"] == ERROR or
                                                                     one["official"] == "contrary")]  # fmt: skip
