"""Tables of `perfsuite ops list`, `check` and `bench` for a terminal. Never imports torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from perfsuite.report import figures

_COLOURS = {"FASTER": "green", "SLOWER": "red", "WRONG": "bold red", "REJECTED": "bold red"}


def _table(title: str, *columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def listing(ops: Sequence[Mapping[str, Any]], tuned: str) -> RenderableType:
    """Ops with what each of their implementations needs, and where the choices of --ops native come from."""
    table = _table("", "op", "does", "implementations here", "not here")
    reasons: dict[str, None] = {}
    for op in ops:
        here = ", ".join(name for name, reason in op["implementations"].items() if reason is None)
        absent = {name: reason for name, reason in op["implementations"].items() if reason}
        reasons |= dict.fromkeys(f"{name} is not here: {reason}" for name, reason in absent.items())
        table.add_row(op["op"], escape(op["does"]), here, ", ".join(absent))
    return Group(table, *(Text(line, style="dim") for line in reasons), Text(tuned, style="dim"))


def checked(results: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One line for each implementation and kind of check; every failure in full."""
    table = _table("", "op", "implementation", "check", "passed", "of", right=("passed", "of"))
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["op"], result["impl"], result["check"]), []).append(result)
    for (op, impl, check), group in groups.items():
        judged = [result for result in group if result["ok"] is not None]
        passed = sum(result["ok"] for result in judged)
        colour = "green" if passed == len(judged) else "bold red"
        if judged:
            table.add_row(op, impl, check, f"[{colour}]{passed}[/]", str(len(judged)))
        else:
            table.add_row(op, impl, check, escape(group[0]["detail"]), "")
    failures = [result for result in results if result["ok"] is False]
    lines = [Text(f"FAILED {r['op']}={r['impl']}, {r['check']} {r['case']}: {r['detail']}") for r in failures]
    worst = f"{len(failures)} checks failed" if failures else "every check passed"
    return Group(table, *lines, Text(worst, style="bold red" if failures else "green"))


def benched(result: Mapping[str, Any]) -> RenderableType:
    """A table for each op and cache state, the summary, and what could not be timed."""
    parts: list[RenderableType] = []
    tables: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in result["rows"]:
        tables.setdefault((row["op"], row["cache"]), []).append(row)
    against = list(dict.fromkeys(name for row in result["rows"] for name in row["speedup"]))
    against.sort(key=lambda name: (name != "eager", name))
    for (op, cache), found in tables.items():
        parts += [_bench_table(f"{op}, inputs {cache}", found, against), Text("")]
    if result["summary"]:
        parts += [_summary_table(result["summary"]), Text("")]
    parts += [Text(f"not timed: {a['op']}={a['impl']}: {a['reason']}", style="dim") for a in result["absent"]]
    parts += [Text(f"failed: {f['op']}={f['impl']} {f['case']}: {f['error']}", style="red") for f in result["failed"]]
    disagreeing = [row for row in result["rows"] if row["second_timer"]["agrees"] is False]
    parts += [
        Text(f"two timers disagree: {r['op']}={r['impl']} {r['case']}: {figures.si(r['device_time_ns'] / 1e9, 's')} by "
             f"events, {figures.si(r['second_timer']['time_ns'] / 1e9, 's')} by graph", style="red")
        for r in disagreeing
    ]  # fmt: skip
    if result["tuning"]:
        parts.append(Text(f"--ops native now chooses by these figures ({result['tuning']})", style="dim"))
    return Group(*parts)


def _bench_table(title: str, found: Sequence[Mapping[str, Any]], against: Sequence[str]) -> Table:
    right = ("time", "host", "memory", "GB/s", "of ceiling", *(f"x {name}" for name in against))
    table = _table(title, "case", "implementation", "direction", "time", "host", "memory", "GB/s", "of ceiling",
                   *(f"x {name}" for name in against), "verdict", right=right)  # fmt: skip
    last = None
    for row in found:
        name = row["case"] if row["case"] != last else ""
        last = row["case"]
        colour = _COLOURS.get(row["verdict"])
        said = f"{row['verdict']} {row['why']}" if row["verdict"] else ""
        rate = row["bytes_per_s"]
        table.add_row(
            escape(name), row["impl"], row["direction"], figures.si(row["device_time_ns"] / 1e9, "s"),
            figures.si(row["host_time_ns"] / 1e9, "s"), figures.si(row["peak_bytes"], "B"),
            figures.significant(rate / 1e9) if rate else figures.UNKNOWN, figures.percent(row["share_of_ceiling"]),
            *(_ratio(row["speedup"].get(name)) for name in against),
            f"[{colour}]{escape(said)}[/]" if colour else escape(said),
        )  # fmt: skip
    return table


def _ratio(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return figures.UNKNOWN
    lo, hi = one["ci95"]
    return f"{one['ratio']:.2f} ({lo:.2f} to {hi:.2f})"


def _summary_table(summary: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Forward and backward over all cases", "op", "implementation", "inputs", "against", "cases",
                   "geometric mean", "worst", "worst case", right=("cases", "geometric mean", "worst"))  # fmt: skip
    for s in summary:
        table.add_row(s["op"], s["impl"], s["cache"], s["against"], str(s["cases"]), f"{s['geometric_mean']:.2f}x",
                      f"{s['worst']:.2f}x", escape(s["worst_case"]))  # fmt: skip
    return table
