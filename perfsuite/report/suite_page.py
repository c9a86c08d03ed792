"""The suite as one page: a table of all workloads, and where each stands under the roofs of the machine."""

import shlex
from typing import Any

from perfsuite.report import character, figures
from perfsuite.report.charts import Chart, ceilings_of, hue, plain, rates_and_peaks, roofs
from perfsuite.report.figures import count, percent, seconds, si
from perfsuite.report.markup import Cell, Markup, draw, join, number, paragraph, section, table, tag, text, unknown
from perfsuite.report.page import page
from perfsuite.report.suite_text import answer, reasons, shortened, working_set

ROOFLINE = (
    "Each mark is a workload: the flops of its training ops over the bytes that they must move at least, and over the "
    "time that they took. A mark far below a slanted roof moves its bytes from nearer than that level, or waits for "
    "something else: its ops' overhead, or ops whose flops are not counted."
)
PLACES = ("top center", "bottom center", "middle right", "middle left")
"""Of the names of neighbouring marks, so that they do not lie on each other."""


def render(found: dict[str, Any]) -> str:
    """The suite's document (perfsuite/suite.py) as an HTML document."""
    drawn: dict[str, Chart] = {}
    parts = [
        _answer(found),
        section("workloads", "Workloads", *_workloads(found)),
        section("roofline", "Under the roofs of this machine", *_roofline(found, drawn)),
        section("notes", "Notes", *_notes(found)),
    ]
    return page(text(f"All workloads, scale {found['scale']}"), join(parts, "\n"), drawn)


def _answer(found: dict[str, Any]) -> Markup:
    missed = found["num_reached"] < len(found["workloads"])
    command = tag("code", shlex.join(found["command"]))
    kicker = join([tag("strong", "All workloads"), f" {found['created']}, ", command])
    headline = tag("h1", answer(found), class_="missed" if missed else None)
    lines = [tag("span", join([tag("strong", f"{row['workload']}: "), row["reason"]]), class_="reason")
             for row in found["workloads"] if row["reason"]]  # fmt: skip
    said = paragraph(join(lines), "warning") if lines else ""
    return tag("header", join([paragraph(kicker, "kicker"), headline, said]))


def _workloads(found: dict[str, Any]) -> list[Markup]:
    rows = found["workloads"]
    sets = any(working_set(row) for row in rows)
    columns = [("workload", False), ("time to train", True), ("samples to target", True), ("quality", True),
               ("ops bound by", False), ("a sample", True), *([("working set", False)] if sets else []),
               ("of the clock", True), ("longest ops", False)]  # fmt: skip
    said = ("Time to train with its 95 % interval, over the samples at which the runs crossed the target. What bounds "
            "the ops, what a sample moves and computes, shares of the clock, and the longest ops with their share of "
            "the ops' time are of the pass with the recorders on.")  # fmt: skip
    return [paragraph(said), character.key(), table(columns, [_row(row, sets) for row in rows], "suite")]


def _row(row: dict[str, Any], sets: bool) -> list[object]:
    name = tag("a", row["workload"], href=row["report"]) if row["report"] else row["workload"]
    under = tag("small", " ".join(filter(None, (row["area"], row["device"]))), class_="under")
    why = "; ".join(reasons(row)) or "not known"
    found = row["character"] if row["character"] and row["character"]["available"] else None
    cells: list[object] = [join([name, under]), _time(row, why), _samples(row, why), _quality(row, why)]
    if found:
        shares = " / ".join(f"{100 * found[key]:.0f}" for _, key, _ in character.PARTS)
        cells += [join([character.stack(found), _under(f"{shares} %")]), _sample(found)]
    else:
        cells += [unknown(why), unknown(why)]
    if sets:
        cells.append(working_set(row) or unknown("the record does not know it"))
    clock = row["phase_shares"]
    cells.append(join(_line(f"{name} {percent(clock.get(name, 0.0))}") for name in ("data", "evaluation"))
                 if clock else unknown(why))  # fmt: skip
    return [*cells, join(map(_op, found["top_ops"])) if found else unknown(why)]


def _op(op: dict[str, Any]) -> Markup:
    return tag("span", f"{percent(op['share'])} {shortened(op['name'], 20)}", class_="line", title=op["name"])


def _sample(found: dict[str, Any]) -> Markup:
    if found["bytes_per_sample"] is None:
        return join([unknown(found["per_sample_reason"]), _line(character.intensity(found))])
    moved, computed = si(found["bytes_per_sample"], "B"), si(found["flops_per_sample"], "FLOP")
    return join(map(_line, (moved, computed, character.intensity(found))))


def _line(said: str) -> Markup:
    return tag("span", said, class_="line")


def _time(row: dict[str, Any], why: str) -> Cell:
    if row["time_to_train_s"] is None:
        said = tag("span", "not reached" if row["target"] else "failed", class_="no", title=why)
        runs = _under(f"{row['num_reached']} of {row['num_runs']} runs") if row["num_runs"] else ""
        return Cell(join([said, runs]), None, True)
    interval = figures.interval(row["ci95_s"], seconds) if row["ci95_s"] else "no interval"
    runs = f"{row['num_reached']} of {row['num_runs']} runs"
    return Cell(join([tag("strong", seconds(row["time_to_train_s"])), _under(interval), _under(runs)]),
                row["time_to_train_s"], True)  # fmt: skip


def _samples(row: dict[str, Any], why: str) -> Cell:
    found = row["samples_to_target"]
    return number(found, join([count(found), _under(figures.interval(row["samples_to_target_range"], count))]), why)


def _quality(row: dict[str, Any], why: str) -> Cell:
    target = row["target"]
    goal = _under(f"{target['metric']} {figures.sign(target)} {target['value']:g}") if target else ""
    quality = unknown(why) if row["quality"] is None else f"{row['quality']:.4g}"
    return Cell(join([quality, goal]), row["quality"], True)


def _under(said: str) -> Markup:
    return tag("small", said, class_="under")


def _roofline(found: dict[str, Any], drawn: dict[str, Chart]) -> list[Markup]:
    chart, said = roofline(found)
    if chart is None:
        return [paragraph(said, "absent")]
    return [paragraph(said), draw("suite", chart, drawn, "all workloads under the roofs of this machine")]


def roofline(found: dict[str, Any]) -> tuple[Chart | None, str]:
    """All workloads by flops per byte: against flops per second under the roofs, and against their memory-bound share.

    (None, a sentence that says why) where there is nothing to show.
    """
    known = [row for row in found["workloads"] if row["character"]]
    shown = [row for row in known if row["character"]["flops_per_byte"] and row["character"]["flops_per_s"]]
    if not shown:
        return None, "There is no picture: flops per byte are known for none of the workloads."
    intensities = [row["character"]["flops_per_byte"] for row in shown]
    views = {"memory-bound share": _view(shown, lambda c: 100 * c["memory_bound_share"])}
    views["memory-bound share"]["layout"]["yaxis"] = {
        "title": {"text": "memory-bound, % of the ops' time"}, "range": [-4, 104],
    }  # fmt: skip
    ceilings, reason = ceilings_of({"machine": found["machine"], "device": shown[0]["device"]})
    if not ceilings:
        return {"views": views, "height": 480}, f"{ROOFLINE} There are no roofs: {reason}."
    under = _view(shown, lambda c: c["flops_per_s"] / 1e9)
    lines, labels = roofs(*rates_and_peaks(ceilings), min(intensities) / 8, max(intensities) * 4)
    under["data"] = lines + under["data"]
    under["layout"] |= {"yaxis": {"type": "log", "title": {"text": "GFLOP/s"}, "dtick": 1}, "annotations": labels}
    return {"views": {"roofline": under} | views, "height": 480}, ROOFLINE


def _view(shown: list[dict[str, Any]], height: Any) -> dict[str, Any]:
    data = []
    for index, row in enumerate(shown):
        found = row["character"]
        said = "<br>".join([
            f"<b>{plain(row['workload'])}</b>", plain(f"{character.sample(found)} a sample"),
            plain(f"{si(found['flops_per_s'], 'FLOP/s')} while its ops run"),
            plain("bound by " + ", ".join(f"{name} {percent(found[key])}" for name, key, _ in character.PARTS)),
        ])  # fmt: skip
        data.append({
            "type": "scatter", "mode": "markers+text", "name": plain(row["workload"]), "x": [found["flops_per_byte"]],
            "y": [height(found)], "text": [plain(row["workload"])], "textposition": PLACES[index % len(PLACES)],
            "marker": {"size": 14, "color": hue(index), "line": {"color": "--card", "width": 1}},
            "customdata": [said], "hovertemplate": "%{customdata}<extra></extra>",
        })  # fmt: skip
    layout = {
        "xaxis": {"type": "log", "title": {"text": "arithmetic intensity, flop per byte"}, "dtick": 1},
        "showlegend": False, "margin": {"t": 24, "r": 16}, "hovermode": "closest",
    }  # fmt: skip
    return {"data": data, "layout": layout}


def _notes(found: dict[str, Any]) -> list[Markup]:
    said = [f"{row['workload']}: {why}" for row in found["workloads"] for why in reasons(row)]
    said += [f"{row['workload']}, not known: {percent(part['share'])} {part['reason']}"
             for row in found["workloads"] for part in (row["character"] or {}).get("unknown", [])
             if part["share"] >= 0.01]  # fmt: skip
    definition = next((row["character"]["definition"] for row in found["workloads"] if row["character"]), None)
    lead = [paragraph(f"{definition[0].upper()}{definition[1:]}.")] if definition else []
    return [*lead, tag("ul", join(tag("li", line) for line in said)) if said else paragraph("None.")]
