"""Data starts on storage, not in memory: drop a file from the page cache, and see whether it is gone."""

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path


def resident_bytes(path: Path) -> int:
    """Bytes of the file that are in the page cache (mincore(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = path.stat().st_size
    if size == 0:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapping:
        view = (ctypes.c_char * size).from_buffer(mapping)
        pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
        present = (ctypes.c_ubyte * pages)()
        failed = libc.mincore(ctypes.byref(view), ctypes.c_size_t(size), present)
        del view
        if failed:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    return sum(p & 1 for p in present) * mmap.PAGESIZE


def drop(paths: Iterable[Path]) -> tuple[bool, str | None]:
    """Drop the files from the page cache: (True, None), or (False, why not). Needs no privilege (posix_fadvise(2))."""
    paths = list(paths)
    if not paths:
        return False, "the workload names no data files"
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # the kernel keeps pages that are not yet on the disk
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
            left = resident_bytes(path)
        except OSError as error:
            return False, f"{path.name}: {error.strerror}"
        if left:
            why = "mapped by another process, in a memory file system, or another user's file"
            return False, f"{path.name}: {left} bytes stay in the page cache ({why})"
    return True, None
