"""Power, clocks and utilisation in the terminal, a line each."""

from typing import Any

from rich.text import Text

from perfsuite.report import mfu, names, power_words
from perfsuite.report.figures import si
from perfsuite.report.optional import on_gpu
from perfsuite.report.power_words import by_method, clock_range, clocks_of, lowered, per_watt, throttled, with_bound

_KERNELS, _NAME_WIDTH = 3, 32


def power(found: dict[str, Any]) -> Text:
    """Energy with its bound, mean power, energy above idle, work a joule."""
    if not found["available"]:
        return Text(f"not measured: {found['reason']}", style="dim")
    said = with_bound(found["energy_j"], found["bound_j"])
    said += f", {si(found['mean_w'], 'W')} on average ({by_method(found['method'])})"
    if found.get("above_idle_j") is not None:
        above = with_bound(found["above_idle_j"], found["above_idle_bound_j"])
        said += f"; {above} above the idle {si(found['idle_w'], 'W')}"
    elif found.get("above_idle_reason"):
        said += f"; above idle not known ({found['above_idle_reason']})"
    work = per_watt(found)
    return Text(f"{said}; {work}" if work else said)


def by_kernel(found: dict[str, Any]) -> Text:
    """The kernels that drew the most, and the time without one; or why energy was not split."""
    if not found["kernels_available"]:
        return Text(f"not split: {found['kernels_reason']}", style="dim")
    rows = power_words.by_kernel(found)
    said = [f"{names.kernel(row['name'], _NAME_WIDTH)} {_joules(row)}" for row in rows[:_KERNELS]]
    if len(rows) > _KERNELS:
        said.append(f"{len(rows) - _KERNELS} more {si(sum(row['energy_j'] for row in rows[_KERNELS:]), 'J')}")
    mixed = sum(not row["told_apart"] for row in rows)
    text = Text("; ".join([*said, f"no kernel running {_joules(found['no_kernel'])}"]))
    return text.append(f"; {mixed} of {len(rows)} not told apart from others", style="dim") if mixed else text


def _joules(row: dict[str, Any]) -> str:
    return power_words.of_kernel(row["energy_j"], row["bound_j"], row["told_apart"])


def monitor(found: dict[str, Any]) -> Text:
    """Means of GPM, a device after the other, or why there are none."""
    gpm = found.get("gpm") or {"available": False, "reason": "it was not recorded"}
    if not gpm["available"]:
        return Text(f"not known: {gpm['reason']}", style="dim")
    return Text("; ".join(f"{device['device']}: {power_words.gpm_means(device)}" for device in gpm["devices"]))


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
