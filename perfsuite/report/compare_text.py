"""A comparison on one screen of a terminal, 100 columns wide. Never imports torch."""

from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from perfsuite.report.figures import seconds, si

_STYLES = {"FASTER": "green", "SLOWER": "red", "SAME": "green", "CANNOT_TELL": "yellow"}
_LESS = {"FASTER": "LESS", "SLOWER": "MORE"}
"""The same two words where not time is compared."""
_MOST_LINES = 12


def render(found: dict[str, Any]) -> RenderableType:
    """What perfsuite.compare.compare() returned."""
    parts: list[RenderableType] = [_headline(found), _factors(found)]
    if found["drift"]["reason"]:
        parts.append(Text(f"Drift of the machine: {found['drift']['reason']}."))
    elif not found["interleaved"]:
        parts.append(Text(f"Intervals are widened by {100 * (found['drift']['factor'] - 1):.1f} %: what the machine's "
                          "yardsticks changed by between the sittings.", style="dim"))  # fmt: skip
    parts.append(_split("Time per sample by phase", found["phases"]))
    parts.append(_split("and by op, in the ledger passes", found["ops"]))
    parts += [Text(f"Differs: {line}") for line in found["differences"]]
    parts += [Text(f"Ignored, as asked: {line}", style="yellow") for line in found["ignored"]]
    return Group(*parts)


def interval(line: dict[str, Any]) -> str:
    """E.g. "0.93x (0.90 to 0.96)"; empty where there is no ratio."""
    if line["ratio"] is None:
        return ""
    reach = f" ({line['ci95'][0]:.3g} to {line['ci95'][1]:.3g})" if line["ci95"] else ""
    return f"{line['ratio']:.3g}x{reach}"


def _headline(found: dict[str, Any]) -> Text:
    text = Text()
    text.append(found["verdict"], style=f"bold {_STYLES[found['verdict']]}")
    text.append(f"  B takes {interval(found)} the time of A to train" if found["ratio"] else "")
    text.append(f"\n{found['why']}")
    for side in ("a", "b"):
        about = found[side]
        use = "".join(f" --use {op}={impl}" for op, impl in about["use"].items())
        commit = f", commit {about['commit'][:12]}" if about["commit"] else ""
        how = f"{about['runs']} runs, --ops {about['ops']}{use}{commit}"
        text.append(f"\n{side.upper()}: {', '.join(about['records'])}, {how}", style="dim")
    return text


def _factors(found: dict[str, Any]) -> RenderableType:
    table = Table(box=SIMPLE, pad_edge=False)
    for heading in ("", "A", "B", "B / A (95 %)", "verdict"):
        table.add_column(heading, justify="right" if heading in "AB" and heading else "left", no_wrap=True)
    notes = []
    rows = [("time to train", found["time_to_train_s"], seconds, found["lines"]["time_to_train"]),
            ("= samples to target", found["samples_to_target"], "{:,.0f}".format, found["lines"]["samples_to_target"]),
            ("x time per sample", found["time_per_sample_s"], seconds, found["lines"]["time_per_sample"]),
            ("energy", found["energy"]["joules"], lambda x: si(x, "J"), found["energy"]),
            ("peak memory", found["memory"]["peak_bytes"], lambda x: si(x, "B"), found["memory"])]  # fmt: skip
    for name, values, shown, line in rows:
        word = line["verdict"]
        said = _LESS.get(word, word) if name in ("energy", "peak memory") else word
        table.add_row(name, *("" if x is None else shown(x) for x in values), interval(line),
                      Text(said, style=_STYLES[word]))  # fmt: skip
        if word == "CANNOT_TELL":
            notes.append(Text(f"{name.lstrip('=x ')}: {line['why']}", style="dim"))
    return Group(table, *notes)


def _split(title: str, split: dict[str, Any]) -> RenderableType:
    if split["reason"]:
        return Text(f"{title}: not known, {split['reason']}.")
    table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="ellipsis", no_wrap=True, max_width=34)
    for heading in ("A", "B", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("B / A", no_wrap=True)
    table.add_column("verdict", overflow="ellipsis", no_wrap=True)
    lines, rest = split["lines"][:_MOST_LINES], split["lines"][_MOST_LINES:]
    for line in lines:
        word = line["verdict"] or ""
        said = line["why"] if word == "CANNOT_TELL" and not line["ratio"] else word
        shown = Text(said, style=_STYLES.get(word, "dim"))
        table.add_row(line["name"], seconds(line["a_s"]), seconds(line["b_s"]), _signed(line["delta_s"]),
                      interval(line), shown)  # fmt: skip
    if rest:
        sums = [sum(line[key] for line in rest) for key in ("a_s", "b_s", "delta_s")]
        table.add_row(f"{len(rest)} more", seconds(sums[0]), seconds(sums[1]), _signed(sums[2]), "", "", style="dim")
    a, b = split["total_s"]
    table.add_row("in all", seconds(a), seconds(b), _signed(b - a), f"{b / a:.3g}x" if a else "", "", style="bold")
    return table


def _signed(value_s: float) -> str:
    return f"{'-' if value_s < 0 else '+'}{seconds(abs(value_s))}"
