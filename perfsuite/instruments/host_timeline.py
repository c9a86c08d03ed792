"""What a timeline needs of sampled Python stacks: a tree of calls, and which node of it was seen from when to when."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

MAX_SLICES = 200_000
"""About half an hour in which every sample at 100 Hz shows another stack."""
Frame = tuple[str, str, int | None]


class CallTree:
    """Stacks, each as the node of its innermost frame: stacks with the same callers share them."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, Frame], int] = {}

    def node(self, caller: int, frame: Frame) -> int:
        """The node of `frame` called by the node `caller` (-1: by nobody)."""
        return self._nodes.setdefault((caller, frame), len(self._nodes))

    def plain(self, short: Callable[[str], str]) -> tuple[list[list[Any]], np.ndarray]:
        """The frames as [function, file, line], and int64 (nodes, 2): node of the caller, index of the frame.

        short gives the name of a file to store.
        """
        frames = {frame: i for i, frame in enumerate(dict.fromkeys(frame for _, frame in self._nodes))}
        nodes = np.array([(caller, frames[frame]) for caller, frame in self._nodes], np.int64).reshape(-1, 2)
        return [[function, short(file), line] for function, file, line in frames], nodes


def timeline(seen: Iterable[tuple[float, float, int]], tree: CallTree, start_ns: int, stop_ns: int,
             short: Callable[[str], str]) -> dict[str, Any]:  # fmt: skip
    """What a record keeps of (begin ns, end ns, node or -1), for stacks first seen between start_ns and stop_ns.

    Returns {"frames": [[function, file, line]], "stacks_dropped": how many of the last ones found no room, "arrays":
    {"stack_slices": int64 (n, 3) begin ns, end ns, node; "stack_nodes": int64 (m, 2) node of the caller, frame}}.
    """
    slices = [(round(begin), min(round(end), stop_ns), node)
              for begin, end, node in seen if node >= 0 and start_ns <= begin < stop_ns]  # fmt: skip
    frames, nodes = tree.plain(short)
    return {
        "frames": frames,
        "stacks_dropped": max(0, len(slices) - MAX_SLICES),
        "arrays": {"stack_slices": np.array(slices[:MAX_SLICES], np.int64).reshape(-1, 3), "stack_nodes": nodes},
    }
