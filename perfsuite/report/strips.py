"""Values over the seconds of a run as strips below each other, all over the same seconds."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from perfsuite.report.charts import Chart, hue, plain

_HEIGHT, _GAP = 104, 34
SENSORS = ("W", "MHz", "C")
"""Units of what the power section shows: power, clocks, temperatures."""


class Strip(NamedTuple):
    """One strip: its title, its unit, and one line of values a name."""

    title: str
    unit: str
    lines: dict[str, Sequence[float | None]]


def series(account: dict[str, Any]) -> Chart | None:
    """What the sampler saw over the pass, but for what the power section shows: one strip a column."""
    order = ("cpu", "rss", "gpu")
    found = sampled(account, lambda unit: unit not in SENSORS)
    found.sort(key=lambda strip: next((i for i, word in enumerate(order) if word in strip.title), len(order)))
    return chart(account["series"]["t_s"], found) if found else None


def sampled(account: dict[str, Any], wanted: Callable[[str], bool]) -> list[Strip]:
    """A strip for each column of the sampler whose unit is `wanted` and of which anything was read."""
    measured = account["series"]
    if not measured:
        return []
    units = {name: measured["units"].get(name, "") for name in measured["columns"]}
    return [
        Strip(_title(name, units[name]), units[name], {"": values})
        for name, values in measured["columns"].items()
        if wanted(units[name]) and any(value is not None for value in values)
    ]


def _title(name: str, unit: str) -> str:
    """What a column is called above its strip: "rss_mb" in MB is "rss"."""
    words = name.removesuffix("_per_s").split("_")
    if len(words) > 1 and words[-1] == unit.lower():
        words.pop()
    return " ".join(words)


def chart(t_s: Sequence[float], strips: Sequence[Strip]) -> Chart:
    """The strips as one chart. A unit "share" is shown in percent."""
    total = len(strips) * (_HEIGHT + _GAP)
    data, layout = [], {"margin": {"t": 24, "b": 44}, "showlegend": False, "annotations": []}
    for index, strip in enumerate(strips):
        axis = "" if index == 0 else str(index + 1)
        top = 1 - index * (_HEIGHT + _GAP) / total
        unit, scale = ("%", 100.0) if strip.unit == "share" else (strip.unit, 1.0)
        right = 0
        for name, values in strip.lines.items():
            colour = hue(len(data))
            data.append({
                "type": "scatter", "mode": "lines", "x": list(t_s),
                "y": [None if value is None else value * scale for value in values],
                "xaxis": "x", "yaxis": f"y{axis}", "line": {"color": colour, "width": 1.5}, "connectgaps": False,
                "fill": "tozeroy" if len(strip.lines) == 1 else "none", "fillcolor": f"{colour}/18",
                "hovertemplate": f"{plain(name)} %{{y:.3~s}} {plain(unit)} at %{{x:.2f}} s<extra></extra>",
            })  # fmt: skip
            if len(strip.lines) > 1:  # the names of the lines, in their colours, from the right end of the title's row
                layout["annotations"].append(_label(name, 1, top, colour) | {"xanchor": "right", "xshift": -right})
                right += 8 * len(name) + 10
        layout[f"yaxis{axis}"] = {"domain": [max(0.0, top - _HEIGHT / total), top], "rangemode": "tozero", "nticks": 4,
                                  "exponentformat": "SI"}  # fmt: skip
        layout["annotations"].append(_label(f"{strip.title}, {unit}" if unit else strip.title, 0, top, "--fg"))
    last = "" if len(strips) == 1 else str(len(strips))
    layout["xaxis"] = {"title": {"text": "seconds since run start"}, "anchor": f"y{last}"}
    return {"views": {"series": {"data": data, "layout": layout}}, "height": total + 68}


def _label(text: str, x: float, y: float, colour: str) -> dict[str, Any]:
    return {
        "xref": "paper", "yref": "paper", "x": x, "y": y, "xanchor": "left", "yanchor": "bottom",
        "showarrow": False, "text": plain(text), "font": {"color": colour},
    }  # fmt: skip
