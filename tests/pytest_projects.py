"""Small projects with benchmarks whose clocks are scripted, and pytest run on them in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

CLOCK = """
import os, random
now, draw = 0.0, random.Random(int.from_bytes(os.urandom(4), "little"))
layout = draw.gauss(1, 2e-5)
def timer():
    global now
    now += 1e-9
    return now
def work(seconds):
    global now
    now += seconds * layout * draw.gauss(1, 1e-4)
"""
BENCH = """
import pytest
import scripted_clock as clock
import thing
pytestmark = pytest.mark.benchmark(timer=clock.timer, max_time=0.1)
def test_plain(benchmark):
    benchmark(clock.work, 1e-3 * thing.FACTOR)
def test_steady(perf_benchmark):
    perf_benchmark.cost(bytes=int(1000 * thing.BYTES), flops=7)
    perf_benchmark.group = "ours"
    perf_benchmark(clock.work, 2e-3)
"""
# The yardstick is a real measurement: here it stands still, unless the machine is said to have slowed down.
CONFTEST = """
import os
import perfsuite.ceilings
def yardstick(**_):
    rate = 1e9 * float(os.environ.get("MACHINE", "1"))
    return {"copy_bytes_per_s": [rate] * 3, "gemm_flops_per_s": None, "gemm_reason": "scripted"}
perfsuite.ceilings.yardstick = yardstick
"""


def git(folder: Path, *arguments: str) -> None:
    names = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", folder, *names, *arguments], check=True, capture_output=True)


def write(root: Path, factor: float = 1.0, bytes_: float = 1.0) -> None:
    (root / "thing.py").write_text(f"FACTOR = {factor}\nBYTES = {bytes_}\n")


def make(folder: Path) -> Path:
    """A git project of one commit: a module `thing`, and benchmarks in bench/."""
    root = folder / "project"
    (root / "bench").mkdir(parents=True)
    write(root)
    (root / "bench" / "scripted_clock.py").write_text(CLOCK)
    (root / "bench" / "test_it.py").write_text(BENCH)
    (root / "conftest.py").write_text(CONFTEST)
    (root / "pytest.ini").write_text("[pytest]\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "1")
    return root


def run(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONPATH": "", "PYTEST_ADDOPTS": "", **environment}
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PERFSUITE_"))}
    return subprocess.run([sys.executable, "-m", "pytest", "-p", "no:hypothesispytest", *arguments], cwd=root,
                          env=clean | quiet, capture_output=True, text=True, timeout=300)  # fmt: skip


def save(root: Path, name: str = "base.json", *more: str) -> Path:
    done = run(root, f"--benchmark-json={name}", *more)
    assert done.returncode == 0, done.stdout + done.stderr
    return root / name
