"""A sweep over batch sizes as one page: the three curves on logarithmic axes, with intervals, and the tables."""

import math
from typing import Any

from perfsuite.report.charts import Chart, plain
from perfsuite.report.compare_text import interval
from perfsuite.report.figures import count, seconds
from perfsuite.report.markup import Markup, draw, join, number, paragraph, section, table, tag, text
from perfsuite.report.page import page
from perfsuite.report.sweep_text import LINES, critical, interval_key, notes, reached, shortest, with_interval, word

CURVES = (
    ("time_to_train_s", "time_s", "time to train", "s", seconds),
    ("samples_to_target", "samples", "samples to target", "samples", count),
    ("time_per_sample_s", "time_per_sample_s", "time per sample", "s", seconds),
)
"""Figure of a row, figure of a run, name, unit, how it is shown."""
_WORDS = {"FASTER": "yes", "SLOWER": "no"}
_CURVE_POINTS = 60
_MOST_REACH = 4
"""An interval is drawn to so many times its middle: three runs may have one that reaches to 0."""


def render(found: dict[str, Any]) -> str:
    """What perfsuite.sweep_account.account() returned as an HTML document."""
    drawn: dict[str, Chart] = {}
    parts = [
        _header(found),
        section("curves", "Against the batch size", *_curves(found, drawn)),
        section("sizes", "Each batch size", _sizes(found["batch_sizes"])),
        section("steps", "Each step up", *_steps(found["steps"])),
        section("notes", "Notes", tag("ul", join(tag("li", line) for line in notes(found)))),
    ]
    title = " ".join((found["workload"], found["scale"], "over batch sizes"))
    return page(text(title), join(parts, "\n"), drawn)


def _header(found: dict[str, Any]) -> Markup:
    best = found["best"]
    what = " ".join((found["workload"], found["scale"], "on", found["device"], "over batch sizes"))
    kicker = paragraph(join([tag("strong", what), " ", tag("span", found["id"])]), "kicker")
    answer = best["answer"][0].upper() + best["answer"][1:]
    said = shortest(found)
    headline = tag("h1", answer, class_="missed" if best["batch_size"] is None else None)
    shown = [kicker, headline, paragraph(said[0].upper() + said[1:] + ".", "limits") if said else ""]
    return tag("header", join([*shown, paragraph(critical(found["critical_batch_size"]) + ".", "quiet")]))


def _curves(found: dict[str, Any], drawn: dict[str, Chart]) -> list[Markup]:
    figures = []
    for key, of_run, name, unit, show in CURVES:
        head = tag("figcaption", join([tag("b", name), tag("small", "95 % intervals; small marks are runs")]))
        place = draw(key, _chart(found, key, of_run, unit, show), drawn, f"{name} against the batch size")
        figures.append(tag("figure", join([head, place])))
    said = ("Time to train is samples to target times time per sample. A larger batch takes less time per sample and, "
            "beyond some size, more samples.")  # fmt: skip
    missed = [row["batch_size"] for row in found["batch_sizes"] if row["num_reached"] < row["num_runs"]]
    more = " Triangles: runs that did not reach the target would have taken more than that." if missed else ""
    more += " Dashed: S_min (1 + B / B_crit)." if found["critical_batch_size"]["value"] is not None else ""
    return [paragraph(said + more), tag("div", join(figures), class_="multiples")]


def _chart(found: dict[str, Any], key: str, of_run: str, unit: str, show: Any) -> Chart:
    rows = found["batch_sizes"]
    censored = of_run != "time_per_sample_s"
    data = [_runs(rows, of_run, show, True), _runs(rows, of_run, show, False)] if censored else [
        _runs(rows, of_run, show, None)]  # fmt: skip
    fit = found["critical_batch_size"]
    if key == "samples_to_target" and fit["value"] is not None:
        data.append(_fitted(fit, rows))
    data.append(_middles([row for row in rows if row[key] is not None], key, show))
    # plotly cannot place a logarithmic axis by itself where nothing was measured.
    values = [y for trace in data for y in trace["y"]]
    ends = [y for row in rows if row[key] is not None for y in _drawn_interval(row, key)]
    sizes = [row["batch_size"] for row in rows]
    layout = {
        "showlegend": False, "hovermode": "closest", "margin": {"l": 64, "r": 10, "t": 8, "b": 40},
        "xaxis": {"type": "log", "title": {"text": "batch size"}, "tickvals": sizes, "ticktext": list(map(str, sizes)),
                  "range": _range(sizes)},
        "yaxis": {"type": "log", "range": _range([*values, *ends]), "tickformat": "~s", "ticksuffix":
                  "" if unit == "samples" else unit, "nticks": 6},
    }  # fmt: skip
    return {"views": {key: {"data": data, "layout": layout}}, "height": 280}


def _runs(rows: list[dict[str, Any]], of_run: str, show: Any, whether: bool | None) -> dict[str, Any]:
    """The runs that reached the target (True), that did not (False), or all."""
    kept = [(row["batch_size"], run) for row in rows for run in row["runs"]
            if run[of_run] and whether in (None, run["reached"])]  # fmt: skip
    at_least = whether is False
    return {
        "type": "scatter", "mode": "markers", "x": [size for size, _ in kept], "y": [run[of_run] for _, run in kept],
        "marker": {"color": "--hue-5" if at_least else "--muted", "size": 8 if at_least else 5,
                   "symbol": "triangle-up-open" if at_least else "circle-open"},
        "text": [plain(f"seed {run['seed']}: {'over ' if at_least else ''}{show(run[of_run])}") for _, run in kept],
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _middles(rows: list[dict[str, Any]], key: str, show: Any) -> dict[str, Any]:
    ends = [_drawn_interval(row, key) for row in rows]
    return {
        "type": "scatter", "mode": "lines+markers", "x": [row["batch_size"] for row in rows],
        "y": [row[key] for row in rows], "line": {"color": "--hue-1", "width": 2},
        "marker": {"color": "--hue-1", "size": 8},
        "error_y": {"type": "data", "symmetric": False, "color": "--hue-1", "thickness": 1.5, "width": 5,
                    "array": [high - row[key] for row, (_, high) in zip(rows, ends, strict=True)],
                    "arrayminus": [row[key] - low for row, (low, _) in zip(rows, ends, strict=True)]},
        "text": [f"batch size {row['batch_size']}: {plain(with_interval(row, key, show))}" for row in rows],
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _drawn_interval(row: dict[str, Any], key: str) -> tuple[float, float]:
    low, high = row[interval_key(key)] or (row[key], row[key])
    return max(low, row[key] / _MOST_REACH), min(high, row[key] * _MOST_REACH)


def _fitted(fit: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """S_min (1 + B / B_crit), on top of it the half interval between evaluations that runs end late by."""
    first, last = rows[0]["batch_size"], rows[-1]["batch_size"]
    x = [first * (last / first) ** (i / _CURVE_POINTS) for i in range(_CURVE_POINTS + 1)]
    half = rows[0]["evaluation_interval_samples"] / 2
    y = [fit["samples_min"] * (1 + size / fit["value"]) + half for size in x]
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "hoverinfo": "skip",
            "line": {"color": "--hue-2", "width": 1.5, "dash": "dash"}}  # fmt: skip


def _range(values: list[float]) -> list[float]:
    low, high = (math.log10(end(values)) for end in (min, max)) if values else (0.0, 1.0)
    pad = 0.06 * (high - low) + 0.02
    return [low - pad, high + pad]


def _sizes(rows: list[dict[str, Any]]) -> Markup:
    cells = [
        [row["batch_size"],
         *(number(row[key], with_interval(row, key, show), row["reason"]) for key, _, _, _, show in CURVES),
         reached(row), tag("code", row["record"])]
        for row in rows
    ]  # fmt: skip
    return table([("batch size", True), *((name, True) for _, _, name, _, _ in CURVES), ("reached", True),
                  ("record", False)], cells)  # fmt: skip


def _steps(steps: list[dict[str, Any]]) -> list[Markup]:
    rows = [[f"{step['from']} to {step['to']}", *(_verdict(key, step[key]) for key in LINES)] for step in steps]
    said = "Ratios of the larger to the smaller batch size, of pairs of runs of one seed; below 1: less."
    return [paragraph(said), table([("step", False), *((name, False) for name in LINES.values())], rows)]


def _verdict(key: str, line: dict[str, Any]) -> Markup:
    said = tag("span", word(key, line), class_=_WORDS.get(line["verdict"], "quiet"))
    unsure = line["verdict"] == "CANNOT_TELL" or line["ratio"] is None
    return join([interval(line), " ", said, tag("small", line["why"], class_="under") if unsure else ""])
