"""The emulator runs right kernels right, and finds the mistakes that a GPU may let pass."""

import ctypes
import re
from pathlib import Path

import pytest
import torch

from perfsuite import cuda_extension

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
NAMES = re.findall(r"\n  k(\w+),", (Path(__file__).parent / "planted.cu").read_text().partition("};")[0])


@pytest.fixture(scope="module")
def planted(cuda_emulator_building):
    return ctypes.CDLL(str(cuda_emulator_building.build([Path(__file__).parent / "planted.cu"])))


def call(library, name, *args):
    """The message of the error, None for none."""
    kinds = {int: ctypes.c_int64, torch.Tensor: lambda t: ctypes.c_void_p(t.data_ptr()), torch.dtype: DTYPES.get}
    error = getattr(library, name)(*(kinds[type(arg)](arg) for arg in args), None)
    library.planted_error_string.restype = ctypes.c_char_p
    return library.planted_error_string(error).decode() if error else None


def row_sums(library, mistake, dtype=torch.float32, rows=7, width=512, blocks=3, threads=128):
    x = torch.randn(rows, width, dtype=torch.float64).to(dtype)
    sums = torch.full((rows,), torch.nan, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    said = call(library, "planted_row_sums", dtype, x, sums, rows, width, blocks, threads, NAMES.index(mistake))
    return said, bool(torch.allclose(sums.double(), x.double().sum(1), atol=1e-3)), sums


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("threads", "blocks", "width"), [(32, 1, 8), (128, 3, 512), (1024, 7, 8192), (96, 16, 104)])
def test_a_right_kernel_is_right(planted, dtype, threads, blocks, width):
    for _ in range(20):
        said, right, _ = row_sums(planted, "None", dtype, 7, width, blocks, threads)
        assert said is None and right


@pytest.mark.parametrize("mistake", ["NoBarrierAfterWrite", "NoBarrierBeforeReuse", "Unwritten", "NoSyncwarp"])
def test_a_missing_barrier_or_value_gives_a_wrong_result(planted, mistake):
    results = [row_sums(planted, mistake) for _ in range(20)]
    assert all(said is None for said, _, _ in results)
    assert sum(not right for _, right, _ in results) >= 15
    if mistake == "Unwritten":
        assert results[0][2].isnan().all()


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("SharedBeyondEnd", r"block .* wrote byte 16 of 16 bytes of shared memory"),
        ("SharedBeforeStart", r"block .* wrote byte -4 of 16 bytes of shared memory"),
        ("BarrierInBranch", r"divergent barrier: .* waits at planted\.cu:\d+, .* (waits at planted\.cu:\d+|has ended)"),
        ("OneThreadLeaves", r"divergent barrier: .* waits at planted\.cu:\d+, .* has ended"),
        ("TwoBarriers", r"divergent barrier: it waits at planted\.cu:\d+, .* waits at planted\.cu:\d+"),
        ("Misaligned", r"device\.h:\d+: a misaligned address"),
        ("ShuffleInBranch", r"divergent warp: it waits at (planted\.cu|device\.h):\d+, .* waits at"),
        ("ShuffleFromOutside", r"planted\.cu:\d+: reads lane 20, which is not in the mask"),
        ("IndexBeyondPack", r"planted\.cu:\d+: an index outside its array"),
        ("Overflow", r"planted\.cu:\d+: an integer overflows"),
    ],
)
def test_what_hardware_leaves_undefined_is_an_error(planted, mistake, message):
    for _ in range(5):
        said, _, _ = row_sums(planted, mistake)
        assert said is not None and re.search(message, said), said
    said, right, _ = row_sums(planted, "None")
    assert said is None and right  # the next launch is not harmed


def test_every_mistake_is_tested():
    text = Path(__file__).read_text()
    assert len(NAMES) == 15 and all(f'"{name}"' in text for name in NAMES)


def test_clusters_see_each_others_shared_memory_until_a_block_ends(planted):
    x, sums = torch.randn(6, 4 * 128), torch.full((6,), torch.nan)
    for _ in range(10):
        assert call(planted, "planted_cluster_sums", x, sums, 6, 0) is None
        torch.testing.assert_close(sums, x.sum(1), atol=1e-4, rtol=1e-4)
    wrong = 0
    for _ in range(10):
        assert call(planted, "planted_cluster_sums", x, sums, 6, 1) is None
        wrong += int(sums.isnan().any())
    assert wrong >= 5


def test_lanes_exchange_as_documented(planted):
    out = torch.full((96, 8), -1, dtype=torch.int32)
    assert call(planted, "planted_lanes", out, 96) is None
    thirds = sum(1 << lane for lane in range(0, 32, 3))
    for thread, row in enumerate(out.tolist()):
        lane = thread % 32
        up, down = (lane - 2 if lane >= 2 else lane), (lane + 2 if lane < 30 else lane)
        half = lane ^ 1 if lane < 16 else lane ^ 2
        assert row == [3, up, down, lane ^ 5, thirds, lane // 8 * 8 + 1, half, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_as_torch_does(planted, dtype):
    bits = torch.randint(-(2**31), 2**31, (100_000,), dtype=torch.int64).to(torch.int32)
    x = torch.cat([bits.view(torch.float32), torch.randn(100_000) * 1e-6, torch.randn(100_000) * 6e4])
    out = torch.empty_like(x, dtype=dtype)
    assert call(planted, "planted_round_trip", dtype, x, out, len(x)) is None
    expected = x.to(dtype)
    assert bool(((out == expected) | (out.isnan() & expected.isnan())).all())


@pytest.mark.parametrize(
    ("grid", "block", "shared", "cluster", "message"),
    [
        (1, 1056, 0, 1, "1 to 1024 threads"),
        (1, 0, 0, 1, "1 to 1024 threads"),
        (1, 100, 0, 1, "whole warps"),
        (0, 32, 0, 1, "the grid is empty"),
        (2**31, 32, 0, 1, "at most 2147483647"),
        (1, 32, 227 * 1024 + 1, 1, "227 KiB"),
        (16, 32, 0, 16, "1 to 8 blocks"),
        (6, 32, 0, 4, "whole clusters"),
        (8, 1024, 227 * 1024, 8, None),
    ],
)
def test_launches_that_hardware_refuses(planted, grid, block, shared, cluster, message):
    counter = torch.zeros((), dtype=torch.int32)
    said = call(planted, "planted_launch", counter, grid, block, shared, cluster)
    assert (said is None and message is None) or (message is not None and message in str(said))
    assert counter.item() == (0 if message else grid * block)


def test_no_function_has_the_same_name_in_two_files(cuda_emulator_building, tmp_path):
    assert not cuda_emulator_building.names_in_several(cuda_extension.sources())
    kernel = "template <class T> __global__ void same(T* p) { *p = T(SIZE); }\n"
    entry = 'extern "C" int NAME(void* p) { return perfsuite::cuda::launch(N same<float>, 1, 32, 0, 0, 1, (float*)p); }'
    for name, size in (("one", 1), ("two", 2)):
        bad = kernel.replace("SIZE", str(size)) + entry.replace("NAME", name).replace("N ", "")
        (tmp_path / f"{name}.cu").write_text(f'#include "device.h"\n{bad}\n')
        good = bad.replace("template", "namespace { template").replace("}\nextern", "} }\nextern")
        (tmp_path / f"good_{name}.cu").write_text(f'#include "device.h"\n{good}\n')
    both = cuda_emulator_building.names_in_several([tmp_path / "one.cu", tmp_path / "two.cu"])
    assert both == {"same": ["one.cu", "two.cu"]}
    assert not cuda_emulator_building.names_in_several([tmp_path / "good_one.cu", tmp_path / "good_two.cu"])
