"""Another batch size than the workload's own: the workload's rule, the schedule in samples, and what has no rule."""

import dataclasses
import json
import math
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from perfsuite.harness.batch_size import rescaled
from perfsuite.harness.run import Request, new_record
from perfsuite.track.stored_records import measurements
from perfsuite.workloads import registry

PERFSUITE = Path(sysconfig.get_path("scripts"), "perfsuite")
SCRIPTED = Path(__file__).parent / "data" / "scripted.py"
RULED = [name for name in registry.names() if hasattr(registry.load(name), "rescaled")]


@pytest.mark.parametrize("name", RULED)
@pytest.mark.parametrize("factor", [0.5, 2, 4])
def test_every_rule_keeps_the_schedule_in_samples(name: str, factor: float) -> None:
    workload = registry.load(name)
    for scale, own in workload.CONFIGS.items():
        if scale.startswith("mlperf"):  # there the rules of the round give the schedule for each batch size
            continue
        batch_size = round(own.batch_size * factor)
        config = workload.rescaled(own, batch_size)
        assert config.batch_size == batch_size and type(config) is type(own)
        before, after = own.schedule, config.schedule
        assert before.max_samples <= after.max_samples < before.max_samples + batch_size
        assert after.max_samples % batch_size == 0
        assert dataclasses.replace(after, max_samples=before.max_samples) == before
        for untouched in ("target", "train_samples", "eval_samples", "num_runs", "data_files"):
            assert getattr(config, untouched) == getattr(own, untouched)
        assert workload.rescaled(own, own.batch_size) == own


def test_llama_follows_the_square_root_and_resnet_the_line() -> None:
    llama, resnet = (registry.load(name) for name in ("llama", "resnet"))
    own = llama.CONFIGS["tiny"]
    four = llama.rescaled(own, 4 * own.batch_size)
    assert four.learning_rate == 2 * own.learning_rate
    assert four.warmup_steps * four.batch_size == own.warmup_steps * own.batch_size
    assert llama.rescaled(own, 1600).warmup_steps == 1
    half = llama.rescaled(own, own.batch_size // 2)
    assert half.learning_rate == pytest.approx(own.learning_rate / math.sqrt(2))
    own = resnet.CONFIGS["tiny"]
    four = resnet.rescaled(own, 4 * own.batch_size)
    assert four.learning_rate == pytest.approx(4 * own.learning_rate) and four.warmup_epochs == own.warmup_epochs


@pytest.mark.parametrize("name, batch_size", [("llama", 1600), ("resnet", 3000)])
def test_the_largest_batches_train(name: str, batch_size: int) -> None:
    """Two steps in all, of which one warms up: schedules must not divide by what is left."""
    workload = registry.load(name)
    own = workload.CONFIGS["tiny"]
    config, notes = rescaled(workload, own, batch_size)
    small: Any = dataclasses.replace(config, batch_size=2, schedule=dataclasses.replace(own.schedule, max_samples=4))
    job, batches = workload.build(small, "cpu", 1), workload.build(small, "cpu", 1).synthetic()
    for _ in range(4):
        assert math.isfinite(float(job.train_step(next(batches), no_phase)))
    assert notes == []


def no_phase(name: str) -> Any:
    from contextlib import nullcontext

    return nullcontext()


def test_a_workload_without_a_rule_keeps_its_learning_rate_and_says_so() -> None:
    made = new_record(Request(workload=str(SCRIPTED), batch_size=100, device="cpu", ledger=False))
    assert made.batch_size == made.config["batch_size"] == 100
    assert made.schedule["max_samples"] == made.config["schedule"]["max_samples"] == 73800  # up from 73,728
    assert made.schedule["eval_every_samples"] == 12288
    assert "no rule for other batch sizes" in made.notes[0] and "32" in made.notes[0]
    own = new_record(Request(workload=str(SCRIPTED), device="cpu", ledger=False))
    assert own.batch_size is None and own.notes == [] and own.config["batch_size"] == 32


def test_what_cannot_be_is_one_line() -> None:
    scripted = registry.load(str(SCRIPTED))
    with pytest.raises(ValueError, match="batch size 40000 is too large for workload scripted"):
        rescaled(scripted, scripted.CONFIGS["tiny"], 40_000)
    liar = ModuleType("liar")
    liar.NAME, liar.rescaled = "liar", lambda config, batch_size: config
    with pytest.raises(ValueError, match=r"rescaled\(\) of workload liar gave batch size 32 for 64"):
        rescaled(liar, scripted.CONFIGS["tiny"], 64)


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    command = [PERFSUITE, "run", SCRIPTED, "--batch-size", "128", "--runs", "1", "--no-ledger", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    account = json.loads(done.stdout)
    assert done.returncode == 0 and "batch size 128" in done.stderr
    assert account["batch_size"] == account["config"]["batch_size"] == 128
    assert any("no rule for other batch sizes" in note for note in account["notes"])
    assert account["ledger"]["num_steps"] == 3 * 12288 // 128
    (folder,) = (tmp_path / "runs").iterdir()
    # A history must not take it for the workload's own batch size having become faster.
    assert measurements(folder)[0][0].benchmark.endswith(" --batch-size 128")
