"""Reads perfsuite's own records: time to train, samples to target and time per sample of each."""

import json
import math
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from perfsuite import machine, record
from perfsuite.mlperf.score import score
from perfsuite.track.measurement import (
    SAMPLES_TO_TARGET,
    TIME_PER_SAMPLE,
    TIME_TO_TRAIN,
    Measurement,
    machine_id,
    rates,
)

_NOT_OPTIONS = ("data_files", "num_runs")


def measurements(folder: Path) -> tuple[list[Measurement], list[str]]:
    """(the figures of a record, why it has no time to train). ValueError where it cannot be read."""
    made = record.load(folder)
    try:
        found, reason = score(vars(made))
        runs = [run["time_per_sample_s"] for run in (found or {}).get("runs", []) if run["time_per_sample_s"]]
        figures = {
            TIME_TO_TRAIN: (found or {}).get("time_to_train_s"),
            SAMPLES_TO_TARGET: (found or {}).get("samples_to_target"),
            TIME_PER_SAMPLE: median(runs) if runs else None,
        }
        shared = _shared(made, folder)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"it is damaged: {type(error).__name__} {error}") from None
    kept = [Measurement(quantity=quantity, value=float(value), **shared) for quantity, value in figures.items()
            if value and math.isfinite(value)]  # fmt: skip
    return kept, [reason] if reason else []


def _shared(made: record.Record, folder: Path) -> dict[str, Any]:
    fingerprint = made.machine["fingerprint"]
    use = "".join(f" --use {op}={name}" for op, name in sorted(made.use.items()))
    use += f" --batch-size {made.batch_size}" if made.batch_size else ""
    commit, plus, _ = (made.commit or "").partition("+")
    told = {
        "Python": fingerprint["python"]["version"],
        "kernel": fingerprint["os"]["kernel"],
        "torch": fingerprint["torch"],
        "GPU driver": fingerprint["driver"],
        "perfsuite": made.perfsuite_version,
        "fingerprint": machine.fingerprint_id(fingerprint),
    }
    return {
        "file": folder / record.RECORD_FILE,
        "benchmark": f"{made.workload} {made.scale} {made.device} --ops {made.ops}{use}",
        "time_s": datetime.fromisoformat(made.created).timestamp(),
        "machine": machine_id(fingerprint["cpu"]["model"] or fingerprint["cpu"]["architecture"],
                              fingerprint["cpu"]["logical_total"], [gpu["name"] for gpu in fingerprint["gpus"] or []]),
        "commit": commit or None,
        "dirty": bool(plus),
        "conditions": {key: str(value) for key, value in told.items() if value},
        "options": {key: json.dumps(value, sort_keys=True) for key, value in made.config.items()
                    if key not in _NOT_OPTIONS},
        "yardstick": rates([p["yardstick"] for p in made.passes if p.get("yardstick")]),
        "source": made.workload_path or f"workloads/{made.workload}.py",
    }  # fmt: skip
