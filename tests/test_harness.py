"""One run under the clock: order of events, schedule, stop conditions, the data guard, and the official checker."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perfsuite.harness.data_guard import DataTouchedEarly
from perfsuite.harness.train import Trained, train_to_target
from perfsuite.mlperf.log import MLLog
from perfsuite.watch import Watch

HERE = Path(__file__).parent


def load_scripted() -> Any:
    spec = importlib.util.spec_from_file_location("scripted_workload", HERE / "data/scripted.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


scripted = load_scripted()
CONFIG = scripted.CONFIGS["tiny"]


def train(tmp_path: Path, config: Any = CONFIG, build: Any = scripted.build, **options: Any) -> Trained:
    with MLLog(tmp_path / "result_0.txt", source="scripted.py") as log:
        return train_to_target(
            build, config, device="cpu", seed=7, folder=tmp_path, division="closed", benchmark=scripted.MLPERF, log=log,
            make_watch=lambda job: Watch(), cache_clear=(True, None), **options,
        )  # fmt: skip


def events(tmp_path: Path) -> list[dict[str, Any]]:
    lines = (tmp_path / "result_0.txt").read_text().splitlines()
    return [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]


def official_check(log: Path) -> tuple[bool, str]:
    done = subprocess.run(
        [sys.executable, "-m", "mlperf_logging.compliance_checker", "--usage", "training", "--ruleset", "6.1.0",
         "--log_output", str(log.with_suffix(".check")), str(log)],
        capture_output=True, text=True, cwd=log.parent,
    )  # fmt: skip
    return done.returncode == 0, done.stdout + done.stderr


def test_the_official_checker_accepts_the_log(tmp_path: Path) -> None:
    trained = train(tmp_path)
    accepted, said = official_check(tmp_path / "result_0.txt")
    assert accepted, said
    assert trained.result["reached"] and trained.result["samples"] == 3 * 12288
    assert [e["samples"] for e in trained.result["evaluations"]] == [12288, 24576, 36864]
    assert trained.result["idle"]["idle_w"] is None
    assert trained.result["idle"]["reason"] == "measured before runs on a GPU only"


def without(key: str) -> Any:
    return lambda lines: [line for line in lines if f'"key": "{key}"' not in line]


def swapped(first: str, second: str) -> Any:
    def mutate(lines: list[str]) -> list[str]:
        i, j = (next(n for n, line in enumerate(lines) if f'"key": "{k}"' in line) for k in (first, second))
        lines[i], lines[j] = lines[j], lines[i]
        return lines

    return mutate


def worse_quality(lines: list[str]) -> list[str]:
    return [line.replace('"value": 3.29', '"value": 3.31') for line in lines]


@pytest.mark.parametrize(
    "mutate",
    [
        pytest.param(without("eval_accuracy"), id="missing evaluation"),
        pytest.param(without("run_stop"), id="no run_stop"),
        pytest.param(without("block_start"), id="no training block"),
        pytest.param(worse_quality, id="stopped before the target"),
        pytest.param(swapped("init_stop", "run_start"), id="run_start before init_stop"),
        pytest.param(swapped("run_start", "block_start"), id="block before run_start"),
    ],
)
def test_the_official_checker_refuses_a_mutated_schedule(tmp_path: Path, mutate: Any) -> None:
    train(tmp_path)
    path = tmp_path / "result_0.txt"
    path.write_text("\n".join(mutate(path.read_text().splitlines())) + "\n")
    accepted, said = official_check(path)
    assert not accepted, said


def test_events_come_in_the_order_of_the_rules(tmp_path: Path) -> None:
    train(tmp_path)
    keys = [e["key"] for e in events(tmp_path)]
    order = ["cache_clear", "init_start", "seed", "init_stop", "run_start", "block_start", "block_stop", "eval_start",
             "eval_accuracy", "eval_stop", "run_stop"]  # fmt: skip
    assert [keys.index(key) for key in order] == sorted(keys.index(key) for key in order)
    assert keys[-1] == "run_stop" and keys.count("block_start") == keys.count("eval_stop") == 3
    times = [e["time_ms"] for e in events(tmp_path)]
    assert times == sorted(times)


def test_a_run_that_never_reaches_the_target_stops_by_samples(tmp_path: Path) -> None:
    trained = train(tmp_path, replace(CONFIG, qualities=(3.6,)))
    assert not trained.result["reached"]
    assert (trained.result["stop_reason"], trained.result["samples"]) == ("max_samples", CONFIG.schedule.max_samples)
    assert events(tmp_path)[-1]["metadata"]["status"] == "aborted"


def test_a_run_that_takes_too_long_stops_by_time(tmp_path: Path) -> None:
    trained = train(tmp_path, replace(CONFIG, schedule=replace(CONFIG.schedule, max_time_s=0.0)))
    assert (trained.result["stop_reason"], trained.result["samples"]) == ("max_time", CONFIG.batch_size)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_and_says_where(tmp_path: Path, bad: float) -> None:
    trained = train(tmp_path, replace(CONFIG, losses=(4.0, bad)))
    # The job's counter is restored after the warm-up, so the second clocked step is the bad one.
    assert trained.result["stop_reason"] == f"loss is {bad} at sample {2 * CONFIG.batch_size}"
    assert not trained.result["reached"] and trained.result["evaluations"] == []


def test_a_quality_that_is_nan_never_reaches_the_target(tmp_path: Path) -> None:
    trained = train(tmp_path, replace(CONFIG, qualities=(float("nan"),)))
    assert trained.result["stop_reason"] == "max_samples"


def test_blocks_end_on_whole_steps_at_or_past_the_schedule(tmp_path: Path) -> None:
    schedule = replace(CONFIG.schedule, first_eval_samples=50, eval_every_samples=100)
    trained = train(tmp_path, replace(CONFIG, schedule=schedule))
    assert [e["samples"] for e in trained.result["evaluations"]] == [64, 192, 320]


def test_warm_up_leaves_no_trace(tmp_path: Path) -> None:
    trained = train(tmp_path)
    assert trained.job.steps == trained.result["num_steps"] == 3 * 12288 / 32


class TouchesDataEarly(scripted.ScriptedJob):
    def __init__(self, config: Any, seed: int) -> None:
        super().__init__(config, seed)
        (config.folder / "data.bin").read_bytes()


class SwallowsTheError(scripted.ScriptedJob):
    def __init__(self, config: Any, seed: int) -> None:
        super().__init__(config, seed)
        try:
            (config.folder / "data.bin").read_bytes()
        except RuntimeError:
            pass


class OpensInTime(scripted.ScriptedJob):
    def open(self, folder: Path) -> Any:
        (folder / "data.bin").read_bytes()
        return super().open(folder)


@pytest.mark.parametrize("job", [TouchesDataEarly, SwallowsTheError])
@pytest.mark.parametrize("files", [("data.bin",), ()])
def test_touching_data_before_the_clock_is_an_error(tmp_path: Path, job: Any, files: tuple[str, ...]) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "data.bin").write_bytes(b"x")

    class Early(job):
        def __init__(self, config: Any, seed: int) -> None:
            object.__setattr__(config, "folder", folder)
            super().__init__(config, seed)

    with MLLog(tmp_path / "log.txt", source="t") as log, pytest.raises(DataTouchedEarly, match=r"data\.bin"):
        train_to_target(
            lambda config, device, seed: Early(config, seed), replace(CONFIG, data_files=files), device="cpu", seed=1,
            folder=folder, division="open", benchmark="x", log=log, make_watch=lambda job: Watch(),
            cache_clear=(True, None),
        )  # fmt: skip


def test_data_is_open_after_run_start(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"x")
    config = replace(CONFIG, data_files=("data.bin",))
    assert train(tmp_path, config, build=lambda c, device, seed: OpensInTime(c, seed)).result["reached"]


def test_phases_and_unattributed_time_add_up_to_the_clock(tmp_path: Path) -> None:
    trained = train(tmp_path)
    phases = {p["name"]: p for p in trained.result["phases"]}
    assert set(phases) >= {"data", "forward", "backward", "optimizer", "evaluation", "other"}
    assert phases["forward"]["calls"] == trained.result["num_steps"]
    assert 0 < sum(p["time_ns"] for p in phases.values()) <= trained.result["clock_ns"]
    table = trained.arrays["step_table"]
    assert table.shape == (1 + trained.result["num_steps"], len(phases))
    assert table.sum() == sum(p["time_ns"] for p in phases.values())
