"""Records: round trip, damage, disks that refuse, and finding the one that is meant."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from perfsuite import record
from perfsuite.record import Record, RecordError


def make(**changes: object) -> Record:
    made = Record(
        id="0001-x", kind="run", created="2026-01-01T00:00:00+00:00", command=["perfsuite", "run"], commit=None,
        perfsuite_version="0.1.0", workload="llama", workload_path=None, scale="tiny", device="cpu", division="open",
        use={}, config={"num_runs": 5}, target=None, schedule=None, num_runs=5, seeds=[1, 2, 3, 4, 5], data_folder=None,
        wanted={"ledger": True, "host_stacks": False}, machine={},
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    made = make(passes=[{"kind": "clean", "index": 0, "quality": float("nan"), "n": np.int64(3)}])
    record.save(made, tmp_path)
    loaded = record.load(tmp_path)
    assert loaded.passes == [{"kind": "clean", "index": 0, "quality": None, "n": 3}]
    assert dataclasses.replace(loaded, passes=[]) == dataclasses.replace(made, passes=[])


def test_a_record_of_schema_1_is_read(tmp_path: Path) -> None:
    made = dataclasses.asdict(make())
    del made["ops"]
    record.write_json(tmp_path / "record.json", made | {"schema": 1})
    loaded = record.load(tmp_path)
    assert (loaded.ops, loaded.schema) == ("eager", record.SCHEMA) and loaded.workload == "llama"


def test_a_record_of_schema_3_had_the_batch_size_of_its_workload(tmp_path: Path) -> None:
    made = dataclasses.asdict(make())
    del made["batch_size"], made["notes"]
    record.write_json(tmp_path / "record.json", made | {"schema": 3})
    loaded = record.load(tmp_path)
    assert (loaded.batch_size, loaded.notes, loaded.schema) == (None, [], record.SCHEMA)


def test_arrays_come_back(tmp_path: Path) -> None:
    result = {"kind": "clean", "index": 3}
    record.save_arrays(tmp_path, result, {"a": np.arange(5)})
    assert record.arrays_of(tmp_path, result["arrays"])["a"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ('{"schema": 1, "id"', "not JSON"),
        ("[]", "no schema number"),
        ('{"schema": 99}', "upgrade perfsuite"),
        ('{"schema": 1, "id": "x"}', "lacks"),
    ],
)
def test_a_damaged_record_is_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(RecordError, match=says) as raised:
        record.load(tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_damaged_and_missing_arrays_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is missing"):
        record.arrays_of(tmp_path, "pass-clean-0.npz")
    (tmp_path / "pass-clean-0.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(RecordError, match="is damaged"):
        record.arrays_of(tmp_path, "pass-clean-0.npz")


def test_a_full_disk_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record.save(make(), tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match="No space left on device"):
        record.save(make(workload="other"), tmp_path)
    assert record.load(tmp_path).workload == "llama"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="choose another folder with --out"):
        record.new_folder(tmp_path / "file", "llama")


def test_numbers_go_up_and_records_are_found(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = record.new_folder(tmp_path, name)
        record.save(make(id=folder.name), folder)
    assert [f.name for f in record.list_folders(tmp_path)] == ["0001-a", "0002-b"]
    assert record.find("last", tmp_path).name == record.find("2", tmp_path).name == "0002-b"
    assert record.find("0001-a", tmp_path) == record.find(str(tmp_path / "0001-a"), tmp_path)
    with pytest.raises(RecordError, match="newest there: 0001-a, 0002-b"):
        record.find("7", tmp_path)


def test_json_has_no_nan(tmp_path: Path) -> None:
    record.write_json(tmp_path / "x.json", {"a": [float("inf"), 1.0]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [None, 1.0]}
