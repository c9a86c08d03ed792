"""One case: every implementation in turn, interleaved in a random order, again and again until the budget is spent."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from perfsuite import gpu_state
from perfsuite.kernels.contract import Case, Implementation, Op
from perfsuite.op_bench import calls, clocks

MIN_ROUNDS, MAX_ROUNDS = 7, 60
BLOCK_NS = 10_000_000
MOST_CALLS = 50
AGAIN = "eager again"
"""Eager a second time, as if it were another implementation: what two equal things differ by here."""


@dataclass
class Timed:
    """What was measured of one implementation of one case."""

    impl: str
    forward_ns: list[float] = field(default_factory=list)
    """Device time: the median of each round's block."""
    backward_ns: list[float] = field(default_factory=list)
    host_forward_ns: list[float] = field(default_factory=list)
    host_backward_ns: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    peak_reason: str | None = None
    wrong: str | None = None
    """How what was timed differs from eager's results."""
    graph_ns: float | None = None
    graph_reason: str | None = None
    gpu_states: list[gpu_state.State] = field(default_factory=list)
    """After each round's block, on a GPU."""

    def both_ns(self) -> list[float]:
        """Forward and backward together, round by round; the forward alone where there is no backward."""
        if not self.backward_ns:
            return self.forward_ns
        return [f + b for f, b in zip(self.forward_ns, self.backward_ns, strict=True)]


def measure(
    op: Op, implementations: Sequence[Implementation], case: Case, device: str, cache_bytes: int, cold: bool,
    budget_s: float, progress: Callable[[float], None] = lambda share: None,
) -> tuple[list[Timed], dict[str, str], calls.Inputs]:  # fmt: skip
    """(what was timed, why others were not, the inputs). The first of the implementations must be eager."""
    block = clocks.cuda_block if device == "cuda" else clocks.cpu_block
    shared = calls.make_inputs(op, case, device, cache_bytes, cold)
    entries: dict[str, tuple[Timed, clocks.Pair, int]] = {}
    failed: dict[str, str] = {}
    for implementation in [*implementations, implementations[0]]:
        name = AGAIN if implementation.name in entries else implementation.name
        inputs = shared if name != "liger" else calls.make_inputs(op, case, device, cache_bytes, cold)
        pair = calls.bind(op, implementation, inputs)
        try:
            block(pair, 2, 0)  # compiles, builds, warms up
            took = sum(_total(sample) for sample in block(pair, 2, 2)) / 2
        except Exception as error:  # somebody's kernel may not know this case
            failed[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            continue
        entries[name] = Timed(name), pair, int(max(1, min(MOST_CALLS, BLOCK_NS / max(took, 1))))
        if name == AGAIN:
            break
        _peak(entries[name][0], pair, device)
        _compare(entries[name][0], op, implementation, entries, shared, name)
    if device == "cuda":
        for timed, pair, _ in entries.values():
            timed.graph_ns, timed.graph_reason = clocks.cuda_graph_ns(pair, len(shared.copies))
    _rounds(entries, block, device, budget_s, progress)
    empty_ns = clocks.cuda_empty_ns() if device == "cuda" else 0.0
    timed = [entry[0] for entry in entries.values()]
    for one in timed:
        one.forward_ns = [max(1.0, ns - empty_ns) for ns in one.forward_ns]
        one.backward_ns = [max(1.0, ns - empty_ns) for ns in one.backward_ns]
    return timed, failed, shared


def _rounds(
    entries: dict[str, Any], block: Any, device: str, budget_s: float, progress: Callable[[float], None]
) -> None:
    order, shuffle = list(entries), random.Random(0).shuffle
    started, done = time.monotonic(), 0
    while done < MAX_ROUNDS and (done < MIN_ROUNDS or time.monotonic() - started < budget_s):
        shuffle(order)
        for name in order:
            timed, pair, count = entries[name]
            samples = block(pair, count, done * count)
            timed.forward_ns.append(median(sample.forward_ns for sample in samples))
            timed.host_forward_ns.append(median(sample.host_forward_ns for sample in samples))
            if device == "cuda":
                timed.gpu_states.append(gpu_state.read())
            if samples[0].backward_ns is not None:
                timed.backward_ns.append(median(sample.backward_ns for sample in samples))
                timed.host_backward_ns.append(median(sample.host_backward_ns for sample in samples))
        done += 1
        progress(max(done / MAX_ROUNDS, min(1.0, (time.monotonic() - started) / budget_s)))


def _total(sample: clocks.Sample) -> float:
    return sample.forward_ns + (sample.backward_ns or 0.0)


def _peak(timed: Timed, pair: clocks.Pair, device: str) -> None:
    """Memory held at most during one forward and backward, beyond its inputs."""
    steps = pair(0)
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        kept = [step() for step in steps]
        torch.cuda.synchronize()
        timed.peak_bytes = torch.cuda.max_memory_allocated() - before
        del kept
        return
    from perfsuite.instruments.allocator import AllocatorAccount

    availability = AllocatorAccount.available()
    if not availability.available:
        timed.peak_reason = availability.reason
        return
    from perfsuite import torch_extension

    torch_extension.load().reuse_release()  # what was kept for outputs counts as memory
    account = AllocatorAccount()
    account.start()
    kept = [step() for step in steps]
    timed.peak_bytes = account.stop()["peak_bytes"]
    del kept


def _compare(
    timed: Timed, op: Op, implementation: Implementation, entries: dict[str, Any], inputs: calls.Inputs, name: str
) -> None:
    """Whether what is being timed computes what eager computes: results of the same copy, to the dtype's precision.

    A rough look, at the timed calls themselves; the proof is `perfsuite ops check`.
    """
    if op.mutates or name in ("eager", "liger"):
        return
    mine, theirs = ([step() for step in entries[who][1](0)] for who in (name, "eager"))
    for got, want in zip(_flat(mine), _flat(theirs), strict=True):
        want = want.detach().double()
        finite = want.isfinite() & got.isfinite()
        size = want[finite].square().mean().sqrt()
        error = (got.detach().double() - want)[finite].square().mean().sqrt()
        if want.numel() and not bool(error <= _ROUGH[got.dtype] * size + 1e-30):
            timed.wrong = f"differs from eager by {float(error / size):.1e} (RMS, relative)"


_ROUGH = {torch.float32: 1e-4, torch.float64: 1e-10, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def _flat(results: list[Any]) -> list[torch.Tensor]:
    out: list[torch.Tensor] = []
    for result in results:
        out += [t for t in (result if isinstance(result, (tuple, list)) else (result,)) if t is not None]
    return out
