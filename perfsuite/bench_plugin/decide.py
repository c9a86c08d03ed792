"""From the times of many benchmarks to their verdicts, with a false-alarm rate that holds for all of them together.

The unit is a process: code, data and hash seeds land elsewhere in each one, and what they do to a time stays for its
whole life, so that a thousand rounds of one process are one measurement of it. Pure functions: numbers in, verdicts
out; nothing here knows pytest.

Three things are paid for: there are up to `looks` looks at growing data (each at 1 / looks of the rate: Bonferroni),
many benchmarks (Benjamini and Hochberg's step-up with the intervals of Benjamini and Yekutieli 2005), and what two
equal things were seen to differ by meanwhile (`noise`).
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from perfsuite import verdict
from perfsuite.stats import student_t
from perfsuite.verdict import CANNOT_TELL, FASTER, SLOWER, Comparison, Verdict

RATE = 0.02
"""Expected share of false ones among the differences that are reported; bench/calibrate.py measures it."""
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Rounds:
    """What there is to compare of one quantity of one benchmark: a figure a process, in s (or J; only ratios count)."""

    a: Sequence[float]
    """Of the baseline."""
    b: Sequence[float]
    in_turns: bool = True
    """a[i] and b[i] were measured next to each other."""
    noise: float = 0.0
    """By how much equal things differed in the same sitting, relative: noise_of()."""
    stretch: float = 1.0
    """The interval is stretched by this factor: drift of the machine between sittings, bounds of a sensor."""
    obstacle: str | None = None
    """Why nobody can tell, whatever the figures."""


def decide(rounds_a: Sequence[float], rounds_b: Sequence[float], aa_noise: float = 0.0, *, in_turns: bool = True,
           stretch: float = 1.0, looks: int = 1) -> Verdict:  # fmt: skip
    """The verdict on B against A, of one benchmark: positive figures, one a process, in turns (pairs) or not.

    looks: how many looks are taken in all at growing data, this one among them. CANNOT_TELL where they are too few.
    """
    return decide_all({0: Rounds(rounds_a, rounds_b, in_turns, aa_noise, stretch)}, looks)[0]


def decide_all(found: Mapping[Key, Rounds], looks: int = 1) -> dict[Key, Verdict]:
    """The verdicts on many at once.

    FASTER and SLOWER only where the step-up procedure lets them stand among all of them; their intervals are the wider
    ones that go with it. The others are judged by intervals of 1 - RATE / looks.
    """
    rate = RATE / looks
    plain = {key: _judge(rounds, 1 - rate) for key, rounds in found.items()}
    acting = len(found)
    # Benjamini and Hochberg's largest R with R rejections at level 1 - rate * R / m. The count need not fall with R:
    # ten pairs are compared by ranks at one level, by Student's narrower interval at a stricter one.
    while acting:
        level = verdict.adjusted_level(len(found), acting, rate)
        strict = {key: _judge(found[key], level) for key, judged in plain.items() if _differs(judged)}
        standing = sum(map(_differs, strict.values()))
        if standing >= acting:
            break
        acting = standing
    else:
        strict = {}
    out = {}
    for key, judged in plain.items():
        if not _differs(judged):
            out[key] = judged
        elif _differs(strict.get(key)):
            out[key] = strict[key]
        else:
            why = f"alone it would be {judged.word}, as one of {len(found)} it may be chance"
            out[key] = judged._replace(word=CANNOT_TELL, why=why)
    return out


def noise_of(first: Sequence[float], second: Sequence[float]) -> float:
    """By how much two equal things, measured in turns, differ: the typical ratio's distance from 1. 0 for no pairs."""
    if not first:
        return 0.0
    ratio = math.exp(float(np.median(np.log(second) - np.log(first))))
    return max(ratio, 1 / ratio) - 1


def noise_in_turns(a: Sequence[float], b: Sequence[float]) -> float:
    """noise_of() the pairs of one side, of blocks of two processes of each: a[0] and a[1], a[2] and a[3], and so on.

    Each block drew its order, so that the first of two equal processes is the earlier or the later one by chance.
    """
    pairs = [(side[i], side[i + 1]) for side in (a, b) for i in range(0, len(side), 2)]
    return noise_of(*zip(*((x, y) if k % 2 else (y, x) for k, (x, y) in enumerate(pairs)), strict=True))


def _differs(judged: Verdict | None) -> bool:
    return judged is not None and judged.word in (FASTER, SLOWER)


def _judge(rounds: Rounds, level: float) -> Verdict:
    try:
        found = _compare(rounds, level)
    except ValueError as error:
        return verdict.cannot_tell(rounds.obstacle or str(error))
    found = found.widened(rounds.stretch)
    if rounds.obstacle:
        return verdict.cannot_tell(rounds.obstacle)._replace(ratio=found.ratio, ci95=(found.low, found.high))
    return verdict.judge(found, rounds.noise)


def _compare(rounds: Rounds, level: float) -> Comparison:
    if rounds.in_turns:
        return verdict.paired(rounds.a, rounds.b, level)
    try:
        return verdict.unpaired(rounds.a, rounds.b, level)
    except ValueError:
        return _few(rounds.a, rounds.b, level)


def _few(a: Sequence[float], b: Sequence[float], level: float) -> Comparison:
    """Two sets that are too small for ranks: Student's t of the logarithms, with one spread for both sides.

    A side of a single process has no spread of its own; it is taken to be that of the other side.
    """
    if not all(0 < time < math.inf for time in (*a, *b)):
        raise ValueError("times must be positive and finite")
    x, y = np.log(a), np.log(b)
    freedom = len(x) + len(y) - 2
    if not len(x) or not len(y) or freedom < 1:
        raise ValueError(f"{len(x)} processes of A and {len(y)} of B are too few for an interval")
    spread = math.sqrt((np.sum((x - x.mean()) ** 2) + np.sum((y - y.mean()) ** 2)) / freedom)
    middle = float(y.mean() - x.mean())
    half = student_t(level, freedom) * spread * math.sqrt(1 / len(x) + 1 / len(y))
    return Comparison(math.exp(middle), math.exp(middle - half), math.exp(middle + half), level, min(len(x), len(y)))
