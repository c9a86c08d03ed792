"""Which machine this is, and what was measured of it before. A leaf: needs no torch, no driver and no GPU.

The fingerprint names hardware, limits and software by model and version. Host name, serial numbers and user are left
out on purpose: fingerprints are stored in records that people publish.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

from perfsuite import _native
from perfsuite.machine_parts import gpu_parts, parts
from perfsuite.topology import (
    ROOT,
    available_cpus,
    cores,
    cpu_quota,
    data_caches,
    meminfo_bytes,
    memory_limit_bytes,
    read_text,
)

SCHEMA = 1


def fingerprint(root: Path = ROOT) -> dict[str, Any]:
    """What this machine and process are, as plain data. What cannot be seen is None beside a `..._reason`."""
    return {
        "schema": SCHEMA,
        "cpu": _cpu(root),
        "caches": _caches(root)[0],
        "caches_reason": _caches(root)[1],
        "frequency": _frequency(root),
        "memory": _memory(root),
        "virtualised": _virtualised(root),
        "os": {"system": platform.system(), "kernel": os.uname().release, "distribution": _distribution(root)},
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "compiler": _native.compiler,
        "parts": parts(root),
        **_gpus(),
        **_torch(),
    }


def fingerprint_id(fp: dict[str, Any]) -> str:
    """12 hex digits that change when something changes that a ceiling depends on: hardware, limits, torch's version."""
    facts = {
        "hardware": _hardware(fp),
        "cpu_limits": [fp["cpu"]["logical_available"], fp["cpu"]["physical_available"], fp["cpu"]["quota_cpus"]],
        "frequency": [fp["frequency"][key] for key in ("governor", "max_hz", "turbo")],
        "huge_pages": fp["memory"]["transparent_huge_pages"],
        "power_limits_w": [gpu["power_limit_w"] for gpu in fp["gpus"] or []],
        "torch": fp["torch"],
    }
    return _digest(facts)[:12]


def machine_name(fp: dict[str, Any] | None = None) -> str:
    """A name for folders, such as "amd-epyc-2c-1a2b3c": the model and a hash of the hardware, never the host's name."""
    fp = fingerprint() if fp is None else fp
    gpus = fp["gpus"] or []
    model = f"{gpus[0]['name']} x{len(gpus)}" if gpus else f"{fp['cpu']['model'] or fp['cpu']['architecture']}"
    if not gpus:
        # "Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz" -> "intel-xeon-platinum-8480"
        model = re.sub(r"\((r|tm|c)\)|\bcpu\b|\bprocessor\b|@.*|\b\d+-core\b", " ", model.lower())
        model += f" {fp['cpu']['physical_available'] or fp['cpu']['logical_available']}c"
    slug = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    return f"{slug[:40].strip('-')}-{_digest(_hardware(fp))[:6]}"


def cache_path(identity: str) -> Path:
    """Where the ceilings of the machine with this fingerprint id are kept."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~/.cache"))  # the spec: ignore relative
    return folder / "perfsuite" / f"ceilings-{identity}.json"


def load_ceilings(fp: dict[str, Any] | None = None) -> tuple[dict[str, Any] | None, str | None]:
    """The ceilings measured before on this very machine, or (None, why there are none)."""
    identity = fingerprint_id(fingerprint() if fp is None else fp)
    path = cache_path(identity)
    try:
        ceilings = json.loads(path.read_text())
    except FileNotFoundError:
        return None, "no ceilings have been measured on this machine as it is now: run `perfsuite machine`"
    except (OSError, ValueError) as error:
        return None, f"cannot read {path} ({error}): run `perfsuite machine` to measure again"
    if not isinstance(ceilings, dict) or ceilings.get("schema") != SCHEMA or not ceilings.get("levels"):
        return None, f"{path} is not a ceilings file of schema {SCHEMA}: run `perfsuite machine` to measure again"
    if ceilings.get("fingerprint_id") != identity:
        return None, f"{path} was measured on another machine: run `perfsuite machine` to measure this one"
    return ceilings, None


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _hardware(fp: dict[str, Any]) -> dict[str, Any]:
    cpu, memory = fp["cpu"], fp["memory"]
    total = memory["total_bytes"]
    return {
        "cpu": [cpu[key] for key in ("model", "family", "model_number", "stepping", "architecture", "logical_total")],
        "isa": cpu["isa"],
        "caches": fp["caches"],
        # Kernels keep a little more or less for themselves: to the GiB.
        "memory_gib": None if total is None else round(total / 2**30),
        "numa_nodes": memory["numa_nodes"],
        "virtualised": fp["virtualised"]["value"],
        "gpus": [[gpu["name"], gpu["memory_bytes"]] for gpu in fp["gpus"] or []],
    }


def _cpu(root: Path) -> dict[str, Any]:
    info: dict[str, str] = {}
    for line in (read_text(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        info.setdefault(key.strip(), value.strip())
    cpus = available_cpus()
    groups, cores_reason = cores(cpus, root)
    quota, quota_reason = cpu_quota(root)
    model = info.get("model name")
    return {
        "model": model,
        "model_reason": None if model else "no `model name` in /proc/cpuinfo",
        "vendor": info.get("vendor_id") or info.get("CPU implementer"),
        "family": info.get("cpu family"),
        "model_number": info.get("model") or info.get("CPU part"),
        "stepping": info.get("stepping") or info.get("CPU revision"),
        "architecture": platform.machine(),
        "isa": _native.membench_isas(),
        "logical_total": os.cpu_count(),
        "logical_available": len(cpus),
        "physical_available": len(groups) if groups else None,
        "physical_available_reason": cores_reason,
        "quota_cpus": quota,
        "quota_cpus_reason": quota_reason,
    }


def _caches(root: Path) -> tuple[list[dict[str, Any]], str | None]:
    instances, reason = data_caches(available_cpus(), root)
    counts: dict[tuple[int, int, int, int], int] = {}
    for cache in instances:
        key = (cache.level, cache.size_bytes, cache.line_bytes, len(cache.cpus))
        counts[key] = counts.get(key, 0) + 1
    names = ("level", "size_bytes", "line_bytes", "shared_by")
    return [dict(zip(names, key, strict=True), instances=count) for key, count in sorted(counts.items())], reason


def _frequency(root: Path) -> dict[str, Any]:
    folder = root / "sys/devices/system/cpu"
    governor = read_text(folder / "cpu0/cpufreq/scaling_governor")
    highest = read_text(folder / "cpu0/cpufreq/cpuinfo_max_freq")
    no_turbo, boost = read_text(folder / "intel_pstate/no_turbo"), read_text(folder / "cpufreq/boost")
    turbo = no_turbo == "0" if no_turbo else boost == "1" if boost else None
    return {
        "governor": governor,
        "governor_reason": None if governor else f"no {folder}/cpu0/cpufreq: the kernel sets no frequency here",
        "max_hz": int(highest) * 1000 if highest else None,
        "turbo": turbo,
        "turbo_reason": None if turbo is not None else "neither intel_pstate/no_turbo nor cpufreq/boost is there",
    }


def _memory(root: Path) -> dict[str, Any]:
    total = meminfo_bytes("MemTotal", root)
    limit, limit_reason = memory_limit_bytes(root)
    pages = re.search(r"\[(\w+)\]", read_text(root / "sys/kernel/mm/transparent_hugepage/enabled") or "")
    return {
        "total_bytes": total,
        "total_bytes_reason": None if total else "no MemTotal in /proc/meminfo",
        "limit_bytes": limit,
        "limit_bytes_reason": limit_reason,
        "numa_nodes": len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or None,
        "transparent_huge_pages": pages.group(1) if pages else None,
    }


def _virtualised(root: Path) -> dict[str, Any]:
    info = read_text(root / "proc/cpuinfo") or ""
    flags = re.search(r"^flags\s*:.*$", info, re.MULTILINE)
    product = read_text(root / "sys/class/dmi/id/product_name")
    if flags is None:
        return {"value": None, "by": product, "reason": "no processor flags in /proc/cpuinfo tell"}
    return {"value": "hypervisor" in flags.group().split(), "by": product, "reason": None}


def _distribution(root: Path) -> str | None:
    found = re.search(r'^PRETTY_NAME="?(.*?)"?$', read_text(root / "etc/os-release") or "", re.MULTILINE)
    return found.group(1) if found else None


def _gpus() -> dict[str, Any]:
    import pynvml  # here: only this function needs it, and a broken driver must not break the rest

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"gpus": None, "gpus_reason": f"NVML: {error}", "driver": None}
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        gpus = [
            {
                "name": pynvml.nvmlDeviceGetName(handle),
                "memory_bytes": pynvml.nvmlDeviceGetMemoryInfo(handle).total,
                **_power_limit(pynvml, handle),
                "parts": gpu_parts(pynvml, handle),
            }
            for handle in handles
        ]
        reason = None if gpus else "NVML: the driver shows no GPU"
        return {"gpus": gpus or None, "gpus_reason": reason, "driver": pynvml.nvmlSystemGetDriverVersion()}
    except pynvml.NVMLError as error:
        return {"gpus": None, "gpus_reason": f"NVML: {error}", "driver": None}
    finally:
        pynvml.nvmlShutdown()


def _power_limit(pynvml: Any, handle: Any) -> dict[str, Any]:
    try:
        return {"power_limit_w": pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000, "power_limit_w_reason": None}
    except pynvml.NVMLError as error:
        return {"power_limit_w": None, "power_limit_w_reason": f"NVML: {error}"}


def _torch() -> dict[str, Any]:
    try:
        return {"torch": importlib.metadata.version("torch"), "torch_reason": None}
    except importlib.metadata.PackageNotFoundError:
        return {"torch": None, "torch_reason": "torch is not installed"}
