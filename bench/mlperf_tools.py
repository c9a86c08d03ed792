"""Verify and score a published tree of MLPerf results: perfsuite against the official tools, times, memory, answers.

`python bench/mlperf_tools.py TREE --round 5.1` takes a checkout of a round's results (folders <org>/results and
<org>/systems; nothing of it is kept here). Official: mlperf-logging's package checker, organisation by organisation,
and its result summarizer over the tree, on a copy, as both write into it. Ours: one process, `perfsuite score TREE`,
which verifies by the rules text, gives the official answers and scores. In turns; the official tools run once.
Then a log of --log-mb MB, verified and scored: one of nothing but log lines, one that is mostly other output.
Writes mlperf_tools.json to the results of this machine. Exit code 1: a score differs from the summarizer's.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from perfsuite import conditions, machine, record
from perfsuite.mlperf import rounds

RESULTS = Path(__file__).parents[1] / "bench" / "results"
PERFSUITE = (sys.executable, "-P", "-c", "from perfsuite.cli import main; main()")
OFFICIAL = (sys.executable, "-m")


def process(command: list[str], out: Path) -> dict[str, Any]:
    """Run to the end: wall and processor seconds, largest resident set, exit code; what it prints goes to `out`."""
    with out.open("wb") as stdout, out.with_suffix(".err").open("wb") as stderr:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=out.parent)
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - start
    return {"wall_s": wall_s, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_rss_bytes": usage.ru_maxrss * 1024,
            "exit_code": os.waitstatus_to_exitcode(status)}  # fmt: skip


def official(tree: Path, played: rounds.Round, scratch: Path) -> dict[str, Any]:
    """The official tools on a copy of the tree."""
    copy = scratch / "tree"
    shutil.copytree(tree, copy)
    told = [played.usage, played.ruleset]
    # The summarizer first: both write scaling.json, and what the tree came with is what is compared.
    summarizer = process([*OFFICIAL, "mlperf_logging.result_summarizer", f"{copy}/{{*}}", *told, "--csv",
                          str(scratch / "summary.csv")], scratch / "summary.txt")  # fmt: skip
    runs = [process([*OFFICIAL, "mlperf_logging.package_checker", str(org), *told], scratch / f"{org.name}.txt")
            for org in sorted(copy.iterdir()) if (org / "results").is_dir()]  # fmt: skip
    checker = {name: sum(run[name] for run in runs) for name in ("wall_s", "cpu_s")}
    checker["peak_rss_bytes"] = max(run["peak_rss_bytes"] for run in runs)
    return {"package_checker": checker, "result_summarizer": summarizer}


def summarized(path: Path, benchmarks: set[str]) -> list[tuple[str, str]]:
    """(benchmark, score as printed) of each score in the summarizer's table."""
    with path.open(newline="") as file:
        return sorted((name, row[name]) for row in csv.DictReader(file) for name in benchmarks if row.get(name))


def synthetic(path: Path, size_bytes: int, other_lines: int) -> None:
    """A log of one run with `other_lines` lines of other output for each log line, made up."""
    line = (':::MLLOG {"namespace": "", "time_ms": %d, "event_type": "POINT_IN_TIME", "key": "train_loss", '
            '"value": %.6f, "metadata": {"file": "train.py", "lineno": 100, "samples_count": %d}}\n')  # fmt: skip
    with path.open("w") as file:
        step = 0
        while file.tell() < size_bytes:
            step += 1
            file.write(line % (1_750_000_000_000 + step, 5 / step, 16 * step))
            file.write(f"step {step}: 16 samples, 0.25 s a step, the loss is {5 / step:.6f}\n" * other_lines)


def main() -> int:
    """Measure, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--round", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--log-mb", type=int, default=200)
    args = parser.parse_args()
    played = rounds.parse(args.round)
    tree = args.tree.resolve()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        ours = [process([*PERFSUITE, "score", str(tree), "--round", args.round, "--json"], scratch / "ours.json")]
        theirs = official(tree, played, scratch)
        for _ in range(args.repeats - 1):
            ours.append(process(
                [*PERFSUITE, "score", str(tree), "--round", args.round, "--json"], scratch / "ours.json"))  # fmt: skip
        found = json.loads((scratch / "ours.json").read_text())["results"]
        scored = [one for one in found if one["official"]["score_min"] is not None]
        mine = sorted((one["benchmark"], repr(one["official"]["score_min"])) for one in scored)
        table = summarized(scratch / "summary.csv", {one["benchmark"] for one in scored})
        logs = {}
        for name, other_lines in (("log lines only", 0), ("one log line in 100", 99)):
            path = scratch / "result_0.txt"
            synthetic(path, args.log_mb << 20, other_lines)
            logs[name] = {verb: process([*PERFSUITE, verb, str(path), "--round", args.round, "--json"],
                                        scratch / "log.json") for verb in ("verify", "score")}  # fmt: skip
    fastest = min(ours, key=lambda run: run["wall_s"])
    whole = {name: sum(tool[name] for tool in theirs.values()) for name in ("wall_s", "cpu_s")}
    result = {
        "schema": 1,
        "command": f"python bench/mlperf_tools.py TREE --round {args.round}",
        "created": conditions.now(),
        "commit": conditions.commit(),
        "machine": conditions.machine_part(),
        "round": played.name,
        "num_logs": sum(one["num_runs"] for one in found),
        "num_results": len(found),
        "num_valid": sum(one["valid"] for one in found),
        "ours": ours,
        "official": theirs,
        "official_over_ours": {name: whole[name] / fastest[name] for name in whole},
        "scores_of_the_summarizer": len(table),
        "scores_that_differ": sum(a != b for a, b in zip(mine, table, strict=False)) + abs(len(mine) - len(table)),
        "log_mb": args.log_mb,
        "large_log": logs,
    }
    path = RESULTS / machine.machine_name() / "mlperf_tools.json"
    record.write_json(path, result)
    print(json.dumps({name: result[name] for name in result if name != "machine"}, indent=1))
    print(path)
    return int(result["scores_that_differ"] > 0)


if __name__ == "__main__":
    sys.exit(main())
