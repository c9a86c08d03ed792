"""Synthetic CUPTI activity records, as numpy arrays with the layout of version 13.0 of the library.

And how the tests of the sums over them feed them and read the result."""

import ctypes

import numpy as np

from perfsuite import _native

VERSION = 130001


def _record(size: int, **fields: tuple[int, str]) -> np.dtype:
    return np.dtype(
        {
            "names": list(fields),
            "offsets": [offset for offset, _ in fields.values()],
            "formats": [form for _, form in fields.values()],
            "itemsize": size,
        }
    )


KERNEL = _record(
    216, kind=(0, "u4"), registers=(6, "u2"), start=(16, "u8"), end=(24, "u8"), device=(40, "u4"), stream=(48, "u4"),
    grid=(52, "(3,)i4"), block=(64, "(3,)i4"), static_shared=(76, "i4"), dynamic_shared=(80, "i4"),
    correlation=(92, "u4"), name=(104, "u8"), graph=(156, "u4"),
)  # fmt: skip
MEMCPY = _record(
    96, kind=(0, "u4"), copy=(4, "u1"), source=(5, "u1"), destination=(6, "u1"), bytes=(8, "u8"), start=(16, "u8"),
    end=(24, "u8"), device=(32, "u4"), stream=(40, "u4"), correlation=(44, "u4"), runtime_correlation=(48, "u4"),
    graph=(72, "u4"),
)  # fmt: skip
MEMCPY_PEER = _record(
    96, kind=(0, "u4"), copy=(4, "u1"), bytes=(8, "u8"), start=(16, "u8"), end=(24, "u8"), device=(32, "u4"),
    stream=(40, "u4"), correlation=(60, "u4"), graph=(80, "u4"),
)  # fmt: skip
MEMSET = _record(
    88, kind=(0, "u4"), bytes=(8, "u8"), start=(16, "u8"), end=(24, "u8"), device=(32, "u4"), stream=(40, "u4"),
    correlation=(44, "u4"), graph=(72, "u4"),
)  # fmt: skip
CALL = _record(40, kind=(0, "u4"), cbid=(4, "u4"), start=(8, "u8"), end=(16, "u8"), correlation=(32, "u4"))
SYNC = _record(56, kind=(0, "u4"), type=(4, "u4"), start=(8, "u8"), end=(16, "u8"), correlation=(24, "u4"))
OVERHEAD = _record(56, kind=(0, "u4"), overhead=(4, "u4"), start=(24, "u8"), end=(32, "u8"))
EXTERNAL = _record(24, kind=(0, "u4"), external_kind=(4, "u4"), external=(8, "u8"), correlation=(16, "u4"))
GRAPH = _record(
    56, kind=(0, "u4"), correlation=(4, "u4"), start=(8, "u8"), end=(16, "u8"), device=(24, "u4"), graph=(28, "u4"),
    stream=(36, "u4"),
)  # fmt: skip

MEMCPY_KIND, MEMSET_KIND, KERNEL_KIND, DRIVER, RUNTIME, CONCURRENT_KERNEL = 1, 2, 3, 4, 5, 10
OVERHEAD_KIND, MEMCPY_PEER_KIND, SYNC_KIND, EXTERNAL_KIND, GRAPH_KIND = 17, 22, 38, 39, 51
CUDA_LAUNCH_KERNEL, CUDA_DEVICE_SYNCHRONIZE = 211, 165  # numbers of calls of the runtime

_names: dict[bytes, ctypes.Array] = {}


def name_address(name: str) -> int:
    """Address of a C string that stays where it is."""
    key = name.encode()
    if key not in _names:
        _names[key] = ctypes.create_string_buffer(key)
    return ctypes.addressof(_names[key])


def records(dtype: np.dtype, n: int = 1, **fields) -> np.ndarray:
    """n records of one kind; fields are scalars or arrays of n."""
    out = np.zeros(n, dtype)
    for name, value in fields.items():
        out[name] = value
    return out


def kernel(start: int, end: int, correlation: int = 0, name: str | int = "k", **fields) -> np.ndarray:
    address = name_address(name) if isinstance(name, str) else name
    fields = {"kind": CONCURRENT_KERNEL, "block": 32, "grid": 1} | fields
    return records(KERNEL, start=start, end=end, correlation=correlation, name=address, **fields)


def call(start: int, end: int, correlation: int, kind: int = RUNTIME, cbid: int = CUDA_LAUNCH_KERNEL) -> np.ndarray:
    return records(CALL, kind=kind, cbid=cbid, start=start, end=end, correlation=correlation)


def external(correlation: int, external: int, external_kind: int = 3) -> np.ndarray:
    return records(
        EXTERNAL, kind=EXTERNAL_KIND, external_kind=external_kind, external=external, correlation=correlation
    )


def sync(start: int, end: int, type: int = 3) -> np.ndarray:
    return records(SYNC, kind=SYNC_KIND, type=type, start=start, end=end)


def buffer(*parts: np.ndarray) -> np.ndarray:
    """One buffer of records, uint8, in the order given."""
    return np.concatenate([part.view(np.uint8).reshape(-1) for part in parts])


FORWARD, DATA = 0, 1  # phases


def begin(start, phases=((1, FORWARD),), ops=(), version=VERSION, next=0, external_kind=0, **limits):
    sums = _native.ActivitySums(version, next, external_kind=external_kind, **limits)
    sums.start(start, DATA)
    host(sums, phases, ops)
    return sums


def host(sums, phases=(), ops=()):
    for append, events in ((sums.phases, phases), (sums.ops, ops)):
        times, values = zip(*events, strict=True) if events else ((), ())
        append(np.array(times, np.int64), np.array(values, np.int32))


def sum_up(start, stop, *records, **how):
    sums = begin(start, **how)
    if records:
        sums.consume(buffer(*records))
    return sums.finish(stop)


def launched(start, end, launch, correlation, name="k", **fields):
    """A kernel and the call that launched it."""
    return buffer(call(launch, launch + 5, correlation), kernel(start, end, correlation, name=name, **fields))


def by_name(out, field):
    return {row["name"]: row[field] for row in out["rows"]}


def idle(device):
    return {(row["cause"], row["phase"]): row["time_ns"] for row in device["idle"]}


def causes(device):
    found = {}
    for row in device["idle"]:
        found[row["cause"]] = found.get(row["cause"], 0) + row["time_ns"]
    return found


def assert_adds_up(out, clock_ns):
    for device in out["devices"]:
        rows = [row for row in out["rows"] if row["device"] == device["device"]]
        assert device["clock_ns"] == clock_ns
        assert device["busy_ns"] + device["idle_ns"] == clock_ns
        assert sum(row["share_ns"] for row in rows) == device["busy_ns"]
        assert sum(row["time_ns"] for row in device["idle"]) == device["idle_ns"]
        assert sum(row["time_ns"] for row in device["busy"]) == device["busy_ns"]
        assert sum(gap["time_ns"] for gap in device["gaps"]) == device["idle_ns"]
    ran = sum(row["time_ns"] for row in out["rows"])
    assert ran == sum(d["busy_ns"] + d["overlap_ns"] for d in out["devices"]) + out["late_ns"]
