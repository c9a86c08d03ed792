"""Folders of logs, in whatever tree they lie: one folder, a submission, a round's repository, or a record of ours.

A submission has results/<system>/<benchmark>/result_<i>.txt under the organisation's name; the HPC suite has
results/<system>/strong|weak/<benchmark>/ (training_policies, "Submission structure").
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from perfsuite.mlperf import rounds
from perfsuite.record import RECORD_FILE

_NUMBER = re.compile(r"(\d+)")
_OTHER_LOGS = ("*.txt", "*.log", "*.out")
_TOKEN = b":::ML"
_SCALINGS = ("strong", "weak")
_LOOKED_AT_BYTES = 1 << 20


@dataclass(frozen=True)
class Folder:
    """The runs of one result."""

    path: Path
    """The folder, or the one log that was asked for."""
    logs: tuple[Path, ...]
    """result_*.txt in the order of their numbers; where there is none, every file that holds log lines."""
    named_by_the_rules: bool
    """Whether the logs are called result_<i>.txt."""
    organisation: str | None = None
    system: str | None = None
    benchmark: str | None = None
    """Name of the folder; the logs may say another."""
    scaling: str | None = None
    """ "strong" or "weak" in the HPC suite."""
    root: Path | None = None
    """The organisation's folder, which holds results/ and systems/."""
    in_odd_place: bool = False
    """Whether it lies in a submission that was asked for, and not where a submission has its results."""

    @property
    def is_pruned(self) -> bool:
        """Whether it holds the logs that a submitter took out of a throughput result of the HPC suite."""
        return self.path.name == "pruned_results"

    @property
    def label(self) -> str:
        """How it is called in a table."""
        parts = (self.organisation, self.system, self.scaling, self.benchmark)
        return "/".join(part for part in parts if part) or str(self.path)

    def system_description(self) -> dict[str, Any] | None:
        """What systems/<system>.json says; None where there is none or it cannot be read."""
        if self.root is None or self.system is None:
            return None
        try:
            described = json.loads((self.root / "systems" / f"{self.system}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return described if isinstance(described, dict) else None


def find(path: Path) -> list[Folder]:
    """Every folder of logs at or under `path`; a file is a folder of one log. Raises ValueError where there is none."""
    if path.is_file():
        return [replace(_folder(path.parent, (path,), path.name.startswith("result_")), path=path)]
    if not path.is_dir():
        raise ValueError(f"there is no file or folder {path}: give a log, a folder of logs or a submission")
    found: dict[Path, list[Path]] = {}
    for log in path.rglob("result_*.txt"):
        if log.is_file():
            found.setdefault(log.parent, []).append(log)
    if found:
        folders = [_folder(where, _in_order(logs), True) for where, logs in found.items()]
        folders = sorted([*folders, *_without_result_logs(path, found)], key=lambda folder: folder.path)
        return [replace(folder, in_odd_place=folder.in_odd_place and folder.path != path) for folder in folders]
    for log in _other_logs(path, "rglob"):
        found.setdefault(log.parent, []).append(log)
    if not found:
        raise ValueError(f"{path} holds no MLPerf logs: no file result_<i>.txt, and no other with lines that begin "
                         "with :::MLLOG, :::MLL or :::MLPv")  # fmt: skip
    return [_folder(where, _in_order(logs), False) for where, logs in sorted(found.items())]


def _without_result_logs(path: Path, found: Iterable[Path]) -> Iterator[Folder]:
    """Folders of a submission that are called after a benchmark, and neither are nor hold one of `found`."""
    seen = {above for where in found for above in (where, *where.parents)}
    for where in path.rglob("*"):
        if where.name in rounds.NUM_RUNS and where not in seen and where.is_dir():
            folder = _folder(where, _in_order(_other_logs(where, "glob")), False)
            if folder.root is not None and (folder.root / "systems").is_dir():
                yield folder


def _other_logs(path: Path, how: Literal["glob", "rglob"]) -> list[Path]:
    """Files with log lines; those under power/ are of the power of a run, and no run."""
    return [log for pattern in _OTHER_LOGS for log in getattr(path, how)(pattern)
            if "power" not in log.relative_to(path).parts and log.is_file() and _has_log_lines(log)]  # fmt: skip


def _in_order(logs: list[Path]) -> tuple[Path, ...]:
    def key(path: Path) -> tuple[list[int], str]:
        return [int(number) for number in _NUMBER.findall(path.name)], path.name

    return tuple(sorted(logs, key=key))


def _has_log_lines(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _TOKEN in file.read(_LOOKED_AT_BYTES)
    except OSError:
        return False


def _folder(path: Path, logs: tuple[Path, ...], named: bool) -> Folder:
    parts = path.absolute().parts
    at = max((i for i, part in enumerate(parts) if part == "results"), default=None)
    below = parts[at + 1 :] if at is not None else ()
    if (path / RECORD_FILE).is_file():  # of ours, wherever it lies
        return Folder(path, logs, named)
    root = Path(*parts[:at]) if at is not None else None
    if len(below) not in (2, 3) or (len(below) == 3 and below[1] not in _SCALINGS):
        return Folder(path, logs, named, in_odd_place=root is not None and (root / "systems").is_dir())
    return Folder(path, logs, named, root.name, below[0], below[-1], below[1] if len(below) == 3 else None, root)
