"""The account's power block: energy gross and above idle, by phase; GPM, clocks and throttling, work per joule."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perfsuite.account_blocks import why_not
from perfsuite.account_kernel_power import kernel_power
from perfsuite.account_kernel_power import unavailable as no_kernels
from perfsuite.account_phases import Arrays, Span
from perfsuite.clock_events import REASONS, THROTTLED_SHARE, clocks
from perfsuite.energy import energy_by_phase, phase_spans
from perfsuite.energy_idle import above_idle

_FIGURES = ("energy_j", "bound_j", "mean_w", "method", "idle_w", "idle_bound_w", "idle_source", "above_idle_j",
            "above_idle_bound_j")  # fmt: skip


def power(
    pass_: Mapping[str, Any], arrays: Arrays, span: Span, model_flops_per_sample: float | None = None
) -> dict[str, Any]:
    """The power block of the account of `span`, a whole pass or a window of it.

    model_flops_per_sample: of forward and backward, without recomputation; None where nobody counted them. Energy is
    that of all devices with a sensor, listed under "sources". Idle is that of a GPU with a context and nothing to do
    (perfsuite.instruments.idle). What is not known is None with a reason beside it.
    """
    sampler, stop_ns = pass_.get("sampler"), span.start_ns + span.clock_ns
    if not sampler or "sampler_t_ns" not in arrays or span.clock_ns <= 0:
        return unavailable(why_not(pass_, "sampler", "no sampler ran in this pass"))
    names = [phase["name"] for phase in pass_["phases"]]
    end_ns = pass_["start_ns"] + pass_["clock_ns"]
    spans = phase_spans(np.asarray(arrays["timeline"]), names, end_ns) if "timeline" in arrays else {}
    samples = {**sampler, "t_ns": arrays["sampler_t_ns"], "values": arrays["sampler_values"]}
    energy = energy_by_phase(samples, span.start_ns, stop_ns, spans)
    idle = pass_.get("idle")
    return {
        **energy,
        "idle_w": idle and idle["idle_w"],
        "idle_bound_w": idle and idle["idle_bound_w"],
        "idle_source": idle and idle["idle_source"],
        "idle_reason": idle["reason"] if idle else "no idle power was measured in this pass",
        **above_idle(energy, idle, span.clock_ns / 1e9),
        **kernel_power(pass_, arrays, samples, energy, span),
        "gpm": gpm(samples, span.start_ns, stop_ns),
        "clocks": clocks(samples, span.start_ns, stop_ns),
        "perf_per_watt": per_joule(energy["energy_j"], energy["reason"], _samples(pass_, span), model_flops_per_sample),
    }


def unavailable(reason: str) -> dict[str, Any]:
    """The power block where nothing was sampled."""
    none = {"available": False, "reason": reason}
    return none | dict.fromkeys(_FIGURES) | no_kernels(reason) | {
        "phases": [], "idle_reason": reason, "above_idle_reason": reason, "gpm": none | {"devices": []},
        "clocks": none | {"throttled": None, "share": None, "reasons": [], "sm_clock_mhz": None},
        "perf_per_watt": per_joule(None, reason, None, None),
    }  # fmt: skip


def per_joule(
    energy_j: float | None, energy_reason: str | None, samples: float | None, model_flops_per_sample: float | None
) -> dict[str, Any]:
    """Work per measured joule: {"samples_per_j", "flops_per_j", "reason"}; per watt, it is work per second.

    Measured energy or nothing: what a card is rated at is not what it drew.
    """
    if energy_j is None or energy_j <= 0:
        reason = energy_reason or "no energy was drawn, as far as the sensors say"
        return {"samples_per_j": None, "flops_per_j": None, "reason": reason}
    if samples is None:
        return {"samples_per_j": None, "flops_per_j": None, "reason": "this pass does not say what it trained on"}
    per_j = samples / energy_j
    if model_flops_per_sample is None:
        return {"samples_per_j": per_j, "flops_per_j": None, "reason": "flops: nobody counted those of this model"}
    return {"samples_per_j": per_j, "flops_per_j": per_j * model_flops_per_sample, "reason": None}


def _samples(pass_: Mapping[str, Any], span: Span) -> float | None:
    """Samples trained in the span: a step takes the same number of them each time."""
    samples, steps = pass_.get("samples"), pass_["num_steps"]
    return samples * span.num_steps / steps if samples is not None and steps else None


def gpm(samples: Mapping[str, Any], t0_ns: int, t1_ns: int) -> dict[str, Any]:
    """Means over a window of what GPM says: {"available", "reason", "device", "dram_share", "tensor_share", "sm_share",
    "pcie_tx_bytes_per_s", ..., "devices": [the same of each GPU]}; the GPU with the busiest SMs speaks for all.

    Each value stands for the time since the one before it, as far as that lies in the window.
    """
    devices = [_gpm_of(samples, f"gpu{gpu['index']}", t0_ns, t1_ns) for gpu in samples.get("gpus", [])]
    known = [device for device in devices if device["reason"] is None]
    if known:
        busiest = max(known, key=lambda device: device["sm_share"] or 0.0)
        return {"available": True, **busiest, "devices": devices}
    reason = "; ".join(f"{d['device']}: {d['reason']}" for d in devices) or samples["absent"].get("gpu", "no GPU")
    return {"available": False, "reason": reason, "device": None, "devices": devices}


def _gpm_of(samples: Mapping[str, Any], gpu: str, t0_ns: int, t1_ns: int) -> dict[str, Any]:
    prefix = f"{gpu}_gpm_"
    columns = [name for name in samples["columns"] if name.startswith(prefix)]
    absent = {samples["absent"].get(name, "") for name in columns} or {"not sampled"}
    means = {name.removeprefix(prefix): None for name in columns}
    if "" not in absent:
        return {"device": gpu, "reason": "; ".join(sorted(absent))} | means
    t_ns, values = np.asarray(samples["t_ns"]), np.asarray(samples["values"])
    for name in columns:
        column = values[:, samples["columns"].index(name)]
        ends = np.flatnonzero(np.isfinite(column))
        edges = np.clip(np.concatenate([t_ns[:1], t_ns[ends]]), t0_ns, t1_ns)
        weights = np.diff(edges)
        if np.sum(weights) > 0:
            means[name.removeprefix(prefix)] = float(np.sum(weights * column[ends]) / np.sum(weights))
    known = any(mean is not None for mean in means.values())
    return {"device": gpu, "reason": None if known else "no window of GPM lies in this time"} | means


def throttle_checks(power_: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The ledger's check that no GPU was throttled; none where that is not known."""
    record = power_["clocks"]
    if record["throttled"] is None:
        return []
    detail = f"{100 * record['share']:.2f} % of the clock under heat or a brake"
    if record["throttled"]:
        throttling = {reason.name for reason in REASONS if reason.throttles}
        rows = [row for row in record["reasons"] if row["name"] in throttling]
        worst = [f"{row['name']} {100 * row['share']:.1f} %" for row in rows]
        detail += f" on {record['device']}: {', '.join(worst)}"
    return [{"name": f"the GPU was throttled for less than {100 * THROTTLED_SHARE:g} % of the clock",
             "ok": not record["throttled"], "detail": detail}]  # fmt: skip


def throttle_notes(passes: Sequence[Mapping[str, Any]]) -> list[str]:
    """One note for each pass that ran on a throttled GPU: its time is not the machine's."""
    return [
        f"{p['kind']} pass {p['index']} (seed {p['seed']}) ran on a throttled GPU, {100 * p['clocks']['share']:.1f} % "
        "of its clock: its time is not comparable"
        for p in passes
        if p.get("clocks") and p["clocks"]["throttled"]
    ]
