"""Lanes for slices that overlap: on one track of a Perfetto trace a slice that outlasts the one around it is lost."""

from collections.abc import Iterator

import numpy as np


def lanes(start_ns: np.ndarray, end_ns: np.ndarray, nested: bool) -> list[np.ndarray]:
    """The indices of the slices of each lane, in the order in which they begin; the first lane that fits is taken.

    start_ns, end_ns: int64 (n,), end >= start. nested: a slice may lie within another one of its lane, else only after.
    Of nested slices with the same times the first one given is the outer one.
    """
    # Of slices that begin together the longest goes around the others, or after those without a length.
    order = np.lexsort((-end_ns if nested else end_ns, start_ns))
    found: list[tuple[list[int], list[int]]] = []  # what a lane holds, and the ends of what is open in it
    for i, start, end in zip(order.tolist(), start_ns[order].tolist(), end_ns[order].tolist(), strict=True):
        for _, ends in found:
            while ends and ends[-1] <= start:
                ends.pop()
        free = (lane for lane in found if not lane[1] or (nested and end <= lane[1][-1]))
        lane = next(free, None)
        if lane is None:
            lane = ([], [])
            found.append(lane)
        lane[0].append(i)
        lane[1].append(end)
    return [np.array(indices, np.int64) for indices, _ in found]


def begins_and_ends(start_ns: np.ndarray, end_ns: np.ndarray, lane: np.ndarray) -> Iterator[tuple[int, int, bool]]:
    """(time, index, whether it begins) of the slices of one lane, in the order in which they must be written."""
    around: list[tuple[int, int]] = []
    for i, start, end in zip(lane.tolist(), start_ns[lane].tolist(), end_ns[lane].tolist(), strict=True):
        while around and around[-1][0] <= start:
            ended, index = around.pop()
            yield ended, index, False
        yield start, i, True
        around.append((end, i))
    while around:
        ended, index = around.pop()
        yield ended, index, False
