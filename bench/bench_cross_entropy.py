"""Cross-entropy forward + backward: how much faster than eager is each implementation that this machine has?

Every round runs each implementation once on fresh copies of the same logits, in a random order, so that a slow minute
of the machine hits all of them; the figure is the median over rounds of the ratio of their times, with a bootstrap
interval. Prints JSON last. `python bench/bench_cross_entropy.py --rounds 40`
"""

import argparse
import json
import random
import statistics
import sys
import time

import numpy as np
import torch

from perfsuite.kernels import contract
from perfsuite.kernels.contract import Case
from perfsuite.kernels.cross_entropy import OP, cross_entropy

BASELINES = ("eager", "compile")
SHAPES = ((512, 32000), (1024, 256))
REPEATS_ELEMENTS = 4_000_000  # small shapes are repeated within a timing until this many elements have been worked on


def time_once(logits: torch.Tensor, target: torch.Tensor, repeats: int) -> float:
    """Seconds of one forward + backward from logits to their gradient, the mean over `repeats`."""
    leaves = [logits.clone().requires_grad_() for _ in range(repeats)]
    start = time.perf_counter()
    for leaf in leaves:
        cross_entropy(leaf, target).backward()
    return (time.perf_counter() - start) / repeats


def median_with_interval(values: list[float], seed: int = 0) -> dict[str, float | list[float]]:
    """Median and its 95 % interval from 2,000 bootstrap resamples."""
    draws = np.random.default_rng(seed).choice(np.array(values), (2000, len(values)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {"median": round(statistics.median(values), 3), "ci95": [round(float(low), 3), round(float(high), 3)]}


def measure(rows: int, classes: int, names: list[str], rounds: int) -> dict[str, object]:
    """Times and ratios of one shape in float32 on the CPU."""
    repeats = max(1, REPEATS_ELEMENTS // (rows * classes))
    logits, target = torch.randn(rows, classes), torch.randint(0, classes, (rows,))
    times: dict[str, list[float]] = {name: [] for name in names}
    for current in range(-2, rounds):  # the first two warm up and compile
        for name in random.sample(names, len(names)):
            contract.select({"cross_entropy": name})
            took = time_once(logits, target, repeats)
            if current >= 0:
                times[name].append(took)
        print(f"{rows}x{classes}: round {current + 1} of {rounds}", end="\r", file=sys.stderr)
    least = OP.cost(Case("float32", {"rows": rows, "classes": classes})).bytes
    result: dict[str, object] = {"rows": rows, "classes": classes, "dtype": "float32", "rounds": rounds}
    for name in names:
        middle = statistics.median(times[name])
        least_rate = round(least / middle / 1e9, 2)
        figures = {"median_s": middle, "min_s": min(times[name]), "gbytes_per_s_of_least": least_rate}
        for base in set(BASELINES) & set(names) - {name}:
            ratios = [b / t for b, t in zip(times[base], times[name], strict=True)]
            figures[f"times_faster_than_{base}"] = median_with_interval(ratios)
        result[name] = {**figures, "times_s": times[name]}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    names = [name for name, one in OP.implementations.items() if one.why_not("cpu") is None]
    absent = {name: one.why_not("cpu") for name, one in OP.implementations.items() if name not in names}
    results = [measure(rows, classes, names, rounds) for rows, classes in SHAPES]
    conditions = {"torch": torch.__version__, "threads": torch.get_num_threads(), "absent": absent}
    print(json.dumps({"benchmark": "cross_entropy", "conditions": conditions, "results": results}))


if __name__ == "__main__":
    main()
