"""A workload with two embedding tables whose rows are known: batch i looks up users 10 i to 10 i + 9, each twice, and
the same five films every time."""

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from perfsuite.workloads.contract import Basics, Phase, Schedule, Target

NAME, MLPERF = "looks_up", ""
USERS, WIDTH, BATCH = 4000, 16, 20
CONFIGS = {
    "tiny": Basics(
        target=Target("loss", "1", -1.0, higher_is_better=False),  # cannot be reached
        schedule=Schedule(eval_every_samples=100, first_eval_samples=100, max_samples=100, max_time_s=60.0),
        batch_size=BATCH,
        train_samples=USERS,
        eval_samples=1,
        num_runs=1,
    )
}


class Job:
    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        tables = {"users": torch.nn.Embedding(USERS, WIDTH), "films": torch.nn.Embedding(5, 2 * WIDTH)}
        self.model = torch.nn.ModuleDict(tables)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)

    def synthetic(self) -> Iterator[torch.Tensor]:
        return (torch.arange(10 * i, 10 * i + 10).repeat(2) for i in itertools.count())

    def open(self, folder: Path) -> Iterator[torch.Tensor]:
        return self.synthetic()

    def train_step(self, batch: torch.Tensor, phase: Phase) -> torch.Tensor:
        with phase("forward"):
            loss = self.model["users"](batch).square().mean() + self.model["films"].weight.square().mean()
        with phase("backward"):
            loss.backward()
        with phase("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()

    def rows(self, batch: torch.Tensor) -> dict[str, tuple[torch.Tensor, int]]:
        return {"users": (batch, 4 * WIDTH), "films": (torch.arange(5), 8 * WIDTH)}

    def evaluate(self, phase: Phase) -> float:
        return 1.0

    def state(self) -> Any:
        return copy.deepcopy(self.model.state_dict())

    def restore(self, state: Any) -> None:
        self.model.load_state_dict(state)

    def log_values(self) -> dict[str, Any]:
        return {}


def build(config: Basics, device: str, seed: int) -> Job:
    return Job(seed)
