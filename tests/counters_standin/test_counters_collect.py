"""The two counter instruments against a scripted CUPTI: what they ask for, what they make of the answers, and that
everything is given back."""

import numpy as np
import pytest

PRIVILEGES = "NVreg_RestrictProfilingToAdminUsers=0"

SAMPLE = """
cupti.standin_clock({offset}, {stamps_off})
cupti.standin_overflow_at({overflow_at})
t = CounterTimeline("memory", interval_s=1e-4)
available = t.available()
before = _native.now_ns()
t.start()
pass_time(20_000_000)
{meanwhile}
data = t.stop()
after = _native.now_ns()
asked = ("Initialize", "DeInitialize")
pm = ("Enable", "Disable", "Start", "Stop")
out = data | {{"before": before, "after": after, "available": available,
    "profiler": [cupti.standin_calls(f"cuptiProfiler{{n}}".encode()) for n in asked],
    "hosts": [cupti.standin_calls(f"cuptiProfilerHost{{n}}".encode()) for n in ("Initialize", "Deinitialize")],
    "pm": [cupti.standin_calls(f"cuptiPmSampling{{n}}".encode()) for n in pm], "trigger": cupti.standin_trigger()}}
"""


def sample(run, offset=0, stamps_off=0, overflow_at=-1, meanwhile="pass"):
    return run(SAMPLE.format(offset=offset, stamps_off=stamps_off, overflow_at=overflow_at, meanwhile=meanwhile))


def column(data, name):
    index = [c["name"] for c in data["columns"]].index(name)
    return np.array(data["values"], dtype=float)[:, index]


def test_samples_come_out_in_the_units_of_the_record(run):
    data = sample(run, offset=10**18)
    assert data["available"] == [True, None]
    assert (data["chip"], data["set"], data["interval_ns"], data["trigger"]) == ("GH100", "memory", 100_000, 1)
    n = data["num_samples"]
    assert n >= 150 and n == len(data["t_ns"]) == len(data["values"])
    assert (data["merged"], data["dropped"], data["overflows"], data["first_dropped"]) == (1, 0, 0, True)
    # The first sample, of 1e18 bytes, is left out; the counts go on from the second.
    assert column(data, "dram_read_bytes").tolist() == list(range(1001, 1001 + n))
    assert set(column(data, "l2_bytes")) == {7.0}
    assert column(data, "sm_active_share")[:4].tolist() == [1, 0, 1, 0]
    hits = column(data, "l2_hit_share")
    assert hits[0] == 0.5 and np.isnan(hits[1]), "no rate where there was no traffic"
    assert "nvlink_rx_bytes" in data["absent"] and "nvlink_rx_bytes" not in [c["name"] for c in data["columns"]]
    assert data["columns"][0] == {"name": "dram_read_bytes", "metric": "dram__bytes_read.sum", "unit": "B"}
    assert data["notes"] == []


def test_stamps_are_put_on_the_monotonic_clock(run):
    """CUPTI's clock is 10^18 ns away from ours."""
    data = sample(run, offset=10**18)
    t = np.array(data["t_ns"])
    assert data["clock"]["method"] == "cupti" and 0 <= data["clock"]["bound_ns"] < 20_000_000
    bound = data["clock"]["bound_ns"]
    assert data["before"] - bound <= t[0, 0] and t[-1, 1] <= data["after"] + bound
    assert np.all(np.diff(t[:, 0]) == 100_000) and np.all(t[1:, 0] == t[:-1, 1])


def test_stamps_of_another_clock_are_placed_by_the_order_of_events(run):
    """The samples' clock is an hour from the one that CUPTI shows: it is not believed, and the bound says how well."""
    data = sample(run, offset=10**18, stamps_off=3600 * 10**9)
    assert data["clock"]["method"] == "order of events"
    t, bound = np.array(data["t_ns"]), data["clock"]["bound_ns"]
    assert 0 < bound < 60 * 10**9
    assert data["before"] - bound <= t[0, 0] and t[-1, 1] <= data["after"] + bound
    assert any("order of events" in note for note in data["notes"])


def test_everything_is_given_back(run):
    data = sample(run)
    assert data["pm"] == [1, 1, 1, 1]
    assert data["profiler"][0] == data["profiler"][1] > 0
    # Those of the plans are gone; that of the sampling goes with it.
    assert data["hosts"][0] - data["hosts"][1] in (0, 1)


def test_a_full_buffer_is_counted_and_sampling_begins_anew(run):
    """After 100 samples the buffer is full; it is found so when it is read, 20 times a second."""
    data = sample(run, overflow_at=100, meanwhile="""
    while cupti.standin_calls(b"cuptiPmSamplingStart") < 2:
        pass_time(1_000_000)
    pass_time(5_000_000)
    """.replace("\n    ", "\n"))  # fmt: skip
    assert data["overflows"] >= 1
    starts, stops = data["pm"][2:]
    # Where the buffer is full at the very end, sampling does not begin once more.
    assert starts == stops >= 2 and starts - data["overflows"] in (0, 1)
    values = column(data, "dram_read_bytes")
    assert np.isfinite(values).all() and values.max() < 2000, "the first sample of each stretch is left out"
    # 99 samples of the first stretch are kept, and the second begins at its second sample too.
    assert values[:99].tolist() == list(range(1001, 1100)) and values[99] == 1001
    assert data["dropped"] == 0, "the time between two stretches is a gap between recordings"


def test_an_error_on_the_way_is_told_and_what_was_sampled_is_kept(run):
    data = sample(run, meanwhile="""
    while cupti.standin_calls(b"cuptiPmSamplingDecodeData") < 1:
        pass_time(1_000_000)
    cupti.standin_fail(b"cuptiPmSamplingDecodeData", 999)
    """.replace("\n    ", "\n"))  # fmt: skip
    assert any("sampling ended early: cuptiPmSamplingDecodeData failed" in note for note in data["notes"])
    assert data["num_samples"] > 0 and data["pm"][0] == data["pm"][1]


@pytest.mark.parametrize("function, code, words", [
    ("cuptiPmSamplingGetCounterAvailability", 35, PRIVILEGES),
    ("cuptiPmSamplingGetCounterAvailability", 26, "another process is using this GPU's counters"),
    ("cuptiPmSamplingGetCounterAvailability", 43, "MIG"),
    ("cuptiPmSamplingGetCounterAvailability", 1, "cuptiPmSamplingGetCounterAvailability failed: SCRIPTED (1)"),
    ("cuptiPmSamplingEnable", 35, PRIVILEGES),
    ("cuptiPmSamplingSetConfig", 27, "cuptiPmSamplingSetConfig failed: SCRIPTED (27)"),
    ("cuptiPmSamplingStart", 999, "cuptiPmSamplingStart failed"),
])  # fmt: skip
def test_one_reason_for_what_cannot_be_sampled(run, function, code, words):
    out = run(f"""
cupti.standin_fail(b"{function}", {code})
t = CounterTimeline()
available = t.available()
try:
    t.start()
    error = ""
except RuntimeError as e:
    error = str(e)
count = lambda name: cupti.standin_calls(name.encode())
out = [available, error, count("cuptiProfilerInitialize") - count("cuptiProfilerDeInitialize"),
       count("cuptiPmSamplingEnable") - count("cuptiPmSamplingDisable")]
""")
    assert words in out[1] and "\n" not in out[1]
    if "Availability" in function:
        assert out[0] == [False, out[1]]
    assert out[2] == 0 and out[3] == (1 if function == "cuptiPmSamplingEnable" else 0), "nothing is left behind"


REPLAY = """
site = 0
SITE = ctypes.CFUNCTYPE(i64)(lambda: site)
clock = _native.PhaseClock(["forward", "backward"])
slots = []
def enter(symbol, kind=307):
    slot = u64()
    cupti.standin_launch(kind, 0, symbol, 0, ctypes.byref(slot))
    return kind, symbol, slot
def leave(launch, result=0):
    kind, symbol, slot = launch
    cupti.standin_launch(kind, 1, symbol, result, ctypes.byref(slot))
def launch(symbol, kind=307, result=0):
    leave(enter(symbol, kind), result)
mm = {"name": "aten::mm", "direction": "forward", "op": "", "module": "fc", "phase": "forward", "thread": "clock"}
r = CounterReplay(clock, site=ctypes.cast(SITE, ctypes.c_void_p).value, site_of={3: mm, 4: mm | {"module": "x"}}.get)
available = r.available()
clock.start()
r.start()
"""


def test_ranges_get_the_names_and_sites_of_their_launches(run):
    out = run(REPLAY + """
for step in range(2):
    r.begin_step(0)
    with clock.phase("forward"):
        site = 3
        launch(b"_Z4gemmIfEvPT_")
        launch(b"_Z4gemmIfEvPT_", 652)
        launch(b"_Z4gemmIfEvPT_", result=700)  # not launched: no range, no row
        site = 0
        launch(b"copy", 477)
    with clock.phase("backward"):
        launch(None, 514)
out = r.stop()
names = ("cuptiRangeProfilerEnable", "cuptiRangeProfilerDisable", "cuptiSubscribe", "cuptiUnsubscribe",
         "cuptiProfilerInitialize", "cuptiProfilerDeInitialize")
out["calls"] = [cupti.standin_calls(n.encode()) for n in names]
out["available"] = available
""")
    assert out["available"] == [True, None]
    assert (out["steps"], out["unjoined"], out["dropped_ranges"], out["notes"]) == (2, 0, 0, [])
    rows = {(row["name"], row["phase"]): row for row in out["rows"]}
    assert set(rows) == {("void gemm<float>(float*)", "forward"), ("copy", "forward"), ("(cuda graph)", "backward")}
    gemm = rows["void gemm<float>(float*)", "forward"]
    names = [c["name"] for c in out["columns"]]
    # Kernels are numbered from 0 in each run; those of the first step are 0 to 3, and 4 to 7 those of the second.
    assert gemm["calls"] == 4 and gemm["values"][names.index("dram_read_bytes")] == 4000 + 0 + 1 + 4 + 5
    assert rows["copy", "forward"]["values"][names.index("dram_read_bytes")] == 2000 + 2 + 6
    assert gemm["values"][names.index("l2_hit_bytes")] == 4 * 7 * 32
    assert [site["module"] for site in out["sites"]] == ["fc"] and gemm["site"] == 0
    assert rows["copy", "forward"]["site"] is None
    assert out["calls"][0] == out["calls"][1] and out["calls"][2] == out["calls"][3] == 1
    assert out["calls"][4] == out["calls"][5]


def test_the_op_recorder_tells_where_a_launch_comes_from(run):
    """A launch inside a real op, in an op inside that one, and outside all ops."""
    pytest.importorskip("torch")
    out = run(REPLAY.replace("r = CounterReplay(", "_unused = CounterReplay(").replace("available = r.available()", """
import torch
from perfsuite.instruments.ops import OpRecorder
ops = OpRecorder(clock=clock)
library = torch.library.Library("standin_replay", "FRAGMENT")
for name in ("inner", "outer"):
    library.define(f"{name}(Tensor x) -> Tensor")
def inner(x):
    launch(b"inner")
    return x.clone()
def outer(x):
    launch(b"before")
    y = torch.ops.standin_replay.inner(x)
    launch(b"after")
    return y
library.impl("inner", inner, "CPU")
library.impl("outer", outer, "CPU")
r = CounterReplay(clock, site_of=ops.site)
ops.start()
""") + """
r.begin_step(0)
with clock.phase("forward"):
    launch(b"alone")
    torch.ops.standin_replay.outer(torch.ones(2))
    launch(b"alone")
out = r.stop()
ops.stop()
""")
    where = {row["name"]: None if row["site"] is None else out["sites"][row["site"]]["name"] for row in out["rows"]}
    assert where == {"alone": None, "before": "standin_replay::outer", "inner": "standin_replay::inner",
                     "after": "standin_replay::outer"}  # fmt: skip
    assert {site["phase"] for site in out["sites"]} == {"forward"}


def test_launches_at_once_are_not_told_apart(run):
    out = run(REPLAY + """
launch(b"alone")
a, b = enter(b"first"), enter(b"second")
leave(b)
leave(a)
launch(b"alone")
out = r.stop()
""")
    rows = {row["name"]: row["calls"] for row in out["rows"]}
    assert rows == {"alone": 2, "(not joined)": 2} and out["unjoined"] == 2


def test_where_numbers_differ_nothing_is_guessed(run):
    """A graph that is measured node by node: more ranges than launches."""
    out = run(REPLAY + """
launch(b"kernel")
r.begin_step(0)
launch(b"kernel")
launch(b"node of a graph", kind=527)
out = r.stop()
""")
    assert {row["name"]: row["calls"] for row in out["rows"]} == {"kernel": 1, "(not joined)": 2}
    assert out["unjoined"] == 2 and out["notes"] == ["2 launches were seen and 3 measured"]


def test_kernels_beyond_the_room_are_counted(run):
    out = run("import perfsuite.instruments.counters as module\nmodule.MAX_LAUNCHES = 3" + REPLAY + """
for i in range(5):
    launch(b"k%d" % i)
out = r.stop()
""")
    assert sorted(row["name"] for row in out["rows"]) == ["k0", "k1", "k2"] and out["dropped_ranges"] == 2
    assert out["unjoined"] == 0


def test_a_failure_ends_the_replay_and_not_the_training(run):
    out = run(REPLAY + """
launch(b"kernel")
r.begin_step(0)
cupti.standin_fail(b"cuptiRangeProfilerDecodeData", 999)
launch(b"kernel")
r.begin_step(0)
r.begin_step(0)
out = r.stop()
out["calls"] = [cupti.standin_calls(b"cuptiRangeProfilerEnable"), cupti.standin_calls(b"cuptiRangeProfilerDisable")]
""")
    assert out["rows"][0]["calls"] == 1 and "the replay ended early: cuptiRangeProfilerDecodeData" in out["notes"][-1]
    assert out["calls"][0] == out["calls"][1]


@pytest.mark.parametrize("function, code, words", [
    ("cuptiProfilerGetCounterAvailability", 35, PRIVILEGES),
    ("cuptiSubscribe", 39, "another CUPTI client"),
    ("cuptiRangeProfilerStart", 35, PRIVILEGES),
])  # fmt: skip
def test_one_reason_for_what_cannot_be_replayed(run, function, code, words):
    out = run(f"""
cupti.standin_fail(b"{function}", {code})
r = CounterReplay()
try:
    r.start()
    error = ""
except RuntimeError as e:
    error = str(e)
pairs = (("cuptiProfilerInitialize", "cuptiProfilerDeInitialize"),
         ("cuptiRangeProfilerEnable", "cuptiRangeProfilerDisable"))
out = [error, [cupti.standin_calls(a.encode()) - cupti.standin_calls(b.encode()) for a, b in pairs]]
""")
    assert words in out[0] and out[1] == [0, 0]


def test_a_thread_without_a_context_is_told_what_to_do(run):
    out = run("out = CounterReplay().available()", STANDIN_NO_CONTEXT="1")
    assert out[0] is False and "run something on the GPU" in out[1]


@pytest.mark.parametrize("make", [
    'CounterTimeline("bytes")', 'CounterTimeline("nothing")', "CounterTimeline(interval_s=1e-6)",
    'CounterReplay(set="memory")',
])  # fmt: skip
def test_bad_arguments_are_refused(make):
    from perfsuite.instruments.counters import CounterReplay, CounterTimeline

    with pytest.raises(ValueError):
        eval(make, {"CounterTimeline": CounterTimeline, "CounterReplay": CounterReplay})
