"""Verify logs, folders of logs and whole trees: by the rules text, or with exactly the official tools' answers."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from perfsuite.mlperf import (
    case,
    check_folder,
    check_log,
    official_check,
    official_files,
    official_package,
    official_run,
    reader,
    rulebook,
    run_log,
    system_fields,
)
from perfsuite.mlperf.finding import ERROR, SAME, Finding
from perfsuite.mlperf.results import Folder
from perfsuite.mlperf.rounds import Round


def verify(folder: Folder, played: Round) -> dict[str, Any]:
    """One folder. Raises ValueError for an unknown round or a log that cannot be opened.

    valid: by the rules text; official: what the official package checker says of the folder.
    """
    rules = rulebook.of(played)
    known = not played.is_own and played.ruleset in official_files.rulesets(played.usage)
    logs, runs, official, seeds = [], [], [], []
    for path in folder.logs:
        data = reader.content(path)
        log = reader.read_content(path, data)
        run = run_log.summarise(log)
        said = official_run.read(path, data, played.usage, played.ruleset) if known else None
        answer = said.answer if said else None
        found = check_log.check(case.Case(log, run, rules, answer))
        seeds.append(check_folder.seeds_of(log))
        runs.append(run)
        official.append(said)
        logs.append(_log(path, found, answer))
    valid = [one["valid"] for one in logs]
    readable = known and all(said.submitted for said in official)
    submitted = [said.submitted for said in official] if readable else None
    by_official = [said.answer.valid for said in official] if known else None
    together = check_folder.Runs(folder, played, runs, seeds, valid, by_official, submitted)
    whole = [*_layout(folder, played), *check_folder.check(together)]
    each = len(logs) == 1 and not folder.is_pruned
    return {
        "label": folder.label,
        "path": str(folder.path),
        "one_log": folder.path.is_file(),
        "benchmark": together.benchmark,
        "division": together.division,
        "round": played.name,
        "rules": rulebook.said(played),
        "valid": not any(finding.severity == ERROR for finding in whole) and (not each or all(valid)),
        "findings": [asdict(finding) for finding in whole],
        "logs": logs,
        "official": asdict(official_package.check(folder, official, played, benchmark=together.benchmark,
                                                  division=together.division)) if known else None,
    }  # fmt: skip


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


def differences(verified: dict[str, Any]) -> list[dict[str, Any]]:
    """Findings of a folder in which the rules text and the official tools part ways, each with its rule."""
    if verified["official"] is None:
        return []
    everything = [dict(one, log=None) for one in verified["findings"]]
    everything += [dict(one, log=log["log"]) for log in verified["logs"] for one in log["findings"]]
    return [one for one in everything if one["official"] != SAME and (one["severity"] == ERROR or
                                                                     one["official"] == "contrary")]  # fmt: skip
