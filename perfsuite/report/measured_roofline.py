"""The hierarchical roofline of replayed kernels: a mark for each kernel at each level, from counted bytes and ops."""

from typing import Any

from perfsuite.report import charts, names
from perfsuite.report.charts import Chart, hue, plain
from perfsuite.report.figures import si, significant
from perfsuite.report.markup import Markup, draw, paragraph, tag

_TITLE = tag("h3", "Roofline of measured bytes")


def section(account: dict[str, Any], counters: dict[str, Any], drawn: dict[str, Chart]) -> list[Markup]:
    """A sentence and the chart, or why there is none."""
    rows = [row for row in counters.get("roofline") or [] if row["intensity_ops_per_byte"] and row["ops_per_s"]]
    if not rows:
        replay = counters.get("replay") or {}
        reason = replay.get("reason") or "bytes and tensor operations are known together for no kernel"
        return [_TITLE, paragraph(f"There is no roofline of measured bytes: {reason}.", "absent")]
    said = (
        "Kernels by what the counters saw, not by a model: each has a mark at every level, at its operations for each "
        "byte that passed there. The nearer a mark is to the roof of its own level, the more that level limits it."
    )
    return [_TITLE, paragraph(said), draw("measured-roofline", _chart(account, counters, rows), drawn,
                                  "kernels under the roofs of this device, by measured bytes")]  # fmt: skip


def _chart(account: dict[str, Any], counters: dict[str, Any], rows: list[dict[str, Any]]) -> Chart:
    levels = list(dict.fromkeys(row["level"] for row in rows))
    intensities = [row["intensity_ops_per_byte"] for row in rows]
    rates, peaks = _ceilings(account, counters, levels)
    data, labels = charts.roofs(rates, peaks, min(intensities) / 8, max(intensities) * 4, "op/s", 1e12)
    for index, level in enumerate(levels):
        mine = [row for row in rows if row["level"] == level]
        data.append({
            "type": "scatter", "mode": "markers", "name": plain(f"at {level}"),
            "x": [row["intensity_ops_per_byte"] for row in mine], "y": [row["ops_per_s"] / 1e12 for row in mine],
            "marker": {"color": hue(index), "opacity": 0.8, "size": 10, "line": {"color": "--card", "width": 1}},
            "customdata": [_hover(row) for row in mine], "hovertemplate": "%{customdata}<extra></extra>",
        })  # fmt: skip
    layout = {
        "xaxis": {"type": "log", "title": {"text": "measured intensity, operations per byte"}, "dtick": 1},
        "yaxis": {"type": "log", "title": {"text": "10¹² operations/s"}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}, "margin": {"t": 40, "r": 16},
        "hovermode": "closest", "annotations": labels,
    }  # fmt: skip
    return {"views": {"roofline": {"data": data, "layout": layout}}, "height": 440}


def _ceilings(account: dict[str, Any], counters: dict[str, Any],
              levels: list[str]) -> tuple[dict[str, float], dict[str, float]]:  # fmt: skip
    """Measured bytes/s of the levels shown and the measured dense peak, of those that are known."""
    mfu = account.get("mfu") or {}
    peak = mfu.get("peak_flops_per_s")
    rates = {
        level["name"]: level["ceiling_bytes_per_s"]
        for level in counters["levels"]
        if level["name"] in levels and level["ceiling_bytes_per_s"]
    }
    return rates, {f"{mfu['dtype']} GEMM": peak} if peak else {}


def _hover(row: dict[str, Any]) -> str:
    lines = [
        f"<b>{plain(names.kernel(row['kernel'], 60))}</b>",
        plain(row["op"] or "outside all ops"),
        f"{si(row['ops_per_s'], 'op/s')}, {significant(row['intensity_ops_per_byte'])} operations a byte at "
        f"{plain(row['level'])}",
    ]
    return "<br>".join(lines)
