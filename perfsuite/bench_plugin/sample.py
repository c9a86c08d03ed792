"""The figures of one benchmark in one process."""

from collections.abc import Mapping
from typing import Any, NamedTuple

COUNTS = {"bytes": 0, "flops": 0, "launches": 0, "peak_bytes": 4096}
"""Quantities without chance, and how much each may grow, beyond 0.1 %, before it counts as more: peak memory by a page
of the allocator."""


class Sample(NamedTuple):
    """What one process found of one benchmark; None where it is not known."""

    time_s: float
    """Median over the rounds, of one call: device time on a GPU."""
    joules: float | None = None
    """Of one call."""
    joules_bound: float | None = None
    lowered_by: tuple[str, ...] = ()
    """Why the GPU lowered its clock meanwhile."""
    bytes: int | None = None
    flops: int | None = None
    launches: int | None = None
    peak_bytes: int | None = None

    @classmethod
    def of(cls, time_s: float, found: Mapping[str, Any]) -> "Sample":
        """From the median and extra_info["perfsuite"] of a benchmark, which may hold little or nothing."""
        energy, clock = found.get("energy") or {}, found.get("clock") or {}
        counts = {name: found.get(name) for name in COUNTS}
        return cls(time_s, energy.get("joules"), energy.get("bound_j"), tuple(clock.get("lowered_by") or ()), **counts)
