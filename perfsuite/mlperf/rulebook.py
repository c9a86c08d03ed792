"""The rules of a round that are not in the official rule files, from perfsuite/mlperf/rules/*.json, as data.

Targets, evaluation schedules, fixed hyperparameters, limits, and what is known to be wrong in the official files. The
rules of our own scales are in own_<workload>.json, in the same form (perfsuite.harness.rule_files makes them).
Small expressions in them are of the language of restricted.py, over `batch` (the global batch size), `value`, `log`
(last value of each key) and `math`.
"""

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from perfsuite.mlperf import restricted, rounds
from perfsuite.mlperf.rounds import Round

_FOLDER = Path(__file__).parent / "rules"


@dataclass(frozen=True)
class Target:
    """A quality to reach."""

    value: float
    higher_is_better: bool
    strictly: bool = False
    name: str | None = None
    """Of the metric, where a benchmark has several: the metadata of its evaluations says which."""

    def reached(self, quality: float | None) -> bool:
        """Whether a quality is as good as the target. What cannot be does not reach it: an error or a loss of 0 or
        less, a share above 1, points above 100.
        """
        if quality is None or not math.isfinite(quality):
            return False
        if quality <= 0 or (self.higher_is_better and quality > (1 if self.value <= 1 else 100)):
            return False
        if self.strictly:
            return quality > self.value if self.higher_is_better else quality < self.value
        return quality >= self.value if self.higher_is_better else quality <= self.value


@dataclass(frozen=True)
class Schedule:
    """When to evaluate."""

    unit: str
    """ "samples", "epochs", or "tokens", which gpt3 logs as its epoch_num."""
    every: restricted.Evaluate
    skip: restricted.Evaluate | None
    """How many of the first evaluations are left out."""
    any_offset: bool
    or_more_often: bool = False
    """Whether more evaluations than these are as good; from v1.0 on they are to be at the same frequency."""
    early_batches: float = 1
    late_batches: float = 1
    first_late_batches: float = 1
    """Whole batches that an evaluation may be off, where the unit is samples."""

    def interval(self, batch: float) -> float:
        """Between evaluations; samples are rounded up to whole batches."""
        every = self.unrounded(batch)
        return math.ceil(every / batch) * batch if self.unit == "samples" else every

    def unrounded(self, batch: float) -> float:
        """Between evaluations, as the rules say it."""
        return float(self.every({"batch": batch, "math": math}))

    def first(self, batch: float) -> float:
        """The first evaluation."""
        skipped = self.skip({"batch": batch, "math": math}) if self.skip else 0
        return (skipped + 1) * self.interval(batch)


@dataclass(frozen=True)
class Benchmark:
    """What a round asks of one benchmark."""

    name: str
    targets: tuple[Target, ...]
    schedule: Schedule | None
    hyperparameters: dict[str, str]
    """Key to expression of what its value must be in the closed division."""
    num_runs: int | None = None
    """Runs that make a result."""
    metric: str | None = None
    """Name and unit of the quality, in words; of our own scales only, like all below."""
    max_samples: int | None = None
    """After which a run has not converged."""
    config: dict[str, Any] | None = None
    """Fields of the workload's config that the closed division fixes."""
    ops: tuple[str, ...] = ()
    """Values of --ops that leave the mathematics as it is."""


@dataclass(frozen=True)
class Correction:
    """An official rule that the rules text contradicts."""

    key: str
    why: str
    rule: str


@dataclass(frozen=True)
class Rulebook:
    """The rules of one round."""

    round: Round
    source: str
    init_limit_s: dict[str, float]
    wants_seed: bool
    benchmarks: dict[str, Benchmark]
    required: tuple[str, ...]
    """Keys that each log has; for rounds the official files say so."""
    _corrections: tuple[dict[str, Any], ...]

    def corrections(self, benchmark: str | None, division: str | None) -> list[Correction]:
        """Official rules that do not hold for this benchmark and division."""
        return [Correction(c["key"], c["why"], c["rule"]) for c in self._corrections
                if c.get("benchmark", benchmark) == benchmark and c.get("division", division) == division]  # fmt: skip


def own_path(workload: str) -> Path:
    """Where the rules of a workload of ours are."""
    return _FOLDER / f"own_{workload}.json"


def said(played: Round) -> str:
    """Which rules those of a round are, in words."""
    own = own_path(played.ruleset.split()[0]) if played.is_own else _FOLDER / f"{played.usage}.json"
    files = [f"perfsuite/mlperf/rules/{own.name}"] if own.is_file() else []
    files += [] if played.is_own else ["the files of mlperf-logging"]
    return f"{played.name}: {' and '.join(files)}"


@cache
def of(played: Round) -> Rulebook:
    """The rules of a round. Raises ValueError where there is no file for its usage, or for our workload or scale."""
    if played.is_own:
        path = own_path(played.ruleset.split()[0])
        missing = f"there are no rules of our own for {played.ruleset.split()[0]}: give --round"
    else:
        path = _FOLDER / f"{played.usage}.json"
        missing = f"there are no rules of usage {played.usage!r}"
    if not path.is_file():
        raise ValueError(missing)
    document = json.loads(path.read_text(encoding="utf-8"))
    limits = next((one for one in document["init_limit_min"] if _within(one, played)), None)
    often = not played.is_own and played.version[:2] <= _version(document.get("or_more_often_to", "0.0"))
    benchmarks = {one["benchmark"]: _benchmark(one, often) for one in document["benchmarks"] if _within(one, played)}
    if played.is_own and not benchmarks:
        scales = ", ".join(one["scale"] for one in document["benchmarks"])
        raise ValueError(f"the rules of our own for {document['workload']} are of scale {scales}: give --round")
    return Rulebook(
        played,
        document["source"],
        {division: 60.0 * limits[division] for division in ("closed", "open")} if limits else {},
        "seed_from" not in document or played.version >= _version(document["seed_from"]),
        benchmarks,
        tuple(document.get("required", ())),
        tuple(one for one in document["official_is_wrong"] if _within(one, played)),
    )


def _within(one: dict[str, Any], played: Round) -> bool:
    """Whether a part of a rule file is about this round: by its versions, or by its scale."""
    if played.is_own:
        return one.get("scale", played.ruleset.split()[1]) == played.ruleset.split()[1]
    return _version(one["from"]) <= played.version[:2] <= _version(one["to"])


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _benchmark(one: dict[str, Any], or_more_often: bool) -> Benchmark:
    told = one.get("evaluation")
    schedule = told and Schedule(
        told["unit"],
        restricted.expression(told["every"]),
        restricted.expression(told["first"]) if "first" in told else None,
        told.get("any_offset", False),
        or_more_often,
        **{name: told[name] for name in ("early_batches", "late_batches", "first_late_batches") if name in told},
    )
    targets = tuple(Target(**target) for target in one["targets"])
    return Benchmark(
        one["benchmark"],
        targets,
        schedule,
        one.get("hyperparameters", {}),
        one.get("num_runs", rounds.NUM_RUNS.get(one["benchmark"])),
        f"{one['metric']}, {one['unit']}" if "metric" in one else None,
        one.get("max_samples"),
        one.get("config"),
        tuple(one.get("ops", ())),
    )
