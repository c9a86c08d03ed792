"""The page's account of device memory: its peak by what it held, and what was copied to and from the device."""

from typing import Any

from perfsuite.report.charts import hue
from perfsuite.report.figures import count, percent, seconds, si
from perfsuite.report.markup import Markup, bar, join, number, paragraph, table, tag, tile, tiles
from perfsuite.report.optional import block

PINNED = {True: "pinned", False: "pageable", None: ""}


def gpu_memory(account: dict[str, Any]) -> list[Markup]:
    """The section of a run on a GPU, or why there is none."""
    memory = block(account, "memory", "gpu")
    parts = _held(memory) if memory["available"] else [
        paragraph(f"It is not known what was in the device's memory: {memory['reason']}.", "absent")]  # fmt: skip
    if memory.get("traffic"):
        return [*parts, tag("h3", "Copies"), _traffic(memory["traffic"])]
    why = memory.get("traffic_reason")
    return [*parts, paragraph(f"Copies are not known: {why}." if why else "Nothing was copied.", "absent")]


def _held(memory: dict[str, Any]) -> list[Markup]:
    found = [tile("allocated at the peak", si(memory["allocated_peak_bytes"], "B"), memory["device"])]
    if memory["reserved_peak_bytes"] is not None:
        loose = percent(memory["fragmentation_share"])
        reserved = si(memory["reserved_peak_bytes"], "B")
        found.append(tile("reserved", reserved, f"{loose} of it not allocated at the peak"))
    if memory["retries"] is not None:
        found.append(tile("allocation retries", count(memory["retries"]), f"{count(memory['ooms'])} out of memory"))
    if memory["num_device_alloc"] is not None:
        found.append(tile("taken from the driver", count(memory["num_device_alloc"]), "times"))
    notes = (paragraph(note, "absent") for note in memory["notes"] or [])
    return [*tiles(found), *categories(memory), *notes]


def categories(memory: dict[str, Any]) -> list[Markup]:
    """The peak by what it held, for a run on any device; nothing where it is not known."""
    peak = memory.get("peak")
    if not peak or not peak["categories"]:
        return []
    whole = sum(category["bytes"] for category in peak["categories"])
    rows = []
    for index, category in enumerate(peak["categories"]):
        share = category["bytes"] / whole if whole else None
        key = tag("b", "", class_="key", style=f"background:var({hue(index)})")
        rows.append([join([key, category["name"].replace("_", " ")]), si(category["bytes"], "B"), percent(share),
                     bar(share, f"var({hue(index)})")])  # fmt: skip
    rows.append([tag("strong", "together"), si(whole, "B"), percent(1.0 if whole else None), ""])
    where = f" in the {peak['phase']} phase" if peak["phase"] else ""
    return [
        paragraph(f"What was alive at the peak{where} ({peak['source']})."),
        table([("held by", False), ("bytes", True), ("share", True), ("", False)], rows, class_="sum"),
    ]


def _traffic(rows: list[dict[str, Any]]) -> Markup:
    found = [
        [row["direction"], PINNED[row["pinned"]], count(row["calls"]), si(row["bytes"], "B"), seconds(row["time_s"]),
         number(row["bandwidth_bytes_per_s"], si(row["bandwidth_bytes_per_s"], "B/s"), "it took no time")]
        for row in rows
    ]  # fmt: skip
    columns = [("direction", False), ("host memory", False), ("copies", True), ("bytes", True), ("time", True),
               ("bandwidth", True)]  # fmt: skip
    return table(columns, found)
