"""A history as one page: what changed in a table on top, and a small chart for each series."""

import math
from datetime import UTC, datetime
from statistics import median
from typing import Any

from perfsuite.report.charts import Chart, plain
from perfsuite.report.compare_text import interval
from perfsuite.report.markup import Cell, Markup, draw, join, number, paragraph, section, table, tag, text
from perfsuite.report.page import page
from perfsuite.report.track_text import figure, notes, ordered, title

HUES = {"real, slower": "--hue-5", "real, faster": "--hue-3", "machine changed": "--hue-1",
        "harness changed": "--hue-4", "noise": "--muted"}  # fmt: skip
_HEIGHT = 168
_MOST_STEADY = 60
"""Charts of series that did not change; the browser draws about 20 a second."""
_LEAST_SPREAD = 0.08
"""Half the height of a chart, relative: noise of 1 % must not look like a mountain range."""


def render(found: dict[str, Any]) -> str:
    """What perfsuite.track.track() returned as an HTML document."""
    drawn: dict[str, Chart] = {}
    rows = ordered(found["series"])
    several = len(found["machines"]) > 1
    changed, steady = ([r for r in rows if bool(r["changes"]) is kind] for kind in (True, False))
    parts = [_answer(found, changed)]
    if changed:
        parts.append(section("changes", "Changes", _table(changed, several)))
        parts.append(section("changed", "Series that changed", _key(), _charts(changed, several, drawn)))
    if steady:
        shown = steady[:_MOST_STEADY]
        hidden = len(steady) - len(shown)
        more = [paragraph(f"{hidden} more did not change and are not drawn.", "absent")] if hidden else []
        parts.append(section("steady", "Series without a change", _charts(shown, several, drawn), *more))
    said = [tag("li", line) for line in notes(found, most=100)]
    if said:
        parts.append(section("notes", "Notes", tag("ul", join(said))))
    return page(text("Benchmarks over commits"), join(parts, "\n"), drawn)


def _answer(found: dict[str, Any], changed: list[dict[str, Any]]) -> Markup:
    failing, count = sum(row["failing"] for row in found["series"]), len(found["series"])
    answer = f"{failing} of {count} series stand slower" if failing else f"No slow-down stands in {count} series"
    machines = ", ".join(found["machines"])
    kicker = join([tag("strong", "Benchmarks over commits"), f" {machines}; {found['files']} files"])
    kinds = [_kind(change) for row in changed for change in row["changes"]]
    counted = "; ".join(f"{kinds.count(kind)} {kind}" for kind in HUES if kind in kinds)
    under = paragraph(f"Changes found: {counted}." if counted else "No change was found.", "quiet")
    headline = tag("h1", answer, class_="missed" if failing else None)
    return tag("header", join([paragraph(kicker, "kicker"), headline, under]))


def _table(rows: list[dict[str, Any]], several: bool) -> Markup:
    columns = [("benchmark", False), ("latest", True), ("against first", True), ("at", False), ("change (95 %)", False),
               ("verdict", False), ("class, and what says so", False)]  # fmt: skip
    lines = []
    for row in rows:
        name = tag("a", _named(row, several), href=f"#{_anchor(row)}")
        for i, change in enumerate(reversed(row["changes"])):
            first = [name, number(row["latest"], figure(row["latest"], row["unit"])),
                     number(row["ratio"], f"{row['ratio']:.3g}x")] if i == 0 else [Cell("")] * 3  # fmt: skip
            word = tag("span", change["verdict"], class_="no" if change["failing"] else None)
            kind = join([_class(_kind(change), change["class"]), tag("small", change["evidence"], class_="under")])
            size = tag("span", interval(change), class_="entry")
            lines.append([*first, tag("code", change["name"]), size, word, kind])
    return table(columns, lines, "track")


def _charts(rows: list[dict[str, Any]], several: bool, drawn: dict[str, Chart]) -> Markup:
    figures = []
    for row in rows:
        name = f"series-{len(drawn)}"
        said = [figure(row["latest"], row["unit"]), f"{len(row['points'])} points"]
        if row["changes"]:
            said.append(f"{row['ratio']:.3g}x of the first")
        head = tag("figcaption", join([tag("b", _named(row, several)), tag("small", ", ".join(said))]))
        place = draw(name, chart(row), drawn, f"{title(row)} over commits")
        figures.append(tag("figure", join([head, place]), id=_anchor(row)))
    return tag("div", join(figures), class_="multiples")


def chart(row: dict[str, Any]) -> Chart:
    """The points of a series, the level of each stretch, and a mark at each change."""
    points, count = row["points"], len(row["points"])
    values = [p["value"] for p in points]
    unit = row["unit"]
    data = [{
        "type": "scatter", "mode": "lines+markers" if count < 400 else "lines", "x": list(range(count)), "y": values,
        "line": {"color": "--muted/45", "width": 1}, "marker": {"color": "--muted", "size": 4},
        "text": [_hover(p, unit) for p in points], "hovertemplate": "%{text}<extra></extra>",
    }]  # fmt: skip
    for level in row["levels"]:
        data.append({
            "type": "scatter", "mode": "lines", "x": [level["first"] - 0.4, level["stop"] - 0.6],
            "y": [level["median"]] * 2, "line": {"color": "--fg", "width": 2}, "hoverinfo": "skip",
        })  # fmt: skip
    shapes = []
    for change in row["changes"]:
        hue = HUES[_kind(change)]
        shapes.append({"type": "line", "xref": "x", "yref": "paper", "x0": change["index"] - 0.5, "y0": 0, "y1": 1,
                       "x1": change["index"] - 0.5, "line": {"color": hue, "width": 1.5, "dash": "dot"}})  # fmt: skip
        data.append({
            "type": "scatter", "mode": "markers", "x": [change["index"]], "y": [values[change["index"]]],
            "marker": {"color": hue, "size": 11, "symbol": "triangle-up" if change["ratio"] > 1 else "triangle-down"},
            "text": [_told(change)], "hovertemplate": "%{text}<extra></extra>",
        })  # fmt: skip
    layout = {
        "showlegend": False, "shapes": shapes, "margin": {"l": 54, "r": 10, "t": 6, "b": 26}, "hovermode": "closest",
        "annotations": [_end(points, 0, "left"), _end(points, count - 1, "right")] if count > 1 else [],
        "xaxis": {"range": [-0.8, count - 0.2], "showgrid": False, "showticklabels": False, "ticks": ""},
        "yaxis": {"range": _range(values), "nticks": 5, "tickformat": "~s", "ticksuffix": unit},
    }  # fmt: skip
    return {"views": {"history": {"data": data, "layout": layout}}, "height": _HEIGHT}


def _end(points: list[dict[str, Any]], index: int, side: str) -> dict[str, Any]:
    """The name of the first or the last commit, under its end of the axis."""
    return {"xref": "paper", "yref": "paper", "x": 0 if side == "left" else 1, "y": 0, "xanchor": side,
            "yanchor": "top", "yshift": -3, "showarrow": False, "text": plain(points[index]["name"], 18),
            "font": {"color": "--muted", "size": 11}}  # fmt: skip


def _range(values: list[float]) -> list[float]:
    middle, low, high = median(values), min(values), max(values)
    low, high = min(low, middle * (1 - _LEAST_SPREAD)), max(high, middle * (1 + _LEAST_SPREAD))
    pad = 0.06 * (high - low)
    return [low - pad, high + pad]


def _hover(point: dict[str, Any], unit: str) -> str:
    when = datetime.fromtimestamp(point["time"], UTC).strftime("%Y-%m-%d %H:%M") if _sane(point["time"]) else ""
    repeats = f", median of {len(point['repeats'])}" if len(point["repeats"]) > 1 else ""
    return f"{plain(point['name'])}<br>{plain(figure(point['value'], unit))}{repeats}<br>{when}"


def _sane(time_s: float) -> bool:
    return math.isfinite(time_s) and 0 <= time_s < 253402300800  # the year 10000


def _told(change: dict[str, Any]) -> str:
    """A hover label is narrow: the evidence is broken into lines."""
    words, lines = change["evidence"].split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 48:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    told = "<br>".join(plain(line) for line in lines[:5])
    return f"{plain(change['name'])}: {plain(change['class'])}<br>{plain(interval(change))}<br>{told}"


def _named(row: dict[str, Any], several: bool) -> str:
    return f"{title(row)} ({row['machine']})" if several else title(row)


def _anchor(row: dict[str, Any]) -> str:
    """A name that is the same in every page of the same series, so that links last."""
    import hashlib

    said = "\0".join((row["benchmark"], row["quantity"], row["machine"]))
    return f"b-{hashlib.sha256(said.encode()).hexdigest()[:12]}"


def _kind(change: dict[str, Any]) -> str:
    """What decides the colour of a change."""
    if change["class"] == "real":
        return "real, slower" if change["ratio"] > 1 else "real, faster"
    return change["class"]


def _class(kind: str, shown: str) -> Markup:
    key = tag("span", "", class_="key", style=f"background:var({HUES[kind]})")
    return tag("span", join([key, shown]), class_="entry")


def _key() -> Markup:
    shown = join([_class(kind, kind) for kind in HUES])
    said = " Triangles point up where it takes longer; lines are the medians of each stretch."
    return paragraph(join([shown, said]), "quiet")
