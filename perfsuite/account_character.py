"""The character of a run as the memory system sees it: what bounds its ops, what it moves and computes for a sample.

Shares are of the time of all ops of the pass that are on its clock (on a GPU: of their device time, wherever they were
called). An op is bound by what the roofline says (perfsuite/roofline.py); where that is not known the time is `unknown`
with its reasons, and never spread over the others. Bytes and flops per sample are those of the ops outside evaluation,
as MFU's are: of the ops where they are known, and beside them stands the share of the time of those where they are not.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from perfsuite.account_mfu import declared
from perfsuite.account_ops import cost_ns
from perfsuite.account_phases import Span
from perfsuite.flops import is_counted

BOUNDS = ("memory", "compute", "overhead")
TOP = 3
DEFINITION = (
    "shares of the ops' time by what bounds them on the measured roofline; least bytes that the ops must move and "
    "flops of their matrix products, convolutions, attention and recurrent layers, with the least that the suite's ops "
    "declare; both outside evaluation, over the samples trained on"
)


def character_block(pass_: Mapping[str, Any], span: Span, ops: Sequence[Mapping[str, Any]],
                    kernels: Sequence[Mapping[str, Any]], no_roofs: str | None) -> dict[str, Any]:  # fmt: skip
    """The account's `character`.

    ops, kernels: the account's lines. no_roofs: why there are no ceilings of what the ops ran on; None where there are.
    """
    block: dict[str, Any] = {
        "available": False, "reason": None, "ops_time_s": None, "memory_bound_share": None, "compute_bound_share": None,
        "overhead_bound_share": None, "unknown_share": None, "unknown": [], "bytes_per_sample": None,
        "flops_per_sample": None, "per_sample_reason": None, "flops_per_byte": None, "bytes_unknown_share": None,
        "flops_unknown_share": None, "flops_per_s": None, "top_ops": [], "definition": DEFINITION,
    }  # fmt: skip
    if pass_.get("ops") is None:
        return block | {"reason": f"no op recorder ran in this {pass_['kind']} pass"}
    placed = [op for op in ops if op["device_time_ns"] is not None or op["thread"] == "clock"]
    outside_ns = round(1e9 * sum(line["share_s"] for line in kernels if line["aten"] is None))
    total_ns = _time_ns(placed) + outside_ns
    if not total_ns:
        return block | {"reason": "no op took time on the clock of this pass"}
    bound = {name: _time_ns(op for op in placed if op["bound"] == name) / total_ns for name in BOUNDS}
    block |= {f"{name}_bound_share": share for name, share in bound.items()}
    block |= {
        "available": True, "ops_time_s": total_ns / 1e9, "unknown": _unknown(placed, outside_ns, total_ns, no_roofs),
        "unknown_share": (_time_ns(op for op in placed if op["bound"] is None) + outside_ns) / total_ns,
        "top_ops": _top(placed, total_ns),
    }  # fmt: skip
    return block | _per_sample(pass_, span, [op for op in placed if op["phase"] != "evaluation"])


def _time_ns(ops: Iterable[Mapping[str, Any]]) -> int:
    return sum(cost_ns(op) for op in ops)


def _per_sample(pass_: Mapping[str, Any], span: Span, training: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Bytes and flops of the ops outside evaluation, and how much of their time is of ops with unknown ones."""
    bytes_ = sum(op["bytes"] or 0 for op in training)
    flops, uncounted_ns = _flops(training, pass_.get("op_costs") or [])
    total_ns = _time_ns(training)
    out: dict[str, Any] = {"flops_per_byte": flops / bytes_ if bytes_ else None}
    if total_ns:
        unmoved_ns = _time_ns(op for op in training if op["bytes"] is None and not _is_node(op))
        out |= {"bytes_unknown_share": unmoved_ns / total_ns, "flops_unknown_share": uncounted_ns / total_ns,
                "flops_per_s": flops / (total_ns / 1e9)}  # fmt: skip
    samples = pass_.get("samples")
    if span.window is not None:
        return out | {"per_sample_reason": "samples are counted for the whole pass only: give no --steps"}
    if not samples:
        return out | {"per_sample_reason": f"this {pass_['kind']} pass counted no samples"}
    return out | {"bytes_per_sample": bytes_ / samples, "flops_per_sample": flops / samples}


def _flops(training: Sequence[Mapping[str, Any]], costs: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(flops, time in ns of ops whose flops are not known).

    Of the suite's own ops what they declare is taken in place of their lines, as in MFU: it is the same however an op
    is done, and kernels of our own do their products where nobody sees them.
    """
    of_region = declared(training, costs)
    flops, uncounted_ns = sum(of_region.values()), 0
    for op in training:
        if (op["op"], op["impl"]) in of_region:
            continue
        flops += op["flops"] or 0
        if op["flops"] is None and not _is_node(op):
            uncounted_ns += cost_ns(op)
    return flops, uncounted_ns


def _is_node(op: Mapping[str, Any]) -> bool:
    """Whether this is an autograd node: its work is that of the ops inside it, lines of their own."""
    return op["shape"] is None and not op["hidden"] and "::" not in op["name"].removeprefix("torch::autograd::")


def _unknown(ops: Sequence[Mapping[str, Any]], outside_ns: int, total_ns: int,
             no_roofs: str | None) -> list[dict[str, Any]]:  # fmt: skip
    """Why the bound of some ops is not known: reasons with their share of the time and their longest ops."""
    groups: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for op in ops:
        if op["bound"] is None:
            groups[_reason(op, no_roofs)].append(op)
    found = [
        {"reason": reason, "share": _time_ns(group) / total_ns, "ops": [line["name"] for line in _top(group, total_ns)]}
        for reason, group in groups.items()
    ]
    if outside_ns:
        found.append({"reason": "launched outside all ops", "share": outside_ns / total_ns, "ops": []})
    return sorted(found, key=lambda row: -row["share"])


def _reason(op: Mapping[str, Any], no_roofs: str | None) -> str:
    if op["hidden"]:
        return "a compiled region hides its ops"
    if _is_node(op):
        return "autograd's own time around the ops"
    if no_roofs:
        return f"no ceilings: {no_roofs}"
    if op["work_time_s"] is None:
        return "its time on the device is not known"
    if op["host_copy"]:
        return "a copy between host and device, whose ceiling is the link"
    if op["shape"] is None:
        return "its shapes were not sampled"
    if op["bytes"] is None:
        return "its bytes are not modelled"
    if op["flops"] is None and is_counted(op["name"]):
        return "its flops do not follow from its shapes"
    if op["flops"]:
        return "the peak of its data type was not measured"
    return "the overhead of a call was not measured"


def _top(ops: Sequence[Mapping[str, Any]], total_ns: int) -> list[dict[str, Any]]:
    """The ops with the most time, all shapes, modules and phases of a name together."""
    groups: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for op in ops:
        groups[op["name"]].append(op)
    longest = sorted(groups, key=lambda name: -_time_ns(groups[name]))[:TOP]
    return [{"name": name, "time_s": _time_ns(groups[name]) / 1e9, "share": _time_ns(groups[name]) / total_ns,
             "bound": _bound(groups[name])} for name in longest]  # fmt: skip


def _bound(group: Sequence[Mapping[str, Any]]) -> str | None:
    """What bounds most of the time of these lines."""
    times = {bound: _time_ns(op for op in group if op["bound"] == bound) for bound in (*BOUNDS, None)}
    return max(times, key=times.__getitem__)
