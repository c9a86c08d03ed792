"""The page's section on the device's memory system: bandwidth of each level, over time, by phase, and three counts."""

from typing import Any

from perfsuite.report import measured_roofline, strips
from perfsuite.report.charts import Chart
from perfsuite.report.figures import percent, seconds, si
from perfsuite.report.markup import Markup, bar, draw, number, paragraph, table, tag
from perfsuite.report.optional import block
from perfsuite.report.strips import Strip

_STRIPS = (  # title, and the column behind each line
    ("DRAM", {"": "dram_bytes_per_s", "read": "dram_read_bytes_per_s", "written": "dram_write_bytes_per_s"}),
    ("L2", {"": "l2_bytes_per_s"}),
    ("L1", {"moved": "l1_bytes_per_s", "hit": "l1_hit_bytes_per_s"}),
    ("hit share", {"L2": "l2_hit_share"}),
    ("active", {"SM": "sm_active_share", "tensor cores": "tensor_active_share", "GPU": "gr_active_share"}),
    ("PCIe", {"read": "pcie_read_bytes_per_s", "written": "pcie_write_bytes_per_s"}),
    ("NVLink", {"received": "nvlink_rx_bytes_per_s", "sent": "nvlink_tx_bytes_per_s"}),
)
_COUNTS = tag("h3", "Three counts of DRAM bytes")


def memory_system(account: dict[str, Any], drawn: dict[str, Chart]) -> list[Markup]:
    """The section, or why there is none."""
    counters = block(account, "memory", "counters")
    parts = _sampled(counters, drawn)
    if not counters["available"] and not (counters.get("replay") or {}).get("available"):
        return parts
    parts += [*measured_roofline.section(counters, drawn), *_byte_counts(counters)]
    return parts + [paragraph(note, "absent") for note in counters.get("notes") or []]


def _sampled(counters: dict[str, Any], drawn: dict[str, Chart]) -> list[Markup]:
    """What was sampled over a run: levels, their traffic over time, phases."""
    if not counters["available"]:
        return [paragraph(f"The memory system was not sampled: {counters['reason']}.", "absent")]
    parts = [paragraph(_how(counters))]
    parts += [levels(counters["levels"])] if counters["levels"] else []
    shown = over_time(counters["series"])
    if shown:
        parts.append(draw("memory-system", strips.chart(counters["series"]["t_s"], shown), drawn,
                          "traffic of the levels of the memory system over time"))  # fmt: skip
    else:
        parts.append(paragraph("There is no series over time: no counter has two samples.", "absent"))
    return parts + ([tag("h3", "By phase"), _phases(counters["phases"])] if counters["phases"] else [])


def _how(counters: dict[str, Any]) -> str:
    replay = counters.get("replay") or {}
    said = "Levels and phases are from sampling the device's counters over a whole run"
    said += f", every {seconds(counters['interval_s'])}." if counters.get("interval_s") else "."
    if replay.get("available"):
        return f"{said} Kernels are from {replay['steps']} steps replayed {replay['passes']} times each."
    return f"{said} No kernel was replayed: {replay.get('reason') or 'there was no counters pass'}."


def levels(found: list[dict[str, Any]]) -> Markup:
    """What moved at each level, how fast, and how its rate while busy stands to the measured bandwidth."""
    no_split, no_ceiling = "counted together", "no bandwidth of this level was measured on this machine"
    rows = [
        [
            level["name"],
            number(level["bytes"], si(level["bytes"], "B"), "not counted"),
            number(level["read_bytes"], si(level["read_bytes"], "B"), no_split),
            number(level["write_bytes"], si(level["write_bytes"], "B"), no_split),
            number(level["bandwidth_bytes_per_s"], si(level["bandwidth_bytes_per_s"], "B/s"), "not counted"),
            number(level["busy_bandwidth_bytes_per_s"], si(level["busy_bandwidth_bytes_per_s"], "B/s"),
                   "it is not known when the device was busy"),
            number(level["ceiling_bytes_per_s"], si(level["ceiling_bytes_per_s"], "B/s"), no_ceiling),
            number(level["share_of_ceiling"], percent(level["share_of_ceiling"]), no_ceiling),
            bar(level["share_of_ceiling"], "var(--hue-2)"),
            number(level["hit_share"], percent(level["hit_share"]), "not a cache, or not counted"),
        ]
        for level in found
    ]  # fmt: skip
    columns = [("level", False), ("moved", True), ("read", True), ("written", True), ("over the clock", True),
               ("while busy", True), ("ceiling", True), ("of ceiling", True), ("", False), ("hits", True)]  # fmt: skip
    return table(columns, rows)


def over_time(series: dict[str, Any]) -> list[Strip]:
    """A strip for each level of which something was counted."""
    found = []
    for title, lines in _STRIPS if len(series["t_s"]) > 1 else ():
        read = {
            name: series["columns"][column]
            for name, column in lines.items()
            if any(value is not None for value in series["columns"].get(column, ()))
        }
        if read:
            unit = next(series["units"].get(lines[name], "") for name in read)
            if len(read) == 1:
                title, read = " ".join(filter(None, (title, *read))), {"": next(iter(read.values()))}
            found.append(Strip(title, unit, read))
    return found


def _phases(phases: list[dict[str, Any]]) -> Markup:
    columns = {
        "DRAM read": "dram_read_bytes", "DRAM written": "dram_write_bytes", "L2": "l2_bytes",
        "L2 hits": "l2_hit_share", "SM active": "sm_active_share", "tensor active": "tensor_active_share",
    }  # fmt: skip
    rows = []
    for phase in phases:
        cells = [number(phase[key], percent(phase[key]) if key.endswith("share") else si(phase[key], "B"),
                        "not counted in this phase") for key in columns.values()]  # fmt: skip
        rows.append([phase["phase"] or "in no phase", seconds(phase["time_s"]), *cells])
    return table([("phase", False), ("time", True), *((name, True) for name in columns)], rows)


def _byte_counts(counters: dict[str, Any]) -> list[Markup]:
    if not counters.get("byte_counts"):
        return [_COUNTS, paragraph("The byte counts cannot be compared: none was made by phase.", "absent")]
    said = (
        "DRAM bytes counted three ways that know nothing of each other: sampled over the run, replayed kernel by "
        "kernel and scaled to all calls, and modelled from the shapes of the ops."
    )
    rows = []
    for row in counters["byte_counts"]:
        counts = ("sampled", "replayed", "modelled")
        cells = [number(row[f"{key}_bytes"], si(row[f"{key}_bytes"], "B"), row[f"{key}_reason"]) for key in counts]
        sampled = row["sampled_bytes"]
        ratios = [row[f"{key}_bytes"] / sampled if sampled and row[f"{key}_bytes"] is not None else None
                  for key in counts[1:]]  # fmt: skip
        cells += [number(x, "" if x is None else f"{x:.2f}", "one of the two is not known") for x in ratios]
        rows.append([row["phase"] or "in no phase", *cells])
    columns = [("phase", False), ("sampled", True), ("replayed", True), ("modelled", True),
               ("replayed / sampled", True), ("modelled / sampled", True)]  # fmt: skip
    return [_COUNTS, paragraph(said), table(columns, rows, class_="sum")]
