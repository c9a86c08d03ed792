"""Scores of folders of MLPerf logs on a terminal, 120 columns wide. Never imports torch."""

from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from perfsuite.mlperf.folder_score import BEFORE_REFERENCES
from perfsuite.report.figures import si

WIDTH = 120


def render(
    found: list[dict[str, Any]], compared: list[dict[str, Any]], *, official: bool, show_runs: bool
) -> RenderableType:
    """What folder_score.score() returned for each folder, and what tie.judge() said of pairs of them."""
    parts: list[RenderableType] = [_table(found, official)]
    for one in found:
        told = remarks(one) + (_official_remarks(one["official"]) if official else [])
        parts += [Text(f"{one['label']}: {line}") for line in told]
        if show_runs or len(found) == 1:
            parts.append(_runs(one))
    if compared:
        parts.append(_compared(compared))
    parts += [Text(f"rules: {rules}", style="dim") for rules in dict.fromkeys(one["rules"] for one in found)]
    if found:
        parts.append(Text(found[0]["footnote"], style="dim"))
    return Group(*parts)


def _table(found: list[dict[str, Any]], official: bool) -> Table:
    energy = any(one["energy"] for one in found)
    validity = any(one["valid"] is not None for one in found)
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("result", overflow="fold")  # systems differ in their last letters
    table.add_column("benchmark", no_wrap=True)
    table.add_column("minutes", justify="right")
    table.add_column("95 %", justify="right", no_wrap=True)
    table.add_column("runs", justify="right")
    if validity:
        table.add_column("valid")
    table.add_column("convergence")
    if official:
        table.add_column("official minutes", justify="right")
    if energy:
        table.add_column("energy", justify="right")
    for one in found:
        where = "/".join(part for part in (one["organisation"], one["system"]) if part) or one["path"]
        runs = f"{one['num_converged']}/{one['num_runs']}"
        cells = [where, one["benchmark"] or "?", _minutes(one["score_min"]), _interval(one), runs]
        if validity:
            cells.append({True: "yes", False: "NO", None: "?"}[one["valid"]])
        cells.append(_checks(one))
        if official:
            cells.append(_official_minutes(one["official"]))
        if energy:
            joules = (one["energy"] or {}).get("energy_j")
            cells.append(si(joules, "J") if joules is not None else "-")
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _official_minutes(said: dict[str, Any] | None) -> str:
    if said and said["throughput"]:
        return repr(said["throughput"]["time_to_train_all_min"])
    return "none" if not said or said["score_min"] is None else repr(said["score_min"])


def _official_remarks(said: dict[str, Any] | None) -> list[str]:
    """What the official tools do beside the figure."""
    if said is None:
        return []
    lines = [f"the official summarizer prints nothing of it: {said['passed_over']}"] if said["passed_over"] else []
    if said["convergence_crashed"]:
        lines.append(f"the official convergence checker ends with a traceback here: {said['convergence_crashed']}")
    if said["score_min"] != said["settled_min"]:
        lines.append(f"the official summarizer prints {said['score_min']!r} now and {said['settled_min']!r} from its "
                     "second call on: its convergence check writes scaling.json after it was read")  # fmt: skip
    if said["throughput"]:
        lines.append(f"the official summarizer counts {said['throughput']['number_of_models']} models of "
                     f"{said['throughput']['instance_scale']} accelerators")  # fmt: skip
    return lines


def _minutes(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _interval(one: dict[str, Any]) -> str:
    if one["ci95_min"] is None:
        return "-"
    low, high = one["ci95_min"]
    return f"{low:.3f} to {high:.3f}"


def _checks(one: dict[str, Any]) -> str:
    if not one["convergence"]:
        return "not checked"
    said = {}
    for mode in ("rules", "official", "hull"):
        check = one["convergence"][mode]
        factor = f" x{check['factor']:.4f}" if check["factor"] != 1 else ""
        said[mode] = ("pass" if check["passed"] else "FAIL") + factor
    if len(set(said.values())) == 1:
        return said["rules"]
    return ", ".join(f"{mode} {answer}" for mode, answer in said.items())


def remarks(one: dict[str, Any]) -> list[str]:
    """What is to be said of one result besides its figures, a line each."""
    lines = [f"no score: {one['why']}"] if one["why"] else []
    if one["errors"] and not one["valid"]:
        more = f"; and {len(one['errors']) - 1} more, see perfsuite verify" if len(one["errors"]) > 1 else ""
        lines.append(f"not valid by the rules text: {one['errors'][0]}{more}")
    lines += one["notes"]
    if one["throughput"]:
        models, scale = one["throughput"]["num_models"], one["throughput"]["instance_scale"] or "an unknown number of"
        lines.append(f"throughput: {models} models of {scale} accelerators each, from the first start to the last stop")
    if one["convergence"] and not one["convergence"]["rules"]["passed"]:
        lines.append(_why_failed(one["convergence"]["rules"]))
    if one["convergence"] and not one["convergence_counts"]:
        lines.append("open division: the convergence check tells, it does not count")
    if not one["convergence"] and one["round"] and one["convergence_why"] != BEFORE_REFERENCES:
        lines.append(f"convergence not checked: {one['convergence_why']}")
    said = one["official"]
    if said and said["crashed"]:
        lines.append(f"the official summarizer ends with a traceback here: {said['crashed']}")
    excess = [run for run in one["runs"] if run["init_excess_s"]]
    lines += [f"{run['log']}: initialisation was {run['init_excess_s']:.0f} s over the limit, which counts as run time"
              for run in excess]  # fmt: skip
    if one["energy"]:
        lines += [one["energy"]["why"]] if one["energy"]["why"] else []
        flags = sorted({flag for run in one["energy"]["runs"].values() for flag in run["flags"]})
        lines += [f"power: {flag}" for flag in flags[:3]]
    return lines


def _why_failed(check: dict[str, Any]) -> str:
    if check["reference"] is None or check["lowest"] is None:
        return f"convergence: {check['message']}"
    if check["mean"] is None:
        return "convergence: too few runs for an olympic mean of what they need to converge"
    return (f"convergence: {check['message']}; the mean of {check['mean']:g} is below the least that passes, "
            f"{check['lowest']:g} (reference {check['reference']['mean']:g})")  # fmt: skip


def _runs(one: dict[str, Any]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("status")
    for column in ("clock, min", "quality", "samples or epochs", "init, min"):
        table.add_column(column, justify="right")
    table.add_column("in the mean")
    for run in one["runs"]:
        clock, init = run["clock_s"], run["init_s"]
        kept = "no: not among the runs that count" if not run["counts"] else run["dropped"] or "yes"
        cells = (
            run["log"],
            str(run["status"] or "unknown"),
            "unknown" if clock is None else f"{clock / 60:.4f}",
            _number(run["quality"]),
            _number(run["units"]),
            "unknown" if init is None else f"{init / 60:.2f}",
            f"dropped: {kept}" if run["dropped"] else kept,
        )
        table.add_row(*map(Text, cells))  # a log may hold what would be markup
    return table


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else "unknown" if value is None else str(value)[:20]


def _compared(compared: list[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    for column in ("first", "second", "benchmark", "says", "second over first"):
        table.add_column(column, overflow="fold")  # systems differ in their last letters
    for one in compared:
        ratio = "-" if one["ratio"] is None else f"{one['ratio']:.3f} ({one['ci95'][0]:.3f} to {one['ci95'][1]:.3f})"
        says = one["says"] if one["ratio"] is not None else f"{one['says']}: {one['why']}"
        table.add_row(*map(Text, (one["a"], one["b"], one["benchmark"] or "?", says, ratio)))
    return table
