"""The pytest plugin in real pytest processes: what it stores and shows, and that it leaves others alone."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

_found = importlib.util.spec_from_file_location("pytest_projects", Path(__file__).with_name("pytest_projects.py"))
projects = importlib.util.module_from_spec(_found)
_found.loader.exec_module(projects)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return projects.make(tmp_path)


def test_what_is_stored(project: Path) -> None:
    """pytest-benchmark's own readers take it, and it holds what a verdict needs."""
    (project / "conftest.py").write_text(projects.CONFTEST + """
def pytest_unconfigure():
    import sys
    print("torch loaded:", "torch" in sys.modules)
""")
    done = projects.run(project, "--benchmark-json=a.json", "--benchmark-save=one", "--perfsuite-processes=2", "-s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch loaded: False" in done.stdout
    for path in (project / "a.json", next((project / ".benchmarks").glob("*/0001_one.json"))):
        document = json.loads(path.read_text())
        machine = document["perfsuite"]["machine"]
        assert len(machine["id"]) == 12 and machine["fingerprint"]["python"]
        assert document["perfsuite"]["yardstick"][0]["copy_bytes_per_s"] == [1e9] * 3
        assert "perfsuite" not in document["machine_info"]
        plain, ours = (bench["extra_info"]["perfsuite"] for bench in document["benchmarks"])
        assert len(plain["process_times_s"]) == 2 and 5 <= len(plain["rounds_s"]) <= 200
        assert ours["bytes"] == 1000 and ours["flops"] == 7 and ours["bytes_per_s"] == pytest.approx(5e5, rel=0.01)
        assert ours["device"] == "cpu" and ours["device_time_s"] == pytest.approx(2e-3, rel=0.01)
        assert ours["peak_source"] == "tracemalloc" and ours["peak_bytes"] >= 0
        assert ours["launches"] is None and ours["launches_reason"] and ours["clock"]["reason"]
        assert document["benchmarks"][1]["group"] == "ours"
    again = projects.run(project, "--benchmark-compare=0001", "--benchmark-compare-fail=mean:50%")
    assert again.returncode == 0 and "(0001_one)" in again.stdout, again.stdout
    listed = subprocess.run([sys.executable, "-m", "pytest_benchmark", "compare", "0001"], cwd=project,
                            capture_output=True, text=True)  # fmt: skip
    assert listed.returncode == 0 and "test_steady" in listed.stdout + listed.stderr


def test_the_table_has_our_columns_and_leaves_plain_sessions_alone(project: Path) -> None:
    done = projects.run(project)
    assert done.returncode == 0
    table = done.stdout.partition("= perfsuite =")[2]
    assert "of ceiling" in table and "500 kB/s" in table and "joules: " in table and "test_plain" not in table
    alone = projects.run(project, "-k", "plain")
    assert "perfsuite" not in alone.stdout.replace(str(project), "").replace("perfsuite-", "").split("collected")[1]


def test_without_pytest_benchmark_other_tests_run(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("def test_a(): pass\ndef test_b(perf_benchmark): pass\n")
    done = projects.run(tmp_path, "-p", "no:benchmark")
    assert "1 passed, 1 error" in done.stdout and "Traceback" not in done.stdout
    assert done.stdout.count("pip install 'perfsuite[bench]'") >= 1
    (tmp_path / "conftest.py").write_text("""
import importlib.metadata as m
real = m.version
import perfsuite.pytest_plugin as p
p.version = lambda name: "99.1" if name == "pytest-benchmark" else real(name)
""")
    unknown = projects.run(tmp_path, "test_a.py::test_a")
    assert unknown.returncode == 0 and "pytest-benchmark 99.1 is not known" in unknown.stdout


def test_a_timer_that_stands_still_does_not_hang(project: Path) -> None:
    (project / "bench" / "test_it.py").write_text("""
import pytest
@pytest.mark.benchmark(timer=lambda: 1.0)
def test_still(perf_benchmark):
    assert perf_benchmark(sum, [1, 2]) == 3
def test_pedantic(perf_benchmark):
    calls = []
    perf_benchmark.pedantic(calls.append, args=(1,), rounds=3)
    assert len(calls) == (3 if perf_benchmark.enabled else 1)
    assert not perf_benchmark.enabled or perf_benchmark.extra_info["perfsuite"]["peak_reason"]
def test_bad_cost(perf_benchmark):
    with pytest.raises(ValueError, match="whole number"):
        perf_benchmark.cost(bytes=-1)
    perf_benchmark(sum, [1])
""")
    done = projects.run(project)
    assert done.returncode == 0, done.stdout
    assert projects.run(project, "--benchmark-disable").returncode == 0


def test_device_times_of_a_gpu(project: Path) -> None:
    """The device is scripted: its times are what pytest-benchmark stores and what the table shows beside the host's."""
    (project / "conftest.py").write_text(projects.CONFTEST + """
import sys, types
from perfsuite.bench_plugin import figures
sys.modules["perfsuite.bench_plugin.cuda_time"] = types.SimpleNamespace(
    measure=lambda call, rounds: ([3e-6] * rounds, [5e-5] * rounds), typical=lambda call: 3e-6)
figures.peak_memory = lambda call, device: {"peak_bytes": 4096, "peak_source": device, "peak_reason": None}
figures.clock = lambda device: {"sm_clock_hz": 10**9, "lowered_by": ["software power cap"], "reason": None}
figures._machine = lambda device: (None, "scripted")
""")
    (project / "bench" / "test_it.py").write_text("""
def test_gpu(perf_benchmark):
    perf_benchmark.device = "cuda"
    perf_benchmark.cost(bytes=3000)
    assert perf_benchmark(sum, [1, 2]) == 3
""")
    base = projects.save(project)
    bench = json.loads(base.read_text())["benchmarks"][0]
    ours = bench["extra_info"]["perfsuite"]
    assert bench["stats"]["median"] == ours["device_time_s"] == 3e-6 and ours["host_time_s"] == 5e-5
    assert ours["bytes_per_s"] == pytest.approx(1e9) and ours["ceiling_reason"] == "scripted"
    assert ours["clock"]["lowered_by"] == ["software power cap"] and ours["launches_reason"]
    done = projects.run(project, "--perfsuite-baseline=base.json", "--perfsuite-budget=0")
    assert done.returncode == 0 and "clock was lowered meanwhile: software power cap" in done.stdout
    assert "50.0 µs  3.00 µs  1.00 GB/s" in done.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_device_times_on_a_gpu(project: Path) -> None:
    (project / "bench" / "test_it.py").write_text("""
import torch
def test_add(perf_benchmark):
    a = torch.ones(1 << 26, device="cuda")
    perf_benchmark.cost(bytes=3 * a.numel() * 4, flops=a.numel())
    perf_benchmark(torch.add, a, a)
    ours = perf_benchmark.extra_info["perfsuite"]
    assert ours["device"] == "cuda" and 0.3 < ours["share_of_ceiling"] < 1.1
    assert ours["peak_bytes"] == 4 * a.numel() and ours["clock"]["sm_clock_hz"]
    assert ours["energy"]["joules"] > 0
""")
    done = projects.run(project)
    assert done.returncode == 0, done.stdout


def test_sessions_that_cannot_be_gated(project: Path) -> None:
    base = projects.save(project).name
    spread = projects.run(project, "-n1")
    assert spread.returncode == 0 and "pytest-xdist is active, which disables benchmarks" in spread.stdout
    for arguments, said in ((("-n1",), "leave -n out"), (("--benchmark-disable",), "disabled or skipped"),
                            (("-p", "no:benchmark"), "pytest-benchmark is not there")):  # fmt: skip
        done = projects.run(project, *arguments, f"--perfsuite-baseline={base}")
        assert done.returncode == 4 and said in done.stderr, done.stdout + done.stderr
