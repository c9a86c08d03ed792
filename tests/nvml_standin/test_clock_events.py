"""The clock and throttle record, from a scripted GPU whose clocks are lowered at known times."""

import pytest

from perfsuite.clock_events import THROTTLED_SHARE, clocks, names

START_NS = 1_000_000_000_000
POWER_CAP, HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, BRAKE = 4, 8, 0x20, 0x40, 0x80
COUNTERS = (74, 76, 269, 270, 271)


def at(seconds: float) -> int:
    return START_NS + round(seconds * 1e9)


def shares(got: dict) -> dict[str, float]:
    return {row["name"]: row["share"] for row in got["reasons"]}


@pytest.mark.parametrize("counters", [True, False])
def test_time_under_each_reason_is_found_with_counters_and_without(standin, counters):
    for field in () if counters else COUNTERS:
        standin.fail("nvmlDeviceGetFieldValues", 3, field=field)
    standin.clock_lowered(1200, SW_THERMAL | POWER_CAP, 2.0, 3.5)
    standin.clock_lowered(600, HW_SLOWDOWN | BRAKE, 6.0, 7.0)
    got = clocks(standin.sample(12.0), at(1.0), at(11.0))
    assert got["available"] and got["throttled"] and got["device"] == "gpu0"
    assert got["share"] == pytest.approx(0.25, abs=0.01)
    assert shares(got) == pytest.approx(
        {"software power cap": 0.9, "software thermal slowdown": 0.15, "hardware slowdown": 0.1,
         "hardware power brake": 0.1}, abs=0.01)  # fmt: skip
    sources = {row["name"]: row["source"] for row in got["reasons"]}
    assert sources["software thermal slowdown"] == ("counter" if counters else "samples")
    assert sources["hardware slowdown"] == "samples"  # it has no counter
    assert [row["time_s"] for row in got["reasons"]] == [pytest.approx(10 * row["share"]) for row in got["reasons"]]
    assert got["sm_clock_mhz"] == {"min": 600, "median": 1980, "max": 1980}


def test_before_driver_580_the_ids_of_three_counters_mean_other_things_and_are_not_read(standin):
    standin.lib.standin_old_driver(1)
    standin.clock_lowered(1200, SW_THERMAL, 2.0, 3.5)
    data = standin.sample(12.0)
    reason = "field 269 (clock_event_sw_thermal_ns): means this from driver 580 on"
    assert data["absent"]["gpu0_clock_event_sw_thermal_ns"] == reason
    assert "gpu0_clock_event_sw_power_cap_ns" not in data["absent"]
    assert shares(clocks(data, at(1.0), at(11.0)))["software thermal slowdown"] == pytest.approx(0.15, abs=0.01)


def test_a_counter_that_misses_what_the_samples_saw_is_not_believed(standin):
    standin.clock_lowered(1200, SW_THERMAL, 2.0, 4.0)
    data = standin.sample(12.0)
    data["values"][:, data["columns"].index("gpu0_clock_event_sw_thermal_ns")] = 5.0
    got = clocks(data, at(1.0), at(11.0))
    assert got["throttled"] and shares(got)["software thermal slowdown"] == pytest.approx(0.2, abs=0.01)


def test_a_power_cap_alone_is_not_throttling(standin):
    got = clocks(standin.sample(12.0), at(1.0), at(11.0))
    assert got["throttled"] is False and got["share"] == 0
    assert shares(got) == {"software power cap": pytest.approx(1.0)}


@pytest.mark.parametrize("reason", [HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, BRAKE])
@pytest.mark.parametrize("factor, throttled", [(0.5, False), (2.5, True)])
def test_the_gate_stands_at_its_share_of_the_clock(standin, reason, factor, throttled):
    length_s = 20 * THROTTLED_SHARE * factor
    standin.clock_lowered(1000, reason, 5.0, 5.0 + length_s)
    assert clocks(standin.sample(22.0), at(1.0), at(21.0))["throttled"] is throttled


def test_a_slowdown_between_two_samples_is_seen_by_its_counter(standin):
    for k in range(10):
        standin.clock_lowered(1000, HW_THERMAL, 5.1 + k, 5.9 + k)
    data = standin.sample(22.0, period_s=1.0, jitter=0.0)
    got = clocks(data, at(1.0), at(21.0))
    assert got["throttled"] and got["share"] == pytest.approx(0.4, abs=0.03)


def test_what_lies_outside_the_window_does_not_count(standin):
    standin.clock_lowered(1000, HW_THERMAL, 0.0, 0.9)
    standin.clock_lowered(1000, HW_THERMAL, 8.2, 9.0)
    got = clocks(standin.sample(12.0), at(1.0), at(8.0))
    assert got["throttled"] is False and got["share"] < THROTTLED_SHARE
    assert got["sm_clock_mhz"]["min"] == 1980


def test_idle_clocks_are_not_counted_as_the_clock_of_the_load(standin):
    standin.clock_lowered(345, 0x1, 2.0, 9.0)
    got = clocks(standin.sample(12.0), at(1.0), at(11.0))
    assert got["sm_clock_mhz"] == {"min": 1980, "median": 1980, "max": 1980}
    assert shares(got)["idle"] == pytest.approx(0.7, abs=0.01)


def test_the_gpu_that_was_throttled_longest_speaks_for_all(standin):
    standin.reset(gpus=2)
    standin.clock_lowered(1000, HW_THERMAL, 2.0, 5.0, gpu=1)
    got = clocks(standin.sample(12.0), at(1.0), at(11.0))
    assert got["device"] == "gpu1" and got["throttled"]
    assert [device["throttled"] for device in got["devices"]] == [False, True]


def test_no_gpu_and_no_such_query_are_reasons(standin, build_standin):
    standin.reset(gpus=0)
    got = clocks(standin.sample(1.0), at(0.1), at(0.9))
    assert got["available"] is False and got["throttled"] is None and "sees no GPU" in got["reason"]
    standin.reset()
    standin.fail("nvmlDeviceGetCurrentClocksEventReasons", 3)
    got = clocks(standin.sample(1.0), at(0.1), at(0.9))
    assert got["throttled"] is None
    assert got["reason"] == "gpu0: nvmlDeviceGetCurrentClocksEventReasons: Not Supported"


def test_names_leave_out_what_is_no_reason_for_distrust():
    assert names(0x1 | 0x2 | 0x10 | 0x100) == ()
    assert names(POWER_CAP | BRAKE) == ("software power cap", "hardware power brake")
