"""What becomes of counter samples and of ranges, without a library: merging, gaps, clocks, and the join by order."""

import math

import numpy as np
import pytest

from perfsuite import _native
from perfsuite.counters.planner import Column, Plan
from perfsuite.counters.sets import SETS
from perfsuite.instruments.counters import in_columns, kinds, replay, samples_by_time, timeline

SUM, TIME = _native.ADD_UP, _native.OVER_TIME


def feed(store, n, interval=100, first=0, seed=0):
    """n samples of (bytes, rate over the bytes, share over time), after one that is to be dropped."""
    rng = np.random.default_rng(seed)
    values = np.column_stack([rng.integers(0, 1000, n), rng.random(n), rng.random(n)]).astype(float)
    values[::7, 0] = 0
    values[values[:, 0] == 0, 1] = np.nan  # no traffic, no rate
    store.add(first - interval, first, [1e18, 1e18, 1e18])
    for i, row in enumerate(values):
        store.add(first + i * interval, first + (i + 1) * interval, row.tolist())
    return values


@pytest.mark.parametrize("n, max_rows", [(1, 2), (5, 8), (8, 8), (9, 8), (17, 8), (1000, 8), (1001, 7), (4096, 64)])
def test_merging_keeps_sums_and_means(n, max_rows):
    store = _native.SampleStore([SUM, 0, TIME], max_rows)
    values = feed(store, n, first=1000)
    out = store.rows()
    t, got, merged = out["stamps_ns"], out["values"], out["merged"]
    assert len(t) <= max_rows and out["num_samples"] == n and out["dropped_first"] == 1
    assert merged == 1 if n <= max_rows else merged & (merged - 1) == 0 and merged * max_rows >= n
    assert t[0, 0] == 1000 and t[-1, 1] == 1000 + 100 * n and np.array_equal(t[1:, 0], t[:-1, 1])
    assert got[:, 0].sum() == values[:, 0].sum()  # exactly
    for row, start in enumerate(range(0, n, merged)):
        part = values[start : start + merged]
        there = part[:, 0] > 0
        assert got[row, 0] == part[:, 0].sum()
        if there.any():
            assert got[row, 1] == pytest.approx(np.average(part[there, 1], weights=part[there, 0]))
        else:
            assert math.isnan(got[row, 1])
        assert got[row, 2] == pytest.approx(part[:, 2].mean())


def test_memory_is_bounded_over_a_million_samples():
    store = _native.SampleStore([SUM], 16)
    store.restart()
    for i in range(200_001):
        store.add(i, i + 1, [1.0])
    out = store.rows()
    assert len(out["values"]) <= 16 and out["values"].sum() == out["num_samples"] == 200_000


def test_a_mean_over_time_weighs_long_samples_more():
    store = _native.SampleStore([TIME], 2)
    store.add(0, 1, [9.0])
    for start, end, share in [(1, 11, 1.0), (11, 41, 0.0), (41, 51, 1.0)]:
        store.add(start, end, [share])
    assert store.rows()["values"][:, 0].tolist() == [0.25, 1.0]


def test_each_beginning_drops_a_sample_and_gaps_within_are_counted():
    store = _native.SampleStore([SUM], 100)
    for i in range(5):
        store.add(i * 10, i * 10 + 10, [1.0])
    store.add(80, 90, [1.0])  # three are missing
    store.restart()
    store.add(500, 510, [1e9])  # holds what came before
    store.add(510, 520, [1.0])
    out = store.rows()
    assert (out["lost"], out["dropped_first"], out["num_samples"]) == (3, 2, 6)
    assert out["values"].sum() == 6


def test_a_sum_with_a_part_missing_is_no_sum():
    store = _native.SampleStore([SUM, SUM], 100)
    store.add(0, 1, [0.0, 0.0])
    store.add(1, 2, [math.nan, 2.0])
    out = store.rows()
    assert math.isnan(out["values"][0, 0]) and out["values"][0, 1] == 2 and out["invalid"] == 1


@pytest.mark.parametrize("arguments", [([SUM], 1), ([5], 8), ([-3], 8)])
def test_bad_stores_are_refused(arguments):
    with pytest.raises(ValueError):
        _native.SampleStore(*arguments)


def test_cuptis_clock_is_used_where_events_agree_with_it():
    clock = _native.SampleClock()
    clock.read_beside(1000, 500_000, 1040)  # offset 1020 - 500000, to 20 ns
    clock.read_beside(9000, 508_000, 9010)  # 15 ns apart from the first
    clock.not_before(stamp_ns=500_100, started_ns=1010)
    clock.not_after(stamp_ns=507_000, read_ns=9000)
    method, offset, bound = clock.offset()
    assert method == "cupti" and abs(offset - (1012 - 500_000)) <= 4
    # Both readings lie within the bound.
    assert abs(offset - (1020 - 500_000)) <= bound and abs(offset - (1005 - 500_000)) <= bound <= 40


def test_a_clock_that_contradicts_the_events_is_not_used():
    clock = _native.SampleClock()
    clock.read_beside(1000, 500_000, 1040)
    clock.not_before(stamp_ns=7_000_000, started_ns=1000)  # these stamps are of another clock
    clock.not_after(stamp_ns=7_002_000, read_ns=4000)
    clock.not_after(stamp_ns=7_005_000, read_ns=6500)  # the tighter one
    method, offset, bound = clock.offset()
    assert method == "order of events"
    low, high = 1000 - 7_000_000, 6500 - 7_005_000
    assert low <= offset <= high and bound >= max(offset - low, high - offset) and bound <= (high - low) // 2 + 2


def test_clocks_that_drift_apart_widen_the_bound():
    clock = _native.SampleClock()
    clock.not_before(stamp_ns=0, started_ns=1000)
    clock.not_after(stamp_ns=10_000, read_ns=10_600)  # before the first says that it can be
    method, offset, bound = clock.offset()
    assert method == "order of events" and 600 <= offset <= 1000 and bound >= 200


def test_without_anything_to_go_by_it_says_so():
    clock = _native.SampleClock()
    assert clock.offset()[0] == "none"
    clock.not_after(5, 10)
    assert clock.offset()[0] == "none"


def launches(*names):
    return [(name, 0, -1, True) for name in names]


def test_join_is_by_order_whatever_the_numbers_begin_with():
    join = _native.LaunchJoin(1)
    join.add(launches("a", "b", "a"), [(12, [4.0]), (10, [1.0]), (11, [2.0])], 0)
    rows = {row[0]: row[3:] for row in join.result()["rows"]}
    assert rows == {"a": (2, [5.0]), "b": (1, [2.0])}


@pytest.mark.parametrize("ranges, dropped", [
    ([(0, [1.0])], 0),  # one is missing, and which is not known
    ([(0, [1.0]), (1, [1.0]), (2, [1.0])], 0),
    ([(0, [1.0]), (5, [1.0])], 0),  # numbers with a hole
    ([(-1, [1.0]), (-1, [1.0])], 0),  # no numbers
])  # fmt: skip
def test_nothing_is_joined_on_a_guess(ranges, dropped):
    join = _native.LaunchJoin(1)
    join.add(launches("a", "b"), ranges, dropped)
    out = join.result()
    assert [row[0] for row in out["rows"]] == ["(not joined)"] and out["unjoined"] == len(ranges)


def test_ranges_dropped_at_the_end_leave_the_others_joined():
    join = _native.LaunchJoin(1)
    join.add(launches("a", "b", "c"), [(0, [1.0]), (1, [2.0])], 1)
    assert {row[0] for row in join.result()["rows"]} == {"a", "b"} and join.result()["dropped"] == 1


def test_names_are_demangled_and_cut():
    join = _native.LaunchJoin(1)
    join.add(launches("_Z4gemmIfEvPT_", "x" * 1000, "plain"), [(i, [0.0]) for i in range(3)], 0)
    assert {row[0] for row in join.result()["rows"]} == {"void gemm<float>(float*)", "x" * 300, "plain"}


def planned(name, only):
    columns = [Column(q, q.options[0]) for q in SETS[name].quantities if q.name in only]
    return Plan("GH100", name, 1, columns, {"x": "why"}, 8)


def test_kinds_follow_the_set():
    found = planned("memory", ("dram_read_bytes", "l2_bytes", "l2_hit_share", "sm_active_share"))
    assert kinds(found) == [SUM, SUM, 1, TIME]
    # Without the traffic that it is a rate of, a rate is averaged over time.
    assert kinds(planned("memory", ("l2_hit_share",))) == [TIME]


def test_values_are_converted_and_added_up():
    fp16 = next(q for q in SETS["bytes"].quantities if q.name == "tensor_ops_fp16")
    hit = next(q for q in SETS["bytes"].quantities if q.name == "l2_hit_bytes")
    columns = [Column(fp16, fp16.options[1]), Column(hit, hit.options[0])]
    metrics = ["lts__t_sectors_lookup_hit.sum", *fp16.options[1].metrics]
    assert in_columns(np.array([[2.0, 10.0, 5.0]]), metrics, columns).tolist() == [[15.0, 64.0]]


def test_chips_that_sample_by_cycles_say_so():
    assert [samples_by_time(chip) for chip in ("TU102", "GA100", "GA102", "GH100")] == [False, False, True, True]
    raw = {
        "clock": ("none", 0, 2**62), "stamps_ns": np.zeros((0, 2), np.int64), "values": np.zeros((0, 1)), "invalid": 0,
        "error": "", "num_samples": 0, "lost": 0, "overflows": 0, "merged": 1, "cpu_ns": 0,
    }  # fmt: skip
    out = timeline(raw, planned("memory", ("l2_bytes",)), 1000, False)
    assert out["clock"] == {"method": "none", "bound_ns": None} and len(out["notes"]) == 2
    assert "system clock" in out["notes"][0] and out["values"].shape == (0, 1)


def test_replay_without_launches_is_empty():
    raw = {"rows": [], "launches": 0, "ranges": 0, "dropped": 0, "unjoined": 0}
    out = replay(raw, planned("bytes", ("l2_bytes",)), [], {}.get)
    assert out["rows"] == [] and out["sites"] == [] and out["notes"] == []
