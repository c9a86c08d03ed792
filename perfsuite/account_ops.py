"""Lines of the account by op: the recorder's rows, split by shape, with bytes, flops and a place on the roofline."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from perfsuite.account_phases import OpLine, Span
from perfsuite.flops import WRAPPERS, flops, is_attention, is_counted
from perfsuite.roofline import UNKNOWN, Machine, place

COMPILED = ("CompiledFunction", "Torch-Compiled Region", "TorchDynamo", "CompiledFxGraph", "## Call CompiledFxGraph")
"""How the names of rows begin that stand for a region whose ops a compiler has merged."""


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


def op_lines(span: Span, machine: Machine | None) -> list[dict[str, Any]]:
    """The account's `ops`, longest first. Self times and calls of a row are exact; where it was called with several
    shapes, they are split in the proportions of the sampled steps and marked `estimated`.
    """
    lines = [line for op in span.ops for line in _split(op, machine)]
    return sorted(lines, key=lambda line: -line["self_time_s"])


def _split(op: OpLine, machine: Machine | None) -> list[dict[str, Any]]:
    shapes = op.row["shapes"]
    if not shapes:
        return [_line(op, {}, op.calls, op.self_ns, machine, estimated=False)]
    calls = apportion(op.calls, [shape["sampled_calls"] for shape in shapes])
    times = apportion(op.self_ns, [shape["sampled_self_ns"] for shape in shapes])
    unseen = sum(shape["sampled_calls"] for shape in shapes) < op.row["calls"] or op.calls != op.row["calls"]
    return [
        _line(op, shape, n, ns, machine, estimated=unseen)
        for shape, n, ns in zip(shapes, calls, times, strict=True)
        if n or ns
    ]


def _line(op: OpLine, shape: Mapping[str, Any], calls: int, self_ns: int, machine: Machine | None, *,
          estimated: bool) -> dict[str, Any]:  # fmt: skip
    row = op.row
    suite_op, _, implementation = row["op"].partition("=")
    signature = shape.get("signature", "")
    call_bytes, call_flops = _cost(row, shape)
    bytes_ = None if call_bytes is None else calls * call_bytes
    flops_ = None if call_flops is None else calls * call_flops
    self_s = self_ns / 1e9
    # A compiled region's shapes are those of its ends, not of the ops that it hides; other threads do not run on
    # the clock, but their ops move bytes all the same.
    hidden = is_hidden(row)
    if machine is None or hidden or self_ns == 0:
        placement = UNKNOWN
    else:
        placement = place(machine, signature, calls, self_s, bytes_, flops_, shape.get("footprint_bytes"))
    if flops_ is None and is_counted(row["name"]):
        # It computes, and how much is not known: bytes alone do not say what bounds it.
        placement = UNKNOWN._replace(level=placement.level)
    return {
        "name": row["name"], "direction": row["direction"], "impl": implementation or None, "op": suite_op or None,
        "module": row["module"], "shape": signature or None, "phase": row["phase"], "thread": row["thread"],
        "calls": calls, "self_time_s": self_s, "self_time_ns": self_ns, "estimated": estimated,
        "bytes": bytes_, "flops": flops_, "bound": placement.bound, "share_of_ceiling": placement.share_of_ceiling,
        "ceiling_spread": placement.spread, "least_time_s": placement.least_s,
        "floor_time_s": placement.floor_s, "level": placement.level,
        "gbytes_per_s": bytes_ / self_ns if bytes_ and self_ns else None,
        "gflops_per_s": flops_ / self_ns if flops_ and self_ns else None,
        "joules": None, "hidden": hidden,
    }  # fmt: skip


def _cost(row: Mapping[str, Any], shape: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Bytes and flops of one call, without what the ops inside it, which are rows of their own, move and compute."""
    if not shape or is_hidden(row):
        return None, None
    cost = shape.get("cost") or {}
    call_bytes = cost["bytes"] if cost.get("bytes") is not None else shape["bytes"]
    if cost.get("flops") is not None:
        return call_bytes, cost["flops"]
    if row["name"] in WRAPPERS:
        return call_bytes, 0
    computed = flops(row["name"], shape["signature"])
    # A view, or a composite op whose children did it all.
    return call_bytes, 0 if computed is None and call_bytes == 0 else computed


def op_notes(lines: Sequence[Mapping[str, Any]], compiled_regions: int) -> list[str]:
    """What a reader of the op lines must know: unknown bytes, hidden ops, counted halves, estimates."""
    notes = []
    total_ns = sum(line["self_time_ns"] for line in lines)
    unknown_ns = sum(line["self_time_ns"] for line in lines if line["bytes"] is None and not line["hidden"])
    if unknown_ns:
        notes.append(f"bytes are unknown for ops with {_percent(unknown_ns / total_ns)} of the op time")
    hidden_ns = sum(line["self_time_ns"] for line in lines if line["hidden"])
    if any(line["hidden"] for line in lines):
        notes.append(f"a compiled region hides its ops: {_percent(hidden_ns / total_ns if total_ns else 0)} "
                     "of the op time is known as a whole only")  # fmt: skip
    elif compiled_regions:
        notes.append("a compiled region hides its ops: they show as part of the ops around them")
    if any(is_attention(line["name"]) and line["flops"] and "causal" in (line["shape"] or "") for line in lines):
        notes.append("attention with a causal mask counts half of the square's products")
    if any(is_attention(line["name"]) and line["flops"] is None and line["bytes"] for line in lines):
        notes.append("flops of attention are unknown where the recorder did not say whether its mask is causal")
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
        out.append({
            "op": op,
            "impl": implementation,
            "calls": sum(cost["calls"] for cost in mine),
            "self_time_s": sum(line["self_time_s"] for line in inside),
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
        time_s = sum(line["self_time_s"] for line in group)
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
