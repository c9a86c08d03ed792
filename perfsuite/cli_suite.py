"""`perfsuite run all`: every built-in workload that has the scale, each a record of its own; then one table, one page.

A workload that fails is a row with its reason, and the others go on.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from perfsuite import conditions, record, suite
from perfsuite.cli_report import account_of, write_page
from perfsuite.record import RecordError

PAGE = "suite.html"


def run_all(request: Any, resume: str | None, as_json: bool) -> int:
    """Run them, or go on with a suite that was cut off. request: a harness Request, for every workload alike.

    Exit code 0: all reached their target; 1: not all. Raises ValueError for what no workload could be run with.
    """
    if request.target is not None:
        raise ValueError("--target is the quality of one workload: leave it out, or name the workload")
    out, state = (_load(resume, request.out)) if resume else (request.out, _new(request))
    folder = state["request"]["data_folder"]
    asked = replace(request, **state["request"] | {"data_folder": Path(folder) if folder else None}, out=out,
                    command=tuple(state["command"]))  # fmt: skip
    for number, entry in enumerate(state["workloads"], 1):
        if not entry["done"]:
            _one(entry, asked, state, f"{number} of {len(state['workloads'])}")
    if not any(entry["id"] for entry in state["workloads"]):
        raise ValueError(f"no workload could be run: {state['workloads'][0]['error']}")
    return show(out, state, as_json)


def _new(request: Any) -> dict[str, Any]:
    """A suite that has not started: {"request", "workloads": [{"workload", "id", "error", "done"}], ...}."""
    from perfsuite.workloads import registry

    entries = []
    for name in registry.names():
        try:
            if request.scale in registry.load(name).CONFIGS:
                entries.append({"workload": name, "id": None, "error": None, "done": False})
        except Exception as error:  # another's part that is missing must not stop the rest
            entries.append({"workload": name, "id": None, "error": _said(error), "done": True})
    if not entries:
        raise ValueError(f"no workload has a scale {request.scale!r}: `perfsuite workloads` lists what they have")
    asked = asdict(request)
    for key in ("workload", "out", "command"):
        del asked[key]
    asked["data_folder"] = str(request.data_folder.resolve()) if request.data_folder else None
    return {"schema": suite.SCHEMA, "scale": request.scale, "created": conditions.now(),
            "command": list(request.command), "request": asked, "workloads": entries}  # fmt: skip


def _load(resume: str, out: Path) -> tuple[Path, dict[str, Any]]:
    """(folder, state) of the suite that was cut off: "last" is the one in `out`, else a folder is given."""
    folder = out if resume == "last" else Path(resume)
    path = folder / suite.FILE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        _ = state["request"], state["workloads"]
    except FileNotFoundError:
        ask = f"give the folder that holds {suite.FILE}, or 'last' for the one in --out"
        raise ValueError(f"no suite was begun in {folder}: {ask}") from None
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path} is damaged: start anew without --resume") from None
    for entry in state["workloads"]:
        if entry["error"]:  # what was missing may be there now
            entry |= {"error": None, "done": False}
    return folder, state


def _one(entry: dict[str, Any], asked: Any, state: dict[str, Any], standing: str) -> None:
    """Run one workload, or what is missing of its record; what goes wrong is noted in the entry."""
    from perfsuite.harness import run as harness
    from perfsuite.report.progress import RunProgress

    with RunProgress() as progress:
        progress.note(f"{entry['workload']} {state['scale']}, {standing}")
        try:
            if entry["id"]:
                harness.resume(asked.out / entry["id"], progress)
            else:
                made, folder = harness.begin(replace(asked, workload=entry["workload"]))
                entry["id"] = made.id
                record.write_json(asked.out / suite.FILE, state)
                harness.finish(made, folder, progress)
        except Exception as error:
            entry["error"] = _said(error)
            progress.note(f"{entry['workload']}: {entry['error']}")
    entry["done"] = True
    if any(other["id"] for other in state["workloads"]):
        record.write_json(asked.out / suite.FILE, state)


def _said(error: Exception) -> str:
    """One line: of a user's error its own words, of any other its type too."""
    words = " ".join(str(error).split())
    return words if isinstance(error, ValueError | FileNotFoundError) else f"{type(error).__name__}: {words}"


def show(out: Path, state: dict[str, Any], as_json: bool) -> int:
    """Write the page of every record and that of the suite, print the table or the document. Returns the exit code."""
    found = summed_up(out, state)
    page = _page(found, out / PAGE)
    if as_json:
        click.echo(json.dumps(found, allow_nan=False))
    else:
        from rich.console import Console

        from perfsuite.report.suite_text import WIDTH, render

        console = Console()
        console = console if console.is_terminal else Console(width=WIDTH)
        console.print(render(found, page))
    return 0 if found["num_reached"] == len(found["workloads"]) else 1


def summed_up(out: Path, state: dict[str, Any]) -> dict[str, Any]:
    """The suite's document, recomputed from the records in `out`; their pages are written beside them."""
    rows, machine, commit = [], None, None
    for entry in state["workloads"]:
        area, scale = _area(entry["workload"]), state["scale"]
        if entry["id"] is None:
            rows.append(suite.failed_row(entry["workload"], scale, area, entry["error"]))
            continue
        try:
            account = account_of(out / entry["id"])
        except (RecordError, ValueError) as error:
            rows.append(suite.failed_row(entry["workload"], scale, area, str(error), entry["id"]))
            continue
        write_page(account, out / entry["id"])
        row = suite.row(account, area)
        rows.append(row | {"reached": False, "reason": entry["error"]} if entry["error"] else row)
        machine, commit = account["machine"], account["commit"]
    return suite.document(state, rows, machine, commit)


def _area(workload: str) -> str | None:
    from perfsuite.workloads import registry

    try:
        return getattr(registry.load(workload), "AREA", None)
    except Exception:  # said already, as the reason of its row
        return None


def _page(found: dict[str, Any], path: Path) -> str:
    """Write the suite's page; its path, or why there is none."""
    try:
        from perfsuite.report.suite_page import render
    except ImportError as error:
        return f"no page: {error.name} is not installed (pip install perfsuite[report])"
    try:
        record.write_atomically(path, render(found).encode())
    except RecordError as error:
        return f"no page: {error}"
    return str(path)
