"""One log as every part of verifying and scoring needs it: read once, and only what is needed of it is kept."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfsuite.mlperf import (
    case,
    check_folder,
    check_log,
    official_files,
    official_run,
    reader,
    rulebook,
    run_log,
    throughput,
)
from perfsuite.mlperf.finding import Finding
from perfsuite.mlperf.official_run import OfficialRun
from perfsuite.mlperf.results import Folder
from perfsuite.mlperf.rounds import Round
from perfsuite.mlperf.run_log import RunLog


@dataclass(frozen=True)
class Seen:
    """One log."""

    path: Path
    run: RunLog
    seeds: list[tuple[Any, Any, Any]]
    """(file, line, seed) of every seed that it logs."""
    instance_scale: int | None
    """Accelerators of the run by its log; None where it does not say."""
    official: OfficialRun | None
    """None where the official package has no rules of the round."""
    findings: list[Finding] | None
    """By the rules text; None where there are no rules of the round."""


def official_rules_of(played: Round | None) -> bool:
    """Whether the official package has rules of a round."""
    return played is not None and not played.is_own and played.ruleset in official_files.rulesets(played.usage)


def look(folder: Folder, played: Round | None) -> list[Seen]:
    """Every log of a folder. Raises ValueError, in one line, for one that cannot be opened."""
    with _no_garbage():
        return [_look(path, played) for path in folder.logs]


def _look(path: Path, played: Round | None) -> Seen:
    data = reader.content(path)
    known = official_rules_of(played)
    said = official_run.read(path, data, played.usage, played.ruleset) if known else None
    log = reader.read_content(path, data)  # after the official reading, whose lines are not kept: half the memory
    run = run_log.summarise(log)
    findings = None
    if known or (played is not None and played.is_own):
        findings = check_log.check(case.Case(log, run, rulebook.of(played), said.answer if said else None))
    return Seen(path, run, check_folder.seeds_of(log), throughput.instance_scale(log), said, findings)


@contextmanager
def _no_garbage() -> Iterator[None]:
    """A log is a hundred thousand small objects, none in a cycle: looking through them for cycles took a quarter."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
