"""A proof as one self-contained page for a pull request. Never imports torch."""

from collections.abc import Mapping
from typing import Any

from perfsuite.report import figures
from perfsuite.report.compare_text import interval
from perfsuite.report.frame import document
from perfsuite.report.markup import Markup, bar, join, paragraph, section, table, tag, text
from perfsuite.report.prove_text import TITLES, case_rows, notes, training_rows

_CLASSES = {"passed": "yes", "FASTER": "yes", "refuted": "no", "SLOWER": "no"}


def page(found: Mapping[str, Any]) -> str:
    """The page as one HTML document: verdict, four steps, and the figures behind them."""
    steps = {step["step"]: step for step in found["steps"]}
    parts = [_answer(found), section("steps", "Steps", _steps(found))]
    if "cases" in steps["faster"]:
        parts.append(section("speed", "Time over that of the others", *_speed(steps["faster"], steps["limit"])))
    if "comparison" in steps["training"]:
        parts.append(section("training", "Training to the target", *_training(steps["training"])))
    listed = join(tag("li", line) for line in (*notes(found), *_about(found)))
    parts.append(section("notes", "Notes", tag("ul", listed)))
    return document(text(f"{found['verdict']}: {found['file']} as {found['op']}"), join(parts))


def _answer(found: Mapping[str, Any]) -> Markup:
    kicker = join([tag("strong", found["file"]), f" as {found['op']} on {found['device']}"])
    missed = "missed" if found["verdict"] == "REFUTED" else None
    word = tag("h1", found["verdict"].replace("_", " "), class_=missed)
    return tag("header", join([paragraph(kicker, "kicker"), word, paragraph(found["why"], "limits")]))


def _steps(found: Mapping[str, Any]) -> Markup:
    rows = [[f"{number} {TITLES[step['step']]}", _word(step["result"]), step["why"]]
            for number, step in enumerate(found["steps"], 1)]  # fmt: skip
    return table([("step", False), ("", False), ("", False)], rows)


def _word(word: str) -> Markup:
    return tag("span", word.replace("_", " "), class_=_CLASSES.get(word, "quiet"))


def _speed(faster: Mapping[str, Any], limit: Mapping[str, Any]) -> list[Markup]:
    whole = faster["direction"]
    lines = [line for line in faster["overall"] if line["direction"] == whole]
    overall = [[line["against"], interval(line), _word(line["verdict"])] for line in lines]
    cases = []
    for row in case_rows(faster, limit):
        share = join([figures.percent(row["share"]), " ", bar(row["share"])])
        cells = [join([interval(line), " ", _word(line["verdict"])]) for line in row["against"]]
        cases.append([row["case"], figures.si(row["time_ns"] / 1e9, "s"), share, *cells])
    others = [(f"/ {line['against']}", False) for line in lines]
    said = f"Geometric mean over the cases, {faster['rounds']} interleaved rounds, {whole}; below 1: faster."
    return [paragraph(said), table([("against", False), ("ratio (95 %)", False), ("", False)], overall),
            table([("case", False), ("time", True), ("of ceiling", False), *others], cases)]  # fmt: skip


def _training(step: Mapping[str, Any]) -> list[Markup]:
    rows = [[name, *values, interval(line), _word(line["verdict"])] for name, values, line in training_rows(step)]
    said = f"{step['workload']} {step['scale']}, {step['pairs']} pairs of runs of the same seeds, in turns."
    heads = [("", False), ("without", True), ("with", True), ("with / without (95 %)", False), ("", False)]
    return [paragraph(said), table(heads, rows)]


def _about(found: Mapping[str, Any]) -> list[str]:
    cpu = found["machine"]["cpu"]
    where = cpu["model"] or cpu["architecture"]
    gpus = ", ".join(gpu["name"] for gpu in found["machine"]["gpus"] or [])
    return [f"SHA-256 of the file: {found['sha256']}", f"{found['created']}, {where}{f', {gpus}' if gpus else ''}"]
