"""What a GPU reaches: the bandwidth of a large copy and the rate of matrix products, measured in the same sitting.

The ceilings that `perfsuite ops bench` holds kernels against on a GPU. Bytes are counted as read plus written.
"""

from collections.abc import Callable
from typing import Any

import torch

from perfsuite.roofline import Level, Machine, Rate

_COPY_BYTES = 2 << 30
_GEMM_N = 8192
_REPEATS = 20


def measure() -> tuple[Machine, int]:
    """The machine for perfsuite.roofline, and the size of the L2 cache in bytes."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    free, _ = torch.cuda.mem_get_info()
    size = min(_COPY_BYTES, free // 8)
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    dram = _copy_rate(source, target)
    fitting = properties.L2_cache_size // 4
    l2 = _copy_rate(source[:fitting], target[:fitting])
    levels = (
        Level("L2", float(properties.L2_cache_size), {0.5: l2 if l2.value > dram.value else dram}),
        Level("DRAM", float("inf"), {0.5: dram}),
    )
    peaks = {}
    for short, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)):
        n = _GEMM_N // 2 if dtype == torch.float32 else _GEMM_N
        a, b = (torch.randn(n, n, device="cuda").to(dtype) for _ in range(2))
        peaks[short] = _rate(lambda a=a, b=b: torch.mm(a, b), 2 * n**3)
    return Machine(levels, peaks, None), properties.L2_cache_size


def _copy_rate(source: torch.Tensor, target: torch.Tensor) -> Rate:
    return _rate(lambda: target.copy_(source), 2 * source.numel())


def _rate(run: Callable[[], Any], amount: int) -> Rate:
    """The third-best of the repetitions and their spread."""
    for _ in range(5):
        run()
    seconds = []
    for _ in range(_REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(200_000)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    seconds.sort()
    return Rate(amount / seconds[2], (seconds[14] - seconds[4]) / seconds[2])
