"""What a check has to say: one sentence, where, by which rule, and whether the official tools say the same."""

from dataclasses import dataclass

ERROR, WARNING = "error", "warning"
SAME, NOT_CHECKED, CONTRARY = "the same", "not checked", "contrary"


@dataclass(frozen=True)
class Finding:
    """One thing that a check found."""

    rule: str
    """Short name of the check, e.g. "order"."""
    severity: str
    """ERROR: not valid. WARNING: worth a look."""
    text: str
    line: int | None = None
    """Of the log, from 1."""
    source: str = ""
    """Document and section of the rule."""
    official: str = NOT_CHECKED
    """Whether the official tools say the same."""
    log: str | None = None
    """Name of the log; None for what concerns the folder."""
