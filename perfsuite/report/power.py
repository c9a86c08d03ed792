"""The page's section on power and energy: over time, gross and above idle, by phase and kernel, clocks, throttling."""

from typing import Any

from perfsuite.report import kernels, strips, tables
from perfsuite.report.charts import Chart
from perfsuite.report.figures import percent, seconds, si
from perfsuite.report.markup import Markup, bar, draw, folded, join, number, paragraph, table, tag, tile, tiles
from perfsuite.report.optional import on_gpu
from perfsuite.report.power_words import (
    by_kernel,
    by_method,
    clock_range,
    clocks_of,
    gpm_means,
    of_kernel,
    per_watt,
    throttled,
)

TOP_KERNELS = 15


def power(account: dict[str, Any], drawn: dict[str, Chart]) -> list[Markup]:
    """The section; sentences stand for what there is not."""
    found = account["power"]
    parts = clocks(found) if on_gpu(account) else []
    shown = strips.sampled(account, lambda unit: unit in strips.SENSORS)
    chart = []
    if shown:
        chart = [draw("power", strips.chart(account["series"]["t_s"], shown), drawn, "power and clocks over time")]
    if not found["available"]:
        return [paragraph(f"There is no power figure: {found['reason']}.", "absent"), *parts, *chart]
    parts = [*tiles(_tiles(found)), *_method(found), *parts, *chart]
    if found.get("phases"):
        parts.append(tables.energy(found["phases"]))
    if on_gpu(account):
        parts += _kernels(account) + _gpm(found)
    return parts


def _tiles(found: dict[str, Any]) -> list[Markup]:
    bound = f"± {si(found['bound_j'], 'J')}" if found["bound_j"] is not None else "its bound is not known"
    shown = [tile("energy, gross", si(found["energy_j"], "J"), bound)]
    if found.get("above_idle_j") is not None:
        bound = f"± {si(found['above_idle_bound_j'], 'J')}, " if found["above_idle_bound_j"] is not None else ""
        idle = f"{bound}idle is {si(found['idle_w'], 'W')}"
        shown.append(tile("energy above idle", si(found["above_idle_j"], "J"), idle))
    shown.append(tile("mean power", si(found["mean_w"], "W"), "over the clock"))
    if per_watt(found):
        shown.append(tile("work a joule", *_work(found["perf_per_watt"])))
    return shown


def _work(found: dict[str, Any]) -> tuple[str, str]:
    flops = si(found["flops_per_j"], "FLOP/J") if found["flops_per_j"] is not None else ""
    if found["samples_per_j"] is None:
        return flops, "gross"
    return si(found["samples_per_j"], "samples"), f"{flops}, gross".lstrip(", ")


def _method(found: dict[str, Any]) -> list[Markup]:
    said = f"Measured by {by_method(found['method'])}." if found["method"] else ""
    if found.get("above_idle_j") is not None:
        said += f" Idle is a GPU with nothing to do before the clock starts, by {by_method(found['idle_source'])}."
    elif found.get("above_idle_reason"):
        said += f" Energy above idle is not known: {found['above_idle_reason']}."
    why = (found.get("perf_per_watt") or {}).get("reason")
    if why:
        said += f" Work a joule is not known in full: {why}."
    notes = [tag("li", note) for note in found.get("notes") or []]
    about = [folded(f"About the sensors ({len(notes)})", tag("ul", join(notes)))] if notes else []
    return [*([paragraph(said.strip())] if said else []), *about]


def clocks(found: dict[str, Any]) -> list[Markup]:
    """Whether the GPU held its clocks back, and why."""
    clocks = clocks_of(found)
    if not clocks["available"]:
        return [paragraph(f"Clocks and throttling are not known: {clocks['reason']}.", "absent")]
    loud, range_ = throttled(found), clock_range(found)
    aside = f"SM clock {range_}." if range_ else "The SM clock was not read."
    rows = [[r["name"], seconds(r["time_s"]), percent(r["share"]), bar(r["share"], "var(--hue-5)")]
            for r in clocks["reasons"]]  # fmt: skip
    columns = [("clocks lowered by", False), ("time", True), ("share", True), ("", False)]
    reasons = [table(columns, rows)] if rows else []
    if loud:
        said = join([tag("strong", "Throttled: "), f"{loud}. {aside} Its times are not those of the full clock."])
        return [paragraph(said, "warning"), *reasons]
    verdict = {False: "Not throttled.", None: "Whether the run was throttled is not known."}[clocks["throttled"]]
    return [paragraph(f"{verdict} {aside}"), *reasons]


def _kernels(account: dict[str, Any]) -> list[Markup]:
    """The energy of the GPU whose kernels were recorded, by kernel; with that of the time without one it adds up."""
    found = account["power"]
    if not found["kernels_available"]:
        return [paragraph(f"Energy was not split by kernel: {found['kernels_reason']}.", "absent")]
    rows, rest = by_kernel(found), found["no_kernel"]
    total_j = sum(row["energy_j"] for row in found["kernels"]) + rest["energy_j"]
    blank = [""] * 4  # of rows that stand for several
    shown = [_kernel(kernels.name(row["name"], width=40), row, total_j) for row in rows[:TOP_KERNELS]]
    if len(rows) > TOP_KERNELS:
        shown.append([f"{len(rows) - TOP_KERNELS} more", *_summed(rows[TOP_KERNELS:], total_j), *blank])
    shown.append(_kernel("no kernel running", rest, total_j))
    shown.append(["the GPU", *_summed([*rows, rest], total_j), *blank])
    columns = [("kernel, copy or fill", False), ("time", True), ("energy", True), ("of the GPU's", True),
               ("mean power", True), ("told apart", False), ("at least", True), ("at most", True)]  # fmt: skip
    said = (
        f"By kernel, from what ran in each of {found['kernels_windows']} short windows of the sensor. The model leaves "
        f"{percent(found['kernels_unexplained_share'])} of a window's energy unexplained. Kernels that take turns in "
        "the same proportion all the time are not told apart (~): each may have drawn anything between its limits."
    )
    notes = [tag("li", note) for note in found["kernels_notes"]]
    about = [folded(f"About the split ({len(notes)})", tag("ul", join(notes)))] if notes else []
    return [paragraph(said), table(columns, shown, class_="sum"), *about]


def _kernel(name: object, row: dict[str, Any], total_j: float) -> list[object]:
    share = row["energy_j"] / total_j if total_j else None
    return [
        name, seconds(row["time_s"]), of_kernel(row["energy_j"], row["bound_j"], row["told_apart"]), percent(share),
        number(row["mean_w"], si(row["mean_w"], "W"), "it took no time"),
        "yes" if row["told_apart"] else "no", si(row["low_j"], "J"), si(row["high_j"], "J"),
    ]  # fmt: skip


def _summed(rows: list[dict[str, Any]], total_j: float) -> list[object]:
    joules = sum(row["energy_j"] for row in rows)
    share = joules / total_j if total_j else None
    return [seconds(sum(row["time_s"] for row in rows)), si(joules, "J"), percent(share)]


def _gpm(found: dict[str, Any]) -> list[Markup]:
    """Means of GPM by device."""
    gpm = found.get("gpm") or {"available": False, "reason": "it was not recorded"}
    if not gpm["available"]:
        return [paragraph(f"The driver's own monitor (GPM) says nothing: {gpm['reason']}.", "absent")]
    said = "Means of the driver's own monitor (GPM)"
    return [paragraph(f"{said}, {device['device']}: {gpm_means(device)}.") for device in gpm["devices"]]
