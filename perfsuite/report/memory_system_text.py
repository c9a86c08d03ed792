"""The memory system of a device in the terminal: its levels, three counts of its bytes, and what its memory held."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from perfsuite.report.figures import count, percent, seconds, si


def levels(counters: dict[str, Any]) -> RenderableType:
    """Levels and byte counts; one line where nothing was counted."""
    if not counters["available"]:
        text = Text(f"not sampled: {counters['reason']}", style="dim")
        replayed = (counters.get("replay") or {}).get("available")
        return Group(text, _byte_counts(counters)) if replayed else text
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("level", overflow="fold")
    for name in ("moved", "over the clock", "while busy", "of ceiling", "hits"):
        table.add_column(name, justify="right", no_wrap=True)
    for level in counters["levels"]:
        rates = [si(level[k], "B/s") for k in ("bandwidth_bytes_per_s", "busy_bandwidth_bytes_per_s")]
        shares = [percent(level[k]) for k in ("share_of_ceiling", "hit_share")]
        table.add_row(Text(level["name"]), si(level["bytes"], "B"), *rates, *shares)
    found: list[RenderableType] = [table] if counters["levels"] else []
    return Group(*found, _byte_counts(counters))


def _byte_counts(counters: dict[str, Any]) -> Text:
    """The three counts over all phases, and how far they are from the first."""
    total = next((row for row in counters.get("byte_counts") or [] if row["phase"] == "total"), None)
    if total is None:
        return Text("DRAM bytes: no count was made", style="dim")
    sampled = total["sampled_bytes"]
    said = []
    for key in ("sampled", "replayed", "modelled"):
        counted = total[f"{key}_bytes"]
        if counted is None:
            said.append(f"{key} not known ({total[f'{key}_reason']})")
        else:
            aside = f" ({counted / sampled:.2f} x sampled)" if sampled and key != "sampled" else ""
            said.append(f"{key} {si(counted, 'B')}{aside}")
    return Text("DRAM bytes: " + ", ".join(said))


def gpu_memory(memory: dict[str, Any]) -> Text:
    """Peak, what held it, fragmentation, retries and copies on a few lines."""
    if not memory["available"]:
        return Text(f"not known: {memory['reason']}", style="dim")
    said = f"allocated at most {si(memory['allocated_peak_bytes'], 'B')}"
    if memory["reserved_peak_bytes"] is not None:
        loose = percent(memory["fragmentation_share"])
        said += f", reserved {si(memory['reserved_peak_bytes'], 'B')} ({loose} of it loose)"
    if memory["retries"] is not None:
        said += f", {count(memory['retries'])} retries"
    held = sorted((memory.get("peak") or {}).get("categories", []), key=lambda c: -c["bytes"])
    if held:
        parts = (f"{c['name'].replace('_', ' ')} {si(c['bytes'], 'B')}" for c in held if c["bytes"])
        said += "; at the peak " + ", ".join(parts)
    return Text(said)


def copies(memory: dict[str, Any]) -> Text | None:
    """Copies to and from the host, by direction and kind of host memory; None where there are none."""
    rows = [row for row in memory.get("traffic") or [] if "H" in row["direction"]]
    kind = {True: " pinned", False: " pageable", None: ""}
    said = (
        f"{row['direction']}{kind[row['pinned']]} {si(row['bytes'], 'B')} in {seconds(row['time_s'])} "
        f"({si(row['bandwidth_bytes_per_s'], 'B/s')})"
        for row in rows
    )
    return Text(", ".join(said)) if rows else None
