"""What the hardware counters of a GPU cost, and whether they are right: on a machine with an NVIDIA GPU.

slowdown: a fixed load with PM sampling at each interval, blocks of it alternating with blocks without, in random order;
    and blocks from before sampling was ever started, as the cost may outlive its stop. A GEMM and a copy in turn
    (device-bound), and many small kernels (host-bound).
dram: bytes read and written by a known kernel and a known copy, sampled and replayed.
tensor: operations that the tensor cores count in a GEMM, replayed, against 2MNK.
gpm: what NVML's GPM says of a load while CUPTI samples and while it does not.
Each part is a process of its own. Prints JSON last; without a GPU one line, and exit code 2.
`python bench/counters_gpu.py`, or with `--part dram --part tensor`
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

import numpy as np

from perfsuite import _native, conditions
from perfsuite.instruments.counters import CounterReplay, CounterTimeline
from perfsuite.instruments.sampler import Sampler
from perfsuite.stats import ratio_of_medians

INTERVALS_S = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
KNOWN_BYTES = 4 << 30
GEMM = 4096

Load = Callable[[], None]


def timed_ns(load: Load) -> int:
    """Wall time of a load, to the end of its work on the device."""
    import torch

    torch.cuda.synchronize()
    start = _native.now_ns()
    load()
    torch.cuda.synchronize()
    return _native.now_ns() - start


def repeated(load: Load, block_s: float) -> Load:
    """The load as often as fits block_s, measured once it is warm."""
    load()
    count = max(1, round(block_s * 1e9 / min(timed_ns(load) for _ in range(3))))

    def block() -> None:
        for _ in range(count):
            load()

    return block


def loads() -> dict[str, Load]:
    """By name: device-bound and host-bound work."""
    import torch

    a, b = (torch.randn(GEMM, GEMM, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(64 << 20, device="cuda")
    target, small = torch.empty_like(source), torch.zeros(64, device="cuda")

    def gemm_and_copy() -> None:
        torch.mm(a, b)
        target.copy_(source)

    def small_kernels() -> None:
        for _ in range(100):
            small.add_(1.0)

    return {"gemm_and_copy": gemm_and_copy, "small_kernels": small_kernels}


def spread(values: list[int]) -> dict[str, Any]:
    low, middle, high = quantiles(values, n=4)
    return {"median_ns": middle, "quartiles_ns": [low, high], "blocks": len(values)}


def slowdown(arguments: argparse.Namespace) -> dict[str, Any]:
    """Wall time of blocks with sampling over that of blocks without, by interval."""
    out: dict[str, Any] = {}
    blocks = {name: repeated(load, arguments.block_s) for name, load in loads().items()}
    never = {name: [timed_ns(block) for _ in range(arguments.rounds)] for name, block in blocks.items()}
    for name, block in blocks.items():
        off: dict[float, list[int]] = {interval: [] for interval in INTERVALS_S}
        on: dict[float, list[int]] = {interval: [] for interval in INTERVALS_S}
        seen: dict[float, dict[str, Any]] = {}
        for done in range(arguments.rounds):
            for interval in random.sample(INTERVALS_S, len(INTERVALS_S)):
                off[interval].append(timed_ns(block))
                counters = CounterTimeline("memory", interval)
                counters.start()
                on[interval].append(timed_ns(block))
                data = counters.stop()
                tally(seen.setdefault(interval, {}), data)
            print(f"\r{name}: {done + 1} of {arguments.rounds} rounds", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        every_off = [t for times in off.values() for t in times]
        out[name] = {
            "never_started": spread(never[name]),
            "off": spread(every_off),
            "off_over_never_started": median(every_off) / median(never[name]),
            "intervals": [
                {"interval_s": interval, "on": spread(on[interval]), "on_over_off": ratio(on[interval], off[interval]),
                 **seen[interval]}
                for interval in INTERVALS_S
            ],
        }  # fmt: skip
    return out


def tally(so_far: dict[str, Any], data: dict[str, Any]) -> None:
    """Adds up what a stretch of sampling says of itself; notes are those of the last that had any."""
    for key in ("num_samples", "dropped", "overflows"):
        so_far[key] = so_far.get(key, 0) + data[key]
    so_far["cpu_s"] = so_far.get("cpu_s", 0.0) + data["cost"]["cpu_s"]
    so_far["notes"] = data["notes"] or so_far.get("notes", [])


def ratio(a: list[int], b: list[int]) -> dict[str, float]:
    value, low, high = ratio_of_medians(a, b)
    return {"ratio": value, "ci95": [low, high]}


def values_of(data: dict[str, Any], row: np.ndarray) -> dict[str, float]:
    return {column["name"]: float(value) for column, value in zip(data["columns"], row, strict=True)}


def seconds_of(data: dict[str, Any]) -> float:
    """From the first sample to the last."""
    t = data["t_ns"]
    return float(t[-1, 1] - t[0, 0]) / 1e9 if len(t) else 0.0


def dram(arguments: argparse.Namespace) -> dict[str, Any]:
    """Bytes counted for a kernel and a copy that read and write KNOWN_BYTES each, and while idle for as long."""
    import torch

    source = torch.randint(-100, 100, (KNOWN_BYTES // 4,), dtype=torch.int32, device="cuda")
    target = torch.empty_like(source)
    work: dict[str, Load] = {
        "kernel": lambda: torch.neg(source, out=target),
        "copy": lambda: target.copy_(source),
    }
    times = 10
    out: dict[str, Any] = {"known_read_bytes": KNOWN_BYTES, "known_write_bytes": KNOWN_BYTES, "repeats": times}
    for name, load in work.items():
        took_ns = min(timed_ns(load) for _ in range(3))
        for interval in (1e-4, 1e-3):
            found: dict[str, Any] = {}
            for kind in ("work", "idle"):
                counters = CounterTimeline("memory", interval)
                counters.start()
                time.sleep(3 * interval)  # nor is the first
                if kind == "work":
                    timed_ns(lambda load=load: [load() for _ in range(times)])
                else:
                    time.sleep(took_ns * times / 1e9)
                time.sleep(3 * interval)  # the sample that is under way at the stop is not kept
                data = counters.stop()
                sums = values_of(data, np.nansum(data["values"], axis=0))
                found[kind] = {key: value for key, value in sums.items() if key.endswith("_bytes")}
                found[f"{kind}_seconds"] = seconds_of(data)
                found[f"{kind}_lost"] = [data["dropped"], data["overflows"], data["clock"], data["notes"]]
            for way in ("read", "write"):
                counted = found["work"][f"dram_{way}_bytes"]
                found[f"{way}_over_known"] = counted / (times * KNOWN_BYTES)
            out[f"{name}_sampled_at_{interval:g}_s"] = found
    counters = CounterReplay(set="bytes", passes=1)
    counters.start()
    work["kernel"]()
    torch.cuda.synchronize()
    data = counters.stop()
    replayed = values_of(data, np.sum([row["values"] for row in data["rows"]], axis=0))
    out["kernel_replayed"] = replayed | {
        "read_over_known": replayed["dram_read_bytes"] / KNOWN_BYTES,
        "write_over_known": replayed["dram_write_bytes"] / KNOWN_BYTES,
        "rows": data["rows"],
        "notes": data["notes"],
    }
    return out


def tensor(arguments: argparse.Namespace) -> dict[str, Any]:
    """Operations counted in a GEMM of GEMM^3, over 2MNK."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = True
    out: dict[str, Any] = {"operations_2mnk": 2 * GEMM**3}
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("tf32", torch.float32)):
        a, b = (torch.randn(GEMM, GEMM, device="cuda").to(dtype) for _ in range(2))
        torch.mm(a, b)  # cuBLAS chooses, and loads its kernel
        torch.cuda.synchronize()
        counters = CounterReplay(set="bytes")
        counters.start()
        torch.mm(a, b)
        torch.cuda.synchronize()
        data = counters.stop()
        total = values_of(data, np.sum([row["values"] for row in data["rows"]], axis=0))
        counted = {key: value for key, value in total.items() if key.startswith("tensor_ops")}
        over = counted[f"tensor_ops_{name}"] / (2 * GEMM**3) if f"tensor_ops_{name}" in counted else None
        out[name] = {"over_2mnk": over, "counted": counted, "kernels": [row["name"] for row in data["rows"]],
                     "absent": data["absent"], "passes": data["passes"], "notes": data["notes"]}  # fmt: skip
    return out


def median_of(values: np.ndarray) -> float | None:
    there = values[np.isfinite(values)]
    return float(np.median(there)) if len(there) else None


def mean_of(values: np.ndarray) -> float | None:
    there = values[np.isfinite(values)]
    return float(np.mean(there)) if len(there) else None


def gpm(arguments: argparse.Namespace) -> dict[str, Any]:
    """NVML's GPM columns during the same load, with and without sampling by CUPTI, twice in turn."""
    import torch

    block = repeated(loads()["gemm_and_copy"], 0.1)
    out: list[dict[str, Any]] = []
    for sampled in (False, True, False, True):
        counters = CounterTimeline("memory", 1e-3) if sampled else None
        sampler = Sampler(period_s=0.2)
        sampler.start()
        if counters:
            counters.start()
        end = _native.now_ns() + round(arguments.gpm_s * 1e9)
        while _native.now_ns() < end:
            block()
            torch.cuda.synchronize()
        counted = counters.stop() if counters else None
        data = sampler.stop()
        columns = {name: i for i, name in enumerate(data["columns"]) if "_gpm_" in name}
        row: dict[str, Any] = {
            "cupti_samples": sampled,
            "median": {name: median_of(data["values"][:, i]) for name, i in columns.items()},
            "valid": {name: int(np.isfinite(data["values"][:, i]).sum()) for name, i in columns.items()},
            "absent": {name: why for name, why in data["absent"].items() if "gpm" in name} or None,
            "failed": [failure for failure in data["failed"] if "gpm" in failure["column"]],
        }
        if counted:
            seconds = seconds_of(counted)
            sums = values_of(counted, np.nansum(counted["values"], axis=0))
            row["cupti_bytes_per_s"] = {k: v / seconds for k, v in sums.items() if k.endswith("_bytes") and seconds}
            row["cupti_mean_share"] = {
                column["name"]: mean_of(counted["values"][:, i])
                for i, column in enumerate(counted["columns"]) if column["unit"] == "share"
            }  # fmt: skip
        out.append(row)
    return {"seconds": arguments.gpm_s, "runs": out}


PARTS = {"slowdown": slowdown, "dram": dram, "tensor": tensor, "gpm": gpm}


def no_gpu() -> str | None:
    """Why nothing can be measured here."""
    import torch

    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    availability = CounterTimeline().available()
    return None if availability.available else availability.reason


def one(name: str, arguments: argparse.Namespace) -> None:
    """A part, in this process: its JSON is the last line."""
    import torch

    torch.zeros(1, device="cuda")  # makes the context
    print(json.dumps(PARTS[name](arguments)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; repeatable")
    parser.add_argument("--rounds", type=int, default=15, help="5 at least")
    parser.add_argument("--block-s", type=float, default=0.1)
    parser.add_argument("--gpm-s", type=float, default=8)
    parser.add_argument("--here", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    reason = no_gpu()
    if reason:
        print(f"counters_gpu: {reason}", file=sys.stderr)
        return 2
    if arguments.here:
        one(arguments.here, arguments)
        return 0
    import torch

    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "created": conditions.now(),
        "commit": conditions.commit(),
        "machine": conditions.machine_part()["fingerprint"],
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
    }
    options = ["--rounds", arguments.rounds, "--block-s", arguments.block_s, "--gpm-s", arguments.gpm_s]
    for name in arguments.part or PARTS:
        print(f"{name} ...", file=sys.stderr)
        command = [sys.executable, __file__, "--here", name, *map(str, options)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode == 0:
            result[name] = json.loads(done.stdout.splitlines()[-1])
        else:
            result[name] = {"error": f"exit code {done.returncode}: see standard error"}
    print(json.dumps(result, indent=1))
    return 1 if any("error" in result[name] for name in arguments.part or PARTS) else 0


if __name__ == "__main__":
    sys.exit(main())
