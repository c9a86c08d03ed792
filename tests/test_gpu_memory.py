"""The memory account: what holds the memory at the peak, of models whose sizes are known and of made-up allocations."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perfsuite import _native, torch_extension
from perfsuite.instruments.allocator import AllocatorAccount
from perfsuite.instruments.gpu_memory import MemoryAccount, is_sampled
from perfsuite.instruments.memory_replay import CATEGORIES, Allocations, Sighting, replay
from perfsuite.instruments.memory_sources import MAX_EVENTS, from_snapshot
from perfsuite.watch import PHASES, Watch

WIDTH = 512
MATRIX = WIDTH * WIDTH * 4
MIB = 1 << 20
ROUNDING = 4096  # what malloc adds to a few dozen blocks


class Held(torch.autograd.Function):
    """Keeps 8 MiB for its backward, needs 3 MiB in its forward and 5 MiB in its backward."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(torch.empty(8 * MIB, dtype=torch.uint8))
        torch.empty(3 * MIB, dtype=torch.uint8)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        (held,) = ctx.saved_tensors
        torch.empty(5 * MIB, dtype=torch.uint8)
        return gradient + held[0] * 0


class Loop:
    """A training loop watched by the account: `steps` steps of model and optimizer."""

    def __init__(self, model, optimizer=None, given_optimizer=True):
        self.model, self.optimizer = model, optimizer
        self.clock = _native.PhaseClock(list(PHASES))
        self.allocator = AllocatorAccount(self.clock)
        self.account = MemoryAccount(model, optimizer if given_optimizer else None, self.clock)
        self.batch = torch.ones(4, WIDTH)

    def __enter__(self):
        self.allocator.start()
        self.account.start()
        self.clock.start()
        self.left_bytes, _ = torch_extension.load().allocator_held()  # what other tests of this process left
        return self

    def __exit__(self, *error):
        self.clock.stop()
        self.out = self.account.stop()
        self.allocator.stop()

    def step(self, step, forward=lambda x: x, in_data=lambda: None):
        self.clock.begin_step()
        self.account.begin_step(step)
        with self.clock.phase("data"):
            in_data()
        with self.clock.phase("forward"):
            loss = forward(self.model(self.batch)).mean()
        with self.clock.phase("backward"):
            loss.backward()
        with self.clock.phase("optimizer"):
            if self.optimizer is not None:
                self.optimizer.step()
            self.model.zero_grad()


def categories(out):
    return {row["name"]: row["bytes"] for row in out["peak"]["categories"]}


def model_of(matrices):
    return torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(matrices)))


def near(expected):
    return pytest.approx(expected, abs=ROUNDING)


def test_weights_gradients_and_adam_state_are_what_they_are_by_hand():
    model = model_of(3)
    model.register_buffer("mean", torch.zeros(WIDTH, WIDTH))
    with Loop(model, torch.optim.Adam(model.parameters(), foreach=False)) as loop:
        for step in range(4):
            loop.step(step)
    found = categories(loop.out)
    assert found["weights"] == 4 * MATRIX  # exact: what the storages hold
    assert found["gradients"] == near(3 * MATRIX)
    assert found["optimizer_state"] == near(2 * 3 * MATRIX)
    assert loop.out["peak"]["phase"] == "optimizer" and loop.out["peak"]["step"] == 2
    assert 0 <= found["workspace"] <= 3 * MATRIX + ROUNDING
    assert found["activations"] + found["other"] - loop.left_bytes < 0.2 * MATRIX
    assert sum(found.values()) == loop.out["peak"]["allocated_bytes"]
    assert loop.out["allocated_peak_bytes"] == pytest.approx(loop.out["peak"]["allocated_bytes"], rel=0.01)
    assert loop.out["device"] == "cpu" and loop.out["peak"]["source"] == "step 2 replayed"
    for absent in ("reserved_peak_bytes", "fragmentation_share", "retries", "ooms", "num_device_alloc"):
        assert loop.out[absent] is None
    assert not [note for note in loop.out["notes"] if "replayed peak" in note or "no " in note]


def test_activations_and_workspace_at_a_peak_in_the_backward():
    model = model_of(1)
    with Loop(model, torch.optim.SGD(model.parameters())) as loop:
        for step in range(3):
            loop.step(step, Held.apply)
    found = categories(loop.out)
    assert loop.out["peak"]["phase"] == "backward"
    assert found["activations"] == near(8 * MIB) and found["workspace"] == pytest.approx(5 * MIB, abs=32768)
    assert found["weights"] == MATRIX and found["optimizer_state"] == 0


def test_what_other_threads_allocate_and_what_the_data_phase_leaves():
    model, kept = model_of(1), []

    def in_data():
        thread = threading.Thread(target=lambda: kept.append(torch.empty(16 * MIB, dtype=torch.uint8)))
        thread.start()
        thread.join()

    with Loop(model, torch.optim.SGD(model.parameters())) as loop:
        for step in range(3):
            loop.step(step, in_data=in_data if step != 1 else lambda: kept.clear())
    # One from step 0 that step 1 let go, and one of the sampled step 2, on another thread.
    assert categories(loop.out)["other"] - loop.left_bytes == pytest.approx(16 * MIB, abs=64 * 1024)


def test_blocks_older_than_the_sampled_step_are_other_and_are_seen_to_be_freed():
    model, kept = model_of(1), []
    with Loop(model, torch.optim.SGD(model.parameters())) as loop:
        loop.step(0, in_data=lambda: kept.append(torch.empty(16 * MIB, dtype=torch.uint8)))
        loop.step(1)
        loop.step(2, lambda x: (kept.clear(), Held.apply(Held.apply(x)))[1])  # 16 MiB there, then 21
    assert categories(loop.out)["other"] - loop.left_bytes < MIB
    assert categories(loop.out)["activations"] == near(16 * MIB)


def test_without_an_optimizer_its_state_is_other_and_it_is_said():
    model = model_of(3)
    with Loop(model, torch.optim.Adam(model.parameters(), foreach=False), given_optimizer=False) as loop:
        for step in range(3):
            loop.step(step)
    found = categories(loop.out)
    assert found["optimizer_state"] == 0 and found["other"] - loop.left_bytes == pytest.approx(6 * MATRIX, rel=0.02)
    assert found["gradients"] == 0 and found["workspace"] >= 3 * MATRIX  # freed by the step that made them: not seen
    assert "no optimizer was given: its state counts as other" in loop.out["notes"]
    assert any("no gradient was seen" in note for note in loop.out["notes"])
    alone = MemoryAccount()
    alone.start()
    notes = alone.stop()["notes"]
    assert any("no model was given" in note for note in notes) and any("no phases" in note for note in notes)
    assert any("no step was replayed: the run had none of the sampled ones (2, 64, 128, ...)" in note for note in notes)


def test_paused_it_records_nothing_and_goes_on_after_it():
    model = model_of(1)
    with Loop(model, torch.optim.SGD(model.parameters())) as loop:
        loop.clock.begin_step()
        loop.account.begin_step(2)
        loop.account.pause()
        loop.step(2, Held.apply)
        loop.account.resume()
        for step in range(63, 66):
            loop.step(step)
        torch_extension.load().allocation_log_start(10)  # free again: every recording was ended
        assert torch_extension.load().allocation_log_stop()["dropped"] == 0
    assert loop.out["peak"]["step"] == 64 and categories(loop.out)["activations"] < MATRIX
    assert not loop.optimizer._optimizer_step_pre_hooks


def test_a_run_that_held_more_outside_the_sampled_steps_is_said():
    model = model_of(1)
    with Loop(model, torch.optim.SGD(model.parameters())) as loop:
        for step in range(4):
            loop.step(step, Held.apply if step == 1 else lambda x: x)
    assert loop.out["allocated_peak_bytes"] > loop.out["peak"]["allocated_bytes"] + 10 * MIB
    assert any("times the run's own" in note for note in loop.out["notes"])


def test_the_step_with_the_highest_peak_is_kept_and_evaluations_are_no_part_of_it():
    model = model_of(1)
    with Loop(model, torch.optim.SGD(model.parameters())) as loop:
        for step in (2, 64, 128):
            loop.step(step, Held.apply if step == 64 else lambda x: x)
            loop.account.begin_evaluation()
            torch.empty(64 * MIB, dtype=torch.uint8)
    assert loop.out["peak"]["step"] == 64 and loop.out["peak"]["allocated_bytes"] - loop.left_bytes < 32 * MIB


def test_a_step_with_more_allocations_than_there_is_room_for_is_not_replayed(monkeypatch):
    monkeypatch.setattr("perfsuite.instruments.memory_sources.MAX_EVENTS", 5)
    model = model_of(1)
    with Loop(model, torch.optim.SGD(model.parameters())) as loop:
        loop.step(2)
    assert loop.out["peak"] is None and loop.out["allocated_peak_bytes"] > MATRIX
    assert any("1 sampled steps were not replayed: it has more than 5" in note for note in loop.out["notes"])


def test_the_watch_keeps_it_in_the_record():
    model = model_of(2)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    watch = Watch("watch", model, optimizer)
    watch.start()
    for _ in range(4):
        watch.begin_step()
        with watch.phase("forward"):
            loss = model(torch.ones(4, WIDTH)).mean()
        with watch.phase("backward"):
            loss.backward()
        with watch.phase("optimizer"):
            optimizer.step()
            optimizer.zero_grad()
    watch.stop()
    found = categories(watch.data()["gpu_memory"])
    assert (found["weights"], found["gradients"], found["optimizer_state"]) == (
        2 * MATRIX, near(2 * MATRIX), near(2 * MATRIX)
    )  # fmt: skip
    assert {"name": "memory account", "available": True, "reason": None} in watch.data()["instruments"]


def test_sampled_steps_double():
    assert [step for step in range(1000) if is_sampled(step)] == [2, 64, 128, 256, 512]


PHASES_BY_HAND = [(0, "data"), (10, "forward"), (20, "backward"), (30, "optimizer"), (40, "")]


def allocations(*events, before=None, other=0):
    return Allocations(np.array(events, np.int64).reshape(-1, 3), before or {}, other)


def test_an_address_that_is_used_again_is_another_block():
    step = allocations((11, 7, 100), (12, 7, -100), (13, 7, 300), (22, 7, -300), (23, 7, 400), (41, 7, -400),
                       before={1: 1000}, other=50)  # fmt: skip
    gradients = Sighting(30, {"weights": {1: 1000}, "gradients": {7: 400}})
    peak = replay(step, [gradients], PHASES_BY_HAND, 0)
    assert (peak.t_ns, peak.phase, peak.allocated_bytes, peak.reserved_bytes) == (23, "backward", 1450, None)
    assert {k: v for k, v in peak.categories.items() if v} == {"weights": 1000, "gradients": 400, "other": 50}
    early = replay(step, [Sighting(13, {"optimizer_state": {7: 300}}), gradients], PHASES_BY_HAND, 0)
    assert early.categories == peak.categories
    # What was there before the gradient is an activation, also where it makes the peak.
    step.events[2:4, 2] = [3000, -3000]
    assert replay(step, [gradients], PHASES_BY_HAND, 0).categories["activations"] == 3000


def test_an_activation_lives_into_the_backward_and_workspace_does_not():
    events = [(11, 1, 10), (12, 2, 20), (13, 2, -20), (14, 3, 40), (20, 3, -40)]
    events += [(21, 4, 80), (31, 5, 160), (41, 6, 320)]
    peak = replay(allocations(*events), [], PHASES_BY_HAND, 0)
    assert peak.t_ns == 41 and peak.phase == ""
    assert {k: v for k, v in peak.categories.items() if v} == {"activations": 10, "workspace": 240, "other": 320}
    at_14 = replay(allocations(*events[:5]), [], PHASES_BY_HAND, 0)
    assert at_14.categories["activations"] == 50 and at_14.t_ns == 14


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 50)), max_size=60), st.sets(st.integers(0, 6)),
       st.integers(0, 100))  # fmt: skip
def test_categories_add_up_to_the_peak_of_any_sequence(drawn, before, other):
    here = dict.fromkeys(before, 5)
    now = most = sum(here.values()) + other
    events, live = [], dict(here)
    for t, (address, size) in enumerate(drawn):
        change = -live.pop(address) if address in live else live.setdefault(address, size)
        events.append((t, address, change))
        now += change
        most = max(most, now)
    sightings = [Sighting(t, {"weights": {0: 5, 1: 5}, "gradients": {2: 1}, "optimizer_state": {1: 1, 3: 1}})
                 for t in (0, 20, 60)]  # fmt: skip
    peak = replay(allocations(*events, before=here, other=other), sightings, PHASES_BY_HAND, 0)
    assert peak.allocated_bytes == most == sum(peak.categories.values())
    assert set(peak.categories) == set(CATEGORIES) and min(peak.categories.values()) >= 0


def snapshot_by_hand():
    """Two devices; on the second one a step that allocates, frees, and grows its segments."""
    def entry(action, t_us, addr, size):
        return {"action": action, "time_us": 1_000_000 + t_us, "addr": addr, "size": size, "stream": 0, "frames": []}

    trace = [
        entry("free_requested", 1, 0xA000, 1000), entry("free_completed", 1, 0xA000, 1000),
        entry("segment_alloc", 2, 0xB000, 8192), entry("alloc", 3, 0xB000, 5000), entry("alloc", 4, 0xA000, 700),
        entry("free_requested", 5, 0xB000, 5000), entry("segment_free", 6, 0xB000, 8192),
        {"action": "oom", "time_us": 1_000_007, "device_free": 1, "size": 1 << 40, "stream": 0},
        {"action": "snapshot", "time_us": 1_000_008, "addr": 0, "size": 0, "stream": 0},
    ]  # fmt: skip
    blocks = [{"address": 0xA000, "size": 1024, "requested_size": 700, "state": "active_allocated"},
              {"address": 0xA400, "size": 2048, "requested_size": 2048, "state": "active_allocated"},
              {"address": 0xAC00, "size": 1024, "requested_size": 0, "state": "inactive"}]  # fmt: skip
    segments = [{"device": 0, "address": 1, "total_size": 99, "blocks": []},
                {"device": 1, "address": 0xA000, "total_size": 4096, "blocks": blocks}]  # fmt: skip
    return {"segments": segments, "device_traces": [[], trace]}


def test_torch_history_of_a_gpu_is_walked_back_to_the_start_of_the_step():
    step = from_snapshot(snapshot_by_hand(), 1, epoch_minus_monotonic_ns=400_000_000)
    at = 600_000_000  # 1 s after 1970 on this clock
    assert step.before == {0xA000: 1024, 0xA400: 2048} and step.before_other_bytes == 0
    assert step.events.tolist() == [[at + 1000, 0xA000, -1024], [at + 3000, 0xB000, 5120], [at + 4000, 0xA000, 1024],
                                    [at + 5000, 0xB000, -5120]]  # fmt: skip
    assert step.reserved_before_bytes == 4096 and step.reserved.tolist() == [[at + 2000, 8192], [at + 6000, -8192]]
    peak = replay(step, [Sighting(at, {"weights": {0xA400: 2048}})], [(at, "forward"), (at + 4500, "backward")], at)
    assert (peak.allocated_bytes, peak.reserved_bytes, peak.t_ns) == (2048 + 5120 + 1024, 4096 + 8192, at + 4000)
    assert peak.categories == {"weights": 2048, "gradients": 0, "optimizer_state": 0, "activations": 6144,
                               "workspace": 0, "other": 0}  # fmt: skip


def test_a_history_that_cannot_be_replayed_is_a_reason():
    full = snapshot_by_hand()
    full["device_traces"][1] *= MAX_EVENTS
    assert "more than" in from_snapshot(full, 1, 0)
    timeless = snapshot_by_hand()
    del timeless["device_traces"][1][0]["time_us"]
    assert "no times" in from_snapshot(timeless, 1, 0)


def test_a_gpu_through_a_torch_that_only_has_what_it_documents(monkeypatch):
    stats = {"allocated_bytes.all.peak": 9000, "reserved_bytes.all.peak": 12288, "num_alloc_retries": 3, "num_ooms": 1,
             "num_device_alloc": 7}  # fmt: skip
    calls = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: dict(stats))
    monkeypatch.setattr(torch.cuda.memory, "_snapshot", lambda device: snapshot_by_hand())
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda enabled, **options: calls.append(enabled))
    monkeypatch.setattr(torch._C, "_cuda_isHistoryEnabled", lambda: "theirs" in calls, raising=False)
    account = MemoryAccount(SimpleNamespace(parameters=lambda: iter(()), buffers=lambda: iter(())), device="cuda:1")
    account.start()
    stats |= {"num_alloc_retries": 5, "num_device_alloc": 9}
    for step in range(4):
        account.begin_step(step)
    calls.append("theirs")
    account.begin_step(64)
    out = account.stop()
    assert calls == ["reset", "all", None, "theirs"]
    assert (out["device"], out["allocated_peak_bytes"], out["reserved_peak_bytes"]) == ("cuda:1", 9000, 12288)
    assert (out["retries"], out["ooms"], out["num_device_alloc"]) == (2, 0, 2)
    assert out["fragmentation_share"] == pytest.approx(1 - 8192 / 12288) and categories(out)["other"] == 8192
    assert any("1 sampled steps were not replayed: this process records" in note for note in out["notes"])
    assert any("8192 bytes is 0.91 times the run's own of 9000" in note for note in out["notes"])
