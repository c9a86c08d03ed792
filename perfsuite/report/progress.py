"""What `perfsuite run` shows while it runs: loss, metric against target and time left, on standard error.

Where standard error is no terminal, one plain line for each finished pass and each note instead.
"""

import statistics
import sys
import time
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from perfsuite.record import Record
from perfsuite.report import figures

NAMES = {"clean": "run", "ledger": "ledger pass", "timeline": "timeline pass", "counters": "counters pass",
         "host_stacks": "host-stack pass"}  # fmt: skip


class RunProgress:
    """Observer of a run: the harness tells it how far it is, it shows that. Use it as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), _Standing(),
            console=self._console, transient=True,
        )  # fmt: skip
        self._task: Any = None
        self._record: Record | None = None
        self._name = ""
        self._started_s = 0.0
        self._left_after = 0
        self._samples_to_target: list[int] = []
        self._wall_s: list[float] = []

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def pass_started(self, kind: str, index: int, of: int, record: Record) -> None:
        """A pass begins: the index-th (from 0) of `of` of its kind."""
        self._record, self._started_s = record, time.monotonic()
        self._name = NAMES.get(kind, kind) + (f" {index + 1} of {of}" if of > 1 else "")
        self._name += f", batch size {record.batch_size}" if record.batch_size else ""
        self._left_after = _passes_after(kind, index, of, record)
        self._end_task()
        expected = self._expected_samples()
        self._task = self._bars.add_task(self._name, total=expected, standing="starting")

    def update(self, message: dict[str, Any]) -> None:
        """A message of the pass in flight: how far it has trained, or that it now measures its own cost."""
        if message["event"] == "own_cost":
            self._bars.update(self._task, total=None, standing="measuring what the recorders themselves cost")
        elif message["event"] == "progress":
            expected = max(self._expected_samples() or 0, message["samples"])
            standing = self._standing(message, expected)
            self._bars.update(self._task, completed=message["samples"], total=expected or None, standing=standing)

    def pass_done(self, result: dict[str, Any]) -> None:
        """A pass has ended: keep one line about it on the screen."""
        self._wall_s.append(time.monotonic() - self._started_s)
        if result.get("reached"):
            self._samples_to_target.append(result["samples"])
        self._end_task()
        self._console.print(Text(f"{self._name}: {self._outcome(result)}"), soft_wrap=True)

    def note(self, text: str) -> None:
        """Something the user should know, on a line of its own."""
        self._console.print(Text(text), soft_wrap=True)

    def _end_task(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None

    def _expected_samples(self) -> int | None:
        if self._samples_to_target:
            return round(statistics.median(self._samples_to_target))
        return (self._record.schedule or {}).get("max_samples")

    def _standing(self, message: dict[str, Any], expected: int) -> str:
        parts = []
        if message.get("loss") is not None:
            parts.append(f"loss {message['loss']:.3f}")
        target = self._record.target
        if message.get("quality") is not None and target:
            goal = f"{figures.sign(target)} {target['value']:g}"
            parts.append(f"{target['metric']} {message['quality']:.3f} (target {goal})")
        if message["samples"] and expected:
            left_s = message["elapsed_s"] * (expected - message["samples"]) / message["samples"]
            # Until one pass has reached the target, all that is known is where the schedule gives up.
            word = "about" if self._samples_to_target else "at most"
            parts.append(f"{word} {_duration(left_s)} left")
            if self._left_after and self._wall_s:
                parts.append(f"{_duration(left_s + self._left_after * statistics.median(self._wall_s))} in all")
        return ", ".join(parts)

    def _outcome(self, result: dict[str, Any]) -> str:
        if result.get("state") == "failed" or result.get("error"):
            return f"failed: {result.get('error')}"
        if result.get("kind") == "counters":
            replay = result.get("replay")
            return f"{result['num_steps']} steps replayed" if replay else "no counters: the report says why"
        took = f"{figures.seconds(result['clock_ns'] / 1e9)}, {figures.count(result['samples'])} samples"
        target = self._record.target
        metric = f", {target['metric']} {result['quality']:.4g}" if target and result.get("quality") is not None else ""
        end = f"{took}{metric} (seed {result['seed']})"
        if result.get("reached"):
            return f"target reached in {end}"
        return f"target not reached, stopped by {result.get('stop_reason')} after {end}"


class _Standing(ProgressColumn):
    """How the pass stands: plain text that is cut, not wrapped, where the terminal is narrow."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["standing"], no_wrap=True, overflow="ellipsis")


def _passes_after(kind: str, index: int, of: int, record: Record) -> int:
    order = [name for name in NAMES if (record.wanted or {}).get(name)]
    later = order if kind == "clean" else order[order.index(kind) + 1 :] if kind in order else []
    return of - index - 1 + len(later)


def _duration(seconds: float) -> str:
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
