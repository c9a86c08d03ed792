"""No data is touched before run_start: opening a data file earlier is an error (MLPerf training_policies, timing)."""

import os
import sys
from pathlib import Path
from typing import Any


class DataTouchedEarly(RuntimeError):
    """Something opened a data file before the clock started."""


class DataGuard:
    """Watches every open() that Python makes, inside `with`. What C++ code opens by itself is out of its sight.

    An audit hook cannot be taken back, so a process has one guard a pass; once allowed it costs a branch an event.
    """

    def __enter__(self) -> "DataGuard":
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = False  # whoever reports an error may read what it likes

    def __init__(self, folder: Path, files: tuple[str, ...]) -> None:
        """Guards the named files and folders (they end in "/"); where none is named, all under `folder` but code."""
        self._folder = os.path.realpath(folder)
        self._files = {os.path.realpath(folder / name) for name in files if not name.endswith("/")}
        self._folders = tuple(os.path.realpath(folder / name) + os.sep for name in files if name.endswith("/"))
        self._closed = True
        self._touched: str | None = None
        sys.addaudithook(self._audit)

    def allow(self) -> None:
        """The clock has started. Raises DataTouchedEarly where code caught the guard's error and went on."""
        if self._touched:
            raise DataTouchedEarly(self._message(self._touched))
        self._closed = False

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._closed or event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.path.realpath(os.fsdecode(arguments[0]))
        inside = path.startswith(self._folder + os.sep) and not path.endswith((".py", ".pyc"))
        named = path in self._files or path.startswith(self._folders)
        if named or (not self._files and not self._folders and inside):
            self._touched = path
            raise DataTouchedEarly(self._message(path))

    @staticmethod
    def _message(path: str) -> str:
        return f"data was touched before run_start: {path} was opened; open data in Job.open() only"
