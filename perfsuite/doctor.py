"""What was built, which instruments work on this machine, and why others do not."""

import importlib.util
import shutil
import sys
from typing import Any

from perfsuite import _native, conditions, machine
from perfsuite.instruments import YES, Availability, no


def examine() -> list[dict[str, Any]]:
    """One row a thing: {"group", "name", "available", "reason", "detail"}."""
    rows: list[dict[str, Any]] = []

    def add(group: str, name: str, availability: Availability, detail: str = "") -> None:
        rows.append({"group": group, "name": name, **availability._asdict(), "detail": detail})

    add("built", "perfsuite._native", YES, str(_native.__file__))
    from perfsuite import cuda_extension, torch_extension

    for name, extension in (("perfsuite._torch", torch_extension), ("CUDA kernels", cuda_extension)):
        status = extension.status()
        add("built", name, Availability(status.available, status.reason), status.note or str(status.path))
    for package, purpose in (
        ("torch", "workloads, ops"),
        ("triton", "Triton implementations"),
        ("plotly", "report.html"),
        ("perfetto", "trace.perfetto-trace"),
        ("mlperf_logging", "official checks of logs"),
    ):
        add("packages", package, _package(package), purpose)
    path = shutil.which("g++")
    add("tools", "g++", YES if path else no("not on PATH; builds perfsuite._torch"), path or "")
    try:
        add("tools", "nvcc", YES, cuda_extension.nvcc())
    except ValueError as error:
        add("tools", "nvcc", no(str(error)))
    from perfsuite.instruments.host_stacks import HostStacks
    from perfsuite.instruments.sampler import Sampler

    add("instruments", "phase clock", YES)
    if importlib.util.find_spec("torch"):
        from perfsuite.instruments.allocator import AllocatorAccount
        from perfsuite.instruments.gpu_memory import MemoryAccount
        from perfsuite.instruments.kernels import KernelRecorder
        from perfsuite.instruments.ops import OpRecorder

        add("instruments", "op recorder", OpRecorder.available())
        add("instruments", "allocator account", AllocatorAccount.available())
        add("instruments", "kernel recorder", KernelRecorder().available())
        add("instruments", "memory account", MemoryAccount.available())
    else:
        add("instruments", "op recorder", no("torch is not installed"))
    for name, availability in Sampler().sources().items():
        add("instruments", f"sampler: {name}", availability)
    from perfsuite.instruments.counters import CounterTimeline

    add("instruments", "counter timeline", CounterTimeline().available())
    add("instruments", "host stacks", HostStacks().available())
    if importlib.util.find_spec("torch"):
        from perfsuite.kernels import contract

        device = conditions.default_device()
        for op in contract.MODULES:
            for implementation in contract.op(op).implementations.values():
                reason = implementation.why_not(device)
                add("ops", f"{op}={implementation.name}", no(reason) if reason else YES, f"on {device}")
    ceilings, reason = machine.load_ceilings()
    add("machine", machine.machine_name(), YES if ceilings else no(reason or ""), "measured ceilings")
    add("machine", "python", YES, sys.version.split()[0])
    return rows


def _package(name: str) -> Availability:
    if importlib.util.find_spec(name) is None:
        return no(f"not installed: pip install {name.replace('_', '-')}")
    return YES

