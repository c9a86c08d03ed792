"""The system description of a submission, systems/<system>.json: which fields it has, and what may stand in them.

Source: training_policies and policies, "System description"; the official system description checker asks that the
fields are there. All values are text.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from perfsuite.mlperf import rounds
from perfsuite.mlperf.finding import CONTRARY, ERROR, SAME, WARNING, Finding
from perfsuite.mlperf.rounds import Round

FIELDS = (
    "submitter", "division", "status", "system_name", "number_of_nodes", "host_processors_per_node",
    "host_processor_model_name", "host_processor_core_count", "host_processor_vcpu_count", "host_processor_frequency",
    "host_processor_caches", "host_processor_interconnect", "host_memory_capacity", "host_storage_type",
    "host_storage_capacity", "host_networking", "host_networking_topology", "host_memory_configuration",
    "accelerators_per_node", "accelerator_model_name", "accelerator_host_interconnect", "accelerator_frequency",
    "accelerator_on-chip_memories", "accelerator_memory_configuration", "accelerator_memory_capacity",
    "accelerator_interconnect", "accelerator_interconnect_topology", "cooling", "hw_notes", "framework",
    "other_software_stack", "operating_system", "sw_notes",
)  # fmt: skip
STATUSES = ("Available on-premise", "Available cloud", "Preview", "Research, Development, or Internal (RDI)")
_IN_TABLE = ("submitter", "system_name", "host_processor_model_name", "host_processor_core_count",
             "accelerator_model_name", "accelerators_per_node", "framework")  # fmt: skip
SOURCE = "submission rules, System description"


def no_texts(described: dict[str, Any]) -> list[str]:
    """Fields of the official checker's table that are no text: it joins them, and ends with a traceback."""
    return [name for name in _IN_TABLE if not isinstance(described.get(name, ""), str)]


def check(path: Path, played: Round) -> Iterator[Finding]:
    """Findings on one description. Rounds before 1.0 are not looked at by the official checker."""
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        yield Finding("system", ERROR, f"{path.name} cannot be read as JSON: {error}", None, SOURCE, SAME)
        return
    if not isinstance(described, dict):
        yield Finding("system", ERROR, f"{path.name} holds no JSON object", None, SOURCE, SAME)
        return
    missing = [name for name in FIELDS if name not in described]
    if missing:
        yield Finding("system", ERROR, f"{path.name} lacks {', '.join(missing)}", None, SOURCE, SAME)
    numbers = no_texts(described)
    if numbers:
        text = f"{path.name}: {', '.join(numbers)} should be text: the official checker ends with a traceback there"
        yield Finding("system", WARNING, text, None, SOURCE, CONTRARY)
    if rounds.division(described.get("division")) is None:
        yield Finding("system", ERROR, f"{path.name}: division is {described.get('division')!r}", None, SOURCE)
    elif described["division"] not in ("closed", "open"):
        text = f"{path.name}: division is written {described['division']!r}"
        yield Finding("system", WARNING, text, None, SOURCE)
    status = described.get("status")
    if played.usage == "training" and played.version >= (4,) and status is not None and status not in STATUSES:
        # Submissions of v4.0 wrote "available", as the rules' own example does; the words are asked for since v4.1.
        severity, official = (ERROR, SAME) if played.version >= (4, 1) else (WARNING, CONTRARY)
        yield Finding("system", severity, f"{path.name}: status is {status!r}, not one of {', '.join(STATUSES)}", None,
                      SOURCE, official)  # fmt: skip
