"""The division of a run in one sentence; of an open one with what it reached on the closed division's metric."""

from typing import Any

from perfsuite.report import figures


def said(account: dict[str, Any]) -> str:
    """E.g. "open; validation loss, nats per byte: 1.97 to 1.99 at the end, 5 of 5 runs reach the closed target ≤ 2"."""
    division, quality = account["division"], account.get("closed_quality")
    if quality is None:
        return division
    if quality["why"]:
        return f"{division}; the quality on the closed metric is not known: {quality['why']}"
    known = [q for q in quality["qualities"] if q is not None]
    ends = figures.interval([min(known), max(known)], lambda q: f"{q:.4g}") if known else "no evaluation"
    target = f"{figures.sign(quality['target'])} {quality['target']['value']:g}"
    return (f"{division}; {quality['metric']}: {ends} at the end, {quality['num_reached']} of "
            f"{len(quality['qualities'])} runs reach the closed target {target}")  # fmt: skip
