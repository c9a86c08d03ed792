"""Loaded into every pytest where perfsuite is installed: options, and the rest where pytest-benchmark is there.

Importing this loads pytest and the standard library only.
"""

from importlib.metadata import PackageNotFoundError, version

import pytest

KNOWN = ("5",)
"""Major versions of pytest-benchmark that this was tried with."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options, in a group of their own."""
    group = parser.getgroup("perfsuite", "perfsuite: verdicts on benchmarks")
    group.addoption("--perfsuite-baseline", metavar="FILE|REV", help="Say whether each benchmark is slower than in a "
                    "stored JSON of this machine, or at a git revision, which is built and run in turns with the "
                    "working tree. SLOWER fails.")  # fmt: skip
    group.addoption("--perfsuite-budget", metavar="SECONDS", type=_seconds, default=60.0, help="Measure what cannot be "
                    "told again, for at most so long a benchmark. Default: %(default)s")  # fmt: skip
    group.addoption("--perfsuite-strict", action="store_true", help="CANNOT_TELL fails, too.")
    group.addoption("--perfsuite-processes", metavar="N", type=_count, default=1, help="For a file to be a baseline: "
                    "store the benchmarks of so many processes, this one among them. Default: %(default)s")  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Register the hooks and the fixture, or the fixture that says why there is none."""
    from perfsuite.bench_plugin import absent, fixture, session

    if why_not(config):
        config.pluginmanager.register(absent, "perfsuite-absent")
        return
    config.pluginmanager.register(fixture, "perfsuite-fixture")
    config.pluginmanager.register(session.BenchSession(config), "perfsuite-session")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Why there is nothing to do, where that is so."""
    why = why_not(config)
    return f"perfsuite: {why}" if why else None


def pytest_sessionstart(session: pytest.Session) -> None:
    """A gate that cannot be kept is an error, not a pass."""
    why = why_not(session.config)
    if why and session.config.getoption("perfsuite_baseline"):
        raise pytest.UsageError(f"--perfsuite-baseline: {why}")


def why_not(config: pytest.Config) -> str | None:
    """Why benchmarks are left alone in this session, None where they are not."""
    manager = config.pluginmanager
    if not (manager.has_plugin("benchmark") or manager.has_plugin("pytest_benchmark.plugin")):
        return "no benchmarks, because pytest-benchmark is not there: pip install 'perfsuite[bench]'"
    try:
        found = version("pytest-benchmark")
    except PackageNotFoundError:
        found = "unknown"
    if found.partition(".")[0] not in KNOWN:
        return f"benchmarks are left alone: pytest-benchmark {found} is not known, {' or '.join(KNOWN)}.x is"
    return None


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value
