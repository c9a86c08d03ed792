"""Verify logs, folders of logs and whole trees: by the rules text, or with exactly the official tools' answers."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from perfsuite.mlperf import check_folder, official_check, official_package, rulebook, seen, system_fields
from perfsuite.mlperf.finding import CONTRARY, ERROR, NOT_CHECKED, SAME, WARNING, Finding
from perfsuite.mlperf.official_package import Package
from perfsuite.mlperf.results import Folder
from perfsuite.mlperf.rounds import Round
from perfsuite.mlperf.seen import Seen


def verify(folder: Folder, played: Round, logs: list[Seen] | None = None) -> dict[str, Any]:
    """One folder. Raises ValueError for an unknown round or a log that cannot be opened.

    valid: by the rules text; official: what the official package checker says of the folder, or the compliance checker
    of one log. logs: what seen.look() found, where it was asked before.
    """
    logs = seen.look(folder, played) if logs is None else logs
    known = seen.official_rules_of(played)
    official = [one.official for one in logs] if known else None
    alone = folder.path.is_file()
    said = [_log(one, alone) for one in logs]
    valid = [one["valid"] for one in said]
    readable = official is not None and all(one.submitted for one in official)
    together = check_folder.Runs(
        folder,
        played,
        [one.run for one in logs],
        [one.seeds for one in logs],
        valid,
        [one.answer.valid for one in official] if official is not None else None,
        [one.submitted for one in official] if readable else None,
    )
    whole = [*([] if alone else _layout(folder, played)), *check_folder.check(together)]
    each = len(logs) == 1 and not folder.is_pruned
    found = {
        "label": folder.label,
        "path": str(folder.path),
        "one_log": alone,
        "benchmark": together.benchmark,
        "division": together.division,
        "round": played.name,
        "rules": rulebook.said(played),
        "valid": not any(finding.severity == ERROR for finding in whole) and (not each or all(valid)),
        "findings": [asdict(finding) for finding in whole],
        "logs": said,
        "official": asdict(_one_log(logs[0]) if alone else official_package.check(
            folder, official, played, benchmark=together.benchmark, division=together.division)) if known else None,
    }  # fmt: skip
    if known and found["valid"] != found["official"]["accepted"] and not differences(found):
        found["findings"].append(asdict(_parting(found["official"])))
    return found


def _parting(official: dict[str, Any]) -> Finding:
    """Why the official checker says otherwise, where no check of ours is about what it looks at."""
    text = ("the official checkers do not refuse it: "
            f"{official['passed_over'] or 'it allows as many failed runs'}" if official["accepted"] else
            f"the official checkers refuse what the rules text allows: {official['why'][0]}")  # fmt: skip
    return Finding("official", WARNING, text, None, check_folder.LAYOUT, CONTRARY)


def _one_log(one: Seen) -> Package:
    """One log has no package: what the official compliance checker says of it."""
    answer = one.official.answer
    why = [f"ends with a traceback: {answer.crashed}"] if answer.crashed else []
    return Package(answer.valid, why + [official_check.in_short(message) for message in answer.messages],
                   crashed=answer.crashed, logs_not_compliant=int(not answer.valid))  # fmt: skip


def _log(one: Seen, alone: bool) -> dict[str, Any]:
    answer: official_check.Answer | None = one.official.answer if one.official else None
    findings = one.findings or []
    if alone and answer and answer.valid:  # what only the seed checker, which looks at folders, would say too
        findings = [replace(f, official=NOT_CHECKED) if f.official == SAME else f for f in findings]
    return {
        "log": one.path.name,
        "valid": not any(finding.severity == ERROR for finding in findings),
        "official_valid": answer.valid if answer else None,
        "official_crashed": answer.crashed if answer else None,
        "findings": [asdict(finding) for finding in findings],
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


def errors(verified: dict[str, Any]) -> list[str]:
    """Why a folder is not valid, in words; a log that may fail is among them."""
    return [one["text"] for one in verified["findings"] if one["severity"] == ERROR] + [
        f"{log['log']}: {one['text']}" for log in verified["logs"] for one in log["findings"]
        if one["severity"] == ERROR]  # fmt: skip


def differences(verified: dict[str, Any]) -> list[dict[str, Any]]:
    """Findings of a folder in which the rules text and the official tools part ways, each with its rule."""
    if verified["official"] is None:
        return []
    everything = [dict(one, log=None) for one in verified["findings"]]
    everything += [dict(one, log=log["log"]) for log in verified["logs"] for one in log["findings"]]
    return [one for one in everything if one["official"] != SAME and (one["severity"] == ERROR or
                                                                     one["official"] == "contrary")]  # fmt: skip
