"""Scores as one page: for each result its runs, interval, convergence, time and power. Never imports torch."""

from typing import Any

from perfsuite.report import score_charts as charts
from perfsuite.report.charts import Chart
from perfsuite.report.figures import UNKNOWN, si
from perfsuite.report.markup import (
    Cell,
    Markup,
    draw,
    folded,
    join,
    number,
    paragraph,
    section,
    table,
    tag,
    text,
    tile,
    tiles,
)
from perfsuite.report.page import page
from perfsuite.report.score_text import remarks

_MOST_DRAWN = 40
"""Results with charts; the browser draws about 20 charts a second."""


def render(found: list[dict[str, Any]], compared: list[dict[str, Any]], of: str) -> str:
    """What folder_score.score(detailed=True) returned for each folder, and what tie.judge() said of pairs."""
    drawn: dict[str, Chart] = {}
    parts = [_answer(found, of), section("results", "Results", _table(found))]
    if compared:
        parts.append(section("compared", "Differ, or a tie?", _compared(compared)))
    for i, one in enumerate(found[:_MOST_DRAWN]):
        parts.append(section(f"result-{i}", one["label"], *_result(one, f"r{i}", drawn)))
    if len(found) > _MOST_DRAWN:
        parts.append(paragraph(f"{len(found) - _MOST_DRAWN} more results are in the table and not drawn: give one "
                               "organisation's folder.", "absent"))  # fmt: skip
    rules = list(dict.fromkeys(one["rules"] for one in found))
    notes = [tag("li", f"Rules: {line}") for line in rules]
    parts.append(section("notes", "Notes", tag("ul", join(notes)), paragraph(found[0]["footnote"], "footnote")))
    return page(text(f"Scores of {of}"), join(parts, "\n"), drawn)


def _answer(found: list[dict[str, Any]], of: str) -> Markup:
    kicker = join([tag("strong", of), f" {found[0]['round'] or 'no round'}"])
    scored = [one for one in found if one["score_min"] is not None]
    if len(found) == 1:
        one = found[0]
        said = f"{one['benchmark']}: {_minutes(one)}" if scored else f"{one['benchmark']}: no score"
    else:
        said = f"{len(scored)} of {len(found)} results have a score"
    failed = [one for one in found if one["convergence_counts"] and not one["convergence"]["rules"]["passed"]]
    if failed:
        which = f"{len(failed)} fail the check of convergence" if len(found) > 1 else "fails the check of convergence"
        said = f"{said}; {which}"
    invalid = [one for one in found if one["valid"] is False]
    if invalid:
        which = f"{len(invalid)} are not valid" if len(found) > 1 else "not valid"
        said = f"{said}; {which} by the rules text"
    bad = len(scored) < len(found) or failed or invalid
    word = tag("h1", said, class_="missed" if bad else None)
    unverified = paragraph(found[0]["footnote"], "quiet")
    return tag("header", join([paragraph(kicker, "kicker"), word, unverified]))


def _minutes(one: dict[str, Any]) -> str:
    return f"{one['score_min']:.4g} minutes (unverified)"


def _table(found: list[dict[str, Any]]) -> Markup:
    columns = [("result", False), ("benchmark", False), ("division", False), ("minutes, unverified", True),
               ("95 %", True), ("runs", True), ("valid", False), ("convergence", False), ("energy", True)]  # fmt: skip
    rows = []
    for i, one in enumerate(found):
        name = tag("a", one["label"], href=f"#result-{i}") if i < _MOST_DRAWN else one["label"]
        interval = "{:#.4g} to {:#.4g}".format(*one["ci95_min"]) if one["ci95_min"] else UNKNOWN
        joules = (one["energy"] or {}).get("energy_j")
        why = (one["energy"] or {}).get("why") or "no power logs"
        rows.append([
            name, one["benchmark"] or UNKNOWN, one["division"] or UNKNOWN,
            number(one["score_min"], f"{one['score_min'] or 0:.4f}", one["why"]), interval,
            f"{one['num_converged']}/{one['num_runs']}", _valid(one), _passes(one, "rules"),
            number(joules, si(joules, "J"), why),
        ])  # fmt: skip
    return table(columns, rows)


def _valid(one: dict[str, Any]) -> Cell:
    if one["valid"] is None:
        return Cell(tag("span", "not checked", class_="quiet", title="there are no rules to hold it against"))
    why = None if one["valid"] else "; ".join(one["errors"][:5])
    return Cell(tag("span", "yes" if one["valid"] else "NO", class_="yes" if one["valid"] else "no", title=why))


def _passes(one: dict[str, Any], mode: str) -> Cell:
    if not one["convergence"]:
        return Cell(tag("span", "not checked", class_="quiet", title=one["convergence_why"]))
    check = one["convergence"][mode]
    factor = f" x{check['factor']:.4f}" if check["factor"] != 1 and one["convergence_counts"] else ""
    word = "pass" if check["passed"] else "FAIL"
    return Cell(tag("span", word + factor, class_="yes" if check["passed"] else "no"))


def _compared(compared: list[dict[str, Any]]) -> Markup:
    columns = [("first", False), ("second", False), ("benchmark", False), ("", False), ("second over first", False)]
    rows = []
    for one in compared:
        known = one["ratio"] is not None
        ratio = f"{one['ratio']:.3f} ({one['ci95'][0]:.3f} to {one['ci95'][1]:.3f})" if known else UNKNOWN
        says = one["says"] if known else f"{one['says']}: {one['why']}"
        rows.append([one["a"], one["b"], one["benchmark"], says, ratio])
    return table(columns, rows)


def _result(one: dict[str, Any], name: str, drawn: dict[str, Chart]) -> list[Markup]:
    return [
        *tiles(_tiles(one)),
        *(paragraph(line, "quiet") for line in remarks(one)),
        _multiples(one, name, drawn),
        folded("Convergence in the three readings", _readings(one)) if one["convergence"] else Markup(""),
        folded(f"All {one['num_runs']} runs", _runs(one)),
    ]


def _tiles(one: dict[str, Any]) -> list[Markup]:
    found = []
    if one["score_min"] is not None:
        interval = "{:#.4g} to {:#.4g} (95 %)".format(*one["ci95_min"]) if one["ci95_min"] else "no interval"
        found.append(tile("minutes, unverified", f"{one['score_min']:#.4g}", interval,
                          "" if one["valid"] is False else "lead"))  # fmt: skip
        if one["factor"] != 1:
            found.append(tile("times, as it converges faster", f"{one['factor']:.4f}",
                              f"{one['unscaled_min']:.4g} minutes on the clock"))  # fmt: skip
    wanted = f"{one['num_runs_wanted']} make a result" if one["num_runs_wanted"] else "the rules give no number"
    found.append(tile("runs that converged", f"{one['num_converged']} of {one['num_runs']}", wanted))
    if one["accelerators"] is not None:
        found.append(tile("accelerators", str(one["accelerators"]), one["system"] or ""))
    if one["energy"] and one["energy"]["energy_j"] is not None:
        found.append(tile("energy", si(one["energy"]["energy_j"], "J"), "mean over the runs of the score"))
    return found


def _multiples(one: dict[str, Any], name: str, drawn: dict[str, Chart]) -> Markup:
    reference = "solid: mean of the reference; dotted: the least that passes; between them the score is scaled"
    wanted = {
        "Runs": (charts.runs(one), "line: olympic mean on the clock; band: its 95 % interval"),
        "Convergence": (charts.convergence(one), reference),
        "Time": (charts.shares(one), charts.said_shares(one)),
        "Energy": (charts.power(one), "line: mean over the runs of the score; whiskers: what readings do not cover"),
    }
    figures, absent = [], []
    for title, (chart, said) in wanted.items():
        if chart is None:
            absent.append(title.lower())
            continue
        head = tag("figcaption", join([tag("b", title), tag("small", said)]))
        figures.append(tag("figure", join([head, draw(f"{name}-{title.lower()}", chart, drawn, f"{title} of {name}")])))
    why = {"energy": "no power logs, or no reading in the timed part", "convergence": "no evaluation in the logs",
           "runs": "no log has run_start and run_stop", "time": "no log has run_start and run_stop"}  # fmt: skip
    said = "; ".join(f"no {what}: {why[what]}" for what in absent)
    return join([tag("div", join(figures), class_="multiples"), paragraph(said, "absent") if said else ""])


def _readings(one: dict[str, Any]) -> Markup:
    columns = [("reading", False), ("", False), ("olympic mean", True), ("reference mean", True),
               ("least that passes", True), ("factor", True), ("says", False)]  # fmt: skip
    rows = []
    for mode, check in one["convergence"].items():
        mean, lowest = check["mean"], check["lowest"]
        reference = check["reference"]["mean"] if check["reference"] else None
        rows.append([mode, _passes(one, mode), number(mean, f"{mean or 0:g}"), number(reference, f"{reference or 0:g}"),
                     number(lowest, f"{lowest or 0:g}"), f"{check['factor']:.4f}", check["message"]])  # fmt: skip
    return table(columns, rows)


def _runs(one: dict[str, Any]) -> Markup:
    columns = [("log", False), ("status", False), ("minutes on the clock", True), ("quality", True),
               ("samples or epochs", True), ("init, min", True), ("evaluation, min", True),
               ("in the mean", False)]  # fmt: skip
    rows = []
    for run, entry in zip(one["runs"], one["curves"]["runs"], strict=True):
        kept = "no: not among the runs that count" if not run["counts"] else run["dropped"] or "yes"
        clock, init, evaluation = run["clock_s"], run["init_s"], entry["times"]["evaluation_s"]
        quality = run["quality"] if isinstance(run["quality"], int | float) else None
        rows.append([
            run["log"], run["status"] or "unknown",
            number(clock, f"{(clock or 0) / 60:.4f}", "no run_start or run_stop"),
            number(quality, f"{quality or 0:.6g}", "no evaluation is a number"),
            number(run["units"], f"{run['units'] or 0:g}", "no evaluation says after how many"),
            number(init, f"{(init or 0) / 60:.2f}", "no init_start or init_stop"),
            number(evaluation, f"{(evaluation or 0) / 60:.2f}", "no eval_start and eval_stop on the clock"),
            f"dropped: {kept}" if run["dropped"] else kept,
        ])  # fmt: skip
    return table(columns, rows)
