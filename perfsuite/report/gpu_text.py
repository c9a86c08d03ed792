"""A GPU's ceilings as text, for the screen of `perfsuite machine`. Never imports torch."""

from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from perfsuite.report.machine_tables import digits, levels_table, size, spread

_LAUNCH = {
    "call_ns": "launch, host's call", "round_trip_ns": "launch until the host sees its result",
    "kernel_period_ns": "empty kernels in the queue, each", "graph_node_ns": "empty kernels of a graph, each",
    "graph_call_ns": "replay of 1000 nodes, host's call", "op_ns": "smallest torch op",
}  # fmt: skip
_SENSOR = {
    "update_period_s": "renewed every", "window_s": "averages over", "lag_s": "lags by", "rise_s": "rises in",
    "fall_s": "falls in", "counter_update_period_s": "energy counter renewed every",
}  # fmt: skip
_WAYS = {"HtoD": "host to device", "DtoH": "device to host", "both": "both at once"}


def render_gpu(gpu: dict[str, Any]) -> RenderableType:
    """An entry of the ceilings' "gpus"."""
    parts: list[RenderableType] = [
        Text(f"\nGPU {gpu['index']}: {gpu['name']}, compute capability {gpu['compute_capability']}, "
             f"{gpu['multiprocessors']} multiprocessors, L2 {size(gpu['l2_bytes'])}, "
             f"memory {size(gpu['memory_bytes'])}")
    ]  # fmt: skip
    if gpu["levels"]:
        parts.append(levels_table(gpu, "GPU memory: ceiling and quartiles in GB/s, latency in ns"))
    if gpu["latency"]:
        parts.append(_latency(gpu["latency"]))
    if gpu["gemm_flops_per_s"]:
        parts.append(_products(gpu))
        parts += [Text(f"GEMM {dtype}: not measured ({reason})") for dtype, reason in gpu["gemm_reasons"].items()]
    if gpu["transfers"]:
        parts.append(_transfers(gpu["transfers"]))
    grid = Table.grid(padding=(0, 2))
    for name, what in _LAUNCH.items() if gpu["launch"] else ():
        grid.add_row(what, f"{spread(gpu['launch'][name], 1e3)} us")
    parts.append(grid)
    if gpu["sensor"]:
        parts += render_sensors(gpu["sensor"]["sensors"])
    parts += [Text(f"GPU {part}: not measured ({reason})") for part, reason in gpu["absent"].items()]
    clock = gpu.get("sm_clock_hz")
    if clock:
        parts.append(Text(f"SM clock {clock['lo'] / 1e6:.0f} to {clock['hi'] / 1e6:.0f} MHz meanwhile", style="dim"))
    elif gpu.get("sm_clock_reason"):
        parts.append(Text(f"SM clock: unknown ({gpu['sm_clock_reason']})"))
    parts += [Text(f"Note: {note}") for note in gpu["notes"]]
    return Group(*parts)


def _latency(latency: dict[str, Any]) -> Table:
    table = _table("GPU latency of a load: ceiling and quartiles", ("level", "footprint", "ns", "SM cycles"))
    for step in latency["plateaus"]:
        if step["latency_ns"]:
            footprint = f"{size(step['from_bytes'])} to {size(step['to_bytes'])}"
            table.add_row(step["name"], footprint, spread(step["latency_ns"], 1), spread(step["cycles"], 1))
        else:
            table.add_row(step["name"], f"not measured: {step['reason']}", "", "")
    return table


def _products(gpu: dict[str, Any]) -> Table:
    table = _table("Matrix products of random numbers in TFLOP/s", ("dtype", "n", "burst", "sustained", "SM MHz"))
    sustained = gpu["gemm_sustained"] or {}
    for dtype, burst in gpu["gemm_flops_per_s"].items():
        if burst is None:
            continue
        long = sustained.get(dtype)
        clock = "" if long is None or long["sm_clock_hz"] is None else f"{long['sm_clock_hz'] / 1e6:.0f}"
        if long and long["lowered_by"]:
            clock += f" ({', '.join(long['lowered_by'])})"
        rate = spread(long["flops_per_s"], 1e12) if long else "not measured"
        table.add_row(dtype, str(burst["n"]), spread(burst, 1e12), rate, clock)
    return table


def _transfers(rows: list[dict[str, Any]]) -> Table:
    table = _table("Copies between host and device", ("copy", "host memory", "largest", "GB/s", "smallest", "us"))
    kinds = list(dict.fromkeys((row["direction"], row["pinned"]) for row in rows))
    for direction, pinned in kinds:
        mine = [row for row in rows if (row["direction"], row["pinned"]) == (direction, pinned)]
        small, large = min(mine, key=lambda row: row["bytes"]), max(mine, key=lambda row: row["bytes"])
        ends = size(large["bytes"]), spread(large["bytes_per_s"], 1e9), size(small["bytes"])
        where = "pinned" if pinned else "pageable"
        table.add_row(_WAYS[direction], where, *ends, spread(small["time_ns"], 1e3))
    return table


def render_sensors(sensors: dict[str, dict[str, Any]]) -> list[RenderableType]:
    """A row for each quantity, a column for each sensor; what cannot be told, and what is misread, in lines below."""
    names = {column: column.removesuffix("_w").replace("_", " ") for column in sensors}
    table = _table("Power sensors: times in ms with their spread", ("", *names.values()))
    said: list[str] = []
    for key, what in _SENSOR.items():
        cells = []
        for column, found in sensors.items():
            one = found[key]
            if one["value"] is None:
                cells.append("unknown")
                said.append(f"GPU {names[column]}, {what}: unknown ({one['reason']})")
            else:
                low, high = (digits(1e3 * value) for value in one["spread"])
                cells.append(f"{digits(1e3 * one['value'])} ({low}-{high})")
        table.add_row(what, *cells)
    for column, found in sensors.items():
        if found["aliasing"]["risk"]:
            said.append(f"GPU {names[column]}: {found['aliasing']['risk']}")
    return [table, *(Text(line) for line in said)]


def _table(title: str, headings: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False, padding=(0, 1))
    table.add_column(headings[0])
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    return table
