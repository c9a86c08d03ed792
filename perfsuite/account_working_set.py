"""The working set of a training step, against the caches: which level, if any, holds what a step works on.

What is counted is what was alive at once at the peak of a recorded training step: weights, gradients, optimizer state,
activations, workspace. A step touches each of these at least once; blocks that are freed and come back are counted
once. Data sets and whatever else the process keeps are not in it. An embedding table counts whole, as it is a weight;
how much of the tables batches really look up is counted apart, in rows.
"""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from perfsuite.account_blocks import why_not
from perfsuite.roofline import ceilings_for

_NOT_OF_A_STEP = "other"


def working_set_block(pass_: Mapping[str, Any], machine: Mapping[str, Any], device: str) -> dict[str, Any]:
    """{"bytes", "source", "reason", "levels": [{"name", "bytes", "fits"}], "levels_reason", "fits_in", "rows",
    "rows_reason"}.

    machine: the machine part of the record. levels: caches from the smallest on, their sizes together as far as the run
    may use them; fits_in: the first that holds the bytes, null where none does or they are not known.
    """
    used, source, reason = _bytes(pass_)
    caches, no_caches = _caches(machine, device)
    levels = [{"name": name, "bytes": size, "fits": None if used is None else used <= size} for name, size in caches]
    rows, no_rows = _rows(pass_, caches)
    return {
        "bytes": used, "source": source, "reason": reason, "levels": levels, "levels_reason": no_caches,
        "fits_in": next((level["name"] for level in levels if level["fits"]), None),
        "rows": rows, "rows_reason": no_rows,
    }  # fmt: skip


def _bytes(pass_: Mapping[str, Any]) -> tuple[int | None, str | None, str | None]:
    held = pass_.get("gpu_memory")
    if held is None:
        return None, None, why_not(pass_, "memory account", "no memory account was kept in this pass")
    peak = held.get("peak")
    if peak is None:
        return None, None, "no training step of this pass was recorded to its peak"
    sizes = {category["name"]: category["bytes"] for category in peak["categories"]}
    if not sizes.get("weights"):
        return None, None, "the job does not say what its model is: its weights cannot be told from its data"
    counted = [name for name in sizes if name != _NOT_OF_A_STEP and sizes[name]]
    source = f"alive at the peak of step {peak['step']}: {', '.join(counted).replace('_', ' ')}"
    return sum(sizes[name] for name in counted), source, None


def _caches(machine: Mapping[str, Any], device: str) -> tuple[list[tuple[str, int]], str | None]:
    """(name, bytes) from the smallest on: as they were measured, else as the processor's caches are listed."""
    ceilings, reason = ceilings_for(machine, device)
    if ceilings and ceilings["levels"]:
        found = [(level["name"], level["capacity_bytes"]) for level in ceilings["levels"] if level["capacity_bytes"]]
        return sorted(found, key=lambda level: level[1]), None if found else "no cache was measured on this machine"
    if device.startswith("cuda"):
        return [], reason or (ceilings.get("absent") or {}).get("levels", "no level of its memory was measured")
    fingerprint = machine["fingerprint"]
    sizes: dict[str, int] = {}
    for cache in fingerprint.get("caches") or []:
        name = f"L{cache['level']}"
        sizes[name] = sizes.get(name, 0) + cache["size_bytes"] * cache["instances"]
    return list(sizes.items()), None if sizes else fingerprint.get("caches_reason") or "the record does not list them"


def _rows(pass_: Mapping[str, Any], caches: Sequence[tuple[str, int]]) -> tuple[dict[str, Any] | None, str | None]:
    """Rows that batches look up, in bytes, against the last-level cache."""
    found = pass_.get("rows")
    if not found or not found["tables"]:
        return None, "the workload does not say which rows of which embedding tables a batch looks up"
    tables = []
    for table in found["tables"]:
        per_batch = mean(table["rows_by_batch"])
        tables.append({
            "name": table["name"], "row_bytes": table["row_bytes"],
            "lookups_per_batch": table["lookups"] / found["batches"], "rows_per_batch": per_batch,
            "bytes_per_batch": per_batch * table["row_bytes"], "rows": table["rows"],
            "bytes": table["rows"] * table["row_bytes"],
        })  # fmt: skip
    total = sum(table["bytes"] for table in tables)
    last = {"name": caches[-1][0], "bytes": caches[-1][1]} if caches else None
    return {
        "batches": found["batches"], "tables": tables,
        "bytes_per_batch": sum(table["bytes_per_batch"] for table in tables), "bytes": total,
        "last_level": last, "times_last_level": None if last is None else total / last["bytes"],
        "fits": None if last is None else total <= last["bytes"],
    }, None  # fmt: skip
