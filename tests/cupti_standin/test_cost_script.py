"""bench/kernel_recorder_cost.py: one process of each arm, and what it says of a machine without a GPU."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "bench" / "kernel_recorder_cost.py"


@pytest.fixture
def script():
    if not SCRIPT.exists():
        pytest.skip("bench/ is not here")
    spec = importlib.util.spec_from_file_location("kernel_recorder_cost", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    threads = torch.get_num_threads()
    spec.loader.exec_module(module)
    yield module
    torch.set_num_threads(threads)


def test_every_arm_times_its_steps(script, standin, monkeypatch, capsys):
    monkeypatch.setattr(script, "KernelRecorder", standin.recorder)
    for arm in script.ARMS:
        if arm != "torch_profiler" or torch.cuda.is_available():
            assert script.measure(arm, "llama", "tiny", "cpu", steps=1) > 0
    (said,) = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert said == {"records": 0, "dropped": 0, "notes": []}


def test_arms_that_need_a_gpu_are_absent_with_their_reason(script):
    absent = script.absent_arms("cpu")
    assert set(absent) == {"kernel_recorder", "torch_profiler"} and all(absent.values())
