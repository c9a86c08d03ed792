"""A made-up training run on one H100 (llama's layers, 4 of them), played through on a simulated host and GPU.

Nothing was measured: durations follow from bytes, operations and round rates. What is exact is how it adds up: every
nanosecond of host and device belongs to one line, by plain sums here that the account knows nothing of.
"""

import bisect
import itertools
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

T, W, H, HEADS = 64 * 1024, 512, 1408, 8
DEPTH, NUM_STEPS, EVAL_EVERY, BATCH = 4, 96, 48, 64
PHASES = ("data", "forward", "backward", "optimizer", "evaluation", "other")
DRAM_RATE, GEMM_RATE, FLASH_RATE, PCIE_RATE = 2.4e12, 560e12, 300e12, 25e9
"""Bytes, operations and bytes a second that the kernels reach."""
WATTS = {"nvjet": 640.0, "void flash": 540.0, "[mem": 130.0, "": 430.0}
"""Drawn while a kernel runs whose name begins like this, the first that fits; IDLE_W while none runs."""
IDLE_W = 92.0
INTERVAL_NS = 2_000_000
"""Of busy time by kernel."""
UNSEEN_EVERY = 16
"""Steps: the launch call of the first piece of work of one of them is not seen."""
LAUNCH_NS = 4500
"""From the begin of a launch call to the begin of its kernel on an idle device."""


class Kernel(NamedTuple):
    """One launch. Bytes and operations are of one call, as the counters pass would measure them."""

    name: str
    time_ns: int
    dram_read_bytes: int = 0
    dram_write_bytes: int = 0
    l2_bytes: int = 0
    tensor_ops: int = 0
    kind: str = "kernel"
    copy: tuple[str, bool] | None = None
    """Direction, and whether the host's side is pinned."""
    copy_bytes: int = 0
    stream: int = 7
    graph: bool = False


class Op(NamedTuple):
    """One op call on the host with what it launches. name "": launched outside all ops."""

    name: str
    host_ns: int
    kernels: tuple[Kernel, ...] = ()
    signature: str = ""
    bytes: int = 0
    direction: str = "none"
    op: str = ""
    module: str = ""
    thread: str = "clock"
    sync_ns: int = 0
    """Above 0: it waits for the device, and then for so long."""


class Slice(NamedTuple):
    """One kernel, copy or memset on the device."""

    start_ns: int
    end_ns: int
    kernel: Kernel
    op: Op
    phase: str
    correlation: int
    launch_ns: int
    seen: bool = True
    """Whether the recorder saw the launch call."""


def watts_of(name: str) -> float:
    """What the device draws while this runs."""
    return next(watts for begin, watts in WATTS.items() if name.startswith(begin))


def matmul(m: int, k: int, n: int, name: str = "aten::mm", **where: Any) -> Op:
    """bf16 (m, k) @ (k, n)."""
    least = 2 * (m * k + k * n + m * n)
    ops = 2 * m * k * n
    time_ns = round(max(ops / GEMM_RATE, least / DRAM_RATE) * 1e9)
    tile = "256x128x64" if n > 1024 else "128x128x64"
    kernel = Kernel(
        f"nvjet_tst_{tile}_2x1_v_bz_coopA_TNT<bf16, {n}>",
        time_ns,
        round(2.1 * (m * k + k * n)),
        2 * m * n,
        round(2.6 * least),
        ops,
    )
    return Op(name, 9_000, (kernel,), f"bf16[{m},{k}] bf16[{k},{n}] -> bf16[{m},{n}]", least, **where)


def elementwise(name: str, kernel: str, read: int, written: int, signature: str, **where: Any) -> Op:
    """Streams `read` and `written` bytes."""
    time_ns = round((read + written) / DRAM_RATE * 1e9) + 1500
    host_ns = where.pop("host_ns", 7_000)
    made = Kernel(kernel, time_ns, round(0.97 * read), written, round(1.2 * (read + written)))
    return Op(name, host_ns, (made,), signature, read + written, **where)


def attention(backward: bool, **where: Any) -> Op:
    """Causal flash attention over (64, 1024, 8, 64)."""
    heads = f"bf16[64,1024,{HEADS},{W // HEADS}]"
    products = 5 if backward else 2
    ops = products * 2 * 64 * HEADS * 1024 * 1024 * (W // HEADS) // 2
    tensors = 8 if backward else 4
    size = 2 * T * W
    name = "aten::_flash_attention_backward" if backward else "aten::_flash_attention_forward"
    kernel = Kernel(
        f"void flash::flash_{'bwd' if backward else 'fwd'}_kernel<64, 128, 128, 4, true, bf16>",
        round(ops / FLASH_RATE * 1e9),
        (tensors - 1) * size,
        size,
        3 * tensors * size,
        ops,
    )
    inputs = 5 if backward else 3
    signature = f"{' '.join([heads] * inputs)} -> {heads} is_causal=1"
    return Op(name, 15_000, (kernel,), signature, tensors * size, **where)


def forward_ops(grad: bool) -> list[Op]:
    """The forward of the model; without gradients it belongs to an evaluation."""
    direction = "forward" if grad else "none"
    flat, wide = f"bf16[{T},{W}]", f"bf16[{T},{2 * H}]"
    ops = [
        elementwise(
            "aten::embedding",
            "vectorized_gather_kernel<16, long>",
            2 * T * W,
            2 * T * W,
            f"bf16[256,{W}] i64[64,1024] -> bf16[64,1024,{W}]",
            direction=direction,
            module="embedding",
        )
    ]
    for i in range(DEPTH):
        at = f"layers.{i}"
        norm = {
            "signature": f"{flat} f32[{W}] {flat} -> {flat} {flat}",
            "direction": direction,
            "op": "rms_norm=triton",
        }
        ops += [
            elementwise(
                "perfsuite::rms_norm",
                "rms_norm_add_kernel",
                4 * T * W,
                4 * T * W,
                module=f"{at}.attention_norm",
                **norm,
            ),
            matmul(T, W, 3 * W, direction=direction, module=f"{at}.attention.qkv"),
            attention(False, direction=direction, module=f"{at}.attention"),
            matmul(T, W, W, direction=direction, module=f"{at}.attention.out"),
            elementwise(
                "perfsuite::rms_norm", "rms_norm_add_kernel", 4 * T * W, 4 * T * W, module=f"{at}.mlp_norm", **norm
            ),
            matmul(T, W, 2 * H, direction=direction, module=f"{at}.mlp.gate_up"),
            elementwise(
                "perfsuite::swiglu",
                "void perfsuite::swiglu_kernel<__nv_bfloat16, 8>",
                4 * T * H,
                2 * T * H,
                f"{wide} -> bf16[{T},{H}]",
                direction=direction,
                op="swiglu=cuda",
                module=f"{at}.mlp",
            ),
            matmul(T, H, W, direction=direction, module=f"{at}.mlp.down"),
        ]
    ops.append(
        elementwise(
            "perfsuite::cross_entropy",
            "void perfsuite::cross_entropy_kernel<__nv_bfloat16>",
            2 * T * 256,
            4 * T,
            f"bf16[{T},256] i64[{T}] -> f32[]",
            direction=direction,
            op="cross_entropy=cuda",
        )
    )
    return ops


def backward_ops() -> list[Op]:
    """The backward, on the engine's own thread. The last layer's gate_up is computed again: a forward op."""
    ops: list[Op] = []
    for i in reversed(range(DEPTH)):
        at = f"layers.{i}"
        where = {"direction": "backward", "thread": "other"}
        if i == DEPTH - 1:
            ops.append(matmul(T, W, 2 * H, direction="forward", thread="other", module=f"{at}.mlp.gate_up"))
        for k, n, module in (
            (H, W, "mlp.down"),
            (W, 2 * H, "mlp.gate_up"),
            (W, W, "attention.out"),
            (W, 3 * W, "attention.qkv"),
        ):
            ops += [
                Op("MmBackward0", 2_500, module=f"{at}.{module}", **where),
                matmul(T, n, k, module=f"{at}.{module}", **where),  # of the input
                matmul(k, T, n, module=f"{at}.{module}", **where),  # of the weight
            ]
            if module == "mlp.down":
                ops.append(
                    elementwise(
                        "perfsuite::swiglu_backward",
                        "void perfsuite::swiglu_backward_kernel<__nv_bfloat16, 8>",
                        6 * T * H,
                        4 * T * H,
                        f"bf16[{T},{H}] bf16[{T},{2 * H}] -> bf16[{T},{2 * H}]",
                        op="swiglu=cuda",
                        module=f"{at}.mlp",
                        **where,
                    )
                )
            if module == "attention.out":
                ops.append(attention(True, module=f"{at}.attention", **where))
    return ops


def optimizer_ops() -> list[Op]:
    """The norm of the gradient, AdamW, and a CUDA graph of two kernels that no op launches."""
    parameters = DEPTH * (4 * W * W + 3 * W * H)
    size = 4 * parameters
    graph = (
        Kernel("ema_update_kernel", 24_000, 2 * size, size, 4 * size, graph=True),
        Kernel("void at::native::scale_kernel<float>", 3_000, 4096, 4096, 16384, graph=True),
    )
    return [
        elementwise(
            "perfsuite::global_norm",
            "void perfsuite::square_sum_kernel<float>",
            size,
            256,
            f"[24xf32 {parameters}] -> f32[]",
            op="global_norm=cuda",
            host_ns=30_000,
        ),
        elementwise(
            "perfsuite::adamw",
            "void perfsuite::adamw_kernel<float, 4>",
            4 * size,
            3 * size,
            f"[24xf32 {parameters}]",
            op="adamw=cuda",
            host_ns=60_000,
        ),
        Op("", 12_000, graph),
    ]


def copies() -> list[Op]:
    """The next batch from pinned memory on a stream of its own, and a small table from pageable memory."""
    tokens = BATCH * 1025 * 8
    prefetch = Kernel(
        "[memcpy HtoD]",
        round(tokens / PCIE_RATE * 1e9),
        0,
        tokens,
        tokens,
        0,
        "memcpy",
        ("HtoD", True),
        tokens,
        stream=20,
    )
    table = Kernel("[memcpy HtoD]", 11_000, 0, 65_536, 65_536, 0, "memcpy", ("HtoD", False), 65_536)
    return [
        Op("aten::copy_", 8_000, (prefetch,), "i64[64,1025] i64[64,1025] -> i64[64,1025]", 2 * tokens),
        Op("aten::copy_", 14_000, (table,), "f32[16384] f32[16384] -> f32[16384]", 131_072),
    ]


def loss_ops() -> list[Op]:
    """Clear a flag, read the loss: the host waits for the device."""
    clear = Kernel("[memset]", 1_800, 0, 4096, 4096, 0, "memset", None, 4096)
    read = Kernel("[memcpy DtoH]", 1_600, 0, 0, 64, 0, "memcpy", ("DtoH", False), 4)
    return [
        Op("aten::zero_", 5_000, (clear,), "f32[1024] -> f32[1024]", 4096),
        Op("aten::_local_scalar_dense", 6_000, (read,), "f32[] -> ", 4, sync_ns=2_000),
    ]


class Schedule:
    """The run played through. start_ns is monotonic; host: how slow the host is (1.0: as recorded)."""

    def __init__(self, start_ns: int, host: float = 1.0, seed: int = 1) -> None:
        self.start_ns = self.now = start_ns
        self.slices: list[Slice] = []
        self.host: list[tuple[int, int, str, str]] = []
        """Begin, end, phase ("": none), and "sync", "op" or "python"."""
        self.op_calls: list[tuple[int, int, Op, str, int]] = []
        """Begin, end, op, phase, step (-1: an evaluation)."""
        self.step_starts: list[int] = []
        self.syncs: list[int] = []
        self._host, self._rng = host, random.Random(seed)
        self._free: defaultdict[int, int] = defaultdict(int)
        self._correlation = 0
        self._step = -1
        for step in range(NUM_STEPS):
            self._run_step(step)
        self._spend(400_000, "")
        self.end_ns = self.now

    def _run_step(self, step: int) -> None:
        self.step_starts.append(self.now)
        self._step = step
        self._spend(round(250_000 * (0.8 + 0.4 * self._rng.random())), "data")
        self._ops(copies(), "data")
        self._ops(forward_ops(True), "forward")
        self._ops(backward_ops(), "backward")
        norm, *rest = optimizer_ops()
        self._ops([norm, loss_ops()[1]], "optimizer")  # the host waits for the norm, and the device for Python after it
        self._spend(900_000, "optimizer")
        self._ops(rest, "optimizer")
        self._ops(loss_ops(), "other")
        self._spend(20_000, "")
        if (step + 1) % EVAL_EVERY == 0:
            self._step = -1
            self._ops(forward_ops(False) * 2, "evaluation")
            self._ops(loss_ops(), "evaluation")

    def _spend(self, time_ns: int, phase: str, what: str = "python") -> None:
        time_ns = round(time_ns * self._host)
        self.host.append((self.now, self.now + time_ns, phase, what))
        self.now += time_ns

    def _ops(self, ops: list[Op], phase: str) -> None:
        for op in ops:
            self._spend(3_000, phase)
            begin = self.now
            launch_ns = begin + 2_000
            for kernel in op.kernels:
                self._correlation += not kernel.graph or kernel is op.kernels[0]
                start = max(launch_ns + LAUNCH_NS, self._free[kernel.stream])
                self._free[kernel.stream] = start + kernel.time_ns
                seen = phase != "data" or self._step % UNSEEN_EVERY != UNSEEN_EVERY // 2 or op is not ops[0]
                self.slices.append(
                    Slice(start, start + kernel.time_ns, kernel, op, phase, self._correlation, launch_ns, seen)
                )
            self._spend(op.host_ns, phase, "op" if op.name else "python")
            if op.sync_ns:
                waits = max(*self._free.values(), self.now) - self.now + op.sync_ns
                self.syncs.append(waits)
                self.host.append((self.now, self.now + waits, phase, "sync"))
                self.now += waits
            if op.name:
                self.op_calls.append((begin, self.now, op, phase, self._step))

    def shares(self) -> tuple[list[int], list[tuple[int, int]]]:
        """Device time of each slice with overlap split equally, and the gaps in which nothing ran."""
        share, gaps = [0] * len(self.slices), []
        for a, b, parts in self.stretches():
            if not parts:
                gaps.append((gaps.pop()[0], b) if gaps and gaps[-1][1] == a else (a, b))
            for i, ns in parts:
                share[i] += ns
        return share, gaps

    def stretches(self) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
        """(begin, end, [(slice, its part of the time)]) without a change of what runs, within one interval."""
        edges = {t for s in self.slices for t in (s.start_ns, s.end_ns)} | {self.start_ns, self.end_ns}
        edges |= set(range(self.start_ns, self.end_ns, INTERVAL_NS))
        begins = sorted(range(len(self.slices)), key=lambda i: self.slices[i].start_ns)
        running, next_ = [], 0
        for a, b in itertools.pairwise(sorted(edges)):
            while next_ < len(begins) and self.slices[begins[next_]].start_ns <= a:
                running.append(begins[next_])
                next_ += 1
            running = [i for i in running if self.slices[i].end_ns > a]
            at_once = len(running)
            yield a, b, [(i, (b - a) // at_once + (k < (b - a) % at_once)) for k, i in enumerate(running)]

    def busy(self, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Edges of the intervals, int64 (n + 1,), and the time of each name in them, int64 (n, k + 1); last, others."""
        edges = np.append(np.arange(self.start_ns, self.end_ns, INTERVAL_NS, dtype=np.int64), self.end_ns)
        table = np.zeros((len(edges) - 1, len(names) + 1), np.int64)
        column = {name: i for i, name in enumerate(names)}
        for a, _, parts in self.stretches():
            for i, ns in parts:
                at = column.get(self.slices[i].kernel.name, len(names))
                table[(a - self.start_ns) // INTERVAL_NS, at] += ns
        return edges, table

    def joules(self) -> tuple[np.ndarray, np.ndarray]:
        """(ns, J drawn until then from the start on), exact between them too: power is constant there."""
        t_ns, drawn = [self.start_ns], [0.0]
        for a, b, parts in self.stretches():
            watts = sum(ns * watts_of(self.slices[i].kernel.name) for i, ns in parts) / (b - a) if parts else IDLE_W
            t_ns.append(b)
            drawn.append(drawn[-1] + watts * (b - a) / 1e9)
        return np.array(t_ns), np.array(drawn)

    def idle(self, gaps: list[tuple[int, int]]) -> dict[tuple[str, str], int]:
        """Nanoseconds of the gaps by (cause, the host's phase): the first cause that applies."""
        begins = [h[0] for h in self.host]
        starts = sorted((s.start_ns, s.launch_ns, s.seen) for s in self.slices)
        found: defaultdict[tuple[str, str], int] = defaultdict(int)
        for a, b in gaps:
            after = bisect.bisect_left(starts, (b, 0, False))
            _, launched, seen = starts[after] if after < len(starts) and starts[after][0] == b else (b, b, True)
            i = max(bisect.bisect_right(begins, a) - 1, 0)
            while i < len(self.host) and self.host[i][0] < b:
                begin, end, phase, what = self.host[i]
                low, high = max(a, begin), min(b, end)
                split = min(max(launched, low), high)
                cause = "sync" if what == "sync" else "data" if phase == "data" else "ops" if what == "op" else "python"
                if not seen:
                    found["unknown", phase] += high - low
                    low = split = high
                for key, ns in (((cause, phase), split - low), (("launch", phase), high - split)):
                    if ns > 0:
                        found[key] += ns
                i += 1
        return dict(found)
