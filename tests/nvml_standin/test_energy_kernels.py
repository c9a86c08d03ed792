"""Joules by kernel from a scripted sensor, where kernels of known, different power take turns."""

import numpy as np
import pytest

from perfsuite.energy import energy_between
from perfsuite.energy_kernels import Busy, by_kernel
from perfsuite.energy_observations import observations

START_NS = 1_000_000_000_000
NOT_SUPPORTED = 3
NONE_W = 130.0  # between kernels: more than idle, as clocks stay up
NAMES = ["gemm", "softmax", "copy", "adam", "layer_norm"]
WATTS = np.array([620.0, 340.0, 250.0, 410.0, 290.0])


def at(seconds: float) -> int:
    return START_NS + round(seconds * 1e9)


class Load:
    """Kernels one after another; -1 is none. Runs on the scripted GPU and is recorded as the kernel recorder does."""

    def __init__(self, pieces: list[tuple[int, float]], watts: np.ndarray = WATTS) -> None:
        self.kernel = np.array([kernel for kernel, _ in pieces])
        self.edges_s = np.concatenate([[0.0], np.cumsum([seconds for _, seconds in pieces])])
        self.watts = np.where(self.kernel < 0, NONE_W, watts[self.kernel])
        self.kernels = int(self.kernel.max()) + 1

    def seconds_until(self, kernel: int, t_s: np.ndarray) -> np.ndarray:
        spent = np.concatenate([[0.0], np.cumsum(np.where(self.kernel == kernel, np.diff(self.edges_s), 0.0))])
        return np.interp(t_s, self.edges_s, spent)

    def busy(self, step_s: float = 0.005, late_s: float = 0.0) -> Busy:
        edges = np.arange(0, self.edges_s[-1], step_s)
        spent = [np.diff(self.seconds_until(k, edges)) for k in range(self.kernels)]
        edges_ns = START_NS + np.round((edges - late_s) * 1e9).astype(np.int64)
        return Busy(edges_ns, np.round(np.stack(spent, axis=1) * 1e9).astype(np.int64), NAMES[: self.kernels])

    def truth_j(self, kernel: int, t0_s: float, t1_s: float) -> float:
        seconds = np.diff(self.seconds_until(kernel, np.array([t0_s, t1_s])))[0]
        return seconds * self.watts[self.kernel == kernel][0]


def repeat(make, seconds: float, seed: int) -> Load:
    draw, pieces, length_s = np.random.default_rng(seed), [], 0.0
    while length_s < seconds:
        step = make(draw)
        pieces += step
        length_s += sum(length for _, length in step)
    return Load(pieces)


def bursts(draw):
    return [(0, draw.exponential(0.03)), (1, draw.exponential(0.02)), (-1, draw.exponential(0.01))]


def steps(gemm_s: float, softmax_s: float, none_s: float):
    """Training steps of one length, but for a data loader that is not quite as regular."""
    return lambda draw: [(0, gemm_s), (1, softmax_s), (-1, none_s * draw.uniform(0.8, 1.2))]


def split(standin, load: Load, seconds: float = 40.0, late_s: float = 0.0, step_s: float = 0.005, **options) -> dict:
    standin.schedule(load.edges_s, load.watts)
    data = standin.sample(seconds + 2, **options)
    t0, t1 = at(1.0), at(1.0 + seconds)
    energy = energy_between(data, t0, t1, names=["gpu0"])
    found = by_kernel(observations(data, "gpu0", t0, t1), load.busy(step_s, late_s), energy, t0, t1, floor_w=80.0)
    assert found["available"]
    total = sum(row["energy_j"] for row in [*found["rows"], found["none"]])
    assert total == pytest.approx(energy["energy_j"], rel=1e-9)
    return found


def assert_true(found: dict, load: Load, seconds: float = 40.0) -> None:
    """Every row's bound holds the planted joules."""
    for kernel, row in [*enumerate(found["rows"]), (-1, found["none"])]:
        truth = load.truth_j(kernel, 1.0, 1.0 + seconds)
        assert row["low_j"] <= truth <= row["high_j"], (row, truth)
        assert abs(row["energy_j"] - truth) <= row["bound_j"]


LOADS = {
    "bursts": bursts,
    "steps 120 ms, 60 % gemm": steps(0.072, 0.036, 0.012),
    "steps 120 ms, 15 % gemm": steps(0.018, 0.082, 0.020),
    "steps 260 ms": steps(0.140, 0.100, 0.020),
    "steps 47 ms": steps(0.022, 0.017, 0.008),
}


@pytest.mark.parametrize("name", LOADS)
@pytest.mark.parametrize("seed", range(3))
def test_two_kernels_of_different_power_get_their_own_joules(standin, name, seed):
    standin.counter(phase_ms=11 + 31 * seed)
    load = repeat(LOADS[name], 44.0, seed)
    found = split(standin, load, seed=seed)
    assert_true(found, load)
    for row, watts in zip(found["rows"], WATTS, strict=False):
        assert row["told_apart"] and row["mean_w"] == pytest.approx(watts, rel=0.05)
    gemm, softmax = found["rows"]  # by time alone they would get the same power
    assert gemm["low_j"] / gemm["time_s"] > softmax["high_j"] / softmax["time_s"]
    assert found["unexplained_share"] < 0.02 and abs(found["scale"] - 1) < 0.01


@pytest.mark.parametrize("update_ms, window_ms, name", [(100, 22, "H100"), (20, 10, "V100"), (100, 95, "RTX 3090")])
@pytest.mark.parametrize("seed", range(2))
def test_without_a_counter_the_power_readings_tell_them_apart(standin, update_ms, window_ms, name, seed):
    standin.reset(name=name)
    standin.fail("nvmlDeviceGetFieldValues", NOT_SUPPORTED, field=83)
    standin.fail("nvmlDeviceGetTotalEnergyConsumption", NOT_SUPPORTED)
    standin.sensor(update_ms, window_ms, phase_ms=7)
    load = repeat(bursts, 44.0, seed)
    found = split(standin, load, seed=seed, **({"period_s": 0.009} if update_ms == 20 else {}))
    assert_true(found, load)
    assert [row["told_apart"] for row in found["rows"]] == [True, True]
    assert found["rows"][0]["mean_w"] == pytest.approx(620, rel=0.05)
    assert any("power readings are means over" in note for note in found["notes"])


@pytest.mark.parametrize("pieces", [
    [(0, 0.0013), (1, 0.0017), (-1, 0.0003)],  # a mix, always the same, in each interval of the record
    [(0, 0.04), (1, 0.05), (-1, 0.01)],  # one step for each renewal of the counter
])  # fmt: skip
def test_kernels_that_cannot_be_told_apart_get_joules_by_time_and_a_bound_that_says_so(standin, pieces):
    load = repeat(lambda draw: pieces, 44.0, 0)
    found = split(standin, load)
    assert_true(found, load)
    gemm, softmax = found["rows"]
    assert not gemm["told_apart"] and not softmax["told_apart"] and not found["none"]["told_apart"]
    assert gemm["mean_w"] == pytest.approx(softmax["mean_w"], rel=0.1)
    assert gemm["bound_j"] > 0.5 * gemm["energy_j"]


def test_two_that_are_mixed_up_do_not_spoil_a_third(standin):
    """Each softmax is followed by its copy, always in the same proportion."""
    def pieces(draw):
        length = draw.exponential(0.02)
        pairs = [(1, 0.0006), (2, 0.0004)] * max(1, int(length / 0.001))
        return [(0, draw.exponential(0.03)), *pairs, (-1, draw.exponential(0.01))]

    load = repeat(pieces, 44.0, 5)
    found = split(standin, load)
    assert_true(found, load)
    gemm, softmax, copy = found["rows"]
    assert gemm["told_apart"] and gemm["mean_w"] == pytest.approx(620, rel=0.05)
    assert not softmax["told_apart"] and not copy["told_apart"]
    assert softmax["mean_w"] == pytest.approx(copy["mean_w"], rel=0.1)
    both = softmax["energy_j"] + copy["energy_j"]
    assert both == pytest.approx(load.truth_j(1, 1, 41) + load.truth_j(2, 1, 41), rel=0.05)


def test_five_kernels(standin):
    def pieces(draw):
        order = draw.permutation(5)
        return [*((int(k), draw.exponential(0.012)) for k in order), (-1, draw.exponential(0.006))]

    load = repeat(pieces, 64.0, 3)
    found = split(standin, load, 60.0)
    assert_true(found, load, 60.0)
    assert [row["told_apart"] for row in found["rows"]] == [True] * 5
    np.testing.assert_allclose([row["mean_w"] for row in found["rows"]], WATTS, rtol=0.06)


@pytest.mark.parametrize("late_s", [0.008, 0.016])
def test_a_sensor_that_shows_its_value_late_is_allowed_for(standin, late_s):
    load = repeat(bursts, 44.0, 1)
    found = split(standin, load, late_s=late_s)
    assert_true(found, load)
    assert found["late_s"] == pytest.approx(late_s, abs=0.002)


def test_a_coarse_record_of_the_kernels_widens_the_bound(standin):
    load = repeat(bursts, 44.0, 2)
    fine = split(standin, load)
    standin.reset()
    coarse = split(standin, load, step_s=0.040)
    assert_true(coarse, load)
    assert coarse["rows"][0]["bound_j"] > 3 * fine["rows"][0]["bound_j"]


def test_a_power_that_changes_on_the_way_widens_the_bound(standin):
    load = repeat(bursts, 44.0, 2)
    steady = split(standin, load)
    standin.reset()
    load.watts = np.where((load.kernel == 0) & (load.edges_s[:-1] > 20), 560.0, load.watts)
    drifted = split(standin, load)
    row = drifted["rows"][0]
    assert row["bound_j"] > 1.5 * steady["rows"][0]["bound_j"]
    seconds = np.diff(load.seconds_until(0, np.array([1.0, 20.0, 41.0])))
    assert row["low_j"] <= 620 * seconds[0] + 560 * seconds[1] <= row["high_j"]


def test_with_few_windows_kernels_of_little_time_share_a_power(standin):
    def pieces(draw):
        short = [(2, 0.003), (3, 0.002), (4, 0.001), (-1, 0.001)]
        return [(0, draw.exponential(0.05)), (1, draw.exponential(0.03)), *short]

    load = repeat(pieces, 6.0, 0)
    found = split(standin, load, 1.8)
    assert_true(found, load, 1.8)
    assert any("share one power" in note for note in found["notes"])
    powers = {row["mean_w"] for row in found["rows"]}
    assert len(powers) < 5


def test_what_cannot_be_split_says_why(standin):
    load = repeat(bursts, 44.0, 0)
    standin.schedule(load.edges_s, load.watts)
    data = standin.sample(12.0)
    seen = observations(data, "gpu0", at(1.0), at(11.0))

    def reason(t0_s: float, t1_s: float, busy: Busy) -> str:
        energy = energy_between(data, at(t0_s), at(t1_s), names=["gpu0"])
        got = by_kernel(seen, busy, energy, at(t0_s), at(t1_s))
        assert not got["available"] and got["rows"] == [] and got["none"] is None
        return got["reason"]

    busy = load.busy()
    assert reason(5.0, 5.8, busy).endswith("at least 12 are needed")
    short = Busy(busy.edges_ns[:200], busy.busy_ns[:199], busy.names)
    assert reason(1.0, 11.0, short) == "kernels were not recorded over all of the time"
    with pytest.raises(ValueError, match="empty"):
        by_kernel(seen, busy, energy_between(data, at(1.0), at(2.0)), at(2.0), at(2.0))
    lost = {"available": False, "reason": "GPU is lost"}
    assert by_kernel(seen, busy, lost, at(1.0), at(2.0))["reason"] == "GPU is lost"
    standin.reset(name="NVIDIA Unheard-of")
    standin.fail("nvmlDeviceGetFieldValues", NOT_SUPPORTED, field=83)
    standin.fail("nvmlDeviceGetTotalEnergyConsumption", NOT_SUPPORTED)
    with pytest.raises(ValueError, match="nobody has published over which time"):
        observations(standin.sample(12.0), "gpu0", at(1.0), at(11.0))


@pytest.mark.parametrize("seed", range(16))
def test_the_bound_holds_for_any_powers_rhythm_sensor_and_delay(standin, seed):
    draw = np.random.default_rng(100 + seed)
    kernels, rhythm = int(draw.integers(1, 6)), seed % 4
    base = draw.uniform(0.001, 0.06, kernels + 1)
    order = [*range(kernels), -1]

    def pieces(draw):
        if rhythm == 0:
            return [(order[i], draw.exponential(base[i])) for i in draw.permutation(kernels + 1)]
        if rhythm == 1:
            return list(zip(order, base, strict=True))
        wobble = 0.1 if rhythm == 2 else 0.6
        return [(k, s * draw.uniform(1 - wobble, 1 + wobble)) for k, s in zip(order, base, strict=True)]

    load = repeat(pieces, 30.0, seed)
    watts = draw.uniform(180, 690, kernels)
    load.watts = np.where(load.kernel < 0, draw.uniform(90, 160), watts[load.kernel])
    update_ms, period_s = [(100, 0.047), (20, 0.009), (50, 0.02)][seed % 3]
    standin.counter(update_ms=update_ms, phase_ms=float(draw.uniform(0, 100)))
    late_s, step_s = float(draw.uniform(0, 0.015)), float(draw.choice([0.005, 0.010, 0.020]))
    assert_true(split(standin, load, 26.0, late_s, step_s, seed=seed, period_s=period_s), load, 26.0)
