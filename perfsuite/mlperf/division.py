"""The division as a property of a run of ours: what closed refuses, and what an open run says on the closed metric.

Source: training_policies, "Divisions": closed fixes model, data, optimizer, hyperparameters and target; open may change
them and reports the quality that it reached on the closed division's metric.
"""

from collections.abc import Mapping
from typing import Any

from perfsuite.mlperf import own_class, rounds
from perfsuite.mlperf.rulebook import Benchmark


def refuse(made: Mapping[str, Any]) -> None:
    """Raise ValueError, in one line, where a run that is about to start is not closed. `made`: a record, or its parts.

    Which kernel does an op is free. A scale that has no rules of our own is held to its workload file alone.
    """
    if made["workload_path"]:
        raise ValueError(f"--division closed: {made['workload_path']} is not a workload of perfsuite, so its model is "
                         "another one; leave --division out, or name a workload")  # fmt: skip
    rules = rules_of(made)
    found = own_class.departures(made, rules) if rules else []
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ValueError(f"--division closed: {found[0]}{more}; leave that out, or run in the open division")


def rules_of(made: Mapping[str, Any]) -> Benchmark | None:
    """The rules of a record's workload and scale; None where there are none."""
    try:
        return None if made.get("workload_path") else own_class.rules_of(rounds.own(made["workload"], made["scale"]))
    except ValueError:
        return None


def closed_quality(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an open run reached on the closed division's metric; None for a closed run, and for a watched loop.

    {"metric", "target", "qualities" of the clean runs in order, "num_reached": how many reach the closed target,
    "why": why that is not known}.
    """
    if record.get("division") != "open" or record["kind"] != "run":
        return None
    rules = rules_of(record)
    nothing: dict[str, Any] = {"metric": None, "target": None, "qualities": None, "num_reached": None}
    if rules is None:
        what = record.get("workload_path") or f"{record['workload']} {record['scale']}"
        return nothing | {"why": f"there are no rules of a closed division for {what}"}
    metric, target = rules.metric, rules.targets[0]
    if record["target"] is None or f"{record['target']['metric']}, {record['target']['unit']}" != metric:
        return nothing | {"why": f"this run measured something else than the closed division's {metric}"}
    qualities = [p.get("quality") for p in record["passes"] if p["kind"] == "clean"]
    reached = sum(q is not None and target.reached(q) for q in qualities)
    closed = {"value": target.value, "higher_is_better": target.higher_is_better}
    return {"metric": metric, "target": closed, "qualities": qualities, "num_reached": reached, "why": None}
