"""The page's section on where the device waited: the clock of each device, causes of idle time by phase, gaps."""

from collections import defaultdict
from typing import Any

from perfsuite.report import figures
from perfsuite.report.charts import Chart, hue, plain
from perfsuite.report.figures import count, percent, seconds
from perfsuite.report.markup import Markup, bar, draw, join, paragraph, table, tag
from perfsuite.report.optional import block

CAUSES = {
    "launch": "the next work was with the driver already",
    "sync": "the host was inside a call that waits for the device",
    "data": "the host was fetching a batch",
    "ops": "the host was inside an op: dispatch, allocation, autograd",
    "python": "the host was in none of these: Python, other code",
    "unknown": "the launch of the work after it was not seen, or what the host did is forgotten",
}
NO_PHASE = "in no phase"


def idle(account: dict[str, Any], drawn: dict[str, Chart]) -> list[Markup]:
    """The section, or why there is none."""
    ledger = block(account, "ledger", "device")
    if not ledger["available"]:
        return [paragraph(f"It is not known when the device was busy: {ledger['reason']}.", "absent")]
    if not ledger["devices"]:
        return [paragraph("No device did anything in this pass.", "absent")]
    parts: list[Markup] = []
    for device in ledger["devices"]:
        if len(ledger["devices"]) > 1:
            parts.append(tag("h3", f"Device {device['device']}"))
        parts += _device(device, drawn)
    return parts + _host_side(ledger)


def by_phase(device: dict[str, Any]) -> tuple[list[str], list[str], dict[tuple[str, str], float]]:
    """(causes, phases, seconds by cause and phase): causes in their order of precedence, longest phase first."""
    times: defaultdict[tuple[str, str], float] = defaultdict(float)
    whole: defaultdict[str, float] = defaultdict(float)
    for row in device["idle"]:
        times[row["cause"], row["phase"] or NO_PHASE] += row["time_s"]
        whole[row["phase"] or NO_PHASE] += row["time_s"]
    known = list(CAUSES)
    causes = sorted({cause for cause, _ in times}, key=lambda c: known.index(c) if c in known else len(known))
    return causes, sorted(whole, key=lambda phase: -whole[phase]), times


def cause_name(cause: str) -> str:
    """As a reader sees it."""
    return "not known" if cause == "unknown" else cause


def _device(device: dict[str, Any], drawn: dict[str, Chart]) -> list[Markup]:
    causes, phases, times = by_phase(device)
    parts = [_clock(device, causes, times)]
    if not causes:
        return [*parts, paragraph("The device was never idle.", "absent")]
    number = device["device"]
    said = (
        "By the phase that the host was in. A cause is the first that applies, in the order of the table above, where "
        "it is known."
    )
    parts += [paragraph(said), draw(f"idle-{number}", _chart(causes, phases, times), drawn,
                                    f"idle time of device {number} by phase and cause")]  # fmt: skip
    parts.append(_table(device, causes, phases, times))
    if any(gap["count"] for gap in device["gaps"]):
        said = "The gaps between one piece of work and the next, by their length."
        parts += [paragraph(said), draw(f"gaps-{number}", _gaps(device["gaps"]), drawn,
                                        f"gaps of device {number} by length")]  # fmt: skip
    return parts


def _clock(device: dict[str, Any], causes: list[str], times: dict[tuple[str, str], float]) -> Markup:
    """Busy time, idle time by cause, and what is left, which add up to the clock."""
    clock = device["clock_s"]

    def line(name: object, time_s: float, colour: str | None, said: str) -> list[object]:
        share = time_s / clock if clock else None
        return [
            name,
            figures.in_seconds(time_s, clock),
            percent(share),
            bar(share, colour) if colour else "",
            tag("div", said, class_="note"),
        ]

    overlap = device["overlap_s"]
    beside = f"and {seconds(overlap)} more of work that ran beside other work" if overlap else ""
    rows = [line(_key("busy", "var(--muted)"), device["busy_s"], "var(--muted)", beside)]
    for cause in causes:
        time_s = sum(t for (c, _), t in times.items() if c == cause)
        colour = _css(_hue(cause))
        rows.append(line(_key(f"idle: {cause_name(cause)}", colour), time_s, colour, CAUSES.get(cause, "")))
    rows.append(line("residual", device["residual_s"], None, "what neither is: the error of this account"))
    rows.append(line(tag("strong", "clock"), clock, None, ""))
    columns = [(f"device {device['device']}", False), ("time, s", True), ("share", True), ("", False), ("", False)]
    return table(columns, rows, class_="sum")


def _key(name: str, colour: str) -> Markup:
    return join([tag("b", "", class_="key", style=f"background:{colour}"), name])


def _hue(cause: str) -> str:
    return hue(list(CAUSES).index(cause)) if cause in CAUSES else "--muted"


def _css(colour: str) -> str:
    return f"var({colour})"


def _chart(causes: list[str], phases: list[str], times: dict[tuple[str, str], float]) -> Chart:
    data = [
        {
            "type": "bar", "orientation": "h", "name": plain(cause_name(cause)), "marker": {"color": _hue(cause)},
            "y": [plain(phase, 24) for phase in phases], "x": [times.get((cause, phase), 0.0) for phase in phases],
            "customdata": [f"{plain(phase)}: {seconds(times.get((cause, phase), 0.0))} idle{_by(cause)}"
                           for phase in phases],
            "hovertemplate": "%{customdata}<extra></extra>",
        }
        for cause in causes
    ]  # fmt: skip
    layout = {
        "barmode": "stack", "xaxis": {"title": {"text": "seconds"}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        "margin": {"t": 40},
    }  # fmt: skip
    return {"views": {"idle": {"data": data, "layout": layout}}, "height": 110 + 30 * len(phases)}


def _by(cause: str) -> str:
    return f", cause {cause_name(cause)}" if cause == "unknown" else f" by {plain(cause)}"


def _table(device: dict[str, Any], causes: list[str], phases: list[str], times: dict[tuple[str, str], float]) -> Markup:
    clock = device["clock_s"]

    def cells(found: list[float]) -> list[str]:
        return [figures.in_seconds(t, clock) for t in (*found, sum(found))]

    rows = [[phase, *cells([times.get((cause, phase), 0.0) for cause in causes])] for phase in phases]
    totals = [sum(times.get((cause, phase), 0.0) for phase in phases) for cause in causes]
    rows.append([tag("strong", "idle"), *cells(totals)])
    columns = [("idle time, s", False), *((cause_name(cause), True) for cause in causes), ("all", True)]
    return table(columns, rows, class_="sum")


def _gaps(gaps: list[dict[str, Any]]) -> Chart:
    shown = [i for i, gap in enumerate(gaps) if gap["count"]]
    kept = range(shown[0], shown[-1] + 1)
    labels = [gap_label(gaps, i) for i in kept]
    hover = [f"{gap_label(gaps, i)}: {count(gaps[i]['count'])} gaps, {seconds(gaps[i]['time_s'])}" for i in kept]

    def view(values: list[float], title: str, axis: dict[str, Any]) -> dict[str, Any]:
        data = [{"type": "bar", "x": labels, "y": values, "marker": {"color": "--hue-1"}, "customdata": hover,
                 "hovertemplate": "%{customdata}<extra></extra>"}]  # fmt: skip
        layout = {"xaxis": {"type": "category", "automargin": True}, "yaxis": {"title": {"text": title}, **axis},
                  "bargap": 0.25}  # fmt: skip
        return {"data": data, "layout": layout}

    counts = {"type": "log", "dtick": 1, "exponentformat": "SI"}
    views = {
        "by time": view([gaps[i]["time_s"] for i in kept], "seconds idle", {"rangemode": "tozero"}),
        "by number": view([gaps[i]["count"] or None for i in kept], "gaps", counts),
    }
    return {"views": views, "height": 260}


def gap_label(gaps: list[dict[str, Any]], index: int) -> str:
    """The lengths of the gaps of this row: "10 µs to 100 µs"."""
    above = gaps[index - 1]["up_to_s"] if index else None
    up_to = gaps[index]["up_to_s"]
    if up_to is None:
        return "any length" if above is None else f"above {_length(above)}"
    return f"up to {_length(up_to)}" if above is None else f"{_length(above)} to {_length(up_to)}"


def _length(value_s: float) -> str:
    """A round length without the zeros that measured figures have."""
    scale, unit = next((s, u) for s, u in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (0.0, "ns")) if value_s >= s)
    return f"{value_s / (scale or 1e-9):g} {unit}"


def _host_side(ledger: dict[str, Any]) -> list[Markup]:
    """Waits of the host for the device, CUPTI's own costs, and records that were lost."""
    rows = [["host waited", row["type"], count(row["calls"]), seconds(row["time_s"])] for row in ledger["syncs"]]
    rows += [["cost of recording", row["kind"], count(row["count"]), seconds(row["time_s"])]
             for row in ledger["overheads"]]  # fmt: skip
    columns = [("on the host", False), ("kind", False), ("times", True), ("time", True)]
    parts = [table(columns, rows)] if rows else []
    lost = [f"{count(ledger[key])} {said}" for key, said in (("dropped", "records were dropped"),
                                                             ("late", "came after their time was accounted"))
            if ledger[key]]  # fmt: skip
    return [*parts, paragraph(f"Of the device's records {' and '.join(lost)}.", "warning")] if lost else parts
