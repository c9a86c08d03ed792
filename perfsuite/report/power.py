"""The page's section on power and energy: over time, gross and above idle, by phase and kernel, clocks, throttling."""

from typing import Any

from perfsuite.report import kernels, strips, tables
from perfsuite.report.charts import Chart
from perfsuite.report.figures import percent, seconds, si
from perfsuite.report.markup import Markup, bar, draw, folded, join, number, paragraph, table, tag, tile, tiles
from perfsuite.report.optional import block, on_gpu
from perfsuite.report.power_words import clock_range, clocks_of, per_watt, throttled, with_bound

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
    said = f"Energy by {found['method']}." if found["method"] else ""
    if found.get("above_idle_j") is not None:
        said += f" Idle power is {found['idle_source']}."
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
    found = account["power"]
    rows = [k for k in block(account, "ledger").get("kernels", []) if k["joules"] is not None]
    if not found.get("kernels_available") or not rows:
        reason = found.get("kernels_reason") or "no kernel was recorded"
        return [paragraph(f"Energy was not split by kernel: {reason}.", "absent")]
    lines = sorted(kernels.grouped(rows), key=lambda row: -row["joules"])
    table_rows = []
    for row in lines[:TOP_KERNELS]:
        share = row["joules"] / found["energy_j"] if found["energy_j"] else None
        mean = row["joules"] / row["share_s"] if row["share_s"] else None
        table_rows.append([
            kernels.name(row["name"], row["copy"], width=40), kernels.launched_by(row) or "-",
            row["phase"] or "in no phase", seconds(row["share_s"]), with_bound(row["joules"], row["bound_j"]),
            percent(share), bar(share, "var(--hue-2)"), number(mean, si(mean, "W"), "it took no time"),
        ])  # fmt: skip
    columns = [("kernel", False), ("op", False), ("phase", False), ("time", True), ("energy", True),
               ("of the run", True), ("", False), ("mean power", True)]  # fmt: skip
    rest = len(lines) - len(table_rows)
    more = f" The {TOP_KERNELS} largest; the other {rest} are in the table of kernels." if rest > 0 else ""
    return [
        paragraph(f"By kernel, from the power sampled while each was running.{more}"),
        table(columns, table_rows),
    ]


_GPM_WORDS = {"dram": "DRAM", "sm": "SM", "pcie": "PCIe", "nvlink": "NVLink", "tx": "sent", "rx": "received"}


def _gpm(found: dict[str, Any]) -> list[Markup]:
    """Means of GPM by device. Its columns are named "..._share" or "..._bytes_per_s"."""
    gpm = found.get("gpm") or {"available": False, "reason": "it was not recorded"}
    if not gpm["available"]:
        return [paragraph(f"The driver's own monitor (GPM) says nothing: {gpm['reason']}.", "absent")]
    parts = []
    for device in gpm["devices"]:
        means = {key: value for key, value in device.items() if isinstance(value, float)}
        said = ", ".join(_gpm_mean(key, value) for key, value in means.items()) or f"nothing: {device['reason']}"
        parts.append(paragraph(f"Means of the driver's own monitor (GPM), {device['device']}: {said}."))
    return parts


def _gpm_mean(key: str, value: float) -> str:
    words = key.removesuffix("_share").removesuffix("_bytes_per_s").split("_")
    name = " ".join(_GPM_WORDS.get(word, word) for word in words)
    return f"{name} {percent(value) if key.endswith('_share') else si(value, 'B/s')}"
