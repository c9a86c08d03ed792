"""What `perfsuite verify` found, on a terminal 120 columns wide. Never imports torch."""

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from perfsuite.mlperf import official_check

WIDTH = 120
_STYLES = {"error": "red", "warning": "yellow"}
_MOST_LOGS = 3


def render(found: list[dict[str, Any]], official: bool) -> RenderableType:
    """What verify.verify() returned for each folder."""
    parts: list[RenderableType] = []
    for one in found:
        parts += _official(one) if official else _rules(one)
    valid = sum(_accepted(one) if official else one["valid"] for one in found)
    passed_over = sum(bool(one["official"] and one["official"]["passed_over"]) for one in found) if official else 0
    by = "the official checkers" if official else "the rules text"
    logs = sum(len(one["logs"]) for one in found)
    rounds = list(dict.fromkeys(one["round"] for one in found))
    parts.append(Text(f"{valid} of {len(found)} results ({logs} logs) are valid by {by}, {', '.join(rounds[:3])}"
                      + (f"; {passed_over} of them are passed over" if passed_over else ""), style="bold"))  # fmt: skip
    parts += [Text(f"rules: {rules}", style="dim") for rules in dict.fromkeys(one["rules"] for one in found)]
    if not official and any(one["official"] for one in found):
        accepted = sum(one["official"]["accepted"] for one in found if one["official"])
        parts.append(Text(f"the official checkers accept {accepted}; --differences says where and why they part",
                          style="dim"))  # fmt: skip
    return Group(*parts)


def _head(one: dict[str, Any], valid: bool, passed_over: bool = False) -> Text:
    text = Text()
    word = "no error " if passed_over and valid else "valid    " if valid else "NOT VALID"
    text.append(word, style="green" if valid else "bold red")
    text.append(f"  {one['label']}  ({one['benchmark'] or 'unknown benchmark'}, {one['division'] or 'no division'}, "
                f"{len(one['logs'])} logs)")  # fmt: skip
    return text


def _rules(one: dict[str, Any]) -> list[RenderableType]:
    parts: list[RenderableType] = [_head(one, one["valid"])]
    parts += [_line(finding) for finding in one["findings"]]
    return parts + _grouped(one["logs"])


def _grouped(logs: list[dict[str, Any]]) -> list[RenderableType]:
    """The findings of logs, the same one of several logs on one line."""
    where: dict[tuple[str, str], list[str]] = {}
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for log in logs:
        for finding in log["findings"]:
            key = (finding["rule"], finding["text"])
            first.setdefault(key, finding)
            at = f"{log['log']}:{finding['line']}" if finding["line"] else log["log"]
            where.setdefault(key, []).append(at)
    lines: list[RenderableType] = []
    for key, finding in first.items():
        places = where[key]
        more = f" and {len(places) - _MOST_LOGS} more" if len(places) > _MOST_LOGS else ""
        lines.append(_line(finding, ", ".join(places[:_MOST_LOGS]) + more))
    return lines


def _line(finding: dict[str, Any], where: str = "") -> Text:
    text = Text("    ")
    text.append(f"{finding['severity']}: ", style=_STYLES[finding["severity"]])
    text.append(f"{where}: " if where else "")
    text.append(finding["text"])
    text.append(f"  [{finding['source']}]" if finding["source"] else "", style="dim")
    return text


def _accepted(one: dict[str, Any]) -> bool:
    return bool(one["official"] and one["official"]["accepted"])


def _official(one: dict[str, Any]) -> list[RenderableType]:
    said = one["official"]
    if said is None:
        return [Text(f"the official checkers have no rules of {one['round']}: {one['label']}")]
    parts: list[RenderableType] = [_head(one, _accepted(one), bool(said["passed_over"]))]
    if said["passed_over"]:
        parts.append(Text(f"    warning: the package checker does not check it: {said['passed_over']}"))
    if said["convergence"] and "rcp_bypass" in said["convergence"]:
        parts.append(Text("    warning: the convergence check fails; a file package_checker_params lets it pass"))
    if not one["one_log"]:
        parts += [Text(f"    error: {why}") for why in said["why"]]
    for log in one["logs"]:
        if log["official_crashed"]:
            parts.append(Text(f"    {log['log']}: ends with a traceback: {log['official_crashed']}"))
        told = map(official_check.in_short, log["official_messages"])
        parts += [Text(f"    {log['log']}: {message}") for message in told]
    return parts


def differences(found: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> RenderableType:
    """Where the two part ways: each folder with what verify.differences() said of it."""
    parts: list[RenderableType] = []
    for one, parting in found:
        if not parting:
            continue
        parts.append(Text(f"{one['label']}: valid by the rules text: {'yes' if one['valid'] else 'no'}, by the "
                          f"official checkers: {_yes(one)}"))  # fmt: skip
        seen: dict[str, int] = {}
        for finding in parting:
            seen[finding["text"]] = seen.get(finding["text"], 0) + 1
            if seen[finding["text"]] == 1:
                where = f"{finding['log']}:{finding['line']}" if finding["log"] and finding["line"] else finding["log"]
                parts.append(_line(finding, where or ""))
        repeated = sum(seen.values()) - len(seen)
        if repeated:
            parts.append(Text(f"    the same {repeated} times more in other logs", style="dim"))
    return Group(*parts) if parts else Text("the rules text and the official checkers agree everywhere")


def _yes(one: dict[str, Any]) -> str:
    return "unknown" if one["official"] is None else "yes" if one["official"]["accepted"] else "no"
