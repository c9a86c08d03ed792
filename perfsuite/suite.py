"""The suite: what a row of its table is made of, one workload a row, from the account of its record. Pure functions."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SCHEMA = 1
FILE = "suite.json"
"""In the folder of the records: which of them the last `perfsuite run all` made, and why others are missing."""


def failed_row(workload: str, scale: str, area: str | None, reason: str, id_: str | None = None) -> dict[str, Any]:
    """The row of a workload that has no account, with the reason. id_: of its record, where there is one."""
    figures = ("target", "time_to_train_s", "ci95_s", "time_range_s", "samples_to_target", "samples_to_target_range",
               "time_per_sample_s", "quality", "num_runs", "num_reached", "clock_s", "phase_shares", "character",
               "working_set", "overhead", "device", "ops", "use", "report")  # fmt: skip
    return {"workload": workload, "scale": scale, "area": area, "id": id_, "reached": False, "reason": reason,
            **dict.fromkeys(figures)}  # fmt: skip


def row(account: Mapping[str, Any], area: str | None) -> dict[str, Any]:
    """The essentials of one account.

    Times are those of the scored runs; `phase_shares` (of the clock) and `character` those of the pass of the ledger.
    `quality` is the median of what the runs ended with. `report` is the page, as seen from the folder of the records.
    """
    score, ledger = account["score"] or {}, account["ledger"]
    runs = score.get("runs") or []
    qualities = [run["quality"] for run in runs if run["quality"] is not None]
    times = [run["time_s"] for run in runs if run["reached"]]
    clock_s = ledger["clock_s"] if ledger else None
    overhead = account["overhead"]
    return failed_row(account["workload"], account["scale"], area, "", account["id"]) | {
        "reached": score.get("time_to_train_s") is not None, "reason": account["score_reason"],
        "target": account["target"], "time_range_s": [min(times), max(times)] if times else None,
        **{key: score.get(key) for key in ("time_to_train_s", "ci95_s", "samples_to_target", "samples_to_target_range",
                                           "time_per_sample_s", "num_runs", "num_reached")},
        "quality": statistics.median(qualities) if qualities else None,
        "clock_s": clock_s,
        "phase_shares": {p["name"]: p["time_s"] / clock_s for p in ledger["phases"]} if clock_s else None,
        "character": account.get("character"), "working_set": account.get("working_set"),
        "overhead": {key: overhead[key] for key in ("ratio", "ci95")} if overhead else None,
        "device": account["device"], "ops": account.get("ops"), "use": account["use"],
        "report": str(Path(account["id"], "report.html")),
    }  # fmt: skip


def document(state: Mapping[str, Any], rows: Sequence[dict[str, Any]], machine: Mapping[str, Any] | None,
             commit: str | None) -> dict[str, Any]:  # fmt: skip
    """The suite as one JSON document. state: what FILE holds; machine, commit: of the records."""
    return {
        "schema": SCHEMA, "kind": "suite", "scale": state["scale"], "created": state["created"],
        "command": state["command"], "commit": commit, "machine": machine,
        "num_reached": sum(found["reached"] for found in rows), "workloads": list(rows),
    }  # fmt: skip
