"""The table that `perfsuite run all` ends with: one workload a row, of a few lines each, under 120 columns.

Names come from records, so every string is a rich Text: nothing in it is read as markup.
"""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from perfsuite.report import character, figures
from perfsuite.report.figures import UNKNOWN, count, percent, seconds, si

WIDTH = 119
OP_WIDTH = 18


def render(found: dict[str, Any], page: str) -> RenderableType:
    """found: the suite's document (perfsuite/suite.py). page: where its page is, or why there is none."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 1, 0))
    for name, right in (("workload", False), ("time to train", True), ("samples", True), ("quality", True),
                        ("ops bound by", True), ("a sample", True)):  # fmt: skip
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    table.add_column("longest ops", no_wrap=True)
    for row in found["workloads"]:
        table.add_row(*map(_lines, cells(row)))
    lines: list[RenderableType] = [Text(), table]
    lines += [Text(f"{row['workload']}: {why}", style="yellow") for row in found["workloads"] for why in reasons(row)]
    lines.append(Text(answer(found), style="bold green" if _all(found) else "bold yellow"))
    return Group(*lines, Text(f"page {page}", style="dim"))


def answer(found: dict[str, Any]) -> str:
    """E.g. "7 of 8 workloads reached their target at scale tiny, together in 3.05 min of training"."""
    times = [row["time_to_train_s"] for row in found["workloads"] if row["time_to_train_s"] is not None]
    took = f", together in {seconds(sum(times))} of training" if times else ""
    return f"{found['num_reached']} of {len(found['workloads'])} workloads reached their target at scale " \
           f"{found['scale']}{took}"  # fmt: skip


def _all(found: dict[str, Any]) -> bool:
    return found["num_reached"] == len(found["workloads"])


def reasons(row: dict[str, Any]) -> list[str]:
    """What a row cannot say in its cells: why there is no time, or no character."""
    said = [row["reason"]] if row["reason"] else []
    if row["character"] and not row["character"]["available"]:
        said.append(f"its character is not known: {row['character']['reason']}")
    return said


def _lines(parts: list[str]) -> Text:
    return Text("\n".join(parts), no_wrap=True)


def cells(row: dict[str, Any]) -> list[list[str]]:
    """The lines of each cell of a row."""
    return [[row["workload"]], _time(row), _samples(row), _quality(row), _bound(row["character"]), _sample(row),
            _ops(row["character"])]  # fmt: skip


def _time(row: dict[str, Any]) -> list[str]:
    if row["time_to_train_s"] is None:
        runs = f"{row['num_reached']} of {row['num_runs']} runs" if row["num_runs"] else ""
        return ["not reached" if row["target"] else "failed", runs]
    interval = figures.interval(row["ci95_s"], seconds) if row["ci95_s"] else "no interval"
    return [seconds(row["time_to_train_s"]), interval, f"{row['num_reached']} of {row['num_runs']} runs"]


def _samples(row: dict[str, Any]) -> list[str]:
    return [count(row["samples_to_target"]), *([figures.interval(row["samples_to_target_range"], count)]
            if row["samples_to_target_range"] else [])]  # fmt: skip


def _quality(row: dict[str, Any]) -> list[str]:
    quality = UNKNOWN if row["quality"] is None else f"{row['quality']:.4g}"
    return [quality, *([f"{figures.sign(row['target'])} {row['target']['value']:g}"] if row["target"] else [])]


def _bound(found: dict[str, Any] | None) -> list[str]:
    if not found or not found["available"]:
        return [UNKNOWN]
    return [f"{name} {percent(found[key])}" for name, key, _ in character.PARTS]


def _sample(row: dict[str, Any]) -> list[str]:
    found = row["character"]
    said = [UNKNOWN]
    if found and found["available"]:
        said = [si(found["bytes_per_sample"], "B"), si(found["flops_per_sample"], "FLOP"),
                character.intensity(found)]  # fmt: skip
    fits = working_set(row)
    return [*said, fits] if fits else said


def working_set(row: dict[str, Any]) -> str | None:
    """E.g. "12.3 MB, in L3"; None where the record does not know it."""
    found = row["working_set"]
    if not found or found.get("bytes") is None:
        return None
    size = si(found["bytes"], "B")
    if found["fits_in"] is None and found.get("levels_reason"):
        return f"{size}, caches not known"
    return f"{size}, in {found['fits_in'] or 'no cache'}"


def _ops(found: dict[str, Any] | None) -> list[str]:
    if not found or not found["available"]:
        return [UNKNOWN]
    return [f"{percent(op['share']):>7} {shortened(op['name'], OP_WIDTH)}" for op in found["top_ops"]]


def shortened(name: str, width: int) -> str:
    """The beginning and the end of an op's name say more than its middle."""
    name = name.removeprefix("aten::")
    return name if len(name) <= width else f"{name[: width // 2 - 1]}…{name[-(width - width // 2) :]}"
