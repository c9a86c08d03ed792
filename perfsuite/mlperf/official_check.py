"""The official compliance checker's answer on one log: its own rule files, read as data, in its own order.

Rules: the package mlperf-logging, compliance_checker/<usage>_<ruleset>/*.yaml. Where the official checker ends with a
traceback instead of an answer, that is the answer here too, in one line.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from perfsuite.mlperf import official_files, restricted
from perfsuite.mlperf.reader import loads, token_lines

_MOST_FILES = 20
_LINE_V06 = re.compile(r"^:::MLL ([\d\.]+) ([A-Za-z0-9_]+) ?:\s+(.+)$")


@dataclass
class Line:
    """A log line as the official parser hands it to its rules."""

    full_string: str
    timestamp: float
    key: Any
    value: Any
    lineno: int


@dataclass
class Answer:
    """What the official checker says."""

    valid: bool
    messages: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    crashed: str | None = None
    """How its traceback ends, where it gives no answer."""
    num_faults: int = 0
    """Lines that its parser cannot read."""


@dataclass(frozen=True)
class _Rule:
    name: str
    requirement: str
    checks: tuple[tuple[str, restricted.Evaluate], ...]
    first_checks: tuple[tuple[str, restricted.Evaluate], ...]
    at_least_one: tuple[str, restricted.Evaluate] | None
    before: Callable[[restricted.Names], None] | None
    after: Callable[[restricted.Names], None] | None


@dataclass(frozen=True)
class _Rules:
    begin: Callable[[restricted.Names], None] | None
    rules: dict[str, _Rule]
    end: tuple[tuple[str, restricted.Evaluate], ...]


class Crash(Exception):
    """The official code would end here with a traceback."""


def check(data: bytes, usage: str, ruleset: str) -> Answer:
    """The official answer on the content of one log. Raises ValueError for a ruleset that the package lacks."""
    return check_lines(data, usage, ruleset)[0]


def check_lines(data: bytes, usage: str, ruleset: str) -> tuple[Answer, list[Line]]:
    """The answer and the lines it stands on. Raises ValueError for a ruleset that the package lacks."""
    official_files.rule_folder(usage, ruleset)
    said = _Messages()
    try:
        lines, faults = read(data, ruleset)
        of_the_log = list(lines)  # rules may add lines of their own
        if faults:
            said.always.append("Log lines had parsing errors.")
        if not lines:
            said.always.append("No log lines detected")
        waiting = [f"{usage}_{ruleset}/common.yaml"]
        applied = 0
        while waiting:
            applied += 1
            if applied > _MOST_FILES:  # a benchmark called "common" sends the official checker round and round
                raise Crash("no end: the log makes it apply the same rule files for ever")
            _apply(_rules(waiting.pop(0)), lines, said, waiting)
    except Crash as crash:
        return Answer(False, crashed=str(crash)), []
    messages = [*said.by_key.values(), *said.always]
    return Answer(not messages, messages, list(said.warnings.values()), num_faults=len(faults)), of_the_log


class _Messages:
    """A later rule file that has a rule of the same key takes back what an earlier one said of that key."""

    def __init__(self) -> None:
        self.by_key: dict[str, str] = {}
        self.always: list[str] = []
        self.warnings: dict[str, str] = {}


def parts(message: str) -> tuple[str, str]:
    """(what a message says, the test that failed or could not be done, or ""), a line each."""
    first, _, rest = message.partition("\n")
    test = rest if first.startswith("Failed executing") else rest.partition("failed test:")[2]
    return " ".join(first.split()).rstrip(":"), test.strip().split("\n")[0]


def in_short(message: str) -> str:
    """A message on one line."""
    said, test = parts(message)
    return said + (f"; failed test: {test}" if test else "")


# -- lines -------------------------------------------------------------------------------------------------------------


def read(data: bytes, ruleset: str) -> tuple[list[Line], list[str]]:
    """(lines, what could not be read) of a file in the format of a round. Raises Crash."""
    token = ":::MLL" if ruleset == "0.6.0" else ":::MLLOG "
    parse = _parse_v06 if ruleset == "0.6.0" else _parse_v07
    lines: list[Line] = []
    faults: list[str] = []
    for number, (at, raw) in enumerate(token_lines(data, token.encode())):
        text = raw.decode("latin-1").strip()
        try:
            lines.append(parse(number, text))
        except ValueError:
            faults.append(text)
        except (KeyError, TypeError, RecursionError, OverflowError) as error:
            line = data.count(b"\n", 0, at) + 1
            raise Crash(f"{type(error).__name__}: {error} (line {line})") from error
    return lines, faults


def _parse_v07(number: int, text: str) -> Line:
    if not text.startswith(":::MLLOG "):  # the token's blank was the end of the line
        raise ValueError("does not match regex")
    body = loads(text[len(":::MLLOG ") :])
    time_ms = float(body["time_ms"])
    return Line(text, time_ms, body["key"], {"value": body["value"], "metadata": body["metadata"]}, number)


def _parse_v06(number: int, text: str) -> Line:
    found = _LINE_V06.match(text)
    if found is None:
        raise ValueError("does not match regex")
    return Line(text, float(found[1]), found[2], loads(found[3]), number)


# -- rules -------------------------------------------------------------------------------------------------------------


@cache
def _rules(name: str) -> _Rules:
    path = official_files.checker_folder() / name
    try:
        known = path.is_file()
    except OSError as error:  # the log's benchmark or division is part of the name
        raise Crash(f"OSError: {error.strerror}: {name[:80]}") from error
    if not known:
        raise Crash(f"FileNotFoundError: there is no rule file {name}")
    begin, rules, end = None, {}, ()
    for record in official_files.yaml_records(path):
        (kind, body), *_ = record.items()
        if kind == "BEGIN":
            begin = restricted.statements(body["CODE"])
        elif kind == "END":
            end = _checks(body.get("CHECK", []))
        elif kind == "KEY":
            rules[body["NAME"]] = _rule(body)
    return _Rules(begin, rules, end)


def _rule(body: dict[str, Any]) -> _Rule:
    at_least_one = body.get("ATLEAST_ONE_CHECK")
    return _Rule(
        body["NAME"],
        body.get("REQ", ""),
        _checks(body.get("CHECK", [])),
        _checks(body.get("FIRST_CHECK", [])),
        (at_least_one, restricted.expression(at_least_one)) if at_least_one else None,
        restricted.statements(body["PRE"]) if body.get("PRE") else None,
        restricted.statements(body["POST"]) if body.get("POST") else None,
    )


def _checks(tests: list[str] | str) -> tuple[tuple[str, restricted.Evaluate], ...]:
    return tuple((test, restricted.expression(test)) for test in ([tests] if isinstance(tests, str) else tests))


# -- one rule file over all lines --------------------------------------------------------------------------------------


def _apply(rules: _Rules, lines: list[Line], said: _Messages, waiting: list[str]) -> None:
    names = _names(waiting, lines)
    if rules.begin:
        try:
            rules.begin(names)
        except Exception as error:
            raise Crash(f"{type(error).__name__}: {error}") from error
    for key in rules.rules:
        said.by_key.pop(key, None)
    reported: dict[str, list[Any]] = {key: [] for key in rules.rules}
    passed: dict[str, int] = {}
    once: set[str] = set()
    seen: set[str] = set()
    for line in list(lines):
        try:
            reported[line.key].append(line.value["value"])
        except (KeyError, TypeError, IndexError):
            continue  # a key that no rule names is allowed
        rule = rules.rules[line.key]
        names["ll"], names["v"] = line, line.value
        if line.key not in once:
            _run(rule.before, names, line, "PRE", said)
            _evaluate(rule.checks, names, line, said)
            _run(rule.after, names, line, "POST", said)
        if rule.first_checks and line.key not in seen:
            seen.add(line.key)
            _evaluate(rule.first_checks, names, line, said)
        if rule.at_least_one:
            try:
                passed[line.key] = passed.get(line.key, 0) + bool(rule.at_least_one[1](names))
            except Exception as error:
                raise Crash(f"{type(error).__name__}: {error} in {rule.at_least_one[0].strip()}") from error
        if "submission_" in line.key:
            once.add(line.key)
    for key, times in passed.items():
        if not times:
            said.always.append(f"Failed checks for {key} : {rules.rules[key].at_least_one[0]}")
    _count(rules, reported, said)
    for test, evaluate in rules.end:
        try:
            good = evaluate(names)
        except Exception:
            said.always.append(f"Failed executing CHECK code:\n{test}")
        else:
            if not good:
                said.always.append(f"failed test: {test}")


def _names(waiting: list[str], lines: list[Line]) -> restricted.Names:
    return {
        "s": {}, "loglines": lines, "replace": replace, "enqueue_config": waiting.append, "is_integer": _is_integer,
        "sorted": sorted, "min": min, "max": max, "len": len, "float": float, "abs": abs, "int": int, "bool": bool,
        "isinstance": isinstance, "type": type, "round": round, "math": math, "print": lambda *_: None, "str": str,
    }  # fmt: skip


def _is_integer(value: Any) -> bool:
    return abs(round(value) - value) < 0.00001


def _run(code: Callable[[restricted.Names], None] | None, names: restricted.Names, line: Line, action: str,
         said: _Messages) -> None:  # fmt: skip
    if code is None:
        return
    try:
        code(names)
    except Exception:
        said.by_key[line.key] = f"Failed executing code {action} code triggered by line :\n{line.full_string}"


def _evaluate(checks: Any, names: restricted.Names, line: Line, said: _Messages) -> None:
    for test, evaluate in checks:
        try:
            good = evaluate(names)
        except Exception:
            said.by_key[line.key] = f"Failed executing CHECK code:\n{test}\ntriggered by line:\n{line.full_string}"
        else:
            if not good:
                said.by_key[line.key] = (
                    f"CHECK for '{line.key}' failed in line {line.lineno}:\n{line.full_string}\nfailed test: {test}"
                )


def _count(rules: _Rules, reported: dict[str, list[Any]], said: _Messages) -> None:
    alternatives: set[tuple[str, ...]] = set()
    for key, rule in rules.rules.items():
        wanted, values = rule.requirement, reported[key]
        if wanted == "EXACTLY_ONE" and len(values) != 1:
            text = f"Required EXACTLY_ONE occurrence of '{key}' but found {len(values)}"
            if values and values.count(values[0]) == len(values):
                said.warnings[key] = text
            else:
                different = ", ".join(sorted({str(value) for value in values}))
                said.by_key[key] = text + (f" with different values: [{different}]" if values else "")
        elif wanted == "AT_LEAST_ONE" and not values:
            said.by_key[key] = f"Required AT_LEAST_ONE occurrence of '{key}' but found 0"
        elif wanted.startswith("AT_LEAST(") and len(values) < int(wanted[len("AT_LEAST(") : -1]):
            said.by_key[key] = f"Required {wanted} occurrence of '{key}' but found {len(values)}"
        elif wanted.startswith("AT_LEAST_ONE_OR("):
            others = wanted[len("AT_LEAST_ONE_OR(") : -1].split(",")
            alternatives.add(tuple(sorted({key, *(other.strip() for other in others)})))
    for keys in sorted(alternatives):
        try:
            found = any(reported[key] for key in keys)
        except KeyError as error:
            raise Crash(f"KeyError: {error}") from error
        if not found:
            said.always.append(f"Required AT_LEAST_ONE occurrence of {' or '.join(repr(key) for key in keys)}")
