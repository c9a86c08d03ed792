"""What perfsuite adds to the JSON that pytest-benchmark stores, and reading it back as a baseline.

At the top: {"perfsuite": {"schema", "version", "machine": {"id", "name", "fingerprint"}, "yardstick": [...]}}. In each
benchmark: extra_info["perfsuite"] with "rounds_s" (at most MOST_ROUNDS of them, seconds per call, evenly taken) and
"process_times_s" (one for each process that it ran in), beside what the fixture perf_benchmark found.
machine_info is left as it is: pytest-benchmark warns at every compare where it differs from an older file's.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from perfsuite.bench_plugin.sample import Sample, typical

SCHEMA = 1
MOST_ROUNDS = 200
SECTION = "perfsuite"
_AGAIN = "store it again with perfsuite installed, e.g. --benchmark-json"


class Baseline(NamedTuple):
    """A stored file, read and checked."""

    path: Path
    samples: dict[str, list[Sample]]
    """By the benchmark's full name: one for each process. The first has everything, the others only the time."""
    yardsticks: list[dict[str, Any]]
    commit: str | None


def evenly(values: Sequence[float], most: int = MOST_ROUNDS) -> list[float]:
    """At most `most` of the values, in their order, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[i * (len(values) - 1) // (most - 1)] for i in range(most)]


def section(yardsticks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The part at the top of a file: this machine as it is now, and its yardsticks."""
    import perfsuite
    from perfsuite import machine

    fingerprint = machine.fingerprint()
    return {
        "schema": SCHEMA,
        "version": perfsuite.__version__,
        "machine": {"id": machine.fingerprint_id(fingerprint), "name": machine.machine_name(fingerprint),
                    "fingerprint": fingerprint},
        "yardstick": list(yardsticks),
    }  # fmt: skip


def read(path: Path) -> Baseline:
    """A stored file as a baseline. ValueError, one line, where it is damaged, of another machine or not ours."""
    document = _document(path)
    ours = document.get(SECTION)
    if not isinstance(ours, dict):
        raise ValueError(f"{path} does not say which machine it was measured on: {_AGAIN}")
    if ours.get("schema") != SCHEMA:
        raise ValueError(f"{path} is of schema {ours.get('schema')!r}, this perfsuite reads {SCHEMA}: {_AGAIN}")
    _refuse_another_machine(path, ours)
    try:
        samples = {bench["fullname"]: _samples(bench) for bench in document["benchmarks"]}
        yardsticks = [dict(one) for one in ours["yardstick"]]
        for one in yardsticks:
            _positive([rate for key in ("copy_bytes_per_s", "gemm_flops_per_s") for rate in one[key] or []])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is damaged ({what}): {_AGAIN}") from None
    commit = document.get("commit_info")
    return Baseline(path, samples, yardsticks, commit.get("id") if isinstance(commit, dict) else None)


def drift(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> float | None:
    """By which factor the machine itself changed between two sittings: the larger change of the two yardsticks.

    None where a side has none.
    """
    changes = []
    for key in ("copy_bytes_per_s", "gemm_flops_per_s"):
        rates = [[rate for one in side for rate in one[key] or []] for side in (a, b)]
        if all(rates):
            change = median(rates[1]) / median(rates[0])
            changes.append(max(change, 1 / change))
    return max(changes, default=None)


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path} is cut off or damaged ({error}): {_AGAIN}") from None
    if not isinstance(document, dict) or not isinstance(document.get("benchmarks"), list):
        raise ValueError(f"{path} is not a file that pytest-benchmark stored (it has no list of benchmarks)")
    return document


def _refuse_another_machine(path: Path, ours: Mapping[str, Any]) -> None:
    from perfsuite import machine
    from perfsuite.compare_conditions import MACHINE

    facts = MACHINE | {"Python": lambda fp: fp["python"]["version"], "torch": lambda fp: fp["torch"]}
    here = json.loads(json.dumps(machine.fingerprint()))
    try:
        there = ours["machine"]["fingerprint"]
        differing = [f"{what} ({of(there)}, here {of(here)})" for what, of in facts.items() if of(there) != of(here)]
    except (KeyError, TypeError):
        raise ValueError(f"{path} is damaged (its machine is not complete): {_AGAIN}") from None
    if differing:
        raise ValueError(f"{path} was measured under other conditions: {'; '.join(differing)}. Store a baseline here, "
                         "or compare with a revision: --perfsuite-baseline main")  # fmt: skip


def _samples(bench: Mapping[str, Any]) -> list[Sample]:
    ours = bench["extra_info"].get(SECTION) or {}
    rounds = _positive(ours["rounds_s"])
    low, high = bench["stats"]["min"], bench["stats"]["max"]
    if not rounds or not low * (1 - 1e-6) <= median(rounds) <= high * (1 + 1e-6):
        raise ValueError(f"the times of {bench['fullname']} do not agree with its statistics")
    first = Sample.of(typical(rounds), ours)
    times = _positive(ours.get("process_times_s") or [first.time_s])
    return [first._replace(time_s=times[0]), *(Sample(time) for time in times[1:])]


def _positive(times: Sequence[Any]) -> Sequence[float]:
    if not all(isinstance(time, int | float) and 0 < time < math.inf for time in times):
        raise ValueError("a time or a rate is not a positive number")
    return times
