"""What the official tools make of a system description: the package checker, its description checker, the summarizer.

Each reads systems/<system>.json in its own way, and each ends with a traceback on another defect of it.
"""

import json
from dataclasses import dataclass
from typing import Any

from perfsuite.mlperf import system_fields
from perfsuite.mlperf.finding import CONTRARY, SAME
from perfsuite.mlperf.results import Folder
from perfsuite.mlperf.rounds import Round

_FIELDS = ("division", "status", "submitter", "system_name", "host_processor_model_name", "number_of_nodes",
           "host_processor_core_count", "host_processors_per_node", "accelerator_model_name", "accelerators_per_node",
           "framework", "hw_notes", "sw_notes")  # fmt: skip
_NUMBERS = ("host_processors_per_node", "number_of_nodes", "accelerators_per_node")
_TEXTS = ("framework", "hw_notes", "sw_notes")
_FIRST_CHECKED = (1,)


@dataclass(frozen=True)
class Described:
    """The system of a folder."""

    division: str | None
    right: bool | None = None
    """What the description checker says; None where it does not look: a folder outside a submission, before 1.0."""
    package_crashed: str | None = None
    """How the package checker's traceback ends."""
    summarizer_crashed: str | None = None
    """How the summarizer's traceback ends."""
    passed_over: str | None = None
    """Why the summarizer has no row of this system, without a traceback."""


def read(folder: Folder, played: Round, division: str | None) -> Described:
    """The description of a folder's system; `division` is what the logs say, for a folder outside a submission."""
    if folder.root is None or folder.system is None:
        return Described(division)
    path = folder.root / "systems" / f"{folder.system}.json"
    name = f"systems/{path.name}"
    if not path.exists():
        return Described(None, None, f"FileNotFoundError: there is no {name}", None, f"there is no {name}")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        return Described(None, None, f"JSONDecodeError: {name}: {error}", f"TypeError: {name} is not JSON: {error}")
    except (OSError, ValueError, RecursionError) as error:
        crashed = f"{type(error).__name__}: {name}: {error}"
        return Described(None, None, crashed, crashed)
    division = described.get("division") if isinstance(described, dict) else None
    right, crashed = _checked(folder, played, described)
    return Described(division, right, crashed, _row_crash(described, name))


def _checked(folder: Folder, played: Round, described: Any) -> tuple[bool | None, str | None]:
    """(what the description checker says, how the package checker ends)."""
    name = f"systems/{folder.system}.json"
    right = None
    if played.version >= _FIRST_CHECKED:
        if isinstance(described, dict) and system_fields.no_texts(described):
            return None, f"TypeError: {name}: a field of the table is no text"
        right = not any(one.official in (SAME, CONTRARY) for one in system_fields.check(folder.root / name, played))
    if not isinstance(described, dict):
        return right, f"TypeError: {name} holds no JSON object"
    return right, None if "division" in described else f"KeyError: 'division' ({name})"


def _row_crash(described: Any, name: str) -> str | None:
    """How the summarizer ends on the fields of its row."""
    if not isinstance(described, dict):
        return f"TypeError: {name} holds no JSON object"
    missing = [field for field in _FIELDS if field not in described]
    if missing:
        return f"NameError: name 'system_file' is not defined ({name} has no field {missing[0]})"
    for field in _NUMBERS:
        try:
            int(described[field])
        except (ValueError, TypeError, OverflowError) as error:
            return f"{type(error).__name__}: {name}: {field}: {error}"
    wrong = [field for field in _TEXTS if not isinstance(described[field], str) and described[field]]
    return f"TypeError: {name}: {wrong[0]} is no text" if wrong else None
