"""Rules of our own scales, made from the workloads: perfsuite/mlperf/rules/own_<workload>.json.

    python -m perfsuite.harness.rule_files [WORKLOAD ...]

A rule file says what the closed division of a workload's scale is, so that a log or a record can be checked without
torch, and on a machine where somebody has changed the workload. Make it anew when a workload is changed on purpose.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from perfsuite import record
from perfsuite.mlperf import rulebook
from perfsuite.workloads import registry
from perfsuite.workloads.contract import Basics

SCALES = ("tiny", "gpu")
OPS = ("eager", "native", "compile")
"""Values of --ops in the closed division: the same mathematics by other kernels."""
_DISCLOSED = ("lowest_numerical_precision_", "_parallelism", "micro_batch_size", "gradient_accumulation_steps",
              "config_filename")  # fmt: skip
"""Parts of keys that say how a run was done; they are no hyperparameters (training_rules, "Hyperparameters")."""
_DESCRIBED = ("target", "schedule", "num_runs", "data", "data_from")
"""Fields of a config that are rules of their own, or words."""
_REQUIRED = ["submission_benchmark", "submission_division", "submission_org", "submission_platform", "cache_clear",
             "init_start", "init_stop", "run_start", "run_stop", "block_start", "block_stop", "eval_start", "eval_stop",
             "eval_accuracy", "train_samples", "eval_samples", "seed"]  # fmt: skip


def make(workload: ModuleType) -> dict[str, Any]:
    """The rules of a workload's scales, as training.json has those of a round."""
    name = workload.NAME
    return {
        "schema": 1,
        "workload": name,
        "source": f"workloads/{name}.py, CONFIGS; init limit and seeds as in training_rules of 2026-05-14",
        "init_limit_min": [{"closed": 30, "open": 240}],
        "required": _REQUIRED,
        "benchmarks": [_scale(workload, scale) for scale in SCALES if scale in workload.CONFIGS],
        "official_is_wrong": [],
    }


def _scale(workload: ModuleType, scale: str) -> dict[str, Any]:
    config: Basics = workload.CONFIGS[scale]
    schedule = config.schedule
    evaluation = {"unit": "samples", "every": str(schedule.eval_every_samples)}
    if schedule.first_eval_samples != schedule.eval_every_samples:
        evaluation["first"] = f"{schedule.first_eval_samples} / {schedule.eval_every_samples} - 1"
    values = {"global_batch_size": config.batch_size, "train_samples": config.train_samples,
              "eval_samples": config.eval_samples} | log_values(workload, config)  # fmt: skip
    fixed = {key: value for key, value in values.items() if not any(part in key for part in _DISCLOSED)}
    fields = {key: value for key, value in asdict(config).items() if key not in _DESCRIBED}
    return {
        "benchmark": workload.MLPERF or workload.NAME,
        "usage": "own",
        "scale": scale,
        "targets": [{"value": config.target.value, "higher_is_better": config.target.higher_is_better}],
        "metric": config.target.metric,
        "unit": config.target.unit,
        "evaluation": evaluation,
        "max_samples": schedule.max_samples,
        "num_runs": config.num_runs,
        "hyperparameters": {key: f"value == {value!r}" for key, value in fixed.items()},
        "config": json.loads(json.dumps(fields)),
        "ops": list(OPS),
    }


def log_values(workload: ModuleType, config: Basics) -> dict[str, Any]:
    """What a job of this config logs of itself. Nothing is computed: a model for a GPU takes no memory here."""
    import torch

    with torch.device("meta"):
        return workload.build(config, "meta", 1).log_values()


def main(names: list[str]) -> None:
    """Write the rule files of the named workloads; of all without names."""
    for name in names or registry.names():
        path = rulebook.own_path(name)
        record.write_json(path, make(registry.load(name)))
        print(Path(*path.parts[-3:]))


if __name__ == "__main__":
    main(sys.argv[1:])
