"""Compares the benchmarks of a session with a baseline: a revision, run in turns with the tree, or a stored file."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from perfsuite.bench_plugin import looks, stored
from perfsuite.bench_plugin.children import Side
from perfsuite.bench_plugin.decide import Rounds, noise_in_turns, noise_of
from perfsuite.bench_plugin.looks import Key
from perfsuite.bench_plugin.sample import COUNTS, Sample
from perfsuite.verdict import CANNOT_TELL, SLOWER, Verdict

Samples = Mapping[str, Sequence[Sample]]
Say = Callable[[str], None]
_TIGHT = 1.001


class Judged(NamedTuple):
    """What is to be said of one test."""

    test: str
    verdicts: dict[str, Verdict]
    """By quantity: "time", and "energy" where both sides know it. Empty where there is nothing to compare with."""
    grown: tuple[str, ...]
    """Quantities without chance that grew, a phrase each."""
    new: str | None
    """Why there is nothing to compare with."""

    @property
    def word(self) -> str | None:
        """Of time and energy together: SLOWER where one of them is; None for a new test."""
        words = [judged.word for judged in self.verdicts.values()]
        if SLOWER in words:
            return SLOWER
        return CANNOT_TELL if CANNOT_TELL in words else words[0] if words else None

    def as_json(self, baseline: str) -> dict[str, Any]:
        """As it is stored: {"baseline", "verdict", "time": {"verdict", "ratio", ...}, "energy", "grown", "new"}."""
        from perfsuite.compare import as_json

        each = {what: as_json(judged) for what, judged in self.verdicts.items()}
        return {"baseline": baseline, "verdict": self.word, **each, "grown": list(self.grown), "new": self.new}

    def fails(self, strict: bool) -> bool:
        """Whether the session is to fail for it."""
        return bool(self.grown) or self.word == SLOWER or (strict and self.word == CANNOT_TELL)

    @property
    def lines(self) -> list[str]:
        """A sentence for each quantity, those that fail first."""
        if self.new:
            return [self.new]
        said = sorted(self.verdicts.items(), key=lambda item: item[1].word != SLOWER)
        return [*(f"MORE {phrase}" for phrase in self.grown),
                *(f"{judged.word} in {what}{_figures(judged)}: {judged.why}" for what, judged in said)]  # fmt: skip


def against_revision(sides: tuple[Side, Side], tests: Sequence[str], budget_s: float, timeout_s: float, say: Say,
                     draw: random.Random) -> list[Judged]:  # fmt: skip
    """Both sides run in turns: blocks of two processes of each, in a drawn order. ValueError where one cannot run."""
    a: dict[str, list[Sample]] = {test: [] for test in tests}
    b: dict[str, list[Sample]] = {test: [] for test in tests}
    missing: dict[str, str] = {}

    def more(running: Sequence[str]) -> None:
        got: tuple[list[dict[str, Sample]], ...] = ([], [])
        for side in draw.sample((0, 0, 1, 1), 4):
            got[side].append(sides[side].run(running, timeout_s))
        for test in running:
            absent = [sides[i].name for i in (0, 1) if not all(test in found for found in got[i])]
            if absent:
                missing[test] = f"it fails or is not there in {' and in '.join(absent)}"
                continue
            for into, found in zip((a, b), got, strict=True):
                into[test] += [found[i][test] for i in (0, 1)]

    def rounds() -> dict[Key, Rounds]:
        return {key: one for test in tests if a[test] for key, one in _in_turns(test, a[test], b[test]).items()}

    verdicts = looks.judge(tests, more, rounds, budget_s, say)
    return [_judged(test, verdicts, a[test], b[test], missing.get(test)) for test in tests]


def against_file(baseline: stored.Baseline, now: Mapping[str, Sample], own: Side, budget_s: float, timeout_s: float,
                 say: Say, yardstick: Callable[[], dict[str, Any]]) -> list[Judged]:  # fmt: skip
    """The session's samples and those of further processes of the same tree, against the stored ones.

    yardstick: measures one; it is taken after every process, and the drift between the sittings widens the intervals.
    """
    known = [test for test in now if test in baseline.samples]
    b = {test: [now[test]] for test in known}
    yardsticks: list[dict[str, Any]] = []

    def more(running: Sequence[str]) -> None:
        for test, sample in own.run(running, timeout_s).items():
            if test in b:
                b[test].append(sample)
        yardsticks.append(yardstick())

    def rounds() -> dict[Key, Rounds]:
        drift = stored.drift(baseline.yardsticks, yardsticks)
        each = [_stored(test, baseline.samples[test], b[test], drift) for test in known]
        return {key: one for found in each for key, one in found.items()}

    verdicts = looks.judge(known, more, rounds, budget_s, say) if known else {}
    why = f"it is not in {baseline.path}"
    return [_judged(test, verdicts, baseline.samples.get(test, []), b.get(test, []), None if test in b else why)
            for test in now]  # fmt: skip


def _in_turns(test: str, a: Sequence[Sample], b: Sequence[Sample]) -> dict[Key, Rounds]:
    obstacle = _lowered([*a, *b])

    times = [[sample.time_s for sample in side] for side in (a, b)]
    found = {(test, "time"): Rounds(*times, noise=noise_in_turns(*times), obstacle=obstacle)}
    if all(sample.joules for sample in (*a, *b)):
        stretch, unbounded = _bounds([*a, *b])
        joules = [[sample.joules for sample in side] for side in (a, b)]
        found[test, "energy"] = Rounds(*joules, noise=noise_in_turns(*joules), stretch=stretch,
                                       obstacle=obstacle or unbounded)  # fmt: skip
    return found


def _stored(test: str, a: Sequence[Sample], b: Sequence[Sample], drift: float | None) -> dict[Key, Rounds]:
    unknown = "no yardstick: nobody knows how the machine changed between the sittings" if drift is None else None
    obstacle = _lowered([*a, *b]) or unknown
    times = [[sample.time_s for sample in side] for side in (a, b)]
    half = len(b) // 2
    noise = noise_of(times[1][0 : 2 * half : 2], times[1][1 : 2 * half : 2])
    found = {(test, "time"): Rounds(*times, in_turns=False, noise=noise, stretch=drift or 1.0, obstacle=obstacle)}
    # Of a stored file only the first process has joules; they are compared with those of this sitting.
    joules = [[sample for sample in side if sample.joules] for side in (a, b)]
    if all(joules):
        stretch, unbounded = _bounds([*joules[0], *joules[1]])
        found[test, "energy"] = Rounds(*([s.joules for s in side] for side in joules), in_turns=False,
                                       stretch=stretch * (drift or 1.0), obstacle=obstacle or unbounded)  # fmt: skip
    return found


def _bounds(samples: Sequence[Sample]) -> tuple[float, str | None]:
    """What the sensor leaves open of both sides, as a factor; or why nothing can be told."""
    if any(sample.joules_bound is None for sample in samples):
        return 1.0, "the energy of a process has no bound"
    return 1 + 2 * max(sample.joules_bound / sample.joules for sample in samples), None


def _lowered(samples: Sequence[Sample]) -> str | None:
    names = sorted({name for sample in samples for name in sample.lowered_by})
    return f"the GPU's clock was lowered meanwhile: {', '.join(names)}" if names else None


def _judged(test: str, verdicts: Mapping[Key, Verdict], a: Sequence[Sample], b: Sequence[Sample],
            new: str | None) -> Judged:  # fmt: skip
    mine = {what: judged for (name, what), judged in verdicts.items() if name == test}
    if not mine:
        return Judged(test, {}, (), new or "no process could run it")
    return Judged(test, mine, tuple(_grown(a, b)), None)


def _grown(a: Sequence[Sample], b: Sequence[Sample]) -> list[str]:
    """Quantities without chance: the least that a process of each side found, any growth beyond 0.1 % and the slack."""
    found = []
    for name, slack in COUNTS.items():
        sides = [[getattr(sample, name) for sample in side if getattr(sample, name) is not None] for side in (a, b)]
        if all(sides) and min(sides[1]) > _TIGHT * min(sides[0]) + slack:
            what = name.replace("_", " ")
            let_pass = f"0.1 % and {slack:,} bytes are" if slack else "0.1 % is"
            found.append(f"{what}: {min(sides[0]):,} to {min(sides[1]):,} a call ({let_pass} let pass)")
    return found


def _figures(judged: Verdict) -> str:
    if judged.ratio is None:
        return ""
    return f" x{judged.ratio:.3f} [{judged.ci95[0]:.3f}, {judged.ci95[1]:.3f}]"
