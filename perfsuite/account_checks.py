"""What is checked about an account, each check against an independent measurement, and what could not be checked."""

from collections.abc import Mapping, Sequence
from typing import Any

from perfsuite.account_ops import too_fast
from perfsuite.account_phases import Span

RESIDUAL_LIMIT = 0.02
"""Of the clock: what `other` and `unattributed` may have together."""
ROUNDING_NS = 1000
"""Op time by recorder and by phase clock: both read the same two clock values, sums differ by none but torn calls."""


def checks(pass_: Mapping[str, Any], passes: Sequence[Mapping[str, Any]], span: Span,
           ops: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:  # fmt: skip
    """The account's `checks`, and notes on what was not checked and why."""
    found: list[dict[str, Any]] = []
    notes: list[str] = []

    def check(name: str, ok: bool, detail: str) -> None:
        found.append({"name": name, "ok": bool(ok), "detail": detail})

    phases_ns = sum(line.time_ns for line in span.phases)
    check("phases + unattributed = clock", phases_ns + span.unattributed_ns == span.clock_ns,
          f"{phases_ns} + {span.unattributed_ns} = {span.clock_ns} ns")  # fmt: skip
    check("no line is negative", True, f"{len(span.phases)} phases and {len(ops)} op lines")
    rest = residuals(span)
    share = rest["unattributed_share"] + rest["other_share"]
    check("other + unattributed under 2 %", share < RESIDUAL_LIMIT, f"{100 * share:.2f} % of the clock")

    recorded = pass_.get("ops")
    if recorded is None:
        notes.append("op times not checked: no op recorder ran in this pass")
    else:
        if span.window is not None:
            notes.append("op times of phases not checked: in a window the recorder is their only timer")
        else:
            for result in _phase_checks(span, ops, recorded["top_level_ns"]):
                check(*result)
        rows, shapes = recorded["dropped_rows"], recorded.get("dropped_signatures", 0)  # of older recorders
        check("the recorder dropped nothing", rows + shapes == 0, f"{rows} rows, {shapes} signatures")
        fast = too_fast(ops)
        if any(line["share_of_ceiling"] is not None for line in ops):
            detail = "; ".join(fast[:5]) or "none by more than the spread"
            check("no op is faster than this machine was measured to be", not fast, detail)
        else:
            notes.append("speed of light not checked: no op has a ceiling")
    _against_clean(pass_, passes, check, notes)
    return found, notes


def residuals(span: Span) -> dict[str, float]:
    """Shares of the clock that no phase claims, and that the phase `other` has."""
    clock = span.clock_ns or 1
    other = sum(line.time_ns for line in span.phases if line.name == "other")
    return {"unattributed_share": span.unattributed_ns / clock, "other_share": other / clock}


def _phase_checks(span: Span, ops: Sequence[Mapping[str, Any]], top_level_ns: int) -> list[tuple[str, bool, str]]:
    on_clock_ns = sum(op["self_time_ns"] for op in ops if op["thread"] == "clock")
    by_phase = {line.name: 0 for line in span.phases}
    for op in ops:
        if op["thread"] == "clock" and op["phase"] in by_phase:
            by_phase[op["phase"]] += op["self_time_ns"]
    off = {line.name: by_phase[line.name] - line.op_ns for line in span.phases}
    worst = max(off, key=lambda name: abs(off[name]), default=None)
    torn = [line.name for line in span.phases if line.op_ns + line.host_ns != line.time_ns]
    return [
        ("self times of the ops = op time of their phase", all(abs(ns) <= ROUNDING_NS for ns in off.values()),
         f"largest difference {off[worst]} ns, in phase '{worst}'" if worst else "no phases"),
        ("self times of the ops = time of the outermost ones", abs(on_clock_ns - top_level_ns) <= ROUNDING_NS,
         f"{on_clock_ns} and {top_level_ns} ns on the clock's thread"),
        ("ops + host = phase", not torn, f"not in {', '.join(torn)}" if torn else "in every phase, to the nanosecond"),
    ]  # fmt: skip


def _against_clean(pass_: Mapping[str, Any], passes: Sequence[Mapping[str, Any]], check: Any, notes: list[str]) -> None:
    """A recorder must not change what is computed: its losses are those of the clean pass with the same seed."""
    if pass_["kind"] == "clean":
        return
    done = [p for p in passes if p["kind"] == "clean" and p["state"] == "done"]
    clean = next((p for p in done if p["seed"] == pass_["seed"]), None)
    if clean is None:
        notes.append(f"losses not checked against a clean pass: none with seed {pass_['seed']} is done")
        return
    ours, theirs = dict(map(tuple, pass_["losses"])), dict(map(tuple, clean["losses"]))
    common = sorted(ours.keys() & theirs.keys())
    # As text, a loss that is NaN in both passes is the same loss; repr tells all other floats apart.
    parted = next((n for n in common if repr(ours[n]) != repr(theirs[n])), None)
    if not common:
        notes.append("losses not checked against the clean pass: they share no sample count")
    elif parted is None:
        check("losses equal the clean pass's", True, f"identical at all {len(common)} common points")
    else:
        check("losses equal the clean pass's", False,
              f"they part at {parted} samples: {ours[parted]!r} here, {theirs[parted]!r} there")  # fmt: skip
    if clean["num_steps"] == pass_["num_steps"] and clean["clock_ns"]:
        ratio = pass_["clock_ns"] / clean["clock_ns"]
        notes.append(f"the {pass_['kind']} pass took {ratio:.3f} times the clean pass of the same seed (one pair: for "
                     "information)")  # fmt: skip
