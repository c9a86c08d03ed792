"""Arrows from the op that launched a kernel to the kernel.

An arrow is drawn only where it is known which op it was: the one of the name and the thread that the kernel recorder
gives as the site of the launch, and running when the launch began.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]


class Flows(NamedTuple):
    """Numbers of arrows by the slices they join."""

    of_ops: Mapping[int, list[int]]
    """By index into op_slices."""
    of_kernels: Mapping[int, list[int]]
    """By index into kernel_slices."""
    note: str
    """Which kernels have none, and why; "" where all have one."""


def find(pass_: Mapping[str, Any], arrays: Arrays, first_number: int) -> Flows:
    """Arrows of a pass, numbered from first_number.

    They need the arrays op_slices, kernel_slices and kernel_launch_ns: int64 (kernel slices,), monotonic ns at which
    the call that launched each began, -1 where that is not known.
    """
    kernels, ops = arrays.get("kernel_slices"), arrays.get("op_slices")
    if kernels is None or not len(kernels):
        return Flows({}, {}, "")
    launches = arrays.get("kernel_launch_ns")
    if launches is None or ops is None or not len(ops):
        missing = "the times of launches" if launches is None else "single ops"
        return Flows({}, {}, f"no arrows from ops to kernels: {missing} were not recorded")
    names, rows, sites = pass_["op_slice_names"], pass_["kernels"]["rows"], pass_["kernels"]["sites"]
    by_site: defaultdict[int, list[int]] = defaultdict(list)
    for i, row in enumerate(kernels[:, 2].tolist()):
        if rows[row]["site"] is not None and launches[i] >= 0:
            by_site[rows[row]["site"]].append(i)
    of_ops: defaultdict[int, list[int]] = defaultdict(list)
    of_kernels: dict[int, list[int]] = {}
    for site, launched in by_site.items():
        name, on_clock = sites[site]["name"], sites[site]["thread"] == "clock"
        if name not in names:
            continue
        candidates = np.flatnonzero((ops[:, 2] == names.index(name)) & ((ops[:, 3] == 0) == on_clock))
        for i, op in zip(launched, _running(ops[candidates], launches[launched]), strict=True):
            if op >= 0:
                number = first_number + i
                of_kernels[i] = [number]
                of_ops[int(candidates[op])].append(number)
    without = len(kernels) - len(of_kernels)
    note = f"no arrow to {without} of {len(kernels)} kernels and copies: the op that launched them is not drawn"
    return Flows(of_ops, of_kernels, note if without else "")


def _running(ops: np.ndarray, t_ns: np.ndarray) -> np.ndarray:
    """The index of the innermost op running at each time; -1: none, or several on different threads."""
    order = np.argsort(ops[:, 0], kind="stable")
    found = np.full(len(t_ns), -1, np.int64)
    for k, (t, after) in enumerate(zip(t_ns, np.searchsorted(ops[order, 0], t_ns, side="right"), strict=True)):
        # Ops of one name and thread are nested rarely and not deep: the last few that began are enough.
        running = [i for i in order[max(0, after - 8) : after] if ops[i, 1] >= t]
        if running and len({ops[i, 3] for i in running}) == 1:
            found[k] = running[-1]
    return found
