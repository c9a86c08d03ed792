"""What is measured of a GPU, part by part: each part prepares tasks, which are then interleaved with those of others.

A part that fails is absent with its reason; the others go on.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from perfsuite.ceiling_tasks import Task, interleave
from perfsuite.gpu_machine.device import Gpu

Key = tuple[str, str]
Found = Mapping[Key, list[float]]


class Prepared(NamedTuple):
    """A part that is ready to be measured."""

    tasks: dict[Key, Task]
    finish: Callable[[Found], dict[str, Any]]
    """Makes entries of the GPU's document of the samples of its tasks."""


Prepare = Callable[[Gpu, list[str]], Prepared]
"""Given the GPU and a list that notes are added to. RuntimeError and ValueError say why the part cannot be measured."""


def measure_parts(
    gpu: Gpu, parts: Mapping[str, Prepare], rounds: int, until: float, report: Callable[[int], None], notes: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """(entries, {part: why it is absent}). `until`: monotonic seconds after which no new round begins."""
    absent: dict[str, str] = {}
    prepared: dict[str, Prepared] = {}
    for name, prepare in parts.items():
        try:
            prepared[name] = prepare(gpu, notes)
        except (RuntimeError, ValueError) as error:  # a wrong result, no compiler, no memory, ...
            absent[name] = one_line(error)
            gpu.recover()
    tasks = {
        key: _guarded(gpu, task, name, absent) for name, part in prepared.items() for key, task in part.tasks.items()
    }
    found = interleave(tasks, rounds, until, report) if tasks else {}
    entries: dict[str, Any] = {}
    for name, part in prepared.items():
        if name not in absent:
            entries |= part.finish(found)
    return entries, absent


def _guarded(gpu: Gpu, task: Task, part: str, absent: dict[str, str]) -> Task:
    def run() -> list[float]:
        if part in absent:
            return []
        try:
            return task()
        except RuntimeError as error:
            absent[part] = one_line(error)
            gpu.recover()
            return []

    return run


def one_line(error: BaseException) -> str:
    """The first line of what it says; what it is, where it says nothing."""
    lines: Sequence[str] = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
