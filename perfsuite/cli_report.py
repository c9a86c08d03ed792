"""From the folder of a record to its account and its page, for every command that shows one."""

from pathlib import Path
from typing import Any


def account_of(folder: Path, window: tuple[int, int] | None = None) -> dict[str, Any]:
    """The account of the record in `folder`; of the steps `window` only where one is given."""
    from perfsuite import ledger, record

    made = record.load(folder)
    return ledger.account(vars(made), lambda name: record.arrays_of(folder, name), window)


def write_page(account: dict[str, Any], folder: Path) -> Path | str:
    """Write report.html beside the record; its path, or why there is none."""
    from perfsuite import record

    try:
        from perfsuite.report.html import render
    except ImportError as error:
        return f"no page: {error.name} is not installed (pip install perfsuite[report])"
    path = folder / "report.html"
    try:
        record.write_atomically(path, render(account).encode())
    except record.RecordError as error:  # a record can be shown where it cannot be written
        return f"no page: {error}"
    return path
