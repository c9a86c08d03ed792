"""The table of `perfsuite runs`."""

from typing import Any

from rich.table import Table
from rich.text import Text

from perfsuite.mlperf.score import score
from perfsuite.record import Record
from perfsuite.report import figures


def brief(record: Record) -> dict[str, Any]:
    """One row for a record: what it is of, passes done and planned, and the time to train in seconds or, where there is
    none (None), why not.
    """
    scored, reason = score(vars(record))
    planned = record.num_runs + sum(bool(wanted) for wanted in record.wanted.values())
    return {
        "id": record.id,
        "kind": record.kind,
        "workload": record.workload,
        "scale": record.scale,
        "device": record.device,
        "created": record.created,
        "passes_done": sum(p.get("state", "done") == "done" for p in record.passes),
        "passes_planned": planned if record.kind == "run" else len(record.passes),
        "time_to_train_s": scored["time_to_train_s"] if scored else None,
        "ci95_s": scored["ci95_s"] if scored else None,
        "time_to_train_reason": reason,
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows of brief() as a table; a record that cannot be read, {"id", "error"}, says why on its line."""
    out = Table(box=None, pad_edge=False)
    for name, right in (("record", False), ("created", False), ("device", False), ("passes", True)):
        out.add_column(name, justify="right" if right else "left", overflow="fold")
    out.add_column("time to train", overflow="fold")
    for row in rows:
        if "error" in row:
            out.add_row(Text(row["id"]), "", "", "", Text(row["error"], style="red"))
            continue
        created = row["created"].replace("T", " ")[:16]
        passes = f"{row['passes_done']}/{row['passes_planned']}"
        out.add_row(Text(row["id"]), created, Text(row["device"]), passes, _result(row))
    return out


def _result(row: dict[str, Any]) -> Text:
    if row["time_to_train_s"] is None:
        return Text(row["time_to_train_reason"] or "not known", style="yellow")
    text = Text(figures.seconds(row["time_to_train_s"]))
    if row["ci95_s"]:
        text.append(f" ({figures.interval(row['ci95_s'], figures.seconds)})", style="dim")
    return text
