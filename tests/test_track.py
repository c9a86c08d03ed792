"""`perfsuite track`: planted changes, false alarms, classes, real histories, damaged files."""

import importlib.util
import json
import math
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from perfsuite.track import track


def _beside(name: str) -> ModuleType:
    """A module beside this one: with import-mode importlib the folder of tests is not on the path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


chromium, histories = _beside("chromium"), _beside("histories")
document, git, noise, repository, store = (
    getattr(histories, name) for name in ("document", "git", "noise", "repository", "store")
)
NOISES = histories.NOISES
PERFSUITE = Path(sysconfig.get_path("scripts"), "perfsuite")
RESULTS = Path(__file__).parents[1] / "bench" / "results" / "amd-epyc-2c-46b157"
RNG_SEED = 20


def rows(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["benchmark"]: row for row in found["series"]}


def level(rng: np.random.Generator, points: int, scale: float, *steps: tuple[int, float], base: float = 1e-3,
          kind: str = "normal") -> np.ndarray:  # fmt: skip
    """Seconds; each step is (first point, ratio) and lasts to the end."""
    logs = noise(kind, points, scale, rng)
    for first, ratio in steps:
        logs[first:] += math.log(ratio)
    return base * np.exp(logs)


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run([PERFSUITE, "track", *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(("points", "scale", "seed"), [(15, 0.02, 1), (40, 0.05, 2), (100, 0.01, 3)])
def test_change_free_series_seldom_alarm(tmp_path: Path, points: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    series = {f"t.py::test_{kind}[{i}]": level(rng, points, scale, kind=kind) for kind in NOISES for i in range(50)}
    found = track([store(tmp_path, series)])
    alarms = [row for row in found["series"] if any(c["class"] == "real" for c in row["changes"])]
    assert len(found["series"]) == 200
    assert len(alarms) <= 10, "more than 5 % of 200 series without a change"
    assert sum(row["failing"] for row in found["series"]) <= 10


@pytest.mark.parametrize(("ratio", "scale", "points"), [(1.03, 0.01, 60), (1.05, 0.01, 40), (1.10, 0.02, 40),
                                                        (1.10, 0.05, 100)])  # fmt: skip
def test_a_planted_change_is_found_where_it_is(tmp_path: Path, ratio: float, scale: float, points: int) -> None:
    rng = np.random.default_rng(RNG_SEED)
    series, places = {}, {}
    for kind in NOISES:
        for i in range(10):
            name = f"t.py::test_{kind}[{i}]"
            places[name] = int(rng.integers(points // 3, points - points // 4))
            series[name] = level(rng, points, scale, (places[name], ratio), kind=kind)
            series[f"{name} without"] = level(rng, points, scale, kind=kind)
    found = rows(track([store(tmp_path, series)]))
    hits = exact = failing = inside = 0
    for name, place in places.items():
        real = [c for c in found[name]["changes"] if c["class"] == "real"]
        hits += bool(real)
        exact += any(abs(c["index"] - place) <= 1 for c in real)
        failing += found[name]["failing"]
        inside += any(c["ci95"][0] <= ratio <= c["ci95"][1] for c in real)
    assert hits >= 36 and failing >= 34 and inside >= 34
    # Where noise is half the step or more, nothing could tell the very commit.
    assert exact >= (34 if ratio - 1 > 2.5 * scale else 26)
    assert sum(found[f"{name} without"]["failing"] for name in places) <= 2


def test_the_first_slow_commit_is_named_with_an_interval(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    folder = store(tmp_path, {"t.py::test_a": level(rng, 30, 0.01, (20, 1.2)), "t.py::test_b": level(rng, 30, 0.01)})
    found = track([folder])
    (change,) = rows(found)["t.py::test_a"]["changes"]
    assert change["commit"] == f"{21:040x}" and change["verdict"] == "SLOWER" and change["class"] == "real"
    assert change["ratio"] == pytest.approx(1.2, rel=0.02) and change["ci95"][0] < 1.2 < change["ci95"][1]
    assert change["failing"] and found["verdict"] == "SLOWER"
    assert rows(found)["t.py::test_b"]["changes"] == []


def test_small_changes_are_not_reported(tmp_path: Path) -> None:
    series = {"t.py::test_a": level(np.random.default_rng(1), 100, 0.001, (50, 1.01))}
    assert track([store(tmp_path, series)])["series"][0]["changes"] == []


def test_several_changes_and_a_long_series(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    series = {"t.py::test_a": level(rng, 2000, 0.02, (500, 1.1), (1200, 1.06), (1600, 1 / 1.3))}
    changes = track([store(tmp_path, series)])["series"][0]["changes"]
    assert [abs(c["index"] - at) <= 2 for c, at in zip(changes, (500, 1200, 1600), strict=True)] == [True] * 3
    assert [c["verdict"] for c in changes] == ["SLOWER", "SLOWER", "FASTER"]
    assert not changes[0]["failing"] and not changes[1]["failing"], "later commits took it back"


def test_a_burst_is_noise(tmp_path: Path) -> None:
    values = level(np.random.default_rng(4), 60, 0.01)
    values[40:44] *= 1.3
    row = track([store(tmp_path, {"t.py::test_a": values})])["series"][0]
    assert {c["class"] for c in row["changes"]} <= {"noise"} and not row["failing"]


def test_the_newest_commit_must_be_measured_twice(tmp_path: Path) -> None:
    values = level(np.random.default_rng(5), 20, 0.01, (19, 1.3))
    row = track([store(tmp_path / "once", {"t.py::test_a": values})])["series"][0]
    (change,) = row["changes"]
    assert change["class"] == "noise" and "again" in change["evidence"] and not row["failing"]
    repeated = np.repeat(values, 3) * np.exp(0.005 * np.random.default_rng(6).standard_normal(60))
    row = track([store(tmp_path / "thrice", {"t.py::test_a": repeated}, repeats=3)])["series"][0]
    (change,) = row["changes"]
    assert change["class"] == "real" and change["verdict"] == "SLOWER" and row["failing"]
    assert len(row["points"]) == 20 and len(row["points"][-1]["repeats"]) == 3


def test_few_commits_are_compared_by_their_repeats(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    series = {"t.py::test_slower": level(rng, 10, 0.01, (5, 1.2)), "t.py::test_same": level(rng, 10, 0.01)}
    found = rows(track([store(tmp_path / "a", series, repeats=5)]))
    assert [c["verdict"] for c in found["t.py::test_slower"]["changes"]] == ["SLOWER"]
    assert found["t.py::test_slower"]["failing"] and found["t.py::test_same"]["changes"] == []
    short = track([store(tmp_path / "b", {"t.py::test_slower": level(rng, 3, 0.01, (2, 1.5))})])["series"][0]
    assert not short["changes"] and "3 points" in short["reason"]


def series_of(count: int, points: int, seed: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"t.py::test_a[{i}]": level(rng, points, 0.01) for i in range(count)}


@pytest.mark.parametrize("changed", [{"python": "3.12.1"}, {"version": "5.4.0"}])
def test_another_python_is_the_machine(tmp_path: Path, changed: dict[str, str]) -> None:
    series = {"t.py::test_a": level(np.random.default_rng(9), 30, 0.01, (15, 1.15))}
    folder = store(tmp_path, series, changed=lambda point: changed if point >= 15 else {})
    row = track([folder])["series"][0]
    (change,) = row["changes"]
    assert change["class"] == "machine changed" and next(iter(changed.values())) in change["evidence"]
    assert change["verdict"] == "SLOWER" and not row["failing"]


def test_a_new_host_every_time_says_nothing(tmp_path: Path) -> None:
    series = {"t.py::test_a": level(np.random.default_rng(9), 30, 0.01, (15, 1.15))}
    folder = store(tmp_path, series, changed=lambda point: {"node": f"runner-{point}"})
    row = track([folder])["series"][0]
    assert [c["class"] for c in row["changes"]] == ["real"] and row["failing"]


def yardstick(rate: float) -> dict[str, Any]:
    rng = np.random.default_rng(int(rate))
    rates = (rate * np.exp(0.005 * rng.standard_normal(9))).tolist()
    return {"perfsuite": {"schema": 1, "yardstick": [{"copy_bytes_per_s": rates, "gemm_flops_per_s": None}]}}


def test_a_yardstick_tells_the_machine_from_the_code(tmp_path: Path) -> None:
    series = {"t.py::test_a": level(np.random.default_rng(10), 30, 0.01, (15, 1.15))}
    slowed = store(tmp_path / "a", series, changed=lambda point: yardstick(1e10 if point < 15 else 1e10 / 1.15))
    (change,) = track([slowed])["series"][0]["changes"]
    assert change["class"] == "machine changed" and "yardstick" in change["evidence"]
    steady = store(tmp_path / "b", series, changed=lambda point: yardstick(1e10))
    (change,) = track([steady])["series"][0]["changes"]
    assert change["class"] == "real" and change["failing"]


def test_all_together_is_the_machine_and_some_are_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    whole = {f"t.py::test_a[{i}]": level(rng, 30, 0.01, (15, 1.12)) for i in range(10)}
    found = track([store(tmp_path / "all", whole)])
    assert {c["class"] for row in found["series"] for c in row["changes"]} == {"machine changed"}
    assert found["verdict"] == "SAME" and "of 10 benchmarks" in found["series"][0]["changes"][0]["evidence"]
    half = {name: values if i < 5 else level(rng, 30, 0.01) for i, (name, values) in enumerate(whole.items())}
    found = track([store(tmp_path / "half", half)])
    assert [c["class"] for row in found["series"] for c in row["changes"]] == ["real"] * 5


def test_other_options_are_the_harness(tmp_path: Path) -> None:
    series = {"t.py::test_a": level(np.random.default_rng(12), 30, 0.01, (15, 1.15))}
    changed = {"options": {"timer": "process_time", "min_rounds": 5}}
    (change,) = track([store(tmp_path, series, changed=lambda p: changed if p >= 15 else {})])["series"][0]["changes"]
    assert change["class"] == "harness changed" and "timer perf_counter -> process_time" in change["evidence"]


def test_counts_have_no_noise(tmp_path: Path) -> None:
    series = {"t.py::test_a": level(np.random.default_rng(13), 6, 0.01)}

    def counts(point: int) -> dict[str, Any]:
        found = {"bytes": 1000 if point < 4 else 1010, "launches": 3, "peak_bytes": 9000 + 512 * (point % 3)}
        return {"extra": {"perfsuite": found}}

    folder = store(tmp_path, series, changed=counts)
    found = {row["quantity"]: row for row in track([folder])["series"]}
    (change,) = found["bytes"]["changes"]
    assert change["verdict"] == "SLOWER" and change["index"] == 4 and change["class"] == "real" and change["failing"]
    assert found["peak memory"]["changes"] == [], "a page more or less is the allocator's"
    assert found["launches"]["changes"] == [] and found["time"]["changes"] == []


BENCHMARKS = """
SIZE = {size}

def {helper}(benchmark):
    benchmark(sum, range(SIZE))

def test_other(benchmark):
    benchmark(sum, {other})
"""


def test_the_benchmarks_own_code(tmp_path: Path) -> None:
    """At commit 10 the code under test gets slower and another test of the file changes; at 20 this test's code."""
    def version(i: int) -> dict[str, str]:
        content = BENCHMARKS.format(size=10 if i < 20 else 20, helper="test_a", other=[1] if i < 10 else [1, 2])
        return {"code/lib.py": f"x = {i // 10}\n", "code/tests/test_speed.py": content}

    commits = repository(tmp_path, [version(i) for i in range(30)])
    rng = np.random.default_rng(14)
    series = {"tests/test_speed.py::test_a": level(rng, 30, 0.01, (10, 1.1), (20, 1.2))}
    # pytest's root is `code`: its paths begin there.
    store(tmp_path / "code" / ".benchmarks" / "Linux", series, commits)
    first, second = track([tmp_path / "code"])["series"][0]["changes"]
    assert first["commit"] == commits[10] and first["class"] == "real" and first["failing"]
    assert second["commit"] == commits[20] and second["class"] == "harness changed"
    assert "code/tests/test_speed.py" in second["evidence"] and not second["failing"]

    done = run("--json", cwd=tmp_path / "code")
    assert done.returncode == 1 and json.loads(done.stdout)["series"][0]["changes"][0]["commit"] == commits[10]
    assert run("--fail-since", commits[9], cwd=tmp_path / "code").returncode == 1
    assert run("--fail-since", commits[10], cwd=tmp_path / "code").returncode == 0
    cut = json.loads(run("--json", "--since", commits[12], cwd=tmp_path / "code").stdout)["series"][0]
    assert len(cut["points"]) == 18 and [c["commit"] for c in cut["changes"]] == [commits[20]]
    for wrong in ("nothing", "-x"):
        done = run(f"--since={wrong}", cwd=tmp_path / "code")
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "revision" in done.stderr


def test_order_is_that_of_commits_and_strangers_are_named(tmp_path: Path) -> None:
    commits = repository(tmp_path, [{"a": str(i)} for i in range(4)])
    folder = tmp_path / ".benchmarks"
    store(folder, {"t.py::test_a": [1.0, 2.0, 3.0]}, [commits[2], commits[0], "f" * 40])
    found = track([folder])
    assert [p["commit"] for p in found["series"][0]["points"]] == [commits[0], commits[2], "f" * 40]
    assert found["not_in_history"] == ["f" * 10] and found["repository"]
    assert "placed by time" in run(str(folder), cwd=tmp_path).stdout


def test_machines_are_kept_apart(tmp_path: Path) -> None:
    series = {"t.py::test_a": level(np.random.default_rng(15), 24, 0.01)}
    folder = store(tmp_path, series, changed=lambda p: {"cpu": "Intel(R) Xeon(R) CPU @ 2.00GHz"} if p % 2 else {})
    found = track([folder])
    assert found["machines"] == ["amd-epyc-7b13-4cpu", "intel-xeon-4cpu"]
    assert [len(row["points"]) for row in found["series"]] == [12, 12]
    assert len(track([folder], machine="intel")["series"]) == 1
    with pytest.raises(ValueError, match="there are amd-epyc-7b13-4cpu, intel-xeon-4cpu"):
        track([folder], machine="arm")
    with pytest.raises(ValueError, match="not a regular expression"):
        track([folder], benchmark="[")
    with pytest.raises(ValueError, match="none of the 1 benchmarks"):
        track([folder], benchmark="nothing")


def test_damaged_files_are_named_once_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder = store(tmp_path / "h", series_of(2, 12))
    whole = (folder / f"0001_{1:040x}.json").read_text()
    (folder / "cut.json").write_text(whole[: len(whole) // 2])
    (folder / "empty.json").write_text("")
    (folder / "copy.json").write_text(json.dumps(json.loads(whole), indent=4))
    (folder / "list.json").write_text("[]")
    (folder / "deep.json").write_text("[" * 200_000)
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00\x01" * 100)
    (folder / "foreign.json").write_text('{"a": 1}')
    (folder / "none.json").write_text('{"benchmarks": []}')
    (folder / "dangling.json").symlink_to(folder / "gone")
    os.mkfifo(folder / "pipe.json")
    with (folder / "huge.json").open("w") as file:
        file.truncate(300 << 20)
    odd = document({"t.py::test_a[0]": 1e-3}, "1" * 40, 99)
    odd["benchmarks"] += [None, 5, {"fullname": "t.py::test_x", "stats": {"median": 10**400}},
                          {"fullname": "t.py::test_y", "stats": {"median": math.nan, "mean": -1}}, {"stats": []}]
    odd["machine_info"]["cpu"] = {"brand_raw": "AMD EPYC 7B13", "count": 4}
    odd["perfsuite"] = {"yardstick": [{"copy_bytes_per_s": ["x"]}, 3], "machine": [1]}
    (folder / "odd.json").write_text(json.dumps(odd))
    found = track([folder, folder])
    bad = {}
    for one in found["unusable"]:
        bad.setdefault(Path(one["file"]).name, []).append(one["reason"])
    assert {name: len(reasons) for name, reasons in bad.items() if name != "odd.json"} == dict.fromkeys(
        ("cut.json", "empty.json", "copy.json", "list.json", "deep.json", "binary.json", "foreign.json", "none.json",
         "dangling.json", "pipe.json", "huge.json"), 1)  # fmt: skip
    assert len(bad["odd.json"]) == 5 and all(bad["odd.json"])
    assert "0001_" in bad["copy.json"][0] and "300 MiB" in bad["huge.json"][0]
    assert len(rows(found)["t.py::test_a[0]"]["points"]) == 13
    done = run("h", cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Not used" in done.stdout


@pytest.mark.parametrize("content", ["", "{", "{}", '{"benchmarks": [{"fullname": 3}]}', None])
def test_nothing_usable_is_one_line(tmp_path: Path, content: str | None) -> None:
    (tmp_path / ".benchmarks").mkdir()
    if content is not None:
        (tmp_path / ".benchmarks" / "a.json").write_text(content)
    done = run(cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1, done.stderr
    for arguments in (["gone"], ["--html", "no/such/page.html"]):
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr


def test_records_of_runs(tmp_path: Path) -> None:
    """A record's time to train, samples and time per sample, over the same record at made-up commits."""
    made = json.loads((RESULTS / "llama-tiny" / "record.json").read_text())
    for number in range(10):
        folder = tmp_path / "runs" / f"{number + 1:04}-llama"
        folder.mkdir(parents=True)
        slower = 1.2 if number >= 5 else 1.0
        passes = [p | {"clock_ns": round(p["clock_ns"] * slower * (1 + 0.002 * (number % 3)))} if "clock_ns" in p else p
                  for p in made["passes"]]  # fmt: skip
        when = f"2026-01-{number + 1:02}T00:00:00+00:00"
        (folder / "record.json").write_text(
            json.dumps(made | {"passes": passes, "created": when, "commit": f"{number:040x}"}))  # fmt: skip
    (tmp_path / "runs" / "0011-llama").mkdir()
    (tmp_path / "runs" / "0011-llama" / "record.json").write_text(json.dumps(made)[:-1000])
    found = track([tmp_path / "runs"])
    by = {row["quantity"]: row for row in found["series"]}
    assert by.keys() == {"time to train", "samples to target", "time per sample"}
    (change,) = by["time to train"]["changes"]
    assert change["index"] == 5 and change["ratio"] == pytest.approx(1.2, rel=0.01) and change["class"] == "real"
    assert by["samples to target"]["changes"] == [] and "llama tiny cpu" in by["time per sample"]["benchmark"]
    assert len(found["unusable"]) == 1


REAL = """
import pytest
from lib import clock, work

@pytest.mark.benchmark(timer=clock)
def test_work(benchmark):
    benchmark.pedantic(work, rounds=5, iterations=1)
"""
LIB = """
import random
now = 0.0

def clock():
    global now
    now += 1e-9
    return now

def work():
    global now
    now += {seconds} * random.uniform(0.99, 1.01)
"""


def test_a_real_suite_over_its_commits(tmp_path: Path) -> None:
    """pytest-benchmark itself runs and stores, by a scripted clock; from commit 2 on the work takes 1.3x the time."""
    versions = [{"lib.py": LIB.format(seconds=1e-3 if i < 2 else 1.3e-3), "test_lib.py": REAL} for i in range(4)]
    commits = repository(tmp_path, versions)
    for commit in commits:
        git(tmp_path, "checkout", "--quiet", commit)
        for _ in range(2):
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                       "-p", "pytest_benchmark.plugin", "--benchmark-autosave"]  # fmt: skip
            alone = {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
            # What a worker of pytest-xdist has in its environment turns benchmarks off.
            clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
            done = subprocess.run(command, cwd=tmp_path, env=clean | alone, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    git(tmp_path, "checkout", "--quiet", "main")
    done = run("--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    (row,) = found["series"]
    assert row["benchmark"] == "test_lib.py::test_work" and [p["commit"] for p in row["points"]] == commits
    (change,) = row["changes"]
    assert change["commit"] == commits[2] and change["class"] == "real" and change["verdict"] == "SLOWER"
    assert done.returncode == 1 and found["unusable"] == [] and change["ratio"] == pytest.approx(1.3, rel=0.02)


PROBE = """
const charts = [...document.querySelectorAll("[data-chart]")];
return {
  drawn: charts.filter((c) => c.dataset.drawn === "yes" && c.querySelector("svg")).length,
  rows: document.querySelectorAll("#changes tbody tr").length,
  over: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  marks: [...document.querySelectorAll("#changed .scatterlayer .point")].length,
  hostile: document.querySelectorAll("main script, main img").length,
  background: getComputedStyle(document.body).backgroundColor,
};
"""


@pytest.mark.browser
def test_the_page(tmp_path: Path) -> None:
    chromium.require()
    rng = np.random.default_rng(16)
    hostile = "t.py::test_x[<img src=x onerror=alert(1)></script>]"
    series = {"t.py::test_a": level(rng, 30, 0.01, (15, 1.1)), hostile: level(rng, 30, 0.01, (20, 0.8))}
    series |= series_of(4, 30)
    folder = store(tmp_path / "h", series)
    done = run(str(folder), "--html", "page.html", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    page = (tmp_path / "page.html").read_text()
    assert "http://" not in page.split("<script>")[0] and "https://" not in page.split("<script>")[0]
    for dark in (False, True):
        work = tmp_path / f"dark-{dark}"
        work.mkdir()
        seen = chromium.observe({"wide": (page, 1200), "narrow": (page, 380)}, PROBE, work, dark=dark)
        for name, one in seen.items():
            assert one["problems"] == [], (name, one["problems"])
            result = one["result"]
            assert result["drawn"] == 6 and result["rows"] == 2 and result["over"] <= 0, result
            assert result["marks"] >= 60 and result["hostile"] == 0, result
            assert (result["background"] == "rgb(246, 247, 249)") is not dark


def test_the_text_fits_100_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(17)
    long = "benchmarks/deep/down/test_many.py::TestOfThings::test_with_a_long_name[parameters-of-several-kinds-float32]"
    folder = store(tmp_path / "h", {long: level(rng, 30, 0.01, (15, 1.1)), **series_of(60, 30)})
    done = run(str(folder), cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and max(map(len, lines)) <= 100
    assert lines[0].startswith("SLOWER  1 of 61 series")
    line = next(line for line in lines if "float32]" in line and "|" not in line)
    assert "real" in line and f"{16:040x}"[:9] in line and "1.1" in line
    assert "20 more did not change" in done.stdout
