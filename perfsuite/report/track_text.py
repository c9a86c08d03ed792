"""A history on a terminal of 100 columns: one line for each benchmark, those that fail first. Never imports torch."""

from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from perfsuite.report.compare_text import interval
from perfsuite.report.figures import UNKNOWN, seconds, si

STYLES = {"real": "red", "machine": "blue", "harness": "magenta", "noise": "dim"}
"""By the first word of a class."""
WIDTH = 100
"""Columns, where there is no terminal."""
_MOST_UNUSABLE = 8
_MOST_STEADY = 40


def render(found: dict[str, Any], width: int = WIDTH) -> RenderableType:
    """What perfsuite.track.track() returned, in `width` columns."""
    parts: list[RenderableType] = [headline(found)]
    rows = ordered(found["series"])
    changed = [row for row in rows if row["changes"]]
    steady = [row for row in rows if not row["changes"]]
    several = len(found["machines"]) > 1
    shown = changed + steady[:_MOST_STEADY]
    for machine in found["machines"]:
        of_machine = [row for row in shown if row["machine"] == machine]
        if of_machine:
            parts.append(_table(of_machine, machine if several else None, width))
    if len(steady) > _MOST_STEADY:
        parts.append(Text(f"{len(steady) - _MOST_STEADY} more did not change.", style="dim"))
    parts += [_evidence(row, change) for row in changed for change in row["changes"][-1:]]
    parts += [Text(line, style="dim") for line in notes(found)]
    return Group(*parts)


def headline(found: dict[str, Any]) -> Text:
    """One line for CI: how many stand slower, of how many."""
    failing = [row for row in found["series"] if row["failing"]]
    count, files = len(found["series"]), found["files"]
    text = Text()
    text.append(found["verdict"] if failing else "OK", style="bold red" if failing else "bold green")
    what = f"{len(failing)} of {count} series stand slower" if failing else f"no slow-down stands in {count} series"
    text.append(f"  {what}, from {files} files")
    return text


def ordered(series: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Failing ones first, then those whose newest change is real, by its size, then the other ones by name."""

    def key(row: dict[str, Any]) -> tuple:
        newest = row["changes"][-1] if row["changes"] else None
        real = newest is not None and newest["class"] == "real"
        return not row["failing"], not real, newest is None, -newest["ratio"] if real else 0, row["benchmark"]

    return sorted(series, key=key)


def figure(value: float, unit: str) -> str:
    """A value of a series in its unit."""
    return seconds(value) if unit == "s" else si(value, unit).strip()


def title(row: dict[str, Any]) -> str:
    """The benchmark, and the quantity where it is not plain time."""
    return row["benchmark"] if row["quantity"] == "time" else f"{row['benchmark']}: {row['quantity']}"


def notes(found: dict[str, Any], most: int = _MOST_UNUSABLE) -> list[str]:
    """What else there is to say of a history, a sentence each."""
    said = []
    if not found["repository"]:
        said.append("No git repository here has the commits of these files: they are in the order of their time.")
    elif found["not_in_history"]:
        names = found["not_in_history"]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        said.append(f"Not in the history of HEAD, placed by time: {', '.join(names[:5])}{more}.")
    reasons = {}
    for row in found["series"]:
        if row["reason"]:
            reasons.setdefault(row["reason"], []).append(row["benchmark"])
    said += [f"{len(names)} series have {reason}." for reason, names in reasons.items()]
    said += [f"Not used: {one['file']}: {one['reason']}." for one in found["unusable"][:most]]
    if len(found["unusable"]) > most:
        said.append(f"Not used: {len(found['unusable']) - most} more (--json lists them).")
    return said


def _table(rows: list[dict[str, Any]], machine: str | None, width: int) -> Table:
    cells = [_cells(row) for row in rows]
    table = Table(title=machine, title_justify="left", box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    headings = ("points", "latest", "/ first", "newest change", "at", "class")
    widths = [max(len(heading), *(len(line[i]) for line in cells)) for i, heading in enumerate(headings)]
    left = width - sum(widths) - 2 * (len(widths) + 1) - 1
    table.add_column("benchmark", no_wrap=True)
    for heading, least in zip(headings, widths, strict=True):
        table.add_column(heading, justify="right" if heading in headings[:3] else "left", no_wrap=True, min_width=least)
    for row, line in zip(rows, cells, strict=True):
        name = Text(_shortened(title(row), max(left, 20)), style="bold red" if row["failing"] else "")
        table.add_row(name, *line[:-1], Text(line[-1], style=STYLES.get(line[-1], "")))
    return table


def _cells(row: dict[str, Any]) -> list[str]:
    newest = row["changes"][-1] if row["changes"] else None
    told = [UNKNOWN, "", ""]
    if newest:
        commit, plus, _ = newest["name"].partition("+")
        told = [_change(newest), commit[:9] + plus, newest["class"].removesuffix(" changed")]
    return [str(len(row["points"])), figure(row["latest"], row["unit"]), f"{row['ratio']:.3g}x", *told]


def _change(change: dict[str, Any]) -> str:
    word = " ?" if change["verdict"] == "CANNOT_TELL" and change["class"] == "real" else ""
    return interval(change) + word


def _evidence(row: dict[str, Any], change: dict[str, Any]) -> Text:
    text = Text()
    text.append(f"{_shortened(title(row), 60)}: ", style="bold" if change["failing"] else "")
    text.append(change["class"], style=STYLES[change["class"].split()[0]])
    said = change["evidence"]
    if change["class"] == "real" and change["verdict"] == "CANNOT_TELL":
        said += f"; CANNOT_TELL by how much: {change['why']}"
    text.append(f", {said}")
    return text


def _shortened(name: str, most: int) -> str:
    """The end tells benchmarks apart: the test and its parameters."""
    return name if len(name) <= most else "…" + name[-most + 1 :]
