"""A made-up record of `perfsuite run llama --scale gpu` on one H100 with every pass, from gpu_schedule's schedule.

Nothing was measured. Everything adds up: op times to their phases, device shares and idle time to the clock, sampled
bytes to those of the kernels and copies, joules to the energy counter.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gpu_schedule import BATCH, IDLE_W, NUM_STEPS, PHASES, Schedule, Slice, T, W

EPOCH_NS = 7_000_000_000_000
EVERY = 16
SHOWN_STEPS = range(40, 43)
"""Steps of which the slices are kept."""
INTERVAL_NS = 1_000_000
DROPPED_SAMPLES = 1
UUID = "GPU-5e1f0c2a-0000-4000-8000-000000000001"
NAMED = 12
"""Kernels, copies and fills whose time is kept by interval; the others are summed."""
RENEWED_NS = 20_000_000
"""The sensors' values."""
COLUMNS = (  # canonical name, CUPTI's name, unit
    ("dram_read_bytes", "dram__bytes_read.sum", "B"),
    ("dram_write_bytes", "dram__bytes_write.sum", "B"),
    ("l2_bytes", "lts__t_sectors.sum", "B"),
    ("l2_hit_share", "LTS.TriageCompute.lts__average_t_sector_hit_rate_realtime.pct", "share"),
    ("sm_active_share", "sm__cycles_active.avg", "share"),
    ("tensor_active_share", "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed", "share"),
    ("gr_active_share", "gr__cycles_active.avg", "share"),
    ("pcie_read_bytes", "pcie__read_bytes.sum", "B"),
    ("pcie_write_bytes", "pcie__write_bytes.sum", "B"),
)
TENSOR_PEAK = 990e12


def gpu_record() -> tuple[dict[str, Any], Callable[[str], Mapping[str, np.ndarray]]]:
    """The record (schema 3) and its arrays by file name, as perfsuite.ledger.account() takes them."""
    clean = [Schedule(EPOCH_NS + i * 20_000_000_000, host=0.95, seed=41 + i) for i in range(5)]
    passes, arrays = [], {}
    for i, schedule in enumerate(clean):
        arrays[f"pass-clean-{i}.npz"] = clock_arrays(schedule)
        passes.append(_pass(schedule, "clean", i))
    for make in (ledger_pass, timeline_pass, counters_pass):
        made, kept = make()
        passes.append(made)
        arrays[made["arrays"]] = kept
    return {
        "schema": 3,
        "id": "0012-llama-gpu-h100",
        "kind": "run",
        "created": "2026-03-04T09:00:00+00:00",
        "command": ["perfsuite", "run", "llama", "--scale", "gpu"],
        "commit": "9f2c1e7",
        "perfsuite_version": "0.1.0",
        "workload": "llama",
        "workload_path": None,
        "scale": "gpu",
        "device": "cuda",
        "division": "open",
        "use": {},
        "ops": "native",
        "config": {"num_runs": 5, "batch_size": BATCH},
        "num_runs": 5,
        "seeds": [41, 42, 43, 44, 45],
        "target": {"metric": "validation loss", "unit": "nats per byte", "value": 1.3, "higher_is_better": False},
        "schedule": {"eval_every_samples": 48 * BATCH, "first_eval_samples": 48 * BATCH, "max_samples": 102_400},
        "data_folder": None,
        "wanted": {"ledger": True, "timeline": True, "counters": True, "host_stacks": False},
        "build": {},
        "machine": {
            "fingerprint": {"cpu": {"model": "Xeon (made up)"}, "gpus": [{"name": "NVIDIA H100 80GB HBM3"}]},
            "ceilings": ceilings(),
            "ceilings_reason": None,
        },
        "passes": passes,
    }, lambda name: arrays[name]


def rate(ceiling: float, spread: float = 0.02) -> dict[str, Any]:
    """A measured rate as ceilings hold it; quartiles `spread` apart."""
    return {
        "ceiling": ceiling,
        "median": ceiling * (1 - spread / 2),
        "lo": ceiling * (1 - spread),
        "hi": ceiling,
        "samples": [ceiling],
    }


def ceilings() -> dict[str, Any]:
    """Of a two-core host and, under "gpus", of the GPU."""

    def level(name: str, capacity: int | None, bandwidth: float, latency_ns: float) -> dict[str, Any]:
        shares = {"read": 1.0, "write": 0.95, "copy": 0.97, "triad": 0.97}
        rates = {f"{kernel}_bytes_per_s": rate(bandwidth * share) for kernel, share in shares.items()}
        return {"name": name, "capacity_bytes": capacity, "latency_ns": rate(latency_ns)} | rates

    gpu = {
        "index": 0,
        "name": "NVIDIA H100 80GB HBM3",
        "levels": [level("L2", 50 << 20, 6.0e12, 200.0), level("DRAM", None, 3.0e12, 500.0)],
        "gemm_flops_per_s": {"bfloat16": rate(700e12), "float16": rate(690e12), "float32": rate(50e12)},
        "transfers": [
            {"direction": direction, "pinned": pinned, "bytes": 1 << 28, "bytes_per_s": rate(bandwidth)}
            for direction, pinned, bandwidth in (
                ("HtoD", True, 55e9),
                ("HtoD", False, 11e9),
                ("DtoH", True, 52e9),
                ("DtoH", False, 9e9),
            )
        ],
        "launch": {"call_ns": rate(2100.0), "kernel_period_ns": rate(1300.0)},
        "op_overhead_ns": rate(5600.0),
        "absent": {},
        "notes": [],
    }
    return {
        "threads": 2,
        "levels": [level("L1", 98304, 415e9, 1.6), level("memory", None, 19e9, 97.0)],
        "gemm_flops_per_s": {"float32": rate(125e9), "bfloat16": None},
        "fma_flops_per_s": {"float32": rate(150e9)},
        "op_overhead_ns": rate(2210.0),
        "gpus": [gpu],
        "notes": [],
    }


def clock_arrays(s: Schedule) -> dict[str, np.ndarray]:
    """What the phase clock leaves: steps' table and starts, and the timeline of phases."""
    table = np.zeros((NUM_STEPS + 1, len(PHASES)), np.int64)
    timeline, last = [], None
    steps = np.array(s.step_starts, np.int64)
    for begin, end, phase, _ in s.host:
        row = int(np.searchsorted(steps, begin, side="right"))
        number = PHASES.index(phase) if phase else -1
        if phase:
            table[row, number] += end - begin
        if last != (number, row):
            timeline.append((begin, number, row - 1))
            last = (number, row)
    return {"step_table": table, "step_starts": steps, "timeline": np.array(timeline, np.int64)}


def _pass(s: Schedule, kind: str, index: int, ops: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    clock = s.end_ns - s.start_ns
    times, in_ops = defaultdict(int), defaultdict(int)
    for begin, end, phase, _ in s.host:
        times[phase] += end - begin
    for begin, end, op, phase, _ in s.op_calls:
        in_ops[phase] += end - begin if op.thread == "clock" else 0
    calls = {name: 2 if name == "evaluation" else NUM_STEPS for name in PHASES}
    seed = 41 + index
    samples = NUM_STEPS * BATCH
    return {
        "kind": kind,
        "index": index,
        "seed": seed,
        "state": "done",
        "error": None,
        "stop_reason": "target",
        "reached": True,
        "quality": 1.29,
        "samples": samples,
        "num_steps": NUM_STEPS,
        "clock_ns": clock,
        "start_ns": s.start_ns,
        "init_ns": 9_000_000_000,
        "init_excess_ns": 0,
        "init": {"build_ns": 5_000_000_000, "compile_ns": None, "warmup_ns": 4_000_000_000},
        "epoch_minus_monotonic_ns": 0,
        "log": f"result_{index}.txt",
        "yardstick": {},
        "cache_clear": False,
        "cache_clear_reason": "not root",
        "evaluations": [
            {"samples": samples // 2, "quality": 1.6, "t_ns": clock // 2},
            {"samples": samples, "quality": 1.29, "t_ns": clock},
        ],
        "losses": [[BATCH * (i + 1), 1.2 + 4.3 / (1 + i / 8) + seed / 1e4] for i in range(NUM_STEPS)],
        "phases": [
            {
                "name": name,
                "time_ns": times[name],
                "op_ns": in_ops[name],
                "host_ns": times[name] - in_ops[name],
                "calls": calls[name],
            }
            for name in PHASES
        ],
        "timeline_dropped": 0,
        "ops": ops,
        "allocator": None,
        "op_costs": None,
        "compiled_regions": 0,
        "page_faults": {"minor": 91_000, "major": 0},
        "rss_peak_bytes": 3 << 30,
        "sampler": None,
        "kernels": None,
        "gpu_memory": None,
        "counters": None,
        "replay": None,
        "instruments": [{"name": "phase clock", "available": True, "reason": None}],
        "arrays": f"pass-{kind}-{index}.npz",
        "overhead": None,
    } | more


def ledger_pass() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Clock, sampler, op recorder, kernel recorder and memory account."""
    s = Schedule(EPOCH_NS + 200_000_000_000, host=1.0, seed=41)
    rows, marks = op_rows(s)
    outer = sum(end - begin for begin, end, op, _, _ in s.op_calls if op.thread == "clock")
    ops = {
        "rows": rows,
        "sampled_steps": NUM_STEPS // EVERY,
        "every": EVERY,
        "dropped_rows": 0,
        "top_level_ns": outer,
        "events": len(s.op_calls),
    }
    share, gaps = s.shares()
    sampler, sampled = sampler_columns(s, share)
    kernels, kernel_arrays = kernel_rows(s, share, gaps)
    quiet = {"idle_w": IDLE_W, "idle_bound_w": 0.6}
    idle = quiet | {"idle_source": "counter", "idle_s": 5.0, "reason": None}
    idle["sources"] = [{"source": "gpu0", "method": "counter"} | quiet]
    made = _pass(s, "ledger", 0, ops, sampler=sampler, kernels=kernels, gpu_memory=gpu_memory(s), idle=idle)
    made["instruments"] += [
        {"name": name, "available": True, "reason": None} for name in ("op recorder", "kernel recorder", "sampler: gpu")
    ]
    made["instruments"].append(
        {"name": "sampler: rapl", "available": False, "reason": "no zone in /sys/class/powercap"}
    )
    made["op_costs"] = op_costs(s)
    names = sorted({op.name for _, _, op, _, _ in s.op_calls})
    first, stop = s.step_starts[SHOWN_STEPS.start], s.step_starts[SHOWN_STEPS.stop]
    made["op_slice_names"] = names
    op_slices = [
        (b, e, names.index(op.name), int(op.thread == "other"), 0) for b, e, op, _, _ in s.op_calls if first <= b < stop
    ]
    return made, clock_arrays(s) | sampled | marks | kernel_arrays | {"op_slices": np.array(op_slices, np.int64)}


def op_costs(s: Schedule) -> list[dict[str, Any]]:
    """What the suite's ops declare, forward and backward together; a few operations an element."""
    calls: defaultdict[tuple[str, str], int] = defaultdict(int)
    for _, _, op, phase, _ in s.op_calls:
        if op.op and op.direction != "backward":
            gradient = " grad" if phase == "forward" else ""
            calls[op.op, op.signature.partition(" ->")[0] + gradient] += 1
    return [
        {"region": region, "signature": signature, "calls": n, "bytes": 6 * T * W, "flops": 12 * T * W}
        for (region, signature), n in calls.items()
    ]


def op_rows(s: Schedule) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """What the op recorder leaves: rows with shapes on every 16th step (and each evaluation), and its marks."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    mark_steps = np.arange(0, NUM_STEPS + 1, EVERY)
    edges = [s.step_starts[m] if m < NUM_STEPS else s.end_ns for m in mark_steps]
    counted: list[tuple[int, int, int]] = []
    for begin, end, op, phase, step in s.op_calls:
        key = (op.name, op.direction, op.op, op.module, phase, op.thread)
        row = rows.setdefault(
            key,
            dict(zip(("name", "direction", "op", "module", "phase", "thread"), key, strict=True))
            | {"number": len(rows), "calls": 0, "total_ns": 0, "self_ns": 0, "shapes": {}},
        )
        for part, add in (("calls", 1), ("total_ns", end - begin), ("self_ns", end - begin)):
            row[part] += add
        counted.append((row["number"], int(np.searchsorted(edges, begin, side="right")), end - begin))
        if op.signature and (step < 0 or step % EVERY == 0):
            shape = row["shapes"].setdefault(
                op.signature,
                {
                    "signature": op.signature,
                    "sampled_calls": 0,
                    "sampled_self_ns": 0,
                    "bytes": op.bytes,
                    "footprint_bytes": op.bytes,
                },
            )
            shape["sampled_calls"] += 1
            shape["sampled_self_ns"] += end - begin
    self_ns, calls = (np.zeros((len(mark_steps), len(rows)), np.int64) for _ in range(2))
    for number, after, ns in counted:
        self_ns[after:, number] += ns
        calls[after:, number] += 1
    out = [{**row, "shapes": list(row["shapes"].values())} for row in rows.values()]
    for row in out:
        del row["number"]
    return out, {"ops_mark_steps": mark_steps, "ops_self_ns": self_ns, "ops_calls": calls}


def site_of(x: Slice, sites: list[dict[str, Any]]) -> int | None:
    """Index of the op call's site, appended where it is new."""
    if not x.op.name:
        return None
    site = {
        "name": x.op.name,
        "direction": x.op.direction,
        "op": x.op.op,
        "module": x.op.module,
        "phase": x.phase,
        "thread": x.op.thread,
    }
    if site not in sites:
        sites.append(site)
    return sites.index(site)


def kernel_rows(
    s: Schedule, share: list[int], gaps: list[tuple[int, int]]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """pass["kernels"] and its arrays: the slices of the steps shown, and busy time by interval."""
    sites: list[dict[str, Any]] = []
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    slices, launches = [], []
    first, stop = s.step_starts[SHOWN_STEPS.start], s.step_starts[SHOWN_STEPS.stop]
    for x, share_ns in zip(s.slices, share, strict=True):
        k, site, ns = x.kernel, site_of(x, sites), x.end_ns - x.start_ns
        phase = x.phase if x.seen else ""
        key = (k.name, k.kind, k.copy, site, phase, k.graph)
        is_kernel = k.kind == "kernel"
        row = rows.setdefault(
            key,
            {
                "name": k.name,
                "kind": k.kind,
                "copy": k.copy and {"direction": k.copy[0], "pinned": k.copy[1]},
                "site": site,
                "phase": phase,
                "device": 0,
                "graph": k.graph,
                "calls": 0,
                "time_ns": 0,
                "share_ns": 0,
                "min_ns": ns,
                "max_ns": ns,
                "bytes": None if is_kernel else 0,
                "grid": [1056, 1, 1] if is_kernel else None,
                "block": [256, 1, 1] if is_kernel else None,
                "registers": 128 if is_kernel else None,
                "shared_bytes": 49152 if is_kernel else None,
            },
        )
        row |= {
            "calls": row["calls"] + 1,
            "time_ns": row["time_ns"] + ns,
            "share_ns": row["share_ns"] + share_ns,
            "min_ns": min(row["min_ns"], ns),
            "max_ns": max(row["max_ns"], ns),
        }
        if not is_kernel:
            row["bytes"] += k.copy_bytes
        if first <= x.start_ns < stop:
            slices.append((x.start_ns, x.end_ns, list(rows).index(key), 0, k.stream, x.correlation))
            launches.append(x.launch_ns if x.seen else -1)
    busy = defaultdict(int)
    for x, share_ns in zip(s.slices, share, strict=True):
        busy[x.phase if x.seen else ""] += share_ns
    times: defaultdict[str, int] = defaultdict(int)
    for row in rows.values():
        times[row["name"]] += row["share_ns"]
    names = sorted(times, key=lambda name: -times[name])[:NAMED]
    edges_ns, by_interval = s.busy(names)
    idle = sum(b - a for a, b in gaps)
    bounds = [1_000 * 10**i for i in range(5)]
    histogram = [{"up_to_ns": up, "count": 0, "time_ns": 0} for up in [*bounds, None]]
    for a, b in gaps:
        bucket = histogram[sum(b - a > up for up in bounds)]
        bucket["count"] += 1
        bucket["time_ns"] += b - a
    device = {
        "device": 0,
        "clock_ns": s.end_ns - s.start_ns,
        "busy_ns": sum(share),
        "idle_ns": idle,
        "overlap_ns": sum(x.end_ns - x.start_ns for x in s.slices) - sum(share),
        "idle": [{"cause": cause, "phase": phase, "time_ns": ns} for (cause, phase), ns in s.idle(gaps).items()],
        "busy": [{"phase": phase, "time_ns": ns} for phase, ns in busy.items()],
        "gaps": histogram,
    }
    return {
        "rows": list(rows.values()),
        "sites": sites,
        "devices": [device],
        "syncs": [{"type": "stream", "calls": len(s.syncs), "time_ns": sum(s.syncs)}],
        "overheads": [{"kind": "CUPTI buffer flush", "count": 12, "time_ns": 1_400_000}],
        "dropped": 0,
        "late": 0,
        "late_ns": 0,
        "unknown": 0,
        "records": len(s.slices) + len(s.syncs),
        "cupti": {"version": 130001, "path": "libcupti.so.13"},
        "notes": [],
        "power": {"device": 0, "uuid": UUID, "names": names, "reason": None},
    }, {
        "kernel_slices": np.array(slices, np.int64),
        "kernel_launch_ns": np.array(launches, np.int64),
        "kernel_power_edges_ns": edges_ns,
        "kernel_power_busy": by_interval,
    }


def gpu_memory(s: Schedule) -> dict[str, Any]:
    """pass["gpu_memory"]: the peak in the backward phase of step 3; categories add up to it."""
    sizes = {
        "weights": 29_400_000,
        "gradients": 29_400_000,
        "optimizer_state": 58_800_000,
        "activations": 6_900_000_000,
        "workspace": 34_000_000,
        "other": 12_000_000,
    }
    peak = sum(sizes.values())
    return {
        "device": "cuda:0",
        "allocated_peak_bytes": peak,
        "reserved_peak_bytes": 8_000_000_000,
        "fragmentation_share": 1 - peak / 8e9,
        "peak": {
            "t_ns": s.step_starts[3] + 6_000_000,
            "step": 3,
            "phase": "backward",
            "source": "step 3 replayed",
            "categories": [{"name": name, "bytes": size} for name, size in sizes.items()],
        },
        "retries": 0,
        "ooms": 0,
        "num_device_alloc": 61,
        "notes": [],
    }


def sampler_columns(s: Schedule, share: list[int]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The sampler's GPU columns: what the kernels draw, as sensors renewed every 20 ms show it, one capped stretch."""
    t_ns = np.arange(s.start_ns - 60_000_000, s.end_ns + 60_000_000, 5_000_000, dtype=np.int64)
    t_ns[1:-1] += np.random.default_rng(0).integers(-1_000_000, 1_000_000, len(t_ns) - 2)
    ends = np.array([x.end_ns for x in s.slices])
    order = np.argsort(ends)
    done = np.concatenate([[0], np.cumsum(np.array(share)[order])])
    busy_ns = done[np.searchsorted(ends[order], t_ns, side="right")]
    renewed = t_ns - (t_ns - s.start_ns + 7_000_000) % RENEWED_NS
    at_ns, drawn = s.joules()

    def energy_j(when: np.ndarray) -> np.ndarray:
        outside = np.minimum(when - s.start_ns, 0) + np.maximum(when - s.end_ns, 0)
        return 1000.0 + np.interp(when, at_ns, drawn) + IDLE_W * outside / 1e9

    energy = energy_j(renewed)
    window = np.diff(t_ns, prepend=t_ns[0] - 5_000_000)
    active = np.clip(np.diff(busy_ns, prepend=0) / window, 0, 1)
    capped = (t_ns > s.step_starts[60]) & (t_ns < s.step_starts[66])
    table = {
        "rss_bytes": ("B", np.full(len(t_ns), 3.0e9)),
        "gpu0_power_instant_w": ("W", (energy - energy_j(renewed - RENEWED_NS)) / RENEWED_NS * 1e9),
        "gpu0_energy_j": ("J", energy),
        "gpu0_clock_sm_mhz": ("MHz", np.where(capped, 1650.0, 1980.0)),
        "gpu0_clock_memory_mhz": ("MHz", np.full(len(t_ns), 2619.0)),
        "gpu0_temperature_core_c": ("C", np.full(len(t_ns), 54.0)),
        "gpu0_clock_event_reasons": ("bitmask", np.where(capped, 4.0, 0.0)),
        "gpu0_utilisation_gpu_percent": ("%", 100 * (active > 0)),
        "gpu0_gpm_dram_share": ("share", np.where(np.arange(len(t_ns)) < 6, np.nan, 0.45 * active)),
        "gpu0_gpm_tensor_share": ("share", np.where(np.arange(len(t_ns)) < 6, np.nan, 0.4 * active)),
        "gpu0_gpm_sm_share": ("share", np.where(np.arange(len(t_ns)) < 6, np.nan, 0.9 * active)),
        "gpu0_read_ns": ("ns", np.full(len(t_ns), 9_000.0)),
    }
    return {
        "columns": list(table),
        "units": {name: unit for name, (unit, _) in table.items()},
        "absent": {"rapl": "no zone in /sys/class/powercap", "gpu0_gpm_nvlink_tx_bytes_per_s": "no NVLink"},
        "failed": [],
        "period_s": 0.005,
        "jitter": 0.5,
        "seed": 0,
        "rapl": [],
        "error": None,
        "late": {"median_ns": 60_000, "p99_ns": 200_000, "max_ns": 400_000, "missed": 0, "dropped": 0},
        "gpus": [
            {
                "index": 0,
                "name": "NVIDIA H100 80GB HBM3",
                "uuid": UUID,
                "power_limit_w": 700.0,
                "power_limit_reason": "",
                "mig": False,
                "reason": "",
            }
        ],
        "cost": {"cpu_s": 0.01, "cpu_s_per_sample": 1e-4},
    }, {
        "sampler_t_ns": t_ns,
        "sampler_values": np.stack([column for _, column in table.values()], axis=1),
        "sampler_late_ns": np.full(len(t_ns), 60_000, np.int64),
    }


def timeline_pass() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Clock and PM sampling: what kernels and copies move is spread evenly over their time."""
    s = Schedule(EPOCH_NS + 400_000_000_000, host=0.97, seed=41)
    edges = np.arange(s.start_ns, s.end_ns + INTERVAL_NS, INTERVAL_NS, dtype=np.int64)
    begins, ends = (np.array([getattr(x, name) for x in s.slices], float) for name in ("start_ns", "end_ns"))
    seconds = np.array([x.kernel.time_ns for x in s.slices]) / 1e9

    def spread_out(amounts: list[float]) -> np.ndarray:
        """Of each interval: amounts spread evenly over the slices' time."""
        rates = np.array(amounts) / (ends - begins)
        events = np.concatenate([begins, ends])
        order = np.argsort(events, kind="stable")
        at, slope = events[order], np.cumsum(np.concatenate([rates, -rates])[order])
        total = np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(at))])
        return np.round(np.diff(np.interp(edges, at, total)), 3)

    kernels = [x.kernel for x in s.slices]
    compute = [x.kernel.time_ns if x.kernel.kind == "kernel" else 0 for x in s.slices]
    active = np.clip(spread_out(compute) / INTERVAL_NS, 0, 1)
    host_read = [k.copy_bytes if k.copy and k.copy[0] == "HtoD" else 0 for k in kernels]
    host_written = [k.copy_bytes if k.copy and k.copy[0] == "DtoH" else 0 for k in kernels]
    assert seconds.min() > 0
    values = {
        "dram_read_bytes": spread_out([k.dram_read_bytes for k in kernels]),
        "dram_write_bytes": spread_out([k.dram_write_bytes for k in kernels]),
        "l2_bytes": spread_out([k.l2_bytes for k in kernels]),
        "l2_hit_share": np.where(active > 0, 0.58, 0.0),
        "sm_active_share": 0.93 * active,
        "tensor_active_share": spread_out([k.tensor_ops / TENSOR_PEAK * 1e9 for k in kernels]) / INTERVAL_NS,
        "gr_active_share": active,
        "pcie_read_bytes": spread_out(host_read),
        "pcie_write_bytes": spread_out(host_written),
    }
    counters = {
        "interval_ns": INTERVAL_NS,
        "set": "memory",
        "chip": "GH100",
        "columns": [{"name": name, "metric": metric, "unit": unit} for name, metric, unit in COLUMNS],
        "absent": {
            "nvlink_rx_bytes": "not in the one-pass set of this chip",
            "nvlink_tx_bytes": "not in the one-pass set of this chip",
            "l1_bytes": "not in the one-pass set of this chip",
            "l1_hit_bytes": "not in the one-pass set of this chip",
        },
        "num_samples": len(edges) - 1,
        "dropped": 0,
        "overflows": 0,
        "merged": 1,
        "first_dropped": True,
        "notes": [],
    }
    table = np.stack([values[name] for name, _, _ in COLUMNS], axis=1)[DROPPED_SAMPLES:]
    t_ns = np.stack([edges[:-1], edges[1:]], axis=1)[DROPPED_SAMPLES:]
    made = _pass(s, "timeline", 0, counters=counters)
    made["instruments"].append({"name": "counter timeline", "available": True, "reason": None})
    return made, clock_arrays(s) | {"counters_t_ns": t_ns, "counters_values": table}


def counters_pass() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Two steps under kernel replay: kernels alone, no copies; without evaluation and without a score."""
    s = Schedule(EPOCH_NS + 600_000_000_000, host=1.0, seed=41)
    names = ("dram_read_bytes", "dram_write_bytes", "l2_bytes", "tensor_ops_bf16", "duration_ns")
    sites: list[dict[str, Any]] = []
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for x in s.slices:
        if not s.step_starts[4] <= x.launch_ns < s.step_starts[6] or x.kernel.kind != "kernel":
            continue
        k = x.kernel
        row = rows.setdefault(
            (k.name, site_of(x, sites), x.phase),
            {"name": k.name, "site": site_of(x, sites), "phase": x.phase, "calls": 0, "values": [0] * len(names)},
        )
        row["calls"] += 1
        each = (k.dram_read_bytes, k.dram_write_bytes, k.l2_bytes, k.tensor_ops, round(1.04 * k.time_ns))
        row["values"] = [total + one for total, one in zip(row["values"], each, strict=True)]
    replay = {
        "chip": "GH100",
        "set": "memory and tensor",
        "passes": 6,
        "steps": 2,
        "columns": [{"name": name, "metric": name, "unit": "B" if name.endswith("bytes") else "1"} for name in names],
        "absent": {},
        "rows": list(rows.values()),
        "sites": sites,
        "dropped_ranges": 0,
        "unjoined": 0,
        "notes": [],
    }
    made = _pass(s, "counters", 0, replay=replay) | {
        "num_steps": 2,
        "samples": 2 * BATCH,
        "reached": False,
        "losses": [],
    }
    made["instruments"].append({"name": "counter replay", "available": True, "reason": None})
    return made, clock_arrays(s)
