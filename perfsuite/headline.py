"""The two sentences that open a report: how long to the target, and what limits it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from perfsuite.account_ops import cost_ns
from perfsuite.account_phases import Span


def answer(record: Mapping[str, Any], score: Mapping[str, Any] | None, score_reason: str | None,
           pass_: Mapping[str, Any] | None) -> str:  # fmt: skip
    """E.g. "reaches 2.40 nats per byte in 14.2 s (95 % interval 13.1 to 15.3 s)"."""
    target = record.get("target")
    if target is None:
        if pass_ is None:
            return "nothing was measured"
        return f"{pass_['num_steps']} steps in {_figure(pass_['clock_ns'] / 1e9)} s"
    goal = f"{target['value']:g} {target['unit']}"
    if score is None or score["time_to_train_s"] is None:
        return f"no time to {goal}: {score_reason}"
    low, high = score["ci95_s"] or (None, None)
    interval = f" (95 % interval {_figure(low)} to {_figure(high)} s)" if low is not None else ""
    return f"reaches {goal} in {_figure(score['time_to_train_s'])} s{interval}"


def _figure(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:.0f}"


def limits(span: Span, ops: Sequence[Mapping[str, Any]], device: Mapping[str, Any] | None = None,
           kernels: Sequence[Mapping[str, Any]] = ()) -> str | None:  # fmt: skip
    """The largest single line of the account: an op in a phase, all its shapes together, or a phase's time between ops.

    E.g. "aten::addmm in the backward phase, 31 % of the clock, at 62 % of the measured compute ceiling". Where the
    device ledger (`device`: the account's) is there, its largest line, with kernels under the op that launched them or
    idle time under its cause: "device idle, Python in the optimizer phase, 31 % of the clock". None where the clock is
    empty.
    """
    if not span.clock_ns:
        return None
    groups: defaultdict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    on_device = device is not None and device["available"]
    for op in ops:
        if on_device or op["thread"] == "clock":
            groups[op["name"], op["phase"]].append(op)
    if on_device:
        lines, shares = _device_lines(device, kernels)
    else:
        lines, shares = _host_lines(span, groups)
    largest = max(lines, default=(0.0, ""))
    top = max(shares, key=shares.__getitem__, default=None)
    if top is None or largest[0] >= shares[top]:
        return f"{largest[1]}, {largest[0]:.0%} of the clock".replace("%", " %")
    name, phase = top
    where = f" in the {phase} phase" if phase else ""
    return f"{name}{where}, {shares[top]:.0%} of the clock".replace("%", " %") + _ceiling(groups[top])


Lines = tuple[list[tuple[float, str]], dict[tuple[str, str], float]]
"""Shares of the clock: of what is no op, with its words, and of ops by name and phase."""


def _host_lines(span: Span, groups: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> Lines:
    lines: list[tuple[float, str]] = [(span.unattributed_ns / span.clock_ns, "time in no phase")]
    for phase in span.phases:
        between = phase.time_ns if phase.op_ns is None else phase.host_ns
        what = f"the {phase.name} phase" if phase.op_ns is None else f"host time between ops in the {phase.name} phase"
        lines.append((between / span.clock_ns, what))
    return lines, {key: sum(op["self_time_ns"] for op in group) / span.ops_clock_ns for key, group in groups.items()}


_CAUSES = {"launch": "a launch on its way", "sync": "the host waiting for it", "data": "waiting for data",
           "ops": "the host inside ops", "python": "Python", "unknown": "of unknown cause"}  # fmt: skip


def _device_lines(device: Mapping[str, Any], kernels: Sequence[Mapping[str, Any]]) -> Lines:
    """Of the busiest device where there are several."""
    busiest = max(device["devices"], key=lambda one: one["busy_s"], default=None)
    if busiest is None:
        return [], {}
    lines = []
    for part in busiest["idle"]:
        where = f" in the {part['phase']} phase" if part["phase"] else ""
        lines.append((part["share"], f"device idle, {_CAUSES.get(part['cause'], part['cause'])}{where}"))
    shares: defaultdict[tuple[str, str], float] = defaultdict(float)
    for kernel in kernels:
        if kernel["device"] == busiest["device"]:
            shares[kernel["aten"] or kernel["name"], kernel["phase"]] += kernel["share_of_clock"] or 0.0
    return lines, dict(shares)


def _ceiling(group: Sequence[Mapping[str, Any]]) -> str:
    """How the lines stand to their ceilings, named after the bound that most of their time has."""
    if any(op["hidden"] for op in group):
        return ", a compiled region that hides its ops"
    by_bound: defaultdict[str, int] = defaultdict(int)
    for op in group:
        if op["bound"] is not None:
            by_bound[op["bound"]] += cost_ns(op)
    if not by_bound:
        return ""
    bound = max(by_bound, key=by_bound.__getitem__)
    if bound == "overhead":
        return ", bound by the overhead of its calls"
    placed = [op for op in group if op["bound"] == bound]
    share = sum(op["least_time_s"] for op in placed) / sum(op["work_time_s"] for op in placed)
    ceiling = "compute" if bound == "compute" else f"{placed[0]['level']} bandwidth"
    if share > 1 + max(op["ceiling_spread"] for op in placed):
        return f", bound by {ceiling}; faster than the ceiling that was measured, which is too low"
    return f", at {100 * share:.0f} % of the measured {ceiling} ceiling"
