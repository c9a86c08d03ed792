"""The fixture `perf_benchmark`: pytest-benchmark's `benchmark`, and device time, ceiling, memory, joules beside it."""

import math
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest

from perfsuite.bench_plugin import figures
from perfsuite.bench_plugin.stored import MOST_ROUNDS, SCHEMA, SECTION, evenly

_CALIBRATE_S = 0.2
_LEAST_ROUND_S = 1e-3


class PerfBenchmark:
    """Called as `benchmark` is, once a test; whatever else `benchmark` has (group, name, extra_info) is passed on.

    A CPU function is timed by pytest-benchmark's timer in at most 200 rounds, a GPU function by events, with a cold
    L2 cache. What was found stands in extra_info["perfsuite"], and in what pytest-benchmark stores.
    """

    def __init__(self, benchmark: Any) -> None:
        vars(self).update(_benchmark=benchmark, _cost=(None, None, "float32"), device=None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._benchmark, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """`device` ("cpu" or "cuda"; found out by default) is ours, everything else is pytest-benchmark's."""
        if name == "device":
            vars(self)[name] = value
        else:
            setattr(self._benchmark, name, value)

    def cost(self, *, bytes: int | None = None, flops: int | None = None, dtype: str = "float32") -> None:
        """Declare what one call has to move and to compute at least; before it is timed."""
        for name, value in (("bytes", bytes), ("flops", flops)):
            if value is not None and (isinstance(value, bool) or value != int(value) or value < 0):
                raise ValueError(f"cost({name}={value!r}): give a whole number, 0 or more")
        vars(self)["_cost"] = (bytes, flops, dtype)

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Time function(*args, **kwargs); what it returned."""
        if self._benchmark.disabled:
            return self._benchmark(function, *args, **kwargs)

        def call() -> Any:
            return function(*args, **kwargs)

        if self.device == "cuda" or (self.device is None and _cuda_is_used() and _uses_gpu(call)):
            return self._on_gpu(call)
        return self._on_cpu(function, args, kwargs, call)

    def pedantic(self, target: Callable[..., Any], args: Any = (), kwargs: Any = None, setup: Any = None,
                 teardown: Any = None, rounds: int = 1, warmup_rounds: int = 0,
                 iterations: int = 1) -> Any:  # fmt: skip
        """pytest-benchmark's own, by the host's clock: no call is made that was not asked for."""
        if self._benchmark.disabled:
            return self._benchmark.pedantic(target, args, kwargs, setup, teardown, rounds, warmup_rounds, iterations)
        with figures.energy(lambda: (rounds + warmup_rounds) * iterations) as drawn:
            result = self._benchmark.pedantic(
                target, args, kwargs, setup, teardown, rounds, warmup_rounds, iterations
            )
        why = "pedantic() makes no call that was not asked for"
        memory = {"peak_bytes": None, "peak_source": None, "peak_reason": why}
        self._describe("cpu", self._benchmark.stats.stats.data, None, drawn, memory, figures.clock("cpu"))
        return result

    def _on_cpu(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
                call: Callable[[], Any]) -> Any:  # fmt: skip
        iterations, rounds = self._calibrate(call)
        with figures.energy(lambda: iterations * rounds) as drawn:
            result = self._benchmark.pedantic(function, args, kwargs, rounds=rounds, iterations=iterations)
        data = self._benchmark.stats.stats.data
        self._describe("cpu", data, None, drawn, figures.peak_memory(call, "cpu"), figures.clock("cpu"))
        return result

    def _calibrate(self, call: Callable[[], Any]) -> tuple[int, int]:
        """(calls a round, rounds). Unlike pytest-benchmark's it ends with a timer that stands still."""
        timer = getattr(self._benchmark, "_timer", time.perf_counter)
        call()  # what the first one does (compiles, fills caches) is not of interest
        iterations, elapsed, until = 1, 0.0, time.monotonic() + _CALIBRATE_S
        while True:
            start = timer()
            for _ in range(iterations):
                call()
            elapsed = timer() - start
            if elapsed >= _LEAST_ROUND_S or time.monotonic() > until or iterations >= 1 << 20:
                break
            iterations *= 2
        longest = float(getattr(self._benchmark, "_max_time", 1.0))
        least = int(getattr(self._benchmark, "_min_rounds", 5))
        per_call = elapsed / iterations
        if per_call > 0:
            # Rounds of equal length that fill the time; short functions get longer rounds, not more of them.
            iterations = max(1, round(max(_LEAST_ROUND_S, longest / MOST_ROUNDS) / per_call))
            return iterations, min(MOST_ROUNDS, max(least, math.ceil(longest / (per_call * iterations))))
        return iterations, least

    def _on_gpu(self, call: Callable[[], Any]) -> Any:
        from perfsuite.bench_plugin import cuda_time

        make_stats = getattr(self._benchmark, "_make_stats", None)
        if make_stats is None:
            pytest.fail("perf_benchmark does not know this pytest-benchmark: it stores no device time", pytrace=False)
        if self._benchmark._mode:
            pytest.fail("perf_benchmark can be used once a test", pytrace=False)
        self._benchmark._mode = "perf_benchmark(...)"
        memory = figures.peak_memory(call, "cuda")
        longest = float(getattr(self._benchmark, "_max_time", 1.0))
        rounds = int(min(MOST_ROUNDS, max(20, longest / max(1e-6, cuda_time.typical(call)))))
        before = figures.clock("cuda")
        device_s, host_s = cuda_time.measure(call, rounds)
        after = figures.clock("cuda")
        made = 0
        # By itself: what stands between two timed calls, the flush of the cache above all, draws power too.
        with figures.energy(lambda: made) as drawn:
            if drawn["reason"] is None:
                made = cuda_time.repeat(call, longest)
        stats = make_stats(1)
        for seconds in device_s:
            stats.update(seconds)
        clock = after | {"lowered_by": sorted({*before["lowered_by"], *after["lowered_by"]})}
        self._describe("cuda", device_s, host_s, drawn, memory, clock)
        return call()

    def _describe(self, device: str, device_s: list[float], host_s: list[float] | None, drawn: dict[str, Any],
                  memory: dict[str, Any], clock: dict[str, Any]) -> None:  # fmt: skip
        """host_s None: host and device are one."""
        bytes_, flops, dtype = self._cost
        host_s = device_s if host_s is None else host_s
        time_s = median(device_s)
        self._benchmark.extra_info[SECTION] = {
            "schema": SCHEMA, "device": device, "device_time_s": time_s, "host_time_s": median(host_s),
            "rounds_s": evenly(device_s), "host_rounds_s": evenly(host_s) if host_s is not device_s else None,
            "bytes": bytes_, "flops": flops, **figures.ceiling(time_s, device, bytes_, flops, dtype),
            **figures.launches(device), **memory, "energy": drawn, "clock": clock,
        }  # fmt: skip


def _cuda_is_used() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()


def _uses_gpu(call: Callable[[], Any]) -> bool:
    from perfsuite.bench_plugin import cuda_time

    return cuda_time.uses_gpu(call)


@pytest.fixture
def perf_benchmark(benchmark: Any) -> PerfBenchmark:
    """Times a function as `benchmark` does, and adds device time, share of the ceiling, memory, joules and verdicts."""
    return PerfBenchmark(benchmark)
