"""From what was timed to rows: ratios with intervals, share of the measured ceiling, verdicts. Plain data."""

from collections.abc import Mapping, Sequence
from statistics import geometric_mean, median
from typing import Any

from perfsuite import roofline, verdict
from perfsuite.gpu_machine.device import agree
from perfsuite.kernels.contract import Case, Cost
from perfsuite.op_bench.measure import AGAIN, Timed

YARDSTICKS = ("eager", "compile", "compile max-autotune", "liger")
"""What an implementation is compared with, where it was timed."""
_SHORT = {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}
DIRECTIONS = ("forward", "backward", "both")


def rows(
    op: str, case: Case, device: str, cold: bool, timed: Sequence[Timed], costs: tuple[Cost, Cost],
    footprint_bytes: int, machine: roofline.Machine | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each implementation and direction. costs: of the forward, and of forward and backward together."""
    by_name = {one.impl: one for one in timed}
    noise = _noise(by_name)
    found = []
    for one in timed:
        if one.impl == AGAIN:
            continue
        for direction in DIRECTIONS if one.backward_ns else ("forward",):
            found.append(_row(op, case, device, cold, one, direction, by_name, costs, footprint_bytes, machine, noise))
    return found


def _row(
    op: str, case: Case, device: str, cold: bool, one: Timed, direction: str, by_name: Mapping[str, Timed],
    costs: tuple[Cost, Cost], footprint_bytes: int, machine: roofline.Machine | None, noise: float,
) -> dict[str, Any]:  # fmt: skip
    times = _times(one, direction)
    device_ns, host_ns = median(times), median(_host(one, direction))
    whole = direction == "both" or not one.backward_ns
    cost = _cost(direction, whole, costs)
    place = placed(machine, case, cost, device_ns, footprint_bytes)
    share = place.share_of_ceiling
    if direction == "backward" and share is not None and share > 1:
        share = None  # its work was done in the forward: the least of the backward alone is no bound
    compared = {name: verdict.paired(_times(by_name[name], direction), times)
                for name in YARDSTICKS if name in by_name and name != one.impl}  # fmt: skip
    speedup = {name: {"ratio": 1 / c.ratio, "ci95": [1 / c.high, 1 / c.low]} for name, c in compared.items()}
    word, why = _verdict(one, direction, by_name, compared, noise)
    impossible = too_fast(place, device_ns) if whole else None
    if impossible:
        word, why = "REJECTED", impossible
    lowered = {name for state in one.gpu_states for name in state.lowered_by}
    if lowered and word in (verdict.FASTER, verdict.SLOWER, verdict.SAME):
        word, why = verdict.CANNOT_TELL, f"the clock was lowered meanwhile: {', '.join(sorted(lowered))}"
    if one.wrong and one.impl not in YARDSTICKS:
        word, why = "WRONG", one.wrong
    return {
        "op": op, "impl": one.impl, "case": case.name, "shape": dict(case.shape), "dtype": case.dtype,
        "direction": direction, "device": device, "cache": "cold" if cold else "warm",
        "device_time_ns": device_ns, "host_time_ns": host_ns, "rounds": len(times), "samples_ns": times,
        "peak_bytes": one.peak_bytes, "peak_reason": one.peak_reason,
        "bytes": cost.bytes, "flops": cost.flops, "bytes_per_s": cost.bytes / device_ns * 1e9 if device_ns else None,
        "level": place.level, "bound": place.bound, "share_of_ceiling": share,
        "gpu": _gpu(one, lowered),
        "second_timer": _second_timer(one, direction, device, device_ns),
        "speedup": speedup, "threshold": max(verdict.MARGIN, noise), "verdict": word, "why": why,
    }  # fmt: skip


def _times(one: Timed, direction: str) -> list[float]:
    if direction == "both":
        return one.both_ns()
    return one.forward_ns if direction == "forward" else one.backward_ns


def _host(one: Timed, direction: str) -> list[float]:
    if direction == "forward":
        return one.host_forward_ns
    if direction == "backward":
        return one.host_backward_ns
    return [f + b for f, b in zip(one.host_forward_ns, one.host_backward_ns, strict=True)]


def _cost(direction: str, whole: bool, costs: tuple[Cost, Cost]) -> Cost:
    forward, both = costs
    if whole:
        return both
    if direction == "forward":
        return forward
    return Cost(max(0, both.bytes - forward.bytes), max(0, both.flops - forward.flops))


def placed(
    machine: roofline.Machine | None, case: Case, cost: Cost, device_ns: float, footprint_bytes: int
) -> roofline.Placement:
    if machine is None or not device_ns:
        return roofline.UNKNOWN
    signature = f"{_SHORT.get(case.dtype, case.dtype)}[1]"  # for the dtype's peak; as much written as read
    return roofline.place(machine, signature, 1, device_ns / 1e9, cost.bytes, cost.flops, footprint_bytes)


def too_fast(place: roofline.Placement, device_ns: float) -> str | None:
    """Rule 5: nothing is faster than the fastest level of this machine's memory and its arithmetic."""
    if place.floor_s is None or device_ns >= 1e9 * place.floor_s:
        return None
    return f"faster than this machine can be: {device_ns / 1e3:.3g} us, at least {1e6 * place.floor_s:.3g} us"


def _noise(by_name: Mapping[str, Timed]) -> float:
    """By how much eager differed from itself, at most."""
    if AGAIN not in by_name or "eager" not in by_name:
        return 0.0
    equals = verdict.paired(by_name["eager"].both_ns(), by_name[AGAIN].both_ns())
    return max(equals.high, 1 / equals.low) - 1


def _verdict(
    one: Timed, direction: str, by_name: Mapping[str, Timed], compared: Mapping[str, verdict.Comparison], noise: float
) -> tuple[str | None, str]:
    """Against the fastest yardstick."""
    if one.impl in YARDSTICKS:
        return None, "a yardstick"
    if not compared:
        return None, "no yardstick was timed"
    best = min(compared, key=lambda name: median(_times(by_name[name], direction)))
    word = verdict.judge(compared[best], noise=noise).word
    return word, f"{_THAN[word]} {best}"


_THAN = {verdict.FASTER: "than", verdict.SLOWER: "than", verdict.SAME: "as", verdict.CANNOT_TELL: "against"}


def _second_timer(one: Timed, direction: str, device: str, device_ns: float) -> dict[str, Any]:
    if device != "cuda":
        return {"time_ns": None, "agrees": None, "reason": "on a CPU the wall clock is the only timer"}
    if direction == "backward" or (direction == "forward" and one.backward_ns):
        return {"time_ns": None, "agrees": None, "reason": "the graph holds forward and backward together"}
    if one.graph_ns is None:
        return {"time_ns": None, "agrees": None, "reason": one.graph_reason}
    return {"time_ns": one.graph_ns, "agrees": agree(device_ns, one.graph_ns), "reason": None}


def _gpu(one: Timed, lowered: set[str]) -> dict[str, Any] | None:
    """SM clock over the rounds, and what lowered it; None on a CPU."""
    if not one.gpu_states:
        return None
    clocks = [state.sm_clock_hz for state in one.gpu_states if state.sm_clock_hz]
    return {
        "sm_clock_hz": median(clocks) if clocks else None,
        "lowered_by": sorted(lowered),
        "reason": one.gpu_states[0].reason,
    }


def summary(found: Sequence[Mapping[str, Any]], native: Sequence[str]) -> list[dict[str, Any]]:
    """For each op, implementation, cache state and yardstick: geometric mean and worst of the ratios over all cases.

    Of forward and backward together, of the forward where there is no backward.
    """
    groups: dict[tuple[str, str, str, str], list[tuple[float, str]]] = {}
    has_both = {(r["op"], r["impl"], r["case"]) for r in found if r["direction"] == "both"}
    for row in found:
        whole = row["direction"] == "both" or (row["op"], row["impl"], row["case"]) not in has_both
        if row["impl"] not in native or not whole:
            continue
        for name, one in row["speedup"].items():
            key = row["op"], row["impl"], row["cache"], name
            groups.setdefault(key, []).append((one["ratio"], row["case"]))
    return [
        {"op": op, "impl": impl, "cache": cache, "against": name, "cases": len(ratios),
         "geometric_mean": geometric_mean([ratio for ratio, _ in ratios]),
         "worst": min(ratios)[0], "worst_case": min(ratios)[1]}
        for (op, impl, cache, name), ratios in groups.items()
    ]  # fmt: skip
