"""pytest in processes of their own, each running the same benchmarks once; what is read is pytest-benchmark's JSON."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perfsuite.bench_plugin.sample import Sample, typical
from perfsuite.bench_plugin.stored import SECTION

ONLY = "PERFSUITE_BENCH_ONLY"
"""Environment variable that makes a pytest such a process: path of a JSON list of the tests to run."""
_BRIEF = ("--benchmark-max-time=0.2", "--benchmark-min-rounds=5")
# Options of the session that would write its files again, compare again or stop half-way: with how many values.
_NOT_PASSED_ON: dict[str, int | str] = {
    "--junitxml": 1, "--junit-xml": 1, "--benchmark-json": 1, "--benchmark-save": 1, "--benchmark-autosave": 0,
    "--benchmark-save-data": 0, "--benchmark-compare": "?", "--benchmark-compare-fail": "+",
    "--benchmark-histogram": "?", "--benchmark-storage": 1, "--benchmark-skip": 0, "--benchmark-cprofile": 1,
    "--benchmark-cprofile-dump": "?", "--perfsuite-baseline": 1, "--perfsuite-budget": 1, "--perfsuite-strict": 0,
    "--perfsuite-processes": 1, "-x": 0, "--exitfirst": 0, "--maxfail": 1, "--lf": 0, "--last-failed": 0, "--ff": 0,
    "--failed-first": 0, "--nf": 0, "--new-first": 0, "--sw": 0, "--stepwise": 0, "--pdb": 0, "--rootdir": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Side:
    """What is run: a tree of files with an environment."""

    name: str
    root: Path
    """pytest's rootdir in this tree."""
    folder: Path
    """Where pytest is called."""
    environment: dict[str, str]
    arguments: tuple[str, ...]
    """Options of the session, without files: passed_on()."""

    def run(self, tests: Sequence[str], timeout_s: float) -> dict[str, Sample]:
        """The samples of one process by test; a test that failed is not in it. ValueError where pytest cannot run."""
        with tempfile.TemporaryDirectory(prefix="perfsuite-bench-") as scratch:
            only, out = Path(scratch, "only.json"), Path(scratch, "out.json")
            only.write_text(json.dumps(list(tests)))
            files = dict.fromkeys(str(self.root / test.partition("::")[0]) for test in tests)
            command = [
                sys.executable, "-m", "pytest", "-q", f"--rootdir={self.root}", *_BRIEF, *self.arguments, *files,
                "--benchmark-only", f"--benchmark-json={out}", f"--benchmark-storage=file://{scratch}/storage",
                "--junit-xml=", "-o", f"cache_dir={scratch}/cache", "--continue-on-collection-errors",
            ]  # fmt: skip
            try:
                done = subprocess.run(command, cwd=self.folder, env=self.environment | {ONLY: str(only)},
                                      capture_output=True, text=True, errors="replace", timeout=timeout_s)  # fmt: skip
            except subprocess.TimeoutExpired:
                raise ValueError(f"the benchmarks of {self.name} did not end within {timeout_s:.0f} s") from None
            try:
                document = json.loads(out.read_text())
            except (OSError, ValueError):
                if done.returncode in (0, 1, 5):  # all failed, or none is there
                    return {}
                raise ValueError(f"pytest cannot run the benchmarks of {self.name}: {_last_line(done)}") from None
        return {bench["fullname"]: sample for bench in document["benchmarks"] if (sample := _sample(bench))}


def passed_on(arguments: Sequence[str], files: Sequence[str]) -> tuple[str, ...]:
    """The options of the session that its processes get as well; `files` are its positional arguments."""
    kept, rest, positional = [], list(arguments), list(files)
    while rest:
        argument = rest.pop(0)
        name, equals, _ = argument.partition("=")
        values = _NOT_PASSED_ON.get(name)
        if argument in positional:
            positional.remove(argument)
        elif values is None:
            kept.append(argument)
        elif not equals:
            most = {"?": 1, "+": len(rest)}.get(values, values)
            while rest and most and (values == 1 or not rest[0].startswith("-")):
                rest.pop(0)
                most -= 1
    return tuple(kept)


def own_environment() -> dict[str, str]:
    """Of this session: `python -m pytest` puts the current folder on the path, `pytest` does not."""
    here = {"", os.getcwd()} & set(sys.path)
    return dict(os.environ) if here else {**os.environ, "PYTHONSAFEPATH": "1"}


def _sample(bench: dict) -> Sample | None:
    data = [time for time in bench["stats"]["data"] if time > 0]
    return Sample.of(typical(data), bench["extra_info"].get(SECTION) or {}) if data else None


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR", "E  ", "INTERNALERROR> "))]
    return (errors or lines or ["it said nothing"])[-1]
