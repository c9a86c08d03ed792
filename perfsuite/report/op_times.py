"""Which time of an op counts: on a GPU that of what it launched there, elsewhere its own on the host."""

from typing import Any


def cost_s(op: dict[str, Any]) -> float:
    """Device time where it is known, else self time."""
    return op["self_time_s"] if op["device_time_s"] is None else op["device_time_s"]


def share(op: dict[str, Any], clock_s: float) -> float | None:
    """Of the clock. None for host time on another thread, which is not on the clock, and for an empty clock."""
    on_clock = op["device_time_s"] is not None or op["thread"] == "clock"
    return cost_s(op) / clock_s if clock_s and on_clock else None
