"""How the pytest plugin comes to its verdicts: many benchmarks, several looks, few processes; times are scripted."""

import random

import numpy as np
import pytest

from perfsuite.bench_plugin import children, looks
from perfsuite.bench_plugin.decide import Rounds, decide, decide_all, noise_of
from perfsuite.bench_plugin.gate import against_revision
from perfsuite.bench_plugin.sample import Sample


def scripted(factors: dict[str, tuple[float, float]], spread: float, seed: int = 0) -> tuple[tuple, list[int]]:
    """Sides whose processes give scripted samples; and the number of processes so far."""
    draw, ran = np.random.default_rng(seed), [0]

    class Scripted:
        def __init__(self, side: int) -> None:
            self.side, self.name = side, "AB"[side]

        def run(self, tests: list[str], timeout_s: float) -> dict[str, Sample]:
            ran[0] += 1
            return {test: Sample(factors[test][self.side] * float(np.exp(draw.normal(0, spread)))) for test in tests}

    return (Scripted(0), Scripted(1)), ran


def test_looks_end_when_everything_is_told() -> None:
    sides, ran = scripted({"a": (1.0, 1.0), "b": (1.0, 1.5)}, 1e-3)
    judged = against_revision(sides, ["a", "b"], 60, 60, lambda text: None, random.Random(0))
    assert [one.word for one in judged] == ["SAME", "SLOWER"] and ran == [4 * looks.BLOCKS[0]]
    sides, ran = scripted({"a": (1.0, 1.02), "b": (1.0, 0.5)}, 0.05)
    judged = against_revision(sides, ["a", "b"], 60, 60, lambda text: None, random.Random(0))
    assert [one.word for one in judged] == ["CANNOT_TELL", "FASTER"] and ran == [4 * looks.BLOCKS[-1]]


def test_energy_and_a_lowered_clock() -> None:
    joules, lowered = {"a": (1.0, 1.0), "b": (1.0, 1.5)}, ()

    class Powered:
        def __init__(self, side: int) -> None:
            self.side, self.name = side, "AB"[side]

        def run(self, tests: list[str], timeout_s: float) -> dict[str, Sample]:
            draw = np.random.default_rng()
            return {test: Sample(float(np.exp(draw.normal(0, 1e-4))), joules[test][self.side], 0.02, lowered)
                    for test in tests}  # fmt: skip

    def judged() -> list[tuple[str | None, str, str]]:
        found = against_revision((Powered(0), Powered(1)), ["a", "b"], 60, 60, lambda text: None, random.Random(0))
        return [(one.word, one.verdicts["time"].word, one.verdicts["energy"].word) for one in found]

    # A bound of 2 % on each side leaves more open than the margin of 2 %: SAME cannot be told of joules.
    assert judged() == [("CANNOT_TELL", "SAME", "CANNOT_TELL"), ("SLOWER", "SAME", "SLOWER")]
    lowered = ("software power cap",)
    assert judged() == [("CANNOT_TELL",) * 3] * 2


def test_false_alarms_and_power() -> None:
    """200 pairs of equals with 3 % noise at the first look: no more false alarms than designed; 10 % is found."""
    draw, size = np.random.default_rng(1), 2 * looks.BLOCKS[0]

    def words(factor: float) -> list[str]:
        times = [(np.exp(draw.normal(0, 0.03, size)), factor * np.exp(draw.normal(0, 0.03, size))) for _ in range(200)]
        return [decide(a, b, looks=looks.LOOKS).word for a, b in times]

    assert sum(word in ("SLOWER", "FASTER") for word in words(1.0)) <= 4
    assert words(1.1).count("SLOWER") >= 180


def test_many_at_once() -> None:
    draw = np.random.default_rng(2)
    many = {i: Rounds(np.exp(draw.normal(0, 0.02, 16)), (1.2 if i < 3 else 1) * np.exp(draw.normal(0, 0.02, 16)))
            for i in range(60)}  # fmt: skip
    found = decide_all(many, looks=3)
    assert [key for key, one in found.items() if one.word == "SLOWER"] == [0, 1, 2]
    # What stands alone need not stand among many: six pairs tell a single one, and not one of sixty.
    alone = Rounds([1.0] * 6, [1.05, 1.1, 1.15, 1.2, 1.2, 1.25])
    equal = {i: Rounds([1.0] * 6, [1.0, 1.01, 0.99, 1.005, 0.995, 1.0]) for i in range(59)}
    assert decide_all({-1: alone})[-1].word == "SLOWER"
    crowd = decide_all({-1: alone, **equal})[-1]
    assert crowd.word == "CANNOT_TELL" and "one of 60" in crowd.why


@pytest.mark.parametrize("seed", range(6))
def test_many_at_once_end_where_a_stricter_level_leaves_more_standing(seed: int) -> None:
    """Ten pairs are too few for ranks at the strictest levels, and Student's intervals are narrower there."""
    draw = np.random.default_rng(seed)
    factors = [1.1] * 3 + [1.05] * 2 + [1.0] * 7
    many = {i: Rounds(np.exp(draw.normal(0, 0.02, 10)), factor * np.exp(draw.normal(0, 0.02, 10)))
            for i, factor in enumerate(factors)}  # fmt: skip
    found = decide_all(many, looks=2)
    assert {key for key, one in found.items() if one.word in ("SLOWER", "FASTER")} <= set(range(5))
    assert [found[i].word for i in range(3)] == ["SLOWER"] * 3


def test_few_processes_and_obstacles() -> None:
    one = decide([1.0], [1.001, 0.999, 1.0, 1.0], in_turns=False)
    assert one.word == "SAME"
    assert decide([1.0], [1.0], in_turns=False).word == "CANNOT_TELL"
    assert decide([1.0, 0.0], [1.0, 1.0], in_turns=False).word == "CANNOT_TELL"
    assert decide([1.0] * 8, [1.05] * 8, aa_noise=0.06).word == "CANNOT_TELL"
    assert decide([1.0] * 8, [1.3] * 8, in_turns=False, stretch=1.4).word == "CANNOT_TELL"
    lowered = decide_all({0: Rounds([1.0] * 8, [2.0] * 8, obstacle="the GPU's clock was lowered meanwhile")})[0]
    assert lowered.word == "CANNOT_TELL" and "lowered" in lowered.why
    assert noise_of([1.0, 1.0, 1.0], [1.02, 1.02, 1.02]) == pytest.approx(0.02) and noise_of([], []) == 0


def test_options_that_processes_get() -> None:
    given = ["bench", "-k", "a or b", "--benchmark-json=x", "--benchmark-compare", "0001", "--size", "big",
             "--benchmark-compare-fail", "min:5%", "mean:5%", "-x", "--junitxml", "j.xml", "-p", "thing"]  # fmt: skip
    kept = children.passed_on(given, ["bench"])
    assert kept == ("-k", "a or b", "--size", "big", "-p", "thing")
