"""MLPerf logs written by hand for tests: one valid run of llama31_8b, and ways to spoil it."""

import json
from pathlib import Path
from typing import Any

START_MS = 1_700_000_000_000
EVERY = 12_288
HYPERPARAMETERS = {
    "global_batch_size": 32, "max_sequence_length": 8192, "opt_name": "adamw", "opt_base_learning_rate": 0.001,
    "opt_end_learning_rate": 0.0001, "opt_learning_rate_warmup_steps": 256, "opt_learning_rate_decay_steps": 1_199_744,
    "opt_learning_rate_decay_schedule": "cosine with linear warmup", "opt_adamw_beta_1": 0.9, "opt_adamw_beta_2": 0.95,
    "opt_adamw_epsilon": 1e-05, "opt_adamw_weight_decay": 0.1, "opt_gradient_clip_norm": 1.0,
    "gradient_accumulation_steps": 4, "max_steps": 1_200_000, "train_samples": 1_574_207_408, "eval_samples": 1024,
}  # fmt: skip
DISCLOSED = {
    "lowest_numerical_precision_in_linear": "bfloat16", "lowest_numerical_precision_in_attn": "bfloat16",
    "lowest_numerical_precision_in_comm": "bfloat16", "tensor_parallelism": 1, "pipeline_parallelism": 1,
    "context_parallelism": 1, "expert_parallelism": 1, "micro_batch_size": 1, "config_filename": "config.yaml",
}  # fmt: skip

Event = dict[str, Any]


def event(at_s: float, kind: str, key: str, value: Any = None, **metadata: Any) -> Event:
    """One event, `at_s` seconds after the log's first."""
    return {"namespace": "", "time_ms": round(START_MS + 1000 * at_s), "event_type": kind, "key": key, "value": value,
            "metadata": {"file": "train.py", "lineno": 1, **metadata}}  # fmt: skip


def run(
    evals: int = 15, *, seed: int = 1, minutes: float = 60.0, init_s: float = 60.0, status: str = "success",
    division: str = "closed", qualities: list[float] | None = None, benchmark: str = "llama31_8b", **changed: Any,
) -> list[Event]:
    """A run that evaluates every 12,288 samples and reaches 3.29 at the last of `evals` evaluations."""
    point, start, end = "POINT_IN_TIME", "INTERVAL_START", "INTERVAL_END"
    about = {"submission_benchmark": benchmark, "submission_division": division, "submission_org": "Acme",
             "submission_platform": "1xH100", "submission_status": "onprem", "cache_clear": True}  # fmt: skip
    events = [event(0, point, key, value) for key, value in about.items()]
    events += [event(0, start, "init_start"), event(0, point, "seed", seed)]
    events += [event(0, point, key, value) for key, value in (DISCLOSED | HYPERPARAMETERS | changed).items()]
    events += [event(init_s, end, "init_stop"), event(init_s, start, "run_start")]
    qualities = qualities or [3.3 + 0.1 * (evals - i) for i in range(1, evals)] + [3.29]
    for i, quality in enumerate(qualities):
        before, after = i * EVERY, (i + 1) * EVERY
        at_s = init_s + 60 * minutes * (i + 1) / len(qualities)
        began_s = init_s + 60 * minutes * i / len(qualities)
        events += [
            event(began_s, start, "block_start", samples_count=before),
            event(at_s - 2, end, "block_stop", samples_count=after),
            event(at_s - 2, start, "eval_start", samples_count=after),
            event(at_s - 1, point, "eval_accuracy", quality, samples_count=after),
            event(at_s - 1, end, "eval_stop", samples_count=after),
        ]
    events.append(event(init_s + 60 * minutes, end, "run_stop", status=status))
    return events


def text(events: list[Event]) -> str:
    """The log."""
    return "".join(f":::MLLOG {json.dumps(one)}\n" for one in events)


def write(path: Path, events: list[Event]) -> Path:
    """The log as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text(events), encoding="utf-8")
    return path


def find(events: list[Event], key: str) -> Event:
    """The first event of a key."""
    return next(one for one in events if one["key"] == key)


def without(events: list[Event], *keys: str) -> list[Event]:
    """All events but those of some keys."""
    return [one for one in events if one["key"] not in keys]


def submission(root: Path, runs: list[list[Event]], *, system: str = "box", described: dict | None = None) -> Path:
    """A tree root/results/<system>/llama31_8b with the runs, and its system description; the organisation's folder."""
    from perfsuite.mlperf.system_fields import FIELDS

    for i, events in enumerate(runs):
        write(root / "results" / system / "llama31_8b" / f"result_{i}.txt", events)
    (root / "benchmarks" / "llama31_8b" / "implementations" / "ours").mkdir(parents=True)
    told = {"division": "closed", "status": "Available on-premise", "submitter": "Acme", "system_name": system,
            "number_of_nodes": "1", "accelerators_per_node": "1", "host_processors_per_node": "1"}  # fmt: skip
    description = dict.fromkeys(FIELDS, "x") | told
    (root / "systems").mkdir()
    (root / "systems" / f"{system}.json").write_text(json.dumps(description | (described or {})))
    return root


def contents(root: Path) -> dict[str, bytes]:
    """Every file under a folder, to see that nothing was written there."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
