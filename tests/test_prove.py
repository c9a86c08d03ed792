"""`perfsuite prove`: a right kernel is proven right, words follow figures, and bad input is one line."""

import copy
import json
import math
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from perfsuite import roofline
from perfsuite.kernels import contract
from perfsuite.kernels.contract import Case
from perfsuite.kernels.own_file import kernel_from_file
from perfsuite.op_bench.measure import AGAIN
from perfsuite.prove import faster, inspected, measure, run
from perfsuite.report.prove_page import page
from perfsuite.report.prove_text import render

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



@pytest.fixture(scope="module")
def honest() -> dict[str, Any]:
    """What is seen of a right kernel; times are real and mean nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        return seen_of(DATA / "my_rms_norm.py", patch, examples=30)


def test_a_right_kernel_is_right(honest: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not honest["failures"] and honest["rounds"] in faster.LOOKS and not honest["fallback"]
    right = proof(honest, monkeypatch)["steps"][0]
    assert right["result"] == "passed" and {c["check"] for c in right["checks"]} >= {"case", "drawn", "gradcheck"}
    assert all(one["calls"] >= 2 for one in right["timed"])


def test_faster_than_the_machine_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = roofline.Level("DRAM", math.inf, {0.5: roofline.Rate(1e3, 0.0)})
    slow = roofline.Machine((memory,), {"f32": roofline.Rate(1e9, 0.0)}, None)
    monkeypatch.setattr(measure, "_check", lambda *arguments: None)
    seen = seen_of(DATA / "my_rms_norm.py", monkeypatch, machine=slow)
    found = proof(seen, monkeypatch)
    assert found["refuted_by"] == "right" and "faster than this machine can be" in found["why"]


def test_torch_under_another_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, eager = kernel_from_file(CHEATS / "falls_back.py", OP), OP.implementations["eager"]
    assert measure.falls_back(OP, kernel, CASE, "cpu") and measure.falls_back(OP, eager, CASE, "cpu")
    assert not measure.falls_back(OP, kernel_from_file(DATA / "my_rms_norm.py", OP), CASE, "cpu")


# -- faster -----------------------------------------------------------------------------------------------------------

WAVE = (1.0, 1.02, 0.97, 1.01, 0.99, 1.03, 0.98, 1.0, 1.015, 0.985)


def times(forward_us: float, backward_us: float = 0.0, shift: int = 0, clock_hz: float | None = None,
          lowered_by: tuple[str, ...] = ()) -> dict[str, Any]:  # fmt: skip
    wave = WAVE[shift:] + WAVE[:shift]
    return {"forward": [1e3 * forward_us * w for w in wave],
            "backward": [1e3 * backward_us * w for w in wave] if backward_us else [],
            "clock_hz": [clock_hz] * len(wave) if clock_hz else [], "lowered_by": list(lowered_by)}  # fmt: skip


def sampled(theirs: Any, **others: Any) -> dict[str, Any]:
    base = {"eager": times(100, 200, 1), AGAIN: times(100, 200, 1), "compile": times(80, 150, 2), **others}
    return {**base, "mine.py": theirs}


def judged(*of_cases: dict[str, Any], ours: str | None = None) -> dict[str, Any]:
    samples = {f"case {index}": of for index, of in enumerate(of_cases)}
    return faster.judge(samples, "mine.py", ["eager", "compile"], ours, AGAIN)


@pytest.mark.parametrize("theirs, word, against", [
    (times(60, 110, 3), "FASTER", "compile"), (times(90, 170, 3), "SLOWER", "compile"),
    (times(80, 150, 2), "SAME", "compile"), (times(77, 143, 5), "CANNOT_TELL", "compile"),
])  # fmt: skip
def test_it_has_to_be_faster_than_every_yardstick(theirs: Any, word: str, against: str) -> None:
    found = judged(sampled(theirs))
    assert (found["verdict"], found["against"]) == (word, against), found


def test_the_geometric_mean_decides_and_a_loss_is_named() -> None:
    found = judged(sampled(times(20, 40, 3)), sampled(times(100, 180, 4)), ours=None)
    assert found["verdict"] == "FASTER" and found["losses"] == ["case 1"]
    assert found["ratio"] == pytest.approx(math.sqrt(60 / 230 * 280 / 230), rel=0.03)
    assert found["audit"] is None
    assert "it needs an audit" in judged(sampled(times(20, 40, 3)))["audit"]


def test_ours_is_shown_and_does_not_decide() -> None:
    found = judged(sampled(times(60, 110, 3), perfsuite=times(20, 30, 1)), ours="perfsuite")
    words = {line["against"]: line["verdict"] for line in found["overall"] if line["direction"] == "both"}
    assert words == {"eager": "FASTER", "compile": "FASTER", "perfsuite": "SLOWER"} and found["verdict"] == "FASTER"


def test_on_a_gpu_cycles_must_say_the_same() -> None:
    """Less time only because the clock was higher; a clock that was lowered takes the verdict away."""
    def on_gpu(mine: Any) -> Any:
        others = {"eager": times(100, 200, 1, 1e9), AGAIN: times(100, 200, 1, 1e9), "compile": times(99, 199, 2, 1e9)}
        return judged(sampled(mine, **others))

    assert on_gpu(times(50, 100, 3, 1e9))["verdict"] == "FASTER"
    found = on_gpu(times(50, 100, 3, 2e9))
    assert found["verdict"] == "CANNOT_TELL" and "in cycles" in found["why"]
    found = on_gpu(times(50, 100, 3, 1e9, ("software power cap",)))
    assert found["verdict"] == "CANNOT_TELL" and "software power cap" in found["why"]


def test_what_equals_differ_by_raises_the_threshold() -> None:
    assert judged(sampled(times(60, 110, 3), **{AGAIN: times(160, 320, 1)}))["verdict"] == "CANNOT_TELL"


def test_an_op_without_gradient() -> None:
    others = {"eager": times(100, 0, 1), AGAIN: times(100, 0, 1), "compile": times(80, 0, 2)}
    found = judged(sampled(times(50, 0, 3), **others))
    assert found["verdict"] == "FASTER" and found["direction"] == "forward"


# -- the whole ---------------------------------------------------------------------------------------------------------


def scripted(honest: dict[str, Any], theirs: Any) -> dict[str, Any]:
    """What was seen of a right kernel, with times that are a script."""
    of = sampled(theirs, perfsuite=times(50, 90, 4))
    (case,) = honest["samples"]
    return {**honest, "samples": {case: {name if name != "mine.py" else "my_rms_norm.py": t for name, t in of.items()}}}


@pytest.mark.parametrize("theirs, verdict, by", [
    (times(60, 110, 3), "PROVEN", None), (times(80, 150, 2), "REFUTED", "faster"),
    (times(77, 143, 5), "CANNOT_TELL", None),
])  # fmt: skip
def test_the_proof(theirs: Any, verdict: str, by: str | None, honest: dict[str, Any],
                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    found = proof(scripted(honest, theirs), monkeypatch)
    assert (found["verdict"], found["refuted_by"]) == (verdict, by)
    assert [step["step"] for step in found["steps"]] == list(run.STEPS)
    json.dumps(found, allow_nan=False)
    console = Console(width=100, record=True, file=open("/dev/null", "w"))
    console.print(render(found))
    text = console.export_text()
    assert text.startswith(verdict) and max(map(len, text.splitlines())) <= 100
    assert verdict == "REFUTED" or ("geometric mean" in text and "/ compile" in text)
    html = page(found)
    assert html.startswith("<!doctype html>") and "http" not in html.replace("http-equiv", "")
    assert verdict.replace("_", " ") in html and found["sha256"] in html


def test_names_cannot_break_out_of_the_page(honest: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found = proof({**honest, "failures": ["<script>alert(1)</script> [bold]x[/]"]}, monkeypatch)
    assert "<script>" not in page(found)
    console = Console(width=100, record=True, file=open("/dev/null", "w"))
    console.print(render(found))
    assert "[bold]x[/]" in console.export_text()


# -- inspected --------------------------------------------------------------------------------------------------------


def test_triton_kernels_of_a_file_are_inspected() -> None:
    pytest.importorskip("triton")
    small = copy.copy(OP)
    small.cases = lambda scale: OP.cases(scale)[:1]
    mine = contract.Implementation("mine", OP.implementations["triton"].run, lambda device: None)
    rows, reason = inspected.inspected(small, mine, "cuda", arch=90)
    assert reason is None and {row["impl"] for row in rows} == {"mine"} and all(row["registers"] for row in rows)
    rows, reason = inspected.inspected(small, OP.implementations["eager"], "cuda", arch=90)
    assert rows == [] and "no Triton kernel" in reason
    assert "CPU" in inspected.inspected(OP, OP.implementations["eager"], "cpu")[1]
