"""The account of the GPUs of a pass: busy and idle time that add up to the clock, and what the host did while idle.

Busy time is the sum of the rows' shares, idle time the sum of its causes, and the clock is the phase clock's, on the
host: three measurements, and what they leave is the residual.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from perfsuite.account_blocks import why_not
from perfsuite.account_phases import Span
from perfsuite.account_replay import Replay, compare_calls

RESIDUAL_LIMIT = 0.001
"""Of the clock: what busy and idle time may leave of it, and what may have come late."""
CALLS_LIMIT = 0.01
"""Of the kernel calls a step: what recorder and counter pass may differ by."""
ROUNDING_NS = 1000
WHOLE_ONLY = "device figures are of the whole pass only: give no --steps"


def unavailable_reason(pass_: Mapping[str, Any], span: Span, device: str) -> str | None:
    """Why there is no account of the GPU; None where there is one."""
    if span.window is not None:
        return WHOLE_ONLY
    if pass_.get("kernels") is not None:
        return None
    if not device.startswith("cuda"):
        return "the run was not on a GPU"
    return why_not(pass_, "kernel recorder", f"no kernel recorder ran in this {pass_['kind']} pass")


def device_block(pass_: Mapping[str, Any], span: Span, reason: str | None) -> dict[str, Any]:
    """The account's `ledger.device`."""
    if reason is not None:
        return {"available": False, "reason": reason, "devices": [], "syncs": [], "overheads": [], "dropped": None,
                "late": None, "late_s": None, "unknown": None, "cupti": None}  # fmt: skip
    kernels = pass_["kernels"]
    return {
        "available": True, "reason": None,
        "devices": [_device(device, kernels["rows"], span.clock_ns) for device in kernels["devices"]],
        "syncs": [{"type": s["type"], "calls": s["calls"], "time_s": s["time_ns"] / 1e9} for s in kernels["syncs"]],
        "overheads": [{"kind": o["kind"], "count": o["count"], "time_s": o["time_ns"] / 1e9}
                      for o in kernels["overheads"]],
        "dropped": kernels["dropped"], "late": kernels["late"], "late_s": kernels["late_ns"] / 1e9,
        "unknown": kernels["unknown"], "cupti": kernels.get("cupti"),
    }  # fmt: skip


def _sums(device: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Nanoseconds busy, summed over rows, and idle, summed over causes. Raises ValueError for one below zero."""
    busy = [row["share_ns"] for row in rows if row["device"] == device["device"]]
    idle = [part["time_ns"] for part in device["idle"]]
    for ns in (*busy, *idle):
        if ns < 0:
            raise ValueError(f"a line of device {device['device']} is negative ({ns} ns): the record is damaged or the "
                             "kernel recorder is wrong, run again")  # fmt: skip
    return sum(busy), sum(idle)


def _device(device: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], clock_ns: int) -> dict[str, Any]:
    busy_ns, idle_ns = _sums(device, rows)
    residual_ns = clock_ns - busy_ns - idle_ns

    def lines(parts: Sequence[Mapping[str, Any]], *keys: str) -> list[dict[str, Any]]:
        made = [{**{key: part[key] for key in keys}, "time_s": part["time_ns"] / 1e9,
                 "share": part["time_ns"] / clock_ns if clock_ns else None} for part in parts]  # fmt: skip
        return sorted(made, key=lambda line: -line["time_s"])

    return {
        "device": device["device"], "clock_s": clock_ns / 1e9, "busy_s": busy_ns / 1e9, "idle_s": idle_ns / 1e9,
        "residual_s": residual_ns / 1e9, "residual_share": residual_ns / clock_ns if clock_ns else None,
        "overlap_s": device["overlap_ns"] / 1e9,
        "idle": lines(device["idle"], "cause", "phase"), "busy": lines(device["busy"], "phase"),
        "gaps": [{"up_to_s": None if gap["up_to_ns"] is None else gap["up_to_ns"] / 1e9, "count": gap["count"],
                  "time_s": gap["time_ns"] / 1e9} for gap in device["gaps"]],
    }  # fmt: skip


def device_checks(
    pass_: Mapping[str, Any], span: Span, replay: Replay | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Checks of the GPU's account, and notes. Of a pass that has one."""
    kernels = pass_["kernels"]
    found, notes = [], []

    def check(name: str, ok: bool, detail: str) -> None:
        found.append({"name": name, "ok": bool(ok), "detail": detail})

    clock_ns = span.clock_ns
    for device in kernels["devices"]:
        which = "device" if len(kernels["devices"]) == 1 else f"device {device['device']}"
        busy_ns, idle_ns = _sums(device, kernels["rows"])
        left_ns = clock_ns - busy_ns - idle_ns
        share = left_ns / clock_ns if clock_ns else 0.0
        check(f"{which} busy + idle = clock within 0.1 %", abs(left_ns) <= RESIDUAL_LIMIT * clock_ns,
              f"{busy_ns} + {idle_ns} leave {left_ns} of {clock_ns} ns on the host's clock, "
              f"{100 * share:.3f} %")  # fmt: skip
        check(f"parts of the {which}'s time add up", *_parts(device, kernels, busy_ns, idle_ns))
    _check_records(kernels, clock_ns, check, notes)
    if replay is not None and replay.steps and pass_["num_steps"]:
        here, there, worst = compare_calls(replay, kernels, pass_["num_steps"])
        ok = abs(here - there) <= CALLS_LIMIT * max(here, there)
        check("kernel calls a step = those of the counter pass", ok,
              f"{here:.6g} here, {there:.6g} there" + ("" if ok else f"; furthest apart is {worst}"))  # fmt: skip
    else:
        notes.append("kernel calls not checked: no counter pass replayed any")
    return found, notes


def _parts(device: Mapping[str, Any], kernels: Mapping[str, Any], busy_ns: int, idle_ns: int) -> tuple[bool, str]:
    """Whether rows, phases and causes tell of the same time."""
    total_ns = sum(row["time_ns"] for row in kernels["rows"] if row["device"] == device["device"])
    off = {
        "shares of the rows against busy time": busy_ns - device["busy_ns"],
        "busy time by phase against busy time": sum(part["time_ns"] for part in device["busy"]) - device["busy_ns"],
        "idle time by cause against idle time": idle_ns - device["idle_ns"],
        "gaps against idle time": sum(gap["time_ns"] for gap in device["gaps"]) - device["idle_ns"],
        "durations against busy time and overlap": total_ns - device["busy_ns"] - device["overlap_ns"],
    }
    # A record that came late has a duration, and its time was idle by then.
    allowed = {name: ROUNDING_NS + (kernels["late_ns"] if name.startswith("durations") else 0) for name in off}
    wrong = [f"{name}: {ns:+d} ns" for name, ns in off.items() if abs(ns) > allowed[name]]
    return not wrong, "; ".join(wrong) or "rows, phases, causes and gaps, to the microsecond"


def _check_records(kernels: Mapping[str, Any], clock_ns: int, check: Any, notes: list[str]) -> None:
    late = kernels["late_ns"] / clock_ns if clock_ns else 0.0
    check("the kernel recorder lost nothing", kernels["dropped"] == 0 and late <= RESIDUAL_LIMIT,
          f"{kernels['dropped']} of {kernels['records']} records dropped; {kernels['late']} came too late, with "
          f"{100 * late:.3f} % of the clock")  # fmt: skip
    if kernels["late"]:
        notes.append(f"{kernels['late']} kernel records came after their time was accounted for: "
                     f"{kernels['late_ns'] / 1e9:.6f} s of device time stand as idle")  # fmt: skip
    idle = [part for device in kernels["devices"] for part in device["idle"]]
    unknown_ns = sum(part["time_ns"] for part in idle if part["cause"] == "unknown")
    if unknown_ns:
        share = unknown_ns / sum(part["time_ns"] for part in idle)
        notes.append(f"{100 * share:.1f} % of the idle time has no known cause: the call that launched the work after "
                     "it was not seen, or what the host did is forgotten")  # fmt: skip
    if kernels["unknown"]:
        notes.append(f"{kernels['unknown']} activity records of a kind that is not known were left out")
    launched = sum(row["share_ns"] for row in kernels["rows"])
    outside = sum(row["share_ns"] for row in kernels["rows"] if row["site"] is None)
    if outside:
        notes.append(f"{100 * outside / launched:.1f} % of the device time was launched outside all ops")
    notes += [f"kernels: {note}" for note in kernels.get("notes") or []]
