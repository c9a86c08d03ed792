"""Faster? From the times of the rounds to words, for each case and over all of them. Pure functions of plain numbers.

Everybody was timed in every round of every case. Over the cases the geometric mean counts, round by round, so that its
interval is that of pairs. Looks are fixed beforehand and share the 5 % among them (Bonferroni); a kernel is FASTER
where it is against each yardstick, so that no yardstick is chosen by its times. The lines of cases are many
comparisons: their intervals have the level that keeps the share of false ones among those that stand out at 5 %.
On a GPU cycles must say what times say: a clock that rose meanwhile makes nobody faster.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from perfsuite import verdict
from perfsuite.verdict import Comparison, Verdict

LOOKS = (10, 20, 40)
"""Rounds after which it is looked whether more are needed."""
Q = (1 - verdict.LEVEL) / len(LOOKS)
AUDIT = 2.0
"""A gain over the best yardstick beyond which a result needs a second pair of eyes."""
_SEVERITY = (verdict.SLOWER, verdict.SAME, verdict.CANNOT_TELL, verdict.FASTER)

Samples = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""{case: {contender: {"forward": [ns], "backward": [ns] or [], "clock_hz": [Hz] or [], "lowered_by": [reason]}}}"""


def judge(samples: Samples, theirs: str, yardsticks: Sequence[str], ours: str | None, again: str) -> dict[str, Any]:
    """{"verdict", "ratio", "ci95", "threshold", "why", "against": yardstick that decides, "overall": [line],
    "cases": [line], "losses": [case], "audit": note or None}; a line is a verdict with "case", "against", "direction"
    and the medians "time_ns" and "against_ns". Ratios are theirs over the other's time: below 1 theirs is faster."""
    others = [*yardsticks, *([ours] if ours else [])]
    overall = [_overall(samples, theirs, other, direction, again)
               for direction in _directions(samples, theirs) for other in others]  # fmt: skip
    cases = _cases(samples, theirs, others, again)
    whole = _directions(samples, theirs)[-1]
    deciding = [line for line in overall if line["direction"] == whole and line["against"] in yardsticks]
    worst = min(deciding, key=lambda line: (_SEVERITY.index(line["verdict"]), -line["ratio"]))
    losses = [line["case"] for line in cases if line["direction"] == whole and line["against"] in yardsticks
              and line["verdict"] == verdict.SLOWER]  # fmt: skip
    best = max(line["ratio"] for line in deciding)
    audit = None
    if worst["verdict"] == verdict.FASTER and best < 1 / AUDIT:
        audit = f"{1 / best:.3g} times as fast as the best yardstick: beyond {AUDIT:g} times it needs an audit"
    return {**{key: worst[key] for key in ("verdict", "ratio", "ci95", "threshold", "why", "against")},
            "direction": whole, "overall": overall, "cases": cases, "losses": list(dict.fromkeys(losses)),
            "audit": audit}  # fmt: skip


def _directions(samples: Samples, theirs: str) -> tuple[str, ...]:
    backward = all(of[theirs]["backward"] for of in samples.values())
    return ("forward", "backward", "both") if backward else ("forward",)


def _times(one: Mapping[str, Any], direction: str) -> list[float]:
    if direction == "both":
        return [f + b for f, b in zip(one["forward"], one["backward"], strict=True)]
    return one[direction]


def _mean_times(samples: Samples, who: str, direction: str, in_cycles: bool) -> list[float]:
    """Of each round, the geometric mean over the cases."""
    rows = []
    for of in samples.values():
        times = _times(of[who], direction)
        rows.append([t * hz for t, hz in zip(times, of[who]["clock_hz"], strict=True)] if in_cycles else times)
    return [math.exp(sum(map(math.log, column)) / len(column)) for column in zip(*rows, strict=True)]


def _overall(samples: Samples, theirs: str, other: str, direction: str, again: str) -> dict[str, Any]:
    def compared(in_cycles: bool) -> Verdict:
        theirs_, other_, eager, once_more = (
            _mean_times(samples, who, direction, in_cycles) for who in (theirs, other, "eager", again)
        )
        found = verdict.paired(other_, theirs_, level=1 - Q)
        return verdict.judge(found, noise=_noise(verdict.paired(eager, once_more)))

    found = compared(False)
    involved = [of[who] for of in samples.values() for who in (theirs, other)]
    if all(len(one["clock_hz"]) == len(one["forward"]) for one in involved):
        cycles = compared(True)
        if cycles.word != found.word:
            why = f"by time it is {found.word}, in cycles of the SM clock {cycles.word}: {cycles.why}"
            found = found._replace(word=verdict.CANNOT_TELL, why=why)
    lowered = sorted({reason for one in involved for reason in one["lowered_by"]})
    if lowered:
        found = found._replace(word=verdict.CANNOT_TELL, why=f"the clock was lowered meanwhile: {', '.join(lowered)}")
    return _line(found, "", other, direction, None, None)


def _noise(equals: Comparison) -> float:
    """By how much two equal things differed."""
    return max(equals.ratio, 1 / equals.ratio) - 1


def _cases(samples: Samples, theirs: str, others: Sequence[str], again: str) -> list[dict[str, Any]]:
    def lines(level: float) -> list[dict[str, Any]]:
        found = []
        for case, of in samples.items():
            noise = _noise(verdict.paired(*(_times(of[who], _whole(of, theirs)) for who in ("eager", again))))
            for direction in ("forward", "backward", "both") if of[theirs]["backward"] else ("forward",):
                for other in others:
                    both = [_times(of[who], direction) for who in (other, theirs)]
                    judged = verdict.judge(verdict.paired(*both, level=level), noise=noise)
                    found.append(_line(judged, case, other, direction, median(both[1]), median(both[0])))
        return found

    first = lines(1 - Q)
    acting = sum(line["verdict"] in (verdict.FASTER, verdict.SLOWER) for line in first)
    return lines(verdict.adjusted_level(len(first), acting, Q))


def _whole(of: Mapping[str, Any], theirs: str) -> str:
    return "both" if of[theirs]["backward"] else "forward"


def _line(judged: Verdict, case: str, other: str, direction: str, time_ns: float | None,
          other_ns: float | None) -> dict[str, Any]:  # fmt: skip
    return {"case": case, "against": other, "direction": direction, "time_ns": time_ns, "against_ns": other_ns,
            "verdict": judged.word, "ratio": judged.ratio, "ci95": list(judged.ci95 or ()) or None,
            "threshold": judged.threshold, "why": judged.why}  # fmt: skip
