"""Sums over CUPTI activity records: small cases worked by hand."""

import ctypes
import importlib.util
import random
import threading
from pathlib import Path

import numpy as np
import pytest

_spec = importlib.util.spec_from_file_location("activity_records", Path(__file__).with_name("activity_records.py"))
ar = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(ar)


@pytest.mark.parametrize(
    ("work", "shares", "busy", "overlap"),
    [
        ({"a": (100, 200), "b": (150, 250)}, {"a": 75, "b": 75}, 150, 50),
        ({"a": (100, 200), "b": (120, 200), "c": (140, 200)}, {"a": 50, "b": 30, "c": 20}, 100, 140),
        ({"a": (100, 200), "b": (140, 160)}, {"a": 90, "b": 10}, 100, 20),
        ({"a": (100, 200), "b": (100, 200), "c": (100, 200)}, {"a": 34, "b": 33, "c": 33}, 100, 200),
        ({"a": (100, 200), "b": (200, 230)}, {"a": 100, "b": 30}, 130, 0),
        ({"a": (150, 150), "b": (150, 160)}, {"a": 0, "b": 10}, 10, 0),
    ],
    ids=["two", "three", "nested", "identical, one ns over", "back to back", "of no length"],
)
def test_overlap_is_shared_equally(work, shares, busy, overlap):
    kernels = [ar.kernel(start, end, name=name) for name, (start, end) in work.items()]
    out = ar.sum_up(100, 300, *kernels)
    (device,) = out["devices"]
    assert ar.by_name(out, "share_ns") == shares
    assert ar.by_name(out, "time_ns") == {name: end - start for name, (start, end) in work.items()}
    assert (device["busy_ns"], device["idle_ns"], device["overlap_ns"]) == (busy, 200 - busy, overlap)
    ar.assert_adds_up(out, 200)


def test_rows_have_sums_extremes_and_the_last_shape():
    out = ar.sum_up(
        1, 10_000,
        ar.external(7, 42), ar.launched(100, 110, 90, 7, name="_Z3addIfEvPT_i", grid=(9, 8, 7), block=(64, 2, 1)),
        ar.external(8, 42), ar.launched(200, 250, 190, 8, name="_Z3addIfEvPT_i", grid=(70000, 5, 4), block=(32, 3, 2),
                                     registers=40, static_shared=100, dynamic_shared=1000),
        ar.external(9, 43), ar.launched(300, 301, 290, 9, name="_Z3addIfEvPT_i"),
    )  # fmt: skip
    first, second = out["rows"]
    assert first == {
        "name": "void add<float>(float*, int)", "kind": "kernel", "copy": None, "external": 42, "phase": ar.FORWARD,
        "device": 0, "graph": False, "calls": 2, "time_ns": 60, "share_ns": 60, "min_ns": 10, "max_ns": 50,
        "bytes": None, "grid": [70000, 5, 4], "block": [32, 3, 2], "registers": 40, "shared_bytes": 1100,
    }  # fmt: skip
    assert (second["external"], second["calls"], second["time_ns"]) == (43, 1, 1)


def test_names_are_cut_and_need_not_be_text():
    kernels = [ar.kernel(10, 20, name="x" * 2000), ar.kernel(30, 40, name=0), ar.kernel(50, 60, name="_Z")]
    out = ar.sum_up(1, 1000, *kernels)
    assert [row["name"] for row in out["rows"]] == ["x" * 300, "(unnamed)", "_Z"]
    odd = ctypes.create_string_buffer(b"caf\xe9")
    (row,) = ar.sum_up(1, 1000, ar.kernel(10, 20, name=ctypes.addressof(odd)))["rows"]
    assert row["name"] == "caf\N{REPLACEMENT CHARACTER}"


def test_a_name_is_told_by_its_content():
    module = ctypes.create_string_buffer(b"first", 16)
    same = ctypes.create_string_buffer(b"first")
    sums = ar.begin(1)
    sums.consume(ar.kernel(10, 20, name=ctypes.addressof(module)).view(np.uint8))
    sums.consume(ar.kernel(30, 40, name=ctypes.addressof(same)).view(np.uint8))
    module.value = b"second"  # the module was unloaded, its memory taken by another
    sums.consume(ar.kernel(50, 65, name=ctypes.addressof(module)).view(np.uint8))
    module.value = b"fir"
    sums.consume(ar.kernel(70, 77, name=ctypes.addressof(module)).view(np.uint8))
    module.value = b"gone"
    assert ar.by_name(sums.finish(100), "time_ns") == {"first": 20, "second": 15, "fir": 7}


def test_idle_time_by_each_cause():
    out = ar.sum_up(
        1000, 2000, ar.sync(1100, 1200), ar.launched(1800, 1900, 1700, 1),
        phases=[(1000, ar.FORWARD), (1300, ar.DATA), (1400, ar.FORWARD)], ops=[(1450, 1), (1600, -1)],
    )  # fmt: skip
    (device,) = out["devices"]
    assert ar.idle(device) == {
        ("sync", ar.FORWARD): 100,  # 1100 to 1200
        ("data", ar.DATA): 100,  # 1300 to 1400
        ("ops", ar.FORWARD): 150,  # 1450 to 1600
        ("launch", ar.FORWARD): 100,  # 1700 to 1800
        ("python", ar.FORWARD): 450,  # the rest, and 1900 to 2000
    }
    assert out["syncs"] == [{"type": "stream_synchronize", "calls": 1, "time_ns": 100}]
    ar.assert_adds_up(out, 1000)


def test_the_first_cause_that_applies():
    out = ar.sum_up(
        1000, 1900, ar.sync(1200, 1700), ar.launched(1800, 1900, 1600, 1),
        phases=[(1000, ar.FORWARD), (1100, ar.DATA), (1650, ar.FORWARD)],
        ops=[(1000, 1), (1050, 1), (1060, -1), (1800, -1)],
    )  # fmt: skip
    # ops alone; data with ops; sync with data and ops; from 1600 on the launch, in two phases.
    assert ar.idle(out["devices"][0]) == {
        ("ops", ar.FORWARD): 100, ("data", ar.DATA): 100, ("sync", ar.DATA): 400,
        ("launch", ar.DATA): 50, ("launch", ar.FORWARD): 150,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("waiting", "waits"),
    [
        (ar.sync(1000, 1100, type=1), True),
        (ar.sync(1000, 1100, type=2), False),  # a stream waits for an event, not the host
        (ar.sync(1000, 1100, type=4), True),
        (ar.call(1000, 1100, 1, cbid=ar.CUDA_DEVICE_SYNCHRONIZE), True),
        (ar.call(1000, 1100, 1, kind=ar.DRIVER, cbid=ar.CUDA_DEVICE_SYNCHRONIZE), False),  # another call's number there
        (ar.call(1000, 1100, 1, kind=ar.DRIVER, cbid=126), True),
        (ar.call(1000, 1100, 1), False),
    ],
)
def test_what_keeps_the_host_waiting(waiting, waits):
    sums = ar.begin(1000)
    sums.expect_device(0)
    sums.consume(waiting.view(np.uint8))
    assert ar.causes(sums.finish(1100)["devices"][0]) == ({"sync": 100} if waits else {"python": 100})


def test_the_earliest_launch_of_what_starts_together_counts():
    out = ar.sum_up(
        1000, 1200, ar.launched(1100, 1200, 1080, 1, stream=1), ar.launched(1100, 1200, 1030, 2, stream=2),
        ar.launched(1150, 1160, 1001, 3, stream=3),
    )  # fmt: skip
    assert ar.causes(out["devices"][0]) == {"python": 30, "launch": 70}


def test_a_launch_that_was_not_seen_is_not_guessed():
    out = ar.sum_up(1000, 1300, ar.kernel(1100, 1200, 5))
    assert ar.causes(out["devices"][0]) == {"unknown": 100, "python": 100}
    assert out["unlaunched"] == 1
    assert [(row["phase"], row["external"]) for row in out["rows"]] == [(-1, 0)]


def test_forgotten_calls_and_host_events_are_told():
    calls = [ar.call(1000 + 10 * i, 1005 + 10 * i, 1 + i) for i in range(5)]
    out = ar.sum_up(1000, 2000, *calls, ar.kernel(1500, 1600, 1), ar.kernel(1700, 1800, 5), calls=4)
    assert out["unlaunched"] == 1  # the first of five
    assert ar.causes(out["devices"][0]) == {"unknown": 500, "launch": 100, "python": 200}

    phases = [(1000, ar.FORWARD), (1100, ar.DATA), (1200, ar.FORWARD), (1300, ar.DATA)]
    sums = ar.begin(1000, phases=phases, host_events=2)
    sums.expect_device(0)
    assert ar.idle(sums.finish(1400)["devices"][0]) == {
        ("unknown", -1): 200, ("python", ar.FORWARD): 100, ("data", ar.DATA): 100,
    }  # fmt: skip


def test_the_phase_of_a_launch_may_be_forgotten():
    phases = [(1000, ar.FORWARD), (1200, ar.DATA), (1300, ar.FORWARD), (1400, ar.DATA)]
    records = [ar.launched(1450, 1460, 1150, 1), ar.launched(1470, 1480, 1350, 2)]
    out = ar.sum_up(1000, 1500, *records, phases=phases, host_events=2)
    assert [(row["phase"], row["calls"]) for row in out["rows"]] == [(-1, 1), (ar.FORWARD, 1)]


def test_a_runtime_call_and_the_driver_call_in_it_may_share_an_id():
    inner = ar.call(1050, 1060, 1, kind=ar.DRIVER)
    outer = ar.call(1040, 1070, 1)
    for calls in ((inner, outer), (outer, inner)):
        out = ar.sum_up(1000, 1200, *calls, ar.kernel(1100, 1200, 1))
        assert ar.causes(out["devices"][0]) == {"python": 40, "launch": 60}


def test_records_and_host_events_may_come_in_any_order():
    records = [
        ar.external(1, 42), ar.call(1050, 1060, 1), ar.kernel(1100, 1200, 1, name="a"),
        ar.external(2, 43), ar.call(1250, 1260, 2), ar.kernel(1300, 1400, 2, name="b"), ar.sync(1210, 1220),
    ]  # fmt: skip
    phases, ops = [(1, ar.FORWARD), (1230, ar.DATA), (1240, ar.FORWARD)], [(1225, 1), (1245, -1)]
    expected = ar.sum_up(1000, 1500, *records, phases=phases, ops=ops)
    assert ar.causes(expected["devices"][0]) == {"python": 170, "launch": 100, "sync": 10, "data": 10, "ops": 10}
    for seed in range(20):
        rng = random.Random(seed)
        shuffled = rng.sample(records, len(records))
        host_at = rng.randrange(len(records))
        sums = ar.begin(1000, phases=())
        for i, record in enumerate(shuffled):
            if i == host_at:
                ar.host(sums, phases, ops)
            sums.consume(record.view(np.uint8))
        out = sums.finish(1500)
        assert out["devices"] == expected["devices"]
        assert sorted(out["rows"], key=str) == sorted(expected["rows"], key=str)


def test_what_comes_after_its_time_was_accounted_is_late():
    sums = ar.begin(1000, horizon_ns=100)
    for start in (1000, 3000, 5000):  # the last one lets time before 4910 be accounted
        sums.consume(ar.kernel(start, start + 10, name="on time").view(np.uint8))
    sums.consume(ar.kernel(2000, 2100, name="late").view(np.uint8))
    sums.consume(ar.kernel(2900, 3110, name="partly").view(np.uint8))  # 3010 to 3110 was not yet accounted: idle, open
    sums.consume(ar.sync(2000, 2010).view(np.uint8))
    out = sums.finish(6000)
    assert (out["late"], out["late_ns"], out["late_syncs"]) == (2, 210, 1)
    assert ar.by_name(out, "share_ns") == {"on time": 30, "late": 0, "partly": 100}
    assert ar.by_name(out, "time_ns") == {"on time": 30, "late": 100, "partly": 210}
    ar.assert_adds_up(out, 5000)


def test_too_many_pending_records_shorten_the_horizon():
    n = 1000
    sums = ar.begin(1, pending=16)
    for i in range(n):
        sums.consume(ar.launched(100 + 10 * i, 105 + 10 * i, 98 + 10 * i, 1 + i))
    out = sums.finish(100 + 10 * n)
    assert out["shortened"] > n / 16
    assert (out["late"], out["rows"][0]["calls"], out["devices"][0]["busy_ns"]) == (0, n, 5 * n)
    assert ar.causes(out["devices"][0]) == {"launch": 2 * n, "python": 97 + 3 * (n - 1) + 5}


def test_work_is_cut_at_start_and_stop():
    out = ar.sum_up(
        1000, 2000,
        ar.kernel(900, 1100, name="begins before"), ar.kernel(1900, 2100, name="ends after"),
        ar.kernel(1850, 2500, name="ends after too"), ar.kernel(100, 200), ar.kernel(2000, 2200),
        ar.sync(950, 1010), ar.sync(1990, 2100), ar.sync(2000, 2010), ar.sync(900, 1000),
        ar.records(ar.OVERHEAD, kind=ar.OVERHEAD_KIND, overhead=1 << 16, start=1500, end=1600),
        ar.records(ar.OVERHEAD, kind=ar.OVERHEAD_KIND, overhead=1, start=900, end=1001),
    )  # fmt: skip
    assert ar.by_name(out, "time_ns") == {"begins before": 100, "ends after": 100, "ends after too": 150}
    assert ar.by_name(out, "max_ns") == {"begins before": 100, "ends after": 100, "ends after too": 150}
    assert ar.by_name(out, "share_ns") == {"begins before": 100, "ends after": 50, "ends after too": 100}
    assert out["outside"] == 2
    assert out["overheads"] == [
        {"kind": "buffer_flush", "count": 1, "time_ns": 100}, {"kind": "driver_compiler", "count": 1, "time_ns": 1},
    ]  # fmt: skip
    ar.assert_adds_up(out, 1000)


def test_stop_is_told_before_the_records_end():
    def feed(told):
        sums = ar.begin(1000, horizon_ns=100)
        if told:
            sums.stop(1500)
        for start in range(1000, 3000, 100):
            sums.consume(ar.kernel(start, start + 50).view(np.uint8))
            sums.consume(ar.sync(start + 60, start + 70).view(np.uint8))
        return sums

    out = feed(told=True).finish(1500)
    assert (out["devices"][0]["busy_ns"], out["rows"][0]["calls"], out["outside"]) == (250, 5, 15)
    assert out["syncs"] == [{"type": "stream_synchronize", "calls": 5, "time_ns": 50}]
    with pytest.raises(RuntimeError, match="accounted before it was told to stop"):
        feed(told=False).finish(1500)


def test_devices_have_accounts_of_their_own():
    sums = ar.begin(1000)
    sums.expect_device(3)
    sums.consume(ar.buffer(ar.launched(1100, 1200, 1050, 1, device=0), ar.launched(1100, 1300, 1090, 2, device=1)))
    out = sums.finish(2000)
    assert [(d["device"], d["busy_ns"], d["idle_ns"], d["overlap_ns"]) for d in out["devices"]] == [
        (0, 100, 900, 0), (1, 200, 800, 0), (3, 0, 1000, 0),
    ]  # fmt: skip
    assert [ar.causes(d) for d in out["devices"]] == [
        {"python": 850, "launch": 50}, {"python": 790, "launch": 10}, {"python": 1000},
    ]  # fmt: skip
    assert [(row["device"], row["share_ns"]) for row in out["rows"]] == [(0, 100), (1, 200)]
    ar.assert_adds_up(out, 1000)


def test_kernels_of_a_graph_belong_to_its_launch():
    out = ar.sum_up(
        1000, 1500, ar.external(9, 77), ar.call(1020, 1030, 9),
        ar.kernel(1100, 1150, 9, name="a", graph=5), ar.kernel(1160, 1200, 9, name="b", graph=5),
        ar.kernel(1240, 1300, 9, name="a", graph=5), ar.launched(1400, 1410, 1350, 10, name="a"),
        ar.records(ar.GRAPH, kind=ar.GRAPH_KIND, correlation=9, start=1420, end=1440, graph=6),
        phases=[(1000, ar.DATA), (1025, ar.FORWARD)],
    )  # fmt: skip
    assert [(r["name"], r["graph"], r["external"], r["phase"], r["calls"], r["time_ns"]) for r in out["rows"]] == [
        ("a", True, 77, ar.DATA, 2, 110), ("b", True, 77, ar.DATA, 1, 40), ("a", False, 0, ar.FORWARD, 1, 10),
        ("(cuda graph)", True, 77, ar.DATA, 1, 20),
    ]  # fmt: skip
    # 1000 to 1020 is data; the graph was launched then: its gaps are 80, 10, 40, and 10 before the last graph.
    assert ar.causes(out["devices"][0]) == {"data": 20, "launch": 140 + 50, "python": 50 + 60}
    assert out["rows"][3]["grid"] is None


def test_copies_by_direction_and_kind_of_memory():
    def copy(at, direction, source, destination, n_bytes, **fields):
        return ar.records(ar.MEMCPY, kind=ar.MEMCPY_KIND, start=at, end=at + 10, copy=direction, source=source,
                          destination=destination, bytes=n_bytes, **fields)  # fmt: skip

    pageable, pinned, device, managed = 1, 2, 3, 5
    out = ar.sum_up(
        1, 1000,
        copy(100, 1, pageable, device, 1), copy(200, 1, pinned, device, 2), copy(300, 1, pinned, device, 3),
        copy(400, 2, device, pinned, 4), copy(500, 8, device, device, 5), copy(600, 1, managed, device, 6),
        copy(700, 9, pinned, pageable, 7), copy(720, 9, pinned, pinned, 8),
        ar.external(31, 5), ar.call(790, 795, 31),
        copy(800, 77, device, device, 9, correlation=30, runtime_correlation=31),
        ar.records(ar.MEMCPY_PEER, kind=ar.MEMCPY_PEER_KIND, copy=10, start=820, end=830, bytes=10),
        ar.records(ar.MEMSET, kind=ar.MEMSET_KIND, start=900, end=910, bytes=2**40, graph=1),
    )  # fmt: skip
    rows = [(r["name"], r["copy"]["direction"], r["copy"]["pinned"], r["calls"], r["bytes"]) for r in out["rows"][:-1]]
    assert rows == [
        ("memcpy HtoD", "HtoD", False, 1, 1), ("memcpy HtoD", "HtoD", True, 2, 5),
        ("memcpy DtoH", "DtoH", True, 1, 4), ("memcpy DtoD", "DtoD", None, 1, 5),
        ("memcpy HtoD", "HtoD", None, 1, 6), ("memcpy HtoH", "HtoH", False, 1, 7),
        ("memcpy HtoH", "HtoH", True, 1, 8), ("memcpy unknown", "unknown", None, 1, 9),
        ("memcpy PtoP", "PtoP", None, 1, 10),
    ]  # fmt: skip
    memset = out["rows"][-1]
    assert (memset["name"], memset["kind"], memset["copy"], memset["bytes"]) == ("memset", "memset", None, 2**40)
    assert memset["graph"] and memset["grid"] is None
    assert [row["external"] for row in out["rows"]] == [0, 0, 0, 0, 0, 0, 0, 5, 0, 0]


def test_external_ids_of_another_kind_are_left_alone():
    records = (ar.external(1, 42, external_kind=3), ar.external(1, 99, external_kind=4), ar.launched(20, 30, 10, 1))
    assert ar.sum_up(1, 100, *records, external_kind=3)["rows"][0]["external"] == 42
    assert ar.sum_up(1, 100, *records, external_kind=5)["rows"][0]["external"] == 0


def test_rows_have_a_limit():
    n = 50
    kernels = [ar.kernel(100 + 10 * i, 105 + 10 * i, name=f"k{i % 25}", device=i % 2) for i in range(n)]
    out = ar.sum_up(100, 1000, *kernels, rows=10)
    assert [row["name"] for row in out["rows"]].count("(other)") == 2  # one a device
    assert len(out["rows"]) == 12
    assert sum(row["calls"] for row in out["rows"]) == n
    assert out["other"] == sum(row["calls"] for row in out["rows"] if row["name"] == "(other)") > 0
    ar.assert_adds_up(out, 900)


def test_gaps_by_their_length():
    bounds = [1_000, 1_001, 10_000, 12_000_000_000]
    starts, t = [], 1000
    for gap in bounds:
        starts.append(t + gap)
        t += gap + 10
    out = ar.sum_up(1000, t, *[ar.kernel(start, start + 10) for start in starts])
    gaps = out["devices"][0]["gaps"]
    assert [gap["up_to_ns"] for gap in gaps] == [10**i for i in range(3, 11)] + [None]
    assert [gap["count"] for gap in gaps] == [1, 2, 0, 0, 0, 0, 0, 0, 1]
    assert gaps[1]["time_ns"] == 11_001


def test_slices_of_a_window():
    sums = ar.begin(1000)
    sums.keep_slices(1200, 1500, 3)
    for i, start in enumerate((1000, 1150, 1400, 1300, 1499, 1500)):
        sums.consume(ar.launched(start, start + 60, start - 10, 20 + i, stream=i, name=str(i)))
    out = sums.finish(1510)
    assert out["slices"].dtype == np.int64
    assert out["slices"].tolist() == [[1150, 1210, 1, 0, 1, 21], [1300, 1360, 2, 0, 3, 23], [1400, 1460, 3, 0, 2, 22]]
    assert [out["rows"][row]["name"] for row in out["slices"][:, 2]] == ["1", "3", "2"]
    assert out["slices_dropped"] == 1


def test_slices_are_cut_too():
    sums = ar.begin(1000)
    sums.keep_slices(0, 9000, 10)
    sums.consume(ar.kernel(900, 2000).view(np.uint8))
    assert sums.finish(1500)["slices"][:, :2].tolist() == [[1000, 1500]]


def test_buffers_and_host_events_from_several_threads():
    threads, buffers, per_buffer = 4, 20, 500
    sums = ar.begin(1, phases=())

    def device_work(thread):
        for b in range(buffers):
            n = np.arange(per_buffer) + per_buffer * (b + buffers * thread)
            calls = ar.records(ar.CALL, per_buffer, kind=ar.RUNTIME, start=1000 + 10 * n, end=1001 + 10 * n,
                               correlation=1 + n)  # fmt: skip
            kernels = ar.records(ar.KERNEL, per_buffer, kind=ar.CONCURRENT_KERNEL, start=1003 + 10 * n,
                                 end=1007 + 10 * n, correlation=1 + n, name=ar.name_address("k"))  # fmt: skip
            sums.consume(ar.buffer(calls, kernels))

    def host_work(thread):
        t = 1000 + 10 * np.arange(threads * buffers * per_buffer, dtype=np.int64)
        if thread == 0:
            sums.phases(t, np.full(len(t), ar.FORWARD, np.int32))
        sums.ops(np.stack([t + 7, t + 10], axis=1).reshape(-1), np.tile(np.array([1, -1], np.int32), len(t)))

    workers = [threading.Thread(target=f, args=(i,)) for i in range(threads) for f in (device_work, host_work)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    n = threads * buffers * per_buffer
    out = sums.finish(1000 + 10 * n)
    assert (out["records"], out["late"], out["unlaunched"]) == (2 * n, 0, 0)
    assert out["devices"][0]["busy_ns"] == 4 * n
    assert ar.causes(out["devices"][0]) == {"launch": 3 * n, "ops": 3 * n, "python": 999}
