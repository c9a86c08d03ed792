"""What a device did, in the terminal: busy and idle time, its longest kernels, and where it waited. 100 columns."""

from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from perfsuite.report import figures, idle, kernels, names
from perfsuite.report.figures import count, percent, seconds, si
from perfsuite.report.power_words import of_kernel

TOP_KERNELS = 10
_COLUMNS = {"phase": 10, "time": 7, "share": 6, "limit": 14, "joules": 8}
"""Width of each. A limit is what bounds the kernel and how near it is to that, else the bytes/s that it moves.
Joules after "~" may be another kernel's."""


def devices(ledger: dict[str, Any]) -> list[tuple[str, Text]]:
    """A line a device: busy, idle by cause, and what neither is. One line where it is not known."""
    if not ledger["available"]:
        return [("device", Text(f"not accounted: {ledger['reason']}", style="dim"))]
    return [(f"device {device['device']}", _device(device)) for device in ledger["devices"]]


def _device(device: dict[str, Any]) -> Text:
    clock = device["clock_s"]

    def share(time_s: float) -> str:
        return percent(time_s / clock if clock else None)

    causes, phases, times = idle.by_phase(device)
    by_cause = [(cause, sum(times.get((cause, phase), 0.0) for phase in phases)) for cause in causes]
    split = ", ".join(f"{idle.cause_name(cause)} {share(t)}" for cause, t in sorted(by_cause, key=lambda row: -row[1]))
    text = Text(f"busy {share(device['busy_s'])} of {seconds(clock)}", style="bold")
    text.append(f", idle {share(device['idle_s'])}" + (f" ({split})" if split else ""), style="not bold")
    return text.append(f", residual {percent(device['residual_share'])}", style="not bold dim")


class Kernels:
    """The longest kernels, all modules together; names give way where the terminal is narrow."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = kernels.grouped(rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = sum(width + 2 for width in _COLUMNS.values())
        for_names = max(24, min(options.max_width, 130) - width - 2)
        name_width = for_names * 3 // 5
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("kernel", no_wrap=True, width=name_width)
        table.add_column("op", no_wrap=True, width=for_names - name_width)
        for name, width in _COLUMNS.items():
            table.add_column(name, justify="left" if name in ("phase", "limit") else "right", no_wrap=True,
                             width=width)  # fmt: skip
        for row in self._rows[:TOP_KERNELS]:
            table.add_row(*_kernel(row, name_width, for_names - name_width))
        yield table
        if len(self._rows) > TOP_KERNELS:
            rest = sum(row["share_s"] for row in self._rows[TOP_KERNELS:])
            yield Text(f"and {count(len(self._rows) - TOP_KERNELS)} more lines, {seconds(rest)} together", style="dim")


def _kernel(row: dict[str, Any], name_width: int, op_width: int) -> list[Text | str]:
    op = kernels.launched_by(row) or row["module"] or figures.UNKNOWN
    return [
        Text(names.kernel(row["name"], name_width)), Text(names.middle(op, op_width)),
        Text(row["phase"] or figures.UNKNOWN), seconds(row["time_s"]), percent(row["share_of_clock"]),
        Text(_limit(row)), _joules(row),
    ]  # fmt: skip


def _joules(row: dict[str, Any]) -> str:
    return of_kernel(row["joules"], None, row["told_apart"])


def _limit(row: dict[str, Any]) -> str:
    if not row["bound"]:
        return si(kernels.bytes_per_s(row), "B/s")
    bound = row["level"] if row["bound"] == "memory" and row["level"] else row["bound"]
    return f"{bound} {percent(row['share_of_ceiling'])}" if row["share_of_ceiling"] is not None else bound


def idle_table(device: dict[str, Any]) -> Table:
    """Idle seconds by phase and cause, with sums."""
    causes, phases, times = idle.by_phase(device)
    clock = device["clock_s"]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("phase of the host", overflow="fold")
    for cause in (*causes, "all"):
        table.add_column(f"{idle.cause_name(cause)} s", justify="right", no_wrap=True)
    for phase in phases:
        found = [times.get((cause, phase), 0.0) for cause in causes]
        table.add_row(Text(phase), *(figures.in_seconds(t, clock) for t in (*found, sum(found))))
    totals = [sum(times.get((cause, phase), 0.0) for phase in phases) for cause in causes]
    table.add_row("idle", *(figures.in_seconds(t, clock) for t in (*totals, sum(totals))), style="bold")
    return table
