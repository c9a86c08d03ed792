"""A workload whose losses and qualities are a script, under the closed llama31_8b configuration of MLPerf v6.1.

It trains nothing: it drives the harness, and the official checker reads the log.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfsuite.workloads.contract import Basics, Phase, Schedule, Target

NAME = "scripted"
MLPERF = "llama31_8b"


@dataclass(frozen=True)
class Config(Basics):
    """The closed configuration; only the script is ours."""

    qualities: tuple[float, ...] = (3.6, 3.4, 3.29)
    """What the evaluations return, in order; the last one for ever after."""
    losses: tuple[float, ...] = (4.0,)
    """What the training steps return, in order; the last one for ever after."""


CONFIGS = {
    "tiny": Config(
        target=Target("log perplexity", "nats per token", 3.3, higher_is_better=False),
        schedule=Schedule(eval_every_samples=12288, first_eval_samples=12288, max_samples=12288 * 6, max_time_s=60.0),
        batch_size=32,
        train_samples=1574207408,
        eval_samples=1024,
        num_runs=3,
    )
}


class ScriptedJob:
    """Does what the configuration says and remembers what was asked of it."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config = config
        self.steps = 0
        self.evaluations = 0
        self.opened: Path | None = None

    def synthetic(self) -> Iterator[int]:
        return itertools.count()

    def open(self, folder: Path) -> Iterator[int]:
        self.opened = folder
        return itertools.count()

    def train_step(self, batch: int, phase: Phase) -> float:
        for name in ("forward", "backward", "optimizer"):
            with phase(name):
                pass
        self.steps += 1
        return self.config.losses[min(self.steps, len(self.config.losses)) - 1]

    def evaluate(self, phase: Phase) -> float:
        self.evaluations += 1
        return self.config.qualities[min(self.evaluations, len(self.config.qualities)) - 1]

    def state(self) -> Any:
        return self.steps

    def restore(self, state: Any) -> None:
        self.steps = state

    def log_values(self) -> dict[str, Any]:
        return {
            "lowest_numerical_precision_in_linear": "bfloat16",
            "lowest_numerical_precision_in_attn": "bfloat16",
            "lowest_numerical_precision_in_comm": "bfloat16",
            "tensor_parallelism": 1,
            "pipeline_parallelism": 1,
            "context_parallelism": 1,
            "expert_parallelism": 1,
            "micro_batch_size": 1,
            "config_filename": "scripted.py",
            "global_batch_size": 32,
            "max_sequence_length": 8192,
            "opt_name": "adamw",
            "opt_base_learning_rate": 0.001,
            "opt_end_learning_rate": 0.0001,
            "opt_learning_rate_warmup_steps": 256,
            "opt_learning_rate_decay_steps": 1199744,
            "opt_learning_rate_decay_schedule": "cosine with linear warmup",
            "opt_adamw_beta_1": 0.9,
            "opt_adamw_beta_2": 0.95,
            "opt_adamw_epsilon": 1e-05,
            "opt_adamw_weight_decay": 0.1,
            "opt_gradient_clip_norm": 1.0,
            "gradient_accumulation_steps": 4,
            "max_steps": 1200000,
        }


def build(config: Config, device: str, seed: int) -> ScriptedJob:
    return ScriptedJob(config, seed)
