"""Records: everything a command measured, raw, in one folder that any later version can read.

    runs/0007-llama-tiny-<machine>/
      record.json        this module's Record: conditions and the passes, raw values
      result_0.txt ...   MLLOG of each clean pass
      pass-*.npz         arrays of each pass: times of every step, samples of every instrument

Every file is written to a temporary name, flushed to the disk and renamed: a reader sees the old one or the new one.
"""

import dataclasses
import io
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA = 4
RECORD_FILE = "record.json"


class RecordError(ValueError):
    """A record that cannot be found, read or written; the message says which, why, and how to mend it."""


@dataclass
class Record:
    """What a command measured and under which conditions. Statistics are not stored: they are computed from this."""

    id: str
    kind: str
    """"run" (a workload under the harness) or "watch" (somebody's own loop)."""
    created: str
    """ISO 8601, UTC."""
    command: list[str]
    commit: str | None
    perfsuite_version: str
    workload: str
    workload_path: str | None
    """The file of a workload that does not come with perfsuite."""
    scale: str
    device: str
    division: str
    """"open" or "closed", as MLPerf uses the words."""
    use: dict[str, str]
    """Implementation chosen for single ops."""
    config: dict[str, Any]
    target: dict[str, Any] | None
    schedule: dict[str, Any] | None
    num_runs: int
    seeds: list[int]
    """One per clean pass, in the order they are run."""
    data_folder: str | None
    """Where the data was read; None: the data that comes with perfsuite."""
    wanted: dict[str, Any]
    """Which passes were asked for, so that --resume knows what is missing."""
    machine: dict[str, Any]
    """fingerprint, ceilings and, where there are none, ceilings_reason."""
    build: dict[str, Any] = field(default_factory=dict)
    """Seconds that compiling native code took before the passes, 0 where it was built already."""
    ops: str = "eager"
    """How the other ops are done: "eager", "native" (the measured best of ours) or "compile" (torch.compile)."""
    batch_size: int | None = None
    """What --batch-size asked for; None: the workload's own. `config` is that of the runs."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the results has to know of the conditions, a sentence each."""
    passes: list[dict[str, Any]] = field(default_factory=list)
    schema: int = SCHEMA


def write_json(path: Path, document: Any) -> None:
    """Write JSON atomically. NaN and infinity become null: JSON has no word for them."""
    text = json.dumps(_finite(document), indent=1, allow_nan=False)
    write_atomically(path, text.encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees all of it or none. Raises RecordError naming path and cause."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RecordError(f"cannot write {path}: {error.strerror}; free some space or choose another --out") from error


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, np.generic):
        return _finite(value.item())
    return value


def new_folder(root: Path, name: str) -> Path:
    """Make and return root/NNNN-name with the next free number. Raises RecordError where root cannot be written."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        while True:
            numbers = [int(m[1]) for p in root.iterdir() if (m := re.match(r"(\d{4,})-", p.name))]
            folder = root / f"{max(numbers, default=0) + 1:04d}-{name}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:  # another process took the number
                continue
    except OSError as error:
        raise RecordError(f"cannot write in {root}: {error.strerror}; choose another folder with --out") from error


def save(record: Record, folder: Path) -> None:
    """Write record.json atomically."""
    write_json(folder / RECORD_FILE, dataclasses.asdict(record))


def load(folder: Path) -> Record:
    """Read a record. Raises RecordError where it is missing, not JSON, of a newer schema or not a record."""
    path = folder / RECORD_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"no record in {folder}: it has no {RECORD_FILE}; `perfsuite runs` lists records") from None
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RecordError(f"{path} is not JSON ({error}): the file is damaged; restore it or run again") from error
    if not isinstance(document, dict) or not isinstance(document.get("schema"), int):
        raise RecordError(f"{path} is not a perfsuite record: it has no schema number")
    if document["schema"] > SCHEMA:
        newer = document["schema"]
        raise RecordError(f"{path} has schema {newer}, this version reads up to {SCHEMA}: upgrade perfsuite")
    for schema in range(document["schema"], SCHEMA):
        document = _MIGRATIONS[schema](document)
    names = {f.name for f in dataclasses.fields(Record)}
    missing = names - document.keys()
    if missing:
        raise RecordError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}; restore it or run again")
    return Record(**{name: document[name] for name in names})


def _to_2(document: dict[str, Any]) -> dict[str, Any]:
    """Before --ops there was eager alone, but for what --use named."""
    return document | {"ops": "eager", "schema": 2}


def _to_3(document: dict[str, Any]) -> dict[str, Any]:
    """Before the instruments of a GPU there were no timeline and counter passes, and nothing of theirs in others."""
    new = document | {"schema": 3}
    if "wanted" in document:
        new["wanted"] = {"timeline": False, "counters": False} | document["wanted"]
    if "passes" in document:
        absent = dict.fromkeys(("kernels", "gpu_memory", "counters", "replay"))
        new["passes"] = [absent | pass_ for pass_ in document["passes"]]
    return new


def _to_4(document: dict[str, Any]) -> dict[str, Any]:
    """Before --batch-size every run had the workload's own."""
    return document | {"batch_size": None, "notes": [], "schema": 4}


_MIGRATIONS = {1: _to_2, 2: _to_3, 3: _to_4}
"""By schema number: what makes a record of the next one of it."""


def save_arrays(folder: Path, result: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays of a pass beside the record, atomically, and name their file in the pass."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    result["arrays"] = f"pass-{result['kind']}-{result['index']}.npz"
    write_atomically(folder / result["arrays"], buffer.getvalue())


def arrays_of(folder: Path, file_name: str) -> Mapping[str, np.ndarray]:
    """The arrays of a pass. Raises RecordError where the file is missing or damaged."""
    path = folder / file_name
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise RecordError(f"{path} is missing: the record needs it; restore it or run again") from None
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise RecordError(f"{path} is damaged ({error}); restore it or run again") from error


def find(which: str, root: Path, file: str = RECORD_FILE) -> Path:
    """The folder that a user means, of those that hold `file`: a path, a number or name under root, or "last"."""
    if (Path(which) / file).exists():
        return Path(which)
    folders = list_folders(root, file)
    if which == "last" and folders:
        return folders[-1]
    matches = [f for f in folders if f.name == which or (which.isdigit() and int(f.name.split("-")[0]) == int(which))]
    if len(matches) == 1:
        return matches[0]
    known = ", ".join(f.name for f in folders[-3:]) or "none"
    what = Path(file).stem
    raise RecordError(f"no {what} {which!r} in {root} (newest there: {known}); give a number, a folder or 'last'")


def list_folders(root: Path, file: str = RECORD_FILE) -> list[Path]:
    """Folders under root that hold a record, or another `file`, oldest first."""
    if not root.is_dir():
        return []
    return sorted((p for p in root.iterdir() if re.match(r"\d{4,}-", p.name) and (p / file).exists()),
                  key=lambda p: int(p.name.split("-")[0]))
