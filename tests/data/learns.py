"""A small workload that learns through rms_norm: how many samples it needs depends on the gradient of the norm."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from perfsuite.kernels.rms_norm import rms_norm
from perfsuite.workloads.contract import Basics, Phase, Schedule, Target

NAME = "learns"
MLPERF = ""
ROWS, WIDTH = 24, 18


@dataclass(frozen=True)
class Config(Basics):
    """Nothing of its own."""


CONFIGS = {
    "tiny": Config(
        target=Target("mean square error", "1", 0.02, higher_is_better=False),
        schedule=Schedule(eval_every_samples=240, first_eval_samples=240, max_samples=240 * 60, max_time_s=60.0),
        batch_size=ROWS,
        train_samples=ROWS,
        eval_samples=ROWS,
        num_runs=2,
    )
}


class Job:
    """A matrix before a norm is fitted to that of a teacher, by plain gradient descent. All seeds do the same."""

    def __init__(self, config: Config) -> None:
        draw = torch.Generator().manual_seed(1)
        self.x = torch.randn(ROWS, WIDTH, generator=draw)
        self.weight = torch.ones(WIDTH)
        self.target = self.out(torch.randn(WIDTH, WIDTH, generator=draw))
        self.matrix = torch.randn(WIDTH, WIDTH, generator=draw).requires_grad_()

    def out(self, matrix: torch.Tensor) -> torch.Tensor:
        return rms_norm(self.x @ matrix, self.weight)

    def loss(self) -> torch.Tensor:
        return (self.out(self.matrix) - self.target).square().mean()

    def synthetic(self) -> Iterator[int]:
        while True:
            yield 0

    def open(self, folder: Path) -> Iterator[int]:
        return self.synthetic()

    def train_step(self, batch: int, phase: Phase) -> float:
        with phase("forward"):
            loss = self.loss()
        with phase("backward"):
            (gradient,) = torch.autograd.grad(loss, self.matrix)
        with phase("optimizer"), torch.no_grad():
            self.matrix -= 20 * gradient
        return float(loss.detach())

    def evaluate(self, phase: Phase) -> float:
        with torch.no_grad():
            return float(self.loss())

    def state(self) -> Any:
        return copy.deepcopy(self.matrix.detach())

    def restore(self, state: Any) -> None:
        with torch.no_grad():
            self.matrix.copy_(state)

    def log_values(self) -> dict[str, Any]:
        return {}


def build(config: Config, device: str, seed: int) -> Job:
    return Job(config)
