"""One case of an op, ready to be timed: everybody who is compared, on inputs that have values no call has seen.

Before each block new values are put into the very tensors that were used before, without touching their version
counters: results kept by address, identity, version or content are old then. How many calls a block has is drawn, and
its last one is kept: a kernel cannot know which of its timed calls will be looked at.
"""

import math
import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from perfsuite import _native, gpu_state
from perfsuite.gpu_machine.device import agree
from perfsuite.kernels import evaluate, tuning
from perfsuite.kernels.check import Findings
from perfsuite.kernels.contract import Case, Implementation, Op
from perfsuite.op_bench import calls, clocks, yardsticks
from perfsuite.op_bench.measure import AGAIN, BLOCK_NS, MOST_CALLS, Timed

DRAWS = 3
"""Sets of inputs that values are taken from, each time scaled by another factor."""
LOOKED_AT = 4096
"""Elements of each result that are read at the moment the call returns."""
_draw = random.Random(secrets.randbits(64))  # not torch's own generators: a kernel could read their state
_torch_draw = torch.Generator().manual_seed(secrets.randbits(62))
_perf_counter_ns, _native_now_ns = time.perf_counter_ns, _native.now_ns


class Kept:
    """What one timed call returned, and some elements of it as they were at that moment."""

    def __init__(self, device: str) -> None:
        self.results: list[Any] = []
        """Of the forward, and of the backward where there is one."""
        self._at_once: list[tuple[Tensor, Tensor, Tensor]] = []
        # Drawn and on the device beforehand: a copy to it would wait for what it is doing.
        self._places = torch.rand(LOOKED_AT, generator=_torch_draw, dtype=torch.float64).to(device)

    def take(self, result: Any) -> None:
        """Of one step, right after it returned: on a GPU on the stream that it should have worked on."""
        self.results.append(result)
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and tensor.numel():
                where = (self._places * tensor.numel()).long()
                self._at_once.append((tensor, where, torch.take(tensor.detach(), where)))

    def changed_later(self) -> bool:
        """Whether a result was not yet there, or did not stay, when its call had returned."""
        return any(not torch.equal(_bits(torch.take(tensor.detach(), where)), _bits(elements))
                   for tensor, where, elements in self._at_once)  # fmt: skip


def _bits(values: Tensor) -> Tensor:
    return values.nan_to_num(nan=-1.25e-30) if values.dtype.is_floating_point else values


class CaseBench:
    """Contenders of one case and what was measured of them so far."""

    def __init__(self, op: Op, case: Case, device: str, cache_bytes: int, contenders: Sequence[Implementation]) -> None:
        """contenders: eager first, theirs last. Raises what theirs raises; others that raise are in `failed`."""
        self.op, self.case, self.device = op, case, device
        self.inputs = calls.make_inputs(op, case, device, cache_bytes, cold=True)
        self.pool = [op.inputs(case, device, torch.Generator().manual_seed(secrets.randbits(62))) for _ in range(DRAWS)]
        self.found = Findings()
        self.theirs = contenders[-1].name
        self._spans: list[tuple[int, int]] = []
        self._block = clocks.cuda_block if device == "cuda" else clocks.cpu_block
        self._entries: dict[str, tuple[Timed, clocks.Pair, int]] = {}
        self.failed: dict[str, str] = {}
        for implementation in (*contenders, contenders[0]):
            name = AGAIN if implementation.name in self._entries else implementation.name
            inputs = self.inputs
            if name == "liger":  # it writes into upstream gradients
                inputs = replace(inputs, upstream={key: value.clone() for key, value in inputs.upstream.items()})
            pair = calls.bind(op, implementation, inputs)
            self._fill(4)
            try:
                self._block(pair, 2, 0)  # compiles, builds, warms up
                took = min(sample.forward_ns + (sample.backward_ns or 0.0) for sample in self._block(pair, 2, 2))
            except Exception as error:
                if implementation is contenders[-1]:
                    raise
                line = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                self.failed[name] = f"it fails at {case.name}: {line}"
                continue
            most = min(MOST_CALLS, len(self.inputs.copies), BLOCK_NS / max(took, 1))
            self._entries[name] = Timed(name), pair, max(1, int(most))

    @property
    def timed(self) -> list[Timed]:
        return [entry[0] for entry in self._entries.values()]

    @property
    def disagreement(self) -> str | None:
        """Whether two clocks tell the length of most blocks differently; of some they do where a thread had to wait
        between the two readings."""
        apart = [spans for spans in self._spans if not agree(*spans)]
        if 2 * len(apart) <= len(self._spans):
            return None
        return f"two clocks disagree: a block took {apart[0][0]} ns by one and {apart[0][1]} ns by the other"

    def round(self, look_closely: bool) -> None:
        """A block of each contender, in drawn order. look_closely: compare what the kept call of theirs returned."""
        order = list(self._entries)
        _draw.shuffle(order)
        for name in order:
            timed, pair, most = self._entries[name]
            count = _draw.randint(math.ceil(most / 2), most)
            values = self._fill(count)
            kept = Kept(self.device)
            began = _perf_counter_ns(), _native_now_ns()
            samples = self._block(pair, count, 0, lambda index, result, k=kept, last=count - 1: (
                k.take(result) if index == last else None))  # fmt: skip
            spans = _perf_counter_ns() - began[0], _native_now_ns() - began[1]
            self._spans.append(spans)
            self._note(timed, samples)
            if name == self.theirs and look_closely:
                self._look_at(kept, values, self.inputs.copies[(count - 1) % len(self.inputs.copies)])

    def graphs(self) -> None:
        """On a GPU, time everybody by a second timer."""
        for timed, pair, _ in self._entries.values() if self.device == "cuda" else ():
            timed.graph_ns, timed.graph_reason = clocks.cuda_graph_ns(pair, len(self.inputs.copies))

    def _note(self, timed: Timed, samples: list[clocks.Sample]) -> None:
        timed.forward_ns.append(median(s.forward_ns for s in samples))
        timed.host_forward_ns.append(median(s.host_forward_ns for s in samples))
        if samples[0].backward_ns is not None:
            timed.backward_ns.append(median(s.backward_ns for s in samples))
            timed.host_backward_ns.append(median(s.host_backward_ns for s in samples))
        if self.device == "cuda":
            timed.gpu_states.append(gpu_state.read())

    def _fill(self, count: int) -> evaluate.Tensors:
        """New values for the first `count` copies; returns those of the last."""
        copies = self.inputs.copies
        values: evaluate.Tensors = {}
        for index in range(min(count, len(copies))):
            values = self._values()
            old, new = evaluate.named_tensors(copies[index]), evaluate.named_tensors(values)
            if [(n, t.shape, t.dtype) for n, t in old.items()] == [(n, t.shape, t.dtype) for n, t in new.items()]:
                for name, tensor in new.items():
                    old[name].data.copy_(tensor)
            else:  # sizes are drawn as well
                copies[index] = evaluate.leaves(self.op, evaluate.copy(values))
        return values

    def _values(self) -> evaluate.Tensors:
        factor = _draw.uniform(0.9, 1.1)
        values = evaluate.copy(_draw.choice(self.pool))
        for name in self.op.differentiable:
            if values.get(name) is not None:
                values[name].mul_(factor)
        return values

    def _look_at(self, kept: Kept, values: evaluate.Tensors, arguments: evaluate.Tensors) -> None:
        """The correctness rule, on what the timed call returned."""
        op, outputs = self.op, kept.results[0] if isinstance(kept.results[0], tuple) else (kept.results[0],)
        mine = {name: value for name, value in zip(op.outputs, outputs, strict=False) if value is not None}
        if len(kept.results) > 1:
            wanted = [name for name in op.differentiable if arguments.get(name) is not None]
            gradients = {f"grad_{name}": g for name, g in zip(wanted, kept.results[1], strict=True)}
        else:
            gradients = evaluate.gradients(op, mine, arguments, self.inputs.upstream)
        changed = evaluate.named_tensors({name: arguments[name] for name in op.mutates})
        mine = {name: value.detach() for name, value in {**mine, **changed, **gradients}.items()}
        self.found.compare(op, self.case, values, self.inputs.upstream, arguments, mine)
        if kept.changed_later():
            self.found.failures["a result changed after its call had returned: work went on elsewhere"] = None


OURS = "perfsuite"
"""The best of perfsuite's own implementations at a case."""


class Rivals:
    """Eager, torch.compile, Liger-Kernel and the best of ours, as far as they are here; `absent` says why not."""

    def __init__(self, op: Op, device: str) -> None:
        eager = op.implementations["eager"]
        wanted = [eager]
        if "compile" in op.implementations:
            why_not = op.implementations["compile"].why_not
            # A graph for each shape: one with symbols for sizes, as a second shape would get, is a weak rival.
            wanted.append(Implementation("compile", torch.compile(eager.run, fullgraph=True, dynamic=False), why_not))
        liger = yardsticks.liger(op.name)
        if liger is not None:
            wanted.append(liger)
        reasons = {one.name: one.why_not(device) for one in wanted}
        self.absent = {name: reason for name, reason in reasons.items() if reason}
        self.yardsticks = [one for one in wanted if one.name not in self.absent]
        self.has_ours = tuning.default(op, device) is not eager
        self._op, self._device, self._entries = op, device, tuning.load()[0]

    def at(self, case: Case) -> list[Implementation]:
        """Eager first."""
        if not self.has_ours:
            return self.yardsticks
        best = tuning.for_case(self._op, case, self._entries, self._device)
        return [*self.yardsticks, Implementation(OURS, best.run, best.why_not)]
