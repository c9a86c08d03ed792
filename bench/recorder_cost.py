"""What the op recorder costs per op, beside an observer that does nothing and torch.profiler.

Short blocks of ops run on one thread, each block with one of the instruments on, in a random order per round; the cost
is the median over rounds of the block's CPU time less that of the bare block of its round, divided by its ops. CPU
time, because what other programs take from a shared machine is no cost of ours. `adds` are in-place adds to 8
elements, two records each in torch; `train` are forward and backward of 8 small layers, divided by all records.
Prints JSON last. `python bench/recorder_cost.py --rounds 100 --ops 500`
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from perfsuite.instruments.allocator import AllocatorAccount
from perfsuite.instruments.ops import OpRecorder

Variants = dict[str, Callable[[], AbstractContextManager[Any]]]


@contextmanager
def recorder(model: torch.nn.Module | None = None, shapes: bool = False) -> Iterator[None]:
    ops = OpRecorder(model)
    ops.start()
    ops.begin_step(0)  # the first step is recorded with shapes, the second without
    if not shapes:
        ops.begin_step(1)
    yield
    ops.stop()


@contextmanager
def allocator() -> Iterator[None]:
    account = AllocatorAccount()
    account.start()
    yield
    account.stop()


@contextmanager
def empty_observer() -> Iterator[None]:
    torch._C._autograd._set_empty_test_observer(True, 1.0)
    yield
    torch._C._autograd._clear_callbacks()  # the op recorder's too: nothing is recorded after this


def profiler() -> AbstractContextManager[Any]:
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])


def measure(run: Callable[[], None], variants: Variants, rounds: int, ops: int) -> dict[str, Any]:
    """Median extra ns per op of each variant over the bare block of the same round, and the quartiles over rounds."""
    all_variants: Variants = {"bare": nullcontext} | variants
    times: dict[str, list[float]] = {name: [] for name in all_variants}
    for done in range(rounds):
        for name in random.sample(list(all_variants), len(all_variants)):
            with all_variants[name]():
                start = time.thread_time_ns()
                run()
                times[name].append((time.thread_time_ns() - start) / ops)
        print(f"\r{done + 1} of {rounds} rounds", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    out: dict[str, Any] = {"ops_per_block": ops, "bare_ns_per_op": round(statistics.median(times["bare"]), 1)}
    for name in variants:
        extra = [with_it - bare for with_it, bare in zip(times[name], times["bare"], strict=True)]
        ratios = [with_it / bare for with_it, bare in zip(times[name], times["bare"], strict=True)]
        low, middle, high = statistics.quantiles(extra, n=4)
        out[name] = {
            "extra_ns_per_op": round(middle, 1),
            "quartiles_ns": [round(low, 1), round(high, 1)],
            "ratio": round(statistics.median(ratios), 4),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--ops", type=int, default=500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    x = torch.ones(8)

    def adds() -> None:
        for _ in range(arguments.ops):
            x.add_(1.0)

    layers = [torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU()) for _ in range(8)]
    model = torch.nn.Sequential(*layers)
    batch = torch.randn(4, 16)

    def train() -> None:
        for _ in range(4):
            model(batch).square().mean().backward()
            model.zero_grad()

    counter = OpRecorder()
    counter.start()
    train()
    train_ops = counter.stop()["events"]

    variants: Variants = {
        "recorder": recorder,
        "recorder_with_shapes": lambda: recorder(shapes=True),
        "allocator": allocator,
    }
    rounds = arguments.rounds
    result = {
        "torch": torch.__version__,
        "threads": 1,
        "rounds": rounds,
        "adds": measure(adds, variants | {"torch_profiler": profiler}, rounds, arguments.ops),
        "train": measure(
            train,
            variants | {"recorder_and_modules": lambda: recorder(model), "torch_profiler": profiler},
            rounds,
            train_ops,
        ),
        "adds_floor": measure(adds, {"empty_observer": empty_observer}, rounds, arguments.ops),
        "train_floor": measure(train, {"empty_observer": empty_observer}, rounds, train_ops),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
