"""The README's table of workloads: time to target, where the time goes, what bounds it; from records of this machine.

`python bench/workloads.py` runs `perfsuite run all --scale tiny`, keeps each record as <name>-tiny/ in the results of
this machine, and writes workloads.json beside them; `--records FOLDER` takes the newest records of a folder instead of
running. The table is printed from that JSON. `--table` runs and writes nothing: it prints the table from the kept
records, recomputed, and says where workloads.json differs from them.
Times are those of the scored runs; ops, shares and what a sample moves those of the pass with the recorders on.
Exit code 0: done; 1: a target was missed, or the JSON differs; 2: no record.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from perfsuite import conditions, record, suite
from perfsuite.cli_report import account_of
from perfsuite.machine import machine_name
from perfsuite.report.figures import count, overhead, percent, significant
from perfsuite.workloads import registry

RESULTS = Path(__file__).parents[1] / "bench" / "results"
PERFSUITE = (sys.executable, "-P", "-c", "from perfsuite.cli import main; main()")
NAME = "workloads.json"


def newest(folder: Path, scale: str) -> dict[str, Path]:
    """The newest record in `folder` of each built-in workload at this scale, done as the suite's table wants it: at its
    own target and batch size, in plain torch.
    """
    found = {}
    for path in record.list_folders(folder):
        made = record.load(path)
        if made.kind != "run" or made.workload_path or made.scale != scale or made.ops != "eager" or made.use:
            continue
        config = registry.load(made.workload).CONFIGS[scale]
        if (made.target["value"], made.config["batch_size"]) == (config.target.value, config.batch_size):
            found[made.workload] = path
    return found


def kept(results: Path, scale: str) -> dict[str, Path]:
    """The records that the results hold, by workload."""
    paths = {name: results / f"{name}-{scale}" for name in registry.names()}
    return {name: path for name, path in paths.items() if (path / record.RECORD_FILE).exists()}


def keep(folders: dict[str, Path], results: Path, scale: str) -> None:
    """Copy the records to the results, without their pages, which `perfsuite report` writes anew."""
    for name, path in folders.items():
        target = results / f"{name}-{scale}"
        if path.resolve() != target.resolve():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(path, target, ignore=shutil.ignore_patterns("report.html", "*.perfetto-trace", "*.stderr"))


def rows(folders: dict[str, Path]) -> list[dict[str, Any]]:
    """One row a workload, in the order of the registry, from its record."""
    found = []
    for name in registry.names():
        if name in folders:
            made = account_of(folders[name])
            row = suite.row(made, getattr(registry.load(name), "AREA", None))
            commit = {"commit": made["commit"], "created": made["created"], "command": made["command"]}
            found.append(row | commit | {"report": None})
    return found


def table(found: list[dict[str, Any]], scale: str) -> str:
    """The table as Markdown."""
    lines = [
        f"| workload, scale `{scale}` | target | time to train, s (95 %) | samples to target | longest ops, of the "
        "ops' time | memory-, compute-, overhead-bound, not known | a sample | data, evaluation | own cost | record |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join(lines + [_line(row, scale) for row in found])


def _line(row: dict[str, Any], scale: str) -> str:
    target, character = row["target"], row["character"]
    sign = ">=" if target["higher_is_better"] else "<="
    cells = [f"`{row['workload']}`: {row['area']}", f"{target['metric']} {sign} {target['value']:g} {target['unit']}"]
    if row["time_to_train_s"] is None:
        cells += [f"not reached: {row['reason']}", "-"]
    else:
        low, high = map(significant, row["ci95_s"])
        low_samples, high_samples = map(count, row["samples_to_target_range"])
        cells += [f"{significant(row['time_to_train_s'])} ({low} to {high})", f"{low_samples} to {high_samples}"]
    if character and character["available"]:
        ops = ", ".join(f"`{op['name'].removeprefix('aten::')}` {percent(op['share'])}" for op in character["top_ops"])
        bounds = ("memory_bound_share", "compute_bound_share", "overhead_bound_share", "unknown_share")
        moved, computed = character["bytes_per_sample"] / 1e6, character["flops_per_sample"] / 1e6
        cells += [ops, ", ".join(f"{100 * character[key]:.0f}" for key in bounds) + " %",
                  f"{significant(moved)} MB, {significant(computed)} MFLOP"]  # fmt: skip
    else:
        cells += ["not measured"] * 3
    shares, cost = row["phase_shares"] or {}, row["overhead"]
    cells.append(", ".join(percent(shares.get(name, 0.0)) for name in ("data", "evaluation")))
    cells.append(f"{overhead(cost['ratio'])} ({' to '.join(map(overhead, cost['ci95']))})" if cost else "not measured")
    folder = f"{row['workload']}-{scale}"
    return "| " + " | ".join([*cells, f"[`{folder}/`](bench/results/{machine_name()}/{folder})"]) + " |"


def run_all(scale: str, out: Path) -> None:
    """Every workload, in plain torch; what fails is missing from the table."""
    subprocess.run([*PERFSUITE, "run", "all", "--scale", scale, "--out", str(out)], stdout=sys.stderr, check=False)


def differences(stored: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[str]:
    """What of the stored rows the records do not bear out."""
    by_name = {row["workload"]: row for row in json.loads(json.dumps(found))}
    lines = [f"{name}: in the records only" for name in by_name.keys() - {row["workload"] for row in stored}]
    for row in stored:
        recomputed = by_name.get(row["workload"], {})
        lines += [f"{row['workload']}: {key} is {value} in {NAME}, {recomputed.get(key)} from the record"
                  for key, value in row.items() if value != recomputed.get(key)]  # fmt: skip
    return sorted(lines)


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="tiny")
    parser.add_argument("--records", type=Path, metavar="FOLDER", help="take its newest records instead of running")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where a run of all keeps its records")
    parser.add_argument("--results", type=Path, default=RESULTS / machine_name())
    parser.add_argument("--table", action="store_true", help="print the table from the kept records, check the JSON")
    options = parser.parse_args()
    path = options.results / (NAME if options.scale == "tiny" else f"workloads-{options.scale}.json")
    if options.table:
        found = rows(kept(options.results, options.scale))
        print(table(found, options.scale))
        stored = json.loads(path.read_text(encoding="utf-8"))["workloads"] if path.exists() else []
        lines = differences(stored, found)
        for line in lines:
            print(line, file=sys.stderr)
        return 1 if lines else 0
    if options.records is None:
        run_all(options.scale, options.out)
    folders = newest(options.records or options.out, options.scale)
    if not folders:
        where = options.records or options.out
        print(f"perfsuite: no record of a workload at scale {options.scale} in {where}", file=sys.stderr)
        return 2
    keep(folders, options.results, options.scale)
    found = rows(kept(options.results, options.scale))
    document = {"benchmark": f"workloads {options.scale}", "machine": machine_name(), "created": conditions.now(),
                "command": ["python", *sys.argv], "commit": conditions.commit(), "workloads": found}  # fmt: skip
    record.write_json(path, document)
    print(table(json.loads(path.read_text(encoding="utf-8"))["workloads"], options.scale))
    return 0 if all(row["reached"] for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
