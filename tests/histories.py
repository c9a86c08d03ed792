"""Scripted histories: files as pytest-benchmark stores them, over commits of a git repository or over made-up ones."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

NOISES = ("normal", "t3", "skewed", "bursts")


def noise(kind: str, points: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Relative noise of standard deviation `scale`: normal, heavy-tailed, one-sided, or normal with bursts."""
    if kind == "t3":
        return scale * rng.standard_t(3, points) / np.sqrt(3)
    if kind == "skewed":
        return scale * rng.exponential(1, points)
    found = scale * rng.standard_normal(points)
    if kind == "bursts":
        for _ in range(max(1, points // 40)):
            start = rng.integers(points)
            found[start : start + rng.integers(1, 4)] += rng.uniform(0.05, 0.3)
    return found


def document(times_s: Mapping[str, float], commit: str, number: int, **changed: Any) -> dict[str, Any]:
    """What pytest-benchmark 5.3 stores without data. changed: see the keys below; `perfsuite` adds that section."""
    about = {"python": "3.11.7", "node": "box", "cpu": "AMD EPYC 7B13", "version": "5.3.1", "dirty": False,
             "options": {"timer": "perf_counter", "min_rounds": 5}, "extra": {}, **changed}  # fmt: skip
    benches = [
        {"group": None, "name": name.split("::")[-1], "fullname": name, "params": None, "param": None,
         "extra_info": about["extra"], "options": about["options"],
         "stats": {"min": 0.98 * t, "max": 1.1 * t, "mean": 1.01 * t, "stddev": 0.01 * t, "rounds": 100, "median": t,
                   "iqr": 0.01 * t, "ops": 1 / t, "iterations": 1}}
        for name, t in times_s.items()
    ]  # fmt: skip
    day, second = divmod(number, 86400)
    return {
        "machine_info": {"node": about["node"], "machine": "x86_64", "python_version": about["python"],
                         "release": "6.1.0", "system": "Linux", "cpu": {"brand_raw": about["cpu"], "count": 4}},
        "commit_info": {"id": commit, "time": None, "dirty": about["dirty"], "project": "x", "branch": "main"},
        "benchmarks": benches, "version": about["version"],
        "datetime": f"2038-01-{1 + day:02}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.000001+00:00",
        **({"perfsuite": about["perfsuite"]} if "perfsuite" in about else {}),
    }  # fmt: skip


def store(folder: Path, series: Mapping[str, Sequence[float]], commits: Sequence[str] | None = None, repeats: int = 1,
          changed: Any = lambda point: {}) -> Path:  # fmt: skip
    """A file for each point (and repeat) of the series, {full name: seconds of every point}; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    points = len(next(iter(series.values()))) // repeats
    names = commits or [f"{i + 1:040x}" for i in range(points)]
    for i in range(points * repeats):
        at = i // repeats
        made = document({name: float(t[i]) for name, t in series.items()}, names[at], 60 * i, **changed(at))
        (folder / f"{i + 1:04}_{names[at]}.json").write_text(json.dumps(made))
    return folder


def repository(folder: Path, versions: Sequence[Mapping[str, str]]) -> list[str]:
    """A git repository with a commit for each version, {file: content}; their hashes, oldest first."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commits = []
    for number, version in enumerate(versions):
        for name, content in version.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--allow-empty", "--message", f"version {number}")
        commits.append(git(folder, "rev-parse", "HEAD"))
    return commits


def git(folder: Path, *arguments: str) -> str:
    """What git prints, of somebody with a name."""
    who = ["-c", "user.name=A Tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
