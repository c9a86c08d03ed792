"""How fast CUPTI activity records are summed up, and in how much memory.

A launch is three records: external correlation, runtime call, kernel. Buffers hold the records of --launches launches:
first the correlations and calls, then the kernels in the order in which they end, as the library hands them out. The
kernels take 3 to 25 us on four streams, one launch each 10 us, with a pause of 1 ms after each 1000; there are 200
names, 500 sites, 4 phases, and an op of the host around each launch. Only the summing is timed, on the thread that
hands in the buffers. Tables of fixed size fill up in the first few million records; the growth of the peak resident
memory is told from when they are made and from half of the records on. Prints JSON.
`python bench/activity_rate.py --records 10000000`
"""

import argparse
import ctypes
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from perfsuite import _native, conditions
from perfsuite.machine import machine_name

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import activity_records as ar

LAUNCH_EVERY_NS, PAUSE_NS, LAUNCHES_PER_STEP = 10_000, 1_000_000, 1000


class Load:
    """One buffer and the host events of its time, moved on in place."""

    def __init__(self, launches: int) -> None:
        rng = np.random.default_rng(0)
        n = np.arange(launches)
        launch = n * LAUNCH_EVERY_NS + n // LAUNCHES_PER_STEP * PAUSE_NS
        start = launch + 5_000
        end = start + rng.integers(3_000, 25_000, launches)
        sites = rng.integers(0, 500, launches)
        names = np.array([ar.name_address(f"_Z{len(f'kernel_{i}')}kernel_{i}IfEvPKT_i") for i in range(200)], np.uint64)
        head = np.zeros(launches, np.dtype([("external", ar.EXTERNAL), ("call", ar.CALL)]))
        head["external"]["kind"] = ar.EXTERNAL_KIND
        head["external"]["external_kind"] = 3
        head["external"]["external"] = 1 + sites
        head["call"]["kind"] = ar.RUNTIME
        head["call"]["cbid"] = ar.CUDA_LAUNCH_KERNEL
        head["call"]["start"] = launch
        head["call"]["end"] = launch + 3_000
        kernels = ar.records(
            ar.KERNEL, launches, kind=ar.CONCURRENT_KERNEL, start=start, end=end, stream=7 + n % 4, registers=64,
            grid=(128, 1, 1), block=(256, 1, 1), name=names[sites % 200],
        )  # fmt: skip
        order = np.argsort(end, kind="stable")
        self.buffer = np.zeros(head.nbytes + kernels.nbytes, np.uint8)
        self.head = self.buffer[: head.nbytes].view(head.dtype)
        self.kernels = self.buffer[head.nbytes :].view(ar.KERNEL)
        self.head[:] = head
        self.kernels[:] = kernels[order]
        self.head["external"]["correlation"] = self.head["call"]["correlation"] = 1 + n
        self.kernels["correlation"] = 1 + order
        self.launches = launches
        self.span_ns = int(launches * LAUNCH_EVERY_NS + launches // LAUNCHES_PER_STEP * PAUSE_NS)
        steps = np.arange(0, launches, LAUNCHES_PER_STEP // 4)
        self.phase_t_ns = launch[steps].astype(np.int64)
        self.phase_ids = (np.arange(len(steps)) % 4).astype(np.int32)
        self.op_t_ns = np.stack([launch - 1_000, launch + 4_000], axis=1).reshape(-1).astype(np.int64)
        self.op_deltas = np.tile(np.array([1, -1], np.int32), launches)
        self.move(1_000_000_000, 0)

    def move(self, ns: int, launches: int) -> None:
        for times in (self.head["call"], self.kernels):
            times["start"] += np.uint64(ns)
            times["end"] += np.uint64(ns)
        for ids in (self.head["external"], self.head["call"], self.kernels):
            ids["correlation"] += np.uint32(launches)
        self.phase_t_ns += ns
        self.op_t_ns += ns


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(records: int, launches: int, cupti: str | None) -> dict:
    load = Load(launches)
    version, walk = ar.VERSION, 0
    if cupti:
        library = ctypes.CDLL(cupti)
        found = ctypes.c_uint32()
        if library.cuptiGetVersion(ctypes.byref(found)) or found.value != ar.VERSION:
            raise SystemExit(f"{cupti} is not version {ar.VERSION}, for which the records are made")
        walk = ctypes.cast(library.cuptiActivityGetNextRecord, ctypes.c_void_p).value
    before = peak_bytes()
    sums = _native.ActivitySums(version, walk)
    sums.start(int(load.phase_t_ns[0]), 3)
    wall = cpu = 0.0
    done, half = 0, None
    while done < records:
        sums.phases(load.phase_t_ns, load.phase_ids)
        sums.ops(load.op_t_ns, load.op_deltas)
        wall0, cpu0 = time.perf_counter(), time.thread_time()
        sums.consume(load.buffer)
        wall += time.perf_counter() - wall0
        cpu += time.thread_time() - cpu0
        load.move(load.span_ns, load.launches)
        done += 3 * load.launches
        if half is None and done >= records / 2:
            half = peak_bytes()
    grown = peak_bytes() - half
    wall0, cpu0 = time.perf_counter(), time.thread_time()
    out = sums.finish(int(load.phase_t_ns[0]))
    wall += time.perf_counter() - wall0
    cpu += time.thread_time() - cpu0
    (device,) = out["devices"]
    return {
        "records": out["records"],
        "records_per_s": out["records"] / wall,
        "records_per_cpu_s": out["records"] / cpu,
        "walk": "library" if cupti else "own sizes",
        "peak_grown_bytes": peak_bytes() - before,
        "peak_grown_in_second_half_bytes": grown,
        "rows": len(out["rows"]),
        "device_clock_s": device["clock_ns"] / 1e9,
        "device_busy_share": device["busy_ns"] / device["clock_ns"],
        "late": out["late"],
        "unlaunched": out["unlaunched"],
        "shortened": out["shortened"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--launches", type=int, default=25_000, help="per buffer")
    parser.add_argument("--cupti", help="libcupti.so of CUDA 13.0 whose own function walks the buffers")
    args = parser.parse_args()
    about = {"command": ["activity_rate.py", *sys.argv[1:]], "commit": conditions.commit(), "machine": machine_name(),
             "measured_at": conditions.now()}  # fmt: skip
    print(json.dumps(about | measure(args.records, args.launches, args.cupti), indent=1))


if __name__ == "__main__":
    main()
