"""Small pieces of HTML. Whatever is not already markup is escaped here, in one place."""

import html
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from perfsuite.report.figures import UNKNOWN


class Markup(str):
    """A string that is HTML already. Everything else is text."""

    __slots__ = ()


def text(value: object) -> Markup:
    """HTML of a value: markup as it is, anything else escaped."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def join(parts: Iterable[object], between: str = "") -> Markup:
    """All parts, escaped where they are text."""
    return Markup(between.join(text(part) for part in parts))


def tag(name: str, content: object = "", **attributes: Any) -> Markup:
    """An element; class_ stands for class and data_x for data-x; an attribute that is None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{text(content)}</{name}>")


def unknown(reason: str | None) -> Markup:
    """A dash that says why there is no figure when it is pointed at."""
    return tag("span", UNKNOWN, class_="unknown", title=reason or "not known", tabindex="0")


class Cell(NamedTuple):
    """A cell of a table: what it shows, what it is sorted by, and why it shows nothing."""

    shown: object
    key: float | str | None = None
    number: bool = False


def number(value: float | None, shown: str, reason: str | None = None) -> Cell:
    """A figure, or a dash with the reason."""
    return Cell(unknown(reason) if value is None else shown, value, True)


def table(columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[object]], class_: str | None = None,
          caption: str | None = None) -> Markup:  # fmt: skip
    """A table in a box of its own that scrolls sideways. columns: (heading, whether it holds numbers)."""
    head = join(tag("th", name, scope="col", class_="n" if is_number else None) for name, is_number in columns)
    body = join(
        tag("tr", join(_cell(value, is_number) for value, (_, is_number) in zip(row, columns, strict=True)))
        for row in rows
    )
    label = tag("caption", caption) if caption else Markup("")
    inner = join([label, tag("thead", tag("tr", head)), tag("tbody", body)])
    return tag("div", tag("table", inner, class_=class_), class_="scroll", tabindex="0", role="region")


def _cell(value: object, is_number: bool) -> Markup:
    if isinstance(value, Cell):
        return tag("td", value.shown, class_="n" if value.number or is_number else None,
                   data_v="" if value.key is None else value.key)  # fmt: skip
    return tag("td", value, class_="n" if is_number else None)


def section(name: str, title: str, *content: object) -> Markup:
    """A part of the page with its heading."""
    return tag("section", join([tag("h2", title), *content]), id=name)


def paragraph(content: object, class_: str | None = None) -> Markup:
    """A paragraph."""
    return tag("p", content, class_=class_)


def bar(share: float | None, colour: str = "var(--hue-1)") -> Markup:
    """A share as a bar; nothing where it is not known."""
    if share is None:
        return Markup("")
    return tag("span", tag("i", style=f"width:{100 * min(max(share, 0), 1):.1f}%;background:{colour}"), class_="bar")


def tile(label: str, value: str, under: str, class_: str = "") -> Markup:
    """One figure with what it is above and what it is made of below."""
    content = [tag("span", label), tag("b", value), tag("small", under)]
    return tag("div", join(content), class_=f"tile {class_}".strip())


def tiles(found: Sequence[Markup]) -> list[Markup]:
    """A row of tiles; nothing for none."""
    return [tag("div", join(found), class_="tiles")] if found else []


def folded(title: str, content: Markup) -> Markup:
    """Content that a click on its title opens."""
    return tag("details", join([tag("summary", title), content]))


def draw(name: str, chart: dict[str, Any], drawn: dict[str, Any], label: str) -> Markup:
    """The place where the page's script draws the chart, and buttons where it has several views.

    The chart itself is put into `drawn` under its name.
    """
    drawn[name] = chart
    views = list(chart["views"])
    buttons = [
        tag("button", view, type="button", data_view=view, aria_pressed=str(view == views[0]).lower()) for view in views
    ]
    switch = tag("div", join(buttons), class_="switch", data_for=name) if len(views) > 1 else ""
    place = tag("div", "", id=f"chart-{name}", class_="chart", data_chart=name, role="img", aria_label=label,
                style=f"height:{chart['height']}px")  # fmt: skip
    return join([switch, place])


def long_table(name: str, rows: int, what: str, content: Markup) -> Markup:
    """A table that the page's script sorts and filters, with its filter above. `what` it can be filtered by."""
    field = tag("input", "", type="search", id=f"{name}-filter", placeholder=f"filter by {what}",
                aria_label=f"filter {name}")  # fmt: skip
    shown = tag("output", f"{rows} lines", id=f"{name}-count")
    return join([tag("div", join([field, shown]), class_="filter", data_for=f"table.{name}"), content])
