"""Busy time by kernel and interval, for energy by kernel; and when the launch of each single piece of work began."""

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest

_spec = importlib.util.spec_from_file_location("activity_records", Path(__file__).with_name("activity_records.py"))
ar = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(ar)

MS = 1_000_000
SECOND = 1_000_000_000
INTERVALS, COLUMNS, KEPT = 65536, 64, 32
START = 5_000


def check(out, start, stop, device=0):
    """What holds for all: the intervals cover the account, and columns add up to the rows, to the nanosecond."""
    busy = out["busy"]
    edges, table = busy["edges_ns"], busy["busy_ns"]
    assert busy["device"] == device and busy["reason"] is None
    assert edges.dtype == table.dtype == np.int64 and table.shape == (len(edges) - 1, len(busy["names"]) + 1)
    assert (edges[0], edges[-1]) == (start, stop) and (np.diff(edges) > 0).all()
    assert (table >= 0).all() and (table.sum(axis=1) <= np.diff(edges)).all()
    shares = {}
    for row in out["rows"]:
        if row["device"] == device:
            shares[row["name"]] = shares.get(row["name"], 0) + row["share_ns"]
    sums = dict(zip(busy["names"], table.sum(axis=0).tolist(), strict=False))
    assert len(sums) == len(busy["names"]) and sums == {name: shares[name] for name in sums}
    assert table[:, -1].sum() == sum(shares.values()) - sum(sums.values())
    (account,) = [d for d in out["devices"] if d["device"] == device]
    assert table.sum() == account["busy_ns"]
    return table


def test_a_share_is_split_where_an_interval_ends():
    # Alone from 1 to 2 ms, two at once until 5 ms and 1 ns, then the other alone until 6.5 ms.
    kernels = [
        ar.kernel(START + 1 * MS, START + 5 * MS + 1, name="a"),
        ar.kernel(START + 2 * MS, START + 6 * MS + MS // 2, name="b"),
    ]
    out = ar.sum_up(START, START + 9 * MS, *kernels)
    table = check(out, START, START + 9 * MS)
    assert out["busy"]["names"] == ["b", "a"]
    assert (np.diff(out["busy"]["edges_ns"]) == [2 * MS, 2 * MS, 2 * MS, 2 * MS, MS]).all()
    assert table.tolist() == [
        [0, MS, 0], [MS, MS, 0], [MS // 2 + MS - 1, MS // 2 + 1, 0], [MS // 2, 0, 0], [0, 0, 0],
    ]  # fmt: skip
    ar.assert_adds_up(out, 9 * MS)


def test_rows_of_a_name_share_a_column_and_copies_are_names():
    copy = {"kind": ar.MEMCPY_KIND, "source": 2, "destination": 3, "bytes": 8}
    out = ar.sum_up(
        START, START + 40_000,
        ar.external(1, 5), ar.launched(6_000, 6_100, 5_900, 1, name="_Z1fv"),
        ar.external(2, 6), ar.launched(7_000, 7_300, 6_900, 2, name="_Z1fv"),
        ar.records(ar.MEMCPY, copy=1, start=8_000, end=8_050, **copy),
        ar.records(ar.MEMCPY, copy=2, start=9_000, end=9_020, **copy),
        ar.records(ar.MEMSET, kind=ar.MEMSET_KIND, start=10_000, end=10_010, bytes=4),
    )  # fmt: skip
    assert out["busy"]["names"] == ["f()", "memcpy HtoD", "memcpy DtoH", "memset"]
    assert check(out, START, START + 40_000).tolist() == [[400, 50, 20, 10, 0]]


def test_names_that_are_cut_to_the_same_are_one():
    kernels = [ar.kernel(6_000, 6_100, name="x" * 300 + "1"), ar.kernel(7_000, 7_010, name="x" * 300 + "2")]
    out = ar.sum_up(START, START + 40_000, *kernels)
    assert out["busy"]["names"] == ["x" * 300]
    assert check(out, START, START + 40_000).tolist() == [[110, 0]]


@pytest.mark.parametrize(("seconds", "interval_ms"), [(120, 2), (132, 4), (300, 8)])
def test_intervals_are_merged_in_pairs_when_they_are_many(seconds, interval_ms):
    rng = np.random.default_rng(seconds)
    n = 4000
    start = np.sort(rng.integers(START, seconds * SECOND, n))
    names = np.array([ar.name_address(f"k{i}") for i in range(5)], np.uint64)
    which = rng.integers(0, 5, n)
    end = start + rng.integers(1, 200 * MS, n)
    kernels = ar.records(
        ar.KERNEL, n, kind=ar.CONCURRENT_KERNEL, start=start, end=end, name=names[which], block=32, grid=1
    )
    stop = seconds * SECOND
    sums = ar.begin(START, horizon_ns=SECOND)
    sums.stop(stop)
    for part in np.array_split(kernels, 20):
        sums.consume(ar.buffer(part))
    out = sums.finish(stop)
    table = check(out, START, stop)
    assert (np.diff(out["busy"]["edges_ns"])[:-1] == interval_ms * MS).all() and len(table) <= INTERVALS
    # Of each name the sum over its kernels' part in some interval, where none overlap others.
    at = len(table) // 2
    begin, finish = out["busy"]["edges_ns"][at : at + 2]
    running = [i for i in range(n) if start[i] < finish and end[i] > begin]
    edges = np.unique([begin, finish, *np.clip([*start[running], *end[running]], begin, finish)])
    expected = dict.fromkeys(range(5), 0.0)
    for a, b in itertools.pairwise(edges):
        now = [i for i in running if start[i] <= a and end[i] >= b]
        for i in now:
            expected[int(which[i])] += (b - a) / len(now)
    for column, name in enumerate(out["busy"]["names"]):
        assert table[at, column] == pytest.approx(expected[int(name[1:])], abs=len(edges))


def test_a_run_of_days_has_no_intervals_and_says_so():
    day = 24 * 3600 * SECOND
    long = ar.sum_up(START, 3 * day, ar.kernel(START, START + 10), ar.kernel(3 * day - 20, 3 * day - 10))
    assert check(long, START, 3 * day).sum() == 20 and np.diff(long["busy"]["edges_ns"])[0] == 2**11 * 2 * MS
    out = ar.sum_up(START, 4 * day, ar.kernel(START, START + 10), ar.kernel(4 * day - 20, 4 * day - 10))
    assert "longer than" in out["busy"]["reason"] and len(out["busy"]["edges_ns"]) == 0
    assert out["devices"][0]["busy_ns"] == 20


def test_short_names_that_come_early_make_way_for_long_ones():
    """Early: 100 names of 1 us each. Then 30 of 50 us, one after the other, and each of them once more."""
    t, kernels = START, []
    for i in range(100):
        kernels.append(ar.kernel(t, t + 1_000 + i, name=f"early{i}"))
        t += 2_000
    for _ in range(2):
        for i in range(30):
            kernels.append(ar.kernel(t, t + 50_000 - 100 * i, name=f"long{i}"))
            t += 60_000
    out = ar.sum_up(START, t, *kernels)
    table = check(out, START, t)
    assert out["busy"]["names"][:30] == [f"long{i}" for i in range(30)]
    assert len(out["busy"]["names"]) == KEPT and table[:, -1].sum() == sum(1_000 + i for i in range(98))


def test_a_name_that_gave_up_its_column_stays_with_the_others():
    t, kernels = START, []
    for i in (*range(COLUMNS + 1), 0, 0):
        kernels.append(ar.kernel(t, t + (10 if i == 0 else 500 + i), name=f"k{i}"))
        t += 1_000
    out = ar.sum_up(START, t, *kernels)
    assert "k0" not in out["busy"]["names"] and check(out, START, t)[:, -1].sum() >= 30


def test_many_names_in_random_order_add_up():
    rng = np.random.default_rng(7)
    t, kernels = START, []
    for _ in range(6000):
        which = int(rng.integers(0, 150))
        length = int(rng.integers(1, 3_000)) * (1 + which)
        kernels.append(ar.kernel(t, t + length, name=f"k{which}", stream=1 + which % 3))
        t += int(rng.integers(1, 200_000))
    out = ar.sum_up(START, t + MS, *kernels, pending=500)
    table = check(out, START, t + MS)
    assert table.shape[1] == KEPT + 1
    ar.assert_adds_up(out, t + MS - START)


def test_the_table_is_of_the_device_that_was_expected_first():
    sums = ar.begin(1000)
    sums.expect_device(1)
    sums.consume(ar.buffer(ar.kernel(1100, 1200, name="there"), ar.kernel(1100, 1300, name="here", device=1)))
    out = sums.finish(2000)
    assert out["busy"]["names"] == ["here"]
    check(out, 1000, 2000, device=1)
    seen_first = ar.sum_up(1000, 2000, ar.kernel(1100, 1300, name="x", device=2), ar.kernel(1100, 1200))
    check(seen_first, 1000, 2000, device=2)


def test_an_idle_device_has_empty_intervals_and_no_device_none():
    sums = ar.begin(START)
    sums.expect_device(0)
    table = check(sums.finish(START + 5 * MS), START, START + 5 * MS)
    assert table.tolist() == [[0], [0], [0]]
    assert ar.sum_up(START, START + MS)["busy"] is None


def test_the_launch_of_each_slice():
    sums = ar.begin(1000)
    sums.keep_slices(1000, 2000, 10)
    sums.consume(ar.buffer(
        ar.launched(1400, 1500, 1100, 1), ar.kernel(1200, 1300, 77), ar.launched(1600, 1700, 900, 3),
        ar.call(1710, 1711, 4), ar.kernel(1720, 1730, 4, graph=1), ar.kernel(1740, 1750, 4, graph=1),
    ))  # fmt: skip
    out = sums.finish(2000)
    assert out["launch_ns"].dtype == np.int64
    assert list(zip(out["slices"][:, 0], out["launch_ns"], strict=True)) == [
        (1200, -1), (1400, 1100), (1600, 900), (1720, 1710), (1740, 1710),
    ]  # fmt: skip
