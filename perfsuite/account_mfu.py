"""Model FLOPs utilisation: how much of the machine's peak goes into the operations that the model needs.

After Chowdhery et al. 2022 (PaLM, appendix B): operations of forward and backward without what is computed again to
save memory, over the time, over the peak. The peak is the best that a large matrix product was measured to reach here,
not a data sheet's; evaluation is left out of operations and time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from perfsuite.account_phases import Span
from perfsuite.flops import is_counted, is_forward_only, recomputed
from perfsuite.signature import parse

UNKNOWN_LIMIT = 0.05
"""Of the time of the training phases' ops: with more of it in ops whose operations are unknown there is no figure."""
DEFINITION = (
    "operations of the matrix products, convolutions, attention and recurrent layers of forward and backward, and the "
    "least operations that the suite's ops declare, without what is computed again in the backward pass; over the time "
    "outside evaluation; over the measured rate of a large matrix product in the dtype that does most of them"
)
TRAINING = ("forward", "backward")
_LONG = {"f64": "float64", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}


def mfu_block(pass_: Mapping[str, Any], passes: Sequence[Mapping[str, Any]], span: Span,
              ops: Sequence[Mapping[str, Any]], kernels: Sequence[Mapping[str, Any]], roofs: Mapping[str, Any] | None,
              no_roofs: str | None) -> dict[str, Any]:  # fmt: skip
    """The account's `mfu`. ops, kernels: its lines. roofs, no_roofs: of ceilings_for() and the device that trained."""
    block: dict[str, Any] = {
        "available": False, "reason": None, "mfu": None, "model_flops_per_sample": None, "achieved_flops_per_s": None,
        "peak_flops_per_s": None, "dtype": None, "time_s": None, "time_source": None, "unknown_share": None,
        "recomputed_flops": None, "definition": DEFINITION,
    }  # fmt: skip
    if span.window is not None:
        return block | {"reason": "model FLOPs utilisation is of the whole pass only: give no --steps"}
    if pass_.get("ops") is None:
        return block | {"reason": f"the operations are not known: no op recorder ran in this {pass_['kind']} pass"}
    training = [op for op in ops if op["phase"] in TRAINING]
    if not any(op["phase"] == "backward" for op in training):
        return block | {"reason": "no op ran in a phase named backward"}
    outside = [line for line in kernels if line["aten"] is None and line["phase"] in TRAINING]
    outside_ns = sum(round(1e9 * line["share_s"]) for line in outside)
    model, again, by_dtype, unknown_share = _count(training, pass_.get("op_costs") or [], outside_ns)
    block |= {"unknown_share": unknown_share, "recomputed_flops": again}
    if unknown_share > UNKNOWN_LIMIT:
        return block | {"reason": f"the operations of ops with {100 * unknown_share:.0f} % of the time of forward and "
                                  f"backward are not known (limit {100 * UNKNOWN_LIMIT:.0f} %)"}  # fmt: skip
    if not model:
        return block | {"reason": "no op of forward and backward is known to compute"}
    timed, source = _timed(pass_, passes)
    time_ns = timed["clock_ns"] - sum(phase["time_ns"] for phase in timed["phases"] if phase["name"] == "evaluation")
    samples = pass_.get("samples")
    block |= {"model_flops_per_sample": model / samples if samples else None,
              "time_s": time_ns / 1e9, "time_source": source,
              "achieved_flops_per_s": model / (time_ns / 1e9) if time_ns else None}  # fmt: skip
    dtype = max(by_dtype, key=by_dtype.__getitem__, default=None)
    if dtype is None:
        return block | {"reason": "the dtype of the operations is not known"}
    peak, reason = _peak(roofs, no_roofs, dtype)
    block |= {"dtype": dtype, "peak_flops_per_s": peak}
    if peak is None or not time_ns:
        return block | {"reason": reason or "the pass has no time outside evaluation"}
    return block | {"available": True, "mfu": block["achieved_flops_per_s"] / peak}


def _count(
    training: Sequence[Mapping[str, Any]], costs: Sequence[Mapping[str, Any]], outside_ns: int
) -> tuple[int, int, dict[str, int], float]:
    """(the model's operations, those done again, operations by dtype, share of the time with unknown operations).

    outside_ns: device time that was launched outside all ops, such as that of a CUDA graph.
    """
    of_region = declared(training, costs)
    model, again, by_dtype = sum(of_region.values()), 0, {}
    unknown_ns = total_ns = outside_ns
    for op in training:
        time_ns = op["self_time_ns"] if op["device_time_ns"] is None else op["device_time_ns"]
        total_ns += time_ns
        repeated = is_repeated(op)
        inside = (op["op"], op["impl"]) in of_region
        if op["flops"] is None:
            if not inside and not repeated and _may_compute(op):
                unknown_ns += time_ns
            continue
        extra = op["flops"] if repeated else op["calls"] * (recomputed(op["name"], op["shape"] or "") or 0)
        again += extra
        if not inside:
            model += op["flops"] - extra
        inputs = parse(op["shape"] or "").inputs
        if op["flops"] and inputs:
            by_dtype[inputs[0].dtype] = by_dtype.get(inputs[0].dtype, 0) + op["flops"] - extra
    if not by_dtype and of_region:
        for cost in costs:
            inputs = parse(cost["signature"]).inputs
            if inputs and cost["signature"].endswith(" grad"):
                by_dtype[inputs[0].dtype] = by_dtype.get(inputs[0].dtype, 0) + cost["calls"] * cost["flops"]
    return model, again, by_dtype, unknown_ns / total_ns if total_ns else 0.0


def is_repeated(op: Mapping[str, Any]) -> bool:
    """Whether this op of the training phases is a part of the forward that runs again in the backward pass."""
    if op["phase"] != "backward":
        return False
    return op["direction"] == "forward" or is_forward_only(op["name"])


def declared(
    training: Sequence[Mapping[str, Any]], costs: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str], int]:
    """Least operations of the suite's ops in training, by op and implementation.

    A suite op may compute again in its backward, or in kernels whose operations nobody counts: what it declares is what
    the model needs. Where the backward ran its forward again, the declarations count that twice and are not taken.
    """
    repeated = {(op["op"], op["impl"]) for op in training if op["op"] and is_repeated(op)}
    found: dict[tuple[str, str], int] = {}
    for cost in costs:
        op, _, implementation = cost["region"].partition("=")
        if cost["signature"].endswith(" grad") and (op, implementation) not in repeated:
            found[op, implementation] = found.get((op, implementation), 0) + cost["calls"] * cost["flops"]
    return found


def _may_compute(op: Mapping[str, Any]) -> bool:
    """Whether an op without a count may do matrix products: a compiled region, one with a formula, somebody's own."""
    if op["hidden"] or is_counted(op["name"]):
        return True
    return op["shape"] is not None and "::" in op["name"] and not op["name"].startswith(("aten::", "autograd::"))


def _timed(pass_: Mapping[str, Any], passes: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], str]:
    """The pass whose clock is taken: the clean one with the same seed and steps, as no recorder slowed it."""
    for other in passes:
        if (other["kind"], other["state"]) == ("clean", "done") and other["seed"] == pass_["seed"] and (
            other["num_steps"] == pass_["num_steps"]
        ):
            return other, "the clean pass of the same seed"
    return pass_, f"this {pass_['kind']} pass"


def _peak(
    roofs: Mapping[str, Any] | None, no_roofs: str | None, dtype: str
) -> tuple[float | None, str | None]:
    if roofs is None:
        return None, f"no measured peak: {no_roofs}"
    name = _LONG.get(dtype, dtype.lower())
    rate = (roofs.get("gemm_flops_per_s") or {}).get(name)
    if not rate:
        why = (roofs.get("gemm_reasons") or {}).get(name) or roofs.get("gemm_reason") or "run `perfsuite machine`"
        return None, f"no matrix product in {name} was measured: {why}"
    return rate["ceiling"], None
