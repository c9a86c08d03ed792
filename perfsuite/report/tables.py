"""The page's tables: phases, memory levels, ops, host functions, runs, checks, instruments."""

from typing import Any

from perfsuite.report import figures, op_times
from perfsuite.report.charts import ceilings_of, hue
from perfsuite.report.figures import count, percent, seconds, si
from perfsuite.report.markup import Cell, Markup, bar, join, number, paragraph, table, tag, unknown
from perfsuite.report.optional import on_gpu

NO_OPS = "this pass had no op recorder"


def phases(ledger: dict[str, Any]) -> Markup:
    """Seconds of every phase; with the unattributed rest they add up to the last line, the clock."""
    clock = ledger["clock_s"]
    rows = []
    for index, phase in enumerate(ledger["phases"]):
        colour = hue(index).replace("--", "var(--") + ")"
        name = join([tag("b", "", class_="key", style=f"background:{colour}"), phase["name"]])
        split = [number(phase[k], figures.in_seconds(phase[k], clock), NO_OPS) for k in ("ops_s", "host_s")]
        rows.append([name, *_share(phase["time_s"], clock, colour), *split, count(phase["calls"])])
    rest = ledger["unattributed_s"]
    key = tag("b", "", class_="key", style="background:var(--muted)")
    blank = ["", "", ""]
    rows.append([join([key, "unattributed"]), *_share(rest, clock, "var(--muted)"), *blank])
    rows.append([tag("strong", "clock"), *_share(clock, clock, None), *blank])
    columns = [("phase", False), ("time, s", True), ("share", True), ("", False), ("in ops, s", True),
               ("host, s", True), ("times", True)]  # fmt: skip
    return table(columns, rows, class_="sum")


def _share(time_s: float, clock_s: float, colour: str | None) -> list[object]:
    share = time_s / clock_s if clock_s else None
    return [figures.in_seconds(time_s, clock_s), percent(share), bar(share, colour) if colour else ""]


def memory_levels(levels: list[dict[str, Any]]) -> Markup:
    """What moved at each level, how fast, and how that stands to the measured bandwidth."""
    nothing = "no op was placed at this level"
    rows = [
        [
            level["name"],
            si(level["bytes"], "B"),
            seconds(level["time_s"]),
            number(level["achieved_bytes_per_s"], si(level["achieved_bytes_per_s"], "B/s"), nothing),
            number(level["bandwidth_bytes_per_s"], si(level["bandwidth_bytes_per_s"], "B/s"), "not measured"),
            number(level["share_of_ceiling"], percent(level["share_of_ceiling"]), nothing),
            bar(level["share_of_ceiling"], "var(--hue-2)"),
            level["source"],
        ]
        for level in levels
    ]
    columns = [("level", False), ("moved", True), ("in ops taking", True), ("achieved", True), ("ceiling", True),
               ("of ceiling", True), ("", False), ("source", False)]  # fmt: skip
    return table(columns, rows)


def energy(phases: list[dict[str, Any]]) -> Markup:
    """Joules of every phase, each with its bound."""
    nothing = "the readings do not tell"
    rows = []
    for phase in phases:
        bound = tag("small", f" ± {si(phase['bound_j'], 'J')}") if phase["bound_j"] is not None else ""
        joules = join([si(phase["energy_j"], "J"), bound])
        mean = number(phase["mean_w"], si(phase["mean_w"], "W"), nothing)
        rows.append([phase["name"], seconds(phase["time_s"]), number(phase["energy_j"], joules, nothing), mean])
    return table([("phase", False), ("time", True), ("energy", True), ("mean power", True)], rows)


OP_COLUMNS = [
    ("op", False), ("phase", False), ("module", False), ("self time", True), ("of clock", True), ("bound by", False),
    ("of ceiling", True), ("bytes/s", True), ("FLOP/s", True), ("calls", True), ("bytes", True), ("flops", True),
    ("joules", True), ("shape", False),
]  # fmt: skip


def suite_ops(ledger: dict[str, Any]) -> Markup:
    """The suite's own ops: what ran inside each, against the least that its op file declares."""
    rows = [
        [
            f"{op['op']}={op['impl']}",
            count(op["calls"]),
            seconds(op_times.cost_s(op)),
            percent(op_times.cost_s(op) / ledger["clock_s"]),
            number(op["moved_bytes"], si(op["moved_bytes"], "B"), "bytes of some ops inside are not known"),
            si(op["least_bytes"], "B"),
        ]
        for op in ledger["suite_ops"]
    ]
    columns = [("op of the suite", False), ("calls", True), ("time", True), ("share", True), ("moved", True),
               ("needs at least", True)]  # fmt: skip
    return table(columns, rows)


def ops(account: dict[str, Any]) -> Markup:
    """Every line of the account by op; the page sorts and filters it."""
    ledger = account["ledger"]
    rows = [_op(op, ledger["clock_s"], account) for op in ledger["ops"]]
    columns = OP_COLUMNS
    if on_gpu(account):  # before the others, as it is what the rest of the line is held against
        columns = [*columns[:3], ("GPU time", True), *columns[3:]]
        no_device = "no kernel recorder ran in this pass"
        rows = [[*row[:3], number(op["device_time_s"], seconds(op["device_time_s"]), no_device), *row[3:]]
                for op, row in zip(ledger["ops"], rows, strict=True)]  # fmt: skip
    return table(columns, rows, class_="ops long")


def _op(op: dict[str, Any], clock_s: float, account: dict[str, Any]) -> list[object]:
    hidden = "a compiled region hides its ops" if op["hidden"] else None
    no_bytes = hidden or "the bytes of this op are not known"
    no_flops = hidden or "no rule gives the flops of this op"
    no_rate = "it moves no bytes" if op["bytes"] == 0 else no_bytes
    no_flop_rate = "it computes nothing" if op["flops"] == 0 else no_flops
    ceilings, no_ceilings = ceilings_of(account)
    no_bound = hidden or (no_ceilings if not ceilings else None) or "bytes, flops or footprint are not known"
    elsewhere = "it ran on another thread, not on the clock"
    share = op_times.share(op, clock_s)
    name = join([op["name"], tag("small", f" {op['impl']}") if op["impl"] else ""])
    level = f" ({op['level']})" if op["bound"] == "memory" and op["level"] else ""
    power = account["power"]
    no_joules = "energy was not split by op" if power["available"] else power["reason"]
    return [
        Cell(name, op["name"]), _words(op["phase"], "in no phase"), _words(op["module"], "in no module"),
        number(op["self_time_s"], seconds(op["self_time_s"])), number(share, percent(share), elsewhere),
        Cell(op["bound"] + level, op["bound"]) if op["bound"] else Cell(unknown(no_bound), None),
        number(op["share_of_ceiling"], percent(op["share_of_ceiling"]), no_bound),
        number(op["gbytes_per_s"], _rate(op["gbytes_per_s"], "B/s"), no_rate),
        number(op["gflops_per_s"], _rate(op["gflops_per_s"], "FLOP/s"), no_flop_rate),
        number(op["calls"], count(op["calls"])), number(op["bytes"], si(op["bytes"], "B"), no_bytes),
        number(op["flops"], si(op["flops"], "FLOP"), no_flops),
        number(op["joules"], si(op["joules"], "J"), no_joules),
        Cell(tag("code", op["shape"]), op["shape"]) if op["shape"] else Cell(unknown("no shape was sampled"), None),
    ]  # fmt: skip


def _words(value: str | None, reason: str) -> Cell:
    return Cell(value, value) if value else Cell(unknown(reason), None)


def _rate(giga: float | None, unit: str) -> str:
    return si(None if giga is None else giga * 1e9, unit)


def host(functions: list[dict[str, Any]]) -> Markup:
    """Where Python spent its time, by phase."""
    rows = [
        [f["phase"], f["function"], f"{f['file']}:{f['line']}", seconds(f["time_s"]), percent(f["share"]),
         bar(f["share"], "var(--hue-4)")]
        for f in functions
    ]  # fmt: skip
    columns = [("phase", False), ("function", False), ("where", False), ("time", True), ("share", True), ("", False)]
    return table(columns, rows)


def runs(score: dict[str, Any]) -> Markup:
    """The scored runs, one a line."""
    rows = []
    for run in score["runs"]:
        why = run["stop_reason"] or "the run failed"
        outcome = tag("span", "reached" if run["reached"] else f"not reached: {why}",
                      class_="yes" if run["reached"] else "no")  # fmt: skip
        init = ", ".join(f"{k.removesuffix('_s')} {seconds(v)}" for k, v in run["init"].items() if v is not None)
        rows.append([
            run["seed"], outcome, number(run["time_s"], seconds(run["time_s"]), why),
            number(run["samples"], count(run["samples"]), why),
            number(run["time_per_sample_s"], seconds(run["time_per_sample_s"]), why),
            number(run["quality"], f"{run['quality']:.4g}" if run["quality"] is not None else "", why),
            number(run["init_s"], seconds(run["init_s"]), why), init, run["log"] or unknown("no log was written"),
        ])  # fmt: skip
    columns = [("seed", False), ("target", False), ("time", True), ("samples", True), ("per sample", True),
               ("quality", True), ("init, untimed", True), ("of which", False), ("log", False)]  # fmt: skip
    return table(columns, rows)


def checks(found: list[dict[str, Any]]) -> Markup:
    """Each check in words; those that failed come first."""
    if not found:
        return paragraph("No check was made on this record.", "absent")
    rows = [[_yes_no(check["ok"], "holds", "fails"), check["name"], check["detail"]]
            for check in sorted(found, key=lambda check: check["ok"])]  # fmt: skip
    return table([("", False), ("check", False), ("found", False)], rows)


def instruments(found: list[dict[str, Any]]) -> Markup:
    """What observed the pass, and why the rest could not."""
    if not found:
        return paragraph("No instrument is named in this record.", "absent")
    rows = [[_yes_no(i["available"], "used", "absent"), i["name"], i["reason"] or ""] for i in found]
    return table([("", False), ("instrument", False), ("reason", False)], rows)


def _yes_no(yes: bool, word: str, otherwise: str) -> Markup:
    return tag("span", word if yes else otherwise, class_="yes" if yes else "no")


def overhead(measured: dict[str, Any]) -> Markup:
    """What each group of instruments cost, with its interval."""
    named = {"all": measured, **(measured.get("parts") or {})}
    rows = [
        [name.replace("_", " "), tag("strong", figures.overhead(part["ratio"])),
         figures.interval(part["ci95"], figures.overhead), count(part["pairs"])]
        for name, part in named.items()
        if part
    ]  # fmt: skip
    columns = [("switched", False), ("adds", True), ("95 % interval", True), ("pairs", True)]
    return table(columns, rows)
