"""MLPerf log lines of all rounds, found in whatever else a log holds.

    v0.5    :::MLPv0.5.0 resnet 1541710560.417 (train.py:12) run_start: {"value": 1}    or other JSON, text
    v0.6    :::MLL 1556733699.71 run_start: {"value": null, "metadata": {...}}
    v0.7+   :::MLLOG {"time_ms": 1593032426123, "event_type": ..., "key": ..., "value": ..., "metadata": {...}}
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TOKEN = b":::ML"
_scan = json.JSONDecoder().scan_once
_LINE_END = re.compile(rb"[\r\n]")
_V05 = re.compile(r":::MLPv[\d.]+ (?P<benchmark>\S+) (?P<seconds>[\d.]+) \((?P<file>.*?):(?P<lineno>\d+)\) "
                  r"(?P<key>[^:\s]+)(?:\s*:\s?(?P<value>.*))?$", re.DOTALL)  # fmt: skip
_V06 = re.compile(r":::MLL (?P<seconds>[\d.]+) (?P<key>\w+)\s*:\s+(?P<value>.+)$", re.ASCII | re.DOTALL)
_V07 = ":::MLLOG "
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """One log line."""

    line: int
    """Of the file, from 1."""
    time_ms: float
    """Milliseconds since the epoch."""
    key: str
    value: Any
    metadata: dict[str, Any]
    event: str | None
    """INTERVAL_START, INTERVAL_END or POINT_IN_TIME; None before v0.7, where lines do not say."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that has a token of MLPerf's and cannot be read."""

    line: int
    text: str
    why: str


@dataclass(slots=True)
class Log:
    """What one file holds."""

    path: Path
    entries: list[Entry] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    formats: set[str] = field(default_factory=set)
    """"0.5", "0.6" and "0.7" (which all later rounds use)."""


def read(path: Path) -> Log:
    """All log lines of a file. Raises ValueError, in one line, where the file cannot be opened."""
    return read_content(path, content(path))


def read_content(path: Path, data: bytes) -> Log:
    """All log lines of a file whose bytes are at hand."""
    log = Log(path)
    for number, text in lines(data):
        _parse(log, number, text)
    return log


def content(path: Path) -> bytes:
    """The bytes of a file. Raises ValueError, in one line, where it cannot be opened."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read the log {path}: {error.strerror or error}") from error


def lines(data: bytes) -> Iterator[tuple[int, str]]:
    """(line number, text from the last token to the end of the line) of every line that has a token.

    A carriage return ends a line too, as progress bars use it; the number counts line feeds, as editors do.
    """
    number, counted = 1, 0
    for at, raw in token_lines(data, _TOKEN):
        number += data.count(b"\n", counted, at)
        counted = at
        yield number, _text(raw)


def token_lines(data: bytes, token: bytes) -> Iterator[tuple[int, bytes]]:
    """(where the first token is, bytes from the last token to the end of the line) of every line that has a token."""
    at = data.find(token)
    while at >= 0:
        found = _LINE_END.search(data, at)
        end = found.start() if found else len(data)
        yield at, data[data.rfind(token, at, end) : end]
        at = data.find(token, end)


def loads(text: str) -> Any:
    """json.loads(), without what it does around its parser, which takes a third of it on a short line."""
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        return json.loads(text)  # which says what is wrong, or skips white space
    return value if end == len(text) else json.loads(text)


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _parse(log: Log, number: int, text: str) -> None:
    text = text.strip()
    try:
        if text.startswith(_V07):
            log.entries.append(_v07(number, text))
            log.formats.add("0.7")
        elif text.startswith(":::MLL "):
            log.entries.append(_v06(number, text))
            log.formats.add("0.6")
        elif text.startswith(":::MLPv"):
            log.entries.append(_v05(number, text))
            log.formats.add("0.5")
        # Anything else that begins so is not a log line (":::MLPERF" in a banner).
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        log.faults.append(Fault(number, text[:_SHOWN_CHARACTERS], why))


def _v07(number: int, text: str) -> Entry:
    body = loads(text[len(_V07) :])
    if not isinstance(body, dict):
        raise ValueError("the line holds no JSON object")
    missing = [name for name in ("time_ms", "key", "value", "metadata") if name not in body]
    if missing:
        raise ValueError(f"the line lacks {', '.join(missing)}")
    metadata = body["metadata"]
    return Entry(number, _milliseconds(body["time_ms"]), _key(body["key"]), body["value"],
                 metadata if isinstance(metadata, dict) else {}, body.get("event_type"))  # fmt: skip


def _v06(number: int, text: str) -> Entry:
    found = _V06.match(text)
    if not found:
        raise ValueError("not of the form `:::MLL seconds key: {JSON}`")
    body = loads(found["value"])
    if not isinstance(body, dict) or "value" not in body:
        raise ValueError("the line's JSON lacks value")
    metadata = body.get("metadata")
    return Entry(number, _milliseconds(found["seconds"]) * 1e3, found["key"], body["value"],
                 metadata if isinstance(metadata, dict) else {}, None)  # fmt: skip


def _v05(number: int, text: str) -> Entry:
    found = _V05.match(text)
    if not found:
        raise ValueError("not of the form `:::MLPv0.5.0 benchmark seconds (file:line) key: value`")
    value = found["value"]
    try:
        value = loads(value) if value else None
    except ValueError:
        pass  # v0.5 has values that are plain text
    metadata = {"benchmark": found["benchmark"], "file": found["file"], "lineno": int(found["lineno"])}
    return Entry(number, _milliseconds(found["seconds"]) * 1e3, found["key"], value, metadata, None)


def _milliseconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"the time {str(value)[:40]!r} is not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"the time {str(value)[:40]!r} is not a number") from error
    if not abs(number) < 1e18:  # NaN too
        raise ValueError(f"the time {str(value)[:40]} is out of range")
    return number


def _key(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"the key {str(value)[:40]} is not text")
    return value
