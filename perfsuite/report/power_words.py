"""Energy, clocks and throttling of a run in words that the page and the terminal share."""

from typing import Any

from perfsuite.report.figures import percent, si


def with_bound(energy_j: float | None, bound_j: float | None) -> str:
    """Joules with what is left open: "812 J ± 19.5 J"."""
    return si(energy_j, "J") + (f" ± {si(bound_j, 'J')}" if bound_j is not None and energy_j is not None else "")


_METHODS = {"counter": "the energy counter", "power": "power readings", "mixed": "counters and power readings"}


def by_method(method: str) -> str:
    """How energy was measured; what another sensor calls it stays as it is."""
    return _METHODS.get(method, method)


def by_kernel(power: dict[str, Any]) -> list[dict[str, Any]]:
    """Kernels, copies and fills that had time, the most joules first."""
    return sorted((row for row in power["kernels"] if row["time_s"]), key=lambda row: -row["energy_j"])


def gpm_means(device: dict[str, Any]) -> str:
    """What the driver's own monitor says of a device. Its columns are named "..._share" or "..._bytes_per_s"."""
    means = {key: value for key, value in device.items() if isinstance(value, float)}
    return ", ".join(_gpm_mean(key, value) for key, value in means.items()) or f"nothing: {device['reason']}"


_GPM_WORDS = {"dram": "DRAM", "sm": "SM", "pcie": "PCIe", "nvlink": "NVLink", "tx": "sent", "rx": "received"}


def _gpm_mean(key: str, value: float) -> str:
    words = key.removesuffix("_share").removesuffix("_bytes_per_s").split("_")
    name = " ".join(_GPM_WORDS.get(word, word) for word in words)
    return f"{name} {percent(value) if key.endswith('_share') else si(value, 'B/s')}"


def of_kernel(energy_j: float | None, bound_j: float | None, told_apart: bool | None) -> str:
    """Joules of a kernel: with what is left open, or as "~812 J" where they may be another's."""
    return with_bound(energy_j, bound_j) if told_apart is not False else f"~{si(energy_j, 'J')}"


def clocks_of(power: dict[str, Any]) -> dict[str, Any]:
    """What is known of the clocks; where nothing was sampled, the reason that there is no power either."""
    reason = power["reason"] or "no clocks were recorded"
    return power.get("clocks") or {"available": False, "reason": reason, "throttled": None}


def throttled(power: dict[str, Any]) -> str | None:
    """What is to be said loudly of a run whose clocks were held back; None for any other."""
    found = clocks_of(power)
    if not found["throttled"]:
        return None
    share = f" for {percent(found['share'])} of the run" if found["share"] is not None else ""
    return f"the GPU's clocks were held back by heat or a brake{share}"


def lowered(power: dict[str, Any]) -> str:
    """What lowered the clocks, throttling or not, each with its share of the time; "" for nothing."""
    reasons = ", ".join(f"{r['name']} {percent(r['share'])}" for r in clocks_of(power).get("reasons") or [])
    return f"lowered by {reasons}" if reasons else ""


def clock_range(power: dict[str, Any]) -> str | None:
    """The SM clock over the run: "1,965 to 1,980 MHz, median 1,980"."""
    clock = (power.get("clocks") or {}).get("sm_clock_mhz")
    if not clock or clock["median"] is None:
        return None
    return f"{clock['min']:,.0f} to {clock['max']:,.0f} MHz, median {clock['median']:,.0f}"


def per_watt(power: dict[str, Any]) -> str | None:
    """Work a joule, of all that the sensors saw; None where it is not known."""
    found = power.get("perf_per_watt") or {}
    said = []
    if found.get("samples_per_j") is not None:
        said.append(f"{si(found['samples_per_j'], 'samples/J')}")
    if found.get("flops_per_j") is not None:
        said.append(f"{si(found['flops_per_j'], 'FLOP/J')}")
    return ", ".join(said) or None
