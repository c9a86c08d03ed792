"""Which sizes show which level of a GPU's memory. Pure functions of the sizes that the device tells; a leaf."""

LINE_BYTES = 128
"""Of L1 and L2: CUDA C++ Best Practices Guide, coalesced access. A load fetches 32-byte sectors of it."""
TILE_BYTES = 16384
"""csrc/machine/stream.cu moves whole tiles: kTile floats."""
_ARRAY_BYTES = 1 << 30
_CHASE_TOP_BYTES = 1 << 30

PLATEAUS = {
    "L1": "up to half of L1",
    "L2": "from four times L1 to a quarter of L2",
    "L2 upper half": "from half of L2 to nine tenths of it: with the far partition, where L2 has two",
    "DRAM": "from four times L2; walks of the address translation included",
}
"""The steps of the latency ladder by the sizes that belong to them. What lies between belongs to none."""


def plateau(size_bytes: int, l1_bytes: int, l2_bytes: int) -> str | None:
    """Name of the step that a pointer chase through this many bytes stands for."""
    if size_bytes <= l1_bytes // 2:
        return "L1"
    if 4 * l1_bytes <= size_bytes <= l2_bytes // 4:
        return "L2"
    if l2_bytes // 2 < size_bytes <= 9 * l2_bytes // 10:
        return "L2 upper half"
    return "DRAM" if size_bytes >= 4 * l2_bytes else None


def ladder(l2_bytes: int, free_bytes: int) -> list[int]:
    """Sizes of the pointer chases: 4 KiB, 6 KiB, 8 KiB, ... up to 1 GiB or eight times L2 where memory has the room."""
    top = min(max(_CHASE_TOP_BYTES, 8 * l2_bytes), free_bytes // 8)
    sizes, size = [], 4096
    while size <= top:
        sizes += [size] + ([size * 3 // 2] if size * 3 // 2 <= top else [])
        size *= 2
    return sizes


def array_bytes(l2_bytes: int, free_bytes: int) -> tuple[int, str | None]:
    """Size of each of the three arrays whose bandwidth is memory's, and a note where memory is too small for it."""
    size = min(max(_ARRAY_BYTES, 4 * l2_bytes), free_bytes // 12) // TILE_BYTES * TILE_BYTES
    size = max(size, TILE_BYTES)
    if size < 4 * l2_bytes:
        return size, "DRAM: free memory is too small for arrays of four times L2, which serves part of them"
    return size, None


def l2_array_bytes(l2_bytes: int, arrays: int) -> int:
    """Size of each of so many arrays that together take a quarter of L2."""
    return max(TILE_BYTES, l2_bytes // 4 // arrays // TILE_BYTES * TILE_BYTES)
