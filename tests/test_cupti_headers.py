"""Our declarations of CUPTI's functions against the vendor's headers, of each version that is installed."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import perfsuite.csrc

NATIVE = Path(next(iter(perfsuite.csrc.__path__)), "native")


def include_folders() -> list[Path]:
    """The CUDA toolkit's, and those that come with Triton."""
    homes = [Path(home) for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    folders = [home / "include" for home in homes]
    spec = importlib.util.find_spec("triton")
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).parent / "backends/nvidia/include")
    found = [folder for folder in folders if (folder / "cupti.h").exists() and (folder / "cuda.h").exists()]
    if not found:
        reason = f"no cupti.h in {', '.join(map(str, folders))}"
        (pytest.fail if os.environ.get("PERFSUITE_REQUIRE_VENDOR_HEADERS") else pytest.skip)(reason)
    return found


def compile_check(folder: Path, include: Path, right: str = "", wrong: str = "") -> subprocess.CompletedProcess[str]:
    """cupti_api_check.cpp, with one thing declared wrong."""
    for name in ("cupti_activity_abi.h", "cupti_api.h", "cupti_api_check.cpp"):
        text = (NATIVE / name).read_text()
        assert right in text or not name.startswith("cupti_api.h")
        (folder / name).write_text(text.replace(right, wrong, 1) if right and name == "cupti_api.h" else text)
    compiler = os.environ.get("CXX") or shutil.which("g++") or pytest.skip("no g++")
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-isystem", include]
    return subprocess.run([*command, "-I", NATIVE, folder / "cupti_api_check.cpp"], capture_output=True, text=True)


def test_declarations_are_the_vendors(tmp_path):
    for include in include_folders():
        answer = compile_check(tmp_path, include)
        assert answer.returncode == 0, f"{include}: {answer.stderr[:3000]}"


@pytest.mark.parametrize("check", ["cupti_activity_check.cpp", "nvml_check.cpp"])
def test_the_other_declarations_are_the_vendors(check):
    """nvml.h is not in every toolkit; without it that check is empty, and compiles all the same."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or pytest.skip("no g++")
    for include in include_folders():
        command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-isystem", include]
        answer = subprocess.run([*command, NATIVE / check], capture_output=True, text=True)
        assert answer.returncode == 0, f"{include}: {answer.stderr[:3000]}"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("kMultipleSubscribers = 39", "kMultipleSubscribers = 38"),
        ("kCustom2 = 5", "kCustom2 = 4"),
        ("kZeroedBuffers = 5", "kZeroedBuffers = 6"),
        ("flush_all, (uint32_t)", "flush_all, (uint64_t)"),
        ("uint8_t** buffer, size_t* bytes", "uint8_t** buffer, int bytes"),
    ],
)
def test_a_wrong_declaration_does_not_compile(tmp_path, right, wrong):
    answer = compile_check(tmp_path, include_folders()[0], right, wrong)
    assert answer.returncode != 0 and "static assertion failed" in answer.stderr, answer.stderr[:3000]
