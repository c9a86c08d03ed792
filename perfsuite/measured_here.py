"""What this machine has measured of the built-in workloads: the newest scored record of each, from a folder."""

from pathlib import Path
from typing import Any

from perfsuite import machine, record
from perfsuite.mlperf.score import score


def scored(out: Path) -> list[dict[str, Any]]:
    """The scored records of built-in workloads in `out` that this machine made, newest first; what cannot be read is
    left out, as `perfsuite runs` says why.

    Rows: {"id", "workload", "scale", "device", "ops", "use", "target", "batch_size", "time_to_train_s", "ci95_s"}.
    """
    here = machine.fingerprint_id(machine.fingerprint())
    rows = []
    for folder in reversed(record.list_folders(out)):
        try:
            made = record.load(folder)
        except record.RecordError:
            continue
        if made.kind != "run" or made.workload_path or machine.fingerprint_id(made.machine["fingerprint"]) != here:
            continue
        found, _ = score(vars(made))
        if found and found["time_to_train_s"] is not None:
            rows.append({
                "id": made.id, "workload": made.workload, "scale": made.scale, "device": made.device, "ops": made.ops,
                "use": made.use, "target": made.target["value"], "batch_size": made.config.get("batch_size"),
                "time_to_train_s": found["time_to_train_s"], "ci95_s": found["ci95_s"],
            })  # fmt: skip
    return rows
