"""The allocator account: exact sums, on all threads, and nothing left behind."""

import io
import threading

import pytest
import torch

from perfsuite import _native
from perfsuite.instruments.allocator import AllocatorAccount

MIB = 1 << 20


def test_peak_current_and_churn():
    account = AllocatorAccount()
    account.start()
    held = torch.empty(MIB, dtype=torch.uint8)
    for _ in range(3):
        torch.empty(2 * MIB, dtype=torch.uint8)
    sums = account.stop()
    assert sums["churn_bytes"] == 7 * MIB
    assert sums["allocations"] == 4
    assert sums["peak_bytes"] - sums["current_bytes"] == pytest.approx(2 * MIB, rel=0.01)
    del held


def test_a_block_that_outlives_its_account_is_not_subtracted_from_the_next():
    account = AllocatorAccount()
    account.start()
    held = torch.empty(MIB, dtype=torch.uint8)
    before = account.stop()["current_bytes"]
    held.add_(1)
    account.start()
    del held
    sums = account.stop()
    assert sums["churn_bytes"] == 0
    assert before - sums["current_bytes"] == pytest.approx(MIB, rel=0.01)


def test_by_phase_and_on_all_threads():
    clock = _native.PhaseClock(["forward", "backward"])
    account = AllocatorAccount(clock)
    clock.start()
    account.start()
    with clock.phase("forward"):
        torch.empty(MIB, dtype=torch.uint8)
        thread = threading.Thread(target=lambda: torch.empty(MIB, dtype=torch.uint8))
        thread.start()
        thread.join()
    with clock.phase("backward"):
        torch.empty(100, dtype=torch.uint8)
    sums = account.stop()
    clock.stop()
    assert {phase["name"]: (phase["churn_bytes"], phase["allocations"]) for phase in sums["phases"]} == {
        "forward": (2 * MIB, 2),
        "backward": (100, 1),
    }


def test_tensors_made_meanwhile_are_ordinary():
    account = AllocatorAccount()
    account.start()
    x = torch.arange(1000.0)
    with torch.profiler.profile(profile_memory=True) as profile:
        y = x.clone()
    account.stop()
    assert sum(event.cpu_memory_usage for event in profile.key_averages() if event.key == "aten::clone") == 4000
    torch._lazy_clone(y).add_(1)
    x.resize_(5000)
    file = io.BytesIO()
    torch.save(y, file)
    assert y.numpy().sum() == 999 * 500 and y.share_memory_().sum() == 999 * 500


def test_one_account_at_a_time_and_none_without_start():
    account = AllocatorAccount()
    with pytest.raises(RuntimeError, match="no allocator account"):
        account.stop()
    account.start()
    try:
        with pytest.raises(RuntimeError, match="already running"):
            account.start()
    finally:
        account.stop()
