"""What held the memory of a device at the peak of one training step: arithmetic on its allocations, no torch.

Blocks that hold parameters, buffers, gradients or optimizer state are known by their address at given times. Of the
others a block is an activation if it was allocated in the forward phase and still there when a backward phase began;
workspace if it was allocated in the forward, backward or optimizer phase and is no activation; else, or if it was there
before the step, it is other.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

CATEGORIES = ("weights", "gradients", "optimizer_state", "activations", "workspace", "other")


class Sighting(NamedTuple):
    """What is known at one moment of the step: where the tensors of known categories are."""

    t_ns: int
    blocks: Mapping[str, Mapping[int, int]]
    """By category: bytes by address."""


@dataclass
class Allocations:
    """What an allocator did in one step."""

    events: np.ndarray
    """int64 (n, 3), in order: monotonic ns, address, bytes (below zero: freed)."""
    before: Mapping[int, int]
    """Bytes by address of the blocks that were there when the step began and are known one by one."""
    before_other_bytes: int = 0
    """Of all other blocks that were there."""
    reserved_before_bytes: int | None = None
    """What the allocator held of the device, free or not, when the step began; None: it holds nothing back."""
    reserved: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """int64 (m, 2), in order: monotonic ns, change in bytes."""


class Peak(NamedTuple):
    """The most that was allocated at one time of a step."""

    t_ns: int
    allocated_bytes: int
    reserved_bytes: int | None
    phase: str
    """"" where no phase was open."""
    categories: dict[str, int]
    """Bytes by category, all of CATEGORIES; they add up to allocated_bytes."""


@dataclass
class _Block:
    bytes: int
    born_ns: int | None
    """None: before the step."""
    freed_ns: int | None = None
    category: str | None = None


def replay(step: Allocations, sightings: Sequence[Sighting], phases: Sequence[tuple[int, str]], begin_ns: int) -> Peak:
    """The peak of a step that began at begin_ns; phases are (ns from when on, name or ""), in order."""
    by_address, changes, before_other_bytes = _blocks(step)
    for name in CATEGORIES:  # in this order, where one storage has two roles
        for sighting in sightings:
            for address in sighting.blocks.get(name, ()):
                for block in by_address.get(address, ()):
                    here = (block.born_ns is None or block.born_ns <= sighting.t_ns) and (
                        block.freed_ns is None or block.freed_ns > sighting.t_ns)  # fmt: skip
                    if here and block.category is None:
                        block.category = name
    phase_at = _PhaseAt(phases)
    held: dict[str, int] = dict.fromkeys(CATEGORIES, 0)
    held["other"] = before_other_bytes
    for blocks in by_address.values():
        for block in blocks:
            block.category = block.category or _role(block, phase_at)
            if block.born_ns is None:
                held[block.category] += block.bytes
    now, most, at_ns, peak = sum(held.values()), sum(held.values()), begin_ns, dict(held)
    for t_ns, block, sign in changes:
        held[block.category] += sign * block.bytes
        now += sign * block.bytes
        if now > most:
            most, at_ns, peak = now, t_ns, dict(held)
    reserved = step.reserved_before_bytes
    if reserved is not None:
        reserved += int(step.reserved[step.reserved[:, 0] <= at_ns, 1].sum())
    return Peak(at_ns, most, reserved, phase_at(at_ns), peak)


def _blocks(step: Allocations) -> tuple[dict[int, list[_Block]], list[tuple[int, _Block, int]], int]:
    """Blocks by address in the order of their births, (ns, block, 1 or -1) of the step, and the bytes of the others."""
    by_address: defaultdict[int, list[_Block]] = defaultdict(list)
    here: dict[int, _Block] = {}
    for address, size in step.before.items():
        here[address] = _Block(size, None)
        by_address[address].append(here[address])
    changes, other_bytes = [], step.before_other_bytes
    for t_ns, address, size in step.events.tolist():
        if size > 0:
            block = here[address] = _Block(size, t_ns)
            by_address[address].append(block)
        else:
            block = here.pop(address, None)
            if block is None:  # it was there before the step, among the others
                block = _Block(-size, None)
                by_address[address].append(block)
                other_bytes -= block.bytes
            block.bytes, block.freed_ns = -size, t_ns
        changes.append((t_ns, block, 1 if size > 0 else -1))
    return by_address, changes, max(0, other_bytes)


class _PhaseAt:
    def __init__(self, phases: Sequence[tuple[int, str]]) -> None:
        self._begins = np.array([t_ns for t_ns, _ in phases], np.int64)
        self._names = [name for _, name in phases]
        self.backwards = np.array([t_ns for t_ns, name in phases if name == "backward"], np.int64)

    def __call__(self, t_ns: int) -> str:
        i = int(np.searchsorted(self._begins, t_ns, side="right")) - 1
        return self._names[i] if i >= 0 else ""


def _role(block: _Block, phase_at: _PhaseAt) -> str:
    if block.born_ns is None:
        return "other"
    phase = phase_at(block.born_ns)
    if phase == "forward":
        later = phase_at.backwards[phase_at.backwards > block.born_ns]
        if len(later) and (block.freed_ns is None or block.freed_ns >= later[0]):
            return "activations"
    return "workspace" if phase in ("forward", "backward", "optimizer") else "other"
