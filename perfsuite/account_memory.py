"""Memory of the GPU: what torch's allocator held at its peak and for what, and the traffic between host and device."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from perfsuite.account_blocks import why_not

_FIELDS = ("device", "allocated_peak_bytes", "reserved_peak_bytes", "fragmentation_share", "peak", "retries", "ooms",
           "num_device_alloc", "notes")  # fmt: skip


def gpu_memory_block(pass_: Mapping[str, Any]) -> dict[str, Any]:
    """The account's `memory.gpu`: what the memory account left (of a run on a CPU as well), and the copies."""
    held = pass_.get("gpu_memory")
    kernels = pass_.get("kernels")
    reason = None if held is not None else why_not(pass_, "gpu memory", "no memory account was kept in this pass")
    no_traffic = None
    if kernels is None:
        no_traffic = why_not(pass_, "kernel recorder", "no kernel recorder ran in this pass")
    return {
        "available": held is not None, "reason": reason,
        **{name: (held or {}).get(name) for name in _FIELDS},
        "traffic": [] if kernels is None else _traffic(kernels), "traffic_reason": no_traffic,
    }  # fmt: skip


def _traffic(kernels: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Copies by direction and kind of host memory; the bandwidth is bytes over the sum of their durations."""
    groups: defaultdict[tuple[str, Any], list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in kernels["rows"]:
        if row["kind"] != "memcpy":
            continue
        copy = row["copy"] or {"direction": "unknown", "pinned": None}
        sums = groups[copy["direction"], copy["pinned"]]
        for i, name in enumerate(("calls", "bytes", "time_ns")):
            sums[i] += row[name] or 0
    return [
        {"direction": direction, "pinned": pinned, "calls": calls, "bytes": moved, "time_s": ns / 1e9,
         "bandwidth_bytes_per_s": moved / (ns / 1e9) if ns else None}
        for (direction, pinned), (calls, moved, ns) in sorted(groups.items(), key=lambda group: -group[1][1])
    ]  # fmt: skip
