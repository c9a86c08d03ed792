"""One thread of arithmetic for each test, as several share the machine's cores; and what tests share: MLPerf's tools,
the emulator of CUDA, Triton's interpreter, and C++ kernels by themselves."""

import ctypes
import functools
import importlib.util
import json
import logging
import os
import subprocess
import sys
import types
import zlib
from pathlib import Path

# Before torch is imported, here or in a process that a test starts: two pools of spinning threads on two cores take
# many times as long as one.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest


@pytest.fixture
def quiet_official_tools(monkeypatch):
    """mlperf-logging's compliance checker without its log lines, and each of its rule files read once, in C."""
    import yaml
    from mlperf_logging.compliance_checker import mlp_compliance

    load = yaml.load
    read = functools.cache(lambda path: load(Path(path).read_text(), Loader=yaml.CBaseLoader))
    theirs = types.SimpleNamespace(load=lambda file, Loader: read(file.name), BaseLoader=None)
    monkeypatch.setattr(mlp_compliance, "yaml", theirs)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


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


@pytest.fixture
def interpreted(tmp_path):
    """(code, *arguments) -> what the script printed last, read as JSON, after it ran with Triton's interpreter.

    In a process of its own: the interpreter is chosen before Triton is imported.
    """
    pytest.importorskip("triton")

    def run(code, *arguments):
        answer = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, *arguments], env={**os.environ, "TRITON_INTERPRET": "1"},
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr[-3000:]
        return json.loads(answer.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def compile_kernels(tmp_path_factory):
    """(shim, *names) -> the library of csrc/ops/cpu/<name>.cpp and of C++ code that calls them, without a warning."""
    import perfsuite.csrc

    def build(shim, *names, optimise="-O2"):
        folder = tmp_path_factory.mktemp("kernels")
        sources = Path(next(iter(perfsuite.csrc.__path__)), "ops", "cpu")
        (folder / "shim.cpp").write_text(shim)
        compiler = [os.environ.get("CXX", "g++"), "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
        files = [folder / "shim.cpp", *(sources / f"{name}.cpp" for name in names)]
        command = [*compiler, optimise, "-I", sources, *files, "-o", folder / "kernels.so"]
        answer = subprocess.run(command, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr[:3000]
        return ctypes.CDLL(str(folder / "kernels.so"))

    return build


@pytest.fixture(autouse=True)
def seeded(request):
    """Every test draws the same random numbers each time, alone or among others; a failure can be repeated."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(zlib.crc32(request.node.nodeid.encode()))
