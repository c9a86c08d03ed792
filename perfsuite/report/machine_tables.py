"""What the tables of ceilings have in common: sizes, rates with their quartiles, the levels of a memory."""

from typing import Any

from rich.box import SIMPLE
from rich.table import Table

_KERNELS = ("read", "write", "copy", "triad")


def levels_table(ceilings: dict[str, Any], title: str) -> Table:
    """A row for each level of the memory; of a CPU, or of an entry of "gpus"."""
    table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False, padding=0)
    table.add_column("level")
    for heading in ("capacity", "working set", *_KERNELS, "latency"):
        table.add_column(heading, justify="right")
    for level in ceilings["levels"]:
        capacity, working_set = level["capacity_bytes"], level["working_set_bytes"]
        cells = [spread(level[f"{kernel}_bytes_per_s"], 1e9, "\n") for kernel in _KERNELS]
        cells.append(spread(level["latency_ns"], 1, "\n") if level["latency_ns"] else "not measured")
        table.add_row(level["name"], size(capacity) if capacity else "", size(working_set), *cells)
    return table


def spread(value: dict[str, Any], unit: float, between: str = " ") -> str:
    """The ceiling and the quartiles, in `unit`s."""
    return f"{digits(value['ceiling'] / unit)}{between}({digits(value['lo'] / unit)}-{digits(value['hi'] / unit)})"


def digits(value: float) -> str:
    """Three digits, more before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def size(size_bytes: float) -> str:
    """As 48 KiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024 or unit == "GiB":
            return f"{size_bytes:.3g} {unit}" if size_bytes < 1000 else f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    raise AssertionError
