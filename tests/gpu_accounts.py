"""What an account of a run on a GPU has on top of that of a run on a CPU, of runs that never happened.

The figures are made up but consistent: busy and idle time add up to the clock, the kernels' shares to the busy time,
the levels' bytes to the phases', the phases' joules to the run's.
"""

import math
import random
from typing import Any

from perfsuite import account_power

CAUSES = ("launch", "sync", "data", "ops", "python", "unknown")

CUTLASS = (
    "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_256x128_64x3_{layout}_align8>"
    "(cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_256x128_64x3_{layout}_align8::Params)"
)
ELEMENTWISE = (
    "void at::native::vectorized_elementwise_kernel<4, at::native::BinaryFunctor<float, float, float, "
    "at::native::binary_internal::MulFunctor<float> >, std::array<char*, 3ul> >(int, at::native::BinaryFunctor<float, "
    "float, float, at::native::binary_internal::MulFunctor<float> >, std::array<char*, 3ul>)"
)
KERNELS = (  # name, aten op, suite op, impl, direction, module, phase, weight, bytes/s of DRAM, ops/s, bound
    (CUTLASS.format(layout="nn"), "aten::mm", None, None, "backward", "layers.1.feed_forward.w1", "backward", 30,
     0.62e12, 512e12, "compute"),
    (CUTLASS.format(layout="tn"), "aten::addmm", None, None, "forward", "layers.0.attention.wq", "forward", 17,
     0.71e12, 488e12, "compute"),
    ("void perfsuite::rms_norm_forward<__nv_bfloat16, 8>(void const*, void const*, void*, float*, long, long, float)",
     "perfsuite::rms_norm", "rms_norm", "cuda", "forward", "layers.2.norm", "forward", 6, 2.81e12, None, "memory"),
    (ELEMENTWISE, "aten::mul", None, None, "backward", "layers.1.feed_forward.w1", "backward", 9, 2.43e12, None,
     "memory"),
    ("triton_poi_fused_add_mul_silu_0", "Torch-Compiled Region: 0/0", "swiglu", "compile", "forward",
     "layers.1.feed_forward", "forward", 5, 2.66e12, None, "memory"),
    ("void at::native::(anonymous namespace)::cunn_SoftMaxForwardGmem<4, c10::BFloat16, float, c10::BFloat16, "
     "at::native::(anonymous namespace)::SoftMaxForwardEpilogue, long>(c10::BFloat16*, c10::BFloat16 const*, long)",
     "aten::_softmax", None, None, "none", "output", "evaluation", 4, 1.9e12, None, "memory"),
    ("void at::native::multi_tensor_apply_kernel<at::native::FusedOptimizerTensorListMetadata<4>, "
     "at::native::FusedAdamMathFunctor<float, 4, (at::native::ADAM_MODE)1, false>, float const*, double>()",
     "aten::_fused_adamw_", "adamw", "eager", "none", None, "optimizer", 5, 2.55e12, None, "memory"),
    ("void at_cuda_detail::cub::DeviceReduceSingleTileKernel<at_cuda_detail::cub::DeviceReducePolicy<float, 4u> >",
     None, None, None, "none", None, "optimizer", 0.4, None, None, None),
)  # fmt: skip
COPIES = (  # direction, pinned, phase, weight, bytes/s
    ("HtoD", True, "data", 1.8, 52e9), ("HtoD", False, "data", 0.7, 9.4e9), ("DtoH", False, "evaluation", 0.2, 3.1e9),
    ("DtoD", None, "forward", 0.9, 1.31e12),
)  # fmt: skip
IDLE = {  # share of the clock by phase, for each of CAUSES
    "data": (0.002, 0.000, 0.011, 0.0, 0.0, 0.0), "forward": (0.009, 0.0, 0.0, 0.021, 0.006, 0.001),
    "backward": (0.012, 0.0, 0.0, 0.017, 0.003, 0.0), "optimizer": (0.004, 0.013, 0.0, 0.008, 0.002, 0.0),
    "evaluation": (0.001, 0.017, 0.002, 0.004, 0.006, 0.0), "other": (0.0, 0.001, 0.0, 0.0, 0.009, 0.0),
    "": (0, 0, 0, 0, 0.003, 0.001),
}  # fmt: skip
CEILINGS = {
    "index": 0, "name": "H100 (synthetic)", "absent": {"latency": "it was not asked for"},
    "transfers": [
        {"direction": direction, "pinned": pinned, "bytes": size, "bytes_per_s": {
            "median": rate, "lo": 0.98 * rate, "hi": rate, "ceiling": rate}}
        for direction, pinned, size, rate in (("HtoD", True, 2**28, 55e9), ("HtoD", True, 2**12, 2e9),
                                              ("DtoH", False, 2**28, 11e9))
    ],
    "levels": [
        {"name": name, "capacity_bytes": size, "latency_ns": {"median": ns, "lo": ns, "hi": ns, "ceiling": ns},
         **{f"{kernel}_bytes_per_s": {"median": rate, "lo": 0.98 * rate, "hi": rate, "ceiling": rate}
            for kernel in ("read", "write", "copy")}}
        for name, size, rate, ns in (("L2", 50 * 2**20, 7.6e12, 170), ("HBM", None, 3.02e12, 560))
    ],
    "gemm_flops_per_s": {"bfloat16": {"median": 780e12, "lo": 775e12, "hi": 792e12, "ceiling": 792e12}},
}  # fmt: skip
IDLE_W, BUSY_W = 71.3, 512.0
RESIDUAL_S = 0.00056


def on_gpu(made: dict[str, Any]) -> dict[str, Any]:
    """The account `made`, as if the run had been on one GPU with every instrument."""
    clock_s = made["ledger"]["clock_s"]
    idle = [
        {"cause": cause, "phase": phase, "time_s": share * clock_s, "share": share}
        for phase, shares in IDLE.items() for cause, share in zip(CAUSES, shares, strict=True) if share
    ]  # fmt: skip
    idle_s = sum(row["time_s"] for row in idle)
    busy_s = clock_s - idle_s - RESIDUAL_S
    made["device"] = "cuda"
    made["ledger"]["kernels"] = kernels = _kernels(clock_s, busy_s)
    made["ledger"]["device"] = _device(clock_s, busy_s, idle, kernels)
    made["ledger"]["checks"].append({"name": "device busy + idle = clock within 0.1 %", "ok": True,
                                     "detail": "device 0: 0.004 % apart"})  # fmt: skip
    made["machine"]["ceilings"] |= {"gpus": [CEILINGS], "gpus_reason": None}
    _ops(made["ledger"]["ops"], kernels)
    made["memory"]["levels"] = [
        {"name": name, "bytes": n, "time_s": 4.1, "bandwidth_bytes_per_s": rate, "achieved_bytes_per_s": n / 4.1,
         "share_of_ceiling": n / 4.1 / rate, "source": "modelled"}
        for name, n, rate in (("L2", 9.1e12, 7.6e12), ("HBM", 8.4e12, 3.02e12))
    ]  # fmt: skip
    made["memory"]["gpu"] = _memory(kernels)
    made["memory"]["counters"] = _counters(clock_s, busy_s, kernels)
    made["mfu"] = {
        "available": True, "reason": None, "mfu": 0.413, "model_flops_per_sample": 5.31e11,
        "achieved_flops_per_s": 327e12, "peak_flops_per_s": 792e12, "dtype": "bf16",
        "definition": "flops of the model's forward and backward without recomputation, over the time of the steps "
                      "times the measured dense matrix-product peak",
    }  # fmt: skip
    made["power"] = _power(clock_s, busy_s) | _by_kernel(kernels, clock_s)
    _series(made["series"], clock_s)
    made["instruments"] += [{"name": name, "available": True, "reason": None} for name in ("kernel recorder", "NVML")]
    return made


def throttled(made: dict[str, Any]) -> dict[str, Any]:
    """The GPU held its clocks back for part of the run."""
    clocks = on_gpu(made)["power"]["clocks"]
    clocks |= {
        "throttled": True, "share": 0.042,
        "reasons": [{"name": "software power cap", "share": 0.141, "time_s": 1.96, "source": "counter"},
                    {"name": "hardware thermal slowdown", "share": 0.042, "time_s": 0.58, "source": "samples"}],
        "sm_clock_mhz": {"min": 1095, "median": 1710, "max": 1980},
    }  # fmt: skip
    return made


def without_counters(made: dict[str, Any]) -> dict[str, Any]:
    """Kernels were recorded; counters may not be read, and the driver keeps no clocks."""
    reason = "the driver lets only root read counters (NVreg_RestrictProfilingToAdminUsers=1)"
    on_gpu(made)["memory"]["counters"] = {"available": False, "reason": reason}
    for kernel in made["ledger"]["kernels"]:
        kernel |= dict.fromkeys(("dram_read_bytes", "dram_write_bytes", "l2_bytes", "tensor_ops", "bound", "level",
                                 "share_of_ceiling", "joules", "bound_j", "told_apart"))  # fmt: skip
        if kernel["kind"] == "kernel":
            kernel |= {"bytes": None, "bytes_source": None}
    made["mfu"] |= {"available": False, "reason": "no peak of bf16 was measured on this GPU", "mfu": None}
    made["power"] |= {
        "idle_w": None, "idle_source": None, "above_idle_j": None, "above_idle_bound_j": None,
        "above_idle_reason": "no idle power was measured", "idle_reason": "no idle power was measured",
        "kernels_available": False,
        "kernels_reason": "no instant power was sampled", "kernels": [], "no_kernel": None, "kernels_windows": 0,
        "kernels_unexplained_share": None, "kernels_notes": [],
        "gpm": {"available": False, "reason": "GPM needs a Hopper GPU", "devices": []},
        "clocks": {"available": False, "reason": "the driver does not say why it lowers clocks", "throttled": None,
                   "share": None, "reasons": [], "sm_clock_mhz": None},
        "perf_per_watt": {"samples_per_j": None, "flops_per_j": None, "reason": "the model's flops are not known"},
    }  # fmt: skip
    return made


def without_recorder(made: dict[str, Any]) -> dict[str, Any]:
    """A run on a GPU none of whose instruments could work."""
    reason = "another CUPTI client is subscribed in this process"
    on_gpu(made)["ledger"]["device"] = {"available": False, "reason": reason, "devices": [], "syncs": [],
                                        "overheads": [], "dropped": None, "late": None}  # fmt: skip
    made["ledger"]["kernels"] = []
    made["ledger"]["checks"].pop()
    made["memory"]["counters"] = {"available": False, "reason": "PM sampling is not possible on this chip"}
    made["memory"]["gpu"] = {"available": False, "reason": "the allocator keeps no history", "traffic": [],
                             "traffic_reason": reason}  # fmt: skip
    for name in [name for name in made["series"]["columns"] if name.startswith("gpu")]:
        del made["series"]["columns"][name]
    made["mfu"] |= {"available": False, "reason": "no peak of bf16 was measured on this GPU", "mfu": None}
    made["power"] = account_power.unavailable("no power sensor (gpu: NVML refuses)")
    made["machine"]["ceilings"] |= {"gpus": None, "gpus_reason": "the GPU was in use"}
    for op in made["ledger"]["ops"]:
        op |= dict.fromkeys(
            ("device_time_s", "work_time_s", "bound", "share_of_ceiling", "gbytes_per_s", "gflops_per_s")
        )
    return made


def replayed_only(made: dict[str, Any]) -> dict[str, Any]:
    """Kernels were replayed, but nothing was sampled over the run."""
    counters = on_gpu(made)["memory"]["counters"]
    counters |= {"available": False, "reason": "PM sampling needs a newer driver", "levels": [], "phases": [],
                 "series": {"t_s": [], "columns": {}, "units": {}}}  # fmt: skip
    for row in counters["byte_counts"]:
        row |= {"sampled_bytes": None, "sampled_reason": counters["reason"]}
    return made


def two_devices(made: dict[str, Any]) -> dict[str, Any]:
    """The second device of the run was never busy."""
    devices = on_gpu(made)["ledger"]["device"]["devices"]
    clock_s = devices[0]["clock_s"]
    devices.append({
        "device": 1, "clock_s": clock_s, "busy_s": 0.0, "idle_s": clock_s, "residual_s": 0.0, "residual_share": 0.0,
        "overlap_s": 0.0, "idle": [{"cause": "python", "phase": "", "time_s": clock_s, "share": 1.0}], "busy": [],
        "gaps": [{"up_to_s": None, "count": 1, "time_s": clock_s}],
    })  # fmt: skip
    return made


def hostile(made: dict[str, Any], bad: str) -> dict[str, Any]:
    """Every name that a GPU brings with it is `bad`."""
    throttled(made)
    ledger, memory, power = made["ledger"], made["memory"], made["power"]
    for kernel in ledger["kernels"]:
        kernel |= {"name": f'k<"{bad}", 4>', "op": bad, "impl": bad, "aten": bad, "module": bad, "level": bad}
    device = ledger["device"]["devices"][0]
    for row in (*device["idle"], *device["busy"], *memory["counters"]["phases"], *memory["counters"]["byte_counts"]):
        row["phase"] += bad
    for row in (*ledger["device"]["syncs"], *ledger["device"]["overheads"]):
        row |= {"type": bad, "kind": bad}
    for row in memory["counters"]["levels"]:
        row["name"] += bad
    for row in memory["counters"]["roofline"]:
        row |= {"kernel": bad, "op": bad}
    memory["gpu"]["peak"] |= {"source": bad, "phase": bad}
    for row in (*memory["gpu"]["peak"]["categories"], *power["clocks"]["reasons"]):
        row["name"] += bad
    for row in memory["gpu"]["traffic"]:
        row["direction"] += bad
    made["mfu"] |= {"dtype": bad, "definition": bad}
    power |= {"idle_source": bad, "method": bad, "notes": [bad], "kernels_notes": [bad]}
    for row in power["kernels"]:
        row["name"] = f'k<"{bad}", 4>'
    power["gpm"]["devices"][0] |= {"device": bad, bad: 0.5}
    return made


def _kernels(clock_s: float, busy_s: float) -> list[dict[str, Any]]:
    weights = sum(k[7] for k in KERNELS) + sum(c[3] for c in COPIES)
    rows = []
    for name, aten, op, impl, direction, module, phase, weight, rate, ops_rate, bound in KERNELS:
        share_s = busy_s * weight / weights
        time_s = share_s * (1.02 if weight > 10 else 1.0)  # some of it beside other work
        bytes_ = None if rate is None else time_s * rate
        rows.append({
            "name": name, "kind": "kernel", "copy": None, "op": op, "impl": impl, "aten": aten, "direction": direction,
            "module": module, "phase": phase, "rank": 0, "device": 0, "graph": op == "swiglu",
            "calls": round(214 * weight), "time_s": time_s, "share_s": share_s, "share_of_clock": share_s / clock_s,
            "min_s": 2.1e-6, "max_s": 9.4e-4, "bytes": bytes_, "bytes_source": None if rate is None else "replayed",
            "dram_read_bytes": bytes_ and 0.64 * bytes_, "dram_write_bytes": bytes_ and 0.36 * bytes_,
            "l2_bytes": bytes_ and 1.9 * bytes_, "tensor_ops": ops_rate and time_s * ops_rate, "bound": bound,
            "level": "DRAM" if bound == "memory" else None,
            "share_of_ceiling": None if rate is None else ops_rate / 792e12 if ops_rate else rate / 3.02e12,
            "joules": share_s * BUSY_W, "bound_j": share_s * 40, "told_apart": True, "grid": [132, 4, 1],
            "block": [256, 1, 1], "registers": 168, "shared_bytes": 65536,
        })  # fmt: skip
    for direction, pinned, phase, weight, rate in COPIES:
        time_s = busy_s * weight / weights
        rows.append({
            "name": f"memcpy {direction}", "kind": "memcpy", "copy": {"direction": direction, "pinned": pinned},
            "op": None, "impl": None, "aten": "aten::copy_", "direction": "none", "module": None, "phase": phase,
            "rank": 0, "device": 0, "graph": False, "calls": 214, "time_s": time_s, "share_s": time_s,
            "share_of_clock": time_s / clock_s, "min_s": 1e-6, "max_s": 4e-4, "bytes": time_s * rate,
            "bytes_source": "copy", "dram_read_bytes": None, "dram_write_bytes": None, "l2_bytes": None,
            "tensor_ops": None, "bound": None, "level": None, "share_of_ceiling": None, "joules": time_s * 120,
            "bound_j": time_s * 300, "told_apart": False, "grid": None, "block": None,
            "registers": None, "shared_bytes": None,
        })  # fmt: skip
    return sorted(rows, key=lambda row: -row["time_s"])


def _device(clock_s: float, busy_s: float, idle: list[dict[str, Any]], kernels: list[dict[str, Any]]) -> dict[str, Any]:
    idle_s = sum(row["time_s"] for row in idle)
    phases = sorted({kernel["phase"] for kernel in kernels})
    busy = [(phase, sum(k["share_s"] for k in kernels if k["phase"] == phase)) for phase in phases]
    shares = ((1e-6, 210_344, 0.01), (1e-5, 61_208, 0.21), (1e-4, 8_112, 0.29), (1e-3, 741, 0.26), (1e-2, 28, 0.13),
              (1e-1, 3, 0.1), (1.0, 0, 0.0), (None, 0, 0.0))  # fmt: skip
    return {
        "available": True, "reason": None,
        "devices": [{
            "device": 0, "clock_s": clock_s, "busy_s": busy_s, "idle_s": idle_s, "residual_s": RESIDUAL_S,
            "residual_share": RESIDUAL_S / clock_s, "overlap_s": sum(k["time_s"] - k["share_s"] for k in kernels),
            "idle": idle,
            "busy": [{"phase": phase, "time_s": time_s, "share": time_s / clock_s} for phase, time_s in busy],
            "gaps": [{"up_to_s": up_to, "count": n, "time_s": share * idle_s} for up_to, n, share in shares],
        }],
        "syncs": [{"type": "stream", "calls": 240, "time_s": 0.31}, {"type": "event", "calls": 12, "time_s": 0.004}],
        "overheads": [{"kind": "activity buffer flush", "count": 41, "time_s": 0.0021}], "dropped": 0, "late": 0,
    }  # fmt: skip


def _memory(kernels: list[dict[str, Any]]) -> dict[str, Any]:
    parts = {"weights": 1.61e9, "gradients": 1.61e9, "optimizer_state": 6.44e9, "activations": 21.7e9,
             "workspace": 0.34e9, "other": 0.08e9}  # fmt: skip
    return {
        "available": True, "reason": None, "device": "cuda:0", "allocated_peak_bytes": sum(parts.values()),
        "reserved_peak_bytes": 36.9e9, "fragmentation_share": 1 - sum(parts.values()) / 36.9e9,
        "peak": {"t_ns": 4_000_000, "step": 3, "phase": "backward", "source": "step 3 replayed",
                 "categories": [{"name": name, "bytes": n} for name, n in parts.items()]},
        "retries": 0, "ooms": 0, "num_device_alloc": 214, "notes": [],
        "traffic": [{**k["copy"], "calls": k["calls"], "bytes": k["bytes"], "time_s": k["time_s"],
                     "bandwidth_bytes_per_s": k["bytes"] / k["time_s"]} for k in kernels if k["copy"]],
    }  # fmt: skip


def _counters(clock_s: float, busy_s: float, kernels: list[dict[str, Any]]) -> dict[str, Any]:
    rng = random.Random(3)
    keys = ("dram_read_bytes", "dram_write_bytes", "l2_bytes")
    phases = []
    for phase in ("data", "forward", "backward", "optimizer", "evaluation"):
        mine = [k for k in kernels if k["phase"] == phase]
        read, write, l2 = (sum(k[key] or 0 for k in mine) for key in keys)
        phases.append({"phase": phase, "time_s": sum(k["share_s"] for k in mine), "dram_read_bytes": read,
                       "dram_write_bytes": write, "l2_bytes": l2, "l2_hit_share": 0.52 if l2 else None,
                       "sm_active_share": 0.87 if l2 else 0.02,
                       "tensor_active_share": 0.41 if l2 else 0.0})  # fmt: skip
    read, write, l2 = (sum(p[key] for p in phases) for key in keys)

    def level(name: str, read: float | None, write: float | None, total: float, ceiling: float | None,
              hit: float | None) -> dict[str, Any]:  # fmt: skip
        return {"name": name, "read_bytes": read, "write_bytes": write, "bytes": total,
                "bandwidth_bytes_per_s": total / clock_s, "busy_bandwidth_bytes_per_s": total / busy_s,
                "ceiling_bytes_per_s": ceiling,
                "share_of_ceiling": ceiling and total / busy_s / ceiling, "hit_share": hit}  # fmt: skip

    t = [clock_s * (i + 0.5) / 300 for i in range(300)]
    wave = [0.55 + 0.3 * math.sin(6 * s) + rng.gauss(0, 0.04) if s % 1.4 < 1.2 else 0.05 for s in t]
    roofline = [
        {"kernel": k["name"], "op": k["aten"], "phase": k["phase"], "level": name, "time_s": k["time_s"],
         "bytes": k[key], "operations": k["tensor_ops"], "intensity_ops_per_byte": k["tensor_ops"] / k[key],
         "ops_per_s": k["tensor_ops"] / k["time_s"], "bandwidth_bytes_per_s": rate, "peak_ops_per_s": 792e12,
         "ceiling_ops_per_s": min(792e12, rate * k["tensor_ops"] / k[key])}
        for k in kernels if k["tensor_ops"]
        for name, key, rate in (("DRAM", "bytes", 3.02e12), ("L2", "l2_bytes", 7.6e12))
    ]  # fmt: skip
    counts = [_byte_count(p["phase"], p["dram_read_bytes"] + p["dram_write_bytes"]) for p in phases]
    counts.append(_byte_count("total", sum(row["sampled_bytes"] for row in counts)))
    return {
        "available": True, "reason": None, "interval_s": 1e-3, "set": "memory",
        "columns": ["dram_read_bytes", "dram_write_bytes", "l2_bytes", "l2_hit_share", "sm_active_share",
                    "tensor_active_share", "pcie_read_bytes"],
        "levels": [level("DRAM", read, write, read + write, 3.02e12, None), level("L2", None, None, l2, 7.6e12, 0.52),
                   level("L1", None, None, 2.3 * l2, None, 0.61),
                   level("PCIe", 41e9, 2.2e9, 43.2e9, 55e9, None)],
        "phases": phases,
        "series": {
            "t_s": t,
            "columns": {
                "dram_read_bytes_per_s": [2.2e12 * w for w in wave],
                "dram_write_bytes_per_s": [1.1e12 * w for w in wave],
                "l2_bytes_per_s": [5.1e12 * w for w in wave],
                "l2_hit_share": [0.5 + 0.1 * w if w > 0.1 else None for w in wave],
                "sm_active_share": [min(1, 1.1 * w) for w in wave], "tensor_active_share": [0.5 * w for w in wave],
                "pcie_read_bytes_per_s": [4e9 if w < 0.1 else 2e8 for w in wave],
            },
            "units": {
                **dict.fromkeys(("dram_read_bytes_per_s", "dram_write_bytes_per_s", "l2_bytes_per_s",
                                 "pcie_read_bytes_per_s"), "B/s"),
                **dict.fromkeys(("l2_hit_share", "sm_active_share", "tensor_active_share"), "share"),
            },
        },
        "byte_counts": counts, "notes": ["the sampler's buffer overflowed 2 times"],
        "roofline": roofline,
        "replay": {"available": True, "reason": None, "passes": 6, "steps": 3},
    }  # fmt: skip


def _byte_count(phase: str, sampled: float) -> dict[str, Any]:
    reason = None if sampled else "no kernel ran"
    return {"phase": phase, "sampled_bytes": sampled, "sampled_reason": None,
            "replayed_bytes": 1.02 * sampled if sampled else None, "replayed_reason": reason,
            "modelled_bytes": 0.93 * sampled if sampled else None, "modelled_reason": reason}  # fmt: skip


def _ops(ops: list[dict[str, Any]], kernels: list[dict[str, Any]]) -> None:
    """Device times: all that ops launched, in proportion to their times on the host."""
    launched = sum(kernel["share_s"] for kernel in kernels if kernel["aten"])
    scale = launched / sum(op["self_time_s"] for op in ops)
    for op in ops:
        op["device_time_s"] = op["work_time_s"] = scale * op["self_time_s"]
        for key, factor in (("bytes", 60), ("flops", 3000), ("gbytes_per_s", 60), ("gflops_per_s", 3000)):
            op[key] = op[key] and factor * op[key]
        op["level"] = op["level"] and {"L2": "L2"}.get(op["level"], "HBM")


def _power(clock_s: float, busy_s: float) -> dict[str, Any]:
    energy_j = busy_s * BUSY_W + (clock_s - busy_s) * 140.0
    shares = {"data": 0.02, "forward": 0.29, "backward": 0.47, "optimizer": 0.12, "evaluation": 0.08,
              "unattributed": 0.02}  # fmt: skip
    return {
        "available": True, "reason": None, "energy_j": energy_j, "bound_j": 0.006 * energy_j, "low_j": 0.994 * energy_j,
        "high_j": 1.006 * energy_j, "mean_w": energy_j / clock_s, "method": "counter", "sources": [],
        "notes": ["gpu0: the readings change faster than published: they bound nothing"],
        "phases": [{"name": name, "time_s": share * clock_s, "energy_j": share * energy_j,
                    "bound_j": 0.4 * share * energy_j, "mean_w": energy_j / clock_s} for name, share in shares.items()],
        "idle_w": IDLE_W, "idle_bound_w": 0.4, "idle_source": "counter", "idle_reason": None,
        "above_idle_j": energy_j - IDLE_W * clock_s, "above_idle_bound_j": 0.007 * energy_j, "above_idle_reason": None,
        "gpm": {"available": True, "reason": None, "device": "gpu0", "dram_share": 0.46, "devices": [
            {"device": "gpu0", "reason": None, "dram_share": 0.46, "tensor_share": 0.33, "sm_share": 0.84,
             "pcie_rx_bytes_per_s": 3.1e9, "nvlink_tx_bytes_per_s": None},
        ]},
        "clocks": {"available": True, "reason": None, "throttled": False, "share": 0.0, "reasons": [],
                   "sm_clock_mhz": {"min": 1965, "median": 1980, "max": 1980}},
        "perf_per_watt": {"samples_per_j": 33.1, "flops_per_j": 0.69e12, "reason": None},
    }  # fmt: skip


def _by_kernel(kernels: list[dict[str, Any]], clock_s: float) -> dict[str, Any]:
    """Of each name; the copies are not told apart. Not all adds up: the made-up lines have powers of their own."""
    rows = []
    for name in dict.fromkeys(kernel["name"] for kernel in kernels):
        lines = [kernel for kernel in kernels if kernel["name"] == name]
        time_s, energy_j, bound_j = (sum(line[key] for line in lines) for key in ("share_s", "joules", "bound_j"))
        rows.append(_drawn(name, time_s, energy_j, bound_j))
    idle_s = clock_s - sum(row["time_s"] for row in rows)
    return {
        "kernels_available": True, "kernels_reason": None, "kernels_windows": 138, "kernels_unexplained_share": 0.013,
        "kernels_notes": ["3 kernels with little time share one power: 138 windows tell no more"],
        "kernels": [*rows, _drawn("other kernels", 0.0, 0.0, 0.0)],
        "no_kernel": _drawn("", idle_s, 140.0 * idle_s, 25.0 * idle_s),
    }  # fmt: skip


def _drawn(name: str, time_s: float, energy_j: float, bound_j: float) -> dict[str, Any]:
    return {"name": name, "time_s": time_s, "energy_j": energy_j, "bound_j": bound_j,
            "low_j": max(0.0, energy_j - bound_j), "high_j": energy_j + bound_j,
            "mean_w": energy_j / time_s if time_s else None, "told_apart": bound_j <= 0.25 * energy_j}  # fmt: skip


def _series(series: dict[str, Any], clock_s: float) -> None:
    rng = random.Random(11)
    t = series["t_s"]
    for name, unit, values in (
        ("gpu0_power_instant_w", "W", [480 + 60 * math.sin(5 * s) + rng.gauss(0, 12) for s in t]),
        ("gpu0_power_average_w", "W", [470 + 8 * math.sin(s) for s in t]),
        ("gpu0_sm_clock_mhz", "MHz", [1980 - (15 if s % 3 < 0.4 else 0) for s in t]),
        ("gpu0_temperature_c", "C", [44 + 20 * (1 - math.exp(-s / 4)) for s in t]),
        ("gpu0_gpm_dram_share", "share", [None if i < 3 else 0.46 + rng.gauss(0, 0.03) for i in range(len(t))]),
    ):
        series["columns"][name], series["units"][name] = values, unit
    series["absent"] = {"gpu0_gpm_nvlink_tx_bytes_per_s": "this GPU has no NVLink"}
