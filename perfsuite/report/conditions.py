"""Under which conditions a record was made: the machine, its measured ceilings, versions, command, commit."""

import shlex
from typing import Any

from perfsuite.report import division, figures
from perfsuite.report.charts import ceiling
from perfsuite.report.figures import si
from perfsuite.report.markup import Markup, join, paragraph, table, tag, unknown

_RATES = ("read", "write", "copy", "triad")


def conditions(account: dict[str, Any]) -> Markup:
    """Facts of the record, the machine's fingerprint and its ceilings."""
    chosen = [f"{op}={impl}" for op, impl in account["use"].items()]
    missing = account.get("build", {}).get("ops_missing")
    facts = {
        "record": account["id"],
        "created": account["created"],
        "command": tag("code", shlex.join(account["command"])),
        "commit": tag("code", account["commit"]) if account["commit"] else unknown("not made in a git checkout"),
        "device": account["device"],
        "division": division.said(account),
        "implementations": ", ".join([*chosen, f"{account.get('ops') or 'eager'} for every other op"]),
        **({"not available": "; ".join(missing)} if missing else {}),
        **_flat(account["machine"]["fingerprint"]),
    }
    rows = [join([tag("dt", name.replace("_", " ")), tag("dd", value)]) for name, value in facts.items()]
    return join([tag("dl", join(rows), class_="facts"), tag("h3", "Measured ceilings"), _ceilings(account["machine"])])


def _flat(fingerprint: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """The fingerprint's entries, those of nested ones under "outer inner"."""
    flat: dict[str, object] = {}
    for name, value in fingerprint.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name} ")
        elif value is None:
            flat[prefix + name] = unknown("this machine does not say")
        elif isinstance(value, list):
            flat[prefix + name] = ", ".join(map(str, value))
        elif name.endswith("_bytes") and isinstance(value, int | float):
            flat[prefix + name.removesuffix("_bytes")] = figures.capacity(value)
        else:
            flat[prefix + name] = str(value)
    return flat


def _ceilings(machine: dict[str, Any]) -> Markup:
    ceilings = machine["ceilings"]
    if not ceilings:
        return paragraph(f"There are none: {machine['ceilings_reason']}.", "absent")
    said = "What ops are held against, with the range that the measurements spread over"
    threads = f", {ceilings['threads']} threads" if ceilings.get("threads") else ""
    parts = [paragraph(f"{said}{threads}."), *_levels_and_peaks(ceilings)]
    for gpu in ceilings.get("gpus") or []:
        parts += [tag("h3", f"GPU {gpu['index']}, {gpu['name']}"), *_levels_and_peaks(gpu), _transfers(gpu)]
        absent = "; ".join(f"{part}: {reason}" for part, reason in (gpu.get("absent") or {}).items())
        parts += [paragraph(f"Not measured: {absent}.", "absent")] if absent else []
    return join(parts)


def _levels_and_peaks(ceilings: dict[str, Any]) -> list[Markup]:
    """Of the processor, or of one GPU."""
    rows = []
    for level in ceilings["levels"]:
        size = figures.capacity(level["capacity_bytes"]) if level["capacity_bytes"] else "-"
        rates = [_spread(level.get(f"{kind}_bytes_per_s"), "B/s") for kind in _RATES]
        latency = level.get("latency_ns")
        in_seconds = {k: latency[k] / 1e9 for k in ("median", "lo", "hi")} if latency else None
        rows.append([level["name"], size, *rates, _spread(in_seconds, "s")])
    columns = [("level", False), ("capacity", True), *((kind, True) for kind in _RATES), ("latency", True)]
    peaks = [
        [f"{kind} {dtype}", _spread(rate, "FLOP/s")]
        for kind, key in (("FMA", "fma_flops_per_s"), ("GEMM", "gemm_flops_per_s"))
        for dtype, rate in (ceilings.get(key) or {}).items()
    ]
    found = [table(columns, rows)] if rows else []
    return [*found, table([("peak", False), ("rate", True)], peaks)] if peaks else found


def _transfers(gpu: dict[str, Any]) -> Markup:
    """Copies between host and device, the largest of each kind."""
    largest: dict[tuple[str, bool], dict[str, Any]] = {}
    for row in sorted(gpu.get("transfers") or [], key=lambda row: row["bytes"]):
        largest[row["direction"], row["pinned"]] = row
    rows = [
        [
            direction,
            "pinned" if pinned else "pageable",
            figures.capacity(row["bytes"]),
            _spread(row["bytes_per_s"], "B/s"),
        ]
        for (direction, pinned), row in largest.items()
    ]
    columns = [("copy", False), ("host memory", False), ("bytes", True), ("rate", True)]
    return table(columns, rows) if rows else Markup("")


def _spread(rate: dict[str, float] | None, unit: str) -> Markup:
    if not rate:
        return unknown("not measured on this machine")
    span = f"{si(rate['lo'], unit)} to {si(rate['hi'], unit)}"
    return join([si(ceiling(rate), unit), tag("small", span, class_="under")])
