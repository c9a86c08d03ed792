"""One self-contained page of an account: it opens anywhere, without a network, in light and dark.

Sections come in the order of a reader's questions: how long and how sure, what limits it, did every run converge, where
did the time go, how near to the machine's limits, what did it cost to measure; then the raw runs and the conditions.
What is not there is a sentence that says why.
"""

from typing import Any

from perfsuite.report import character, charts, figures, gpu, mfu, reference, tables, working_set
from perfsuite.report.conditions import conditions
from perfsuite.report.figures import count, seconds, si
from perfsuite.report.gpu_memory import categories
from perfsuite.report.icicle import icicle
from perfsuite.report.markup import (
    Markup,
    draw,
    folded,
    join,
    long_table,
    paragraph,
    section,
    tag,
    text,
    tile,
    tiles,
)
from perfsuite.report.optional import block, on_gpu
from perfsuite.report.page import page
from perfsuite.report.power import power
from perfsuite.report.power_words import throttled
from perfsuite.report.strips import series


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
        section("time", "Where the time went", *_time(account, drawn)),
        section("character", "Memory-system character", *character.section_parts(account)),
        section("limits", "How near to the machine's limits", *_limits(account, drawn)),
        section("memory", "Memory", *_memory(account)),
        *gpu.sections(account, drawn),
        section("power", "Power and energy", *power(account, drawn)),
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
    parts += tiles(_facts(account, score if scored else None))
    loud = throttled(account["power"])
    if loud:
        parts.append(paragraph(join([tag("strong", "Throttled: "), f"{loud}."]), "warning"))
    failed = [check for check in (account["ledger"] or {}).get("checks", []) if not check["ok"]]
    if failed:
        said = "; ".join(f"{check['name']}: {check['detail']}" for check in failed)
        parts.append(paragraph(join([tag("strong", f"{len(failed)} failed: "), said]), "warning"))
    return tag("header", join(parts))


def _facts(account: dict[str, Any], score: dict[str, Any] | None) -> list[Markup]:
    found = []
    if score:
        between = score.get("ci95_reason") or "no interval"
        if score["ci95_s"]:
            between = f"{figures.interval(score['ci95_s'], seconds)} (95 %)"
        spread = figures.interval(score["samples_to_target_range"], count)
        pace = figures.interval(score["time_per_sample_range_s"], seconds)
        found += [
            tile("time to train", seconds(score["time_to_train_s"]), between, "lead"),
            tile("= samples to target", count(score["samples_to_target"]), f"runs {spread}"),
            tile("x time per sample", seconds(score["time_per_sample_s"]), f"runs {pace}"),
        ]
    if account["score"]:
        reached = f"{account['score']['num_reached']} of {account['score']['num_runs']}"
        found.append(tile("runs that reached it", reached, "each with a seed of its own"))
    utilisation = mfu.figures(account)
    if utilisation:
        found.append(tile("MFU (model FLOPs)", *utilisation))
    energy, overhead = account["power"], account["overhead"]
    if energy["available"]:
        bound = f"± {si(energy['bound_j'], 'J')}, " if energy["bound_j"] is not None else ""
        found.append(tile("energy", si(energy["energy_j"], "J"), f"{bound}{si(energy['mean_w'], 'W')} on average"))
    if overhead:
        low, high = map(figures.overhead, overhead["ci95"])
        found.append(tile("own cost", figures.overhead(overhead["ratio"]), f"{low} to {high} (95 %)"))
    return found


def _convergence(account: dict[str, Any], drawn: dict[str, charts.Chart]) -> list[Markup]:
    chart = charts.convergence(account)
    if chart is None:
        reason = account["score_reason"] or "no run was evaluated"
        return [paragraph(f"There is no convergence curve: {reason}.", "absent")]
    said = "Every evaluation of every run; the last one of each is the larger mark."
    points, why_not = reference.points(account)
    if points:
        reference.draw_behind(chart["views"]["samples"], points)
        said += f" {reference.sentence(points)}"
    elif account["target"]:
        said += f" There are no reference points behind them: {why_not}."
    return [paragraph(said), draw("convergence", chart, drawn, "quality of every run against the target")]


def _time(account: dict[str, Any], drawn: dict[str, charts.Chart]) -> list[Markup]:
    ledger = account["ledger"]
    chart, notes = icicle(ledger)
    parts = [paragraph(note, "absent") for note in notes]
    if ledger and ledger["phases"]:
        parts += [paragraph(_which_pass(ledger)), tables.phases(ledger)]
    if chart:
        said = (
            "The whole clock, from the run to its phases to what is in them; the area of a tile is its time. "
            "Click a tile to go in, the first column to come out."
        )
        if on_gpu(account):
            said += " It is the host's time: what the device did meanwhile is in the sections on the device."
        parts += [paragraph(said), draw("icicle", chart, drawn, "time of the run by phase, module and op")]
    return parts


def _which_pass(ledger: dict[str, Any]) -> str:
    seed = f" of seed {ledger['seed']}" if ledger["seed"] is not None else ""
    steps = f"{count(ledger['num_steps'])} steps"
    window = ledger["window"]
    if window:
        note = f" ({window['note']})" if window.get("note") else ""
        steps = f"steps {window['first_step']} to {window['last_step']} only{note}"
    return f"The {ledger['pass_kind']} pass{seed}, {steps}: phases and the unattributed rest add up to the clock."


def _limits(account: dict[str, Any], drawn: dict[str, charts.Chart]) -> list[Markup]:
    utilisation = mfu.figures(account)
    if utilisation:
        said = f"Model FLOPs utilisation {utilisation[0]} ({utilisation[1]}): {mfu.definition(account)}."
        parts = [paragraph(said)]
    else:
        parts = [paragraph(f"Model FLOPs utilisation is not known: {mfu.reason(account)}.", "absent")]
    chart, said = charts.roofline(account)
    if chart is None:
        return [*parts, paragraph(said, "absent")]
    return [*parts, paragraph(said), draw("roofline", chart, drawn, "ops under the roofs of this machine")]


def _memory(account: dict[str, Any]) -> list[Markup]:
    memory = account["memory"]
    if not memory:
        return [paragraph("Nothing is known of the memory: no pass of this record has finished.", "absent")]
    faults = memory["page_faults"]
    found = []
    if memory["peak_bytes"] is not None:
        found.append(tile("allocator peak", si(memory["peak_bytes"], "B"), "alive at once"))
    if memory["churn_bytes"] is not None:
        found.append(tile("churn", si(memory["churn_bytes"], "B"), f"{count(memory['allocations'])} allocations"))
    if memory["rss_peak_bytes"] is not None:
        found.append(tile("resident set", si(memory["rss_peak_bytes"], "B"), "at its largest"))
    if faults:
        found.append(tile("page faults", count(faults["minor"]), f"minor; {count(faults['major'])} major"))
    parts = tiles(found)
    held = block(account, "memory", "gpu")["available"]
    if memory["peak_bytes"] is None and not (held and on_gpu(account)):
        parts.append(paragraph(f"The allocator's peak is not known: {memory['peak_reason']}.", "absent"))
    if held and not on_gpu(account):
        parts += categories(memory["gpu"])
    if memory["levels"]:
        parts.append(tables.memory_levels(memory["levels"]))
    else:
        ceilings, reason = charts.ceilings_of(account)
        reason = "no op is known to have run in this pass" if ceilings else reason
        parts.append(paragraph(f"No op is placed at a memory level: {reason}.", "absent"))
    return parts + working_set.section(account.get("working_set"))


def _series(account: dict[str, Any], drawn: dict[str, charts.Chart]) -> list[Markup]:
    chart = series(account)
    parts = []
    if chart:
        parts.append(draw("series", chart, drawn, "what the sampler saw over time"))
    else:
        parts.append(paragraph("There is no series: the sampler recorded nothing in this pass.", "absent"))
    absent = account["series"]["absent"] if account["series"] else {}
    if absent:
        rows = [[name.replace("_", " "), reason] for name, reason in absent.items()]
        listed = tables.table([("", False), ("reason", False)], rows)
        parts.append(folded(f"Not recorded, and why ({len(absent)})", listed))
    return parts


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
    suite = [tables.suite_ops(ledger)] if ledger.get("suite_ops") else []
    found = long_table("ops", len(ledger["ops"]), "op, module, phase, shape or bound", tables.ops(account))
    return [*suite, found]


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
