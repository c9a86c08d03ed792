"""The summary of an account in the terminal: the answer first, then where the time went. Fits 100 columns.

Names come from records, so every string is a rich Text: nothing in it is read as markup.
"""

import statistics
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from perfsuite.report import (
    character,
    device_text,
    division,
    figures,
    memory_system_text,
    op_times,
    power_text,
    working_set,
)
from perfsuite.report.figures import count, percent, seconds, si
from perfsuite.report.optional import block, on_gpu
from perfsuite.report.power_words import throttled

TOP_OPS = 12
_OP_COLUMNS = {"phase": 10, "self": 7, "share": 6, "bound by": 8, "of ceiling": 10}
"""Width of each."""


def summary(account: dict[str, Any], report_path: str | None) -> RenderableType:
    """The whole summary. report_path: where the page is, or why there is none."""
    ledger = account["ledger"]
    parts: list[RenderableType] = [Text(), *_headline(account), *_score(account)]
    if ledger:
        parts += [_heading("Where the time went", _which(ledger)), _phases(ledger)]
        parts += [_heading("Longest ops", None), _Ops(ledger)]
        parts += [_heading("Memory-system character", None), _pairs(character.lines(account))]
    if account["memory"]:
        parts += [_heading("Memory", None), _memory(account["memory"])]
    if on_gpu(account):
        parts += _device(account)
    lines = _before_the_clock(account)
    if not on_gpu(account):
        lines.append(("device", Text(f"none: {block(account, 'ledger', 'device')['reason']}", style="dim")))
    lines += [("mfu", power_text.utilisation(account)), ("power", power_text.power(account["power"]))]
    if on_gpu(account):
        lines += [(name, said(account["power"])) for name, said in
                  (("by kernel", power_text.by_kernel), ("gpm", power_text.monitor), ("clocks", power_text.clocks))]
    lines.append(("own cost", _overhead(account["overhead"])))
    if account.get("closed_quality") or account["division"] == "closed":
        lines.append(("division", Text(division.said(account))))
    if ledger:
        lines += [("working set", Text(line)) for line in working_set.sentences(account.get("working_set"))]
        lines += [("suite op", _suite_op(op, ledger["clock_s"])) for op in ledger.get("suite_ops", [])]
        lines.append(("checks", _checks(ledger["checks"])))
    lines += [("note", Text(note)) for note in [*(ledger["notes"] if ledger else []), *account["notes"]]]
    if account["score"] and account["score"].get("footnote"):
        lines.append(("note", Text(account["score"]["footnote"])))
    if report_path:
        lines.append(("page", Text(report_path)))
    return Group(*parts, Text(), _pairs(lines))


def _device(account: dict[str, Any]) -> list[RenderableType]:
    """What the GPU did, where it waited, what moved in its memory system, what its memory held."""
    device, memory = block(account, "ledger", "device"), block(account, "memory", "gpu")
    parts = [_heading("GPU", None), _pairs(device_text.devices(device))]
    if device["available"]:
        parts += [_heading("Longest kernels", None), device_text.Kernels(account["ledger"]["kernels"])]
        for found in device["devices"]:
            aside = f"device {found['device']}" if len(device["devices"]) > 1 else None
            parts += [_heading("Where the device waited", aside), device_text.idle_table(found)]
    parts += [_heading("Memory system", None), memory_system_text.levels(block(account, "memory", "counters"))]
    copies = memory_system_text.copies(memory)
    lines = [("GPU memory", memory_system_text.gpu_memory(memory)), *([("copies", copies)] if copies else [])]
    return [*parts, Text(), _pairs(lines)]


def _before_the_clock(account: dict[str, Any]) -> list[tuple[str, Text]]:
    """What is not on the clock: initialisation of each run, and what had to be built or measured first."""
    runs = [run for run in (account["score"] or {}).get("runs", []) if run["init_s"] is not None]
    said = []
    if runs:
        parts = ", ".join(
            f"{name} {seconds(statistics.median(run['init'][key] or 0.0 for run in runs))}"
            for name, key in (("building", "build_s"), ("warm-up", "warmup_s"), ("of it compiling", "compile_s"))
        )
        said.append(f"init {seconds(statistics.median(run['init_s'] for run in runs))} a run ({parts})")
    names = {"torch_extension_s": "compiling the torch extension", "ceilings_s": "measuring the machine"}
    build = account.get("build") or {}
    said += [f"{what} {seconds(build[key])}" for key, what in names.items() if build.get(key)]
    return [("not on clock", Text("; ".join(said)))] if said else []


def _suite_op(op: dict[str, Any], clock_s: float) -> Text:
    moved = f"moves {si(op['moved_bytes'], 'B')}" if op["moved_bytes"] is not None else "bytes moved not known"
    return Text(
        f"{op['op']}={op['impl']}: {count(op['calls'])} calls, {percent(op_times.cost_s(op) / clock_s)} of the clock, "
        f"{moved}, at least {si(op['least_bytes'], 'B')} needed"
    )


def _heading(title: str, aside: str | None) -> RenderableType:
    text = Text(f"\n{title}", style="bold")
    return text.append(f"  {aside}", style="not bold dim") if aside else text


def _headline(account: dict[str, Any]) -> list[RenderableType]:
    style = "bold green" if _reached(account) else "bold yellow" if account["target"] else "bold"
    what = " ".join(filter(None, (account["workload"], account["scale"], "on", account["device"])))
    title = Text(what, style="bold").append(f"  {account['id']}", style="not bold dim")
    lines: list[RenderableType] = [title, Text(account["headline"]["answer"], style=style)]
    if account["headline"].get("limits"):
        lines.append(Text("limited by ", style="dim").append(account["headline"]["limits"], style="not dim"))
    loud = throttled(account["power"])
    if loud:
        lines.append(Text(f"throttled: {loud}", style="bold red"))
    return lines


def _reached(account: dict[str, Any]) -> bool:
    return bool(account["score"]) and account["score"].get("time_to_train_s") is not None


def _score(account: dict[str, Any]) -> list[RenderableType]:
    score = account["score"]
    if not _reached(account):
        reason = account["score_reason"]
        said = reason and reason in account["headline"]["answer"]
        return [] if said or not reason else [Text(f"no time-to-train: {reason}", style="yellow")]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("time to train", Text(f"= {seconds(score['time_to_train_s'])}", style="bold"), _interval(score))
    spread = figures.interval(score["samples_to_target_range"], count)
    table.add_row("samples to target", f"= {count(score['samples_to_target'])}", Text(f"runs {spread}", style="dim"))
    spread = figures.interval(score["time_per_sample_range_s"], seconds)
    table.add_row("x time per sample", f"= {seconds(score['time_per_sample_s'])}", Text(f"runs {spread}", style="dim"))
    return [Text(), table]


def _interval(score: dict[str, Any]) -> Text:
    runs = f"{score['num_reached']} of {score['num_runs']} runs reached the target"
    if score["ci95_s"]:
        return Text(f"95 % interval {figures.interval(score['ci95_s'], seconds)}; {runs}", style="dim")
    return Text(f"{score.get('ci95_reason') or 'no interval'}; {runs}", style="dim")


def _which(ledger: dict[str, Any]) -> str:
    seed = f", seed {ledger['seed']}" if ledger["seed"] is not None else ""
    window = ledger["window"]
    steps = f"{count(ledger['num_steps'])} steps"
    if window:
        steps = f"steps {window['first_step']} to {window['last_step']}"
    return f"{ledger['pass_kind']} pass{seed}, {steps}"


def _phases(ledger: dict[str, Any]) -> Table:
    clock = ledger["clock_s"]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("phase", overflow="fold")
    for name in ("time s", "share", "in ops s", "host s", "calls"):
        table.add_column(name, justify="right", no_wrap=True)
    for phase in ledger["phases"]:
        times = [figures.in_seconds(phase[k], clock) for k in ("ops_s", "host_s")]
        share = percent(phase["time_s"] / clock if clock else None)
        table.add_row(Text(phase["name"]), figures.in_seconds(phase["time_s"], clock), share, *times,
                      count(phase["calls"]))  # fmt: skip
    rest = ledger["unattributed_s"]
    table.add_row("unattributed", figures.in_seconds(rest, clock), percent(rest / clock if clock else None))
    table.add_row("clock", figures.in_seconds(clock, clock), percent(1.0 if clock else None), style="bold")
    return table


class _Ops:
    """The longest ops; figures keep their width and names give way where the terminal is narrow."""

    def __init__(self, ledger: dict[str, Any]) -> None:
        self._ops, self._clock_s = ledger["ops"], ledger["clock_s"]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._ops:
            yield Text("no op was recorded in this pass", style="yellow")
            return
        figures_width = sum(width + 2 for width in _OP_COLUMNS.values())
        for_names = max(24, min(options.max_width, 110) - figures_width - 2)
        name_width = for_names * 11 // 20
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("op", no_wrap=True, width=name_width)
        table.add_column("module", no_wrap=True, width=for_names - name_width)
        on_device = any(op["device_time_s"] is not None for op in self._ops)
        for name, width in _OP_COLUMNS.items():
            justify = "left" if name in ("phase", "bound by") else "right"
            table.add_column(
                "on GPU" if name == "self" and on_device else name, justify=justify, no_wrap=True, width=width
            )
        for op in self._ops[:TOP_OPS]:
            table.add_row(*self._row(op, name_width, for_names - name_width))
        yield table
        if len(self._ops) > TOP_OPS:
            rest = sum(op_times.cost_s(op) for op in self._ops[TOP_OPS:] if op_times.share(op, 1.0) is not None)
            yield Text(f"and {count(len(self._ops) - TOP_OPS)} more lines, {seconds(rest)} together", style="dim")

    def _row(self, op: dict[str, Any], name_width: int, module_width: int) -> list[Text | str]:
        name = Text(op["name"] + (f" ({op['impl']})" if op["impl"] else ""))
        name.truncate(name_width, overflow="ellipsis")
        module = op["module"] or figures.UNKNOWN
        if len(module) > module_width:  # the end of a module's name says more than its beginning
            module = "…" + module[len(module) - module_width + 1 :]
        share = percent(op_times.share(op, self._clock_s))
        return [name, Text(module), Text(op["phase"]), seconds(op_times.cost_s(op)), share, Text(_bound(op)),
                percent(op["share_of_ceiling"])]  # fmt: skip


def _bound(op: dict[str, Any]) -> str:
    if op["hidden"]:
        return "hidden"
    return op["level"] if op["bound"] == "memory" and op["level"] else op["bound"] or figures.UNKNOWN


def _memory(memory: dict[str, Any]) -> RenderableType:
    facts = []
    if memory["peak_bytes"] is not None:
        facts.append(f"allocator peak {si(memory['peak_bytes'], 'B')}")
    elif memory["peak_reason"] and not memory["gpu"]["available"]:  # there it has lines of its own
        facts.append(f"allocator peak unknown ({memory['peak_reason']})")
    if memory["churn_bytes"] is not None:
        facts.append(f"{si(memory['churn_bytes'], 'B')} in {count(memory['allocations'])} allocations")
    if memory["rss_peak_bytes"] is not None:
        facts.append(f"resident at most {si(memory['rss_peak_bytes'], 'B')}")
    faults = memory["page_faults"]
    if faults:
        facts.append(f"{count(faults['minor'])} minor and {count(faults['major'])} major page faults")
    text = Text("; ".join(facts))
    if not memory["levels"]:
        return text
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("level", overflow="fold")
    for name in ("moved", "achieved", "ceiling", "of ceiling"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("source")
    for level in memory["levels"]:
        rates = [si(level[k], "B/s") for k in ("achieved_bytes_per_s", "bandwidth_bytes_per_s")]
        table.add_row(Text(level["name"]), si(level["bytes"], "B"), *rates, percent(level["share_of_ceiling"]),
                      Text(level["source"]))  # fmt: skip
    return Group(table, text)


def _overhead(overhead: dict[str, Any] | None) -> Text:
    if not overhead:
        return Text("not measured in this record", style="dim")
    low, high = (figures.overhead(x) for x in overhead["ci95"])
    against = f"{overhead['pairs']} clean passes" if overhead.get("method") else f"{overhead['pairs']} pairs"
    return Text(f"{figures.overhead(overhead['ratio'])} with all recorders on "
                f"(95 % interval {low} to {high}, {against})")  # fmt: skip


def _checks(checks: list[dict[str, Any]]) -> Text:
    failed = [check for check in checks if not check["ok"]]
    if not checks:
        return Text("none was made", style="dim")
    if not failed:
        return Text(f"all {len(checks)} passed", style="green")
    text = Text(f"{len(failed)} of {len(checks)} failed", style="red")
    for check in failed:
        text.append(f"\n{check['name']}: {check['detail']}")
    return text


def _pairs(lines: list[tuple[str, Text]]) -> RenderableType:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines:
        table.add_row(name, text)
    return Padding(table, 0)
