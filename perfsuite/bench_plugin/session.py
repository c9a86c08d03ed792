"""One pytest session with benchmarks: what is stored, compared and shown. Hooks of pytest and of pytest-benchmark."""

import json
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from perfsuite.bench_plugin import children
from perfsuite.bench_plugin.children import Side

_LEAST_TIMEOUT_S = 120.0


class BenchSession:
    """Registered with pytest where pytest-benchmark is there, and known."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._child = os.environ.get(children.ONLY)
        self._baseline_text: str | None = None if self._child else config.getoption("perfsuite_baseline")
        self._cleanup = ExitStack()
        self._locations: dict[str, tuple[str, int | None, str]] = {}
        self._baseline: Any = None
        self._sides: tuple[Side, Side] | None = None
        self._judged: list[Any] = []
        self._processes: dict[str, list[float]] = {}
        self._yardsticks: list[dict[str, Any]] = []
        self._error: str | None = None
        self._began = time.monotonic()

    @property
    def _benchmarks(self) -> list[Any]:
        """Those that were measured."""
        session = self._config.pluginmanager.get_plugin("pytest-benchmark")
        if session is None:  # its own start failed
            return []
        return [bench for bench in session.benchmarks if bench and not bench.has_error and bench.stats]

    def pytest_report_header(self) -> list[str]:
        """What a user has to know before the tests run."""
        if self._is_distributed():
            return ["perfsuite: pytest-xdist is active, which disables benchmarks: nothing is measured"]
        if self._baseline_text:
            budget_s = self._config.getoption("perfsuite_budget")
            return [f"perfsuite: verdicts against {self._baseline_text}, at most {budget_s:g} s for each benchmark"]
        return []

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Refuse a baseline before anything is run."""
        if not self._baseline_text or hasattr(self._config, "workerinput"):
            return
        benchmark = self._config.pluginmanager.get_plugin("pytest-benchmark")
        if self._is_distributed():
            raise pytest.UsageError("--perfsuite-baseline: pytest-xdist disables benchmarks: leave -n out")
        if benchmark.disabled or benchmark.skip:
            raise pytest.UsageError("--perfsuite-baseline: benchmarks are disabled or skipped in this session")
        from perfsuite import revisions
        from perfsuite.bench_plugin import stored

        path = Path(self._baseline_text)
        try:
            if path.is_file():
                self._baseline = stored.read(path)
            else:
                revisions.commit_of(self._baseline_text, self._config.rootpath)
        except ValueError as error:
            lost = f" (and there is no file {path})" if self._baseline is None and not path.is_file() else ""
            raise pytest.UsageError(f"--perfsuite-baseline: {error}{lost}") from None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """In a process of ours, only the tests that it was started for."""
        if self._child:
            wanted = set(json.loads(Path(self._child).read_text()))
            config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in wanted])
            items[:] = [item for item in items if item.nodeid in wanted]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Build the revision now: what fails is told before the tests run."""
        found = [item for item in session.items if "benchmark" in getattr(item, "fixturenames", ())]
        self._locations = {item.nodeid: item.location for item in found}
        if not self._baseline_text or not found or self._config.option.collectonly:
            return
        budget_s = self._config.getoption("perfsuite_budget")
        self._say(f"{len(found)} benchmarks: verdicts after at most {budget_s * len(found):g} s more")
        if self._baseline:
            return
        from perfsuite.bench_plugin import trees

        self._say(f"building {self._baseline_text} and the working tree")
        try:
            self._sides = self._cleanup.enter_context(trees.sides(
                self._baseline_text, self._config.rootpath, self._config.invocation_params.dir,
                [item.path for item in found], self._config.inipath, self._passed_on()))  # fmt: skip
        except ValueError as error:
            raise pytest.UsageError(f"--perfsuite-baseline: {error}") from None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Iterator[None]:
        """Before pytest-benchmark stores and before JUnit writes: further processes, and the verdicts."""
        try:
            if not self._child and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
                self._measure(session)
        except ValueError as error:
            self._error = str(error)
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        except KeyboardInterrupt:
            self._error = "interrupted: no verdicts"
            session.exitstatus = pytest.ExitCode.INTERRUPTED
        finally:
            self._cleanup.close()
        return (yield)

    def _measure(self, session: pytest.Session) -> None:
        benchmarks = self._benchmarks
        if not benchmarks:
            return
        if self._stores() or self._baseline:
            self._yardsticks.append(self._yardstick())
        if self._stores():
            self._run_processes([bench.fullname for bench in benchmarks])
        if self._baseline_text:
            self._judge(session, benchmarks)

    def _run_processes(self, tests: Sequence[str]) -> None:
        """--perfsuite-processes: the same benchmarks in more processes, so that a stored file can be a baseline."""
        wanted = self._config.getoption("perfsuite_processes")
        for i in range(1, wanted):
            self._say(f"process {i + 1} of {wanted}")
            for test, sample in self._own_side().run(tests, self._timeout_s()).items():
                self._processes.setdefault(test, []).append(sample.time_s)
            self._yardsticks.append(self._yardstick())

    def _judge(self, session: pytest.Session, benchmarks: Sequence[Any]) -> None:
        from perfsuite.bench_plugin import gate, reports
        from perfsuite.bench_plugin.sample import Sample, typical
        from perfsuite.bench_plugin.stored import SECTION

        budget_s, strict = self._config.getoption("perfsuite_budget"), self._config.getoption("perfsuite_strict")
        if self._baseline:
            now = {bench.fullname: Sample.of(typical(bench.stats.data), bench.extra_info.get(SECTION) or {})
                   for bench in benchmarks}  # fmt: skip
            self._judged = gate.against_file(self._baseline, now, self._own_side(), budget_s, self._timeout_s(),
                                             self._say, self._yardstick)  # fmt: skip
        elif self._sides:
            tests = [bench.fullname for bench in benchmarks]
            self._judged = gate.against_revision(self._sides, tests, budget_s, self._timeout_s(), self._say,
                                                 random.Random())  # fmt: skip
        failed = session.testsfailed
        for judged in self._judged:
            location = self._locations.get(judged.test, (judged.test.partition("::")[0], None, judged.test))
            reports.send(self._config, judged, location, self._baseline_text or "", strict)
        if session.testsfailed > failed and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_generate_machine_info(self) -> dict[str, Any] | None:
        """In a process of ours nobody reads it, and finding it out takes longer than many a benchmark."""
        return {"node": "not asked for"} if self._child else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_generate_commit_info(self) -> dict[str, Any] | None:
        """The same."""
        return {"id": "not asked for"} if self._child else None

    def pytest_benchmark_update_json(self, config: pytest.Config, benchmarks: list[Any],
                                     output_json: dict[str, Any]) -> None:  # fmt: skip
        """Add this machine, its yardstick and the rounds to what pytest-benchmark stores."""
        try:
            self._add(benchmarks, output_json)
        except Exception as error:  # whatever it is, somebody's own measurements must still be stored
            self._error = f"nothing was added to the stored JSON: {type(error).__name__}: {error}"

    def _add(self, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
        from perfsuite.bench_plugin import stored
        from perfsuite.bench_plugin.sample import typical

        by_name = {bench.fullname: bench for bench in benchmarks if bench}
        judged = {one.test: one for one in self._judged}
        for entry in output_json["benchmarks"]:
            times = by_name[entry["fullname"]].stats.data
            ours = {"schema": stored.SCHEMA, "rounds_s": stored.evenly(times),
                    **(entry["extra_info"].get(stored.SECTION) or {}),
                    "process_times_s": [typical(times), *self._processes.get(entry["fullname"], [])]}  # fmt: skip
            if entry["fullname"] in judged:
                ours["judged"] = judged[entry["fullname"]].as_json(self._baseline_text)
            entry["extra_info"] = {**entry["extra_info"], stored.SECTION: ours}
        if not self._child:
            output_json[stored.SECTION] = stored.section(self._yardsticks)

    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        """A verdict that does not fail is counted by its own name, not as one more test that passed."""
        if report.outcome == "failed" or not hasattr(report, "perfsuite_word"):
            return None
        word = (report.perfsuite_word or "new").lower().replace("_", " ")
        return (word if report.when == "call" else "", "", "")

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Our table, and what went wrong."""
        if self._child:
            return
        from perfsuite.bench_plugin.stored import SECTION
        from perfsuite.verdict import CANNOT_TELL

        found = {bench.fullname: ours for bench in self._benchmarks if (ours := bench.extra_info.get(SECTION))}
        nothing = self._baseline_text and not self._judged and not self._error
        if found or self._judged or self._error or nothing:
            terminalreporter.section("perfsuite")
        if nothing:
            terminalreporter.write_line("no benchmark was measured: nothing is compared", yellow=True, bold=True)
        if found or self._judged:
            from perfsuite.bench_plugin.columns import table

            for line in table(found, self._judged):
                terminalreporter.write_line(line)
        open_ = sum(judged.word == CANNOT_TELL for judged in self._judged)
        if open_:
            advice = "raise --perfsuite-budget"
            if self._baseline:
                advice = "a revision as the baseline is run in turns and shows smaller differences"
            of = f"{open_} of {len(self._judged)} benchmarks"
            text = f"CANNOT TELL for {of}: {advice}; --perfsuite-strict fails here"
            terminalreporter.write_line(text, yellow=True, bold=True)
        if self._error:
            terminalreporter.write_line(f"perfsuite: {self._error}", red=True, bold=True)

    def pytest_unconfigure(self) -> None:
        """Whatever happened, no worktree is left behind."""
        self._cleanup.close()

    def _is_distributed(self) -> bool:
        return self._config.getoption("dist", "no") != "no" or hasattr(self._config, "workerinput")

    def _stores(self) -> bool:
        options = ("benchmark_save", "benchmark_autosave", "benchmark_json")
        return any(self._config.getoption(name, None) for name in options)

    def _own_side(self) -> Side:
        folder = self._config.invocation_params.dir
        return Side("this tree", self._config.rootpath, folder, children.own_environment(), self._passed_on())

    def _passed_on(self) -> tuple[str, ...]:
        given = self._config.invocation_params.args
        return children.passed_on([str(argument) for argument in given], self._config.args)

    def _timeout_s(self) -> float:
        """For one process: it does no more than this session did, with less time for each benchmark."""
        return _LEAST_TIMEOUT_S + 10 * (time.monotonic() - self._began)

    def _yardstick(self) -> dict[str, Any]:
        """On one thread, as most benchmarks are: two wait for each other, and tell of others' use of the processors."""
        from perfsuite.ceilings import yardstick

        return yardstick(threads=1, products="torch" in sys.modules)

    def _say(self, text: str) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and self._config.get_verbosity() >= 0:
            reporter.ensure_newline()
            reporter.write_line(f"perfsuite: {text}")
