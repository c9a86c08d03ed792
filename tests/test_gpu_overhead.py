"""What the recorders cost on a GPU, from whole passes: the account's `overhead` of records whose steps are made up."""

from typing import Any

import numpy as np
import pytest

from perfsuite.account_overhead import overhead


def record(ledger_step_ns: float, clean_step_ns: list[float], device: str = "cuda") -> tuple[dict[str, Any], Any]:
    def steps(step_ns: float) -> dict[str, np.ndarray]:
        # Two slow steps at the start and one with an evaluation after it: the figure is that of the others.
        lengths = np.full(40, step_ns)
        lengths[:2], lengths[20] = 50 * step_ns, 100 * step_ns
        return {"step_starts": np.cumsum(lengths).astype(np.int64)}

    arrays = {f"clean-{i}": steps(ns) for i, ns in enumerate(clean_step_ns)} | {"ledger": steps(ledger_step_ns)}
    passes = [{"kind": "clean", "state": "done", "arrays": f"clean-{i}"} for i in range(len(clean_step_ns))]
    passes.append({"kind": "ledger", "state": "done", "arrays": "ledger", "overhead": None})
    return {"device": device, "passes": passes}, arrays.__getitem__


def test_the_ratio_is_that_of_the_steps() -> None:
    made, arrays = record(1.02e7, [1e7, 1.001e7, 0.999e7, 1e7, 1e7])
    found = overhead(made, made["passes"][-1], arrays)
    assert found["ratio"] == pytest.approx(1.02, rel=1e-3)
    assert found["ci95"][0] > 1.015 and found["ci95"][1] < 1.025
    assert found["pairs"] == 5


def test_clean_passes_that_differ_widen_the_interval_to_what_one_more_would_do() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        *clean, ledger = np.exp(rng.normal(0, 0.05, 6)) * 1e7
        made, arrays = record(ledger, list(clean))
        low, high = overhead(made, made["passes"][-1], arrays)["ci95"]
        covered += low <= 1.0 <= high
    assert 0.92 < covered / 400 < 0.98  # the recorders cost nothing here: 95 % of the intervals hold 1


@pytest.mark.parametrize("device, clean", [("cuda", [1e7]), ("cpu", [1e7, 1e7, 1e7])])
def test_nothing_is_said_where_nothing_can_be(device: str, clean: list[float]) -> None:
    made, arrays = record(1.5e7, clean, device)
    assert overhead(made, made["passes"][-1], arrays) is None


def test_what_the_pass_measured_itself_comes_first() -> None:
    made, arrays = record(1.5e7, [1e7, 1e7])
    made["passes"][-1]["overhead"] = {"ratio": 1.01, "ci95": [1.0, 1.02], "pairs": 40}
    assert overhead(made, made["passes"][-1], arrays)["pairs"] == 40
