"""What perfsuite adds to pytest-benchmark: the fixture `perf_benchmark`, and verdicts on every benchmark."""
