"""Step one of `perfsuite prove`: every way of looking right or fast without being it is refuted there."""

import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch

from perfsuite.kernels import contract
from perfsuite.kernels.contract import Case
from perfsuite.kernels.own_file import kernel_from_file
from perfsuite.op_bench.measure import AGAIN
from perfsuite.prove import measure, run
from perfsuite.prove.contenders import CaseBench, Kept

PERFSUITE = Path(sysconfig.get_path("scripts"), "perfsuite")
DATA = Path(__file__).parent / "data"
CHEATS = DATA / "cheats"
OP = contract.op("rms_norm")
CASE = Case("float32", {"rows": 40, "width": 128})


def seen_of(file: Path, monkeypatch: pytest.MonkeyPatch, machine: Any = None, **asked: Any) -> dict[str, Any]:
    """What the measuring process says, from this process, on a machine whose ceilings are not known or as given."""
    monkeypatch.setattr(measure, "machine_of", lambda device, say: (machine, 1 << 18, {}))
    request = {"file": str(file), "op": "rms_norm", "device": "cpu", "scale": "tiny", "case": "9x70", "budget_s": 0.0,
               "draws": 32, "examples": 0, **asked}  # fmt: skip
    return measure.measure(request, lambda what, share: None)


def proof(seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch, file: Path = DATA / "my_rms_norm.py") -> Any:
    """The whole proof from what was seen."""
    monkeypatch.setattr(run, "in_a_process", lambda asked, say: seen)
    return run.prove(run.Request(file=file, op="rms_norm", device="cpu"), lambda what, share: None, None)


# -- right ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, says", [
    ("cached_by_address", "RMS error"),
    ("cached_by_version", "RMS error"),
    ("reuses_memory", "output: NaN"),
    ("zeroes_inputs", "x was changed"),
    ("lazy_tensor", "is a Later, not a plain tensor"),
    ("low_precision", "RMS error"),
    ("constant", "RMS error"),
    ("nan_wildcard", "NaN or infinite where eager is not"),
    ("works_on_in_a_thread", "NaN or infinite where eager is not"),
])  # fmt: skip
def test_cheats_are_not_right(name: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = proof(seen_of(CHEATS / f"{name}.py", monkeypatch), monkeypatch)
    assert (found["verdict"], found["refuted_by"]) == ("REFUTED", "right")
    assert says in "; ".join(found["steps"][0]["failures"])
    assert [step["result"] for step in found["steps"][1:]] == ["not reached"] * 3


def timed_by(name: str, rounds: int) -> CaseBench:
    kernel = kernel_from_file(CHEATS / f"{name}.py", OP)
    bench = CaseBench(OP, CASE, "cpu", 1 << 20, [OP.implementations["eager"], kernel])
    for _ in range(rounds):
        bench.round(look_closely=True)
    return bench


@pytest.mark.parametrize("name, says", [
    ("cached_by_address", "RMS error"), ("cached_by_version", "RMS error"), ("zeroes_inputs", "x was changed"),
    ("skips_after_checks", "RMS error"), ("works_on_in_a_thread", ""),
])  # fmt: skip
def test_the_very_calls_that_are_timed_are_looked_at(name: str, says: str) -> None:
    """These would pass where other calls than the timed ones are checked."""
    bench = timed_by(name, 6)
    report = bench.found.report(OP, name, CASE.name)
    assert not report.ok and says in "; ".join(report.failures)


def test_a_result_that_changes_after_its_call_is_noticed() -> None:
    """What a thread or a stream leaves for later may be there when results are compared."""
    kept, still = Kept("cpu"), Kept("cpu")
    late, there = torch.zeros(5000), torch.full((5000,), torch.nan)
    kept.take((late, there))
    still.take((there,))
    late += torch.linspace(0, 1, 5000)
    assert kept.changed_later() and not still.changed_later()


def test_clocks_that_disagree_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the two runs slowly, block for block; a thread that waits once is nobody's fault."""
    from perfsuite.prove import contenders

    real = contenders._perf_counter_ns
    monkeypatch.setattr(contenders, "_perf_counter_ns", lambda: real() // 10)
    kernel = kernel_from_file(DATA / "my_rms_norm.py", OP)
    case = Case("float32", {"rows": 4000, "width": 256})
    bench = CaseBench(OP, case, "cpu", 1, [OP.implementations["eager"], kernel])
    bench.round(look_closely=False)
    assert "two clocks disagree" in bench.disagreement


def test_calls_of_a_right_kernel_pass() -> None:
    kernel = kernel_from_file(DATA / "my_rms_norm.py", OP)
    bench = CaseBench(OP, CASE, "cpu", 1 << 20, [OP.implementations["eager"], kernel])
    for _ in range(5):
        bench.round(look_closely=True)
    report = bench.found.report(OP, kernel.name, CASE.name)
    assert report.ok and report.draws == 5 and {e.name for e in report.errors} == {"output", "grad_x", "grad_weight"}
    assert [one.impl for one in bench.timed] == ["eager", "my_rms_norm", AGAIN]
    assert all(len(one.forward_ns) == len(one.backward_ns) == 5 for one in bench.timed) and bench.disagreement is None


def test_ops_that_change_their_arguments_are_timed_and_looked_at() -> None:
    op = contract.op("adamw")
    case = next(case for case in op.cases("tiny") if case.dtype == "float32")
    bench = CaseBench(op, case, "cpu", 1 << 20, [op.implementations["eager"], op.implementations["eager"]])
    bench.theirs = "eager"
    for _ in range(3):
        bench.round(look_closely=True)
    report = bench.found.report(op, "eager", case.name)
    assert report.ok and any(error.name.startswith("params") for error in report.errors)


def prove(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [PERFSUITE, "prove", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.mark.parametrize("name, says", [
    ("patches_timers", "time.perf_counter_ns was replaced"),
    ("slows_the_others", "autograd's anomaly mode was changed from False to True"),
    ("crashes", "signal 11"),
])  # fmt: skip
def test_what_it_is_measured_with_must_stay(name: str, says: str, tmp_path: Path) -> None:
    done = prove(str(CHEATS / f"{name}.py"), "--op", "rms_norm", "--device", "cpu", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert done.returncode == 1 and found["refuted_by"] == "right" and says in "; ".join(found["steps"][0]["failures"])


def test_a_clock_that_is_replaced_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from perfsuite.op_bench import clocks

    monkeypatch.setattr(clocks, "_now", clocks._now)  # put back afterwards
    monkeypatch.setattr(measure, "_check", lambda *arguments: None)
    seen = seen_of(CHEATS / "patches_the_clock_later.py", monkeypatch)
    assert "perfsuite.op_bench.clocks._now was replaced" in seen["failures"]
