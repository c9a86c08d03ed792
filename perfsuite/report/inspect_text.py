"""The table of `perfsuite ops inspect`."""

from typing import Any

from rich.table import Table
from rich.text import Text


def table(rows: list[dict[str, Any]]) -> Table:
    """A row for each kernel and compute capability. What is not known shows as ?, its reason stands below the table."""
    title = ", ".join(dict.fromkeys(f"{row['op']}={row['impl']}" for row in rows)) or "no GPU kernels"
    reasons: dict[str, dict[str, None]] = {}
    for row in rows:
        for field, why in row["unknown"].items():
            reasons.setdefault(why, {})[field] = None
    caption = Text("\n".join(f"? {', '.join(fields)}: {why}" for why, fields in reasons.items()))
    out = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=None, pad_edge=False)
    for name in ("kernel", "case", "for"):
        out.add_column(name)
    for name in ("registers", "spilled B", "shared B", "warps"):
        out.add_column(name, justify="right")
    for name in ("occupancy", "loads of B", "stores of B", "matrix, tiles"):
        out.add_column(name)
    for row in rows:
        known = row["spill_store_bytes"] is not None
        spilled = row["spill_store_bytes"] + row["spill_load_bytes"] if known else None
        out.add_row(
            Text(_word(row["kernel"])), Text(_word(row["case"])), f"sm_{row['arch']}", _word(row["registers"]),
            Text(_word(spilled), style="red" if spilled else ""), _word(row["shared_bytes"]), _word(row["num_warps"]),
            _occupancy(row["occupancy"]), _widths(row["load_widths"]), _widths(row["store_widths"]),
            _named(row["matrix_instructions"], row["bulk_copies"]),
        )  # fmt: skip
    return out


def _word(value: Any) -> str:
    return "?" if value is None else str(value)


def _occupancy(value: dict[str, Any] | None) -> str:
    return "?" if value is None else f"{value['blocks']} blocks, {value['warps_share']:.0%} ({value['limited_by']})"


def _widths(value: dict[int, int] | None) -> str:
    """ "16: 8, 2: 1", the widest first."""
    if value is None:
        return "?"
    return ", ".join(f"{width}: {count}" for width, count in sorted(value.items(), reverse=True)) or "none"


def _named(*values: dict[str, int] | None) -> str:
    if any(value is None for value in values):
        return "?"
    return ", ".join(f"{name}: {count}" for value in values for name, count in (value or {}).items()) or "none"
