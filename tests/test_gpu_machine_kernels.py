"""The kernels behind a GPU's ceilings do what they are timed for: run by the emulator, and compiled for GPUs."""

import pytest
import torch

from perfsuite import cuda_extension
from perfsuite.gpu_machine import memory, plan
from perfsuite.gpu_machine.latency import Walk

TILE = plan.TILE_BYTES


@pytest.mark.parametrize("kind", memory.KINDS)
@pytest.mark.parametrize(("tiles", "passes", "blocks_each"), [(1, 1, 1), (5, 1, 1), (3, 4, 2), (7, 3, 8)])
def test_every_byte_is_moved(cuda_emulator, kind, tiles, passes, blocks_each):
    on = memory.arrays("cpu", 8 * TILE)
    assert memory.wrong(kind, on, tiles * TILE, passes, blocks_each) is None
    beyond = on.a[tiles * TILE // 4 :]
    assert bool(beyond.isnan().all()), "it went on behind its footprint"


def test_each_pass_reads_each_word_once(cuda_emulator):
    on = memory.arrays("cpu", 3 * TILE)
    on.b.view(torch.int32).copy_(torch.randint(-(2**31), 2**31, (3 * TILE // 4,)))
    once = memory.words(on, 3 * TILE) % 2**32
    for passes in (1, 2, 5):
        on.sum.zero_()
        memory.stream("read", on, 3 * TILE, passes, 2)
        assert on.sum.item() % 2**32 == passes * once % 2**32
    before = on.sum.item()
    on.b.view(torch.int32)[-1] ^= 1  # the last word counts
    on.sum.zero_()
    memory.stream("read", on, 3 * TILE, 5, 2)
    assert on.sum.item() != before


@pytest.mark.parametrize("kind", memory.KINDS)
def test_a_wrong_result_is_seen(cuda_emulator, monkeypatch, kind):
    on, real = memory.arrays("cpu", 4 * TILE), memory.stream
    monkeypatch.setattr(memory, "stream", lambda k, o, size, *rest: real(k, o, size - TILE, *rest))
    assert memory.wrong(kind, on, 4 * TILE, 2, 1).startswith(f"{kind}: ")


def test_sizes_that_are_no_tiles_are_refused(cuda_emulator):
    on = memory.arrays("cpu", 2 * TILE)
    for size, passes in ((TILE + 4, 1), (0, 1), (TILE, 0)):
        with pytest.raises(RuntimeError, match="machine_stream"):
            memory.stream("copy", on, size, passes, 1)
    with pytest.raises(RuntimeError, match="machine_stream"):
        cuda_extension.call("machine_stream", torch.float32, 9, on.a, on.b, on.c, 1.0, on.sum, TILE // 4, 1, 1)


@pytest.mark.parametrize("lines", [2, 32, 1000])
def test_the_walk_visits_every_line_once(cuda_emulator, lines):
    walk = Walk("cpu", lines * plan.LINE_BYTES)
    start = walk.position.item()
    seen = set()
    for _ in range(lines):
        seen.add(walk.position.item())
        walk.launch(1)
    first = walk.buffer.data_ptr()
    assert walk.position.item() == start
    assert seen == {first + i * plan.LINE_BYTES for i in range(lines)}


def test_hops_and_warm_hops_are_followed_and_only_hops_are_timed(cuda_emulator):
    """The emulator's cycles are loads."""
    walk = Walk("cpu", 100 * plan.LINE_BYTES)
    start = walk.position.item()
    walk.launch(93, 7)
    assert walk.position.item() == start
    walk.launch(37, 4)
    at = start
    for _ in range(41):
        at = walk.buffer.view(-1)[(at - walk.buffer.data_ptr()) // 8].item()
    assert walk.position.item() == at
    cycles, ns = walk.cycles_and_ns()
    assert cycles == 37 and ns > 0


def test_launches_tell_what_each_call_took(cuda_emulator):
    on, took = torch.zeros(1), torch.full((8,), -1, dtype=torch.int64)
    cuda_extension.call("machine_launches", torch.float32, on, 5, took.data_ptr())
    assert bool((took[:5] > 0).all()) and took[5:].tolist() == [-1, -1, -1]
    cuda_extension.call("machine_launches", torch.float32, on, 5, None)


def test_round_trips_wait_for_what_the_kernel_wrote(cuda_emulator):
    on, flag, took = torch.zeros(1), torch.zeros(1, dtype=torch.int64), torch.full((8,), -1, dtype=torch.int64)
    cuda_extension.call("machine_round_trips", torch.float32, on, 6, flag.data_ptr(), took.data_ptr())
    assert flag.item() == 5 and bool((took[:6] > 0).all()) and took[6:].tolist() == [-1, -1]
