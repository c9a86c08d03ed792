"""Finds stored files under folders and reads them: what cannot be used is named once, and the rest goes on."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from perfsuite import record
from perfsuite.track import stored_benchmarks, stored_records
from perfsuite.track.measurement import Measurement

LARGEST_BYTES = 256 << 20
_DEFAULT = (Path(".benchmarks"), Path("runs"))


class Unusable(NamedTuple):
    """A file, or a part of one, that says nothing."""

    file: Path
    reason: str


class Unfit(ValueError):
    """Why a file cannot be used."""


def read(places: Sequence[Path]) -> tuple[list[Measurement], list[Unusable]]:
    """All figures in the files and folders `places`. ValueError for a place that does not exist."""
    for place in places:
        if not place.exists():
            raise ValueError(f"there is no {place}: give a folder of stored benchmarks, such as .benchmarks, or a file")
    found: list[Measurement] = []
    unusable: list[Unusable] = []
    seen: dict[str, Path] = {}
    for file in _files(places):
        try:
            figures, problems = _read(file, seen)
        except Unfit as error:
            unusable.append(Unusable(file, str(error)))
            continue
        found += figures
        unusable += [Unusable(file, problem) for problem in problems]
    return found, unusable


def default_places() -> list[Path]:
    """Where pytest-benchmark and perfsuite store. ValueError where neither has stored anything here."""
    places = [place for place in _DEFAULT if place.is_dir()]
    if not places:
        raise ValueError("there is no history here: neither .benchmarks (`pytest --benchmark-autosave` makes it) nor "
                         "runs; name its folder")  # fmt: skip
    return places


def _files(places: Sequence[Path]) -> Iterator[Path]:
    """Every .json once, in order; folders that are hidden are not entered, .benchmarks is."""
    known = set()
    for place in places:
        listed = sorted(_walk(place)) if place.is_dir() else [place]
        for file in listed:
            if (actual := file.resolve()) not in known:
                known.add(actual)
                yield file


def _walk(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") or name == ".benchmarks"]
        yield from (Path(here, name) for name in names if name.endswith(".json") and not name.startswith("."))


def _read(file: Path, seen: dict[str, Path]) -> tuple[list[Measurement], list[str]]:
    document, digest = _load(file)
    is_record = file.name == record.RECORD_FILE and "benchmarks" not in document
    if not is_record and not isinstance(document.get("benchmarks"), list):
        raise Unfit("neither a file of pytest-benchmark (it has no list of benchmarks) nor a record of perfsuite")
    identity = digest if is_record else stored_benchmarks.identity(document)
    if identity in seen:
        raise Unfit(f"the same run as {seen[identity]}, which is counted")
    seen[identity] = file
    if is_record:
        try:
            return stored_records.measurements(file.parent)
        except ValueError as error:
            raise Unfit(str(error)) from None
    if not document["benchmarks"]:
        raise Unfit("it holds no benchmark: none of that run was finished")
    return stored_benchmarks.measurements(document, file)


def _load(file: Path) -> tuple[dict[str, Any], str]:
    try:
        if not file.is_file():
            raise Unfit("not a regular file")
        size = file.stat().st_size
        if size > LARGEST_BYTES:
            raise Unfit(f"{size >> 20} MiB are more than the {LARGEST_BYTES >> 20} MiB that are read: store it without "
                        "--benchmark-save-data")  # fmt: skip
        if size == 0:
            raise Unfit("it is empty")
        content = file.read_bytes()
    except OSError as error:
        raise Unfit(f"it cannot be read: {error.strerror}") from None
    try:
        document = json.loads(content)
    except RecursionError:
        raise Unfit("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise Unfit("it is not text") from None
    except ValueError as error:
        raise Unfit(f"it is cut off or damaged: {error}") from None
    if not isinstance(document, dict):
        raise Unfit(f"it holds a {type(document).__name__}, not an object")
    return document, hashlib.sha256(content).hexdigest()
