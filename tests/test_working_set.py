"""The working set of a step and the rows of embedding tables that it looks up, against the caches of the machine."""

import importlib.util
import itertools
import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from perfsuite.account_working_set import working_set_block
from perfsuite.harness import touched_rows
from perfsuite.report import html, terminal, working_set
from perfsuite.workloads import registry

_SPEC = importlib.util.spec_from_file_location("accounts", Path(__file__).with_name("accounts.py"))
accounts = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(accounts)

PERFSUITE = Path(sysconfig.get_path("scripts"), "perfsuite")
LOOKS_UP = Path(__file__).parent / "data" / "looks_up.py"
CEILINGS = accounts.CEILINGS
MACHINE = {"ceilings": CEILINGS, "ceilings_reason": None, "fingerprint": {"caches": [], "caches_reason": "hidden"}}
MIB = 2**20


def held(**megabytes: float) -> dict[str, Any]:
    """A pass whose peak step held so many MiB of each category."""
    categories = [{"name": name, "bytes": round(size * MIB)} for name, size in megabytes.items()]
    return {"gpu_memory": {"peak": {"step": 64, "categories": categories}}, "instruments": []}


def test_a_step_is_held_against_each_cache() -> None:
    step = held(weights=1, gradients=1, optimizer_state=2, activations=3.5, other=900)
    found = working_set_block(step, MACHINE, "cpu")
    assert found["bytes"] == 7.5 * MIB and found["fits_in"] == "L3"  # what is no part of a step is not counted
    assert [(level["name"], level["bytes"], level["fits"]) for level in found["levels"]] == [
        ("L1", 96 * 1024, False), ("L2", 4 * MIB, False), ("L3", 33 * MIB, True)]  # fmt: skip
    assert found["source"] == "alive at the peak of step 64: weights, gradients, optimizer state, activations"
    assert working_set.sentences(found) == ["7.86 MB a step, fits in the L3 (33.0 MiB)"]
    large = working_set_block(held(weights=66), MACHINE, "cpu")
    assert large["fits_in"] is None and large["rows"] is None and "embedding tables" in large["rows_reason"]
    assert working_set.sentences(large) == ["69.2 MB a step, fits in no cache: 2 x the L3 (33.0 MiB)"]


@pytest.mark.parametrize("pass_, says", [
    ({"instruments": [{"name": "memory account", "available": False, "reason": "no compiler"}]}, "no compiler"),
    ({"gpu_memory": {"peak": None}}, "recorded to its peak"),
    (held(weights=0, other=10), "what its model is"),
])  # fmt: skip
def test_what_was_not_measured_says_why(pass_: dict[str, Any], says: str) -> None:
    found = working_set_block(pass_, MACHINE, "cpu")
    assert found["bytes"] is None and says in found["reason"] and found["fits_in"] is None
    assert [level["fits"] for level in found["levels"]] == [None] * 3
    assert working_set.sentences(found) == [f"not measured: {found['reason']}"]


def test_caches_come_from_the_ceilings_of_the_device_or_from_the_processor() -> None:
    listed = {"caches": [{"level": 2, "size_bytes": MIB, "instances": 2}, {"level": 3, "size_bytes": 8 * MIB,
              "instances": 1}], "caches_reason": None}  # fmt: skip
    bare = {"ceilings": None, "ceilings_reason": "not measured", "fingerprint": listed}
    found = working_set_block(held(weights=3), bare, "cpu")
    assert [(level["name"], level["bytes"]) for level in found["levels"]] == [("L2", 2 * MIB), ("L3", 8 * MIB)]
    blind = working_set_block(held(weights=3), {**bare, "fingerprint": MACHINE["fingerprint"]}, "cpu")
    assert (blind["levels"], blind["levels_reason"], blind["fits_in"]) == ([], "hidden", None)
    assert "caches are not known: hidden" in working_set.sentences(blind)[0]
    on_gpu = working_set_block(held(weights=3), bare, "cuda")
    assert (on_gpu["levels"], on_gpu["levels_reason"]) == ([], "not measured")
    gpu = {"levels": [{"name": "L2", "capacity_bytes": 50 * MIB}, {"name": "DRAM", "capacity_bytes": None}]}
    found = working_set_block(held(weights=3), MACHINE | {"ceilings": CEILINGS | {"gpus": [gpu]}}, "cuda")
    assert [(level["name"], level["fits"]) for level in found["levels"]] == [("L2", True)]


def test_different_rows_are_counted_in_a_batch_and_over_the_window() -> None:
    job = registry.load(str(LOOKS_UP)).build(None, "cpu", 1)
    found = touched_rows.measure(job, job.synthetic())
    assert found["batches"] == touched_rows.MOST_BATCHES == 64
    users, films = found["tables"]
    assert users == {"name": "users", "row_bytes": 64, "lookups": 64 * 20, "rows_by_batch": [10] * 64, "rows": 640}
    assert films == {"name": "films", "row_bytes": 128, "lookups": 64 * 5, "rows_by_batch": [5] * 64, "rows": 5}
    assert touched_rows.measure(job, itertools.islice(job.synthetic(), 3))["tables"][0]["rows"] == 30
    assert touched_rows.measure(object(), job.synthetic()) is None


@pytest.mark.parametrize("rows", [torch.arange(3), {"t": torch.arange(3)}, {"t": (torch.zeros(3), 4)},
                                  {"t": (torch.zeros(3, 2, dtype=torch.int64), 4)}])  # fmt: skip
def test_rows_that_are_not_what_was_promised_are_refused(rows: Any) -> None:
    class Job:
        def rows(self, batch: int) -> Any:
            return rows

    with pytest.raises(ValueError, match=r"rows\(batch\)"):
        touched_rows.measure(Job(), itertools.count())


def looked_up(rows: int) -> dict[str, Any]:
    table = {"name": "t", "row_bytes": 1024, "lookups": 640, "rows_by_batch": [4, 6] * 32, "rows": rows}
    return {**held(weights=200), "rows": {"batches": 64, "tables": [table, table | {"name": "u"}]}}


def test_rows_are_held_against_the_last_level() -> None:
    found = working_set_block(looked_up(33 * 1024), MACHINE, "cpu")["rows"]
    assert found["bytes"] == 2 * 33 * MIB and found["times_last_level"] == 2.0 and found["fits"] is False
    assert found["last_level"] == {"name": "L3", "bytes": 33 * MIB}
    assert found["bytes_per_batch"] == 2 * 5 * 1024 and found["tables"][0]["lookups_per_batch"] == 10
    small = working_set_block(looked_up(1024), MACHINE, "cpu")
    assert small["rows"]["fits"] is True and small["fits_in"] is None
    assert working_set.sentences(small)[1] == (
        "rows looked up: 10.2 kB in a batch, 2.10 MB in 64 batches, 0.0606 x the L3 (33.0 MiB), fits")  # fmt: skip


def test_terminal_and_page_show_both() -> None:
    account = accounts.run_account() | {"working_set": working_set_block(looked_up(33 * 1024), MACHINE, "cpu")}
    console = Console(width=100)
    with console.capture() as shown:
        console.print(terminal.summary(account, None))
    said = " ".join(shown.get().split())
    page = html.render(account)
    for words in ("fits in no cache: 6.06 x the L3", "69.2 MB in 64 batches, 2 x the L3 (33.0 MiB)"):
        assert words in said and words in page
    assert "Working set" in page and "embedding table" in page


def test_a_ledger_pass_records_them_after_the_clock(tmp_path: Path) -> None:
    command = [PERFSUITE, "run", LOOKS_UP, "--runs", "1", "--device", "cpu", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 1, done.stderr  # its target cannot be reached
    found = json.loads(done.stdout)["working_set"]
    parameters = 4 * (4000 * 16 + 5 * 32)
    assert 2 * parameters <= found["bytes"] < 3.5 * parameters  # weights and gradients, and what the step works with
    users, films = found["rows"]["tables"]
    assert (users["rows_per_batch"], users["lookups_per_batch"], users["rows"]) == (10, 20, 640)
    assert (films["rows"], found["rows"]["bytes"]) == (5, 640 * 64 + 5 * 128)
    (folder,) = (tmp_path / "runs").iterdir()
    (ledger, clean) = (next(p for p in json.loads((folder / "record.json").read_text())["passes"] if p["kind"] == kind)
                       for kind in ("ledger", "clean"))  # fmt: skip
    assert ledger["samples"] == clean["samples"] == 100 and "rows" not in clean
