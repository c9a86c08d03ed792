"""A training step of an embedding table, forward + backward + update: how much faster than torch's own parts?

eager: nn.EmbeddingBag(sparse=True), its backward, and for sgd torch.optim.SGD, for rowwise_adagrad (which torch lacks)
the coalesced sparse gradient and indexing; adagrad is torch.optim.Adagrad, whose state is as large as the table.
cpp: embedding_bag and embedding_bag_update. The gradient of the bags is the same random one for all.

Every round runs each of them once, in a random order; figures are ratios of medians over the rounds, with a bootstrap
interval. Prints JSON last. `python bench/embedding_bag_step.py --rounds 40`
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable

import torch

from perfsuite.kernels import contract
from perfsuite.kernels.embedding_bag import embedding_bag, inputs, lookup_case
from perfsuite.kernels.embedding_bag_update import OPTIMIZERS, embedding_bag_update
from perfsuite.stats import ratio_of_medians

ROWS, WIDTH, BAGS, PER_BAG = 100_000, 64, 2048, 20
LR, EPS = 0.01, 1e-8


def steps(distribution: str) -> dict[str, dict[str, Callable[[], None]]]:
    """{optimizer: {name: one step}}, each with a table of its own, all equal before the first step."""
    case = lookup_case(ROWS, WIDTH, BAGS, BAGS * PER_BAG, draw={"distribution": distribution})
    tensors = inputs(case, "cpu", torch.Generator().manual_seed(0))
    indices, offsets = tensors["indices"], torch.arange(0, BAGS * PER_BAG + 1, PER_BAG)
    upstream = torch.randn(BAGS, WIDTH)

    def module() -> torch.nn.EmbeddingBag:
        weight = tensors["weight"].clone()
        return torch.nn.EmbeddingBag(ROWS, WIDTH, mode="sum", sparse=True, include_last_offset=True, _weight=weight)

    def with_optimizer(make: Callable[..., torch.optim.Optimizer]) -> Callable[[], None]:
        table = module()
        optimizer = make(table.parameters(), lr=LR)

        def step() -> None:
            optimizer.zero_grad()
            table(indices, offsets).backward(upstream)
            optimizer.step()

        return step

    def by_indexing() -> Callable[[], None]:
        table, state = module(), torch.zeros(ROWS)

        def step() -> None:
            table.weight.grad = None
            table(indices, offsets).backward(upstream)
            with torch.no_grad():
                gradient = table.weight.grad.coalesce()
                rows, g = gradient.indices()[0], gradient.values()
                state[rows] += g.square().mean(1)
                table.weight[rows] -= LR * g / (state[rows].sqrt() + EPS)[:, None]

        return step

    def fused(optimizer: str) -> Callable[[], None]:
        weight, state = tensors["weight"].clone(), None if optimizer == "sgd" else torch.zeros(ROWS)

        def step() -> None:
            embedding_bag(weight, indices, offsets)
            embedding_bag_update(weight, state, indices, offsets, upstream, optimizer=optimizer, lr=LR, eps=EPS)

        return step

    return {
        "sgd": {"eager": with_optimizer(torch.optim.SGD), "cpp": fused("sgd")},
        "rowwise_adagrad": {
            "eager": by_indexing(),
            "adagrad": with_optimizer(torch.optim.Adagrad),
            "cpp": fused("rowwise_adagrad"),
        },
    }


def measure(distribution: str, rounds: int) -> list[dict[str, object]]:
    """Times and ratios of both optimizers, float32 on the CPU."""
    results = []
    made = steps(distribution)
    for optimizer in OPTIMIZERS:
        named, times = made[optimizer], {name: [] for name in made[optimizer]}
        for current in range(-3, rounds):  # the first three warm up
            for name in random.sample(list(named), len(named)):
                start = time.perf_counter()
                named[name]()
                took = time.perf_counter() - start
                if current >= 0:
                    times[name].append(took)
            print(f"{distribution} {optimizer}: round {current + 1} of {rounds}", end="\r", file=sys.stderr)
        result: dict[str, object] = {"distribution": distribution, "optimizer": optimizer, "rounds": rounds}
        for name in named:
            figures = {"median_s": statistics.median(times[name]), "min_s": min(times[name])}
            for base in named.keys() - {name, "cpp"} if name == "cpp" else ():
                ratio, lo, hi = ratio_of_medians(times[base], times[name])
                figures[f"times_faster_than_{base}"] = {"ratio": ratio, "ci95": [lo, hi]}
            result[name] = {**figures, "times_s": times[name]}
        results.append(result)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    contract.select({"embedding_bag": "cpp", "embedding_bag_update": "cpp"})
    results = [result for distribution in ("uniform", "zipf") for result in measure(distribution, rounds)]
    shape = {"rows": ROWS, "width": WIDTH, "bags": BAGS, "lookups_per_bag": PER_BAG, "dtype": "float32"}
    conditions = {"torch": torch.__version__, "threads": torch.get_num_threads(), **shape}
    print(json.dumps({"benchmark": "embedding_bag_step", "conditions": conditions, "results": results}))


if __name__ == "__main__":
    main()
