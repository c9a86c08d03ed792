"""The hierarchical roofline of replayed kernels: a mark for each kernel at each level, from counted bytes and ops."""

import math
from typing import Any

from perfsuite.report import charts, names
from perfsuite.report.charts import Chart, hue, plain
from perfsuite.report.figures import percent, seconds, si, significant
from perfsuite.report.markup import Markup, draw, paragraph, tag

_TITLE = tag("h3", "Roofline of measured bytes")


def section(counters: dict[str, Any], drawn: dict[str, Chart]) -> list[Markup]:
    """A sentence and the chart, or why there is none."""
    rows = [row for row in counters.get("roofline") or [] if row["intensity_ops_per_byte"] and row["ops_per_s"]]
    if not rows:
        replay = counters.get("replay") or {}
        reason = replay.get("reason") or "bytes and tensor operations are known together for no kernel"
        return [_TITLE, paragraph(f"There is no roofline of measured bytes: {reason}.", "absent")]
    said = (
        "Kernels by what the counters saw, not by a model: each has a mark at every level, at its operations for each "
        "byte that passed there, the larger the longer it ran. The nearer a mark is to the roof of its own level, the "
        "more that level limits it."
    )
    return [_TITLE, paragraph(said), draw("measured-roofline", _chart(rows), drawn,
                                  "kernels under the roofs of this device, by measured bytes")]  # fmt: skip


def _chart(rows: list[dict[str, Any]]) -> Chart:
    levels = list(dict.fromkeys(row["level"] for row in rows))
    intensities = [row["intensity_ops_per_byte"] for row in rows]
    longest = max(row["time_s"] for row in rows)
    # The roof of a level is for the mix of reads and writes of each kernel: the best one is drawn.
    rates = {
        level: max(row["bandwidth_bytes_per_s"] or 0.0 for row in rows if row["level"] == level) for level in levels
    }
    peak = max(row["peak_ops_per_s"] or 0.0 for row in rows)
    data, labels = charts.roofs({level: rate for level, rate in rates.items() if rate}, {"GEMM": peak} if peak else {},
                                min(intensities) / 8, max(intensities) * 4, "op/s", 1e12)  # fmt: skip
    for index, level in enumerate(levels):
        mine = [row for row in rows if row["level"] == level]
        data.append({
            "type": "scatter", "mode": "markers", "name": plain(f"at {level}"),
            "x": [row["intensity_ops_per_byte"] for row in mine], "y": [row["ops_per_s"] / 1e12 for row in mine],
            "marker": {"color": hue(index), "opacity": 0.8, "line": {"color": "--card", "width": 1},
                       "size": [6 + 18 * (row["time_s"] / longest) ** 0.5 for row in mine]},
            "customdata": [_hover(row) for row in mine], "hovertemplate": "%{customdata}<extra></extra>",
        })  # fmt: skip
    ticks = _ticks([y for trace in data for y in trace["y"]])
    layout = {
        "xaxis": {"type": "log", "title": {"text": "measured intensity, operations per byte"}, "dtick": 1},
        "yaxis": {"type": "log", "title": {"text": "10¹² operations/s"}, **ticks},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}, "margin": {"t": 40, "r": 16},
        "hovermode": "closest", "annotations": labels,
    }  # fmt: skip
    return {"views": {"roofline": {"data": data, "layout": layout}}, "height": 440}


def _ticks(values: list[float]) -> dict[str, Any]:
    """1, 2 and 5 of every decade, in full: on a short logarithmic axis plotly leaves out the zeros."""
    decades = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    return {"tickmode": "array", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _hover(row: dict[str, Any]) -> str:
    roof = row["ceiling_ops_per_s"]
    lines = [
        f"<b>{plain(names.kernel(row['kernel'], 60))}</b>",
        plain(f"{row['op'] or 'outside all ops'}, {row['phase'] or 'in no phase'}, {seconds(row['time_s'])}"),
        f"{si(row['ops_per_s'], 'op/s')}, {significant(row['intensity_ops_per_byte'])} operations a byte at "
        f"{plain(row['level'])}",
        f"{percent(row['ops_per_s'] / roof)} of the roof there" if roof else "the roof there was not measured",
    ]
    return "<br>".join(lines)
