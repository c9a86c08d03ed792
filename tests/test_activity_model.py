"""Sums over CUPTI activity records: random schedules against a model that looks at each nanosecond."""

import importlib.util
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

_spec = importlib.util.spec_from_file_location("activity_records", Path(__file__).with_name("activity_records.py"))
ar = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(ar)

START, STOP = 500, 2000
MAX_NS, MAX_DELAY_NS = 300, 200  # longest work, call or wait; longest delay of a record


def draw_schedule(rng, num_work):
    work = []
    for i in range(num_work):
        launch = int(rng.integers(10, STOP + 100))
        start = launch + int(rng.integers(0, MAX_NS))
        end = start + int(rng.integers(0, MAX_NS))
        work.append({"launch": launch, "call_end": launch + int(rng.integers(0, 50)), "start": start, "end": end,
                     "device": int(rng.integers(0, 2)), "name": f"n{rng.integers(0, 3)}", "correlation": 1 + i,
                     "external": int(rng.integers(0, 3)), "known": bool(rng.random() < 0.9)})  # fmt: skip
    edges = np.sort(rng.choice(np.arange(10, STOP), 12, replace=False)).tolist()
    phases = [(t, int(rng.integers(-1, 3))) for t in edges]
    spans = lambda n: [(s, s + int(rng.integers(0, MAX_NS))) for s in rng.integers(10, STOP, n).tolist()]  # noqa: E731
    return work, phases, spans(4), spans(6)


def model(work, phases, syncs, ops):
    """Busy, idle by cause and phase, and shares by row: per device, from arrays with one element a nanosecond."""
    t = np.arange(START, STOP)
    phase_at = np.full(STOP + MAX_NS * 3, -1)
    for time, phase in phases:
        phase_at[time:] = phase
    inside = lambda spans: np.any([(t >= a) & (t < b) for a, b in spans], axis=0)  # noqa: E731
    in_sync, in_op = inside(syncs), inside(ops)
    out = {}
    for device in {w["device"] for w in work if w["end"] > START and w["start"] < STOP}:
        mine = [w for w in work if w["device"] == device]
        running = np.array([(t >= w["start"]) & (t < w["end"]) for w in mine])
        at_once = running.sum(axis=0)
        shares = {}
        for w, on in zip(mine, running, strict=True):
            if w["end"] > START and w["start"] < STOP:
                phase = int(phase_at[w["launch"]]) if w["known"] else -1
                key = (w["name"], w["external"], phase)
                shares[key] = shares.get(key, 0.0) + float((on / np.maximum(at_once, 1)).sum())
        idle_time = {}
        for now in t[at_once == 0]:
            i = now - START
            ahead = [w for w in mine if w["start"] > now and w["end"] > w["start"] and w["start"] < STOP]
            first = min((w["start"] for w in ahead), default=None)
            starting = [w for w in ahead if w["start"] == first]
            phase = int(phase_at[now])
            if not all(w["known"] for w in starting):
                cause = "unknown"
            elif starting and min(w["launch"] for w in starting) <= now:
                cause = "launch"
            elif in_sync[i]:
                cause = "sync"
            elif phase == ar.DATA:
                cause = "data"
            else:
                cause = "ops" if in_op[i] else "python"
            idle_time[cause, phase] = idle_time.get((cause, phase), 0) + 1
        overlap = int(np.maximum(at_once - 1, 0).sum())
        out[device] = (int((at_once > 0).sum()), overlap, idle_time, shares)
    return out


def feed(sums, schedule, rng, max_delay):
    """Everything arrives when it ended or was, and up to max_delay ns later; host events stay in their order."""
    work, phases, syncs, ops = schedule
    delay = lambda: int(rng.integers(0, max_delay + 1))  # noqa: E731
    arrivals = []
    for w in work:
        arrivals.append((w["end"] + delay(), ar.kernel(w["start"], w["end"], w["correlation"], name=w["name"],
                                                       device=w["device"]), None, None))  # fmt: skip
        arrivals.append((w["call_end"] + delay(), ar.external(w["correlation"], w["external"]), None, None))
        if w["known"]:
            call = ar.call(w["launch"], w["call_end"], w["correlation"])
            arrivals.append((w["call_end"] + delay(), call, None, None))
    arrivals += [(end + delay(), ar.sync(start, end), None, None) for start, end in syncs]
    arrivals += [(t, None, (t, phase), None) for t, phase in phases]
    arrivals += [(t + delay(), None, None, (t, delta)) for a, b in ops for t, delta in ((a, 1), (b, -1))]
    for _, record, phase, op in sorted(arrivals, key=lambda a: a[0]):
        if record is not None:
            sums.consume(record.view(np.uint8))
        ar.host(sums, [phase] if phase else [], [op] if op else [])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 25))
def test_random_schedules_agree_with_the_model(seed, num_work):
    rng = np.random.default_rng(seed)
    schedule = draw_schedule(rng, num_work)
    # A record arrives at most its length and the delay after it began: nothing is late with this horizon.
    sums = ar.begin(START, phases=(), horizon_ns=MAX_NS + MAX_DELAY_NS)
    sums.stop(STOP)
    feed(sums, schedule, rng, MAX_DELAY_NS)
    out = sums.finish(STOP)
    ar.assert_adds_up(out, STOP - START)
    assert (out["late"], out["late_syncs"], out["damaged"]) == (0, 0, 0)
    expected = model(*schedule)
    accounts = {d["device"]: d for d in out["devices"] if d["busy_ns"] or d["device"] in expected}
    assert accounts.keys() == expected.keys()
    for number, (busy, overlap, idle_time, shares) in expected.items():
        device = accounts[number]
        assert (device["busy_ns"], device["overlap_ns"]) == (busy, overlap)
        assert ar.idle(device) == idle_time
        rows = {(r["name"], r["external"], r["phase"]): r["share_ns"] for r in out["rows"] if r["device"] == number}
        assert rows.keys() == shares.keys()
        for key, share in shares.items():  # to a ns for each stretch between two changes
            assert abs(rows[key] - share) <= 2 * num_work


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(0, 400), st.integers(2, 30))
def test_sums_add_up_however_late_records_come(seed, num_work, horizon, pending):
    rng = np.random.default_rng(seed)
    schedule = draw_schedule(rng, num_work)
    sums = ar.begin(START, phases=(), horizon_ns=horizon, pending=pending, rows=5, host_events=8, calls=8)
    sums.stop(STOP)
    feed(sums, schedule, rng, 3 * MAX_DELAY_NS)
    out = sums.finish(STOP)
    ar.assert_adds_up(out, STOP - START)
    assert sum(row["calls"] for row in out["rows"]) + out["outside"] + out["untimed"] == num_work
