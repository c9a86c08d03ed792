"""What it costs to start work on the GPU: the call, the way to the device, the gap between kernels, a graph's node.

Kernels: csrc/machine/launches.cu. The host's time is CLOCK_MONOTONIC, read in C++ around each launch; the device's is
that of events around many empty kernels, less the same around one.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from perfsuite import cuda_extension
from perfsuite.gpu_machine.device import Gpu
from perfsuite.gpu_machine.sections import Found, Prepared
from perfsuite.stats import spread

CALLS = 200
"""Fewer than the driver queues before a launch has to wait."""
NODES = 1000
OPS = 500

MEANINGS = {
    "call_ns": f"host time of one launch of an empty kernel from C++ (samples: medians of {CALLS})",
    "round_trip_ns": "from before a launch until the host sees what the kernel wrote into its memory (medians of 50)",
    "kernel_period_ns": f"device time of an empty kernel among {CALLS} that wait in the queue",
    "graph_node_ns": f"device time of an empty kernel among {NODES} of one CUDA graph",
    "graph_call_ns": f"host time of the call that replays a graph of {NODES} empty kernels",
    "op_ns": f"time of the smallest torch op (add of two one-element tensors) among {OPS}, host and device together",
}
"""The entries of "launch"."""


def prepare(gpu: Gpu, _notes: list[str]) -> Prepared:
    """Tasks by ("launch", entry) in ns; they give "launch" and "op_overhead_ns"."""
    import torch

    on = torch.zeros(1, device=gpu.device)
    took = torch.zeros(CALLS, dtype=torch.int64)
    flag = gpu.host_buffer(8, pinned=True)

    def launches(count: int, times: int | None = None) -> None:
        cuda_extension.call("machine_launches", torch.float32, on, count, times)

    def call() -> list[float]:
        launches(CALLS, took.data_ptr())
        gpu.synchronize()
        return [float(took.median())]

    def round_trip() -> list[float]:
        gpu.synchronize()
        trips = took[:50]
        cuda_extension.call("machine_round_trips", torch.float32, on, 50, flag.data_ptr(), trips.data_ptr())
        return [float(trips.median())]

    def period() -> list[float]:
        many, one = gpu.event_ns(lambda: launches(CALLS + 1)), gpu.event_ns(lambda: launches(1))
        return [(many - one) / CALLS]

    many_nodes, one_node = gpu.graph(lambda: launches(NODES + 1), 1), gpu.graph(lambda: launches(1), 1)

    def graph_node() -> list[float]:
        return [(gpu.event_ns(many_nodes) - gpu.event_ns(one_node)) / NODES]

    def graph_call() -> list[float]:
        return [median(_call_ns(gpu, many_nodes) for _ in range(10))]

    a, b = (torch.ones(1, device=gpu.device) for _ in range(2))

    def ops() -> None:
        for _ in range(OPS):
            torch.add(a, b)

    def op() -> list[float]:
        return [gpu.host_ns(ops) / OPS]

    tasks: dict[str, Callable[[], list[float]]] = {
        "call_ns": call, "round_trip_ns": round_trip, "kernel_period_ns": period, "graph_node_ns": graph_node,
        "graph_call_ns": graph_call, "op_ns": op,
    }  # fmt: skip
    for task in tasks.values():
        task()  # loads kernels, allocates

    def finish(found: Found) -> dict[str, Any]:
        entries = {name: spread(found["launch", name], best="low") for name in tasks}
        return {"launch": entries, "op_overhead_ns": entries["op_ns"]}

    return Prepared({("launch", name): task for name, task in tasks.items()}, finish)


def _call_ns(gpu: Gpu, run: Callable[[], Any]) -> int:
    gpu.synchronize()
    start = time.monotonic_ns()
    run()
    took = time.monotonic_ns() - start
    gpu.synchronize()
    return took
