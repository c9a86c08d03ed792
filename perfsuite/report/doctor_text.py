"""The table of `perfsuite doctor`."""

from typing import Any

from rich.table import Table
from rich.text import Text


def table(rows: list[dict[str, Any]]) -> Table:
    """What there is says yes, what there is not says no and why."""
    out = Table("", "", "here", "", box=None, pad_edge=False)
    group = None
    for row in rows:
        here = Text("yes", style="green") if row["available"] else Text("no", style="yellow")
        said = row["detail"] if row["available"] else row["reason"]
        out.add_row(row["group"] if row["group"] != group else "", Text(row["name"]), here, Text(said or ""))
        group = row["group"]
    return out
