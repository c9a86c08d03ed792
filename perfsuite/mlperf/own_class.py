"""A class of our own: a record's workload and scale, its rules, its reference convergence points.

No round of MLPerf is for one accelerator, or for a minute. The closed division of such a class is fixed by
rules/own_<workload>.json; its reference is the samples that at least 20 seeds of the workload needed to reach the
target, workloads/<name>.rcp.json.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from perfsuite import record
from perfsuite.mlperf import convergence, rounds, rulebook
from perfsuite.mlperf.convergence import NOT_CONVERGED, Convergence
from perfsuite.mlperf.finding import ERROR, Finding
from perfsuite.mlperf.results import Folder
from perfsuite.mlperf.rounds import Round
from perfsuite.mlperf.rulebook import Benchmark
from perfsuite.mlperf.run_log import RunLog
from perfsuite.record import Record
from perfsuite.workloads import registry

LEAST_SEEDS = 20
DROP = 1
"""Runs that an olympic mean drops at each end."""


class NoReference(ValueError):
    """There is nothing to hold runs against; the message says why."""


def record_of(folder: Folder) -> Record | None:
    """The record that a folder of logs belongs to; None where it is none of ours. Raises RecordError for a bad one."""
    where = folder.path.parent if folder.path.is_file() else folder.path
    return record.load(where) if (where / record.RECORD_FILE).is_file() else None


def round_of(folder: Folder) -> Round:
    """The class of a record of ours. Raises ValueError, in one line, where there is none."""
    made = record_of(folder)
    if made is None:
        raise ValueError(f"{folder.path} is no record of perfsuite, so its rules are not known: give --round")
    if made.workload_path:
        raise ValueError(f"{folder.path}: {made.workload_path} is a workload file of its own, and perfsuite has no "
                         "rules of it: give --round")  # fmt: skip
    played = rounds.own(made.workload, made.scale)
    try:
        rulebook.of(played)
    except ValueError as error:
        raise ValueError(f"{folder.path}: {error}") from error
    return played


def round_or_none(folder: Folder) -> Round | None:
    """The same, or None. Raises RecordError for a damaged record."""
    if record_of(folder) is None:
        return None
    try:
        return round_of(folder)
    except ValueError:
        return None


def rules_of(played: Round) -> Benchmark:
    """The one benchmark of a class of our own."""
    return next(iter(rulebook.of(played).benchmarks.values()))


def departures(made: Mapping[str, Any], rules: Benchmark) -> list[str]:
    """What a run has that the closed division of its class does not: each in words. `made` is a record, or its parts.

    Kernels may be swapped freely: which implementation does an op is no departure.
    """
    found = []
    if made["workload_path"]:
        found.append(f"the model is that of {made['workload_path']}")
    target = (made["target"] or {}).get("value")
    if target != rules.targets[0].value:
        found.append(f"the target is {target:g}, not {rules.targets[0].value:g}")
    config = json.loads(json.dumps(made["config"]))
    for field, value in (rules.config or {}).items():
        if config.get(field) != value:
            found.append(f"{field} is {config.get(field)!r}, not {value!r}")
    if made["ops"] not in rules.ops:
        found.append(f"--ops {made['ops']} is not one of {', '.join(rules.ops)}")
    return found


def check_record(folder: Folder, played: Round, division: str | None) -> Iterator[Finding]:
    """Findings on the record of a class of our own, where its runs are of the closed division."""
    made = record_of(folder)
    if made is None or division != "closed":
        return
    for text in departures(vars(made), rules_of(played)):
        yield Finding("class", ERROR, f"not closed: {text}", None, rulebook.of(played).source)


def reference(played: Round) -> dict[float, list[float]]:
    """{batch size: samples that each seed needed}. Raises NoReference where there are fewer than 20, or other rules."""
    workload, scale = played.ruleset.split()
    path = registry.data_folder().parent / f"{workload}.rcp.json"
    command = f"perfsuite rcp {workload} --scale {scale}"
    try:
        points = json.loads(path.read_text(encoding="utf-8")).get(scale) if path.is_file() else None
    except ValueError as error:
        raise NoReference(f"{path} is not JSON: {error}") from error
    if points is None:
        raise NoReference(f"{workload} {scale} has no reference convergence points: `{command}` makes them")
    rules = rules_of(played)
    if points["target"] != rules.targets[0].value:
        raise NoReference(f"the reference points are of the target {points['target']:g}: `{command}` makes them anew")
    reached = [float(samples) for samples in points["samples_to_target"] if samples is not None]
    if len(reached) < LEAST_SEEDS:
        raise NoReference(f"{len(reached)} seeds reached the target where {LEAST_SEEDS} are needed: `{command}` makes "
                          "more")  # fmt: skip
    return {float(points["batch_size"]): reached}


def check_convergence(folder: Folder, runs: list[RunLog], played: Round, mode: str) -> Convergence:
    """The runs of a record held against the workload's own reference points. Raises NoReference."""
    rules = rules_of(played)
    made = record_of(folder)
    if made is not None:
        other = [text for text in departures(vars(made), rules) if not text.startswith("--ops")]
        if other:
            raise NoReference(f"the reference points are of the closed division, and here {other[0]}")
    known = reference(played)
    sizes = {run.batch_size for run in runs}
    if len(sizes) != 1 or None in sizes:
        raise NoReference("the runs do not have one global_batch_size")
    if len(runs) < 2 * DROP + 1:
        raise NoReference(f"an olympic mean needs {2 * DROP + 1} runs, and here are {len(runs)}")
    if sum(not run.converged for run in runs) > DROP:
        return Convergence(mode, False, "Insufficient convergence", next(iter(sizes)))
    units = [run.last.units if run.converged and run.last and run.last.units else NOT_CONVERGED for run in runs]
    return convergence.check(known, next(iter(sizes)), units, num_runs=rules.num_runs or len(runs), drop=DROP,
                             mode=mode)  # fmt: skip
