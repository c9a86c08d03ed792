"""The working set against the caches, in one line and as a part of the page."""

from typing import Any

from perfsuite.report.figures import capacity, count, si
from perfsuite.report.markup import Markup, paragraph, table, tag


def sentences(found: dict[str, Any] | None) -> list[str]:
    """What a step works on, and the rows that it looks up, a sentence each; empty where no pass has finished."""
    if not found:
        return []
    return [_step(found), *([_rows(found["rows"])] if found["rows"] else [])]


def _step(found: dict[str, Any]) -> str:
    if found["bytes"] is None:
        return f"not measured: {found['reason']}"
    said = f"{si(found['bytes'], 'B')} a step"
    levels = found["levels"]
    if not levels:
        return f"{said}; caches are not known: {found['levels_reason']}"
    level = next((level for level in levels if level["name"] == found["fits_in"]), None)
    if level:
        return f"{said}, fits in the {level['name']} ({capacity(level['bytes'])})"
    times = found["bytes"] / levels[-1]["bytes"]
    return f"{said}, fits in no cache: {times:.3g} x the {levels[-1]['name']} ({capacity(levels[-1]['bytes'])})"


def _rows(rows: dict[str, Any]) -> str:
    said = (f"rows looked up: {si(rows['bytes_per_batch'], 'B')} in a batch, {si(rows['bytes'], 'B')} in "
            f"{rows['batches']} batches")  # fmt: skip
    last = rows["last_level"]
    if last is None:
        return said
    fits = ", fits" if rows["fits"] else ""
    return f"{said}, {rows['times_last_level']:.3g} x the {last['name']} ({capacity(last['bytes'])}){fits}"


def section(found: dict[str, Any] | None) -> list[Markup]:
    """The page's part: the sentences, what they stand on, and the embedding tables."""
    if not found:
        return []
    said = [sentence[0].upper() + sentence[1:] + "." for sentence in sentences(found)]
    parts = [tag("h3", "Working set"), *map(paragraph, said)]
    if found["source"]:
        parts.append(paragraph(found["source"][0].upper() + found["source"][1:] + ".", "quiet"))
    return [*parts, _tables(found["rows"])] if found["rows"] else parts


def _tables(rows: dict[str, Any]) -> Markup:
    lines = [
        [line["name"], si(line["row_bytes"], "B"), count(line["lookups_per_batch"]),
         count(line["rows_per_batch"]), si(line["bytes_per_batch"], "B"), count(line["rows"]), si(line["bytes"], "B")]
        for line in rows["tables"]
    ]  # fmt: skip
    whole = [tag("strong", "together"), "", "", "", si(rows["bytes_per_batch"], "B"), "", si(rows["bytes"], "B")]
    columns = [("embedding table", False), ("a row", True), ("lookups a batch", True), ("different rows", True),
               ("bytes", True), (f"rows in {rows['batches']} batches", True), ("bytes", True)]  # fmt: skip
    return table(columns, [*lines, whole], class_="sum")
