"""The native microbenchmarks do the work they count: every byte, every flop, every line, on every thread."""

import numpy as np
import pytest

from perfsuite import _native, topology

CPU = topology.available_cpus()[0]
CPUS = topology.available_cpus()[:2]
# More threads than most test machines give, so that some threads share a processor.
TEAMS = [[CPU], CPUS, CPUS + CPUS + CPUS[:1]]
ARRAYS = {"read": 1, "write": 1, "copy": 2, "triad": 3, "streaming_write": 1, "streaming_copy": 2}


def source(count: int, multiplier: int) -> np.ndarray:
    """The documented content of b and c over all threads."""
    return ((np.arange(count, dtype=np.uint32) * np.uint32(multiplier)) >> np.uint32(20)).astype(np.float32)


def word_sum(values: np.ndarray) -> int:
    return int(values.astype(np.float32).view(np.uint32).sum(dtype=np.uint64) & 0xFFFFFFFF)


@pytest.mark.parametrize("isa", _native.membench_isas())
@pytest.mark.parametrize("kernel", _native.membench_kernels())
@pytest.mark.parametrize("cpus", TEAMS, ids=lambda cpus: f"{len(cpus)} threads")
@pytest.mark.parametrize("passes", [1, 3])
def test_bandwidth_kernels_do_what_numpy_does_on_every_thread(isa, kernel, cpus, passes) -> None:
    asked = 3 * 4096 * 5 + 777
    run = _native.MemoryBench(cpus, asked, isa).run(kernel, asked, passes, 2)
    n, threads = run["elements"], len(cpus)
    b, c = source(n * threads, 2654435761), source(n * threads, 2246822519)
    results = {"read": b, "copy": b, "streaming_copy": b, "triad": b + 3 * c}
    result = results.get(kernel, np.ones_like(b)).reshape(threads, n)
    times = passes if kernel == "read" else 1
    assert run["checksums"] == [word_sum(share) * times & 0xFFFFFFFF for share in result]
    if kernel not in ("write", "streaming_write"):
        assert len(set(run["checksums"])) == threads  # no thread did another's share


@pytest.mark.parametrize("kernel", _native.membench_kernels())
def test_program_bytes_are_counted(kernel) -> None:
    bench = _native.MemoryBench([CPU, CPU], 100_000)
    run = bench.run(kernel, 100_000, 7, 1)
    assert run["working_set_bytes"] == ARRAYS[kernel] * 2 * run["elements"] * 4
    assert 0 <= 100_000 - run["working_set_bytes"] < 512 * ARRAYS[kernel] * 2
    assert run["bytes"] == 7 * run["working_set_bytes"]
    assert len(run["samples_ns"]) == 1 and run["samples_ns"][0] > 0


def test_a_smaller_working_set_after_a_larger_one_has_its_own_data() -> None:
    bench = _native.MemoryBench([CPU], 1 << 20)
    bench.run("triad", 1 << 20, 1, 1)
    run = bench.run("read", 1 << 14, 1, 1)
    assert run["checksums"] == [word_sum(source(run["elements"], 2654435761))]


@pytest.mark.parametrize("kernel", _native.membench_kernels())
def test_repetitions_take_the_slices_in_turn(kernel) -> None:
    bench = _native.MemoryBench([CPU, CPU], 1 << 17)
    whole = bench.run(kernel, 1 << 17, 2, 5, slices=3)
    n, part = whole["elements"], whole["elements"] // 3
    assert whole["bytes"] * 3 == 2 * whole["working_set_bytes"] and n == 3 * part
    if kernel == "read":
        b = source(2 * n, 2654435761).reshape(2, n)
        second = b[:, part : 2 * part]  # of repetitions 0 to 4, the last
        assert whole["checksums"] == [word_sum(share) * 2 & 0xFFFFFFFF for share in second]
    elif kernel == "copy":
        b = source(2 * n, 2654435761).reshape(2, n)
        assert whole["checksums"] == [word_sum(share) for share in b]


@pytest.mark.parametrize("lines", [2, 3, 64, 1000])
def test_the_chase_is_one_cycle_through_all_lines(lines) -> None:
    following = _native.PointerChase(lines * 64, CPU, seed=lines).next_lines()
    seen, line = [], 0
    for _ in range(lines):
        seen.append(line)
        line = int(following[line])
    assert line == 0 and sorted(seen) == list(range(lines))


def test_the_chase_is_random_and_repeatable() -> None:
    first, again, other = (_native.PointerChase(1 << 16, CPU, seed=seed).next_lines() for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
    strides = np.abs(first - np.arange(len(first)))
    assert len(np.unique(strides)) > len(first) // 4  # a prefetcher finds no stride


def test_the_chase_gives_one_sample_for_each_repetition() -> None:
    chase = _native.PointerChase(4096, CPU, line_bytes=128)
    assert chase.lines == 32
    samples = chase.run(1000, 4, warm_steps=32)
    assert len(samples) == 4 and min(samples) > 0


@pytest.mark.parametrize("isa", _native.membench_isas())
@pytest.mark.parametrize("iterations", [1, 2, 1001])
def test_fma_flops_are_those_of_the_floats_that_took_part(isa, iterations) -> None:
    run = _native.fma_run([CPU, CPU], iterations, 2, isa)
    floats = run["flops"] // (2 * iterations * 2)
    start = floats * (floats - 1) / 2  # 0 + 1 + ... and each iteration makes x into 1 - x
    assert run["checksums"] == [start if iterations % 2 == 0 else floats - start] * 2
    assert len(run["samples_ns"]) == 2


def test_a_refused_affinity_is_counted_and_not_an_error() -> None:
    run = _native.fma_run([CPU, 100_000, -1], 10, 1)
    assert run["pinned"] == 1 and len(run["checksums"]) == 3


def test_the_callers_affinity_is_left_alone() -> None:
    _native.MemoryBench([CPU], 4096).run("read", 4096, 1, 1)
    assert topology.available_cpus()[: len(CPUS)] == CPUS


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: _native.MemoryBench([], 4096), "cpus is empty"),
        (lambda: _native.MemoryBench([CPU], 0), "max_bytes must be at least 1"),
        (lambda: _native.MemoryBench([CPU], 4096, "sse9"), "no kernels for instruction set 'sse9'"),
        (lambda: _native.MemoryBench([CPU], 4096).run("scan", 4096, 1, 1), "choose one of read, write, copy, triad"),
        (lambda: _native.MemoryBench([CPU], 4096).run("read", 4097, 1, 1), "larger than max_bytes 4096"),
        (lambda: _native.MemoryBench([CPU], 4096).run("triad", 1535, 1, 1), "needs at least 1536"),
        (lambda: _native.MemoryBench([CPU], 4096).run("read", -5, 1, 1), "too small"),
        (lambda: _native.MemoryBench([CPU], 4096).run("read", 4096, 0, 1), "passes must be at least 1"),
        (lambda: _native.MemoryBench([CPU], 4096).run("read", 4096, 1, 0), "repetitions must be at least 1"),
        (lambda: _native.MemoryBench([CPU], 4096).run("read", 4096, 1, 1, 0), "slices must be at least 1"),
        (lambda: _native.MemoryBench([CPU], 4096).run("read", 4096, 1, 1, 9), "needs at least 4608"),
        (lambda: _native.PointerChase(64, CPU), "at least two lines"),
        (lambda: _native.PointerChase(-64, CPU), "at least two lines"),
        (lambda: _native.PointerChase(4096, CPU, line_bytes=12), "multiple of 8"),
        (lambda: _native.PointerChase(4096, CPU).run(0, 1), "steps must be at least 1"),
        (lambda: _native.PointerChase(4096, CPU).run(1, 1, -1), "warm_steps must not be negative"),
        (lambda: _native.fma_run([], 1, 1), "cpus is empty"),
        (lambda: _native.fma_run([CPU], 0, 1), "iterations must be at least 1"),
    ],
)
def test_bad_arguments_say_what_is_wrong(call, says) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_more_memory_than_there_is_raises() -> None:
    with pytest.raises(MemoryError):
        _native.MemoryBench([CPU], 1 << 60)
