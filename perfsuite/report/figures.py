"""Numbers as people read them: three significant digits, SI prefixes, and a dash where a figure is not known."""

import math

UNKNOWN = "-"
_PREFIXES = {-9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P"}


def significant(value: float, digits: int = 3) -> str:
    """Three digits that count, no exponent: 0.00658, 14.2, 219000 (the digits before the point are all kept)."""
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    if round(abs(value), decimals) >= 10 ** (digits - decimals):  # 9.996 is 10.0, not 10.00
        decimals -= 1
    return f"{value:.{max(0, decimals)}f}"


def si(value: float | None, unit: str) -> str:
    """E.g. 14.2 s, 65.8 µs, 118 MB, 24.1 GB/s; a dash for None."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return f"0 {unit}"
    exponent = 3 * math.floor(math.log10(abs(value)) / 3)
    exponent = min(max(exponent, min(_PREFIXES)), max(_PREFIXES))
    if round(abs(value) / 10**exponent, 2 - math.floor(math.log10(abs(value)) - exponent)) >= 1000:
        exponent = min(exponent + 3, max(_PREFIXES))
    return f"{significant(value / 10**exponent)} {_PREFIXES[exponent]}{unit}"


def seconds(value: float | None) -> str:
    """Seconds with a prefix below one second, minutes or hours where seconds become hard to read."""
    if value is None:
        return UNKNOWN
    if abs(value) >= 7200:
        return f"{significant(value / 3600)} h"
    if abs(value) >= 600:
        return f"{significant(value / 60)} min"
    return si(value, "s")


def in_seconds(value: float | None, whole: float) -> str:
    """Seconds to add up by eye: every figure of a column has the decimals that suit the whole."""
    if value is None:
        return UNKNOWN
    decimals = max(0, 4 - math.floor(math.log10(whole))) if whole > 0 else 3
    return f"{value:.{min(decimals, 9)}f}"


def percent(share: float | None) -> str:
    """A share as a percentage: 31.2 %, 0.70 %."""
    if share is None:
        return UNKNOWN
    if share != 0 and abs(share) < 0.00005:
        return "< 0.01 %"
    return f"{100 * share:.{1 if abs(share) >= 0.01 else 2}f} %"


def count(value: float | None) -> str:
    """A whole number with thousands apart: 219,136."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def capacity(value: float | None) -> str:
    """Size of a memory level in the powers of two that makers use: 96 KiB, 33 MiB."""
    if value is None:
        return UNKNOWN
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{significant(value)} {unit}"
        value /= 1024
    raise AssertionError


def interval(pair: list[float] | tuple[float, float] | None, show: object) -> str:
    """Two ends of an interval or a range, each shown by `show`: "12.9 s to 15.6 s"."""
    return UNKNOWN if not pair else f"{show(pair[0])} to {show(pair[1])}"


def overhead(ratio: float) -> str:
    """What measuring cost, from a ratio of times: +1.3 %."""
    return f"{100 * (ratio - 1):+.1f} %"


def sign(target: dict) -> str:
    """The comparison that a metric must pass."""
    return "≥" if target["higher_is_better"] else "≤"
