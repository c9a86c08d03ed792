"""Host stacks: the fold on traces made by hand and by simulation, and py-spy on a real process."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from perfsuite.instruments.host_fold import MARK_NAME, fold
from perfsuite.instruments.host_stacks import HostStacks

MS = 1_000_000
NAMES = ["forward", "backward"]
OFFSET_NS = 7_000_000_000_000  # the trace's time 0 on the monotonic clock


def _trace(samples, tid=5):
    """What py-spy writes for [(monotonic ns, [(function, file, line), ...])]: events where the stack changes."""
    events, before = [], []
    for t_ns, stack in samples:
        same = 0
        while same < min(len(before), len(stack)) and before[same] == stack[same]:
            same += 1
        ts = (t_ns - OFFSET_NS) / 1000
        for ph, frames in (("E", before[same:][::-1]), ("B", stack[same:])):
            for name, file, line in frames:
                args = {"filename": file, "line": line}
                events.append({"ph": ph, "name": name, "pid": 1, "tid": tid, "ts": ts, "cat": "py-spy", "args": args})
        before = stack
    return events


def _marks(first, begin_ns, count=30):
    return {first + i: (begin_ns + 2 * MS * i, begin_ns + 2 * MS * (i + 1)) for i in range(count)}


def _marker(number):
    return [("main", "m.py", 1), (f"{MARK_NAME}_{number}", "host_stacks.py", 3)]


def _frames(function, line):
    return [("main", "m.py", 9), ("train_step", "m.py", line), (function, "/venv/lib/torch/x.py", line)]


def _simulated(rng, steps, interval_ns, late_ns=0.0):
    """Steps of forward (4 ms in f1, 12 in f2) and backward (24 ms in b), seen by a Poisson process of samples."""
    start_ns = OFFSET_NS + 1_000 * MS
    marks = _marks(0, start_ns - 100 * MS)
    truth, timeline = [], []
    for n, (begin, end) in marks.items():
        truth.append((begin, end, _marker(n)))
    t = start_ns
    for step in range(steps):
        timeline += [(t, 0, step), (t + 16 * MS, 1, step)]
        truth += [(t, t + 4 * MS, _frames("f1", 10)), (t + 4 * MS, t + 16 * MS, _frames("f2", 11)),
                  (t + 16 * MS, t + 40 * MS, _frames("b", 20))]  # fmt: skip
        t += 40 * MS
    timeline.append((t, -1, steps))
    stop_ns = t
    late = _marks(30, stop_ns + 10 * MS)
    truth += [(begin, end, _marker(n)) for n, (begin, end) in late.items()]
    times = OFFSET_NS + np.cumsum(rng.exponential(interval_ns, 4 * int((stop_ns - OFFSET_NS) / interval_ns)))
    begins = np.array([begin for begin, _, _ in truth])
    samples = []
    for s in times:
        i = int(np.searchsorted(begins, s, side="right")) - 1
        if i >= 0 and s < truth[i][1]:
            samples.append((float(s) + late_ns, truth[i][2]))
    return _trace(samples), np.array(timeline, np.int64), marks | late, start_ns, stop_ns


def _astray_s(out):
    """Time of stacks that were charged to the wrong phase."""
    return sum(row["time_s"] for row in out["rows"] if (row["phase"] == "backward") != (row["function"] == "b"))


def test_a_trace_by_hand():
    marks = _marks(0, OFFSET_NS + 10 * MS, 2) | _marks(2, OFFSET_NS + 200 * MS, 2)
    start, stop = OFFSET_NS + 50 * MS, OFFSET_NS + 150 * MS
    timeline = np.array([(start, 0, 0), (start + 40 * MS, 1, 0), (start + 90 * MS, -1, 0)], np.int64)
    seen = [(11, _marker(0)), (13, _marker(1)), (60, _frames("f1", 10)), (70, _frames("f2", 11)),
            (95, _frames("b", 20)), (145, [("main", "m.py", 30)]), (201, _marker(2)), (203, _marker(3))]  # fmt: skip
    trace = _trace([(OFFSET_NS + ms * MS, stack) for ms, stack in seen])
    other = _trace([(OFFSET_NS, [("loader", "d.py", 1)]), (OFFSET_NS + 150 * MS, [])], tid=6)
    out = fold(other + trace, timeline, NAMES, marks, start, stop, 10 * MS, ["/venv/lib", "/venv"])
    assert out["reason"] is None and out["unsampled"] == [] and out["rest_s"] == 0
    assert out["clock_bound_s"] == pytest.approx(0.001) and out["drift"] == pytest.approx(0, abs=1e-9)
    rows = {(row["phase"], row["function"]): row for row in out["rows"]}
    # forward lasts from 50 to 90 ms: f1 is held 10 ms, f2 20 ms and what is missing to 40 ms for its last sample.
    # backward, 90 to 140 ms, has b alone. Between the phases there are 10 ms.
    assert {key: round(row["time_s"], 9) for key, row in rows.items()} == {
        ("forward", "f1"): 0.010,
        ("forward", "f2"): 0.030,
        ("backward", "b"): 0.050,
        (None, "main"): 0.010,
    }
    assert rows["backward", "b"]["share"] == pytest.approx(0.5)
    assert out["arrays"]["stack_slices"][:, :2].tolist() == [
        [OFFSET_NS + begin * MS, OFFSET_NS + end * MS] for begin, end in ((60, 70), (70, 95), (95, 145), (145, 150))
    ]
    assert [_functions(out, node)[1:] for node in out["arrays"]["stack_slices"][:, 2]] == [
        ["train_step", "f1"], ["train_step", "f2"], ["train_step", "b"], []
    ]  # fmt: skip
    assert ["f1", "torch/x.py", 10] in out["frames"] and out["stacks_dropped"] == 0
    assert (rows["forward", "f1"]["file"], rows["forward", "f1"]["line"]) == ("torch/x.py", 10)


def test_simulated_samples_give_the_true_times_within_their_bound():
    covered = total = 0
    for seed in range(20):
        trace, timeline, marks, start, stop = _simulated(np.random.default_rng(seed), 100, 10 * MS)
        out = fold(trace, timeline, NAMES, marks, start, stop, 10 * MS)
        rows = {(row["phase"], row["function"]): row for row in out["rows"]}
        assert sum(row["time_s"] for row in out["rows"]) == pytest.approx(4.0)
        assert sum(row["time_s"] for (phase, _), row in rows.items() if phase == "forward") == pytest.approx(1.6)
        for key, true_s in ((("forward", "f1"), 0.4), (("forward", "f2"), 1.2), (("backward", "b"), 2.4)):
            covered += abs(rows[key]["time_s"] - true_s) <= rows[key]["bound_s"]
            total += 1
        assert _astray_s(out) < 200 * out["clock_bound_s"]  # of two edges a step
    assert covered >= 0.9 * total


def test_stamps_that_come_late_are_taken_off():
    trace, timeline, marks, start, stop = _simulated(np.random.default_rng(0), 100, 10 * MS, late_ns=5 * MS)
    out = fold(trace, timeline, NAMES, marks, start, stop, 10 * MS)
    assert _astray_s(out) < 200 * out["clock_bound_s"] < 0.2 * out["clock_s"]


def test_a_stack_that_outlives_its_phase_is_charged_to_both():
    marks = _marks(0, OFFSET_NS, 2)
    start, stop = OFFSET_NS + 50 * MS, OFFSET_NS + 1050 * MS
    timeline = np.array([(start, 0, 0), (start + 300 * MS, 1, 0), (stop, -1, 0)], np.int64)
    samples = [(OFFSET_NS + 1 * MS, _marker(0)), (OFFSET_NS + 20 * MS, [("loop", "m.py", 1)]), (stop + 5 * MS, [])]
    out = fold(_trace(samples), timeline, NAMES, marks, start, stop, 10 * MS)
    assert {row["phase"]: round(row["time_s"], 9) for row in out["rows"]} == {"forward": 0.3, "backward": 0.7}
    assert out["drift"] is None and "drift is not known" in out["note"]


def test_a_phase_without_samples_is_named_and_not_filled():
    marks = _marks(0, OFFSET_NS, 2)
    start, stop = OFFSET_NS + 50 * MS, OFFSET_NS + 100 * MS
    timeline = np.array([(start, 0, 0), (start + 49 * MS, 1, 0), (stop, -1, 0)], np.int64)
    samples = [(OFFSET_NS + 1 * MS, _marker(0)), (OFFSET_NS + 60 * MS, [("f", "m.py", 1)]),
               (stop + 1 * MS, [("g", "m.py", 2)]), (stop + 2 * MS, [])]  # fmt: skip
    out = fold(_trace(samples), timeline, NAMES, marks, start, stop, 10 * MS)
    assert out["unsampled"] == [{"phase": "backward", "time_s": 0.001}]
    assert [row["time_s"] for row in out["rows"]] == [pytest.approx(0.049)]


def test_without_markers_there_are_no_rows_but_a_reason():
    trace = _trace([(OFFSET_NS, [("f", "m.py", 1)]), (OFFSET_NS + MS, [])])
    timeline = np.zeros((0, 3), np.int64)
    for events, marks in ((trace, _marks(0, OFFSET_NS)), ([], {}), (_trace([(OFFSET_NS, _marker(7))]), {})):
        out = fold(events, timeline, NAMES, marks, OFFSET_NS, OFFSET_NS + MS, 10 * MS)
        assert out["rows"] == [] and "marker" in out["reason"]


_TARGET = """
import json, sys, time
from perfsuite import _native
from perfsuite.instruments.host_stacks import HostStacks

def spin_forward(until):
    while time.monotonic() < until: pass

def spin_backward(until):
    while time.monotonic() < until: pass

stacks = HostStacks()
stacks.start()
clock = _native.PhaseClock(["forward", "backward"])
forward, backward = clock.phase("forward"), clock.phase("backward")
start = clock.start()
for _ in range(4):
    with forward:
        spin_forward(time.monotonic() + 0.1)
    with backward:
        spin_backward(time.monotonic() + 0.2)
    exec(sys.argv[1])
stop = clock.stop()
out = stacks.stop(clock.timeline(), clock.names, start, stop)
out["arrays"] = {name: array.tolist() for name, array in out["arrays"].items()}
print(json.dumps(out | {"start_ns": start, "stop_ns": stop}))
"""


def _run_target(tmp_path, between="pass"):
    script = tmp_path / "target.py"
    script.write_text(_TARGET)
    done = subprocess.run(
        [sys.executable, str(script), between], capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def py_spy():
    available = HostStacks().available()
    if not available.available:
        pytest.skip(available.reason)


def test_a_real_process(py_spy, tmp_path):
    out = _run_target(tmp_path)
    assert out["reason"] is None, out
    rows = {(row["phase"], row["function"]): row["time_s"] for row in out["rows"]}
    forward, backward = rows["forward", "spin_forward"], rows["backward", "spin_backward"]
    in_forward = sum(time_s for (phase, _), time_s in rows.items() if phase == "forward")
    in_backward = sum(time_s for (phase, _), time_s in rows.items() if phase == "backward")
    # Which function ran in which phase is certain but for the few samples at the edges of eight stretches.
    assert forward > in_forward / 2 and backward > in_backward / 2
    assert in_forward + in_backward == pytest.approx(out["clock_s"], rel=0.02)
    assert 0 < out["clock_bound_s"] < 0.1
    assert out["samples"] > 10
    assert {row["file"] for row in out["rows"]} <= {"target.py", "perfsuite/instruments/host_stacks.py"} | {
        row["file"] for row in out["rows"] if row["phase"] is None
    }
    seen = np.array(out["arrays"]["stack_slices"])
    assert len(seen) > 4 and (seen[1:, 0] >= seen[:-1, 1]).all()
    assert seen[0, 0] >= out["start_ns"] and seen[-1, 1] <= out["stop_ns"]
    stacks = {tuple(_functions(out, node)) for node in seen[:, 2]}
    assert ("<module>", "spin_forward") in stacks and ("<module>", "spin_backward") in stacks


def _functions(out, node):
    """From the outermost to the innermost function of a node."""
    caller, frame = out["arrays"]["stack_nodes"][node]
    return [*(_functions(out, caller) if caller >= 0 else []), out["frames"][frame][0]]


def test_py_spy_dying_is_survived_and_recorded(py_spy, tmp_path):
    kill = "import os, signal; stacks._process.poll() is None and os.kill(stacks._process.pid, signal.SIGKILL)"
    out = _run_target(tmp_path, kill)
    assert out["rows"] == [] and f"exit status -{int(signal.SIGKILL)}" in out["reason"]


def test_no_py_spy_is_a_reason(monkeypatch):
    monkeypatch.setattr("perfsuite.instruments.host_stacks._py_spy", lambda: None)
    stacks = HostStacks()
    assert not stacks.available().available and "pip install" in stacks.available().reason
    stacks.start()
    out = stacks.stop(np.zeros((0, 3), np.int64), NAMES, 0, MS)
    assert out["rows"] == [] and "py-spy was not found" in out["reason"]


def test_py_spy_that_may_not_read_is_a_reason(tmp_path, monkeypatch):
    refuses = tmp_path / "py-spy"
    refuses.write_text("#!/bin/sh\necho 'Error: Permission denied (os error 13)' >&2\nexit 1\n")
    refuses.chmod(0o755)
    monkeypatch.setattr("perfsuite.instruments.host_stacks._py_spy", lambda: os.fspath(refuses))
    stacks = HostStacks()
    assert "Permission denied" in stacks.available().reason
    stacks.start()
    out = stacks.stop(np.zeros((0, 3), np.int64), NAMES, 0, MS)
    assert "py-spy ended at once: Error: Permission denied" in out["reason"]
