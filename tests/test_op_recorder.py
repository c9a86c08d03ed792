"""The op recorder: what it counts, where it books it, and that its sums add up."""

import resource
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.modules import module as nn_module
from torch.utils.checkpoint import checkpoint

from perfsuite import _native
from perfsuite.flops import FORMULAS, flops
from perfsuite.instruments.ops import OpRecorder
from perfsuite.signature import OTHER_SHAPES

PHASES = ["data", "forward", "backward", "optimizer"]


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(8, 16)
        self.second = torch.nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def record(run: Callable[[], Any], root: torch.nn.Module | None = None, shapes: bool = False) -> dict[str, Any]:
    recorder = OpRecorder(root)
    recorder.start()
    try:
        if shapes:
            recorder.begin_step(0)
        run()
    finally:
        data = recorder.stop()
    check_sums(data)
    return data


def check_sums(data: dict[str, Any]) -> None:
    """What holds for every recording: self times of the clock thread add up to its ops that no other op encloses."""
    assert sum(row["self_ns"] for row in data["rows"] if row["thread"] == "clock") == data["top_level_ns"]
    assert sum(data["top_level_by_phase"].values()) == data["top_level_ns"]
    assert all(row["self_ns"] >= 0 and row["total_ns"] >= row["self_ns"] for row in data["rows"])
    assert data["events"] == sum(row["calls"] for row in data["rows"])


def calls(data: dict[str, Any], *parts: str, **where: str) -> Counter:
    """Calls by these parts of the key, of the rows whose key has these values."""
    out: Counter = Counter()
    for row in data["rows"]:
        if all(row[key] == value for key, value in where.items()):
            out[tuple(row[part] for part in parts) if len(parts) > 1 else row[parts[0]]] += row["calls"]
    return out


def train(steps: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    clock = _native.PhaseClock(PHASES)
    clock.set_split(True)
    phase = {name: clock.phase(name) for name in PHASES}
    recorder = OpRecorder(model, clock)
    clock.start()
    recorder.start()
    for step in range(steps):
        clock.begin_step()
        recorder.begin_step(step)
        with phase["data"]:
            x, y = torch.ones(32, 8), torch.zeros(32, dtype=torch.int64)
        with phase["forward"]:
            loss = torch.nn.functional.cross_entropy(model(x), y)
        with phase["backward"]:
            loss.backward()
        with phase["optimizer"]:
            optimizer.step()
            optimizer.zero_grad()
    data = recorder.stop()
    clock.stop()
    check_sums(data)
    return data, clock.totals()


def test_counts_names_shapes_modules_and_phases_of_a_known_model():
    data, _ = train(steps=3)
    assert calls(data, "module", "phase", name="aten::addmm") == {("first", "forward"): 3, ("second", "forward"): 3}
    assert calls(data, "module", "direction", name="aten::linear") == {
        ("first", "forward"): 3,
        ("second", "forward"): 3,
    }
    # Both gradients of `second`, and of `first` its weight's alone: its input needs none.
    assert calls(data, "module", "direction", "phase", name="aten::mm") == {
        ("first", "backward", "backward"): 3,
        ("second", "backward", "backward"): 6,
    }
    assert calls(data, "module", name="torch::autograd::AccumulateGrad") == {"first": 6, "second": 6}
    assert calls(data, "module", "direction", name="aten::threshold_backward") == {("", "backward"): 3}
    assert calls(data, "direction", "phase", name="aten::nll_loss_forward") == {("forward", "forward"): 3}
    assert calls(data, "phase", "direction", name="aten::ones") == {("data", "none"): 3}
    assert set(calls(data, "direction", phase="optimizer")) == {"none"}
    (row,) = [row for row in data["rows"] if row["name"] == "aten::addmm" and row["module"] == "first"]
    assert [(s["signature"], s["sampled_calls"]) for s in row["shapes"]] == [
        ("f32[16] f32[32,8] f32[8,16] -> f32[32,16]", 1)
    ]
    assert {row["thread"] for row in data["rows"]} == {"clock"}
    assert data["dropped_rows"] == 0


def test_ops_and_host_are_the_phase_and_both_accounts_of_ops_agree_exactly():
    data, phases = train(steps=5)
    for phase in phases:
        assert phase["op_ns"] + phase["host_ns"] == phase["time_ns"]
        assert phase["op_ns"] == data["top_level_by_phase"].get(phase["name"], 0) > 0


def test_self_time_is_total_time_less_that_of_the_ops_inside():
    linear = torch.nn.Linear(8, 8)
    x = torch.ones(4, 8)
    data = record(lambda: linear(x))
    rows = {row["name"]: row for row in data["rows"]}
    children = rows["aten::t"]["total_ns"] + rows["aten::addmm"]["total_ns"]
    assert rows["aten::linear"]["total_ns"] == rows["aten::linear"]["self_ns"] + children == data["top_level_ns"]


def test_every_16th_step_is_recorded_with_shapes():
    recorder, x = OpRecorder(), torch.ones(3)
    recorder.start()
    for step in range(33):
        recorder.begin_step(step)
        x.neg()
    data = recorder.stop()
    assert (data["sampled_steps"], data["every"]) == (3, 16)
    (row,) = data["rows"]
    assert row["calls"] == 33
    (shape,) = row["shapes"]
    assert (shape["signature"], shape["sampled_calls"]) == ("f32[3] -> f32[3]", 3)
    assert 0 < shape["sampled_self_ns"] <= row["self_ns"]


@pytest.mark.parametrize("steps", [1, 63, 64, 65, 1000])
def test_marks_are_cumulative_and_at_most_64(steps: int):
    recorder, x = OpRecorder(), torch.ones(3)
    recorder.start()
    for step in range(steps):
        recorder.begin_step(step)
        x.neg()
        if step >= steps // 2:
            x.exp()
    data = recorder.stop()
    marks = data["marks"]
    assert 2 <= len(marks["steps"]) <= 64
    assert marks["steps"][0] == 0 and marks["steps"][-1] == steps
    assert marks["calls"].shape == marks["self_ns"].shape == (len(marks["steps"]), len(data["rows"]))
    names = [row["name"] for row in data["rows"]]
    np.testing.assert_array_equal(marks["calls"][:, names.index("aten::neg")], marks["steps"])
    late = marks["calls"][:, names.index("aten::exp")]
    np.testing.assert_array_equal(late, np.maximum(marks["steps"] - steps // 2, 0))
    np.testing.assert_array_equal(marks["self_ns"][-1], [row["self_ns"] for row in data["rows"]])
    assert (np.diff(marks["self_ns"], axis=0) >= 0).all()


def test_what_other_threads_do_is_kept_apart_and_survives_their_end():
    x = torch.ones(4)

    def work() -> None:
        for _ in range(10):
            x.neg()

    def run() -> None:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        x.exp()
        for thread in threads:
            thread.join()

    data = record(run)
    assert calls(data, "name", "thread") == {("aten::neg", "other"): 40, ("aten::exp", "clock"): 1}


def test_backward_on_another_thread_finds_the_modules():
    model = Tiny()
    loss = []

    def run() -> None:
        loss.append(model(torch.ones(2, 8)).sum())
        thread = threading.Thread(target=lambda: loss[0].backward())
        thread.start()
        thread.join()

    data = record(run, model)
    assert calls(data, "module", "thread", name="aten::mm") == {("first", "other"): 1, ("second", "other"): 2}


def test_op_regions_reach_the_backward_pass():
    region = _native.intern("cross_entropy=eager")
    x = torch.randn(4, 3, requires_grad=True)

    def run() -> None:
        y = x * 2
        _native.push_op(region)
        loss = torch.log_softmax(y, 1).sum()
        _native.pop_op()
        loss.backward()

    data = record(run)
    assert calls(data, "op", name="aten::_log_softmax") == {"cross_entropy=eager": 1}
    assert calls(data, "op", name="aten::_log_softmax_backward_data") == {"cross_entropy=eager": 1}
    assert calls(data, "op", name="MulBackward0") == {"": 1}


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_forward_run_again_in_the_backward_pass_has_its_own_modules(use_reentrant: bool):
    model = Tiny()
    x = torch.ones(2, 8, requires_grad=True)
    data = record(lambda: checkpoint(model, x, use_reentrant=use_reentrant).sum().backward(), model)
    linear = calls(data, "module", "direction", name="aten::linear")
    assert linear == {("first", "forward"): 2, ("second", "forward"): 2}
    assert set(calls(data, "direction", name="aten::mm")) == {"backward"}
    assert calls(data, "module", name="aten::mm") == {"first": 2, "second": 2}


def test_double_backward_keeps_the_modules():
    model = Tiny()
    x = torch.ones(2, 8, requires_grad=True)

    def run() -> None:
        (gradient,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()

    data = record(run, model)
    assert set(calls(data, "module", name="aten::mm")) == {"first", "second"}
    # The engine records what it does, for the second time: none of it is a forward that runs again.
    assert set(calls(data, "direction", name="aten::mm")) == {"backward"}


def test_ops_that_autograd_does_not_record_are_not_forward():
    weight = torch.ones(3, requires_grad=True)

    def run() -> None:
        torch.ones(3).neg()
        weight.exp()
        with torch.no_grad():
            weight.sin()

    data = record(run)
    assert calls(data, "name", "direction")[("aten::neg", "none")] == 1
    assert calls(data, "name", "direction")[("aten::exp", "forward")] == 1
    assert calls(data, "name", "direction")[("aten::sin", "none")] == 1


def test_an_exception_leaves_stack_and_scopes_clean():
    model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(5, 3))
    x = torch.ones(2, 8)

    def run() -> None:
        for _ in range(3):
            with pytest.raises(RuntimeError):
                model(x)
            x.neg()

    data = record(run, model)
    assert calls(data, "module", name="aten::neg") == {"": 3}
    assert calls(data, "module", name="aten::linear") == {"0": 3, "1": 3}
    neg = [row["total_ns"] for row in data["rows"] if row["name"] == "aten::neg"]
    linear = [row["total_ns"] for row in data["rows"] if row["name"] == "aten::linear"]
    assert sum(neg) + sum(linear) == data["top_level_ns"]


def test_pause_and_stop_leave_nothing_behind():
    model, x = Tiny(), torch.ones(2, 8)
    hooks = (nn_module._global_forward_pre_hooks, nn_module._global_forward_hooks)
    recorder = OpRecorder(model)
    recorder.start()
    assert all(len(table) == 1 for table in hooks)
    recorder.begin_step(0)
    model(x)
    recorder.pause()
    assert not any(hooks)
    recorder.begin_step(1)
    for _ in range(50):
        model(x)
    recorder.resume()
    model(x)
    data = recorder.stop()
    assert not any(hooks)
    assert calls(data, "name")["aten::addmm"] == 4
    assert data["sampled_steps"] == 1
    model(x)
    assert record(lambda: None)["rows"] == []
    with pytest.raises(RuntimeError, match="no op recorder is running"):
        recorder.stop()


def test_one_recorder_at_a_time():
    recorder = OpRecorder()
    recorder.start()
    try:
        with pytest.raises(RuntimeError, match="already running"):
            OpRecorder().start()
    finally:
        recorder.stop()


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
@pytest.mark.parametrize("compiled_first", [True, False])
def test_compiled_models_neither_break_nor_compile_again(compiled_first: bool):
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    model = Tiny()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.ones(2, 8)
    expected = model(x)
    if compiled_first:
        compiled(x).sum().backward()
    graphs = []
    for block in range(3):
        data = record(lambda: [compiled(x).sum().backward() for _ in range(3)], model)
        compiled(x)
        graphs.append(counters["stats"]["unique_graphs"])
        assert data["compiled_regions"] == 1
        if block > 0 or compiled_first:  # compiling runs ops too, on tensors without data
            assert calls(data, "name")["aten::addmm"] == 6
    # Compiled while hooks were on, torch has it guarded by their number: once more without them, and then no more.
    assert graphs == ([1, 1, 1] if compiled_first else [2, 2, 2])
    torch.testing.assert_close(compiled(x), expected)
    assert not counters["graph_break"]


def test_record_function_and_the_profiler_may_run_at_the_same_time():
    model, x = Tiny(), torch.ones(2, 8)
    recorder = OpRecorder(model)
    with torch.profiler.profile(record_shapes=True) as before:
        recorder.start()
        with torch.profiler.record_function("outer"), torch.profiler.record_function("inner"):
            model(x)
    with torch.profiler.profile() as after:
        model(x)
        data = recorder.stop()
        model(x)
    check_sums(data)
    assert calls(data, "module", name="aten::addmm") == {"first": 2, "second": 2}
    for profile, count in ((before, 2), (after, 4)):
        assert {event.key: event.count for event in profile.key_averages()}["aten::addmm"] == count
    assert not [row for row in data["rows"] if row["name"] in ("outer", "inner")]


def test_shapes_without_end_take_bounded_memory():
    buffer = torch.zeros(100_000)
    recorder = OpRecorder()

    def run(ops: int) -> dict[str, Any]:
        recorder.start()
        recorder.begin_step(0)
        for i in range(ops):
            buffer[: i + 1].numel()
        return recorder.stop()

    run(1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = run(100_000)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert data["events"] >= 100_000
    assert all(len(row["shapes"]) <= 129 for row in data["rows"])
    kept = sum(shape["sampled_calls"] for row in data["rows"] for shape in row["shapes"])
    assert kept == data["events"]
    folded = [shape for row in data["rows"] for shape in row["shapes"] if shape["signature"] == OTHER_SHAPES]
    assert folded and all(shape["bytes"] == 0 for shape in folded)  # a view moves nothing
    assert grown_kib < 4096


def test_rows_without_end_are_summed_in_one():
    x = torch.ones(2)

    def run() -> None:
        for i in range(9000):
            _native.push_module(_native.intern(f"made_up.{i}"))
            x.neg()
            _native.pop_module()

    data = record(run)
    assert len(data["rows"]) <= 8192
    assert data["events"] == 9000
    assert calls(data, "name")["(other)"] == data["dropped_rows"] == 9000 - 8191


class _Inside(torch.autograd.Function):
    """An op of Python that runs a plan inside itself, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, plan: list, expected: Counter) -> torch.Tensor:
        ctx.plan = plan
        ctx.expected = expected
        ctx.scope = _scopes[-1]
        _run_plan(x, plan, expected, "none")
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        _scopes.append(ctx.scope)  # what the recorder is to find out by itself
        _run_plan(gradient, ctx.plan, ctx.expected, "backward")
        _scopes.pop()
        return gradient, None, None


_scopes = [""]
_OPS = {"neg": torch.neg, "exp": torch.exp, "sign": torch.sign}


def _run_plan(x: torch.Tensor, plan: list, expected: Counter, direction: str) -> None:
    """Run a nesting of modules, ops and autograd functions, and count what ought to be recorded."""
    for item in plan:
        match item:
            case str(op):
                _OPS[op](x.detach())
                expected[f"aten::{op}", _scopes[-1], direction] += 1
            case ("module", name, inner):
                _scopes.append(name)
                _native.push_module(_native.intern(name))
                _run_plan(x, inner, expected, direction)
                _native.pop_module()
                _scopes.pop()
            case ("function", _, inner):
                with torch.enable_grad():
                    leaf = torch.ones(2, requires_grad=True)
                    _Inside.apply(leaf, inner, expected).sum().backward()


_nestings = st.recursive(
    st.lists(st.sampled_from(sorted(_OPS)), max_size=4),
    lambda inner: st.lists(
        st.one_of(
            st.sampled_from(sorted(_OPS)),
            st.tuples(st.just("module"), st.sampled_from(["a", "a.b", "c"]), inner),
            st.tuples(st.just("function"), st.just(""), inner),
        ),
        max_size=4,
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(plan=_nestings)
def test_random_nestings_are_booked_where_they_ran(plan: list):
    expected: Counter = Counter()
    data = record(lambda: _run_plan(torch.ones(2), plan, expected, "none"))
    wanted: Counter = Counter()
    for (name, module, _), count in expected.items():
        wanted[name, module] += count
    seen = calls(data, "name", "module")
    assert {key: count for key, count in seen.items() if key[0][6:] in _OPS} == wanted


def test_the_first_evaluation_is_sampled_whatever_its_step() -> None:
    x = torch.randn(4, 4)
    recorder = OpRecorder()
    recorder.start()
    for step in range(2):
        recorder.begin_step(step)
        torch.neg(x)
    recorder.begin_evaluation()
    torch.sigmoid(x)
    recorder.begin_step(2)
    torch.exp(x)
    rows = {row["name"]: row["shapes"] for row in recorder.stop()["rows"]}
    assert [s["sampled_calls"] for s in rows["aten::neg"]] == [1]  # step 0 of 0 and 1
    assert [s["sampled_calls"] for s in rows["aten::sigmoid"]] == [1]
    assert rows["aten::exp"] == []


def test_single_ops_of_the_chosen_steps_nest_and_name_their_threads():
    x = torch.ones(4, requires_grad=True)
    recorder = OpRecorder(slice_steps=range(1, 3))
    recorder.start()
    for step in range(4):
        recorder.begin_step(step)
        torch.nn.functional.linear(x, torch.ones(2, 4)).sum().backward()
        worker = threading.Thread(target=lambda: torch.zeros(2).add(1))
        worker.start()
        worker.join()
    data = recorder.stop()
    start, end, name, thread, depth = data["slices"].T
    names = data["slice_names"]
    assert [names.count(one) for one in names] == [1] * len(names) and data["dropped_slices"] == 0
    counted = Counter(names[i] for i in name[thread == 0])
    assert counted["aten::linear"] == counted["SumBackward0"] == 2
    workers = {int(number): {names[i] for i in name[thread == number]} for number in set(thread) - {0}}
    assert len(workers) == 2 and all("aten::add" in ran for ran in workers.values())
    assert (start <= end).all() and (np.diff(start) >= 0).all()
    for i in np.flatnonzero(depth > 0):  # inside the op that encloses it
        outer = (thread == thread[i]) & (depth == depth[i] - 1) & (start <= start[i]) & (end >= end[i])
        assert outer.sum() == 1


def test_single_ops_are_bounded_and_what_is_dropped_is_counted():
    x = torch.ones(1)
    recorder = OpRecorder(slice_steps=range(0, 1))
    recorder.start()
    recorder.begin_step(0)
    for _ in range(70_000):
        torch.sigmoid_(x)
    first = recorder.stop()
    assert len(first["slices"]) == first["events"] == 70_000 and first["dropped_slices"] == 0
    recorder.start()
    recorder.begin_step(0)
    for _ in range(201_000):
        torch.sigmoid_(x)
    second = recorder.stop()
    assert (len(second["slices"]), second["dropped_slices"]) == (200_000, 1000)


def test_shapes_beyond_those_kept_apart_keep_their_calls_times_and_mean_of_bytes():
    tensors = [torch.zeros(n) for n in range(1, 201)]

    def grow() -> None:
        for tensor in tensors:
            torch.neg(tensor)

    (row,) = [row for row in record(grow, shapes=True)["rows"] if row["name"] == "aten::neg"]
    assert len(row["shapes"]) == 129
    (other,) = [shape for shape in row["shapes"] if shape["signature"] == OTHER_SHAPES]
    assert other["sampled_calls"] == 200 - 128
    assert other["bytes"] == other["footprint_bytes"] == round(8 * sum(range(129, 201)) / 72)
    assert sum(shape["sampled_calls"] for shape in row["shapes"]) == row["calls"] == 200
    assert sum(shape["sampled_self_ns"] for shape in row["shapes"]) == row["self_ns"]
    assert all(flops(name, OTHER_SHAPES) is None for name in FORMULAS)
