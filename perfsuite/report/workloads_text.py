"""The table of `perfsuite workloads`."""

from typing import Any

from rich.table import Table
from rich.text import Text

from perfsuite.report import figures

WIDTH = 119
NOT_MEASURED = "not measured"


def rows(modules: list[Any], scored: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each workload and scale. scored: what this machine has measured, newest first (measured_here.py).

    A record counts where it has the target and the batch size that the workload has now.
    """
    listed = []
    for module in modules:
        for scale, config in module.CONFIGS.items():
            target = config.target
            now = (module.NAME, scale, target.value, config.batch_size)
            measured = (r for r in scored if (r["workload"], r["scale"], r["target"], r["batch_size"]) == now)
            newest = next(measured, {})
            listed.append({
                "workload": module.NAME,
                "scale": scale,
                "area": getattr(module, "AREA", None),
                "mlperf": module.MLPERF or None,
                "metric": target.metric,
                "target": target.value,
                "unit": target.unit,
                "higher_is_better": target.higher_is_better,
                "data": config.data or None,
                "runs": config.num_runs,
                "batch_size": config.batch_size,
                "time_to_train_s": newest.get("time_to_train_s"),
                "ci95_s": newest.get("ci95_s"),
                "measured": {key: newest[key] for key in ("id", "device", "ops", "use")} if newest else None,
            })  # fmt: skip
    return listed


def table(listed: list[dict[str, Any]]) -> Table:
    """The rows as a table of under 120 columns; the area and what it follows are said once for a workload."""
    out = Table(box=None, pad_edge=False, header_style="dim")
    out.add_column("workload", no_wrap=True)
    out.add_column("area", width=15, overflow="fold")  # its longest word
    for name, ratio in (("scale", None), ("target", 6), ("data", 6), ("time to train here", 4)):
        out.add_column(name, ratio=ratio, overflow="fold", no_wrap=ratio is None)
    out.expand = True
    before = None
    for row in listed:
        sign = "≥" if row["higher_is_better"] else "≤"
        target = f"{row['metric']} {sign} {row['target']:g} {row['unit']}"
        area = row["area"] or figures.UNKNOWN
        if row["mlperf"] and row["mlperf"] != row["workload"]:
            area += f" ({row['mlperf']})"
        new = row["workload"] != before
        out.add_row(Text(row["workload"] if new else ""), Text(area if new else ""), Text(row["scale"]), Text(target),
                    Text(row["data"] or figures.UNKNOWN), _time(row))  # fmt: skip
        before = row["workload"]
    return out


def _time(row: dict[str, Any]) -> Text:
    if row["time_to_train_s"] is None:
        return Text(NOT_MEASURED, style="dim")
    said = Text(figures.seconds(row["time_to_train_s"]))
    if row["ci95_s"]:
        said.append(f" ({figures.interval(row['ci95_s'], figures.seconds)})")
    measured = row["measured"]
    how = [measured["device"], *([f"--ops {measured['ops']}"] if measured["ops"] != "eager" else []),
           *(f"--use {op}={choice}" for op, choice in measured["use"].items())]  # fmt: skip
    return said.append(f" {', '.join(how)}", style="dim")
