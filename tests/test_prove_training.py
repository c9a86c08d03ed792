"""Step four of `perfsuite prove`: training that gets shorter, that does not, and kernels that harm convergence."""

import copy
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perfsuite import record
from perfsuite.prove import training

DATA = Path(__file__).parent / "data"
RESULTS = Path(__file__).parents[1] / "bench" / "results" / "amd-epyc-2c-46b157"


@pytest.fixture(scope="module")
def llama() -> list[dict[str, Any]]:
    """Records without and with faster kernels, five seeds each, and the reference points beside the workload."""
    made = [vars(record.load(RESULTS / name)) for name in ("llama-tiny", "llama-tiny-native")]
    for one in made:
        one["passes"] = [p for p in one["passes"] if p["kind"] == "clean"]
    return made


def changed(made: dict[str, Any], samples: float = 1.0, time: float = 1.0, **more: Any) -> dict[str, Any]:
    out = copy.deepcopy(made)
    for p in out["passes"]:
        p["samples"], p["clock_ns"] = round(samples * p["samples"]), math.ceil(time * p["clock_ns"])
        for phase in p["phases"]:
            phase["time_ns"] = math.floor(time * phase["time_ns"])
        p.update(more)
    return out


POINTS = json.loads((Path(training.__file__).parents[2] / "workloads" / "llama.rcp.json").read_text())["tiny"]


def test_training_that_gets_shorter(llama: list[dict[str, Any]]) -> None:
    eager = llama[0]
    rng = np.random.default_rng(0)
    kernel = changed(eager, time=0.8)
    for p in kernel["passes"]:
        p["clock_ns"] = round(p["clock_ns"] * (1 + 0.01 * abs(rng.standard_normal())))
    found = training.judge([eager, kernel], POINTS, 0.95)
    assert found["result"] == "passed" and found["comparison"]["ratio"] == pytest.approx(0.8, rel=0.02)
    assert found["reference"]["with"]["verdict"] in ("SAME", "CANNOT_TELL") and found["reference"]["seeds"] == 20
    assert training.judge([kernel, eager], POINTS, 0.95)["result"] == "refuted"
    assert training.judge([eager, eager], POINTS, 0.95)["result"] == "refuted"  # the same is not shorter


def test_fast_and_harmful_is_refuted(llama: list[dict[str, Any]]) -> None:
    found = training.judge([llama[0], changed(llama[0], samples=1.3, time=0.5)], POINTS, 0.95)
    assert found["result"] == "refuted" and "harms convergence: 1.3 times the samples of the same seeds" in found["why"]
    assert found["comparison"]["lines"]["time_to_train"]["verdict"] == "FASTER"


def test_reference_points_are_a_test_of_their_own(llama: list[dict[str, Any]]) -> None:
    other = changed(llama[0], samples=1.5, time=0.5)
    for index, p in enumerate(other["passes"]):
        p["seed"] = 1000 + index  # no pairs
    found = training.judge([llama[0], other], POINTS, 0.95)
    assert found["reference"]["harms"] and found["result"] == "refuted"
    off = training.judge([other, changed(other, time=0.5)], POINTS, 0.95)
    assert not off["reference"]["harms"] and "eager itself" in off["reference"]["reason"]
    assert "no reference points" in training.judge([llama[0], other], None, 0.95)["reference"]["reason"]


def test_a_kernel_that_tampers_or_fails_in_training_is_refuted(llama: list[dict[str, Any]]) -> None:
    found = training.judge([llama[0], changed(llama[0], time=0.5, tampered=["x was replaced"])], POINTS, 0.95)
    assert found["result"] == "refuted" and "x was replaced" in found["why"]
    failed = copy.deepcopy(llama[0])
    failed["passes"] = [{"kind": "clean", "index": 0, "seed": 1, "state": "failed", "reached": False, "error": "E: no"}]
    found = training.judge([llama[0], failed], POINTS, 0.95)
    assert found["result"] == "refuted" and "fails with the kernel: E: no" in found["why"]


# -- runs -------------------------------------------------------------------------------------------------------------


class Nobody:
    """Is told how far it is."""

    def pass_started(self, *_: Any) -> None: ...
    def update(self, *_: Any) -> None: ...
    def pass_done(self, *_: Any) -> None: ...
    def note(self, *_: Any) -> None: ...


def test_a_kernel_that_trains_worse_is_refuted_by_its_runs(tmp_path: Path) -> None:
    """Right wherever it is checked; the gradient at the shape of this workload is too small."""
    kernel = DATA / "cheats" / "trains_worse.py"
    found = training.train("rms_norm", kernel, str(DATA / "learns.py"), "tiny", "cpu", None, 2, 7, tmp_path, Nobody())
    assert found["result"] == "refuted" and "harms convergence" in found["why"] and found["pairs"] == 2
    without, with_ = (record.load(Path(folder)) for folder in found["records"])
    assert without.seeds == with_.seeds == [7, 8] and without.use == {}
    assert with_.use == {"rms_norm": str(kernel)}
    assert with_.build["kernel_files"] == {str(kernel): hashlib.sha256(kernel.read_bytes()).hexdigest()}
    assert [p["tampered"] for p in (*without.passes, *with_.passes)] == [[]] * 4
