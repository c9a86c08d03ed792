"""Reading buffers of CUPTI activity records: damaged ones, other versions, and beside the vendor's library."""

import ctypes
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfsuite import _native, cuda_extension
from perfsuite.build_cache import BuildError

_spec = importlib.util.spec_from_file_location("activity_records", Path(__file__).with_name("activity_records.py"))
ar = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(ar)


def test_records_that_cannot_be_used_are_counted():
    sums = ar.begin(1000)
    sums.dropped(3)
    sums.dropped(4)
    sums.consume(ar.buffer(ar.kernel(0, 0), ar.kernel(1200, 1100), ar.kernel(1200, 1300, device=0xFFFFFFFF)))
    sums.consume(ar.kernel(2**63, 2**64 - 1).view(np.uint8))
    out = sums.finish(2000)
    assert (out["dropped"], out["untimed"], out["records"], out["rows"]) == (7, 4, 4, [])


def test_damaged_buffers():
    whole = ar.buffer(ar.external(1, 42), ar.launched(1100, 1200, 1050, 1), ar.sync(1210, 1220), ar.call(1230, 1240, 2))
    ends = np.cumsum([24, 40, 216, 56, 40]).tolist()
    for length in range(len(whole) + 1):
        sums = ar.begin(1000)
        sums.consume(whole[:length])
        out = sums.finish(2000)
        assert out["records"] == sum(end <= length for end in ends)
        assert out["damaged"] == (length not in [0, *ends])
        assert len(out["rows"]) == (length >= ends[2])
    out = ar.sum_up(1000, 2000, ar.kernel(1100, 1200), ar.call(1, 2, 3, kind=200), ar.kernel(1300, 1400))
    assert (out["records"], out["damaged"], out["rows"][0]["calls"]) == (1, 1, 1)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 200))
def test_wild_values_do_no_harm(seed, changes):
    """Any byte of a record may be wrong, but its kind and a kernel's name: the library itself follows those."""
    rng = np.random.default_rng(seed)
    whole = ar.buffer(
        *[ar.launched(1100 + 20 * i, 1150 + 20 * i, 1050 + 20 * i, 1 + i) for i in range(10)], ar.sync(1210, 1220),
        ar.records(ar.MEMCPY, kind=ar.MEMCPY_KIND, start=1800, end=1810, copy=1),
        ar.records(ar.MEMSET, kind=ar.MEMSET_KIND, start=1850, end=1855),
        ar.records(ar.OVERHEAD, kind=ar.OVERHEAD_KIND, start=1820, end=1821), ar.external(3, 3),
    )  # fmt: skip
    kept, at = np.zeros(len(whole), bool), 0
    for size in [40, 216] * 10 + [56, 96, 88, 56, 24]:
        kept[at : at + 4] = True
        if size == 216:
            kept[at + 104 : at + 112] = True
        at += size
    where = rng.choice(np.flatnonzero(~kept), changes)
    whole[where] = rng.integers(0, 256, changes)
    sums = ar.begin(1000, horizon_ns=50)
    sums.keep_slices(0, 2**62, 100)
    sums.stop(2000)
    for part in (whole, whole):
        sums.consume(part)
    out = sums.finish(2000)
    assert out["records"] == 50
    ar.assert_adds_up(out, 1000)


def test_refused_versions_and_misuse():
    for version in (23, 130402):
        with pytest.raises(ValueError, match=f"CUPTI version {version} are not known, only those of 24 to 130401"):
            _native.ActivitySums(version, 1)
    with pytest.raises(ValueError, match="not known well enough to walk a buffer"):
        _native.ActivitySums(25)
    with pytest.raises(ValueError, match="power of two"):
        _native.ActivitySums(ar.VERSION, calls=1000)
    sums = _native.ActivitySums(ar.VERSION)
    with pytest.raises(RuntimeError, match="not running"):
        sums.finish(5)
    with pytest.raises(ValueError, match="aligned"):
        sums.consume(np.zeros(64, np.uint8)[1:])
    sums.consume(ar.kernel(10, 20).view(np.uint8))  # before the start
    sums.start(100)
    with pytest.raises(RuntimeError, match="started before"):
        sums.start(100)
    with pytest.raises(RuntimeError, match="ends before it starts"):
        sums.finish(50)
    assert sums.finish(200)["records"] == 0


def libraries():
    """Installed CUPTI libraries whose buffers can be walked without a driver, by version."""
    folders = []
    try:
        folders += sorted(Path(cuda_extension.nvcc()).resolve().parents[1].glob("lib*"))
    except BuildError:
        pass
    triton = importlib.util.find_spec("triton")
    if triton:
        folders.append(Path(triton.origin).parent / "backends" / "nvidia" / "lib" / "cupti")
    found = {}
    for path in [p for folder in folders for p in sorted(folder.glob("libcupti.so.1[23]"))]:
        library = ctypes.CDLL(str(path))
        version = ctypes.c_uint32()
        if library.cuptiGetVersion(ctypes.byref(version)) == 0:
            found[version.value] = library
    return found


def resized(record, size):
    """The same record in another version of the library: longer or shorter at its end."""
    names, fields = record.dtype.names, record.dtype.fields
    dtype = np.dtype({"names": names, "formats": [fields[n][0] for n in names],
                      "offsets": [fields[n][1] for n in names], "itemsize": size})  # fmt: skip
    out = np.zeros(len(record), dtype)
    for name in record.dtype.names:
        out[name] = record[name]
    return out


SIZES = {24: (208, 88, 88, 40), 26: (208, 96, 88, 56), 28: (208, 96, 88, 56), 130001: (216, 96, 88, 56),
         130101: (224, 96, 88, 56)}  # kernel, memcpy, memset, synchronization  # fmt: skip


def test_the_vendors_library_walks_the_same_records():
    found = {version: library for version, library in libraries().items() if version in SIZES}
    if not found:
        assert shutil.which("nvcc") is None and importlib.util.find_spec("triton") is None
        pytest.skip("no CUPTI library of a known version is installed")
    for version, library in found.items():
        kernel, memcpy, memset, sync = SIZES[version]
        buffer = ar.buffer(
            ar.external(1, 42), ar.call(1050, 1060, 1), resized(ar.kernel(1100, 1200, 1, name="a"), kernel),
            resized(ar.records(ar.MEMCPY, kind=ar.MEMCPY_KIND, start=1300, end=1310, copy=1, bytes=9), memcpy),
            resized(ar.records(ar.MEMSET, kind=ar.MEMSET_KIND, start=1400, end=1410, bytes=8), memset),
            ar.records(ar.MEMCPY_PEER, kind=ar.MEMCPY_PEER_KIND, copy=10, start=1500, end=1510, bytes=10),
            resized(ar.sync(1600, 1650), sync), ar.call(1660, 1670, 3, kind=ar.DRIVER),
            ar.records(ar.OVERHEAD, kind=ar.OVERHEAD_KIND, overhead=2 << 16, start=1700, end=1704),
            ar.records(ar.GRAPH, kind=ar.GRAPH_KIND, correlation=1, start=1800, end=1820, graph=6),
            resized(ar.kernel(1900, 1950, 1, name="b", kind=ar.KERNEL_KIND), kernel),
        )  # fmt: skip
        stream_record = np.array([37, 0, 0, 0, 0, 0], np.uint32)  # of a kind that is not read here
        parts = [buffer, ar.buffer(stream_record, buffer), buffer[:100]]
        next_record = ctypes.cast(library.cuptiActivityGetNextRecord, ctypes.c_void_p).value
        sums = ar.begin(1000, version=version, next=next_record)
        for part in parts:
            sums.consume(part)
        out = sums.finish(2000)
        assert (out["records"], out["unknown"], out["damaged"]) == (11 + 12 + 2, 1, 0)
        assert [(r["name"], r["external"], r["calls"], r["time_ns"], r["share_ns"]) for r in out["rows"]] == [
            ("a", 42, 2, 200, 100), ("memcpy HtoD", 0, 2, 20, 10), ("memset", 0, 2, 20, 10),
            ("memcpy PtoP", 0, 2, 20, 10), ("(cuda graph)", 42, 2, 40, 20), ("b", 42, 2, 100, 50),
        ]  # fmt: skip
        ar.assert_adds_up(out, 1000)
        walked = ar.begin(1000, version=version)  # by the sizes stated here
        walked.consume(buffer)
        assert walked.finish(2000)["records"] == 11
