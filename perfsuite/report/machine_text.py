"""A machine and its ceilings on one screen of a terminal, 100 columns wide. Never imports torch."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from perfsuite.report.gpu_text import render_gpu
from perfsuite.report.machine_tables import levels_table, size, spread


def render_machine(fp: dict[str, Any], ceilings: dict[str, Any] | None, reason: str | None = None) -> RenderableType:
    """What perfsuite.machine.fingerprint() and perfsuite.ceilings.measure() returned; reason where there are none."""
    parts: list[RenderableType] = [_machine_lines(fp)]
    if ceilings is None:
        return Group(*parts, Text(f"No ceilings: {reason}"))
    parts += [levels_table(ceilings, "Memory: ceiling and quartiles in GB/s, latency in ns"), _rates_table(ceilings)]
    parts += [render_gpu(gpu) for gpu in ceilings.get("gpus") or []]
    if not ceilings.get("gpus"):
        parts.append(Text(f"GPU: none ({ceilings.get('gpus_reason') or 'these ceilings were measured without GPUs'})"))
    quick = ", quick" if ceilings["quick"] else ""
    parts.append(
        Text(f"{ceilings['threads']} threads, {ceilings['isa']}, {ceilings['measured_at']}{quick}", style="dim")
    )
    parts.append(Text(f"{ceilings['statistic']}.", style="dim"))
    parts.append(Text(f"Bandwidth: {ceilings['bytes']}.", style="dim"))
    parts += [Text(f"Note: {note}") for note in ceilings["notes"]]
    return Group(*parts)


def _machine_lines(fp: dict[str, Any]) -> Table:
    cpu, memory = fp["cpu"], fp["memory"]
    grid = Table.grid(padding=(0, 2))
    cores = f"{cpu['physical_available'] or '?'} cores, {cpu['logical_available']} threads available"
    quota = f", quota {cpu['quota_cpus']:g}" if cpu["quota_cpus"] else ""
    virtual = {True: ", virtual machine", False: "", None: ""}[fp["virtualised"]["value"]]
    grid.add_row("CPU", f"{cpu['model'] or cpu['architecture']}: {cores}{quota}{virtual}")
    caches = [
        f"L{c['level']} {size(c['size_bytes'])}" + (f" x {c['instances']}" if c["instances"] > 1 else "")
        for c in fp["caches"]
    ]
    grid.add_row("Caches", ", ".join(caches) or fp["caches_reason"])
    total = size(memory["total_bytes"]) if memory["total_bytes"] else memory["total_bytes_reason"]
    limit = f", limited to {size(memory['limit_bytes'])}" if memory["limit_bytes"] else ""
    grid.add_row("Memory", f"{total}{limit}, transparent huge pages: {memory['transparent_huge_pages'] or 'unknown'}")
    grid.add_row("GPU", ", ".join(_gpu(gpu) for gpu in fp["gpus"] or []) or f"none ({fp['gpus_reason']})")
    torch = fp["torch"] or f"none ({fp['torch_reason']})"
    grid.add_row(
        "Software", f"{fp['os']['system']} {fp['os']['kernel']}, Python {fp['python']['version']}, torch {torch}"
    )
    return grid


def _gpu(gpu: dict[str, Any]) -> str:
    power = f", {gpu['power_limit_w']:g} W" if gpu["power_limit_w"] else ""
    return f"{gpu['name']} ({size(gpu['memory_bytes'])}{power})"


def _rates_table(ceilings: dict[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for level in ceilings["levels"]:
        for kernel in ("streaming_write", "streaming_copy"):
            if rate := level.get(f"{kernel}_bytes_per_s"):
                grid.add_row(f"{level['name']} {kernel.replace('_', ' ')}", f"{spread(rate, 1e9)} GB/s")
    grid.add_row("FMA float32", f"{spread(ceilings['fma_flops_per_s']['float32'], 1e9)} GFLOP/s")
    for dtype, rate in ceilings["gemm_flops_per_s"].items():
        text = f"{spread(rate, 1e9)} GFLOP/s" if rate else f"not measured: {ceilings['gemm_reason']}"
        grid.add_row(f"GEMM {dtype}" + (f", n = {rate['n']}" if rate else ""), text)
    overhead = ceilings["op_overhead_ns"]
    text = f"{spread(overhead, 1)} ns" if overhead else f"not measured: {ceilings['op_overhead_reason']}"
    grid.add_row("smallest torch op", text)
    return grid
