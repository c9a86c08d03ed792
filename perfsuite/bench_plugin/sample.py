"""The figures of one benchmark in one process."""

from collections.abc import Mapping, Sequence
from statistics import quantiles
from typing import Any, NamedTuple

COUNTS = {"bytes": 0, "flops": 0, "launches": 0, "peak_bytes": 4096}
"""Quantities without chance, and how much each may grow, beyond 0.1 %, before it counts as more: peak memory by a page
of the allocator."""


def typical(rounds: Sequence[float]) -> float:
    """The time that stands for a process: the first quartile of its rounds.

    What other programs take from a shared machine only ever adds to a round, so that the lower part of the rounds knows
    the code better (Chen and Revels 2016, "Robust benchmarking in noisy environments", take the minimum). The minimum
    would not notice what slows three calls of four. bench/calibrate.py shows what medians would find.
    """
    return quantiles(rounds, n=4, method="inclusive")[0] if len(rounds) > 1 else rounds[0]


class Sample(NamedTuple):
    """What one process found of one benchmark; None where it is not known."""

    time_s: float
    """Of one call: typical() of the rounds; device time on a GPU."""
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
        """From typical() rounds and extra_info["perfsuite"] of a benchmark, which may hold little or nothing."""
        energy, clock = found.get("energy") or {}, found.get("clock") or {}
        counts = {name: found.get(name) for name in COUNTS}
        return cls(time_s, energy.get("joules"), energy.get("bound_j"), tuple(clock.get("lowered_by") or ()), **counts)
