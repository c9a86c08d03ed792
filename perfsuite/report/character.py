"""The character of a run in words and pictures: what bounds its ops, what it moves and computes for a sample."""

from typing import Any

from rich.text import Text

from perfsuite.report.figures import UNKNOWN, percent, si, significant
from perfsuite.report.markup import Markup, join, paragraph, tag, tile, tiles
from perfsuite.report.optional import block

PARTS = (
    ("memory", "memory_bound_share", "--hue-2"),
    ("compute", "compute_bound_share", "--hue-1"),
    ("overhead", "overhead_bound_share", "--hue-3"),
    ("not known", "unknown_share", "--muted"),
)
"""Name, key of the account's `character`, and colour of what bounds ops: the roofline's colours."""


def lines(account: dict[str, Any]) -> list[tuple[str, Text]]:
    """For the terminal: a name and its text."""
    found = block(account, "character")
    if not found["available"]:
        return [("character", Text(f"not known: {found['reason']}", style="dim"))]
    shares = ", ".join(f"{name} {percent(found[key])}" for name, key, _ in PARTS)
    return [
        ("bound by", Text(f"{shares} of the ops' time")),
        ("a sample", Text(sample(found))),
        ("top ops", Text(top(found))),
    ]


def sample(found: dict[str, Any]) -> str:
    """E.g. "54.0 MB and 536 MFLOP, 9.92 FLOP/byte (not modelled: bytes of 0.10 %, flops of 3.6 % of the time)"."""
    unknown = [f"{name} of {percent(found[key])}" for name, key in
               (("bytes", "bytes_unknown_share"), ("flops", "flops_unknown_share")) if found[key]]  # fmt: skip
    aside = f" (not modelled: {', '.join(unknown)} of the time)" if unknown else ""
    if found["bytes_per_sample"] is None:
        return f"not known: {found['per_sample_reason']}; {intensity(found)}{aside}"
    moved, computed = si(found["bytes_per_sample"], "B"), si(found["flops_per_sample"], "FLOP")
    return f"{moved} and {computed}, {intensity(found)}{aside}"


def intensity(found: dict[str, Any]) -> str:
    """Flops per byte."""
    known = found["flops_per_byte"]
    return f"{UNKNOWN if known is None else significant(known)} FLOP/byte"


def top(found: dict[str, Any]) -> str:
    """E.g. "aten::mm 55.6 % (compute), aten::add 12.5 % (memory)"."""
    return ", ".join(f"{op['name']} {percent(op['share'])} ({op['bound'] or 'bound not known'})"
                     for op in found["top_ops"])  # fmt: skip


def section_parts(account: dict[str, Any]) -> list[Markup]:
    """For the page of a run."""
    found = block(account, "character")
    if not found["available"]:
        return [paragraph(f"It is not known: {found['reason']}.", "absent")]
    said = found["definition"]
    parts = [paragraph(f"{said[0].upper()}{said[1:]}."), stack(found), key(found)]
    moved, computed = si(found["bytes_per_sample"], "B"), si(found["flops_per_sample"], "FLOP")
    why = found["per_sample_reason"]
    parts += tiles([
        tile("bytes per sample", moved, why or _not_modelled(found["bytes_unknown_share"])),
        tile("flops per sample", computed, why or _not_modelled(found["flops_unknown_share"])),
        tile("arithmetic intensity", intensity(found), "flops per sample over bytes per sample"),
    ])  # fmt: skip
    parts.append(paragraph(join([tag("span", "Longest ops: ", class_="quiet"), f"{top(found)}."])))
    if found["unknown"]:
        reasons = "; ".join(f"{percent(row['share'])} {row['reason']}" + (f" ({', '.join(row['ops'])})" if row["ops"]
                            else "") for row in found["unknown"])  # fmt: skip
        parts.append(paragraph(f"Not known, and why: {reasons}.", "absent"))
    return parts


def _not_modelled(share: float | None) -> str:
    return f"not modelled for {percent(share)} of the time" if share else "known for all ops"


def stack(found: dict[str, Any]) -> Markup:
    """The shares as one bar."""
    pieces = join(
        tag("i", "", style=f"width:{100 * found[share]:.2f}%;background:var({hue})") for _, share, hue in PARTS
    )
    said = ", ".join(f"{name} {percent(found[share])}" for name, share, _ in PARTS)
    return tag("div", pieces, class_="stack", role="img", aria_label=f"bound by {said}", title=said)


def key(found: dict[str, Any] | None = None) -> Markup:
    """What the colours of the bar mean, with the shares of one run where it is given."""
    entries = []
    for name, share, hue in PARTS:
        square = tag("b", "", class_="key", style=f"background:var({hue})")
        entries.append(tag("span", join([square, name, f" {percent(found[share])}" if found else ""]), class_="entry"))
    return paragraph(join(entries))
