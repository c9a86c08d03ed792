"""Accounts as `perfsuite.ledger.account` makes them, of runs that never happened: what the report is tested on.

The figures are made up but consistent: phases and the unattributed rest add up to the clock, the ops of a phase to its
`ops_s`, shares of a ceiling to what the ceilings allow.
"""

import copy
import math
import random
from typing import Any

NO_GPU = "the run was on a CPU"
HOSTILE = "</script><b>bold</b>"

TARGET = {"metric": "validation loss", "unit": "nats per byte", "value": 2.4, "higher_is_better": False}

CEILINGS = {
    "threads": 2,
    "levels": [
        {
            "name": name,
            "capacity_bytes": size,
            "read_bytes_per_s": _band,
            "write_bytes_per_s": {k: v * 0.5 for k, v in _band.items()},
            "copy_bytes_per_s": {k: v * 0.7 for k, v in _band.items()},
            "triad_bytes_per_s": {k: v * 0.75 for k, v in _band.items()},
            "latency_ns": {"median": lat, "lo": lat * 0.98, "hi": lat * 1.1, "ceiling": lat * 0.98},
        }
        for name, size, _band, lat in (
            ("L1", 2 * 48 * 1024, {"median": 410e9, "lo": 398e9, "hi": 415e9, "ceiling": 415e9}, 1.6),
            ("L2", 2 * 2 * 2**20, {"median": 152e9, "lo": 148e9, "hi": 155e9, "ceiling": 155e9}, 5.1),
            ("L3", 33 * 2**20, {"median": 47e9, "lo": 41e9, "hi": 49e9, "ceiling": 49e9}, 24),
            ("DRAM", None, {"median": 18.4e9, "lo": 16.9e9, "hi": 19.2e9, "ceiling": 19.2e9}, 97),
        )
    ],
    "fma_flops_per_s": {"float32": {"median": 148e9, "lo": 141e9, "hi": 150e9, "ceiling": 150e9}},
    "gemm_flops_per_s": {"float32": {"median": 121e9, "lo": 112e9, "hi": 125e9, "ceiling": 125e9}, "bfloat16": None},
    "op_overhead_ns": {"median": 2300.0, "lo": 2210.0, "hi": 2600.0, "ceiling": 2210.0},
}

PHASES = (  # name, share of the clock, share of the phase inside ops, calls
    ("data", 0.021, 0.60, 214),
    ("forward", 0.292, 0.93, 214),
    ("backward", 0.467, 0.95, 214),
    ("optimizer", 0.118, 0.91, 214),
    ("evaluation", 0.084, 0.94, 10),
    ("other", 0.011, 0.12, 225),
)

OPS = {
    "data": [("aten::index", "none", "f32"), ("aten::copy_", "none", "i64")],
    "forward": [("aten::addmm", "forward", "gemm"), ("aten::mm", "forward", "gemm"), ("aten::mul", "forward", "ew"),
                ("aten::_softmax", "forward", "ew"), ("aten::silu", "forward", "ew"), ("aten::bmm", "forward", "gemm"),
                ("aten::view", "forward", "view"), ("cross_entropy", "forward", "ew")],
    "backward": [("aten::mm", "backward", "gemm"), ("aten::bmm", "backward", "gemm"), ("aten::mul", "backward", "ew"),
                 ("aten::sum", "backward", "ew"), ("aten::silu_backward", "backward", "ew"),
                 ("aten::add_", "backward", "small"), ("cross_entropy", "backward", "ew")],
    "optimizer": [("aten::_foreach_add_", "none", "ew"), ("aten::_foreach_sqrt", "none", "ew"),
                  ("aten::_foreach_addcdiv_", "none", "ew")],
    "evaluation": [("aten::addmm", "none", "gemm"), ("aten::_softmax", "none", "ew")],
    "other": [("aten::zeros", "none", "small")],
}  # fmt: skip

MODULES = ("layers.0.attention.wq", "layers.0.attention.wo", "layers.1.feed_forward.w1", "layers.2.norm", "output", "")


def run_account() -> dict[str, Any]:
    """Five runs of llama tiny on a CPU without an energy counter, all of which reach the target."""
    clock_s = 13.87
    phases, ops = _phases_and_ops(clock_s)
    runs = [_run(seed, seconds) for seed, seconds in zip(range(41, 46), (13.1, 13.6, 14.2, 14.9, 16.3), strict=True)]
    return {
        "schema": 1,
        "id": "0007-llama-tiny-xeon-2",
        "kind": "run",
        "workload": "llama",
        "scale": "tiny",
        "device": "cpu",
        "command": ["perfsuite", "run", "llama", "--runs", "5"],
        "commit": "9f2c1e7",
        "created": "2026-03-02T10:15:04+00:00",
        "use": {"cross_entropy": "eager"},
        "division": "open",
        "machine": {
            "fingerprint": {
                "cpu": "Xeon (synthetic)", "cores": 2, "memory_bytes": 16 * 2**30, "os": "Linux 6.6",
                "versions": {"python": "3.11.9", "torch": "2.13.0", "perfsuite": "0.1.0"},
            },
            "ceilings": copy.deepcopy(CEILINGS),
            "ceilings_reason": None,
        },
        "target": dict(TARGET),
        "headline": {
            "answer": "reaches 2.40 nats per byte in 14.2 s (95 % interval 12.9 to 15.6 s)",
            "limits": "aten::mm in the backward phase, 31 % of the clock, at 62 % of the measured compute ceiling",
        },
        "score": {
            "time_to_train_s": 14.2333,
            "ci95_s": [12.9, 15.6],
            "samples_to_target": 219136.0,
            "samples_to_target_range": [204800, 245760],
            "time_per_sample_s": 6.58e-5,
            "time_per_sample_range_s": [6.4e-5, 6.63e-5],
            "num_runs": 5,
            "num_reached": 5,
            "footnote": "Unverified: result not verified by MLCommons Association; not an MLPerf result.",
            "runs": runs,
        },
        "score_reason": None,
        "ledger": {
            "pass_kind": "ledger", "seed": 41, "clock_s": clock_s,
            "unattributed_s": clock_s - sum(p["time_s"] for p in phases),
            "window": None, "num_steps": 214, "phases": phases, "ops": ops, "kernels": [],
            "device": _no_device(),
            "checks": [
                {"name": "phases add up", "ok": True, "detail": "phases + unattributed = clock to 0.2 us"},
                {"name": "ops within their phase", "ok": True, "detail": "no phase has more op time than time"},
                {"name": "unattributed below 2 %", "ok": True, "detail": "0.70 % of the clock"},
                {"name": "same steps as the clean pass", "ok": True, "detail": "losses of seed 41 equal in 214 steps"},
            ],
            "residuals": {"unattributed_share": 0.007, "other_share": 0.011},
            "notes": ["shapes were taken on every 16th step and scaled to the times of all steps"],
        },
        "memory": {
            "peak_bytes": 118_400_000, "peak_reason": None, "churn_bytes": 41_200_000_000, "allocations": 912_000,
            "rss_peak_bytes": 612_000_000, "page_faults": {"minor": 48211, "major": 0},
            "levels": [
                {"name": "L2", "bytes": 61e9, "time_s": 1.21, "bandwidth_bytes_per_s": 152e9,
                 "achieved_bytes_per_s": 50.4e9, "share_of_ceiling": 0.33, "source": "modelled"},
                {"name": "L3", "bytes": 118e9, "time_s": 4.9, "bandwidth_bytes_per_s": 47e9,
                 "achieved_bytes_per_s": 24.1e9, "share_of_ceiling": 0.51, "source": "modelled"},
                {"name": "DRAM", "bytes": 22e9, "time_s": 2.6, "bandwidth_bytes_per_s": 18.4e9,
                 "achieved_bytes_per_s": 8.5e9, "share_of_ceiling": 0.46, "source": "modelled"},
            ],
            "gpu": {
                "available": True, "reason": None, "device": "cpu", "allocated_peak_bytes": 118_400_000,
                "reserved_peak_bytes": None, "fragmentation_share": None, "retries": None, "ooms": None,
                "num_device_alloc": None, "notes": [], "traffic": [],
                "peak": {"t_ns": 7_000_000, "step": 2, "phase": "backward", "source": "step 2 replayed",
                         "categories": [{"name": "weights", "bytes": 26_000_000},
                                        {"name": "gradients", "bytes": 26_000_000},
                                        {"name": "activations", "bytes": 66_400_000}]},
            },
            "counters": {"available": False, "reason": NO_GPU},
        },
        "mfu": {"available": True, "reason": None, "mfu": 0.281, "model_flops_per_sample": 1.5e6,
                "achieved_flops_per_s": 34e9, "peak_flops_per_s": 121e9, "dtype": "float32",
                "definition": "flops of the model's forward and backward, over the time times the measured peak"},
        "power": _no_power("no NVML device, and /sys/class/powercap has no intel-rapl zone"),
        "host": {"available": False, "reason": "no host-stack pass was asked for: add --host-stacks", "functions": []},
        "overhead": {
            "ratio": 1.013, "ci95": [1.006, 1.021], "pairs": 60,
            "parts": {
                "clock_and_sampler": {"ratio": 1.002, "ci95": [0.997, 1.006], "pairs": 30},
                "recorders": {"ratio": 1.011, "ci95": [1.005, 1.018], "pairs": 30},
            },
        },
        "instruments": [
            {"name": "phase clock", "available": True, "reason": None},
            {"name": "op recorder", "available": True, "reason": None},
            {"name": "NVML", "available": False, "reason": "libnvidia-ml.so.1 is not installed"},
            {"name": "RAPL", "available": False, "reason": "the kernel shows no powercap zone"},
            {"name": "host stacks", "available": False, "reason": "not asked for: add --host-stacks"},
        ],
        "series": _series(clock_s),
        "notes": ["cache_clear false: dropping the page cache needs root"],
    }  # fmt: skip


def not_converged() -> dict[str, Any]:
    """Two of five runs stop at max_samples: there is no time-to-train, and a reason."""
    made = run_account()
    for run in made["score"]["runs"][3:]:
        run |= {"reached": False, "stop_reason": "max_samples", "quality": 2.47}
    reason = "2 of 5 runs did not reach the target (the rules allow 1): seed 44 stopped by max_samples"
    for name in ("time_to_train_s", "ci95_s", "samples_to_target", "samples_to_target_range", "time_per_sample_s",
                 "time_per_sample_range_s"):  # fmt: skip
        made["score"][name] = None
    made["score"]["num_reached"] = 3
    made |= {"score_reason": reason}
    made["headline"]["answer"] = f"no time-to-train: {reason}"
    made["ledger"]["checks"][2] |= {"ok": False, "detail": "3.10 % of the clock: some code is in no phase"}
    return made


def with_power() -> dict[str, Any]:
    """A machine with an energy counter, host stacks recorded."""
    made = run_account()
    made["power"] |= {"available": True, "reason": None, "energy_j": 812.4, "bound_j": 19.5, "mean_w": 57.1,
                     "method": "energy counter of the package, cross-checked against power",
                     "phases": [{"name": "forward", "time_s": 4.05, "energy_j": 236.0, "bound_j": 31.0, "mean_w": 58.3},
                                {"name": "backward", "time_s": 6.48, "energy_j": None, "bound_j": None,
                                 "mean_w": None}]}  # fmt: skip
    series = made["series"]
    series["columns"]["package_power"] = [55 + 6 * math.sin(t) for t in series["t_s"]]
    series["units"]["package_power"] = "W"
    del series["absent"]["package_power"]
    made["host"] = {"available": True, "reason": None, "functions": [
        {"phase": "forward", "function": "forward", "file": "llama.py", "line": 112, "share": 0.31, "time_s": 0.09},
        {"phase": "optimizer", "function": "step", "file": "adamw.py", "line": 220, "share": 0.22, "time_s": 0.06},
    ]}  # fmt: skip
    for op in made["ledger"]["ops"][:20]:
        op["joules"] = op["self_time_s"] * 57.1
    return made


def watched() -> dict[str, Any]:
    """A loop of somebody's own, on a machine whose ceilings nobody measured: hardly any optional part is there."""
    return {
        "schema": 1, "id": "0009-watch-xeon-2", "kind": "watch", "workload": "train.py", "scale": "", "device": "cpu",
        "command": ["python", "train.py"], "commit": None, "created": "2026-03-02T11:00:00+00:00", "use": {},
        "division": "open",
        "machine": {"fingerprint": {}, "ceilings": None, "ceilings_reason": "not measured: run `perfsuite machine`"},
        "target": None,
        "headline": {"answer": "120 steps in 3.2 s", "limits": "forward, 61 % of the clock"},
        "score": None, "score_reason": "an accounted loop has no target to reach",
        "ledger": {
            "pass_kind": "watch", "seed": None, "clock_s": 3.2, "unattributed_s": 0.2, "window": None,
            "num_steps": 120,
            "phases": [{"name": "forward", "time_s": 2.0, "ops_s": None, "host_s": None, "calls": 120},
                       {"name": "backward", "time_s": 1.0, "ops_s": None, "host_s": None, "calls": 120}],
            "ops": [], "kernels": [], "checks": [], "device": _no_device(),
            "residuals": {"unattributed_share": 0.0625, "other_share": 0.0}, "notes": [],
        },
        "memory": {"peak_bytes": None, "peak_reason": "no op recorder in this pass", "churn_bytes": None,
                   "allocations": None, "rss_peak_bytes": 2e8, "page_faults": None, "levels": [],
                   "gpu": {"available": False, "reason": "the memory of this loop was not followed"},
                   "counters": {"available": False, "reason": NO_GPU}},
        "mfu": {"available": False, "reason": "the flops of this loop are not known"},
        "power": _no_power("no energy sensor"),
        "host": {"available": False, "reason": "py-spy was not started", "functions": []},
        "overhead": None,
        "instruments": [{"name": "phase clock", "available": True, "reason": None},
                        {"name": "op recorder", "available": False, "reason": "the torch extension is not built"}],
        "series": {"t_s": [], "columns": {}, "units": {}, "absent": {"cpu_cores": "the sampler was off"}},
        "notes": [],
    }  # fmt: skip


def unfinished() -> dict[str, Any]:
    """A record none of whose passes has finished."""
    made = run_account()
    reason = "no pass of this record has finished: run it again or resume it"
    made["headline"] = {"answer": f"no time to 2.4 nats per byte: {reason}", "limits": None}
    made |= {"score": None, "score_reason": reason, "ledger": None, "memory": None, "overhead": None, "series": None,
             "power": _no_power(reason), "instruments": [], "notes": [reason]}  # fmt: skip
    return made


def hostile() -> dict[str, Any]:
    """Every name is an attempt to break out of its place; rich's markup is among them."""
    made = with_power()
    bad = HOSTILE + "[bold red]x[/]<img src=x onerror=alert(1)>"
    made["id"] = made["workload"] = bad
    made["command"] = ["perfsuite", bad]
    made["notes"] = [bad]
    made["headline"] = {"answer": bad, "limits": bad}
    for op in made["ledger"]["ops"]:
        op["name"] += bad
        op["module"] = op["shape"] = bad
    made["ledger"]["phases"][1]["name"] = bad
    for op in made["ledger"]["ops"]:
        op["phase"] = bad if op["phase"] == "forward" else op["phase"]
    made["ledger"]["checks"][0] = {"name": bad, "ok": False, "detail": bad}
    made["instruments"][2]["reason"] = bad
    made["power"]["method"] = bad
    made["target"]["unit"] = made["target"]["metric"] = bad
    made["score"]["runs"][0]["stop_reason"] = bad
    made["memory"]["levels"][0]["name"] = bad
    made["machine"]["fingerprint"]["cpu"] = bad
    made["series"]["absent"][bad] = bad
    made["host"]["functions"][0]["function"] = bad
    return made


def _no_device() -> dict[str, Any]:
    return {"available": False, "reason": NO_GPU, "devices": [], "syncs": [], "overheads": [], "dropped": None,
            "late": None}  # fmt: skip


def _no_power(reason: str) -> dict[str, Any]:
    figures = ("energy_j", "bound_j", "mean_w", "method", "idle_w", "idle_bound_w", "idle_source", "above_idle_j",
               "above_idle_bound_j")  # fmt: skip
    clocks = {"throttled": None, "share": None, "reasons": [], "sm_clock_mhz": None}
    return {
        "available": False, "reason": reason, **dict.fromkeys(figures), "phases": [],
        "kernels_available": False, "kernels_reason": NO_GPU, "kernels": [], "no_kernel": None, "kernels_windows": 0,
        "kernels_unexplained_share": None, "kernels_notes": [], "idle_reason": reason,
        "above_idle_reason": reason, "gpm": {"available": False, "reason": NO_GPU, "devices": []},
        "clocks": {"available": False, "reason": NO_GPU, **clocks},
        "perf_per_watt": {"samples_per_j": None, "flops_per_j": None, "reason": reason},
    }  # fmt: skip


def _run(seed: int, seconds: float) -> dict[str, Any]:
    rng = random.Random(seed)
    samples = int(seconds / 6.5e-5 / 20480) * 20480 + 20480
    marks = [round(samples * (i + 1) / 10) for i in range(10)]
    curve = [2.39 + 3.1 * math.exp(-4.8 * (i + 1) / 10) - 0.026 * (i + 1) / 10 + rng.gauss(0, 0.01) for i in range(10)]
    curve[-1] = 2.392
    return {
        "seed": seed, "time_s": seconds, "samples": samples, "quality": 2.392, "reached": True,
        "stop_reason": "target", "init_s": 1.9, "init": {"build_s": 1.1, "compile_s": None, "warmup_s": 0.8},
        "clean": True, "time_per_sample_s": seconds / samples, "log": f"result_{seed - 41}.txt",
        "evaluations": [
            {"samples": s, "time_s": seconds * s / samples, "quality": q} for s, q in zip(marks, curve, strict=True)
        ],
        "losses": [[round(samples * i / 100), 2.35 + 3.2 * math.exp(-5 * i / 100) + rng.gauss(0, 0.05)]
                   for i in range(1, 101)],
    }  # fmt: skip


def _phases_and_ops(clock_s: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rng = random.Random(5)
    phases, ops = [], []
    for name, share, in_ops, calls in PHASES:
        time_s = clock_s * share
        phases.append({"name": name, "time_s": time_s, "ops_s": time_s * in_ops, "host_s": time_s * (1 - in_ops),
                       "calls": calls})  # fmt: skip
        rows = [(kind, module) for kind in OPS[name] for module in MODULES[: 5 if len(OPS[name]) > 3 else 1]]
        if name in ("forward", "backward"):
            rows = rows[:24]
        weights = [rng.expovariate(1) + 0.02 for _ in rows]
        for (kind, module), weight in zip(rows, weights, strict=True):
            ops.append(_op(name, kind, module, time_s * in_ops * weight / sum(weights), calls, rng))
    return phases, sorted(ops, key=lambda op: -op["self_time_s"])


def _op(phase: str, kind: tuple[str, str, str], module: str, seconds: float, calls: int, rng: random.Random) -> dict:
    name, direction, sort = kind
    rate = {"gemm": 0.62, "ew": 0.48, "small": 0.02}.get(sort, 0.3) * rng.uniform(0.5, 1.2)
    intensity = {"gemm": 28.0, "ew": 0.25}.get(sort, 0.08) * rng.uniform(0.6, 1.6)
    level, band = rng.choice((("L2", 152e9), ("L3", 47e9), ("DRAM", 18.4e9)))
    flops_per_s = min(121e9, intensity * band) * rate
    row = {
        "name": name, "direction": direction, "impl": "eager" if name == "cross_entropy" else "",
        "op": "cross_entropy" if name == "cross_entropy" else "", "module": module,
        "shape": "f32[1024,128] f32[128,384] -> f32[1024,384]", "phase": phase,
        "thread": "clock", "calls": calls, "self_time_s": seconds, "device_time_s": None, "work_time_s": seconds,
        "bytes": seconds * flops_per_s / intensity, "flops": seconds * flops_per_s,
        "bound": "compute" if sort == "gemm" else "memory", "share_of_ceiling": rate,
        "gbytes_per_s": flops_per_s / intensity / 1e9, "gflops_per_s": flops_per_s / 1e9, "level": level,
        "joules": None, "hidden": False,
    }  # fmt: skip
    if sort == "small":
        row |= {"bound": "overhead"}
    if sort == "view":
        row |= {"bytes": 0, "flops": 0, "bound": "overhead", "share_of_ceiling": None, "gbytes_per_s": None,
                "gflops_per_s": None, "level": None}  # fmt: skip
    if sort == "i64":
        row |= dict.fromkeys(("bytes", "flops", "bound", "share_of_ceiling", "gbytes_per_s", "gflops_per_s", "level"))
    return row


def _series(clock_s: float) -> dict[str, Any]:
    rng = random.Random(9)
    t = [clock_s * i / 280 for i in range(281)]
    return {
        "t_s": t,
        "columns": {
            "cpu_cores": [min(2.0, 1.86 + rng.gauss(0, 0.05)) if s > 0.3 else 0.9 for s in t],
            "rss_mb": [410 + 200 * (1 - math.exp(-s)) for s in t],
        },
        "units": {"cpu_cores": "cores", "rss_mb": "MB"},
        "absent": {"package_power": "the kernel shows no powercap zone", "gpu_power": "no NVML device"},
    }
