"""Time-to-train with --ops native and --ops compile against --ops eager: the same seeds, interleaved.

For each seed every choice is trained once to the target, in a random order, each in a process of its own, as
`perfsuite run` does; prints JSON last. Steps to the target may differ by an evaluation, as rounding differs: times are
compared as they are, and per sample.
`python bench/ops_time_to_train.py llama --seeds 10`
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from perfsuite import machine
from perfsuite.harness.run import Request, new_record, prepare, run_process
from perfsuite.stats import ratio_of_medians

CHOICES = ("eager", "native", "compile")
FIRST_SEED = 101


class Quiet:
    """An observer that shows nothing but notes."""

    def update(self, message: dict[str, Any]) -> None:
        """Nothing: one line for each finished run is enough."""

    def note(self, text: str) -> None:
        """To standard error."""
        print(text, file=sys.stderr)


def time_s(result: dict[str, Any]) -> float:
    """Seconds from run_start to run_stop."""
    return sum(phase["time_ns"] for phase in result["phases"]) / 1e9


def to_train(run: dict[str, Any]) -> float:
    return run["time_s"]


def per_sample(run: dict[str, Any]) -> float:
    return run["time_s"] / run["samples"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", nargs="?", default="llama")
    parser.add_argument("--scale", default="tiny")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    records = {
        ops: new_record(Request(options.workload, options.scale, num_runs=options.seeds, seed=FIRST_SEED, ops=ops,
                                ledger=False))
        for ops in CHOICES
    }  # fmt: skip
    runs: dict[str, list[dict[str, Any]]] = {ops: [] for ops in CHOICES}
    order = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        prepare(records["eager"], Path(scratch), Quiet())
        for index, seed in enumerate(records["eager"].seeds):
            for ops in order.sample(CHOICES, len(CHOICES)):
                folder = Path(scratch, f"{ops}-{index}")
                folder.mkdir()
                result = run_process(records[ops], folder, "clean", 0, seed, Quiet())
                if result["state"] != "done" or not result["reached"]:
                    raise SystemExit(f"seed {seed} with --ops {ops} did not reach the target: {result.get('error')}")
                runs[ops].append({"seed": seed, "time_s": time_s(result), "samples": result["samples"],
                                  "quality": result["quality"], "init_s": result["init_ns"] / 1e9})  # fmt: skip
                print(f"seed {seed} {ops}: {time_s(result):.2f} s, {result['samples']} samples", file=sys.stderr)
    ratios = {}
    for slow, fast in (("eager", "native"), ("eager", "compile"), ("compile", "native")):
        for what, value in (("time to train", to_train), ("time per sample", per_sample)):
            ratio, lo, hi = ratio_of_medians([value(r) for r in runs[slow]], [value(r) for r in runs[fast]])
            ratios[f"{slow} / {fast}, {what}"] = {"ratio": ratio, "ci95": [lo, hi]}
    print(json.dumps({"benchmark": f"{options.workload} {options.scale}", "machine": machine.machine_name(),
                      "median_s": {ops: median(r["time_s"] for r in runs[ops]) for ops in CHOICES},
                      "ratios": ratios, "runs": runs}))  # fmt: skip


if __name__ == "__main__":
    main()
