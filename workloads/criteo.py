"""Criteo's click logs in the layouts of MLPerf's references, mapped into memory.

dlrm_dcnv2 (v3.0 to v6.0), three files a day:

    day_K_dense.npy              (samples, 13) float32, already transformed
    day_K_labels.npy             (samples, 1) int32, 1 for a click
    day_K_sparse_multi_hot.npz   members 0.npy to 25.npy, (samples, lookups) int32 each, stored without compression

Days 0 to 22 are for training; of day 23 the first half, rounded up, is for validation and the rest for testing.

dlrm (v0.7 to v2.1), one file for training and one for evaluation, split in the same way:

    terabyte_processed_train.bin, terabyte_processed_test.bin
                                 (samples, 40) int32: the label, 13 counts, an id for each of 26 tables
"""

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

DAYS = 24
DENSE, TABLES = 13, 26
PARTS = ("dense.npy", "labels.npy", "sparse_multi_hot.npz")
FILES = tuple(f"day_{day}_{part}" for part in PARTS for day in range(DAYS))
FROM = (
    "the scripts of MLPerf's reference make them from Criteo's 1 TB click logs (mlcommons/training, "
    "recommendation_v2/torchrec_dlrm, README.MD: create the synthetic multi-hot dataset)"
)

BINARY_FILES = ("terabyte_processed_train.bin", "terabyte_processed_test.bin")
BINARY_FROM = (
    "facebookresearch/dlrm, the reference of MLPerf's dlrm, makes them from Criteo's 1 TB click logs "
    "(dlrm_data_pytorch.py with --mlperf-bin-loader)"
)

Samples = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Day:
    """Samples of one day, on disk."""

    dense: np.ndarray
    """(samples, 13) float32."""
    sparse: list[np.ndarray]
    """(samples, lookups) int32 for each table."""
    labels: np.ndarray
    """(samples, 1) int32."""

    def __len__(self) -> int:
        return len(self.labels)

    def first_half(self) -> "Day":
        """The first half of the samples, rounded up: for validation, where this is the last day."""
        half = -(-len(self) // 2)
        return Day(self.dense[:half], [table[:half] for table in self.sparse], self.labels[:half])

    def cut(self, begin: int, end: int) -> Samples:
        """dense (n, 13) float32, ids (n, lookups of all tables) int32 and labels (n,) float32, in memory."""
        dense, labels = (torch.from_numpy(part[begin:end].copy()) for part in (self.dense, self.labels))
        ids = torch.from_numpy(np.concatenate([table[begin:end] for table in self.sparse], 1))
        return dense, ids, labels[:, 0].float()


def read_day(folder: Path, number: int, bag_sizes: tuple[int, ...]) -> Day:
    """One day of tables with these lookups a sample.

    Raises FileNotFoundError for a missing file, ValueError for one in another layout.
    """
    dense, labels = (_array(folder / f"day_{number}_{part}.npy") for part in ("dense", "labels"))
    archive = folder / f"day_{number}_sparse_multi_hot.npz"
    sparse = [_member(archive, f"{table}.npy") for table in range(len(bag_sizes))]
    samples = len(labels)
    _check(folder / f"day_{number}_dense.npy", dense, (samples, DENSE), np.float32)
    _check(folder / f"day_{number}_labels.npy", labels, (samples, 1), np.int32)
    for table, (array, lookups) in enumerate(zip(sparse, bag_sizes, strict=True)):
        _check(f"{archive}, {table}.npy", array, (samples, lookups), np.int32)
    return Day(dense, sparse, labels)


class Binary:
    """Samples of one file of MLPerf's dlrm."""

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError where the file is missing, ValueError where its length is not that of samples."""
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: {BINARY_FROM}")
        sample_bytes = 4 * (1 + DENSE + TABLES)
        if not path.stat().st_size or path.stat().st_size % sample_bytes:
            raise ValueError(f"{path} is not whole samples of {sample_bytes} bytes: {BINARY_FROM}")
        self._rows = np.memmap(path, dtype="<i4", mode="r").reshape(-1, 1 + DENSE + TABLES)

    def __len__(self) -> int:
        return len(self._rows)

    def cut(self, begin: int, end: int) -> Samples:
        """As Day.cut; counts c become log(c + 1)."""
        label, counts, ids = torch.from_numpy(self._rows[begin:end].copy()).split([1, DENSE, TABLES], 1)
        return (counts.float() + 1).log(), ids, label[:, 0].float()


def batches(days: Iterable[Day | Binary], size: int) -> Iterator[Samples]:
    """The samples of the days in their order, `size` at a time over the ends of days; the last batch may be smaller."""
    parts: list[Samples] = []
    missing = size
    for day in days:
        begin = 0
        while begin < len(day):
            end = min(begin + missing, len(day))
            parts.append(day.cut(begin, end))
            missing -= end - begin
            begin = end
            if not missing:
                yield _join(parts)
                parts, missing = [], size
    if parts:
        yield _join(parts)


def _join(parts: list[Samples]) -> Samples:
    dense, ids, labels = (torch.cat(column) if len(column) > 1 else column[0] for column in zip(*parts, strict=True))
    return dense, ids, labels


def _array(path: Path) -> np.ndarray:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: {FROM}")
    return np.load(path, mmap_mode="r")


def _member(archive: Path, name: str) -> np.ndarray:
    """A member of an npz, mapped: numpy itself would read the whole of it."""
    if not archive.exists():
        raise FileNotFoundError(f"{archive} is missing: {FROM}")
    with zipfile.ZipFile(archive) as opened, archive.open("rb") as file:
        if name not in opened.NameToInfo:
            raise ValueError(f"{archive} has no member {name}: {FROM}")
        info = opened.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{archive} is compressed and cannot be mapped: write it with numpy.savez")
        # The local header is 30 bytes, a name and an extra field; their lengths are its last two numbers.
        file.seek(info.header_offset + 26)
        lengths = int.from_bytes(file.read(2), "little") + int.from_bytes(file.read(2), "little")
        file.seek(info.header_offset + 30 + lengths)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = read_header[np.lib.format.read_magic(file)](file)
        order = "F" if fortran else "C"
        return np.memmap(archive, dtype=dtype, mode="r", offset=file.tell(), shape=shape, order=order)


def _check(what: object, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype:
        wanted = f"{shape} {np.dtype(dtype).name}"
        raise ValueError(f"{what} is {array.shape} {array.dtype.name}, not {wanted}: {FROM}")
