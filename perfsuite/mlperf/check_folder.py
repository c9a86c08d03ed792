"""The runs of one result together: how many, how many failed, seeds, one batch size, convergence.

Sources: training_policies, "Benchmark Results", "Random numbers", "Reference Convergence Points" and the submission
structure.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from perfsuite.mlperf import identity, official_convergence, official_package, own_class, rounds, rulebook
from perfsuite.mlperf.check_log import RANDOM
from perfsuite.mlperf.convergence import Convergence
from perfsuite.mlperf.finding import CONTRARY, ERROR, NOT_CHECKED, SAME, WARNING, Finding
from perfsuite.mlperf.identity import Identity
from perfsuite.mlperf.official_convergence import Submitted
from perfsuite.mlperf.reader import Log
from perfsuite.mlperf.results import Folder
from perfsuite.mlperf.rounds import Round
from perfsuite.mlperf.run_log import RunLog

COUNT = "training_rules, Benchmark Results"
LAYOUT = "submission rules, Submission structure"
CONVERGENCE = "training_rules, Reference Convergence Points"
THROUGHPUT = "hpc_training_rules, Run Results, Throughput"
SCALING = "scaling.json"
_UNET3D_IMAGES = 168
_UNET3D_EPOCHS = 10_000
"""After which a run of unet3d has not converged."""


@dataclass(frozen=True)
class Runs:
    """A folder with all that is known of its runs."""

    folder: Folder
    round: Round
    runs: list[RunLog]
    seeds: list[list[tuple[Any, Any, Any]]]
    """For each log (file, line, seed) of every seed that it logs."""
    valid: list[bool]
    """Whether each log is valid by itself."""
    official_valid: list[bool] | None
    """Whether the official checker takes each log; None where it knows no such round."""
    submitted: list[Submitted] | None
    """As the official convergence checker reads the logs; None where it cannot, or has no rules."""

    @cached_property
    def identity(self) -> Identity:
        """Benchmark and division; asked for often, and it reads a file."""
        return identity.of(self.folder, self.runs)

    @property
    def benchmark(self) -> str | None:
        return self.identity.benchmark

    @property
    def num_wanted(self) -> int | None:
        """Runs that make a result."""
        if self.round.is_own:
            return own_class.rules_of(self.round).num_runs
        return rounds.NUM_RUNS.get(self.benchmark or "")

    @property
    def wants_seed(self) -> bool:
        """Whether the rules of the round ask that each run log a seed of its own."""
        return rulebook.of(self.round).wants_seed

    @property
    def num_dropped(self) -> int:
        """Runs that may fail, and that the olympic mean drops at each end."""
        return own_class.DROP if self.round.is_own else rounds.dropped(self.benchmark)

    @property
    def stated_division(self) -> Any:
        return self.identity.stated_division

    @property
    def division(self) -> str | None:
        return self.identity.division


def seeds_of(log: Log) -> list[tuple[Any, Any, Any]]:
    """(file, line, seed) of every seed of a log."""
    return [(entry.metadata.get("file"), entry.metadata.get("lineno"), entry.value) for entry in log.entries
            if entry.key == "seed"]  # fmt: skip


def check(of: Runs) -> list[Finding]:
    """All findings on the folder as a whole."""
    if of.folder.is_pruned:
        return list(_pruned(of))
    found = [*_count(of), *_failed(of), *_same(of), *_seeds(of)]
    if of.round.is_own:
        return [*found, *own_class.check_record(of.folder, of.round, of.division), *_own_convergence(of)]
    return [*found, *_convergence(of)]


def _count(of: Runs) -> Iterator[Finding]:
    wanted = of.num_wanted
    have = len(of.runs)
    if wanted is None or of.folder.path.is_file():
        return
    if of.folder.scaling == "weak":
        if have < wanted:
            yield Finding("count", ERROR, f"{have} runs; the rules want at least {wanted}", None, COUNT, SAME)
    elif have < wanted:
        yield Finding("count", ERROR, f"{have} runs; a result of {of.benchmark} has {wanted}", None, COUNT, SAME)
    elif have > wanted:
        text = f"{have} runs for a result of {wanted}: the window of consecutive runs with the median score counts"
        yield Finding("count", WARNING, text, None, "training_rules, Scoring", CONTRARY)
    if not of.folder.named_by_the_rules:
        yield Finding("names", WARNING, "logs are not called result_<i>.txt", None, LAYOUT, SAME)
    if of.folder.benchmark and of.benchmark and of.folder.benchmark != of.benchmark:
        text = f"the folder is called {of.folder.benchmark}, its logs say {of.benchmark}"
        yield Finding("names", WARNING, text, None, LAYOUT)


def _pruned(of: Runs) -> Iterator[Finding]:
    """Logs that were left out may be of stragglers; that they pass too is asked from v3.0 on, with a "should"."""
    failed = _not_valid(of)
    also = f"; not valid by themselves: {_named(failed)}" if failed else ""
    yield Finding("pruned", WARNING, f"{len(of.runs)} runs that a throughput result left out, no result{also}", None,
                  THROUGHPUT, CONTRARY)  # fmt: skip


def _not_valid(of: Runs) -> list[str]:
    return [run.path.name for run, valid in zip(of.runs, of.valid, strict=True) if not valid]


def _named(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _failed(of: Runs) -> Iterator[Finding]:
    failed = _not_valid(of)
    weak = of.folder.scaling == "weak"
    allowed = 0 if weak else of.num_dropped  # "All reported M' training instances must have converged"
    if not failed:
        return
    named = _named(failed)
    if len(failed) > allowed:
        # The official seed checker refuses a folder for one run without a seed.
        refused = (of.official_valid or []).count(False) > of.num_dropped or (
            _seeds_checked(of) and not all(of.seeds))  # fmt: skip
        yield Finding("failed", ERROR, f"{len(failed)} of {len(of.runs)} runs are not valid ({named}); the rules allow "
                      f"{allowed}", None, THROUGHPUT if weak else COUNT, SAME if refused else NOT_CHECKED)  # fmt: skip
    elif len(of.runs) > 2 * allowed:
        text = f"{named} not valid: {'they count' if len(failed) > 1 else 'it counts'} as slowest and not in the score"
        yield Finding("failed", WARNING, text, None, COUNT, SAME)


def _same(of: Runs) -> Iterator[Finding]:
    checked = SAME if _checked_together(of) else NOT_CHECKED
    for what, values in (
        ("benchmark", {run.benchmark for run in of.runs} - {None}),  # a log that holds nothing does not differ
        ("division", {rounds.division(run.division) for run in of.runs} - {None}),
        ("global_batch_size", {run.batch_size for run in of.runs} - {None}),
        ("platform", {run.platform for run in of.runs} - {None}),
    ):
        if len(values) > 1:
            shown = ", ".join(sorted(str(value) for value in values)[:4])
            yield Finding("same", ERROR if what != "platform" else WARNING, f"runs differ in {what}: {shown}", None,
                          COUNT, checked if what == "global_batch_size" else NOT_CHECKED)  # fmt: skip


def _checked_together(of: Runs) -> bool:
    """Whether the official tools look at seeds and convergence at all: of a folder, not of one log."""
    return (not of.round.is_own and of.stated_division == "closed" and not of.folder.path.is_file()
            and of.round.version >= official_convergence.FIRST_RULESET)  # fmt: skip


def _seeds_checked(of: Runs) -> bool:
    return _checked_together(of) and not official_package.bypasses_seeds(of.folder)


def _seeds(of: Runs) -> Iterator[Finding]:
    """No two runs log the same seed from the same line of the same file: a rule of training from v4.1 on, and of
    throughput in the HPC suite from v2.0 on. The official seed checker asks for both in all rounds.
    """
    if of.division != "closed":
        return
    hpc = of.round.usage == "hpc"
    asked = of.folder.scaling == "weak" and of.round.version >= (2,) if hpc else of.wants_seed
    source = THROUGHPUT if hpc else RANDOM
    checked = _seeds_checked(of)
    twice = logged_twice(of)
    if twice and asked:
        yield Finding("seeds", ERROR, twice, None, source, SAME if checked else NOT_CHECKED)
        return
    if not of.wants_seed and checked and (twice or not all(of.seeds)):
        text = f"the official seed checker refuses what no rule of the round does: {twice or 'a run logs no seed'}"
        yield Finding("seeds", WARNING, text, None, RANDOM, CONTRARY)
    whole = Counter(tuple(repr(record[2]) for record in seeds) for seeds in of.seeds if seeds)
    again = next((seeds for seeds, times in whole.items() if times > 1), None)
    if again and not twice:
        yield Finding("seeds", WARNING, f"two runs log the same seeds: {', '.join(again[:3])}", None, RANDOM)


def logged_twice(of: Runs) -> str | None:
    """A seed that two runs log from the same line of the same file, in words."""
    seen: dict[Any, str] = {}
    for run, seeds in zip(of.runs, of.seeds, strict=True):
        for record in seeds:
            key = tuple(map(repr, record))
            if seen.get(key, run.path.name) != run.path.name:
                return f"{run.path.name} has the seed {record[2]!r} of {seen[key]}, from the same line of the same file"
            seen[key] = run.path.name
    return None


def _own_convergence(of: Runs) -> Iterator[Finding]:
    if of.division != "closed" or of.folder.path.is_file():
        return
    try:
        rules = own_class.check_convergence(of.folder, of.runs, of.round, "rules")
    except own_class.NoReference as reason:
        yield Finding("convergence", WARNING, f"convergence is not checked: {reason}", None, CONVERGENCE)
        return
    if not rules.passed:
        yield Finding("convergence", ERROR, _why(rules), None, CONVERGENCE)
    elif rules.factor != 1:
        text = f"converges faster than the reference: the score is multiplied by {rules.factor:.5g}"
        yield Finding("convergence", WARNING, text, None, CONVERGENCE)


def _why(rules: Convergence) -> str:
    if rules.lowest is None:
        return rules.message
    if rules.mean is None:
        return "too few runs for an olympic mean of what they need to converge"
    return f"converges after {rules.mean:g}, the least that passes is {rules.lowest:g}"


def _convergence(of: Runs) -> Iterator[Finding]:
    if of.division != "closed" or not of.submitted or of.folder.path.is_file():
        return
    if of.round.version < official_convergence.FIRST_RULESET:
        return
    try:
        official = official_convergence.check(of.submitted, of.round.usage, of.round.ruleset)
        rules = official_convergence.check(_as_the_text_counts(of), of.round.usage, of.round.ruleset, "rules")
    except official_convergence.Crash as crash:
        text = f"convergence is not checked: the official checker ends with a traceback: {crash}"
        yield Finding("convergence", WARNING, text, None, CONVERGENCE, CONTRARY)
        return
    passed = official.passed or official_package.bypasses_convergence(of.folder, official)
    agree = SAME if rules.passed == passed else CONTRARY
    if not rules.passed:
        also = "" if agree == SAME else "; the official checker lets it pass"
        if scaled := _scaled(of, official.passed):
            agree = NOT_CHECKED if passed else CONTRARY
        yield Finding("convergence", WARNING if scaled else ERROR, _why(rules) + also + scaled, None, CONVERGENCE,
                      agree)  # fmt: skip
    elif agree == CONTRARY:
        yield Finding("convergence", WARNING, f"the official checker refuses what the rules text allows: "
                      f"{official.message}", None, CONVERGENCE, CONTRARY)  # fmt: skip
    elif rules.factor != 1 or official.factor != 1:
        text = f"converges faster than the reference: the score is multiplied by {rules.factor:.5g}"
        if rules.factor == 1:
            text = f"the official checker multiplies the score by {official.factor:.5g}, the rules text does not"
        elif official.factor != rules.factor:
            text += f", by the official checker by {official.factor:.5g}"
        yield Finding("convergence", WARNING, text, None, CONVERGENCE,
                      SAME if rules.factor == official.factor else CONTRARY)  # fmt: skip


def _scaled(of: Runs, official_passed: bool) -> str:
    """That the score of runs that converge too fast is scaled, in words; "" where it is not, and they are refused.

    The committee says so in scaling.json. From v2.1 on the official checker writes one too, where it lets runs pass
    that are faster than the reference's mean: there the file says nothing of what else may be wrong.
    """
    version = of.round.version[:2]
    by_committee = of.round.usage == "training" and (version == (2, 0) or (version >= (2, 1) and not official_passed))
    if not by_committee or not (of.folder.path / SCALING).is_file():
        return ""
    return f"; {SCALING} says that the score is scaled for it (training_rules, Score scaling)"


def _as_the_text_counts(of: Runs) -> list[Submitted]:
    """What runs needed to converge where logs may say it as the official checker does not read it, without options.

    bert may say on a line of its own, train_samples, how many samples it needed (training_rules, Benchmark specific
    rules; logs of v1.0 did so before). unet3d says epochs; the points of v3.1 and v4.0 count samples.
    """
    logs = list(zip(of.submitted or [], of.runs, strict=False))
    if of.benchmark == "bert":
        return [replace(one, units=run.samples_to_converge) if one.converged and run.samples_to_converge else one
                for one, run in logs]  # fmt: skip
    if of.benchmark == "unet3d" and (3, 1) <= of.round.version[:2] <= (4, 0):
        return [_in_samples(one, run) for one, run in logs]
    return of.submitted or []


def _in_samples(one: Submitted, run: RunLog) -> Submitted:
    """Of unet3d: an epoch is the images in whole batches, and no run takes as many epochs as samples."""
    if not one.converged or not run.batch_size or one.units > _UNET3D_EPOCHS:
        return one
    return replace(one, units=one.units * math.ceil(_UNET3D_IMAGES / run.batch_size) * run.batch_size)
