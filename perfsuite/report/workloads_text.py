"""The table of `perfsuite workloads`."""

from typing import Any

from rich.table import Table


def rows(modules: list[Any]) -> list[dict[str, Any]]:
    """One row for each workload and scale."""
    listed = []
    for module in modules:
        for scale, config in module.CONFIGS.items():
            target = config.target
            listed.append({
                "workload": module.NAME,
                "scale": scale,
                "mlperf": module.MLPERF or None,
                "metric": target.metric,
                "target": target.value,
                "unit": target.unit,
                "higher_is_better": target.higher_is_better,
                "runs": config.num_runs,
                "batch_size": config.batch_size,
            })  # fmt: skip
    return listed


def table(listed: list[dict[str, Any]]) -> Table:
    """The rows as a table of under 100 columns."""
    out = Table("workload", "scale", "follows", "target", "runs", "batch", box=None)
    for row in listed:
        sign = ">=" if row["higher_is_better"] else "<="
        target = f"{row['metric']} {sign} {row['target']:g} {row['unit']}"
        cells = (row["workload"], row["scale"], row["mlperf"] or "-", target, row["runs"], row["batch_size"])
        out.add_row(*map(str, cells))
    return out
