"""The pytest plugin in real pytest processes on small projects, whose clocks are scripted: nothing here waits on time."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from perfsuite.bench_plugin import children, looks, stored
from perfsuite.bench_plugin.decide import Rounds, decide, decide_all, noise_of
from perfsuite.bench_plugin.gate import against_revision
from perfsuite.bench_plugin.sample import Sample

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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
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


def test_what_is_stored(project: Path) -> None:
    """pytest-benchmark's own readers take it, and it holds what a verdict needs."""
    (project / "conftest.py").write_text(CONFTEST + """
def pytest_unconfigure():
    import sys
    print("torch loaded:", "torch" in sys.modules)
""")
    done = run(project, "--benchmark-json=a.json", "--benchmark-save=one", "--perfsuite-processes=2", "-s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch loaded: False" in done.stdout
    for path in (project / "a.json", next((project / ".benchmarks").glob("*/0001_one.json"))):
        document = json.loads(path.read_text())
        machine = document["perfsuite"]["machine"]
        assert len(machine["id"]) == 12 and machine["fingerprint"]["python"]
        assert document["perfsuite"]["yardstick"][0]["copy_bytes_per_s"] == [1e9] * 3
        assert "perfsuite" not in document["machine_info"]
        plain, ours = (bench["extra_info"]["perfsuite"] for bench in document["benchmarks"])
        assert len(plain["process_medians_s"]) == 2 and 5 <= len(plain["rounds_s"]) <= 200
        assert ours["bytes"] == 1000 and ours["flops"] == 7 and ours["bytes_per_s"] == pytest.approx(5e5, rel=0.01)
        assert ours["device"] == "cpu" and ours["device_time_s"] == pytest.approx(2e-3, rel=0.01)
        assert ours["peak_source"] == "tracemalloc" and ours["peak_bytes"] >= 0
        assert ours["launches"] is None and ours["launches_reason"] and ours["clock"]["reason"]
        assert document["benchmarks"][1]["group"] == "ours"
    again = run(project, "--benchmark-compare=0001", "--benchmark-compare-fail=mean:50%")
    assert again.returncode == 0 and "(0001_one)" in again.stdout, again.stdout
    listed = subprocess.run([sys.executable, "-m", "pytest_benchmark", "compare", "0001"], cwd=project,
                            capture_output=True, text=True)  # fmt: skip
    assert listed.returncode == 0 and "test_steady" in listed.stdout + listed.stderr


def test_the_table_has_our_columns_and_leaves_plain_sessions_alone(project: Path) -> None:
    done = run(project)
    assert done.returncode == 0
    table = done.stdout.partition("= perfsuite =")[2]
    assert "of ceiling" in table and "500 kB/s" in table and "joules: " in table and "test_plain" not in table
    alone = run(project, "-k", "plain")
    assert "perfsuite" not in alone.stdout.replace(str(project), "").replace("perfsuite-", "").split("collected")[1]


def test_against_a_file(project: Path) -> None:
    save(project, "base.json", "--perfsuite-processes=2")
    gate = ("--perfsuite-baseline=base.json", "--perfsuite-budget=0")
    same = run(project, *gate, "--benchmark-json=b.json")
    assert same.returncode == 0 and "2 passed, 2 same" in same.stdout, same.stdout
    judged = json.loads((project / "b.json").read_text())["benchmarks"][0]["extra_info"]["perfsuite"]["judged"]
    assert judged["verdict"] == "SAME" and judged["time"]["ci95"][0] < 1 < judged["time"]["ci95"][1]

    write(project, factor=1.3)
    slower = run(project, *gate, "--junit-xml=j.xml")
    assert slower.returncode == 1 and "FAILED bench/test_it.py::test_plain - SLOWER in time x1.300" in slower.stdout
    assert "1 failed, 2 passed, 1 same" in slower.stdout
    cases = ET.parse(project / "j.xml").findall(".//testcase")
    failed = [case for case in cases if case.find("failure") is not None]
    assert [case.get("name") for case in failed] == ["test_plain"] and len(cases) == 4
    said = {p.get("name"): p.get("value") for p in failed[0].iter("property")}
    assert said["perfsuite.verdict"] == "SLOWER" and float(said["perfsuite.time.ratio"]) == pytest.approx(1.3, rel=1e-2)
    assert said["perfsuite.baseline"] == "base.json" and float(said["perfsuite.time.low"]) > 1.2
    assert ET.parse(project / "j.xml").find(".//testsuite").get("failures") == "1"

    # A machine that has slowed down by a half widens every interval: nobody can tell, and only --strict fails.
    drifted = run(project, *gate, MACHINE="0.6")
    assert drifted.returncode == 0 and "CANNOT TELL for 2 of 2" in drifted.stdout and "2 cannot tell" in drifted.stdout
    assert run(project, *gate, "--perfsuite-strict", MACHINE="0.6").returncode == 1


def test_counts_are_gated_tightly(project: Path) -> None:
    save(project)
    write(project, bytes_=1.01)
    done = run(project, "--perfsuite-baseline=base.json", "--perfsuite-budget=0", "-k", "steady")
    assert done.returncode == 1 and "MORE bytes: 1,000 to 1,010 a call" in done.stdout


def damage(path: Path, change: str) -> None:
    document = json.loads(path.read_text())
    if change == "driver":
        document["perfsuite"]["machine"]["fingerprint"]["driver"] = "1.2.3"
    elif change == "Python":
        document["perfsuite"]["machine"]["fingerprint"]["python"]["version"] = "2.7"
    elif change == "not ours":
        del document["perfsuite"]
    elif change == "a time":
        document["benchmarks"][0]["extra_info"]["perfsuite"]["rounds_s"][0] = -1
    elif change == "another time":
        document["benchmarks"][0]["stats"].update(min=5.0, max=6.0)
    elif change == "a part":
        del document["benchmarks"][0]["stats"]
    elif change == "a machine":
        document["perfsuite"]["machine"] = None
    path.write_text(json.dumps(document)[: 900 if change == "cut off" else None])


def test_files_that_are_refused(project: Path) -> None:
    base = save(project)
    whole = base.read_text()
    for change, said in (("driver", "GPU driver (1.2.3, here "), ("Python", "Python (2.7, here "),
                         ("not ours", "does not say which machine"), ("a time", "is damaged (a time"),
                         ("another time", "do not agree with its statistics"), ("a part", "is damaged (it has no"),
                         ("a machine", "is damaged"), ("cut off", "is cut off or damaged")):  # fmt: skip
        base.write_text(whole)
        damage(base, change)
        with pytest.raises(ValueError) as error:
            stored.read(base)
        assert said in str(error.value) and "\n" not in str(error.value), change
    done = run(project, "--perfsuite-baseline=base.json")
    assert done.returncode == 4 and "ERROR: --perfsuite-baseline: base.json is cut off" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr and "passed" not in done.stdout
    base.write_text("[1, 2]")
    with pytest.raises(ValueError, match="not a file that pytest-benchmark stored"):
        stored.read(base)
    missing = run(project, "--perfsuite-baseline=nowhere.json")
    assert missing.returncode == 4 and "there is no file nowhere.json" in missing.stderr


def test_sessions_that_cannot_be_gated(project: Path) -> None:
    base = save(project).name
    spread = run(project, "-n1")
    assert spread.returncode == 0 and "pytest-xdist is active, which disables benchmarks" in spread.stdout
    for arguments, said in ((("-n1",), "leave -n out"), (("--benchmark-disable",), "disabled or skipped"),
                            (("-p", "no:benchmark"), "pytest-benchmark is not there")):  # fmt: skip
        done = run(project, *arguments, f"--perfsuite-baseline={base}")
        assert done.returncode == 4 and said in done.stderr, done.stdout + done.stderr


def test_without_pytest_benchmark_other_tests_run(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("def test_a(): pass\ndef test_b(perf_benchmark): pass\n")
    done = run(tmp_path, "-p", "no:benchmark")
    assert "1 passed, 1 error" in done.stdout and "Traceback" not in done.stdout
    assert done.stdout.count("pip install 'perfsuite[bench]'") >= 1
    (tmp_path / "conftest.py").write_text("""
import importlib.metadata as m
real = m.version
import perfsuite.pytest_plugin as p
p.version = lambda name: "99.1" if name == "pytest-benchmark" else real(name)
""")
    unknown = run(tmp_path, "test_a.py::test_a")
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
    done = run(project)
    assert done.returncode == 0, done.stdout
    assert run(project, "--benchmark-disable").returncode == 0


def test_against_a_revision(project: Path) -> None:
    """Both sides are built, run in turns with the tree's own benchmarks, and nothing is left behind."""
    write(project, factor=1.2)
    bench = project / "bench" / "test_it.py"
    bench.write_text(bench.read_text() + "\ndef test_new(benchmark):\n    benchmark(clock.work, thing.LATER)\n")
    (project / "thing.py").write_text((project / "thing.py").read_text() + "LATER = 1e-3\n")
    done = run(project, "bench", "--perfsuite-baseline=HEAD", "--perfsuite-budget=0")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED bench/test_it.py::test_plain - SLOWER in time x1.200" in done.stdout
    assert "1 failed, 3 passed, 1 same, 1 new" in done.stdout
    assert "it fails or is not there in HEAD" in done.stdout
    trees = subprocess.run(["git", "worktree", "list"], cwd=project, capture_output=True, text=True).stdout
    assert len(trees.splitlines()) == 1
    git(project, "commit", "-qam", "2")
    back = run(project, "--perfsuite-baseline=HEAD", "--perfsuite-budget=0")
    assert back.returncode == 0 and "3 passed, 3 same" in back.stdout, back.stdout
    unknown = run(project, "--perfsuite-baseline=nobody")
    assert unknown.returncode == 4 and "has no revision 'nobody'" in unknown.stderr


def scripted(factors: dict[str, tuple[float, float]], spread: float, seed: int = 0) -> tuple[tuple, list[int]]:
    """Sides whose processes give scripted samples; and the number of processes so far."""
    draw, ran = np.random.default_rng(seed), [0]

    class Scripted:
        def __init__(self, side: int) -> None:
            self.side, self.name = side, "AB"[side]

        def run(self, tests: list[str], timeout_s: float) -> dict[str, Sample]:
            ran[0] += 1
            return {test: Sample(factors[test][self.side] * float(np.exp(draw.normal(0, spread)))) for test in tests}

    return (Scripted(0), Scripted(1)), ran


def test_looks_end_when_everything_is_told() -> None:
    import random

    sides, ran = scripted({"a": (1.0, 1.0), "b": (1.0, 1.5)}, 1e-3)
    judged = against_revision(sides, ["a", "b"], 60, 60, lambda text: None, random.Random(0))
    assert [one.word for one in judged] == ["SAME", "SLOWER"] and ran == [4 * looks.BLOCKS[0]]
    sides, ran = scripted({"a": (1.0, 1.02), "b": (1.0, 0.5)}, 0.05)
    judged = against_revision(sides, ["a", "b"], 60, 60, lambda text: None, random.Random(0))
    assert [one.word for one in judged] == ["CANNOT_TELL", "FASTER"] and ran == [4 * looks.BLOCKS[-1]]


def test_false_alarms_and_power() -> None:
    """200 pairs of equals with 3 % noise: no more false alarms than designed; 10 % is found."""
    draw = np.random.default_rng(1)

    def words(factor: float) -> list[str]:
        times = [(np.exp(draw.normal(0, 0.03, 8)), factor * np.exp(draw.normal(0, 0.03, 8))) for _ in range(200)]
        return [decide(a, b, looks=3).word for a, b in times]

    assert sum(word in ("SLOWER", "FASTER") for word in words(1.0)) <= 4
    assert words(1.1).count("SLOWER") >= 160


def test_many_at_once() -> None:
    draw = np.random.default_rng(2)
    many = {i: Rounds(np.exp(draw.normal(0, 0.02, 16)), (1.2 if i < 3 else 1) * np.exp(draw.normal(0, 0.02, 16)))
            for i in range(60)}  # fmt: skip
    found = decide_all(many, looks=3)
    assert [key for key, one in found.items() if one.word == "SLOWER"] == [0, 1, 2]
    # What stands alone need not stand among many: six pairs tell a single one, and not one of sixty.
    alone = Rounds([1.0] * 6, [1.05, 1.1, 1.15, 1.2, 1.2, 1.25])
    equal = {i: Rounds([1.0] * 6, [1.0, 1.01, 0.99, 1.005, 0.995, 1.0]) for i in range(59)}
    assert decide_all({-1: alone})[-1].word == "SLOWER"
    crowd = decide_all({-1: alone, **equal})[-1]
    assert crowd.word == "CANNOT_TELL" and "one of 60" in crowd.why


def test_few_processes_and_obstacles() -> None:
    one = decide([1.0], [1.001, 0.999, 1.0, 1.0], in_turns=False)
    assert one.word == "SAME"
    assert decide([1.0], [1.0], in_turns=False).word == "CANNOT_TELL"
    assert decide([1.0, 0.0], [1.0, 1.0], in_turns=False).word == "CANNOT_TELL"
    assert decide([1.0] * 8, [1.05] * 8, aa_noise=0.06).word == "CANNOT_TELL"
    assert decide([1.0] * 8, [1.3] * 8, in_turns=False, stretch=1.4).word == "CANNOT_TELL"
    lowered = decide_all({0: Rounds([1.0] * 8, [2.0] * 8, obstacle="the GPU's clock was lowered meanwhile")})[0]
    assert lowered.word == "CANNOT_TELL" and "lowered" in lowered.why
    assert noise_of([1.0, 1.0, 1.0], [1.02, 1.02, 1.02]) == pytest.approx(0.02) and noise_of([], []) == 0


def test_options_that_processes_get() -> None:
    given = ["bench", "-k", "a or b", "--benchmark-json=x", "--benchmark-compare", "0001", "--size", "big",
             "--benchmark-compare-fail", "min:5%", "mean:5%", "-x", "--junitxml", "j.xml", "-p", "thing"]  # fmt: skip
    kept = children.passed_on(given, ["bench"])
    assert kept == ("-k", "a or b", "--size", "big", "-p", "thing")
