"""The pytest plugin as a gate: against a stored file and against a revision, in real pytest processes."""

import importlib.util
import json
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from perfsuite.bench_plugin import stored

_found = importlib.util.spec_from_file_location("pytest_projects", Path(__file__).with_name("pytest_projects.py"))
projects = importlib.util.module_from_spec(_found)
_found.loader.exec_module(projects)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return projects.make(tmp_path)


def test_against_a_file(project: Path) -> None:
    projects.save(project, "base.json", "--perfsuite-processes=2")
    gate = ("--perfsuite-baseline=base.json", "--perfsuite-budget=0")
    same = projects.run(project, *gate, "--benchmark-json=b.json")
    assert same.returncode == 0 and "2 passed, 2 same" in same.stdout, same.stdout
    judged = json.loads((project / "b.json").read_text())["benchmarks"][0]["extra_info"]["perfsuite"]["judged"]
    assert judged["verdict"] == "SAME" and judged["time"]["ci95"][0] < 1 < judged["time"]["ci95"][1]

    projects.write(project, factor=1.3)
    slower = projects.run(project, *gate, "--junit-xml=j.xml")
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
    drifted = projects.run(project, *gate, MACHINE="0.6")
    assert drifted.returncode == 0 and "CANNOT TELL for 2 of 2" in drifted.stdout and "2 cannot tell" in drifted.stdout
    assert projects.run(project, *gate, "--perfsuite-strict", MACHINE="0.6").returncode == 1


def test_counts_are_gated_tightly(project: Path) -> None:
    projects.save(project)
    projects.write(project, bytes_=1.01)
    done = projects.run(project, "--perfsuite-baseline=base.json", "--perfsuite-budget=0", "-k", "steady")
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
    base = projects.save(project)
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
    done = projects.run(project, "--perfsuite-baseline=base.json")
    assert done.returncode == 4 and "ERROR: --perfsuite-baseline: base.json is cut off" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr and "passed" not in done.stdout
    base.write_text("[1, 2]")
    with pytest.raises(ValueError, match="not a file that pytest-benchmark stored"):
        stored.read(base)
    missing = projects.run(project, "--perfsuite-baseline=nowhere.json")
    assert missing.returncode == 4 and "there is no file nowhere.json" in missing.stderr


def test_against_a_revision(project: Path) -> None:
    """Both sides are built, run in turns with the tree's own benchmarks, and nothing is left behind."""
    projects.write(project, factor=1.2)
    bench = project / "bench" / "test_it.py"
    bench.write_text(bench.read_text() + "\ndef test_new(benchmark):\n    benchmark(clock.work, thing.LATER)\n")
    (project / "thing.py").write_text((project / "thing.py").read_text() + "LATER = 1e-3\n")
    done = projects.run(project, "bench", "--perfsuite-baseline=HEAD", "--perfsuite-budget=0")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED bench/test_it.py::test_plain - SLOWER in time x1.200" in done.stdout
    assert "1 failed, 3 passed, 1 same, 1 new" in done.stdout
    assert "it fails or is not there in HEAD" in done.stdout
    trees = subprocess.run(["git", "worktree", "list"], cwd=project, capture_output=True, text=True).stdout
    assert len(trees.splitlines()) == 1
    projects.git(project, "commit", "-qam", "2")
    back = projects.run(project, "--perfsuite-baseline=HEAD", "--perfsuite-budget=0")
    assert back.returncode == 0 and "3 passed, 3 same" in back.stdout, back.stdout
    unknown = projects.run(project, "--perfsuite-baseline=nobody")
    assert unknown.returncode == 4 and "has no revision 'nobody'" in unknown.stderr
