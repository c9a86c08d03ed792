"""A log with all that is known of it: what a check of one log is given, and what it says of the official checker."""

from dataclasses import dataclass

from perfsuite.mlperf import rounds
from perfsuite.mlperf.finding import NOT_CHECKED, SAME
from perfsuite.mlperf.official_check import Answer
from perfsuite.mlperf.reader import Entry, Log
from perfsuite.mlperf.rulebook import Benchmark, Rulebook
from perfsuite.mlperf.run_log import RunLog


@dataclass(frozen=True)
class Case:
    """A log with all that is known of it."""

    log: Log
    run: RunLog
    rules: Rulebook
    answer: Answer | None
    """The official checker's; None where it knows no such round."""

    @property
    def division(self) -> str:
        return rounds.division(self.run.division) or "closed"

    @property
    def benchmark(self) -> Benchmark | None:
        return self.rules.benchmarks.get(self.run.benchmark or "")

    def last(self, key: str) -> Entry | None:
        return next((entry for entry in reversed(self.log.entries) if entry.key == key), None)

    def first(self, key: str) -> Entry | None:
        return next((entry for entry in self.log.entries if entry.key == key), None)

    def official(self, *words: str) -> str:
        """Whether the official checker says the same: one of its messages has one of these words, or it crashes."""
        if self.answer and self.answer.crashed:
            return SAME
        messages = self.answer.messages if self.answer else []
        return SAME if any(word in message for word in words for message in messages) else NOT_CHECKED
