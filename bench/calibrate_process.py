"""One process of bench/calibrate.py: times every op once, some of them slowed, and prints the times as JSON.

A slowed call does its work and then spins until the given share of its own time has passed as well: with 0.1 every
single call takes 1.1 times what it took, whatever the machine does meanwhile. Calls that are not slowed run the very
same code with a share of 0. `python bench/calibrate_process.py '{"budget_s": 0.06, "slower": {"rope": 0.1}}'`
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from statistics import fmean, median, quantiles, stdev
from typing import Any

OPS = (
    ("adamw", "21x668544 float32 beta2=0.95 eps=1e-05 weight_decay=0.1 max_norm=1.0 sizes=llama tiny", "cpp"),
    ("batch_norm_add_relu", "100x16x14x14 float32 add=False", "cpp"),
    ("cross_entropy", "1024x256 float32", "cpp"),
    ("embedding_bag", "10000x128x1024x8192 float32 distribution=zipf", "cpp"),
    ("global_norm", "21x668544 float32 sizes=llama tiny", "eager"),
    ("layer_norm", "1024x128 float32", "eager"),
    ("linear", "1024x128x128 float32", "eager"),
    ("qk_norm_rope", "8x4x4x128x32 float32 layout=tokens", "cpp"),
    ("rms_norm", "1024x128 float32", "cpp"),
    ("rope", "8x4x128x32 float32 layout=tokens", "eager"),
    ("softmax", "4096x128 float32", "cpp"),
    ("swiglu", "1024x352 float32 layout=halves", "eager"),
)
"""(op, case at scale cpu, implementation): short ones, 0.05 to 5 ms a call, forward and backward together."""
MIN_ROUNDS = 5
MOST_ROUNDS = 40
"""That are kept, evenly taken; the statistics are those of all."""
BLOCK_S, BLOCKS = 0.01, 5
"""asv's samples: calls for 10 ms at least are one, and a process gives at most 5 of them where there are several."""


def sample(call: Callable[[], Any], share: float, budget_s: float) -> dict[str, Any]:
    """Time rounds of one call each until the budget is spent, as pytest-benchmark does; seconds throughout."""
    for _ in range(2):
        call()
    rounds: list[float] = []
    now, end = time.perf_counter, time.perf_counter() + budget_s
    while len(rounds) < MIN_ROUNDS or now() < end:
        began = now()
        call()
        took = now() - began
        until = began + (1 + share) * took
        while now() < until:
            pass
        rounds.append(now() - began)
    return summary(rounds)


def summary(rounds: Sequence[float]) -> dict[str, Any]:
    """What is kept of the rounds: their statistics, some of them, and the means of blocks of 10 ms."""
    q1, _, q3 = quantiles(rounds, n=4, method="inclusive")
    step = max(1, -(-len(rounds) // MOST_ROUNDS))
    return {"rounds": len(rounds), "mean_s": fmean(rounds), "stdev_s": stdev(rounds), "median_s": median(rounds),
            "min_s": min(rounds), "q1_s": q1, "q3_s": q3, "blocks_s": blocks(rounds),
            "rounds_s": [round(took, 9) for took in rounds[::step]]}  # fmt: skip


def blocks(rounds: Sequence[float]) -> list[float]:
    """Means of consecutive rounds that take BLOCK_S together, the first BLOCKS; all rounds where there is none."""
    found, part = [], []
    for took in rounds:
        part.append(took)
        if sum(part) >= BLOCK_S:
            found.append(fmean(part))
            part = []
    return found[:BLOCKS] or [fmean(rounds)]


def calls() -> dict[str, Callable[[], Any]]:
    """Forward and backward of each of OPS, on inputs that are the same in every process."""
    from perfsuite.kernels import contract
    from perfsuite.op_bench.calls import bind, make_inputs

    found = {}
    for name, case_name, implementation in OPS:
        op = contract.op(name)
        case = next(case for case in op.cases("cpu") if case.name == case_name)
        reason = op.implementations[implementation].why_not("cpu")
        if reason:
            raise SystemExit(f"{name}={implementation} cannot run here: {reason}")
        pair = bind(op, op.implementations[implementation], make_inputs(op, case, "cpu", 0, cold=False))
        found[name] = lambda pair=pair: [step() for step in pair(0)]
    return found


def main() -> None:
    request = json.loads(sys.argv[1])
    import torch

    torch.set_num_threads(1)
    slower, budget_s = request["slower"], request["budget_s"]
    print(json.dumps({name: sample(call, slower.get(name, 0.0), budget_s) for name, call in calls().items()}))


if __name__ == "__main__":
    main()
