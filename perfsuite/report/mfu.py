"""Model FLOPs utilisation in a few words."""

from typing import Any

from perfsuite.report.figures import percent, si
from perfsuite.report.optional import block


def figures(account: dict[str, Any]) -> tuple[str, str] | None:
    """("41.3 %", "327 TFLOP/s of 792 TFLOP/s, bf16"); None where it is not known."""
    mfu = block(account, "mfu")
    if not mfu["available"]:
        return None
    achieved, peak = si(mfu["achieved_flops_per_s"], "FLOP/s"), si(mfu["peak_flops_per_s"], "FLOP/s")
    return percent(mfu["mfu"]), f"{achieved} of {peak}, {mfu['dtype']}"


def reason(account: dict[str, Any]) -> str:
    """Why there is none."""
    return block(account, "mfu")["reason"]


def definition(account: dict[str, Any]) -> str:
    """What it is a share of what."""
    return account["mfu"]["definition"]
