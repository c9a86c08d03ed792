"""Building and calling the CUDA kernels: by nvcc for any GPU, by the emulator on the CPU, and what is said without."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from perfsuite import build_cache, cuda_extension
from perfsuite.build_cache import BuildError

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
PLANTED = Path(__file__).parent / "cuda_emulator" / "planted.cu"


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """The emulator's test kernels in place of the real ones, and an empty cache."""
    real, folder = build_cache.source_root() / "ops" / "cuda", tmp_path / "csrc" / "ops" / "cuda"
    folder.mkdir(parents=True)
    for path in (real / "device.h", real / "errors.cu", PLANTED):
        shutil.copy(path, folder)
    monkeypatch.setattr(build_cache, "source_root", lambda: tmp_path / "csrc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setattr(cuda_extension, "_libraries", {})
    monkeypatch.setattr(cuda_extension, "_failures", {})
    cuda_extension.entry_points.cache_clear()
    yield folder
    cuda_extension.entry_points.cache_clear()


def row_sums(x, sums, *sizes):
    cuda_extension.call("planted_row_sums", x.dtype, x, sums, *sizes)


def test_calls_reach_the_kernels_with_the_declared_types(sources, cuda_emulator):
    assert cuda_extension.why_not("cpu") is None
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    declared = cuda_extension.entry_points()["planted_row_sums"]
    assert declared.source == sources / "planted.cu"
    assert declared.kinds == [ctypes.c_int, pointer, pointer, *[integer] * 5, pointer]
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        x = torch.randn(5, 64).to(dtype)
        sums = torch.full((5,), torch.nan, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        row_sums(x, sums, 5, 64, 2, 32, 0)
        torch.testing.assert_close(sums, x.to(sums.dtype).sum(1), atol=1e-5, rtol=1e-5)


def test_wrong_calls_are_refused(sources, cuda_emulator):
    x, sums = torch.randn(5, 64), torch.zeros(5)
    with pytest.raises(RuntimeError, match=r"planted_row_sums: a block has to be of whole warps \(CUDA error 9\)"):
        row_sums(x, sums, 5, 64, 2, 40, 0)
    with pytest.raises(TypeError):  # too few
        row_sums(x, sums, 5, 64)
    with pytest.raises(ctypes.ArgumentError):
        row_sums(x, sums, 5, 64.0, 2, 32, 0)
    with pytest.raises(RuntimeError, match=r"no CUDA kernels for torch\.int32"):
        row_sums(x.int(), sums, 5, 64, 2, 32, 0)
    with pytest.raises(RuntimeError, match=r"has no such function; it has .*planted_row_sums"):
        cuda_extension.call("planted_sums", torch.float32, x)
    with pytest.raises(RuntimeError, match="without a tensor"):
        cuda_extension.call("planted_row_sums", torch.float32)


def test_recorded_calls_do_nothing(sources, monkeypatch):
    monkeypatch.delenv(cuda_extension.EMULATOR, raising=False)
    x, sums = torch.randn(5, 64), torch.full((5,), 7.0)
    with cuda_extension.recording() as names:
        row_sums(x, sums, 5, 64, 2, 32, 0)
    assert names == ["planted_row_sums"] and bool((sums == 7).all()) and not cuda_extension._libraries


def test_cpu_tensors_need_the_emulator(sources, monkeypatch):
    monkeypatch.delenv(cuda_extension.EMULATOR, raising=False)
    assert "it needs a GPU" in cuda_extension.why_not("cpu")
    with pytest.raises(BuildError, match="need tensors on a GPU"):
        row_sums(torch.randn(5, 64), torch.zeros(5), 5, 64, 2, 32, 0)


def test_an_argument_of_another_type_is_refused(sources):
    (sources / "odd.cu").write_text('extern "C" int odd(int dtype, float x, void* stream) { return 0; }\n')
    with pytest.raises(BuildError, match="odd: an argument 'float x'; only pointers"):
        cuda_extension.entry_points()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(sources):
    assert cuda_extension.why_not("cuda") == "torch sees no CUDA device"
    assert cuda_extension.status()[:2] == (False, "torch sees no CUDA device")
    done = subprocess.run([sys.executable, "-m", "perfsuite.cuda_extension"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "name the compute capabilities" in done.stderr


def test_nvcc_is_looked_for_and_its_absence_told(sources, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(cuda_extension, "_USUAL_HOME", str(tmp_path / "nowhere"))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    with pytest.raises(BuildError, match="no nvcc found: install the CUDA toolkit, or set CUDACXX"):
        cuda_extension.build(90)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "nvcc").chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert cuda_extension.nvcc() == str(tmp_path / "bin" / "nvcc")
    monkeypatch.setenv("CUDACXX", "no-such-nvcc")
    with pytest.raises(BuildError, match="'no-such-nvcc', is not found"):
        cuda_extension.nvcc()


@needs_nvcc
def test_nvcc_builds_once_and_only_what_changed(sources):
    lines: list[str] = []
    path = cuda_extension.build(90, lines.append)
    assert cuda_extension.build(90, lines.append) == path and len(lines) == 2
    library = ctypes.CDLL(str(path))
    library.perfsuite_error_string.restype = ctypes.c_char_p
    assert library.perfsuite_error_string(2) == b"out of memory"
    objects = set((path.parents[1] / "objects").glob("*.o"))
    (sources / "errors.cu").write_text((sources / "errors.cu").read_text() + "// changed\n")
    assert cuda_extension.build(90) != path
    assert len(set((path.parents[1] / "objects").glob("*.o")) - objects) == 1


@needs_nvcc
def test_a_build_that_fails_says_the_first_error(sources):
    (sources / "broken.cu").write_text('extern "C" int broken(int, void*) { return no_such_thing; }\n')
    with pytest.raises(BuildError, match=r'compiling broken\.cu failed: .*"no_such_thing" is undefined') as caught:
        cuda_extension.build(90)
    assert "\n" not in str(caught.value)


@needs_nvcc
@pytest.mark.parametrize("arch", [80, 90, 100])
def test_the_real_kernels_compile(arch):
    library = ctypes.CDLL(str(cuda_extension.build(arch)))
    assert all(hasattr(library, name) for name in cuda_extension.entry_points())
