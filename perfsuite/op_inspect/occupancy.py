"""How many blocks of a kernel fit on a multiprocessor at once, by registers, shared memory and warps.

Limits: CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability".
How registers and shared memory are allotted: cuda_occupancy.h of the CUDA toolkit (the tests compile it and compare).
"""

from typing import NamedTuple


class Limits(NamedTuple):
    """Of one multiprocessor."""

    warps: int
    blocks: int
    registers: int
    shared_bytes: int
    shared_bytes_of_block: int


LIMITS = {
    80: Limits(64, 32, 65536, 164 * 1024, 163 * 1024),
    86: Limits(48, 16, 65536, 100 * 1024, 99 * 1024),
    89: Limits(48, 24, 65536, 100 * 1024, 99 * 1024),
    90: Limits(64, 32, 65536, 228 * 1024, 227 * 1024),
    100: Limits(64, 32, 65536, 228 * 1024, 227 * 1024),
    120: Limits(48, 24, 65536, 100 * 1024, 99 * 1024),
}
"""By compute capability, 90 for 9.0."""

_REGISTERS_AT_ONCE = 256  # allotted to a warp
_SHARED_AT_ONCE = 128
_SHARED_OF_DRIVER = 1024  # in each block
_PARTITIONS = 4  # each has a quarter of the registers and of the warps


class Occupancy(NamedTuple):
    """What fits on a multiprocessor."""

    blocks: int
    warps_share: float
    """Of the warps that a multiprocessor can hold."""
    limited_by: str
    """"registers", "shared memory", "warps" or "blocks"; the first of those that are equal."""


def occupancy(arch: int, registers: int, shared_bytes: int, warps: int) -> Occupancy | None:
    """Of blocks of so many warps; shared_bytes: static and dynamic of a block. None where the limits are not known."""
    limits = LIMITS.get(arch)
    if limits is None:
        return None
    of_warp = _up(32 * registers, _REGISTERS_AT_ONCE)
    of_block = _up(shared_bytes + _SHARED_OF_DRIVER, _SHARED_AT_ONCE)
    if of_warp * _up(warps, _PARTITIONS) > limits.registers:
        by_registers = 0
    else:
        by_registers = limits.registers // _PARTITIONS // of_warp * _PARTITIONS // warps
    fits = {
        "registers": by_registers,
        "shared memory": limits.shared_bytes // of_block if shared_bytes <= limits.shared_bytes_of_block else 0,
        "warps": limits.warps // warps,
        "blocks": limits.blocks,
    }
    least = min(fits, key=lambda name: fits[name])
    return Occupancy(fits[least], fits[least] * warps / limits.warps, least)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
