"""Verdicts as pytest reports: a SLOWER test fails by its own name, and JUnit gets a testcase with the figures.

They are ordinary reports, sent through pytest's hook: the summary, --junitxml, --last-failed and other people's
plugins see them without knowing of us.
"""

from types import SimpleNamespace
from typing import Any

import pytest

from perfsuite.bench_plugin.gate import Judged


class Said:
    """A failure's text, in the form that pytest's summary and JUnit ask for."""

    def __init__(self, location: tuple[str, int | None, str], text: str) -> None:
        self._text = text
        path, line, _ = location
        self.reprcrash = SimpleNamespace(path=path, lineno=(line or 0) + 1, message=text.splitlines()[0])

    def __str__(self) -> str:
        return self._text

    def toterminal(self, tw: Any) -> None:
        """Write it."""
        tw.line(self._text)


def send(config: pytest.Config, judged: Judged, location: tuple[str, int | None, str], baseline: str,
         strict: bool) -> None:  # fmt: skip
    """Report one verdict; it fails where it is SLOWER, and where strict also when nobody can tell."""
    failed = judged.fails(strict)
    text = "\n".join([*judged.lines, f"baseline: {baseline}"])
    for when in ("call", "teardown"):
        report = pytest.TestReport(
            nodeid=judged.test, location=location, keywords={}, when=when,
            outcome="failed" if failed and when == "call" else "passed",
            longrepr=Said(location, text) if failed and when == "call" else None,
            user_properties=_properties(judged, baseline),
        )  # fmt: skip
        report.perfsuite_word = judged.word
        config.hook.pytest_runtest_logreport(report=report)


def _properties(judged: Judged, baseline: str) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = [("perfsuite.baseline", baseline), ("perfsuite.verdict", judged.word)]
    for what, one in judged.verdicts.items():
        low, high = one.ci95 or (None, None)
        found += [(f"perfsuite.{what}.{name}", value) for name, value in (
            ("verdict", one.word), ("ratio", one.ratio), ("low", low), ("high", high), ("threshold", one.threshold),
            ("why", one.why))]  # fmt: skip
    return found + [("perfsuite.grown", phrase) for phrase in judged.grown]
