"""One thread of arithmetic for each test, as several share the machine's cores; and the emulator of CUDA."""

import importlib.util
import os
from pathlib import Path

# Before torch is imported, here or in a process that a test starts: two pools of spinning threads on two cores take
# many times as long as one.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest


@pytest.fixture(scope="session")
def cuda_emulator_building():
    """tests/cuda_emulator/building.py; skips where the emulator cannot be built."""
    path = Path(__file__).parent / "cuda_emulator" / "building.py"
    spec = importlib.util.spec_from_file_location("cuda_emulator_building", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reason = module.why_not()
    if reason:
        pytest.skip(reason)
    return module


@pytest.fixture
def cuda_emulator(cuda_emulator_building, monkeypatch):
    """CUDA implementations run on tensors of the CPU, here and in processes that the test starts.

    def test_cuda_is_right(case, cuda_emulator):
        report = check(OP, OP.implementations["cuda"], case)
    """
    from perfsuite import cuda_extension

    library = cuda_emulator_building.build()
    monkeypatch.setenv(cuda_extension.EMULATOR, str(library))
    monkeypatch.setattr(cuda_extension, "_failures", {})
    return library
