"""From collected samples to verdicts: our rule and the others', counted. Pure functions; nothing is measured here.

Ours replays what `pytest --perfsuite-baseline REV` does with the same processes: looks at growing data, each paid for,
until it can tell. `alone` judges each op as the only benchmark there is, `in a suite` all ops of a sitting together,
`by medians` alone, but with the median of a process in place of its first quartile.
The others come twice: with what they would have used themselves (a stored run against a run; for asv two processes a
side, as by default) and with all processes that ours was given.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from statistics import fmean, median
from typing import Any, NamedTuple

import rivals
from calibrate_process import OPS

from perfsuite import verdict
from perfsuite.bench_plugin.decide import Rounds, decide_all, noise_in_turns
from perfsuite.bench_plugin.looks import BLOCKS, LOOKS
from perfsuite.verdict import CANNOT_TELL, FASTER, SLOWER

Runs = Sequence[Mapping[str, Any]]
RUNS_A_SIDE = 6
"""Of a comparison of llama runs: what `perfsuite compare REV..REV` does by default."""


class Found(NamedTuple):
    """What a rule said of one comparison."""

    rule: str
    slower: float
    """The planted slowdown; 0: nothing changed."""
    word: str


def judge_ops(sittings: Sequence[Mapping[str, Any]]) -> list[Found]:
    """Every rule on every op of every sitting."""
    found = []
    for one in sittings:
        sides = {name: tuple([p["ops"][name] for p in one["processes"] if p["side"] == side] for side in (0, 1))
                 for name, _, _ in OPS}  # fmt: skip
        together = ours(sides)
        for name, (a, b) in sides.items():
            words = {"perfsuite, alone": ours({name: (a, b)})[name], "perfsuite, in a suite": together[name],
                     "perfsuite, alone, by medians": ours({name: (a, b)}, "median_s")[name],
                     **{rule: word(a, b) for rule, word in OTHERS.items()}}  # fmt: skip
            found += [Found(rule, one["slower"].get(name, 0.0), word) for rule, word in words.items()]
    return found


def ours(sides: Mapping[str, tuple[Runs, Runs]], figure: str = "q1_s") -> dict[str, str]:
    """The words of our rule; every op is measured up to the look that can tell, or to the end of the sitting.

    figure: what stands for a process; sample.typical() is the first quartile of its rounds.
    """
    used: dict[str, Rounds] = {}
    words = dict.fromkeys(sides, CANNOT_TELL)
    for blocks in BLOCKS:
        for name, (a, b) in sides.items():
            if words[name] == CANNOT_TELL:
                x, y = ([run[figure] for run in side[: 2 * blocks]] for side in (a, b))
                used[name] = Rounds(x, y, noise=noise_in_turns(x, y))
        words = {name: judged.word for name, judged in decide_all(used, LOOKS).items()}
        if all(len(a) <= 2 * blocks for a, _ in sides.values()):
            break
    return words


def _times(runs: Runs) -> rivals.Times:
    """The rounds of all these processes as one run; quartiles are the medians of theirs."""
    rounds = sum(run["rounds"] for run in runs)
    mean = sum(run["rounds"] * run["mean_s"] for run in runs) / rounds
    within = sum((run["rounds"] - 1) * run["stdev_s"] ** 2 for run in runs)
    between = sum(run["rounds"] * (run["mean_s"] - mean) ** 2 for run in runs)
    quartiles = [median(run[key] for run in runs) for key in ("q1_s", "median_s", "q3_s")]
    return rivals.Times(mean, sqrt((within + between) / (rounds - 1)), min(run["min_s"] for run in runs), *quartiles)


def _asv_samples(runs: Runs) -> list[float]:
    return [time for run in runs for time in run["blocks_s"]]


def _one_run(rule: Callable[[rivals.Times, rivals.Times], str]) -> Callable[[Runs, Runs], str]:
    return lambda a, b: rule(_times(a[:1]), _times(b[:1]))


def _all_runs(rule: Callable[[rivals.Times, rivals.Times], str]) -> Callable[[Runs, Runs], str]:
    return lambda a, b: rule(_times(a), _times(b))


OTHERS: dict[str, Callable[[Runs, Runs], str]] = {
    "nvbench-compare": _one_run(rivals.nvbench),
    "nvbench-compare-robust": _one_run(rivals.nvbench_robust),
    "pytest-benchmark mean:5%": _one_run(rivals.pytest_benchmark),
    "asv continuous": lambda a, b: rivals.asv(_asv_samples(a[:2]), _asv_samples(b[:2])),
    "nvbench-compare, all processes": _all_runs(rivals.nvbench),
    "nvbench-compare-robust, all processes": _all_runs(rivals.nvbench_robust),
    "pytest-benchmark mean:5%, all processes": _all_runs(rivals.pytest_benchmark),
    "asv continuous, all processes": lambda a, b: rivals.asv(_asv_samples(a), _asv_samples(b)),
}


def judge_llama(pairs: Sequence[Mapping[str, Any]]) -> list[Found]:
    """Every rule on the A/A comparisons of RUNS_A_SIDE successive pairs each; the pairs are taken as a ring.

    There are as many comparisons as pairs, and they share pairs: pairs / RUNS_A_SIDE of them have none in common.
    """
    found = []
    for start in range(len(pairs) if len(pairs) >= RUNS_A_SIDE else 0):
        chosen = [pairs[(start + i) % len(pairs)] for i in range(RUNS_A_SIDE)]
        a, b = ([next(r["time_s"] for r in pair["runs"] if r["side"] == side) for pair in chosen] for side in (0, 1))
        found += [Found(rule, 0.0, word) for rule, word in llama_words(a, b).items()]
    return found


def llama_words(a: Sequence[float], b: Sequence[float]) -> dict[str, str]:
    """Ours is that of `perfsuite compare`; to the others a run is a round, or a sample."""
    x, y = (_of_runs(side) for side in (a, b))
    return {"perfsuite": verdict.judge(verdict.paired(a, b)).word, "nvbench-compare": rivals.nvbench(x, y),
            "nvbench-compare-robust": rivals.nvbench_robust(x, y),
            "pytest-benchmark mean:5%": rivals.pytest_benchmark(x, y), "asv continuous": rivals.asv(a, b)}  # fmt: skip


def _of_runs(times: Sequence[float]) -> rivals.Times:
    from calibrate_process import summary

    kept = summary(times)
    return rivals.Times(*(kept[f"{key}_s"] for key in ("mean", "stdev", "min", "q1", "median", "q3")))


def count(found: Sequence[Found]) -> list[dict[str, Any]]:
    """A row for each rule: how many of the unchanged it called different, how many of the slowed SLOWER."""
    rows = []
    for rule in dict.fromkeys(one.rule for one in found):
        mine = [one for one in found if one.rule == rule]
        same = Counter(one.word for one in mine if not one.slower)
        row = {"rule": rule, "false_alarms": share(same[SLOWER] + same[FASTER], sum(same.values())),
               "cannot_tell": share(sum(one.word == CANNOT_TELL for one in mine), len(mine))}  # fmt: skip
        for slower in sorted({one.slower for one in mine} - {0.0}):
            words = [one.word for one in mine if one.slower == slower]
            row[f"power_{round(100 * slower)}_percent"] = share(words.count(SLOWER), len(words))
        rows.append(row)
    return rows


def share(count: int, of: int, level: float = 0.95) -> dict[str, Any]:
    """A share with Clopper and Pearson's interval (1934); None where there is nothing."""
    from scipy.special import betaincinv

    if not of:
        return {"count": 0, "of": 0, "share": None, "ci95": None}
    tail = (1 - level) / 2
    low = float(betaincinv(count, of - count + 1, tail)) if count else 0.0
    high = float(betaincinv(count + 1, of - count, 1 - tail)) if count < of else 1.0
    return {"count": count, "of": of, "share": count / of, "ci95": [low, high]}


def report(samples: Mapping[str, Any], only: str | None = None) -> dict[str, Any]:
    """All figures, as --json prints them."""
    sittings = samples["sittings"] if only != "llama" else []
    pairs = samples["llama"] if only != "ops" else []
    return {
        **{key: samples[key] for key in ("schema", "created", "commit", "machine", "cpus")},
        "ops": {"sittings": len(sittings), "comparisons": len(sittings) * len(OPS),
                "sitting_s": _range([one["wall_s"] for one in sittings]),
                "comparison_s": _range([one["comparison_s"] for one in sittings]),
                "processes": _range([len(one["processes"]) for one in sittings]),
                "load": _range([load for one in sittings for load in one["load"]]),
                "rules": count(judge_ops(sittings))},
        "llama": {"pairs": len(pairs), "comparisons": len(pairs) if len(pairs) >= RUNS_A_SIDE else 0,
                  "disjoint": len(pairs) // RUNS_A_SIDE, "pairs_each": RUNS_A_SIDE,
                  "pair_s": _range([one["wall_s"] for one in pairs]),
                  "load": _range([load for one in pairs for load in one["load"]]),
                  "rules": count(judge_llama(pairs))},
    }  # fmt: skip


def _range(values: Sequence[float]) -> dict[str, float] | None:
    return {"min": min(values), "mean": fmean(values), "max": max(values)} if values else None


def table(found: Mapping[str, Any]) -> str:
    """The report as text."""
    lines = []
    for what, unit, each in (("ops", "sitting", "sitting_s"), ("llama", "pair", "pair_s")):
        part = found[what]
        if not part["comparisons"]:
            continue
        load, took = part["load"], part[each]
        lines.append(f"{what}: {part['comparisons']} comparisons, a {unit} {took['min']:.0f} to {took['max']:.0f} s, "
                     f"load {load['min']:.1f} to {load['max']:.1f} on {found['cpus']} CPUs")  # fmt: skip
        if what == "ops":
            processes = part["processes"]
            lines[-1] += (f"; {processes['min']} to {processes['max']} processes and {len(OPS)} comparisons a sitting, "
                          f"a comparison alone {part['comparison_s']['max']:.0f} s at most")  # fmt: skip
        else:
            lines[-1] += f"; {part['pairs_each']} pairs each, {part['disjoint']} comparisons share no pair"
        powers = sorted({key for row in part["rules"] for key in row if key.startswith("power_")}, key=len)
        heads = ["rule", "false alarms", *(f"finds +{key.split('_')[1]} %" for key in powers), "cannot tell"]
        rows = [heads, *([row["rule"], *(_cell(row[key]) for key in ("false_alarms", *powers, "cannot_tell"))]
                         for row in part["rules"])]  # fmt: skip
        widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
        for row in rows:
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        lines.append("")
    return "\n".join(lines) or "there are no comparisons yet"


def _cell(part: Mapping[str, Any]) -> str:
    if part["share"] is None:
        return "-"
    low, high = part["ci95"]
    return f"{part['count']} of {part['of']}, {100 * part['share']:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
