"""Log lines of every round's format are found in whatever else a log holds, with the numbers of their lines."""

import importlib.util
from pathlib import Path

import pytest

from perfsuite.mlperf import reader, run_log

spec = importlib.util.spec_from_file_location("mlperf_logs", Path(__file__).with_name("mlperf_logs.py"))
logs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(logs)

V05 = """noise
:::MLPv0.5.0 ncf 1542332100.5 (train.py:12) run_start
:::MLPv0.5.0 ncf 1542332110.25 (train.py:14) opt_learning_rate: 0.0045
:::MLPv0.5.0 ncf 1542332120.0 (train.py:20) eval_accuracy: {"epoch": 3, "value": 0.641}
0: :::MLPv0.5.0 ncf 1542332130.5 (train.py:30) run_stop: {"success": true}
:::MLPv0.5.0 ncf 1542332131.5 (train.py:31) run_final
"""
V06 = """:::MLL 1558640000.25 run_start: {"value": null, "metadata": {"lineno": 1, "file": "a.py"}}
:::MLL 1558640060.25 eval_accuracy: {"value": 0.76, "metadata": {"epoch_num": 61}}
:::MLL 1558640061.25 run_stop: {"value": null, "metadata": {"status": "success"}}
"""


def read(tmp_path, data):
    path = tmp_path / "result_0.txt"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return reader.read(path)


def test_v05(tmp_path):
    log = read(tmp_path, V05)
    assert [(e.line, e.key) for e in log.entries][:2] == [(2, "run_start"), (3, "opt_learning_rate")]
    assert log.formats == {"0.5"} and not log.faults
    run = run_log.summarise(log)
    assert run.benchmark == "ncf" and run.time_to_train_s == pytest.approx(30.0) and run.converged
    assert (run.last.quality, run.last.units, run.last.unit) == (0.641, 3.0, "epoch")


def test_v06(tmp_path):
    run = run_log.summarise(read(tmp_path, V06))
    assert run.time_to_train_s == pytest.approx(61.0) and run.status == "success"
    assert (run.last.quality, run.last.units) == (0.76, 61.0)


def test_v07_with_noise_around_and_before_the_token(tmp_path):
    lines = [f"12:  rank0: {line}" for line in logs.text(logs.run(2)).splitlines()]
    noise = ["epoch 1", "\x00\xff\xfe garbage", ":::MLPERF banner", ":::NVLOGv0.2.2 resnet 1.2 (a.py:1) x"]
    data = "\n".join([*noise, *lines, *noise]).encode("latin-1")
    log = read(tmp_path, data)
    assert len(log.entries) == len(lines) and not log.faults
    assert log.entries[0].line == 5 and log.entries[-1].line == 4 + len(lines)


def test_a_progress_bar_ends_in_a_carriage_return(tmp_path):
    first, second = logs.text(logs.run(2)).splitlines()[:2]
    log = read(tmp_path, f"50 %\r{first}\r100 %\r\n{second}\r\n")
    assert [entry.line for entry in log.entries] == [1, 2]


@pytest.mark.parametrize(
    "line",
    [
        ':::MLLOG {"time_ms": 1, "key": "x"',
        ':::MLLOG {"time_ms": 1, "key": "x", "value": 1}',
        ':::MLLOG {"time_ms": null, "key": "x", "value": 1, "metadata": {}}',
        ':::MLLOG {"time_ms": 1e400, "key": "x", "value": 1, "metadata": {}}',
        ':::MLLOG {"time_ms": NaN, "key": "x", "value": 1, "metadata": {}}',
        ':::MLLOG {"time_ms": 1, "key": ["x"], "value": 1, "metadata": {}}',
        ":::MLLOG []",
        ":::MLLOG " + "[" * 100_000,
        ':::MLLOG {"time_ms": ' + "9" * 5000 + ', "key": "x", "value": 1, "metadata": {}}',
        ":::MLL 12x run_start: {}",
        ":::MLPv0.5.0 ncf run_start",
    ],
)
def test_what_cannot_be_read_is_a_fault_with_its_line(tmp_path, line):
    log = read(tmp_path, f"noise\n{line}\n{logs.text(logs.run(1))}")
    assert [fault.line for fault in log.faults] == [2] and log.faults[0].why
    assert len(log.entries) == len(logs.run(1))


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the log .*nothing\.txt: No such file"):
        reader.read(tmp_path / "nothing.txt")
