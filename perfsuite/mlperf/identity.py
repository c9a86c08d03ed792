"""Which benchmark and division the runs of a folder are of: what its logs and its system description say together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perfsuite.mlperf import rounds
from perfsuite.mlperf.results import Folder
from perfsuite.mlperf.run_log import RunLog


@dataclass(frozen=True)
class Identity:
    """None where neither says, or logs differ and nothing else says."""

    benchmark: str | None
    """As the logs name it; where they differ or name none, as the folder is called."""
    stated_division: Any
    """As the system description writes it; the logs' where there is none."""

    @property
    def division(self) -> str | None:
        """ "closed" or "open", however it is written."""
        return rounds.division(self.stated_division) or self.stated_division


def of(folder: Folder, runs: Sequence[RunLog]) -> Identity:
    """Of a folder. Reads its system description."""
    described = folder.system_description() or {}
    return Identity(
        _only({run.benchmark for run in runs} - {None}) or folder.benchmark,
        described.get("division") or _only({run.division for run in runs} - {None}),
    )


def _only(values: set[Any]) -> Any:
    """The only value; None where there are none or several."""
    return next(iter(values)) if len(values) == 1 else None
