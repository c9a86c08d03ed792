"""The fixture where there is no pytest-benchmark: it says so."""

import pytest


@pytest.fixture
def perf_benchmark(pytestconfig: pytest.Config) -> None:
    """Fails with the reason."""
    from perfsuite.pytest_plugin import why_not

    pytest.fail(f"perf_benchmark: {why_not(pytestconfig)}", pytrace=False)
