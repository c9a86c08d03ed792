"""Joules by kernel in the account: which GPU's sensor, which record of kernels, and the joules of a ledger's row.

The kernel recorder leaves, of the GPU that it recorded: the arrays "kernel_power_edges_ns" (int64 (n + 1,)) and
"kernel_power_busy" (int64 (n, k + 1) ns, overlap shared equally; its last column is all other kernels together), and
in its data "power": {"device": CUDA's number of it, "uuid": of the GPU as NVML says it, or None, "names": k names of
kernels, copies and fills, "reason": why there are none}.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perfsuite.account_blocks import why_not
from perfsuite.account_phases import Arrays, Span
from perfsuite.energy_kernels import Busy, by_kernel
from perfsuite.energy_observations import observations

OTHERS = "other kernels"


def kernel_power(
    pass_: Mapping[str, Any], arrays: Arrays, samples: Mapping[str, Any], energy: Mapping[str, Any], span: Span
) -> dict[str, Any]:
    """Energy by kernel of the GPU whose kernels were recorded.

    samples: the sampler's data with its arrays. energy: energy_between() of the span. Returns {"kernels_available",
    "kernels_reason", "kernels": by_kernel()'s rows and "none" as "no_kernel", "kernels_windows",
    "kernels_unexplained_share", "kernels_notes"}.
    """
    if not pass_.get("kernels"):
        return unavailable(why_not(pass_, "kernel recorder", "no kernel recorder ran in this pass"))
    record = pass_["kernels"].get("power")
    if not record or "kernel_power_busy" not in arrays:
        return unavailable("the kernel recorder of this pass kept no busy time by interval")
    if record.get("reason"):
        return unavailable(record["reason"])
    gpu = _gpu(samples, record.get("uuid"))
    if gpu is None:
        return unavailable("the recorded GPU is none of those that the sampler saw")
    source = next((row for row in energy.get("sources", []) if row["source"] == gpu), None)
    if source is None or not source["available"]:
        return unavailable(source["reason"] if source else energy["reason"])
    begin_ns, end_ns = span.start_ns, span.start_ns + span.clock_ns
    try:
        seen = observations(samples, gpu, begin_ns, end_ns)
    except ValueError as error:
        return unavailable(str(error))
    busy = Busy(np.asarray(arrays["kernel_power_edges_ns"]), np.asarray(arrays["kernel_power_busy"]),
                [*record["names"], OTHERS])  # fmt: skip
    split = by_kernel(seen, busy, source, begin_ns, end_ns, _floor_w(pass_, gpu))
    return {
        "kernels_available": split["available"], "kernels_reason": split["reason"], "kernels": split["rows"],
        "no_kernel": split["none"], "kernels_windows": split["windows"],
        "kernels_unexplained_share": split["unexplained_share"], "kernels_notes": split["notes"],
    }  # fmt: skip


def _row(power: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """What is known of a kernel; None where its energy is not, or it had no time."""
    rows = {row["name"]: row for row in power.get("kernels") or []}
    row = rows.get(name) or rows.get(OTHERS)
    return row if row is not None and row["time_s"] else None


def row_joules(power: Mapping[str, Any], name: str, share_s: float) -> tuple[float | None, float | None]:
    """Joules and bound of a ledger's row: `share_s` seconds (overlap shared) of the kernel `name`.

    All rows of one kernel get its one power: what its calls at different sites draw is not told apart. (None, None)
    where the energy was not split, or the kernel had no time when it was.
    """
    row = _row(power, name)
    if row is None:
        return None, None
    return row["energy_j"] * share_s / row["time_s"], row["bound_j"] * share_s / row["time_s"]


def add_joules(lines: Sequence[dict[str, Any]], pass_: Mapping[str, Any], power: Mapping[str, Any]) -> None:
    """Of the ledger's lines by kernel, where they ran on the GPU whose energy was split: `joules`, `bound_j`, and
    `told_apart`: whether the kernel's joules are known to be its own."""
    if not power["kernels_available"]:
        return
    device = pass_["kernels"]["power"]["device"]
    for line in lines:
        if line["device"] == device:
            line["joules"], line["bound_j"] = row_joules(power, line["name"], line["share_s"])
            row = _row(power, line["name"])
            line["told_apart"] = row and row["told_apart"]


def unavailable(reason: str) -> dict[str, Any]:
    """kernel_power() where energy was not split."""
    return {"kernels_available": False, "kernels_reason": reason, "kernels": [], "no_kernel": None,
            "kernels_windows": 0, "kernels_unexplained_share": None, "kernels_notes": []}  # fmt: skip


def _gpu(samples: Mapping[str, Any], uuid: str | None) -> str | None:
    """The sampler's name of a GPU: by its UUID, since CUDA and NVML number GPUs differently; else the only one."""
    gpus = samples.get("gpus", [])
    if uuid is None:
        return f"gpu{gpus[0]['index']}" if len(gpus) == 1 else None
    return next((f"gpu{gpu['index']}" for gpu in gpus if gpu["uuid"] == uuid), None)


def _floor_w(pass_: Mapping[str, Any], gpu: str) -> float:
    """What this GPU draws at least: idle less its bound, where idle was measured."""
    rows = (pass_.get("idle") or {}).get("sources", [])
    row = next((row for row in rows if row["source"] == gpu and row["idle_w"] is not None), None)
    return max(0.0, row["idle_w"] - row["idle_bound_w"]) if row else 0.0
