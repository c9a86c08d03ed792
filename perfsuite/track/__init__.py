"""History over commits: where each benchmark changed, by how much, and whether the code did it.

Stored files (pytest-benchmark's and perfsuite's own) -> figures -> series -> changes -> classes. Pure functions of the
files and of the git repository around them; nothing is measured here.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perfsuite import verdict
from perfsuite.track import changes, classes, files, git_history
from perfsuite.track import series as grouping
from perfsuite.track.changes import Change
from perfsuite.track.classes import Class
from perfsuite.track.git_history import History
from perfsuite.track.series import Series

SCHEMA = 1


def track(places: Sequence[Path], *, machine: str | None = None, benchmark: str | None = None, since: str | None = None,
          fail_since: str | None = None) -> dict[str, Any]:  # fmt: skip
    """The history in the files and folders `places`, as `perfsuite track --json` prints it.

    machine: begin of the machine's id. benchmark: a regular expression to search for in names. since, fail_since:
    commits, see the command. Raises ValueError, one line, where nothing is left to show.
    """
    measured, unusable = files.read(places)
    if not measured:
        raise ValueError(f"nothing usable in {', '.join(map(str, places))}: {_first(unusable)}")
    history = git_history.around([*places, Path.cwd()], {m.commit for m in measured if m.commit})
    pattern = _pattern(benchmark)
    chosen = [m for m in measured if (machine is None or m.machine.startswith(machine)) and pattern.search(m.benchmark)]
    if not chosen:
        raise ValueError(_nothing(machine, benchmark, measured))
    series = grouping.group(chosen, history)
    if since is not None:
        series = [cut for one in series if (cut := grouping.since(one, _commit(since, history), history)).points]
        if not series:
            raise ValueError(f"nothing was measured at {since} or later: give an older --since")
    acknowledged = -1 if fail_since is None else history.position[_commit(fail_since, history)]
    found = changes.find(series)
    kinds = classes.classify(series, found, history)
    rows = [_row(*each, history, acknowledged) for each in zip(series, found, kinds, strict=True)]
    strangers = grouping.strangers(series, history)
    return {
        "schema": SCHEMA,
        "verdict": verdict.SLOWER if any(row["failing"] for row in rows) else verdict.SAME,
        "repository": history.root is not None,
        "not_in_history": strangers,
        "machines": sorted({one.machine for one in series}),
        "files": len({m.file for m in chosen}),
        "series": rows,
        "unusable": [{"file": str(file), "reason": reason} for file, reason in unusable],
    }


def _row(series: Series, found: Sequence[Change], kinds: Sequence[Class], history: History,
         acknowledged: int) -> dict[str, Any]:  # fmt: skip
    levels = changes.levels(series, found)
    told = [_change(series, change, kind) for change, kind in zip(found, kinds, strict=True)]
    for i, one in enumerate(told):
        one["failing"] = _stands(told, i) and _position(series, found[i], history, acknowledged)
    points = [
        {"commit": p.commit, "name": p.name, "time": p.repeats[0].time_s, "value": p.value,
         "repeats": [m.value for m in p.repeats], "files": [str(m.file) for m in p.repeats]}
        for p in series.points
    ]  # fmt: skip
    latest, baseline = levels[-1][2], levels[0][2]
    return {
        "benchmark": series.benchmark, "quantity": series.quantity.name, "unit": series.quantity.unit,
        "machine": series.machine, "points": points,
        "levels": [{"first": a, "stop": b, "median": value} for a, b, value in levels],
        "baseline": baseline, "latest": latest, "ratio": latest / baseline, "changes": told,
        "reason": _too_few(series) if not told else None,
        "failing": any(one["failing"] for one in told),
    }  # fmt: skip


def _change(series: Series, change: Change, kind: Class) -> dict[str, Any]:
    found = change.verdict
    return {
        "commit": series.points[change.index].commit, "name": series.points[change.index].name, "index": change.index,
        "located": [series.points[change.first].name, series.points[change.last].name],
        "verdict": found.word, "ratio": found.ratio, "ci95": None if found.ci95 is None else list(found.ci95),
        "threshold": found.threshold, "why": found.why, "class": kind.word, "evidence": kind.why,
    }  # fmt: skip


def _stands(told: Sequence[dict[str, Any]], i: int) -> bool:
    """Whether a change is a real slow-down that later real changes have not taken back."""
    if told[i]["class"] != classes.REAL or told[i]["verdict"] != verdict.SLOWER:
        return False
    product = 1.0
    for change in told[i:]:
        product *= change["ratio"] if change["class"] == classes.REAL else 1.0
    return product > 1 + told[i]["threshold"] or i == len(told) - 1


def _position(series: Series, change: Change, history: History, acknowledged: int) -> bool:
    """Whether a change comes after what is acknowledged; one outside of the history only if nothing is."""
    if acknowledged < 0:
        return True
    return history.position.get(series.points[change.index].commit, -1) > acknowledged


def _too_few(series: Series) -> str | None:
    count, least = len(series.points), changes.ENOUGH_POINTS
    if series.quantity.exact or count >= least or sum(len(p.repeats) for p in series.points) >= least:
        return None
    return f"{count} points are few: {least} tell a change, or 4 repeats of a commit and 4 of the one before"


def _pattern(benchmark: str | None) -> re.Pattern[str]:
    try:
        return re.compile(benchmark or "")
    except re.error as error:
        raise ValueError(f"--benchmark {benchmark!r} is not a regular expression: {error}") from None


def _commit(revision: str, history: History) -> str:
    from perfsuite import revisions

    if history.root is None:
        raise ValueError(f"{revision} cannot be found: no repository here has the commits of these files")
    commit = revisions.commit_of(revision, history.root)
    if commit not in history.position:
        raise ValueError(f"{revision} is not in the history of HEAD")
    return commit


def _nothing(machine: str | None, benchmark: str | None, measured: Sequence[Any]) -> str:
    machines = sorted({m.machine for m in measured})
    if machine is not None and not any(name.startswith(machine) for name in machines):
        return f"--machine {machine}: there are {', '.join(machines)}"
    return f"--benchmark {benchmark}: none of the {len({m.benchmark for m in measured})} benchmarks has such a name"


def _first(unusable: Sequence[files.Unusable]) -> str:
    if not unusable:
        return "there is no .json file; `pytest --benchmark-autosave` makes one, or `perfsuite run`"
    more = f" (and {len(unusable) - 1} more)" if len(unusable) > 1 else ""
    return f"{unusable[0].file}: {unusable[0].reason}{more}"
