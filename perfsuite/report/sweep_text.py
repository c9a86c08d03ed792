"""A sweep over batch sizes on one screen of a terminal, 100 columns wide. Never imports torch."""

from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from perfsuite.report.compare_text import interval
from perfsuite.report.figures import UNKNOWN, count, seconds, significant

_STYLES = {"FASTER": "green", "SLOWER": "red", "SAME": "green", "CANNOT_TELL": "yellow"}
_LESS = {"FASTER": "LESS", "SLOWER": "MORE"}
"""The same two words where not time is compared."""
LINES = {"time_to_train": "time to train", "samples_to_target": "= samples to target",
         "time_per_sample": "x time per sample"}  # fmt: skip
"""Of a step: names of its verdicts."""


def render(found: dict[str, Any], folder: str, page: str) -> RenderableType:
    """What perfsuite.sweep_account.account() returned; where its records and its page are."""
    best = found["best"]
    style = "bold yellow" if best["verdict"] == "CANNOT_TELL" else "bold green"
    title = Text(f"{found['workload']} {found['scale']} on {found['device']}", style="bold")
    parts: list[RenderableType] = [title.append(f"  {found['id']}", style="not bold dim"),
                                   Text(best["answer"], style=style)]  # fmt: skip
    said = shortest(found)
    parts += [Text(said)] if said else []
    parts += [_sizes(found["batch_sizes"]), _steps(found["steps"])]
    parts += [Text(critical(found["critical_batch_size"])), Text()]
    parts += [Text(line, style="dim") for line in [*notes(found), f"records: {folder}", f"page: {page}"]]
    return Group(*parts)


def shortest(found: dict[str, Any]) -> str | None:
    """The best batch size with its time, and those that cannot be told from it; None where none reaches the target."""
    best = found["best"]
    row = next((row for row in found["batch_sizes"] if row["batch_size"] == best["batch_size"]), None)
    if row is None:
        return None
    near = [str(line["batch_size"]) for line in best["against"] if line["verdict"] != "SLOWER"]
    said = f"batch size {row['batch_size']} trains in {with_interval(row, 'time_to_train_s', seconds)}"
    return said + (f"; not told apart from it: {', '.join(near)}" if near else ", every other takes longer")


def word(key: str, line: dict[str, Any]) -> str:
    """The verdict of a step in the words of what is compared: samples become more, not slower."""
    said = line["verdict"].replace("_", " ")
    return _LESS.get(said, said) if key == "samples_to_target" else said


def with_interval(row: dict[str, Any], key: str, show: Any) -> str:
    """A figure of a row with its 95 % interval: "14.2 s (13.1 s to 15.3 s)"."""
    if row[key] is None:
        return UNKNOWN
    ends = row[interval_key(key)]
    return show(row[key]) + (f" ({show(ends[0])} to {show(ends[1])})" if ends else "")


def interval_key(key: str) -> str:
    """Where the interval of a figure stands: "time_to_train_s" -> "time_to_train_ci95_s"."""
    return f"{key.removesuffix('_s')}_ci95" + ("_s" if key.endswith("_s") else "")


def reached(row: dict[str, Any]) -> str:
    """How many of its runs reached the target."""
    return f"{row['num_reached']} of {row['num_runs']}"


def critical(fit: dict[str, Any]) -> str:
    """The critical batch size in one sentence."""
    said = "Critical batch size, S(B) = S_min (1 + B / B_crit): "
    ends = _ends(fit["ci95"])
    if fit["value"] is None:
        said += f"not determined, {fit['reason']}" + (f"; {ends} (95 %)" if ends else "")
    else:
        said += f"{significant(fit['value'])} (95 %: {ends}), S_min {count(fit['samples_min'])} samples"
    if fit["left_out"]:
        said += f"; without batch size {_listed(fit['left_out'])}, of which not every run reached the target"
    return said


def _ends(ci95: list[float | None] | None) -> str:
    low, high = ci95 or (None, None)
    if low is not None and high is not None:
        return f"{significant(low)} to {significant(high)}"
    return f"at least {significant(low)}" if low is not None else f"at most {significant(high)}" if high else ""


def notes(found: dict[str, Any]) -> list[str]:
    """What the figures need to be read: changed hyperparameters, runs that missed, what holds for all."""
    lines = []
    for row in found["batch_sizes"]:
        changed = ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                            for name, value in row["config"].items())  # fmt: skip
        lines += [f"batch size {row['batch_size']}: {changed}"] if changed else []
    for row in found["batch_sizes"]:
        if row["reason"]:
            lines.append(f"batch size {row['batch_size']}: no time-to-train, {row['reason']} within "
                         f"{count(row['max_samples'])} samples")  # fmt: skip
    seeds = ", ".join(map(str, found["seeds"]))
    lines.append(f"seeds {seeds}, the same at every batch size, in turns; intervals are of 95 % each")
    return lines + found["notes"]


def _listed(sizes: list[int]) -> str:
    return " and ".join(map(str, sizes))


def _sizes(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Each batch size (95 % intervals)", title_justify="left", box=SIMPLE, pad_edge=False)
    table.add_column("batch", justify="right", no_wrap=True)
    for heading in LINES.values():
        table.add_column(heading, overflow="fold")
    table.add_column("reached", no_wrap=True)
    for row in rows:
        shown = (("time_to_train_s", seconds), ("samples_to_target", count), ("time_per_sample_s", seconds))
        cells = [with_interval(row, key, show).replace(" (", "\n(") for key, show in shown]
        missed = row["num_reached"] < row["num_runs"]
        table.add_row(str(row["batch_size"]), *cells, Text(reached(row), style="yellow" if missed else ""))
    return table


def _steps(steps: list[dict[str, Any]]) -> RenderableType:
    table = Table(title="Each step up", title_justify="left", box=SIMPLE, pad_edge=False)
    table.add_column("step", no_wrap=True)
    for heading in LINES.values():
        table.add_column(heading, overflow="fold")
    for step in steps:
        cells = [Text(f"{word(key, step[key])}\n", style=_STYLES[step[key]["verdict"]]).append(interval(step[key]),
                 style="default") for key in LINES]  # fmt: skip
        table.add_row(f"{step['from']} to {step['to']}", *cells)
    return table
