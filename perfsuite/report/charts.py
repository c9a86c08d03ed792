"""The page's charts as plain plotly specifications: convergence and roofline.

A chart is {"views": {name: {"data", "layout"}}}; the page shows the first view and switches between them. Colours are
names of the page's CSS properties ("--run-1", or "--run-1/40" for 40 % of it on the background), which the page puts in
for light and dark. Every label that comes from a record goes through `plain`: plotly reads a little HTML.
"""

import html
import math
from typing import Any

from perfsuite.report import figures, op_times
from perfsuite.report.figures import count, percent, seconds, si
from perfsuite.report.optional import on_gpu
from perfsuite.roofline import ceilings_for

Chart = dict[str, Any]
PALETTE = 8
MAX_MARKERS = 400
BOUNDS = {"compute": "--hue-1", "memory": "--hue-2", "overhead": "--hue-3", None: "--muted"}


def plain(text: object, limit: int = 90) -> str:
    """Text that plotly shows as it is, cut where it would not fit."""
    text = str(text)
    return html.escape(text if len(text) <= limit else text[: limit - 1] + "…", quote=False)


def hue(index: int) -> str:
    """The index-th colour of a series of things."""
    return f"--hue-{index % PALETTE + 1}"


def convergence(account: dict[str, Any]) -> Chart | None:
    """Quality at every evaluation of every run, against the target; over samples and over seconds."""
    score, target = account["score"], account["target"]
    runs = [run for run in (score["runs"] if score else []) if run["evaluations"]]
    if not runs:
        return None
    unit = f"{target['metric']}, {target['unit']}" if target else "quality"
    views = {
        "samples": _convergence_view(runs, target, "samples", "samples trained on", unit),
        "seconds": _convergence_view(runs, target, "time_s", "seconds since run start", unit),
    }
    return {"views": views, "height": 360}


def _convergence_view(runs: list[dict], target: dict | None, key: str, x_title: str, y_title: str) -> dict[str, Any]:
    data = []
    for index, run in enumerate(runs):
        points = [p for p in run["evaluations"] if p["quality"] is not None]
        outcome = "reached" if run["reached"] else "not reached"
        name = f"seed {run['seed']}" + ("" if run["reached"] else " (not reached)")
        data.append({
            "type": "scatter", "mode": "lines+markers", "name": name,
            "x": [p[key] for p in points], "y": [p["quality"] for p in points],
            "line": {"color": hue(index), "width": 2, "dash": "solid" if run["reached"] else "dot"},
            "marker": {"size": [5] * (len(points) - 1) + [10], "color": hue(index),
                       "symbol": ["circle"] * (len(points) - 1) + ["circle" if run["reached"] else "x"]},
            "customdata": [f"seed {run['seed']}, {outcome}<br>{p['quality']:.4g} after {count(p['samples'])} samples, "
                           f"{seconds(p['time_s'])}" for p in points],
            "hovertemplate": "%{customdata}<extra></extra>",
        })  # fmt: skip
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": x_title}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": plain(y_title, 40)}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"t": 40},
    }
    if target:
        layout["shapes"] = [{
            "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": target["value"], "y1": target["value"],
            "line": {"color": "--good", "width": 1.5, "dash": "dash"},
        }]  # fmt: skip
        layout["annotations"] = [{
            "xref": "paper", "x": 1, "y": target["value"], "xanchor": "right", "yanchor": "bottom", "showarrow": False,
            "text": plain(f"target {figures.sign(target)} {target['value']:g}"), "font": {"color": "--good"},
        }]  # fmt: skip
    return {"data": data, "layout": layout}


def roofline(account: dict[str, Any]) -> tuple[Chart | None, str]:
    """The hierarchical roofline of the pass, and a sentence that says what is and what is not on it."""
    ceilings, reason = ceilings_of(account)
    if not ceilings:
        return None, f"No roofline: {reason}."
    ops = account["ledger"]["ops"] if account["ledger"] else []
    if not ops:
        return None, "No roofline: no op was recorded in this pass."
    if all(op["work_time_s"] is None for op in ops):
        return None, "No roofline: it is not known how long the ops ran on the device."
    placed = [op for op in ops if op["bytes"] and op["flops"] and op["work_time_s"]]
    if not placed:
        return None, "No roofline: bytes and flops are known together for none of the recorded ops."
    shown = placed[:MAX_MARKERS]
    intensities = [op["flops"] / op["bytes"] for op in shown]
    lines, labels = roofs(*rates_and_peaks(ceilings), min(intensities) / 8, max(intensities) * 4)
    data = lines + _markers(shown, account["ledger"]["clock_s"])
    layout = {
        "xaxis": {"type": "log", "title": {"text": "arithmetic intensity, flop per byte"}, "dtick": 1},
        "yaxis": {"type": "log", "title": {"text": "GFLOP/s"}, "dtick": 1},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "itemsizing": "constant"},
        "margin": {"t": 40, "r": 16}, "hovermode": "closest", "annotations": labels,
    }  # fmt: skip
    return {"views": {"roofline": {"data": data, "layout": layout}}, "height": 480}, _what_is_shown(ops, shown)


def ceilings_of(account: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """(measured ceilings of what the ops ran on, the host or a GPU; why there are none)."""
    measured, reason = ceilings_for(account["machine"], account["device"])
    if measured and not measured["levels"]:
        measured, reason = None, (measured.get("absent") or {}).get("levels", "no level of its memory was measured")
    what = "GPU" if on_gpu(account) else "machine"
    return measured, f"this {what} has no measured ceilings ({reason})"


def ceiling(rate: dict[str, float]) -> float:
    """The one figure of a measured rate that ops are held against, per second."""
    return rate.get("ceiling", rate["median"])


def rates_and_peaks(ceilings: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """(read bandwidth of each level, peak of each kind of arithmetic), both a second."""
    peaks = {
        f"{dtype} {kind}": ceiling(rate)
        for kind, key in (("GEMM", "gemm_flops_per_s"), ("FMA", "fma_flops_per_s"))
        for dtype, rate in (ceilings.get(key) or {}).items()
        if rate
    }
    rates = {
        level["name"]: level.get("read_bytes_per_s") or level.get("copy_bytes_per_s") for level in ceilings["levels"]
    }
    return {name: ceiling(rate) for name, rate in rates.items() if rate}, peaks


def roofs(rates: dict[str, float], peaks: dict[str, float], low: float, high: float,
          unit: str = "FLOP/s", scale: float = 1e9) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:  # fmt: skip
    """(lines, labels): a slanted roof for each of `rates` in bytes/s, up to the highest of the flat ones, `peaks`.

    They span the operations per byte from `low` to `high`, and at least all points where a slanted roof meets a flat
    one; in units of `scale` operations a second.
    """
    ridges = [peak / rate for peak in peaks.values() for rate in rates.values()]
    low, high = min([low, *(ridge / 3 for ridge in ridges)]), max([high, *(ridge * 2 for ridge in ridges)])
    near, far = low * 1.04, high / 1.04  # plotly hides a label whose anchor is a rounding error outside the axes
    lines, labels = [], []
    for name, rate in rates.items():
        right = max(peaks.values()) / rate if peaks else high
        lines.append(_roof([low, right], [low * rate / scale, right * rate / scale]))
        labels.append(_label(f"{name} {si(rate, 'B/s')}", near, near * rate / scale, "left", "middle"))
    for kind, peak in peaks.items():
        left = peak / max(rates.values()) if rates else low
        lines.append(_roof([left, high], [peak / scale] * 2))
        labels.append(_label(f"{kind} {si(peak, unit)}", far, peak / scale, "right", "bottom"))
    return lines, labels


def _roof(x: list[float], y: list[float]) -> dict[str, Any]:
    line = {"color": "--muted", "width": 1.5}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, "showlegend": False, "hoverinfo": "skip"}


def _label(text: str, x: float, y: float, xanchor: str, yanchor: str) -> dict[str, Any]:
    """A roof's name, at its end; annotations on logarithmic axes are placed by the exponent."""
    return {
        "text": plain(text), "x": math.log10(x), "y": math.log10(y), "xanchor": xanchor, "yanchor": yanchor,
        "showarrow": False, "font": {"color": "--muted", "size": 11}, "bgcolor": "--card", "borderpad": 1,
    }  # fmt: skip


def _markers(ops: list[dict[str, Any]], clock_s: float) -> list[dict[str, Any]]:
    """One trace a bound, an area of marker a second."""
    longest = max(op["work_time_s"] for op in ops)
    traces = []
    for bound, colour in BOUNDS.items():
        mine = [op for op in ops if op["bound"] == bound]
        if mine:
            traces.append({
                "type": "scatter", "mode": "markers", "name": f"bound by {bound}" if bound else "bound not known",
                "x": [op["flops"] / op["bytes"] for op in mine],
                "y": [op["flops"] / op["work_time_s"] / 1e9 for op in mine],
                "marker": {"color": colour, "opacity": 0.72, "line": {"color": "--card", "width": 1},
                           "size": [5 + 25 * (op["work_time_s"] / longest) ** 0.5 for op in mine]},
                "customdata": [_hover(op, clock_s) for op in mine], "hovertemplate": "%{customdata}<extra></extra>",
            })  # fmt: skip
    return traces


def _hover(op: dict[str, Any], clock_s: float) -> str:
    bound = op["bound"] or "not known"
    if op["bound"] == "memory" and op["level"]:
        bound += f" ({op['level']})"
    share = percent(op_times.share(op, clock_s))
    lines = [
        f"<b>{plain(op['name'], 60)}</b>" + (f" ({plain(op['impl'])})" if op["impl"] else ""),
        plain(f"{op['phase']}, {op['module'] or 'no module'}"),
        plain(op["shape"] or "shape not known"),
        f"{share} of the clock, {seconds(op_times.cost_s(op))}, {count(op['calls'])} calls",
        f"{si(op['bytes'] / op['work_time_s'], 'B/s')}, {si(op['flops'] / op['work_time_s'], 'FLOP/s')}",
        plain(f"bound by {bound}, {percent(op['share_of_ceiling'])} of its ceiling"),
    ]
    return "<br>".join(lines)


def _what_is_shown(ops: list[dict[str, Any]], shown: list[dict[str, Any]]) -> str:
    total, on_chart = (sum(map(op_times.cost_s, group)) for group in (ops, shown))
    idle = sum(op_times.cost_s(op) for op in ops if op["bytes"] and op["flops"] == 0)
    text = (f"Each marker is one op with one shape, module and phase; its area is its time. Those shown took "
            f"{percent(on_chart / total)} of all op time.")  # fmt: skip
    if idle:
        text += f" Ops that move bytes but compute nothing took {percent(idle / total)} and are in the table only."
    return text + (
        " Slanted roofs are measured read bandwidths; the share of its ceiling that an op reaches is reckoned from its"
        " own mix of reads and writes."
    )
