"""A proof on one screen of a terminal, 100 columns wide. Never imports torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from perfsuite.report import figures
from perfsuite.report.compare_text import interval

_STYLES = {"PROVEN": "green", "REFUTED": "red", "CANNOT_TELL": "yellow", "passed": "green", "refuted": "red",
           "cannot tell": "yellow", "FASTER": "green", "SLOWER": "red"}  # fmt: skip
TITLES = {"right": "right", "faster": "faster", "limit": "near the limit", "training": "shorter training"}
_MOST_FAILURES = 5


def render(found: Mapping[str, Any]) -> RenderableType:
    """What perfsuite.prove.run.prove() returned."""
    steps = {step["step"]: step for step in found["steps"]}
    parts: list[RenderableType] = [_headline(found), _steps(found["steps"])]
    if "cases" in steps["faster"]:
        parts += [_overall(steps["faster"]), _cases(steps["faster"], steps["limit"])]
    if "comparison" in steps["training"]:
        parts += _training(steps["training"])
    for line in notes(found):
        parts.append(Text(line, style="dim"))
    return Group(*parts)


def notes(found: Mapping[str, Any]) -> list[str]:
    """What else a reader has to know: gains that need an audit, losses, fall-backs, what was not there."""
    steps = {step["step"]: step for step in found["steps"]}
    lines = [f"Also wrong: {line}" for line in steps["right"]["failures"][1:_MOST_FAILURES]]
    faster = steps["faster"]
    if faster.get("audit"):
        lines.append(f"{faster['audit'][0].upper()}{faster['audit'][1:]}.")
    if any(line["against"] == "perfsuite" for line in faster.get("cases", [])):
        lines.append("The best of perfsuite's own kernels is shown and has no part in the proof.")
    lines += [f"Loses at {case}." for case in faster.get("losses", [])]
    lines += [f"Note: {line}." for line in steps["right"]["notes"]]
    lines += [f"Not compared with {name}: {reason}" for name, reason in faster.get("absent", {}).items()]
    return lines


def _headline(found: Mapping[str, Any]) -> Text:
    text = Text()
    text.append(found["verdict"], style=f"bold {_STYLES[found['verdict']]}")
    text.append(f"  {found['file']} as {found['op']} on {found['device']}")
    text.append(f"\n{found['why']}")
    return text


def _steps(steps: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = Table(box=SIMPLE, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for number, step in enumerate(steps, 1):
        style = _STYLES.get(step["result"], "dim")
        table.add_row(f"{number} {TITLES[step['step']]}", Text(step["result"], style=style), Text(step["why"]))
    return table


def _overall(faster: Mapping[str, Any]) -> RenderableType:
    table = Table(title=f"Time over that of the others, geometric mean over the cases, {faster['rounds']} rounds",
                  title_justify="left", box=SIMPLE, pad_edge=False)  # fmt: skip
    *parts, whole = dict.fromkeys(line["direction"] for line in faster["overall"])
    for heading in ("against", *parts, f"{whole} (95 %)", "verdict"):
        table.add_column(heading, no_wrap=True)
    for other in dict.fromkeys(line["against"] for line in faster["overall"]):
        lines = {line["direction"]: line for line in faster["overall"] if line["against"] == other}
        word = lines[whole]["verdict"]
        table.add_row(other, *(f"{lines[part]['ratio']:.3g}x" for part in parts), interval(lines[whole]),
                      Text(word, style=_STYLES.get(word, "")))  # fmt: skip
    return table


def _cases(faster: Mapping[str, Any], limit: Mapping[str, Any]) -> RenderableType:
    shown = f"Cases, {'forward and backward' if faster['direction'] == 'both' else 'forward'}"
    table = Table(title=shown, title_justify="left", box=SIMPLE, pad_edge=False)
    others = list(dict.fromkeys(line["against"] for line in faster["cases"]))
    table.add_column("case", overflow="fold")
    for heading in ("time", "of ceiling", *(f"/ {other}" for other in others)):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in case_rows(faster, limit):
        cells = [Text(f"{line['ratio']:.3g}x{_MARKS[line['verdict']]}", style=_STYLES.get(line["verdict"], ""))
                 for line in row["against"]]  # fmt: skip
        table.add_row(Text(row["case"]), figures.si(row["time_ns"] / 1e9, "s"), figures.percent(row["share"]), *cells)
    return table


_MARKS = {"FASTER": "", "SLOWER": " slower", "SAME": " same", "CANNOT_TELL": " ?"}


def case_rows(faster: Mapping[str, Any], limit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """By case: {"case", "time_ns", "share" of the ceiling, "against": lines}, of forward and backward together."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for line in faster["cases"]:
        if line["direction"] == faster["direction"]:
            lines.setdefault(line["case"], []).append(line)
    own = {row["case"]: row["share_of_ceiling"] for row in limit.get("rows", [])
           if row["direction"] == faster["direction"] and row["impossible"] is None and row["theirs"]}  # fmt: skip
    return [{"case": case, "time_ns": of[0]["time_ns"], "share": own.get(case), "against": of}
            for case, of in lines.items()]  # fmt: skip


def _training(step: Mapping[str, Any]) -> list[RenderableType]:
    table = Table(title=f"Training {step['workload']} {step['scale']} to its target, {step['pairs']} pairs of runs",
                  title_justify="left", box=SIMPLE, pad_edge=False)  # fmt: skip
    for heading in ("", "without", "with", "with / without", "verdict"):
        table.add_column(heading, no_wrap=True)
    for name, values, line in training_rows(step):
        table.add_row(name, *values, interval(line), Text(line["verdict"], style=_STYLES.get(line["verdict"], "")))
    kept = f"Records: {step['records'][0]} without, {step['records'][1]} with the kernel."
    said = [kept] + ([f"Reference points: {step['reference']['reason']}."] if step["reference"]["reason"] else [])
    return [table, *(Text(line, style="dim") for line in said)]


def training_rows(step: Mapping[str, Any]) -> list[tuple[str, list[str], Mapping[str, Any]]]:
    """(name, figures without and with, verdict), last against the reference points where there are any."""
    found, reference = step["comparison"], step["reference"]
    shown = {"time_to_train": figures.seconds, "samples_to_target": figures.count, "time_per_sample": figures.seconds}
    rows = [(name.replace("_", " "), [show(value) for value in found[f"{name}_s" if "time" in name else name]],
             found["lines"][name]) for name, show in shown.items()]  # fmt: skip
    if reference["with"]:
        rows.append((f"samples, of {reference['seeds']} reference seeds", ["", ""], reference["with"]))
    return rows
