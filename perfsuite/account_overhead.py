"""What the recorders cost on a GPU: the ledger pass against the clean passes, whole processes.

Their slowdown outlives a stop, so that blocks of steps with recorders on and off in one process would hide it.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from perfsuite.account_phases import Arrays
from perfsuite.stats import student_t

SKIPPED_STEPS = 2
"""At the start of a pass, which fill caches and let libraries choose their algorithms."""
METHOD = ("median step time of the ledger pass over that of the clean passes, whole processes; the interval is where "
          "one more clean pass would lie")  # fmt: skip


def overhead(record: Mapping[str, Any], pass_: Mapping[str, Any],
             arrays: Callable[[str], Arrays]) -> dict[str, Any] | None:  # fmt: skip
    """The account's `overhead` of a ledger pass: what the pass measured itself, else the comparison with clean passes.

    {"ratio", "ci95": [lo, hi], "pairs": clean passes, "method"}. The interval is the ratio times and over the 95 %
    prediction interval of one more clean pass (Student's t of the logarithms of their median step times): a single
    ledger pass differs from a single clean one by chance as much. None with fewer than two clean passes, or where one
    of the passes has too few steps.
    """
    if pass_.get("overhead"):
        return pass_["overhead"]
    if pass_["kind"] != "ledger" or record["device"] == "cpu":
        return None
    clean = [p for p in record["passes"] if p["kind"] == "clean" and p["state"] == "done"]
    medians = [_median_step_ns(arrays(p["arrays"])) for p in clean if p.get("arrays")]
    own = _median_step_ns(arrays(pass_["arrays"])) if pass_.get("arrays") else None
    logs = [math.log(m) for m in medians if m]
    if own is None or len(logs) < 2:
        return None
    n = len(logs)
    reach = student_t(0.95, n - 1) * float(np.std(logs, ddof=1)) * math.sqrt(1 + 1 / n)
    ratio = own / math.exp(sum(logs) / n)
    return {"ratio": ratio, "ci95": [ratio * math.exp(-reach), ratio * math.exp(reach)], "pairs": n, "method": METHOD}


def _median_step_ns(arrays: Arrays) -> float | None:
    """From one step's start to the next, without evaluations between: the median is not moved by those few."""
    starts = np.asarray(arrays["step_starts"])[SKIPPED_STEPS:]
    return float(np.median(np.diff(starts))) if len(starts) > 2 else None
