"""From sampled stacks to slices: a frame lasts as long as sample after sample shows it under the same callers."""

import numpy as np


def nested(slices: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Begin and end in ns and the frame of every slice, int64 (n,) each; a caller stands before those it called.

    slices: int64 (samples, 3), rising: begin, end, node of the innermost frame. nodes: int64 (m, 2), the tree of calls:
    node of the caller (-1: none), frame.
    """
    made: list[tuple[int, int, int, int]] = []
    around: list[tuple[int, int]] = []  # node, begin
    last_ns = 0

    def close(depth: int) -> None:
        while len(around) > depth:
            node, begin = around.pop()
            made.append((begin, len(around), last_ns, int(nodes[node, 1])))

    for begin, end, node in slices.tolist():
        path = []
        while node >= 0:
            path.append(node)
            node = int(nodes[node, 0])
        path.reverse()
        same = 0
        while begin == last_ns and same < min(len(path), len(around)) and path[same] == around[same][0]:
            same += 1
        close(same)
        around += [(node, begin) for node in path[same:]]
        last_ns = end
    close(0)
    out = np.array(sorted(made), np.int64).reshape(-1, 4)  # a caller before those it called at the same time
    return out[:, 0], out[:, 2], out[:, 3]
