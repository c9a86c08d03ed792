"""Power, clocks and utilisation in the terminal, a line each."""

from typing import Any

from rich.text import Text

from perfsuite.report import mfu
from perfsuite.report.figures import si
from perfsuite.report.optional import on_gpu
from perfsuite.report.power_words import clock_range, clocks_of, lowered, per_watt, throttled, with_bound


def power(found: dict[str, Any]) -> Text:
    """Energy with its bound, mean power, energy above idle, work a joule."""
    if not found["available"]:
        return Text(f"not measured: {found['reason']}", style="dim")
    said = with_bound(found["energy_j"], found["bound_j"])
    said += f", {si(found['mean_w'], 'W')} on average ({found['method']})"
    if found.get("above_idle_j") is not None:
        above = with_bound(found["above_idle_j"], found["above_idle_bound_j"])
        said += f"; {above} above the idle {si(found['idle_w'], 'W')}"
    work = per_watt(found)
    return Text(f"{said}; {work}" if work else said)


def clocks(found: dict[str, Any]) -> Text:
    """The SM clock, and loudly where it was held back."""
    clocks = clocks_of(found)
    if not clocks["available"]:
        return Text(f"not known: {clocks['reason']}", style="dim")
    loud, range_ = throttled(found), clock_range(found)
    aside = "; ".join(filter(None, (f"SM {range_}" if range_ else "the SM clock was not read", lowered(found))))
    if loud:
        return Text(f"THROTTLED: {loud}; {aside}", style="bold red")
    verdict = {False: "not throttled", None: "throttling not known"}[clocks["throttled"]]
    return Text(f"{verdict}; {aside}")


def utilisation(account: dict[str, Any]) -> Text:
    """MFU, on a GPU with its definition, or why there is none."""
    figures = mfu.figures(account)
    if not figures:
        return Text(f"not known: {mfu.reason(account)}", style="dim")
    text = Text(f"{figures[0]} ({figures[1]})")
    return text.append(f": {mfu.definition(account)}", style="dim") if on_gpu(account) else text
