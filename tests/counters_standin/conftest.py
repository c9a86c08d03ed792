"""Builds the scripted libcupti.so.13 and libcuda.so.1, and runs scripts with them in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import perfsuite.csrc

HERE = Path(__file__).parent

PREAMBLE = """
import ctypes, json, sys
import numpy as np
from perfsuite import _native
from perfsuite.counters import library
from perfsuite.instruments.counters import CounterReplay, CounterTimeline
cupti = ctypes.CDLL(str(library.candidates()[0]))
i64, u64, text = ctypes.c_int64, ctypes.c_uint64, ctypes.c_char_p
cupti.standin_clock.argtypes = [i64, i64]
cupti.standin_overflow_at.argtypes = [i64]
cupti.standin_calls.argtypes, cupti.standin_calls.restype = [text], i64
cupti.standin_fail.argtypes = [text, ctypes.c_int]
cupti.standin_launch.argtypes = [ctypes.c_uint32, ctypes.c_int, text, ctypes.c_int, ctypes.POINTER(u64)]
def pass_time(ns):
    end = _native.now_ns() + ns
    while _native.now_ns() < end:
        pass
"""


@pytest.fixture(scope="session")
def standin(tmp_path_factory):
    """A folder to give as CUDA_HOME, with the scripted libraries in lib/."""
    home = tmp_path_factory.mktemp("cupti")
    lib = home / "lib"
    lib.mkdir()
    native = Path(next(iter(perfsuite.csrc.__path__)), "native")
    compiler = [os.environ.get("CXX", "g++"), "-std=c++17", "-O1", "-Wall", "-shared", "-fPIC"]
    sources = [HERE / "standin.cpp", HERE / "rest.cpp"]
    subprocess.run([*compiler, "-I", native, *sources, "-o", lib / "libcupti.so.13"], check=True)
    subprocess.run(["gcc", "-shared", "-fPIC", HERE / "driver.c", "-o", lib / "libcuda.so.1"], check=True)
    (home / "nothing.c").touch()
    subprocess.run(["gcc", "-shared", "-fPIC", home / "nothing.c", "-o", lib / "libnvperf_host.so"], check=True)
    return home


@pytest.fixture
def run(standin):
    """(script, **environment) -> what it assigned to `out`, read as JSON."""

    def go(script, **environment):
        env = {**os.environ, "CUDA_HOME": str(standin), "LD_LIBRARY_PATH": str(standin / "lib"), **environment}
        code = f"{PREAMBLE}\n{script}\nprint(json.dumps(out, default=lambda a: a.tolist()))"
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return go
