"""Where the memory account learns what an allocator did: our wrapper on the CPU, torch's own history on a GPU.

Not the reporting interface of torch's profiler: while torch.profiler runs one of the two would hide the other, and on
the CPU it does not tell of frees of blocks that are older than itself.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perfsuite import _native, torch_extension
from perfsuite.instruments.memory_replay import Allocations

MAX_EVENTS = 200_000
"""Of one step; of a step with more nothing is kept."""
CUDA_ROUNDING_BYTES = 512
"""torch's caching allocator hands out multiples of it, but its history has what was asked for."""


class CpuAllocator:
    """What AllocatorAccount counts, which has to run, and tensors that are older than it as far as they are known."""

    def __init__(self) -> None:
        self._native = torch_extension.load()
        self._older: list[tuple[int, int, Any]] = []
        self._current_bytes = 0
        self._uncounted_then: dict[int, int] = {}

    def start(self, storages: Sequence[Any]) -> None:
        """storages: those that are known; they were made before the account of the allocator began."""
        from torch.multiprocessing.reductions import StorageWeakRef

        self._older = [(storage.data_ptr(), storage.nbytes(), StorageWeakRef(storage)) for storage in storages]

    def _uncounted(self) -> dict[int, int]:
        """Bytes by address of those that are still there; another block may have got the address of one that is not."""
        return {address: size for address, size, storage in self._older if not storage.expired()}

    def begin(self) -> str | None:
        """Log allocations from here on; why that cannot be done, or None."""
        self._current_bytes, _ = self._native.allocator_held()
        self._uncounted_then = self._uncounted()
        self._native.allocation_log_start(MAX_EVENTS)
        return None

    def cancel(self) -> None:
        """End the log and forget it."""
        self._native.allocation_log_stop()

    def end(self, known: Mapping[int, int]) -> Allocations | str:
        """End the log. known: bytes by address of tensors at begin(). A reason where there is nothing to replay."""
        log = self._native.allocation_log_stop()
        if log["dropped"]:
            return f"it has more than {MAX_EVENTS} allocations and frees"
        counted = sum(size for address, size in known.items() if address not in self._uncounted_then)
        return Allocations(log["events"], known, max(0, self._current_bytes - counted))

    def totals(self) -> dict[str, int | None]:
        """Peaks since the start, and what only the CUDA allocator has: null."""
        _, peak = self._native.allocator_held()
        return {"allocated_peak_bytes": peak + sum(self._uncounted().values()), "reserved_peak_bytes": None,
                "retries": None, "ooms": None, "num_device_alloc": None}  # fmt: skip

    def notes(self) -> list[str]:
        """What is to be known of these figures."""
        kept = self._native.reuse_sums()["kept_bytes"]
        notes = ["sizes are as malloc rounds them; of tensors older than the watch those of known categories count"]
        if kept:
            notes.append(f"{kept} bytes are kept for reuse by the suite's own operators, and count as allocated")
        return notes


class CudaAllocator:
    """torch's caching allocator of one device, through torch.cuda.memory."""

    _COUNTS = ("num_alloc_retries", "num_ooms", "num_device_alloc")

    def __init__(self, device: Any) -> None:
        self._device = device
        self._at_start: dict[str, int] = {}

    def start(self, storages: Sequence[Any]) -> None:
        """Peaks are counted from here on: torch's own peak statistics are reset."""
        import torch

        torch.cuda.reset_peak_memory_stats(self._device)
        self._at_start = dict(torch.cuda.memory_stats(self._device))

    def begin(self) -> str | None:
        """Record torch's history of allocations from here on; why that cannot be done, or None."""
        import torch

        if getattr(torch._C, "_cuda_isHistoryEnabled", lambda: False)():
            return "this process records torch's memory history itself"
        torch.cuda.memory._record_memory_history("all", context=None, stacks="python", max_entries=MAX_EVENTS,
                                                 clear_history=True)  # fmt: skip
        return None

    def cancel(self) -> None:
        """Stop recording and forget it."""
        import torch

        torch.cuda.memory._record_memory_history(None)

    def end(self, known: Mapping[int, int]) -> Allocations | str:
        """Stop recording. A reason where there is nothing to replay."""
        import torch

        snapshot = torch.cuda.memory._snapshot(self._device)
        torch.cuda.memory._record_memory_history(None)
        return from_snapshot(snapshot, self._device.index or 0, time.time_ns() - _native.now_ns())

    def totals(self) -> dict[str, int | None]:
        """Peaks and counts since the start."""
        import torch

        stats = torch.cuda.memory_stats(self._device)
        retries, ooms, allocs = (
            None if name not in stats else int(stats[name]) - int(self._at_start.get(name, 0)) for name in self._COUNTS
        )
        return {"allocated_peak_bytes": stats.get("allocated_bytes.all.peak"),
                "reserved_peak_bytes": stats.get("reserved_bytes.all.peak"),
                "retries": retries, "ooms": ooms, "num_device_alloc": allocs}  # fmt: skip

    def notes(self) -> list[str]:
        """What is to be known of these figures."""
        return [f"sizes in the replayed step are those asked for, rounded up to {CUDA_ROUNDING_BYTES} bytes; what a "
                "replay of a CUDA graph uses was allocated when it was captured, and counts as other"]  # fmt: skip


def from_snapshot(snapshot: Mapping[str, Any], device: int, epoch_minus_monotonic_ns: int) -> Allocations | str:
    """The step that torch.cuda.memory._snapshot() tells of: its history, walked back from what is there at its end.

    snapshot: segments and device_traces as torch documents them, times in us since 1970 under "time_us".
    """
    trace = snapshot["device_traces"][device]
    if len(trace) >= MAX_EVENTS:  # a ring: the first ones are overwritten
        return f"it has more than {MAX_EVENTS} allocations and frees"
    if trace and "time_us" not in trace[0]:
        return "this torch's memory history has no times"
    segments = [segment for segment in snapshot["segments"] if segment.get("device", device) == device]
    before = {block["address"]: block["size"] for segment in segments for block in segment["blocks"]
              if block["state"] == "active_allocated"}  # fmt: skip
    reserved_bytes = sum(segment["total_size"] for segment in segments)
    events, reserved = [], []
    for entry in trace:
        t_ns = entry["time_us"] * 1000 - epoch_minus_monotonic_ns
        action, size = entry["action"], entry["size"]
        rounded = max(1, -(-size // CUDA_ROUNDING_BYTES)) * CUDA_ROUNDING_BYTES
        if action == "alloc":
            events.append((t_ns, entry["addr"], rounded))
        elif action == "free_requested":
            events.append((t_ns, entry["addr"], -rounded))
        elif action in ("segment_alloc", "segment_map"):
            reserved.append((t_ns, size))
        elif action in ("segment_free", "segment_unmap"):
            reserved.append((t_ns, -size))
    for _, address, size in reversed(events):
        if size > 0:
            before.pop(address, None)
        else:
            before[address] = -size
    return Allocations(
        np.array(events, np.int64).reshape(-1, 3), before,
        reserved_before_bytes=reserved_bytes - sum(change for _, change in reserved),
        reserved=np.array(reserved, np.int64).reshape(-1, 2),
    )  # fmt: skip
