"""What the counter pass measured per call of each kernel, and how its calls compare with those of the ledger pass.

The counter pass runs a few steps with every kernel replayed: its counts are exact, its times are not, and it has no
evaluation and no copies. A kernel there and here is the same where name and site (op, direction, module, phase) are.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Key = tuple[str, ...]
_SITE = ("name", "direction", "op", "module", "phase")


class Replay(NamedTuple):
    """The counter pass, ready to be asked."""

    steps: int
    per_call: dict[Key, dict[str, float]]
    """By kernel and site: mean per call of each column."""
    calls: dict[Key, int]
    columns: tuple[str, ...]


def open_replay(passes: Sequence[Mapping[str, Any]]) -> tuple[Replay | None, dict[str, Any]]:
    """The counter pass of a record, if one is done, and the account's `replay`: available, reason, passes, steps."""
    chosen = [pass_ for pass_ in passes if pass_["kind"] == "counters"]
    done = next((pass_ for pass_ in chosen if pass_["state"] == "done" and pass_.get("replay")), None)
    if done is None:
        reason = "no counter pass was run" if not chosen else _why(chosen[0])
        return None, {"available": False, "reason": reason, "passes": None, "steps": None, "dropped_ranges": None,
                      "unjoined": None, "absent": {}, "notes": []}  # fmt: skip
    raw = done["replay"]
    names = tuple(column["name"] for column in raw["columns"])
    sums: defaultdict[Key, list[float]] = defaultdict(lambda: [0.0] * len(names))
    calls: defaultdict[Key, int] = defaultdict(int)
    for row in raw["rows"]:
        key = _key(row["name"], None if row["site"] is None else raw["sites"][row["site"]], row["phase"])
        calls[key] += row["calls"]
        sums[key] = [total + value for total, value in zip(sums[key], row["values"], strict=True)]
    per = {
        key: {name: total / calls[key] for name, total in zip(names, totals, strict=True)}
        for key, totals in sums.items()
        if calls[key]
    }
    said = {"available": True, "reason": None,
            **{key: raw.get(key) for key in ("chip", "set", "passes", "steps", "dropped_ranges", "unjoined")},
            "absent": raw.get("absent") or {}, "notes": raw.get("notes") or []}  # fmt: skip
    return Replay(raw["steps"], per, dict(calls), names), said


def _why(pass_: Mapping[str, Any]) -> str:
    if pass_["state"] != "done":
        return f"the counter pass failed: {pass_['error']}"
    reasons = [entry["reason"] for entry in pass_.get("instruments") or [] if not entry["available"] and entry["reason"]
               and "counter" in entry["name"]]  # fmt: skip
    return reasons[0] if reasons else "the counter pass recorded no counters"


def _key(name: str, site: Mapping[str, Any] | None, phase: str) -> Key:
    return (name, *(("", "", "", "", phase) if site is None else (site[part] for part in _SITE)))


def per_call(replay: Replay | None, name: str, site: Mapping[str, Any] | None, phase: str) -> dict[str, float] | None:
    """Each column, per call of this kernel at this site; None where it was not replayed."""
    return None if replay is None else replay.per_call.get(_key(name, site, phase))


def compare_calls(replay: Replay, kernels: Mapping[str, Any], num_steps: int) -> tuple[float, float, str]:
    """Kernel calls a step in training phases: (of the kernel recorder, of the counter pass, the kernel furthest apart).

    Only what both could have seen: evaluations are not replayed.
    """
    here: defaultdict[Key, int] = defaultdict(int)
    for row in kernels["rows"]:
        if row["kind"] == "kernel" and row["phase"] not in ("evaluation", ""):
            site = None if row["site"] is None else kernels["sites"][row["site"]]
            here[_key(row["name"], site, row["phase"])] += row["calls"]
    there = {key: calls for key, calls in replay.calls.items() if key[-1] not in ("evaluation", "")}
    apart = {key: here.get(key, 0) / num_steps - there.get(key, 0) / replay.steps for key in {**here, **there}}
    worst = max(apart, key=lambda key: abs(apart[key]), default=None)
    said = "" if worst is None else f"{worst[0]} in the {worst[-1]} phase by {apart[worst]:+.3g} a step"
    return sum(here.values()) / num_steps, sum(there.values()) / replay.steps, said
