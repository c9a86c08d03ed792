"""Reference convergence points: samples to target over many seeds, stored beside the workload as <name>.rcp.json.

Samples to target does not depend on how fast the machine is, so several runs share it; their times are not kept.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from perfsuite import record, topology
from perfsuite.harness.run import Observer, Request, new_record, run_process
from perfsuite.workloads import registry

SCHEMA = 1
FIRST_SEED = 1


def make(
    workload: str, scale: str, seeds: int, jobs: int, data_folder: Path | None, observer: Observer
) -> tuple[dict[str, Any], Path]:
    """Train with seeds 1, 2, ... and store where each crossed the target. Returns the points and their file."""
    request = Request(workload=workload, scale=scale, num_runs=seeds, seed=FIRST_SEED, data_folder=data_folder,
                      ledger=False)  # fmt: skip
    made = new_record(request)
    threads = max(1, len(topology.worker_cpus()) // jobs)
    with TemporaryDirectory() as scratch, ThreadPoolExecutor(jobs) as pool:
        quiet = _Quiet(observer, seeds, made)

        def one(index: int) -> dict[str, Any]:
            folder = Path(scratch, str(index))
            folder.mkdir()
            result = run_process(made, folder, "clean", 0, made.seeds[index], quiet, threads=threads)
            quiet.finished(result)
            return result

        results = list(pool.map(one, range(seeds)))
    path = registry.reference_points_file(workload)
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"schema": SCHEMA}
    command = f"perfsuite rcp {workload} --scale {scale} --seeds {seeds}"
    document[scale] = points = {
        "batch_size": made.config["batch_size"],
        "target": made.target["value"],
        "metric": made.target["metric"],
        "seeds": made.seeds,
        "samples_to_target": [r.get("samples") if r["reached"] else None for r in results],
        "quality": [r.get("quality") for r in results],
        "curves": {r["seed"]: [[e["samples"], e["quality"]] for e in r.get("evaluations", [])] for r in results},
        "made_with": {"torch": version("torch"), "command": command},
    }
    record.write_json(path, document)
    return points, path


def load(workload: str, scale: str) -> dict[str, Any] | None:
    """The points of a workload at a scale, as make() stored them; None where there are none."""
    path = registry.reference_points_file(workload)
    return json.loads(path.read_text(encoding="utf-8")).get(scale) if path.exists() else None


class _Quiet:
    """Several runs at once have no single progress: one line as each ends."""

    def __init__(self, observer: Observer, of: int, made: record.Record) -> None:
        self._observer, self._of, self._done, self._made = observer, of, 0, made

    def update(self, message: dict[str, Any]) -> None:
        pass

    def finished(self, result: dict[str, Any]) -> None:
        self._done += 1
        how = f"{result['samples']} samples" if result["reached"] else result.get("stop_reason") or result.get("error")
        self._observer.note(f"{self._done} of {self._of}: seed {result['seed']}: {how}")
