"""Lines of the account by op: the recorder's rows, split by shape, with bytes, flops and a place on the roofline."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from perfsuite.account_kernels import OnDevice, Site, site_key
from perfsuite.account_phases import OpLine, Span
from perfsuite.flops import WITHOUT_ARITHMETIC, WRAPPERS, flops, is_attention, is_counted
from perfsuite.roofline import UNKNOWN, Machine, Placement, place
from perfsuite.signature import OTHER_SHAPES

COMPILED = ("CompiledFunction", "Torch-Compiled Region", "TorchDynamo", "CompiledFxGraph", "## Call CompiledFxGraph")
"""How the names of rows begin that stand for a region whose ops a compiler has merged."""


class OpDevice(NamedTuple):
    """What the ops of a run on a GPU are held against."""

    machine: Machine | None
    """Ceilings of the GPU."""
    times: Mapping[Site, OnDevice] | None
    """By op row. None: no kernel recorder ran, so that no op's time on the GPU is known."""


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers that add up to total, in proportion to weights (largest remainders). Equal parts if all are 0."""
    weights = list(weights) if any(weights) else [1] * len(weights)
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: total * weights[i] % whole, reverse=True)
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def is_hidden(row: Mapping[str, Any]) -> bool:
    """Whether this row is a compiled region, or inside one, so that the ops it does are not seen."""
    return row["name"].startswith(COMPILED) or row["op"].endswith("=compile")


def op_lines(span: Span, machine: Machine | None, device: OpDevice | None = None) -> list[dict[str, Any]]:
    """The account's `ops`, longest first. Self times and calls of a row are exact; where it was called with several
    shapes, they are split in the proportions of the sampled steps and marked `estimated`.

    machine: ceilings of the host. device: of a run on a GPU. There the self time is the host's and not what the op
    costs: `device_time_s` is (the shares of its kernels, copies and memsets), and rates and ceilings are held against
    `work_time_s`, the sum of their durations. An op that launched nothing ran on the host.
    """
    lines = [line for op in span.ops for line in _split(op, machine, device)]
    return sorted(lines, key=lambda line: (-cost_ns(line), -line["self_time_s"]))


def cost_ns(line: Mapping[str, Any]) -> int:
    """What a line costs: its device time on a GPU, its self time elsewhere."""
    return line["self_time_ns"] if line["device_time_ns"] is None else line["device_time_ns"]


def _split(op: OpLine, machine: Machine | None, device: OpDevice | None) -> list[dict[str, Any]]:
    on_device = None
    if device is not None and device.times is not None:
        on_device = device.times.get(site_key(op.row), OnDevice(0, 0, 0))
    shapes = op.row["shapes"]
    if not shapes:
        return [_line(op, {}, op.calls, op.self_ns, machine, device, on_device, estimated=False)]
    calls = apportion(op.calls, [shape["sampled_calls"] for shape in shapes])
    times = apportion(op.self_ns, [shape["sampled_self_ns"] for shape in shapes])
    parts = [None] * len(shapes) if on_device is None else _split_device(op, calls, device.machine, on_device)
    unseen = sum(shape["sampled_calls"] for shape in shapes) < op.row["calls"] or op.calls != op.row["calls"]
    return [
        _line(op, shape, n, ns, machine, device, part, estimated=unseen)
        for shape, n, ns, part in zip(shapes, calls, times, parts, strict=True)
        if n or ns
    ]


def _split_device(op: OpLine, calls: Sequence[int], machine: Machine | None, whole: OnDevice) -> list[OnDevice]:
    """Device time of a row by shape. Kernels do not say for which shape they ran: it is split in proportion to the
    least time that the shapes' bytes and flops need, to their bytes where that is unknown, else to the calls.
    """
    if not any(calls):
        calls = [1] * len(calls)
    costs = [_cost(op.row, shape) for shape in op.row["shapes"]]
    moved = [None if bytes_ is None else n * bytes_ for n, (bytes_, _) in zip(calls, costs, strict=True)]
    least = [
        None if machine is None else place(machine, shape["signature"], n, 1.0, bytes_, None if f is None else n * f,
                                           shape.get("footprint_bytes")).least_s
        for shape, n, bytes_, (_, f) in zip(op.row["shapes"], calls, moved, costs, strict=True)
    ]  # fmt: skip
    if None not in least:
        weights = [round(1e12 * seconds) for seconds in least]
    elif None not in moved:
        weights = moved
    else:
        weights = list(calls)
    return [OnDevice(*part) for part in zip(*(apportion(total, weights) for total in whole), strict=True)]


def _placement(op: OpLine, signature: str, calls: int, bytes_: int | None, flops_: int | None,
               footprint_bytes: int | None, machine: Machine | None, device: OpDevice | None,
               on_device: OnDevice | None, self_ns: int) -> tuple[Placement, int | None]:  # fmt: skip
    """Where a line stands, and the nanoseconds that it is held against; None where those are not known."""
    work_ns: int | None = self_ns
    if device is not None and on_device is None:
        machine, work_ns = None, None
    elif on_device is not None and on_device.time_ns:
        # The ceiling of a copy between host and device is the link: see the kernels.
        machine, work_ns = (None if on_device.host_copy_ns else device.machine), on_device.time_ns
    # A compiled region's shapes are those of its ends, not of the ops that it hides; other threads do not run on
    # the clock, but their ops move bytes all the same.
    if machine is None or is_hidden(op.row) or not work_ns:
        placement = UNKNOWN
    else:
        placement = place(machine, signature, calls, work_ns / 1e9, bytes_, flops_, footprint_bytes)
    if flops_ is None and is_counted(op.row["name"]):
        # It computes, and how much is not known: bytes alone do not say what bounds it.
        placement = UNKNOWN._replace(level=placement.level)
    return placement, work_ns


def _line(op: OpLine, shape: Mapping[str, Any], calls: int, self_ns: int, machine: Machine | None,
          device: OpDevice | None, on_device: OnDevice | None, *, estimated: bool) -> dict[str, Any]:  # fmt: skip
    row = op.row
    suite_op, _, implementation = row["op"].partition("=")
    signature = shape.get("signature", "")
    call_bytes, call_flops = _cost(row, shape)
    bytes_ = None if call_bytes is None else calls * call_bytes
    flops_ = None if call_flops is None else calls * call_flops
    placement, work_ns = _placement(op, signature, calls, bytes_, flops_, shape.get("footprint_bytes"), machine, device,
                                    on_device, self_ns)  # fmt: skip
    device_ns = None if on_device is None else on_device.share_ns
    return {
        "name": row["name"], "direction": row["direction"], "impl": implementation or None, "op": suite_op or None,
        "module": row["module"], "shape": signature or None, "phase": row["phase"], "thread": row["thread"],
        "calls": calls, "self_time_s": self_ns / 1e9, "self_time_ns": self_ns,
        "device_time_s": None if device_ns is None else device_ns / 1e9, "device_time_ns": device_ns,
        "work_time_s": None if work_ns is None else work_ns / 1e9,
        "host_copy": bool(on_device and on_device.host_copy_ns), "estimated": estimated,
        "bytes": bytes_, "flops": flops_, "bound": placement.bound, "share_of_ceiling": placement.share_of_ceiling,
        "ceiling_spread": placement.spread, "least_time_s": placement.least_s,
        "floor_time_s": placement.floor_s, "level": placement.level,
        "gbytes_per_s": bytes_ / work_ns if bytes_ and work_ns else None,
        "gflops_per_s": flops_ / work_ns if flops_ and work_ns else None,
        "joules": None, "hidden": is_hidden(row),
    }  # fmt: skip


def _cost(row: Mapping[str, Any], shape: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Bytes and flops of one call, without what the ops inside it, which are rows of their own, move and compute."""
    if not shape or is_hidden(row):
        return None, None
    cost = shape.get("cost") or {}
    call_bytes = cost["bytes"] if cost.get("bytes") is not None else shape["bytes"]
    if cost.get("flops") is not None:
        return call_bytes, cost["flops"]
    if row["name"] in WRAPPERS or row["name"] in WITHOUT_ARITHMETIC:
        return call_bytes, 0
    computed = flops(row["name"], shape["signature"])
    # A view, or a composite op whose children did it all.
    return call_bytes, 0 if computed is None and call_bytes == 0 else computed


def op_notes(lines: Sequence[Mapping[str, Any]], compiled_regions: int) -> list[str]:
    """What a reader of the op lines must know: unknown bytes, hidden ops, counted halves, estimates."""
    notes = []
    total_ns = sum(cost_ns(line) for line in lines)
    unknown_ns = sum(cost_ns(line) for line in lines if line["bytes"] is None and not line["hidden"])
    what = "op time" if all(line["device_time_ns"] is None for line in lines) else "ops' device time"
    if unknown_ns:
        notes.append(f"bytes are unknown for ops with {_percent(unknown_ns / total_ns)} of the {what}")
    hidden_ns = sum(cost_ns(line) for line in lines if line["hidden"])
    if any(line["hidden"] for line in lines):
        notes.append(f"a compiled region hides its ops: {_percent(hidden_ns / total_ns if total_ns else 0)} "
                     f"of the {what} is known as a whole only")  # fmt: skip
    elif compiled_regions:
        notes.append("a compiled region hides its ops: they show as part of the ops around them")
    if any(is_attention(line["name"]) and line["flops"] and "causal" in (line["shape"] or "") for line in lines):
        notes.append("attention with a causal mask counts half of the square's products")
    if any(is_attention(line["name"]) and line["flops"] is None and line["bytes"] for line in lines):
        notes.append("flops of attention are unknown where the recorder did not say whether its mask is causal")
    folded_ns = sum(cost_ns(line) for line in lines if line["shape"] == OTHER_SHAPES)
    if folded_ns:
        notes.append(f"shapes of ops with {_percent(folded_ns / total_ns)} of the {what} are not kept apart: they were "
                     "called with more than 128 each")  # fmt: skip
    notes += nearer_note(lines)
    if any(line["estimated"] for line in lines):
        notes.append("times and calls by shape are estimated from the sampled steps; by op they are exact")
    return notes


def suite_ops(lines: Sequence[Mapping[str, Any]], costs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The suite's own ops, one line an op and implementation, all that runs inside them together, of the whole pass.

    least_bytes and least_flops are what the op file declares that its calls must move and compute at least, and
    moved_bytes what the operators that ran inside did move by the model; null where one of them is unknown.
    """
    out = []
    for region in sorted({cost["region"] for cost in costs}):
        op, _, implementation = region.partition("=")
        mine = [cost for cost in costs if cost["region"] == region]
        inside = [line for line in lines if line["op"] == op and line["impl"] == implementation]
        # A line without a shape is an autograd node, whose work is that of the ops inside it, lines of their own.
        moved = [line["bytes"] for line in inside if line["shape"] is not None]
        on_device = [line["device_time_s"] for line in inside]
        out.append({
            "op": op,
            "impl": implementation,
            "calls": sum(cost["calls"] for cost in mine),
            "self_time_s": sum(line["self_time_s"] for line in inside),
            "device_time_s": sum(on_device) if None not in on_device else None,
            "least_bytes": sum(cost["calls"] * cost["bytes"] for cost in mine),
            "least_flops": sum(cost["calls"] * cost["flops"] for cost in mine),
            "moved_bytes": None if None in moved else sum(moved),
        })  # fmt: skip
    return out


def too_fast(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Ops faster than anything this machine was seen to do, by more than the spread, each with the figures.

    The shapes of an op in a module and phase are taken together: its time is exact, how it splits by shape an estimate.
    """
    groups: defaultdict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        groups[tuple(str(line[key]) for key in ("name", "module", "phase", "direction", "op", "thread"))].append(line)
    found = []
    for group in groups.values():
        floor_s = sum(line["floor_time_s"] or 0.0 for line in group)
        time_s = sum(line["work_time_s"] or 0.0 for line in group)
        spread = max(line["ceiling_spread"] for line in group)
        if floor_s > time_s * (1 + spread):
            longest = max(group, key=lambda line: line["floor_time_s"] or 0.0)
            found.append(f"{longest['name']} {longest['shape']} in the {longest['phase']} phase: "
                         f"{floor_s / time_s:.2f} times as fast as the fastest memory level and the arithmetic units "
                         f"allow (spread {100 * spread:.0f} %)")  # fmt: skip
    return found


def nearer_note(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """A note on the lines that beat the ceiling of their level, as one finds its data in a nearer one."""
    beat = [line for line in lines if (line["share_of_ceiling"] or 0) > 1 + line["ceiling_spread"]]
    if not beat:
        return []
    most = max(beat, key=lambda line: line["share_of_ceiling"])
    return [f"{len(beat)} op lines beat the ceiling of their memory level, {most['name']} by a factor of "
            f"{most['share_of_ceiling']:.2f}: their data was nearer than what they touch suggests"]  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
