"""Bandwidth of a GPU's L2 and of its memory: read, write, copy and triad, their results verified.

Kernels: csrc/machine/stream.cu. Bytes are those that the program reads plus those that it writes.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from perfsuite import cuda_extension
from perfsuite.ceiling_tasks import Task
from perfsuite.gpu_machine import plan
from perfsuite.gpu_machine.device import Gpu, check_second_timer
from perfsuite.gpu_machine.sections import Prepared
from perfsuite.stats import spread

if TYPE_CHECKING:
    import torch

KINDS = ("read", "write", "copy", "triad")
ARRAYS = {"read": 1, "write": 1, "copy": 2, "triad": 3}
"""How many arrays a kernel reads or writes."""
FACTOR = 3.0
"""Of the triad, and what `write` writes."""
_LEVELS = ("L2", "DRAM")
_REPETITION_NS = 1e6
_BLOCKS_EACH = (4, 8, 32)


class Arrays(NamedTuple):
    """float32; a is written, b and c hold whole numbers below 2^22, so that b + 3 c is exact in float32."""

    a: "torch.Tensor"
    b: "torch.Tensor"
    c: "torch.Tensor"
    sum: "torch.Tensor"
    """One word that `read` adds to."""


def arrays(device: str, size_bytes: int) -> Arrays:
    """Three arrays of this size, a full of NaN."""
    import torch

    count = size_bytes // 4
    # Random bits, not zeros: data that toggles no wires draws less power and lets the clock rise.
    b, c = (torch.randint(0, 1 << 22, (count,), dtype=torch.int32, device=device).float() for _ in range(2))
    a = torch.full((count,), torch.nan, device=device)
    return Arrays(a, b, c, torch.zeros(1, dtype=torch.int32, device=device))


def stream(kind: str, on: Arrays, size_bytes: int, passes: int, blocks_each: int) -> None:
    """Launch `passes` passes over the first size_bytes of each array, with so many blocks for each multiprocessor."""
    import torch

    cuda_extension.call(
        "machine_stream", torch.float32, KINDS.index(kind), on.a, on.b, on.c, FACTOR, on.sum, size_bytes // 4, passes,
        blocks_each,
    )  # fmt: skip


def wrong(kind: str, on: Arrays, size_bytes: int, passes: int, blocks_each: int) -> str | None:
    """Run it once on a poisoned target and compare all of the result: what is wrong, None where it is right."""
    import torch

    count = size_bytes // 4
    on.a.fill_(torch.nan)
    on.sum.zero_()
    stream(kind, on, size_bytes, passes, blocks_each)
    if kind == "read":
        wanted = words(on, size_bytes) * passes % (1 << 32)
        return None if on.sum.item() % (1 << 32) == wanted else "read: the sum of what was read is wrong"
    a, b, c = (array[:count] for array in (on.a, on.b, on.c))
    right = {"write": lambda: bool((a == FACTOR).all()), "copy": lambda: torch.equal(a, b),
             "triad": lambda: torch.equal(a, torch.add(b, c, alpha=FACTOR))}[kind]()  # fmt: skip
    return None if right else f"{kind}: what was written is wrong"


def words(on: Arrays, size_bytes: int) -> int:
    """Sum of the 32-bit words of b."""
    import torch

    return int(on.b[: size_bytes // 4].view(torch.int32).sum(dtype=torch.int64).item())


def prepare(gpu: Gpu, notes: list[str]) -> Prepared:
    """Tasks by ("L2" or "DRAM", kernel) in bytes per second; they give "levels". RuntimeError for a wrong result."""
    size, note = plan.array_bytes(gpu.l2_bytes, gpu.free_bytes())
    if note:
        notes.append(note)
    on = arrays(gpu.device, size)
    sizes = {"L2": {kind: plan.l2_array_bytes(gpu.l2_bytes, ARRAYS[kind]) for kind in KINDS},
             "DRAM": dict.fromkeys(KINDS, size)}  # fmt: skip
    tasks: dict[tuple[str, str], Task] = {}
    shapes: dict[tuple[str, str], dict[str, Any]] = {}
    for level in _LEVELS:
        for kind in KINDS:
            each = min(sizes[level][kind], size)
            tasks[level, kind], shapes[level, kind] = _task(gpu, kind, on, each)

    def finish(found: Mapping[tuple[str, str], list[float]]) -> dict[str, Any]:
        return {"levels": [_level(level, gpu, shapes, found) for level in _LEVELS]}

    return Prepared(tasks, finish)


def _task(gpu: Gpu, kind: str, on: Arrays, size: int) -> tuple[Task, dict[str, Any]]:
    def timed(passes: int, each: int) -> float:
        return gpu.event_ns(lambda: stream(kind, on, size, passes, each))

    passes = 1
    timed(passes, _BLOCKS_EACH[0])  # the first launch loads the kernel
    for _ in range(2):
        passes = max(1, int(passes * _REPETITION_NS / max(1.0, timed(passes, _BLOCKS_EACH[0]))))
    each = min(_BLOCKS_EACH, key=lambda count: min(timed(passes, count) for _ in range(3)))
    problem = wrong(kind, on, size, passes, each)
    if problem:
        raise RuntimeError(problem)
    moved = ARRAYS[kind] * size * passes
    timers = check_second_timer(gpu, lambda: stream(kind, on, size, passes, each))

    def repeat() -> list[float]:
        return [moved * 1e9 / timed(passes, each) for _ in range(3)]

    return repeat, {"working_set_bytes": ARRAYS[kind] * size, "passes": passes, "blocks_each": each, "timers": timers}


def _level(
    level: str, gpu: Gpu, shapes: Mapping[tuple[str, str], dict[str, Any]],
    found: Mapping[tuple[str, str], list[float]],
) -> dict[str, Any]:  # fmt: skip
    entry: dict[str, Any] = {"name": level, "capacity_bytes": gpu.l2_bytes if level == "L2" else None}
    entry["working_set_bytes"] = max(shapes[level, kind]["working_set_bytes"] for kind in KINDS)
    for kind in KINDS:
        entry[f"{kind}_bytes_per_s"] = spread(found[level, kind]) | shapes[level, kind]
    return entry
