"""The one rule for verdicts: its intervals cover, its words mean what they say, its false alarms are as stated."""

import math

import numpy as np
import pytest
from scipy import stats

from perfsuite import verdict as v


@pytest.mark.parametrize("n", [6, 7, 10, 23, 50, 51, 200])
def test_signed_rank_quantiles_are_those_of_the_test(n: int) -> None:
    k = v.signed_rank_quantile(n, 0.025)
    if n <= 50:
        w = np.zeros(n * (n + 1) // 2 + 1)
        for signs in range(2**n) if n <= 10 else ():
            w[sum(rank + 1 for rank in range(n) if signs >> rank & 1)] += 1
        if n <= 10:
            cumulative = np.cumsum(w) / 2**n
            assert cumulative[k] <= 0.025 < cumulative[k + 1]
    rng = np.random.default_rng(n)
    d = rng.normal(0, 1, n)
    found = v.paired(np.ones(n), np.exp(d))
    # The interval's ends are the shifts at which scipy's own test stops rejecting.
    method = "exact" if n <= 50 else "asymptotic"
    inside = stats.wilcoxon(d - math.log(found.low) - 1e-9, method=method, correction=n > 50).pvalue
    outside = stats.wilcoxon(d - math.log(found.low) + 1e-9, method=method, correction=n > 50).pvalue
    assert outside <= 0.0505 and inside > 0.0495


@pytest.mark.parametrize("m, n", [(4, 4), (5, 5), (3, 9), (20, 25), (40, 40), (1, 45), (1, 99), (99, 1)])
def test_rank_sum_quantiles_are_those_of_the_test(m: int, n: int) -> None:
    rng = np.random.default_rng(m * n)
    x, y = rng.normal(0, 1, m), rng.normal(0.3, 1, n)
    found = v.unpaired(np.exp(x), np.exp(y))
    method = "exact" if m + n <= 50 or 1 in (m, n) else "asymptotic"

    def p(shift: float) -> float:
        return stats.mannwhitneyu(y - shift, x, method=method).pvalue

    assert p(math.log(found.low) - 1e-9) <= 0.0505 and p(math.log(found.low) + 1e-9) > 0.0495


@pytest.mark.parametrize("heavy, pairs", [(False, 12), (True, 12), (False, 3), (True, 5)])
def test_intervals_cover_the_truth(heavy: bool, pairs: int) -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(4000):
        drift = rng.normal(0, 0.3, pairs)  # of the machine: both times of a pair have it
        noise = rng.standard_t(2, (2, pairs)) if heavy else rng.normal(0, 1, (2, pairs))
        a, b = np.exp(drift + 0.05 * noise[0]), 1.1 * np.exp(drift + 0.05 * noise[1])
        found = v.paired(a, b)
        covered += found.low <= 1.1 <= found.high
    assert covered / 4000 >= 0.94


def test_words() -> None:
    def word(low: float, high: float, noise: float = 0.0) -> str:
        return v.judge(v.Comparison(math.sqrt(low * high), low, high, 0.95, 20), noise).word

    assert word(1.03, 1.05) == "SLOWER" and word(0.9, 0.95) == "FASTER"
    assert word(0.99, 1.01) == "SAME" and word(0.99, 1.03) == "CANNOT_TELL"
    assert word(1.03, 1.05, noise=0.06) == "CANNOT_TELL"  # equals differed by more
    assert word(1.011, 1.015, noise=0.06) == "SAME"  # noise does not take SAME away
    assert word(0.5, 2.0) == "CANNOT_TELL"
    assert v.judge(v.Comparison(1.04, 1.03, 1.05, 0.95, 9)).exit_code == 1
    assert v.cannot_tell("another machine").exit_code == 3


def test_the_inverse_has_the_inverse_verdict() -> None:
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.05, -0.05, 0.3):
        a, b = np.exp(rng.normal(0, 0.02, 15)), np.exp(rng.normal(shift, 0.02, 15))
        there, back = v.paired(a, b), v.paired(b, a)
        assert there.ratio == pytest.approx(1 / back.ratio) and there.low == pytest.approx(1 / back.high)
        swapped = {"FASTER": "SLOWER", "SLOWER": "FASTER"}
        word = v.judge(there).word
        assert v.judge(back).word == swapped.get(word, word)


def test_drift_widens() -> None:
    found = v.Comparison(1.05, 1.03, 1.07, 0.95, 20)
    assert v.judge(found).word == "SLOWER"
    for drift in (1.04, 1 / 1.04):
        assert v.judge(found.widened(drift)).word == "CANNOT_TELL"


def test_false_alarms_and_power_on_a_noisy_machine() -> None:
    """Bursts that last several rounds and hit both sides, and some that hit one: what a shared machine does."""
    rng = np.random.default_rng(1)
    words: dict[float, list[str]] = {1.0: [], 1.1: []}
    for slower, found in words.items():
        for _ in range(300):
            n = 30
            burst = 1 + (rng.random(n) < 0.1) * rng.exponential(2, n)
            alone = 1 + (rng.random((2, n)) < 0.05) * rng.exponential(1, (2, n))
            a = burst * alone[0] * np.exp(rng.normal(0, 0.05, n))
            b = slower * burst * alone[1] * np.exp(rng.normal(0, 0.05, n))
            found.append(v.judge(v.paired(a, b)).word)
    alarms = sum(word in ("FASTER", "SLOWER") for word in words[1.0]) / 300
    assert alarms <= 0.05
    assert words[1.1].count("SLOWER") / 300 >= 0.8 and "FASTER" not in words[1.1]


def test_many_comparisons() -> None:
    rng = np.random.default_rng(2)
    p = np.concatenate([rng.random(180), rng.random(20) * 1e-4])
    kept = v.selected(p.tolist())
    assert kept == stats.false_discovery_control(p).__le__(0.05).tolist()
    assert v.adjusted_level(100, 10) == pytest.approx(0.995) and v.adjusted_level(1) == pytest.approx(0.95)
    assert not any(v.selected([]))


@pytest.mark.parametrize("a, b, says", [
    ([1.0], [1.0], "1 pairs are too few"), ([1.0] * 6, [1.0] * 7, "pairs are needed"),
    ([1.0] * 6, [0.0] + [1.0] * 5, "positive"), ([1.0] * 6, [math.nan] + [1.0] * 5, "finite"),
])  # fmt: skip
def test_what_cannot_be_compared(a: list[float], b: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        v.paired(a, b)
