"""A record of a run on a GPU in round numbers, small enough to be recomputed by hand."""

import copy
from typing import Any

import numpy as np

MS = 1_000_000
MM = "bf16[1000,1000] bf16[1000,1000] -> bf16[1000,1000]"
"""6,000,000 bytes, 2,000,000,000 operations."""
PHASES = ("data", "forward", "backward", "other")
TIMES_MS = {"data": 100, "forward": 300, "backward": 585, "other": 10}
"""Of the ledger pass, whose clock is 1000 ms: 5 are in no phase."""


def rate(ceiling: float) -> dict[str, Any]:
    """A measured rate without spread."""
    return {"ceiling": ceiling, "median": ceiling, "lo": ceiling, "hi": ceiling, "samples": [ceiling]}


def ceilings(**gpu: Any) -> dict[str, Any]:
    """GPU: DRAM 1 TB/s, L2 of 1 MB 4 TB/s, 100 Tflop/s in bf16, 25 GB/s to the device. Host: 10 GB/s, 1 Gflop/s."""

    def level(name: str, capacity_bytes: int | None, bandwidth: float) -> dict[str, Any]:
        rates = {f"{kernel}_bytes_per_s": rate(bandwidth) for kernel in ("read", "write", "copy", "triad")}
        return {"name": name, "capacity_bytes": capacity_bytes, "latency_ns": rate(1.0)} | rates

    one = {
        "index": 0,
        "levels": [level("L2", 1_000_000, 4e12), level("DRAM", None, 1e12)],
        "gemm_flops_per_s": {"bfloat16": rate(100e12), "float32": rate(10e12), "float16": None},
        "gemm_reasons": {"float16": "it was not tried"},
        "transfers": [
            {"direction": "HtoD", "pinned": True, "bytes": 1 << 28, "bytes_per_s": rate(25e9)},
            {"direction": "HtoD", "pinned": False, "bytes": 1 << 28, "bytes_per_s": rate(50e9)},
        ],
        "op_overhead_ns": rate(5000.0),
    }
    return {
        "levels": [level("memory", None, 10e9)],
        "gemm_flops_per_s": {"float32": rate(1e9)},
        "op_overhead_ns": rate(1000.0),
        "gpus": [one | gpu],
        "notes": [],
    }


def site(name: str, direction: str, phase: str, thread: str, module: str = "", op: str = "") -> dict[str, str]:
    """The fields that a launch site and a row of the op recorder share."""
    return {"name": name, "direction": direction, "op": op, "module": module, "phase": phase, "thread": thread}


def shape(signature: str, calls: int, bytes_: int | None) -> dict[str, Any]:
    """A signature seen in so many sampled calls."""
    return {
        "signature": signature,
        "sampled_calls": calls,
        "sampled_self_ns": calls * 1000,
        "bytes": bytes_,
        "footprint_bytes": bytes_,
    }


FORWARD = site("aten::mm", "forward", "forward", "clock", "first")
BACKWARD = site("aten::mm", "backward", "backward", "other", "first")
COPY = site("aten::copy_", "none", "data", "clock")
HOST = site("aten::add", "none", "data", "clock")


def kernel(name: str, site_index: int | None, phase: str, calls: int, time_ms: int, share_ms: int, **more: Any) -> dict:
    """A row of the kernel recorder."""
    return {
        "name": name,
        "kind": "kernel",
        "copy": None,
        "site": site_index,
        "phase": phase,
        "device": 0,
        "graph": False,
        "calls": calls,
        "time_ns": time_ms * MS,
        "share_ns": share_ms * MS,
        "min_ns": time_ms * MS // calls,
        "max_ns": time_ms * MS // calls,
        "bytes": None,
        "grid": [132, 1, 1],
        "block": [128, 1, 1],
        "registers": 90,
        "shared_bytes": 1024,
    } | more


def kernels() -> dict[str, Any]:
    """780 ms busy, of which 20 with two at once; 220 ms idle."""
    rows = [
        kernel("gemm_forward", 0, "forward", 10, 300, 300),
        kernel("gemm_backward", 1, "backward", 20, 400, 390),
        kernel(
            "[memcpy HtoD]",
            2,
            "data",
            10,
            50,
            40,
            kind="memcpy",
            copy={"direction": "HtoD", "pinned": True},
            bytes=1_000_000_000,
            grid=None,
            block=None,
            registers=None,
            shared_bytes=None,
        ),
        kernel("graph_node", None, "backward", 10, 50, 50, graph=True),
    ]
    device = {
        "device": 0,
        "clock_ns": 1000 * MS,
        "busy_ns": 780 * MS,
        "idle_ns": 220 * MS,
        "overlap_ns": 20 * MS,
        "idle": [
            {"cause": "data", "phase": "data", "time_ns": 60 * MS},
            {"cause": "launch", "phase": "forward", "time_ns": 30 * MS},
            {"cause": "python", "phase": "backward", "time_ns": 61 * MS},
            {"cause": "sync", "phase": "backward", "time_ns": 54 * MS},
            {"cause": "ops", "phase": "other", "time_ns": 10 * MS},
            {"cause": "python", "phase": "", "time_ns": 5 * MS},
        ],
        "busy": [
            {"phase": "forward", "time_ns": 300 * MS},
            {"phase": "backward", "time_ns": 440 * MS},
            {"phase": "data", "time_ns": 40 * MS},
        ],
        "gaps": [{"up_to_ns": 1000, "count": 0, "time_ns": 0}, {"up_to_ns": None, "count": 22, "time_ns": 220 * MS}],
    }
    return {
        "rows": rows,
        "sites": [FORWARD, BACKWARD, COPY],
        "devices": [device],
        "syncs": [{"type": "stream", "calls": 10, "time_ns": 45 * MS}],
        "overheads": [{"kind": "buffer flush", "count": 2, "time_ns": 3 * MS}],
        "dropped": 0,
        "late": 0,
        "late_ns": 0,
        "unknown": 0,
        "records": 60,
        "cupti": {"version": 130001, "path": "x"},
        "notes": [],
        "power": {"device": 0, "uuid": UUID, "names": list(WATTS)[:3], "reason": None},
    }


UUID = "GPU-00000000-0000-4000-8000-00000000000a"
WATTS = {"gemm_backward": 400.0, "gemm_forward": 600.0, "graph_node": 300.0, "[memcpy HtoD]": 150.0, "": 100.0}
"""What the GPU draws: 379 J in all. The copies are not among the names whose time is kept by interval."""
PARTS = (  # of each step of 100 ms: what runs, and for how many of them
    ("", 22), ("[memcpy HtoD]", 4), ("gemm_forward", 30), ("gemm_backward", 39), ("graph_node", 5),
)  # fmt: skip
STRETCH = (0, 9, -7, 4, -11, 10, -3, -9, 12, -5)
"""Milliseconds by which the forward of each step is longer, and its backward shorter: so they can be told apart."""


def schedule() -> tuple[np.ndarray, list[str]]:
    """Edges in ms from the start of the clock, and what runs between them."""
    lengths, what = [], []
    for more in STRETCH:
        for name, ms in PARTS:
            lengths.append(ms + more * ((name == "gemm_forward") - (name == "gemm_backward")))
            what.append(name)
    return np.concatenate([[0], np.cumsum(lengths)]), what


def power_arrays() -> dict[str, np.ndarray]:
    """Busy time by interval of 2 ms, and what a sampler saw each 5 ms of a counter renewed every 20 ms."""
    edges, what = schedule()
    marks = np.arange(0, 1001, 2)
    spent = {
        name: np.interp(marks, edges, np.concatenate([[0], np.cumsum(np.diff(edges) * [w == name for w in what])]))
        for name in WATTS
    }
    columns = [np.round(np.diff(spent[name]) * MS).astype(np.int64) for name in list(WATTS)[:4]]
    drawn = np.concatenate([[0], np.cumsum(np.diff(edges) * [WATTS[name] for name in what])]) / 1000
    t = np.arange(-100.0, 1100.0, 5) + np.random.default_rng(1).uniform(-1, 1, 240)
    renewed = np.round(t - (t + 107) % 20)
    energy = 50 + np.interp(renewed, edges, drawn) + (np.minimum(renewed, 0) + np.maximum(renewed - 1000, 0)) * 0.1
    return {
        "kernel_power_edges_ns": (5000 + marks) * MS,
        "kernel_power_busy": np.stack(columns, axis=1),
        "sampler_t_ns": np.round((5000 + t) * MS).astype(np.int64),
        "sampler_values": np.stack([np.full(240, 1e9), energy, np.full(240, 9000.0)], axis=1),
    }


def sampler() -> dict[str, Any]:
    """What the sampler says of its columns above."""
    columns = {"rss_bytes": "B", "gpu0_energy_j": "J", "gpu0_read_ns": "ns"}
    gpu = {"index": 0, "name": "NVIDIA H100 80GB HBM3", "uuid": UUID, "power_limit_w": 700.0,
           "power_limit_reason": "", "mig": False, "reason": ""}  # fmt: skip
    absent = {"rapl": "none here", "gpu0_clock_event_reasons": "not asked for"}
    return {"columns": list(columns), "units": columns, "absent": absent, "gpus": [gpu], "rapl": [], "period_s": 0.005}


def ledger_pass(**more: Any) -> dict[str, Any]:
    """1000 ms, 10 steps, 40 samples. Ops on the clock's thread: 200 ms in forward, 40 in data."""
    rows = [
        FORWARD | {"calls": 10, "total_ns": 200 * MS, "self_ns": 200 * MS, "shapes": [shape(MM, 1, 6_000_000)]},
        BACKWARD | {"calls": 20, "total_ns": 300 * MS, "self_ns": 300 * MS, "shapes": [shape(MM, 2, 6_000_000)]},
        COPY
        | {
            "calls": 10,
            "total_ns": 30 * MS,
            "self_ns": 30 * MS,
            "shapes": [shape("u8[100000000] u8[100000000] -> u8[100000000]", 1, 200_000_000)],
        },
        HOST
        | {
            "calls": 10,
            "total_ns": 10 * MS,
            "self_ns": 10 * MS,
            "shapes": [shape("f32[1000000] f32[1000000] -> f32[1000000]", 1, 6_000_000)],
        },
    ]
    op_ms = {"data": 40, "forward": 200, "backward": 0, "other": 0}
    ops = {
        "rows": rows,
        "sampled_steps": 1,
        "every": 16,
        "dropped_rows": 0,
        "top_level_ns": 240 * MS,
        "events": 50,
    }
    made = _pass("ledger", 1000 * MS, TIMES_MS, op_ms) | {"ops": ops, "kernels": kernels(), "arrays": "ledger.npz"}
    return made | more


def sampled_pass(**more: Any) -> dict[str, Any]:
    """A ledger pass with a sampler that saw what the kernels drew."""
    return ledger_pass(**{"sampler": sampler(), "arrays": "sampled.npz"} | more)


def _pass(kind: str, clock_ns: int, times_ms: dict[str, int], op_ms: dict[str, int] | None = None) -> dict[str, Any]:
    op_ms = op_ms or dict.fromkeys(PHASES, 0)
    return {
        "kind": kind,
        "index": 0,
        "seed": 1,
        "state": "done",
        "error": None,
        "stop_reason": "target",
        "reached": True,
        "quality": 2.0,
        "samples": 40,
        "num_steps": 10,
        "clock_ns": clock_ns,
        "start_ns": 5000 * MS,
        "init_ns": 0,
        "init_excess_ns": 0,
        "init": {},
        "evaluations": [],
        "losses": [[4, 2.5]],
        "log": "x.txt",
        "phases": [
            {
                "name": name,
                "time_ns": times_ms[name] * MS,
                "op_ns": op_ms[name] * MS,
                "host_ns": (times_ms[name] - op_ms[name]) * MS,
                "calls": 10,
            }
            for name in PHASES
        ],
        "ops": None,
        "instruments": [],
        "arrays": None,
    }


def clean_pass(**more: Any) -> dict[str, Any]:
    """800 ms, of which no phase is an evaluation."""
    return _pass("clean", 800 * MS, {"data": 80, "forward": 240, "backward": 400, "other": 40}) | more


COLUMNS = ("dram_read_bytes", "dram_write_bytes", "l2_bytes", "l2_hit_share", "sm_active_share", "gr_active_share")


def timeline_pass(**more: Any) -> dict[str, Any]:
    """900 ms: data to 100, forward to 400, backward to 900."""
    counters = {
        "interval_ns": 100 * MS,
        "set": "memory",
        "chip": "GH100",
        "num_samples": 10,
        "dropped": 0,
        "overflows": 0,
        "columns": [{"name": name, "metric": name, "unit": "share" if "share" in name else "B"} for name in COLUMNS],
        "absent": {"tensor_active_share": "a second pass"},
        "merged": 1,
        "first_dropped": True,
        "notes": [],
    }
    made = _pass("timeline", 900 * MS, {"data": 100, "forward": 300, "backward": 500, "other": 0})
    return made | {"counters": counters, "arrays": "timeline.npz"} | more


def timeline_arrays() -> dict[str, np.ndarray]:
    """Ten samples of 100 ms from 50 ms before the clock begins. Sample i reads i + 1 MB, writes 1, hits half of 4.

    In the first three the hit share is not known, the GPU is idle in the last.
    """
    starts = (4950 + 100 * np.arange(10)) * MS
    i = np.arange(10.0)
    values = np.stack(
        [
            (i + 1) * 1e6,
            np.full(10, 1e6),
            np.full(10, 4e6),
            np.where(i < 3, np.nan, 0.5),
            np.full(10, 0.8),
            np.where(i < 9, 1.0, 0.0),
        ],
        axis=1,
    )
    events = [(5000, 0, 0), (5100, 1, 0), (5400, 2, 0)]
    timeline = np.array([(t * MS, phase, step) for t, phase, step in events], np.int64)
    return {
        "timeline": timeline,
        "counters_t_ns": np.stack([starts, starts + 100 * MS], axis=1),
        "counters_values": values,
    }


def counters_pass(**more: Any) -> dict[str, Any]:
    """Two of the ten steps replayed: as many calls a step as in the ledger pass."""
    names = ("dram_read_bytes", "dram_write_bytes", "l2_bytes", "tensor_ops_bf16", "duration_ns")
    sites = [BACKWARD, FORWARD]
    rows = [
        {"name": "gemm_forward", "site": 1, "phase": "forward", "calls": 2, "values": [8e6, 4e6, 24e6, 4e9, 70e6]},
        {"name": "gemm_backward", "site": 0, "phase": "backward", "calls": 4, "values": [20e6, 8e6, 56e6, 8e9, 90e6]},
        {"name": "graph_node", "site": None, "phase": "backward", "calls": 2, "values": [2e6, 2e6, 8e6, 0.0, 12e6]},
    ]
    replay = {
        "chip": "GH100",
        "set": "bytes",
        "passes": 6,
        "steps": 2,
        "absent": {},
        "rows": rows,
        "sites": sites,
        "columns": [{"name": name, "metric": name, "unit": "B"} for name in names],
        "dropped_ranges": 0,
        "unjoined": 0,
        "notes": [],
    }
    made = _pass("counters", 5000 * MS, TIMES_MS) | {"replay": replay, "num_steps": 2, "reached": False}
    return made | more


def record(*passes: dict[str, Any], device: str = "cuda", **more: Any) -> dict[str, Any]:
    """A record of these passes; by default of all."""
    chosen = list(passes) or [clean_pass(), ledger_pass(), timeline_pass(), counters_pass()]
    return {
        "id": "0001-x",
        "kind": "run",
        "workload": "llama",
        "scale": "gpu",
        "device": device,
        "config": {},
        "target": {"metric": "loss", "unit": "nats", "value": 2.4, "higher_is_better": False},
        "schedule": {"eval_every_samples": 10},
        "num_runs": 1,
        "machine": {"fingerprint": {}, "ceilings": ceilings(), "ceilings_reason": None},
        "passes": copy.deepcopy(chosen),
    } | more


def arrays_of(name: str) -> dict[str, np.ndarray]:
    """Of the passes above, by file name."""
    if name == "timeline.npz":
        return timeline_arrays()
    table = np.zeros((11, 4), np.int64)
    table[1:] = [10 * MS, 30 * MS, 58 * MS, 1 * MS]
    return {
        "step_table": table,
        "step_starts": (5000 + 100 * np.arange(10, dtype=np.int64)) * MS,
        "timeline": np.zeros((0, 3), np.int64),
    } | (power_arrays() if name == "sampled.npz" else {})
