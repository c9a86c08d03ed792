"""One self-contained page of an account: it opens anywhere, without a network, in light and dark.

Sections come in the order of a reader's questions: how long and how sure, what limits it, did every run converge, where
did the time go, how near to the machine's limits, what did it cost to measure; then the raw runs and the conditions.
What is not there is a sentence that says why.
"""

from typing import Any

from perfsuite.report import charts, figures, tables
from perfsuite.report.conditions import conditions
from perfsuite.report.figures import count, seconds, si
from perfsuite.report.icicle import icicle
from perfsuite.report.markup import Markup, join, paragraph, section, tag, text
from perfsuite.report.page import chart_place, page


def render(account: dict[str, Any]) -> str:
    """The page as one HTML document."""
    drawn: dict[str, charts.Chart] = {}
    body = join(_sections(account, drawn), "\n")
    title = text(" ".join(filter(None, (account["workload"], account["scale"], account["id"]))))
    return page(title, body, drawn)


def _sections(account: dict[str, Any], drawn: dict[str, charts.Chart]) -> list[Markup]:
    ledger = account["ledger"]
    return [
        _answer(account),
        section("convergence", "Convergence", *_convergence(account, drawn)),
        section("time", "Where the time went", *_time(ledger, drawn)),
        section("limits", "How near to the machine's limits", *_roofline(account, drawn)),
        section("memory", "Memory", *_memory(account)),
        section("series", "Over time", *_series(account, drawn)),
        section("overhead", "What measuring cost", *_overhead(account)),
        section("ops", "All ops", *_ops(account)),
        section("host", "Python functions", *_host(account["host"])),
        section("runs", "Runs", *_runs(account)),
        section("checks", "Checks", tables.checks(ledger["checks"] if ledger else [])),
        section("instruments", "Instruments", tables.instruments(account["instruments"])),
        section("conditions", "Conditions", conditions(account)),
        section("notes", "Notes", *_notes(account)),
    ]


def _answer(account: dict[str, Any]) -> Markup:
    score = account["score"]
    scored = bool(score) and score.get("time_to_train_s") is not None
    what = " ".join(filter(None, (account["workload"], account["scale"], "on", account["device"])))
    parts: list[Markup] = [paragraph(join([tag("strong", what), " ", tag("span", account["id"])]), "kicker")]
    missed = bool(account["target"]) and not scored
    parts.append(tag("h1", account["headline"]["answer"], class_="missed" if missed else None))
    reason = account["score_reason"]
    if not scored and reason and reason not in account["headline"]["answer"]:
        parts.append(paragraph(f"There is no time-to-train: {reason}.", "absent"))
    if account["headline"].get("limits"):
        parts.append(
            paragraph(join([tag("span", "Limited by ", class_="quiet"), account["headline"]["limits"]]), "limits")
        )
    parts.append(tag("div", join(_facts(account, score if scored else None)), class_="tiles"))
    failed = [check for check in (account["ledger"] or {}).get("checks", []) if not check["ok"]]
    if failed:
        said = "; ".join(f"{check['name']}: {check['detail']}" for check in failed)
        parts.append(paragraph(join([tag("strong", f"{len(failed)} failed: "), said]), "warning"))
    return tag("header", join(parts))


def _facts(account: dict[str, Any], score: dict[str, Any] | None) -> list[Markup]:
    tiles = []
    if score:
        between = score.get("ci95_reason") or "no interval"
        if score["ci95_s"]:
            between = f"{figures.interval(score['ci95_s'], seconds)} (95 %)"
        spread = figures.interval(score["samples_to_target_range"], count)
        pace = figures.interval(score["time_per_sample_range_s"], seconds)
        tiles += [
            _tile("time to train", seconds(score["time_to_train_s"]), between, "lead"),
            _tile("= samples to target", count(score["samples_to_target"]), f"runs {spread}"),
            _tile("x time per sample", seconds(score["time_per_sample_s"]), f"runs {pace}"),
        ]
    if account["score"]:
        reached = f"{account['score']['num_reached']} of {account['score']['num_runs']}"
        tiles.append(_tile("runs that reached it", reached, "each with a seed of its own"))
    power, overhead = account["power"], account["overhead"]
    if power["available"]:
        bound = f"± {si(power['bound_j'], 'J')}, " if power["bound_j"] is not None else ""
        tiles.append(_tile("energy", si(power["energy_j"], "J"), f"{bound}{si(power['mean_w'], 'W')} on average"))
    if overhead:
        low, high = map(figures.overhead, overhead["ci95"])
        tiles.append(_tile("own cost", figures.overhead(overhead["ratio"]), f"{low} to {high} (95 %)"))
    return tiles


def _tile(label: str, value: str, under: str, class_: str = "") -> Markup:
    content = [tag("span", label), tag("b", value), tag("small", under)]
    return tag("div", join(content), class_=f"tile {class_}".strip())


def _convergence(account: dict[str, Any], drawn: dict[str, charts.Chart]) -> list[Markup]:
    chart = charts.convergence(account)
    if chart is None:
        reason = account["score_reason"] or "no run was evaluated"
        return [paragraph(f"There is no convergence curve: {reason}.", "absent")]
    said = "Every evaluation of every run; the last one of each is the larger mark."
    return [paragraph(said), chart_place("convergence", chart, drawn, "quality of every run against the target")]


def _time(ledger: dict[str, Any] | None, drawn: dict[str, charts.Chart]) -> list[Markup]:
    chart, notes = icicle(ledger)
    parts = [paragraph(note, "absent") for note in notes]
    if ledger and ledger["phases"]:
        parts += [paragraph(_which_pass(ledger)), tables.phases(ledger)]
    if chart:
        said = (
            "The whole clock, from the run to its phases to what is in them; the area of a tile is its time. "
            "Click a tile to go in, the first column to come out."
        )
        parts += [paragraph(said), chart_place("icicle", chart, drawn, "time of the run by phase, module and op")]
    return parts


def _which_pass(ledger: dict[str, Any]) -> str:
    seed = f" of seed {ledger['seed']}" if ledger["seed"] is not None else ""
    steps = f"{count(ledger['num_steps'])} steps"
    window = ledger["window"]
    if window:
        note = f" ({window['note']})" if window.get("note") else ""
        steps = f"steps {window['first_step']} to {window['last_step']} only{note}"
    return f"The {ledger['pass_kind']} pass{seed}, {steps}: phases and the unattributed rest add up to the clock."


def _roofline(account: dict[str, Any], drawn: dict[str, charts.Chart]) -> list[Markup]:
    chart, said = charts.roofline(account)
    if chart is None:
        return [paragraph(said, "absent")]
    return [paragraph(said), chart_place("roofline", chart, drawn, "ops under the roofs of this machine")]


def _memory(account: dict[str, Any]) -> list[Markup]:
    memory = account["memory"]
    if not memory:
        return [paragraph("Nothing is known of the memory: no pass of this record has finished.", "absent")]
    faults = memory["page_faults"]
    tiles = []
    if memory["peak_bytes"] is not None:
        tiles.append(_tile("allocator peak", si(memory["peak_bytes"], "B"), "alive at once"))
    if memory["churn_bytes"] is not None:
        tiles.append(_tile("churn", si(memory["churn_bytes"], "B"), f"{count(memory['allocations'])} allocations"))
    if memory["rss_peak_bytes"] is not None:
        tiles.append(_tile("resident set", si(memory["rss_peak_bytes"], "B"), "at its largest"))
    if faults:
        tiles.append(_tile("page faults", count(faults["minor"]), f"minor; {count(faults['major'])} major"))
    parts = [tag("div", join(tiles), class_="tiles")] if tiles else []
    if memory["peak_bytes"] is None:
        parts.append(paragraph(f"The allocator's peak is not known: {memory['peak_reason']}.", "absent"))
    if memory["levels"]:
        parts.append(tables.memory_levels(memory["levels"]))
    else:
        reason = account["machine"]["ceilings_reason"] or "no op was recorded in this pass"
        parts.append(paragraph(f"No op is placed at a memory level: {reason}.", "absent"))
    return parts


def _series(account: dict[str, Any], drawn: dict[str, charts.Chart]) -> list[Markup]:
    chart, power = charts.series(account), account["power"]
    parts = []
    if chart:
        parts.append(chart_place("series", chart, drawn, "what the sampler saw over time"))
    else:
        parts.append(paragraph("There is no series: the sampler recorded nothing in this pass.", "absent"))
    if not power["available"]:
        parts.append(paragraph(f"There is no power figure: {power['reason']}.", "absent"))
    elif power["method"]:
        bound = f" ± {si(power['bound_j'], 'J')}" if power["bound_j"] is not None else ""
        parts.append(paragraph(f"Energy {si(power['energy_j'], 'J')}{bound}: {power['method']}."))
    if power.get("phases"):
        parts.append(tables.energy(power["phases"]))
    absent = account["series"]["absent"] if account["series"] else {}
    if absent:
        rows = [[name.replace("_", " "), reason] for name, reason in absent.items()]
        listed = tables.table([("", False), ("reason", False)], rows)
        parts.append(_folded(f"Not recorded, and why ({len(absent)})", listed))
    return parts


def _folded(title: str, content: Markup) -> Markup:
    return tag("details", join([tag("summary", title), content]))


def _overhead(account: dict[str, Any]) -> list[Markup]:
    if not account["overhead"]:
        return [paragraph("It was not measured in this record: there is no ledger pass with on/off blocks.", "absent")]
    said = "Steps after the clock stopped, with the instruments alternately on and off: the ratio of medians."
    if account["overhead"].get("method"):
        said = account["overhead"]["method"][0].upper() + account["overhead"]["method"][1:] + "."
    return [paragraph(said), tables.overhead(account["overhead"])]


def _ops(account: dict[str, Any]) -> list[Markup]:
    ledger = account["ledger"]
    if not ledger or not ledger["ops"]:
        reasons = [i["reason"] for i in account["instruments"] if "op" in i["name"] and not i["available"]]
        return [paragraph(f"No op was recorded: {reasons[0] if reasons else 'no pass had the op recorder'}.", "absent")]
    field = tag("input", "", type="search", id="op-filter", placeholder="filter by op, module, phase, shape or bound",
                aria_label="filter ops")  # fmt: skip
    shown = tag("output", f"{len(ledger['ops'])} lines", id="op-count")
    suite = [tables.suite_ops(ledger)] if ledger.get("suite_ops") else []
    return [*suite, tag("div", join([field, shown]), class_="filter"), tables.ops(account)]


def _host(host: dict[str, Any]) -> list[Markup]:
    if not host["available"]:
        return [paragraph(f"There are no Python stacks: {host['reason']}.", "absent")]
    return [paragraph("Sampled stacks of a pass of its own, by phase."), tables.host(host["functions"])]


def _runs(account: dict[str, Any]) -> list[Markup]:
    if not account["score"]:
        return [paragraph(f"There are no scored runs: {account['score_reason']}.", "absent")]
    return [tables.runs(account["score"])]


def _notes(account: dict[str, Any]) -> list[Markup]:
    notes = [*(account["ledger"] or {}).get("notes", []), *account["notes"]]
    items = join(tag("li", note) for note in notes)
    parts = [tag("ul", items)] if notes else [paragraph("None.")]
    if account["score"] and account["score"].get("footnote"):
        parts.append(paragraph(account["score"]["footnote"], "footnote"))
    return parts
