"""The page's table of kernels: what ran on the device, longest first, from which op, and how near to a limit."""

from collections import defaultdict
from typing import Any

from perfsuite.report import names
from perfsuite.report.figures import count, percent, seconds, si
from perfsuite.report.markup import Cell, Markup, join, long_table, number, paragraph, table, tag, unknown
from perfsuite.report.optional import block
from perfsuite.report.power_words import of_kernel

COLUMNS = [
    ("kernel", False), ("phase", False), ("op", False), ("module", False), ("time", True), ("of clock", True),
    ("bound by", False), ("of ceiling", True), ("bytes/s", True), ("tensor op/s", True), ("calls", True),
    ("each", True), ("DRAM or copied", True), ("L2", True), ("joules", True), ("launch", False),
]  # fmt: skip
NAME_WIDTH = 56
"""Of a kernel, in characters."""


def kernels(account: dict[str, Any]) -> list[Markup]:
    """The section: a sentence and the table, or why there is none."""
    device = block(account, "ledger", "device")
    if not device["available"]:
        return [paragraph(f"No kernel was recorded: {device['reason']}.", "absent")]
    rows = account["ledger"]["kernels"]
    if not rows:
        return [paragraph("No kernel, copy or fill ran on a device in this pass.", "absent")]
    said = (
        "Everything that ran on the device, by the op that launched it. Where several ran at once their share of the "
        "clock is split evenly between them, so that the shares add up to the time that the device was busy."
    )
    found = table(COLUMNS, [_kernel(row, account) for row in rows], class_="kernels long")
    return [paragraph(said), long_table("kernels", len(rows), "kernel, op, module, phase or bound", found)]


def launched_by(row: dict[str, Any]) -> str | None:
    """The suite's op with its implementation, else torch's op; None for what was launched outside all ops."""
    return (f"{row['op']}={row['impl']}" if row["impl"] else row["op"]) if row["op"] else row["aten"]


def grouped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of one kernel, op, kind of copy and phase as one, whatever the module; longest first.

    A figure that is not known for a part is not known for the whole; the bound is that of most of the time.
    """
    groups: defaultdict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        copy = tuple((row["copy"] or {}).values())
        groups[row["name"], launched_by(row), row["phase"], row["device"], copy].append(row)
    return sorted(map(_together, groups.values()), key=lambda row: -row["share_s"])


def _together(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def total(key: str) -> Any:
        return None if any(row[key] is None for row in rows) else sum(row[key] for row in rows)

    times: defaultdict[tuple[Any, Any], float] = defaultdict(float)
    for row in rows:
        times[row["bound"], row["level"]] += row["time_s"]
    bound, level = max(times, key=times.__getitem__)
    placed = [row for row in rows if (row["bound"], row["level"]) == (bound, level)]
    known = all(row["share_of_ceiling"] is not None for row in placed)
    least_s = sum(row["share_of_ceiling"] * row["time_s"] for row in placed) if known else None
    placed_s = times[bound, level]
    return rows[0] | {
        **{key: total(key) for key in ("time_s", "share_s", "share_of_clock", "calls", "bytes", "joules", "bound_j")},
        "module": rows[0]["module"] if len({row["module"] for row in rows}) == 1 else None,
        "told_apart": None if total("told_apart") is None else all(row["told_apart"] for row in rows),
        "bound": bound, "level": level,
        "share_of_ceiling": least_s / placed_s if least_s is not None and placed_s else None,
    }  # fmt: skip


def bytes_per_s(row: dict[str, Any]) -> float | None:
    """Of a copy or fill what it moved, of a kernel what the counters saw at DRAM, over its time."""
    return row["bytes"] / row["time_s"] if row["bytes"] is not None and row["time_s"] else None


def bound_by(row: dict[str, Any]) -> str | None:
    """What limits it, with the level of the memory system where that is memory."""
    return f"{row['bound']} ({row['level']})" if row["bound"] == "memory" and row["level"] else row["bound"]


def _kernel(row: dict[str, Any], account: dict[str, Any]) -> list[object]:
    no_counter = _no_counter(row, account)
    no_bound = "a copy or fill" if row["kind"] != "kernel" else no_counter
    rate, tensor = bytes_per_s(row), row["tensor_ops"]
    op_rate = tensor / row["time_s"] if tensor is not None and row["time_s"] else None
    bound, power = bound_by(row), account["power"]
    no_joules = power.get("kernels_reason") or power["reason"] or "its share of the energy is not known"
    drawn, _, bound_j = of_kernel(row["joules"], row["bound_j"], row["told_apart"]).partition(" ± ")
    joules = join([drawn, tag("small", f" ± {bound_j}") if bound_j else ""])
    each = f"{seconds(row['min_s'])} to {seconds(row['max_s'])}"
    return [
        Cell(name(row["name"], row["copy"]), row["name"]), _words(row["phase"], "launched in no phase"),
        _words(launched_by(row), "launched outside all ops"), _words(row["module"], "in no module"),
        number(row["time_s"], seconds(row["time_s"])), number(row["share_of_clock"], percent(row["share_of_clock"])),
        Cell(bound, bound) if bound else Cell(unknown(no_bound), None),
        number(row["share_of_ceiling"], percent(row["share_of_ceiling"]), no_bound),
        number(rate, si(rate, "B/s"), no_counter), number(op_rate, si(op_rate, "op/s"), no_counter),
        number(row["calls"], count(row["calls"])), number(row["max_s"], each),
        number(row["bytes"], si(row["bytes"], "B"), no_counter),
        number(row["l2_bytes"], si(row["l2_bytes"], "B"), no_counter),
        number(row["joules"], joules, no_joules), _launch(row),
    ]  # fmt: skip


def _no_counter(row: dict[str, Any], account: dict[str, Any]) -> str:
    if row["kind"] != "kernel":
        return "counters do not see copies and fills"
    counters = block(account, "memory", "counters")
    replay = counters.get("replay") or {}
    if replay.get("available"):
        return "the counters pass did not replay this kernel"
    return replay.get("reason") or counters["reason"] or "there was no counters pass"


def name(full: str, copy: dict[str, Any] | None = None, width: int = NAME_WIDTH) -> Markup:
    """A kernel's name, shortened, with all of it where it is pointed at."""
    aside = {True: " pinned", False: " pageable", None: ""}[copy["pinned"]] if copy else ""
    return tag("code", join([names.kernel(full, width), tag("small", aside) if aside else ""]), title=full)


def _launch(row: dict[str, Any]) -> Cell:
    if not row["grid"] or not row["block"]:
        return Cell(unknown("a copy or fill has no grid"), None)
    shape = " x ".join("·".join(map(str, row[key])) for key in ("grid", "block"))
    facts = [shape, f"{row['registers']} registers", si(row["shared_bytes"], "B") + " shared"]
    if row["graph"]:
        facts.append("in a CUDA graph")
    return Cell(", ".join(facts), shape)


def _words(value: str | None, reason: str) -> Cell:
    return Cell(value, value) if value else Cell(unknown(reason), None)
