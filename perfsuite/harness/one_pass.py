"""The process of one pass: reads what to do from its argument, reports progress on standard output, leaves its result.

    python -m perfsuite.harness.one_pass '{"folder": ..., "kind": "clean", "index": 0, "seed": 1, ...}'

One JSON document a line goes to standard output. What the workload prints goes to standard error, which the parent
keeps in a file. The process dies with its parent.
"""

import ctypes
import json
import os
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from perfsuite import record, tampering
from perfsuite.harness import data_files, ops_choice, own_cost, page_cache, touched_rows
from perfsuite.harness.batch_size import rescaled
from perfsuite.harness.replay import replay_steps
from perfsuite.harness.train import Trained, train_to_target
from perfsuite.mlperf.log import MLLog
from perfsuite.watch import Watch

OWN_COST_BUDGET_NS = 10 * 10**9
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the pass that the first argument describes. Exit code 0 whenever a result was left, also of a failed run."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    request = json.loads(sys.argv[1])
    if os.getppid() != request["parent_pid"]:  # it died before the line above
        sys.exit(1)
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # print() in a workload must not garble the channel
    result = {"kind": request["kind"], "index": request["index"], "seed": request["seed"]}

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")

    try:
        run_pass(request, send, result)
        result["state"] = "done"
    except Exception as error:  # whatever a workload raises: the record says so and the other passes are kept
        traceback.print_exc()
        result |= {"state": "failed", "reached": False, "error": f"{type(error).__name__}: {error}"}
    record.write_json(result_path(request), result)
    send({"event": "done"})


def result_path(request: dict[str, Any]) -> Path:
    """Where the parent finds the result of a pass."""
    return Path(request["folder"]) / f"pass-{request['kind']}-{request['index']}.json"


def run_pass(request: dict[str, Any], send: Any, result: dict[str, Any]) -> None:
    """Train once and fill `result` with what a record keeps of a pass."""
    import torch

    from perfsuite.workloads import registry

    torch.set_num_threads(request["threads"])
    folder, kind = Path(request["folder"]), request["kind"]
    workload = registry.load(request["workload"])
    config, _ = rescaled(workload, workload.CONFIGS[request["scale"]], request["batch_size"])
    if request.get("target") is not None:
        config = replace(config, target=replace(config.target, value=request["target"]))
    data_folder = Path(request["data_folder"])
    before = tampering.picture(settings=False) if ops_choice.digests(request["use"]) else {}
    ops_choice.select(request["ops"], request["use"], request["device"])
    build = ops_choice.building(request["ops"], workload.build)

    def make_watch(job: Any) -> Watch:
        return Watch(kind, getattr(job, "model", None), getattr(job, "optimizer", None))

    log_name = f"result_{request['index']}.txt" if kind == "clean" else f"{kind}_{request['index']}.txt"
    with MLLog(folder / log_name, source=request["workload"]) as log:
        if kind == "counters":
            made, arrays = replay_steps(build, config, device=request["device"], seed=request["seed"],
                                        folder=data_folder, log=log, make_watch=make_watch)  # fmt: skip
            result |= made | {"log": log_name}
            record.save_arrays(folder, result, arrays)
            return
        trained = train_to_target(
            build,
            config,
            device=request["device"],
            seed=request["seed"],
            folder=data_folder,
            division=request["division"],
            benchmark=workload.MLPERF or workload.NAME,
            log=log,
            make_watch=make_watch,
            cache_clear=page_cache.drop(data_files.files(config, data_folder)),
            on_progress=lambda message: send({"event": "progress", **message}),
        )
    result |= trained.result | {"log": log_name, "tampered": tampering.changes(before)}
    record.save_arrays(folder, result, trained.arrays)
    if kind == "ledger":
        result["rows"] = touched_rows.measure(trained.job, trained.batches)
    if kind == "ledger" and request["device"] == "cpu":
        # On a GPU the slowdown outlives the recorders' stop: there whole passes are compared (account_overhead).
        send({"event": "own_cost"})
        result["overhead"] = _own_cost(trained, make_watch(trained.job), request["device"])
    from perfsuite.ceilings import yardstick

    result["yardstick"] = yardstick()


def _own_cost(trained: Trained, watch: Watch, device: str) -> dict[str, Any] | None:
    steps = trained.result["num_steps"]
    in_steps = [p["time_ns"] for p in trained.result["phases"] if p["name"] not in ("evaluation", "other")]
    if not trained.result["reached"] or not steps:
        return None
    budget_ns = min(OWN_COST_BUDGET_NS, trained.result["clock_ns"])  # what a run costs to measure is not more than it
    return own_cost.measure(trained.job, trained.batches, watch, device, sum(in_steps) / steps, budget_ns)


if __name__ == "__main__":
    main()
