"""Charts of one score: its runs, their convergence against the reference, where their time went, their power."""

from pathlib import PurePath
from typing import Any

from perfsuite.report.charts import Chart, hue, plain
from perfsuite.report.figures import percent, seconds, si

_HEIGHT = 260
_MOST_EPOCHS = 10_000
_LONGEST_NAME = 4
_MOST_NAMES = 20
_MODES = {"rules": "--hue-1", "official": "--hue-2", "hull": "--hue-3"}
_MARGIN = {"l": 56, "r": 12, "t": 30, "b": 44}
_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}


def runs(one: dict[str, Any]) -> Chart | None:
    """A point for each run, the olympic mean of those that count, and its interval."""
    rows = [(i, run) for i, run in enumerate(one["runs"]) if run["clock_s"] is not None]
    if not rows:
        return None
    kinds = {
        "in the mean": ("--hue-1", "circle", lambda r: r["converged"] and r["counts"] and not r["dropped"]),
        "dropped": ("--hue-1", "circle-open", lambda r: r["converged"] and r["counts"] and r["dropped"]),
        "does not count": ("--muted", "circle-open", lambda r: r["converged"] and not r["counts"]),
        "did not converge": ("--bad", "x", lambda r: not r["converged"]),
    }
    data = []
    for name, (colour, symbol, wanted) in kinds.items():
        mine = [(i, run) for i, run in rows if wanted(run)]
        if mine:
            data.append({
                "type": "scatter", "mode": "markers", "name": name, "x": [i for i, _ in mine],
                "y": [(run["time_s"] or run["clock_s"]) / 60 for _, run in mine],
                "marker": {"color": colour, "symbol": symbol, "size": 10},
                "customdata": [_run_hover(run) for _, run in mine], "hovertemplate": "%{customdata}<extra></extra>",
            })  # fmt: skip
    shapes = []
    if one["unscaled_min"] is not None:
        shapes.append(_line(one["unscaled_min"], "--fg"))
        if one["ci95_min"]:
            low, high = (bound / one["factor"] for bound in one["ci95_min"])
            shapes.append({"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": low, "y1": high,
                           "line": {"width": 0}, "fillcolor": "--hue-1/15", "layer": "below"})  # fmt: skip
    layout = {
        "xaxis": _axis(one), "yaxis": {"title": {"text": "minutes"}}, "legend": _LEGEND, "margin": _MARGIN,
        "shapes": shapes,
        "hovermode": "closest", "showlegend": True,
    }  # fmt: skip
    return {"views": {"runs": {"data": data, "layout": layout}}, "height": _HEIGHT}


def _run_hover(run: dict[str, Any]) -> str:
    quality = f"{run['quality']:.6g}" if isinstance(run["quality"], int | float) else "unknown"
    units = f"{run['units']:g}" if run["units"] is not None else "unknown"
    said = [plain(run["log"]), seconds(run["time_s"] or run["clock_s"]), f"quality {quality} after {units}"]
    return "<br>".join([*said, *([f"dropped: {run['dropped']}"] if run["dropped"] else [])])


def _name(log: str) -> str:
    return log.removesuffix(".txt").removeprefix("result_")


def _axis(one: dict[str, Any]) -> dict[str, Any]:
    """Of one place for each run; where names are too long for it, the first is 1."""
    names = [_name(run["log"]) for run in one["runs"]]
    if any(len(name) > _LONGEST_NAME for name in names):
        names = [str(i + 1) for i in range(len(names))]
    every = -(-len(names) // _MOST_NAMES)
    return {"title": {"text": "run"}, "tickvals": list(range(0, len(names), every)),
            "ticktext": [plain(name) for name in names[::every]], "showgrid": False}  # fmt: skip


def _line(y: float, colour: str, dash: str = "solid") -> dict[str, Any]:
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y,
            "line": {"color": colour, "width": 1.5, "dash": dash}}  # fmt: skip


def convergence(one: dict[str, Any]) -> Chart | None:
    """Units to converge against the reference's curve over batch sizes; and the quality at each evaluation."""
    views = {}
    reference = _against_reference(one)
    if reference:
        views["against the reference"] = reference
    quality = _quality(one)
    if quality:
        views["quality"] = quality
    return {"views": views, "height": _HEIGHT} if views else None


def _against_reference(one: dict[str, Any]) -> dict[str, Any] | None:
    reference, sizes = one["curves"]["reference"], one["curves"]["batch_sizes"]
    ends = [run["units"] for run in one["runs"] if run["converged"] and run["counts"] and run["units"] is not None]
    if not reference or len(sizes) != 1:
        return None
    data = []
    for mode, all_points in reference.items():
        points = _near(all_points, float(sizes[0]))
        x = [point["batch_size"] for point in points]
        line = {"color": _MODES[mode], "width": 2}
        if len(points) == 1:  # a line needs two ends
            x = [x[0] * 0.8, x[0] * 1.25]
            points = [points[0]] * 2
        shared = {"type": "scatter", "mode": "lines", "x": x, "legendgroup": mode}
        data.append(shared | {"y": [point["lowest"] for point in points], "line": line | {"dash": "dot"},
                              "showlegend": False, "name": mode,
                              "hovertemplate": f"{mode}: least that passes %{{y:.6g}}<extra></extra>"})  # fmt: skip
        data.append(shared | {"y": [point["mean"] for point in points], "line": line, "name": mode, "fill": "tonexty",
                              "fillcolor": "rgba(128,128,128,0.10)",
                              "hovertemplate": f"{mode}: mean %{{y:.6g}}<extra></extra>"})  # fmt: skip
    if ends:  # a round that evaluates after the clock says nothing on it
        data.append({
            "type": "scatter", "mode": "markers", "name": "runs", "x": [sizes[0]] * len(ends), "y": ends,
            "marker": {"color": "--muted", "symbol": "line-ew-open", "size": 14},
            "hovertemplate": "a run: %{y:.6g}<extra></extra>",
        })  # fmt: skip
    check = (one["convergence"] or {}).get("rules")
    if check and check["mean"] is not None:
        data.append({
            "type": "scatter", "mode": "markers", "name": "olympic mean", "x": [sizes[0]], "y": [check["mean"]],
            "marker": {"color": "--good" if check["passed"] else "--bad", "symbol": "diamond", "size": 11},
            "hovertemplate": "olympic mean: %{y:.6g}<extra></extra>",
        })  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "global batch size"}, "type": "log", **_batch_ticks(data, float(sizes[0]))},
        "yaxis": {"title": {"text": f"{_unit(one)} to converge"}, "tickformat": _ticks(one)},
        "legend": _LEGEND, "margin": _MARGIN, "hovermode": "closest",
    }  # fmt: skip
    return {"data": data, "layout": layout}


def _near(points: list[dict[str, float]], size: float) -> list[dict[str, float]]:
    """The part of the curve that the runs are on: the next point on each side, and that of their own batch size."""
    below = [point for point in points if point["batch_size"] < size][-1:]
    above = [point for point in points if point["batch_size"] > size][:1]
    return [*below, *(point for point in points if point["batch_size"] == size), *above]


def _batch_ticks(data: list[dict[str, Any]], own: float) -> dict[str, Any]:
    """The batch sizes that are drawn and that of the runs; of sizes that are too near each other the first."""
    sizes = sorted({size for trace in data for size in trace["x"] if len(data) > 1 and trace["mode"] == "lines"})
    shown = [own]
    for size in sizes:
        if all(max(size / other, other / size) > 1.25 for other in shown) and size == int(size):
            shown.append(size)
    return {"tickvals": shown, "ticktext": [f"{size:g}" for size in shown]}


def _unit(one: dict[str, Any]) -> str:
    known = [run for run in one["runs"] if run["unit"]]
    if any((run["units"] or 0) > _MOST_EPOCHS for run in known):
        return "samples"  # some benchmarks log samples as epoch_num
    names = {"samples_count": "samples", "epoch_num": "epochs"}
    return names.get(known[0]["unit"] if known else "", "samples or epochs")


def _ticks(one: dict[str, Any]) -> str:
    """Samples in thousands and millions; an epoch has no thousandths worth a prefix."""
    return "~g" if _unit(one) == "epochs" else "~s"


def _quality(one: dict[str, Any]) -> dict[str, Any] | None:
    drawn = [(run, entry) for run, entry in zip(one["runs"], one["curves"]["runs"], strict=True)
             if entry["evaluations"]]  # fmt: skip
    if not drawn:
        return None
    data = []
    for i, (run, entry) in enumerate(drawn):
        metrics = list(dict.fromkeys(e[2] for e in entry["evaluations"]))
        for metric in metrics:
            points = [e for e in entry["evaluations"] if e[2] == metric]
            name = f"run {_name(run['log'])}" + (f" {metric}" if metric and len(metrics) > 1 else "")
            data.append({
                "type": "scatter", "mode": "lines+markers", "name": plain(name, 24), "x": [p[0] for p in points],
                "y": [p[1] for p in points], "marker": {"size": 4, "color": hue(i)}, "showlegend": False,
                "line": {"color": hue(i), "width": 1.5, "dash": "solid" if run["converged"] else "dot"},
                "hovertemplate": f"{plain(name, 24)}: %{{y:.6g}} after %{{x:.6g}}<extra></extra>",
            })  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": f"{_unit(one)} trained on"}, "tickformat": _ticks(one)},
        "yaxis": {"title": {"text": "quality"}}, "margin": _MARGIN, "hovermode": "closest",
        "shapes": [_line(target["value"], "--good", "dash") for target in one["curves"]["targets"]],
    }  # fmt: skip
    return {"data": data, "layout": layout}


def shares(one: dict[str, Any]) -> Chart | None:
    """Initialisation, training and evaluation of each run, stacked."""
    rows = [(i, entry) for i, entry in enumerate(one["curves"]["runs"]) if entry["times"]["training_s"] is not None]
    if not rows:
        return None
    parts = {"init": ("init_s", "--muted"), "training": ("training_s", "--hue-1"),
             "evaluation": ("evaluation_s", "--hue-2")}  # fmt: skip
    data = []
    for name, (key, colour) in parts.items():
        if any(row["times"][key] for _, row in rows):
            data.append({
                "type": "bar", "name": name, "x": [i for i, _ in rows],
                "y": [(row["times"][key] or 0.0) / 60 for _, row in rows], "marker": {"color": colour},
                "customdata": [plain(_name(row["log"])) for _, row in rows],
                "hovertemplate": f"run %{{customdata}}: {name} %{{y:.4g}} min<extra></extra>",
            })  # fmt: skip
    layout = {
        "barmode": "stack", "xaxis": _axis(one), "yaxis": {"title": {"text": "minutes"}}, "legend": _LEGEND,
        "margin": _MARGIN, "showlegend": True,
    }  # fmt: skip
    return {"views": {"shares": {"data": data, "layout": layout}}, "height": _HEIGHT}


def said_shares(one: dict[str, Any]) -> str:
    """E.g. "init 1.2 min before the clock; on it training 88.0 %, evaluation 12.0 %", medians over the runs."""
    times = [entry["times"] for entry in one["curves"]["runs"]]
    init = _median([t["init_s"] for t in times])
    said = "init not logged" if init is None else f"init {seconds(init)} before the clock"
    known = [t for t in times if t["evaluation_s"] is not None and t["training_s"] is not None]
    if not known:
        return f"{said}; evaluations are not logged as intervals on the clock"
    share = _median([t["evaluation_s"] / (t["evaluation_s"] + t["training_s"]) for t in known])
    return f"{said}; on it training {percent(1 - share)}, evaluation {percent(share)}"


def _median(values: list[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None


def power(one: dict[str, Any]) -> Chart | None:
    """Joules of each run with their bound, from the power logs."""
    energy = one["energy"]
    rows = [(i, name, run) for i, (name, run) in enumerate((energy or {"runs": {}})["runs"].items())
            if run["joules"] is not None]  # fmt: skip
    if not rows:
        return None
    clocks = {PurePath(run["log"]).stem: run["clock_s"] for run in one["runs"]}
    hover = [f"run {plain(_name(name))}: {si(run['joules'], 'J')}, {si(run['joules'] / clocks[name], 'W')} on average"
             + "".join(f"<br>{plain(flag)}" for flag in run["flags"][:2]) for _, name, run in rows]  # fmt: skip
    data = [{
        "type": "bar", "x": [i for i, _, _ in rows], "y": [run["joules"] / 1e6 for _, _, run in rows],
        "marker": {"color": "--hue-4"}, "customdata": hover, "hovertemplate": "%{customdata}<extra></extra>",
        "error_y": {"type": "data", "array": [(run["bound_j"] or 0.0) / 1e6 for _, _, run in rows], "color": "--muted",
                    "thickness": 1},
    }]  # fmt: skip
    layout = {
        "xaxis": _axis(one), "yaxis": {"title": {"text": "MJ"}}, "margin": _MARGIN,
    }  # fmt: skip
    if energy["energy_j"] is not None:
        layout["shapes"] = [_line(energy["energy_j"] / 1e6, "--fg")]
    return {"views": {"energy": {"data": data, "layout": layout}}, "height": _HEIGHT}
