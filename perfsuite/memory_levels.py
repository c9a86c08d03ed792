"""Which working sets show the speed of each level of the memory system. Pure functions of the caches; a leaf."""

from collections.abc import Sequence
from typing import NamedTuple

from perfsuite.topology import Cache

# Where nothing is known of the caches: larger than the last level of most.
_BLIND_WORKING_SET_BYTES = 512 << 20
_LAST_LEVELS = 8


class Level(NamedTuple):
    """One level as it will be measured. Bytes are of all threads together, but for the pointer chase's one thread."""

    name: str
    capacity_bytes: int | None
    working_set_bytes: int
    chase_bytes: int
    line_bytes: int
    note: str | None


def _working_set(size_bytes: int, below_bytes: int, shared: bool) -> int:
    # Half of a core's own cache leaves room for stacks and page tables. A cache that cores share is also used by
    # everybody else on the machine, so that only an eighth is sure to stay; four times the level below where that fits.
    return max(size_bytes // 8, min(4 * below_bytes, size_bytes // 4)) if shared else size_bytes // 2


def plan_levels(
    cpus: Sequence[int], caches: Sequence[Cache], caches_reason: str | None, memory_bytes: int | None
) -> tuple[list[Level], list[str]]:
    """Levels from the innermost cache to DRAM for one thread on each of `cpus`, and notes on what is not as usual.

    `memory_bytes` is what may be used at most, None where that is unknown.
    """
    notes = [] if caches else [f"only DRAM is measured: {caches_reason}"]
    levels: list[Level] = []
    below, chase_below = 0, 0
    for number in sorted({cache.level for cache in caches}):
        used = [c for c in caches if c.level == number and set(c.cpus) & set(cpus)]
        if not all(any(cpu in c.cpus for c in used) for cpu in cpus):
            # Some low-power cores have no cache of this level; their share would be measured at the next one.
            notes.append(f"L{number} is left out: not every processor used has one")
            continue
        if len({c.size_bytes for c in used}) > 1:
            notes.append(f"L{number} differs from core to core: every thread gets what fits the smallest share")
        capacity = sum(c.size_bytes for c in used)
        # Threads that share a cache share its room; all threads get the same, so the smallest share counts.
        share = min(c.size_bytes // sum(cpu in c.cpus for cpu in cpus) for c in used)
        first = next(c for c in used if cpus[0] in c.cpus)
        shared = number > 2 and any(len(c.cpus) > 1 for c in used)
        working = len(cpus) * _working_set(share, below // len(cpus), shared)
        chase = _working_set(first.size_bytes, chase_below, shared)
        note = None
        if working < 4 * below:
            # E.g. a last level no larger than the second levels together: half of it on top of all that is below.
            working, chase = below + share * len(cpus) // 2, chase_below + first.size_bytes // 2
            note = "less than four times the level below, which serves part of the working set"
        levels.append(Level(f"L{number}", capacity, working, chase, first.line_bytes, note))
        below, chase_below = capacity, first.size_bytes
    # Four times the caches is the rule of the STREAM benchmark; a last level that keeps part of a cyclic walk (adaptive
    # replacement) still serves a quarter of that, so twice as much again.
    working = _LAST_LEVELS * below or _BLIND_WORKING_SET_BYTES
    chase = _LAST_LEVELS * chase_below or _BLIND_WORKING_SET_BYTES
    note = None
    if memory_bytes is not None and working > memory_bytes // 4:
        working = memory_bytes // 4
        chase = min(chase, working)
        if working < 4 * below:
            note = "memory is too small for four times the caches, which serve part of the working set"
    levels.append(Level("DRAM", None, working, chase, levels[-1].line_bytes if levels else 64, note))
    notes += [f"{level.name}: {level.note}" for level in levels if level.note]
    return levels, notes
