"""What a workload file promises to the harness. Standard library only.

A workload file has four public names:

    NAME      "llama": how it is called on the command line
    MLPERF    "llama31_8b": the keyword of the MLPerf benchmark it follows, or "" where there is none
    CONFIGS   {"tiny": Config(...), "gpu": Config(...)}: a frozen dataclass per scale, with the fields of `Basics`
    build(config, device, seed) -> Job

and may have two more:

    AREA      "language modelling": what MLPerf calls the area
    rescaled(config, batch_size) -> Config: the same with another batch size, and with the learning rate that the file's
              own rule gives for it; the schedule stays as it is in samples, rounded up to whole steps (whole_steps)

A workload does not know that it is measured: `phase(name)` is handed to it, and does nothing when nobody measures.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

Phase = Callable[[str], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Target:
    """The quality at which training is done."""

    metric: str
    """What is measured, e.g. "validation loss"."""
    unit: str
    """Its unit, e.g. "nats per byte"."""
    value: float
    """The quality to reach."""
    higher_is_better: bool

    def reached(self, quality: float) -> bool:
        """Whether this quality is as good as the target. NaN never is."""
        return quality >= self.value if self.higher_is_better else quality <= self.value


@dataclass(frozen=True)
class Schedule:
    """When to evaluate and when to give up. A sample is whatever the workload counts: a sequence, an image."""

    eval_every_samples: int
    """Training samples between evaluations; rounded up to whole steps."""
    first_eval_samples: int
    """Samples before the first evaluation; rounded up to whole steps."""
    max_samples: int
    """A run that has not reached the target after the evaluation at or past this many samples has not converged."""
    max_time_s: float
    """A run still training after this many seconds on the clock has not converged."""


def whole_steps(schedule: Schedule, batch_size: int) -> Schedule:
    """The same with max_samples rounded up to whole steps of this batch size."""
    return replace(schedule, max_samples=-(-schedule.max_samples // batch_size) * batch_size)


@dataclass(frozen=True)
class Basics:
    """The fields that the harness reads from every Config; a workload adds its own (dataclass inheritance)."""

    target: Target
    """The quality at which training is done."""
    schedule: Schedule
    """When to evaluate and when to give up."""
    batch_size: int
    """Samples in one training step, all devices together."""
    train_samples: int
    """Samples in the training set."""
    eval_samples: int
    """Samples in the evaluation set."""
    num_runs: int = 5
    """Runs that make a score."""
    data_files: tuple[str, ...] = ()
    """Files that open() reads, relative to the data folder: out of the page cache and out of reach before the clock.

    A name that ends in "/" is a folder of files whose names other files give."""
    data: str = ""
    """What the data is, in a few words, e.g. "World English Bible, 31,098 verses"."""
    data_from: str = ""
    """How to get the files where they are missing: one sentence, shown after the list of what is missing."""


class Job(Protocol):
    """One model in training, built for one seed."""

    def synthetic(self) -> Iterator[Any]:
        """Endless batches of the real shapes with made-up values, for the warm-up. Touches no data."""

    def open(self, folder: Path) -> Iterator[Any]:
        """Open training and evaluation data in `folder`; endless training batches in this seed's order.

        Called after run_start, once. Raises FileNotFoundError with how to get the data where it is missing.
        """

    def train_step(self, batch: Any, phase: Phase) -> Any:
        """One optimizer step, its parts inside phase("forward"), phase("backward") and phase("optimizer").

        Returns the loss: a float, or something float() takes, not yet waited for.
        """

    def evaluate(self, phase: Phase) -> float:
        """Quality on the whole evaluation set; the harness has entered phase("evaluation") around it."""

    def state(self) -> Any:
        """A copy of all that training changes, random generators included."""

    def restore(self, state: Any) -> None:
        """Back to what state() returned."""

    def log_values(self) -> dict[str, Any]:
        """Hyperparameters under their MLLOG keys, e.g. {"opt_name": "adamw", "opt_base_learning_rate": 1e-3}."""

    # A job may also have these, each for one part of the report:
    #     model, optimizer             memory by category, model FLOPs
    #     rows(batch) -> {table: (ids, row_bytes)}
    #         rows of each embedding table that this batch looks up: a 1-D int64 tensor, and the bytes of one row
