"""The reference convergence points of an account's workload: what many other seeds needed, drawn behind its runs."""

import json
from typing import Any

from perfsuite.report.charts import Chart
from perfsuite.report.figures import count
from perfsuite.workloads import registry


def points(account: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """(the points that `perfsuite rcp` stored for this workload and scale, None), or (None, why there are none).

    They hold for the target and the batch size that they were made with; another run is not held against them.
    """
    if not account["target"]:
        return None, "an accounted loop has none"
    path = registry.reference_points_file(account.get("workload_path") or account["workload"])
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get(account["scale"])
    except (OSError, ValueError):
        found = None
    if not found:
        return None, f"none were made: `perfsuite rcp {account['workload']} --scale {account['scale']}` does"
    made = (found["target"], found["batch_size"])
    config = account.get("config") or {}
    if made != (account["target"]["value"], config.get("batch_size")):
        return None, f"they were made with target {made[0]:g} and batches of {made[1]}, this run was not"
    return found, None


def sentence(found: dict[str, Any]) -> str:
    """What the band and the bar are."""
    reached = [samples for samples in found["samples_to_target"] if samples is not None]
    between = f", after {count(min(reached))} to {count(max(reached))} samples" if reached else ""
    return (f"Shaded: the range of {len(found['seeds'])} reference runs with other seeds while they trained; "
            f"{len(reached)} of them reached the target{between} (the bar on its line).")  # fmt: skip


def draw_behind(view: dict[str, Any], found: dict[str, Any]) -> None:
    """Put the band of the reference runs, and the range of where they crossed the target, behind the runs of a view."""
    by_samples: dict[int, list[float]] = {}
    for curve in found["curves"].values():
        for samples, quality in curve:
            if quality is not None:
                by_samples.setdefault(samples, []).append(quality)
    x = sorted(by_samples)
    lowest, highest = ([pick(by_samples[samples]) for samples in x] for pick in (min, max))
    edge = {"type": "scatter", "mode": "lines", "x": x, "line": {"width": 0, "color": "--muted"}, "hoverinfo": "skip"}
    band: list[Chart] = [
        edge | {"y": lowest, "showlegend": False},
        edge | {"y": highest, "fill": "tonexty", "fillcolor": "--muted/22", "name": "reference runs"},
    ]
    reached = [samples for samples in found["samples_to_target"] if samples is not None]
    if reached:
        band.append({
            "type": "scatter", "mode": "lines", "x": [min(reached), max(reached)], "y": [found["target"]] * 2,
            "line": {"width": 7, "color": "--good/45"}, "name": "where they crossed the target", "hoverinfo": "skip",
        })  # fmt: skip
    view["data"] = band + view["data"]
    view["layout"]["legend"]["traceorder"] = "normal"  # a filled area would turn it round
