"""What the terminal shows: figures, the summary, progress while a run goes on, the list of records."""

import importlib.util
import io
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from perfsuite.record import Record
from perfsuite.report import figures
from perfsuite.report.progress import RunProgress
from perfsuite.report.runs_text import brief, table
from perfsuite.report.terminal import summary


def _accounts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("accounts", Path(__file__).with_name("accounts.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


accounts = _accounts()
KINDS = ("run_account", "not_converged", "with_power", "watched", "unfinished", "hostile")


def shown(renderable: Any, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(14.2333, "s", "14.2 s"), (6.58e-5, "s", "65.8 µs"), (999.6, "B", "1.00 kB"), (0.9996, "s", "1.00 s"),
     (0, "B", "0 B"), (None, "s", "-"), (118_400_000, "B", "118 MB"), (24.1e9, "B/s", "24.1 GB/s"),
     (1e-12, "s", "0.00100 ns"), (-1.5e-3, "s", "-1.50 ms"), (9.996, "s", "10.0 s"), (99.96, "s", "100 s")],
)  # fmt: skip
def test_si(value: float | None, unit: str, text: str) -> None:
    assert figures.si(value, unit) == text


def test_other_figures() -> None:
    assert figures.percent(0.312) == "31.2 %"
    assert figures.percent(0.00704) == "0.70 %"
    assert figures.percent(0.00001) == "< 0.01 %"
    assert figures.percent(None) == "-"
    assert figures.seconds(7300) == "2.03 h"
    assert figures.capacity(2 * 48 * 1024) == "96.0 KiB"
    assert figures.overhead(0.997) == "-0.3 %"


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_summary_fits(kind: str, width: int) -> None:
    text = shown(summary(getattr(accounts, kind)(), "runs/0007/report.html"), width)
    assert max(map(len, text.splitlines())) <= width
    assert "runs/0007/report.html" in text


def test_summary_opens_with_the_answer_and_says_what_it_is_made_of() -> None:
    text = shown(summary(accounts.run_account(), None))
    order = [text.index(part) for part in ("reaches 2.40 nats per byte in 14.2 s", "limited by", "samples to target")]
    assert order == sorted(order)
    assert re.search(r"samples to target +x? ?= 219,136 +runs 204,800 to 245,760", text)
    assert re.search(r"x time per sample += 65.8 µs +runs 64.0 µs to 66.3 µs", text)
    assert "95 % interval 12.9 s to 15.6 s; 5 of 5 runs" in text


@pytest.mark.parametrize("width", [80, 100])
def test_printed_phases_add_up_to_the_printed_clock(width: int) -> None:
    text = shown(summary(accounts.run_account(), None), width)
    lines = {m[1]: float(m[2]) for m in re.finditer(r"^(\w+) +(\d+\.\d{3}) +[\d.]+ %", text, re.MULTILINE)}
    clock = lines.pop("clock")
    assert list(lines) == ["data", "forward", "backward", "optimizer", "evaluation", "other", "unattributed"]
    assert sum(lines.values()) == pytest.approx(clock, abs=0.0005 * len(lines))


def test_summary_of_a_run_that_did_not_converge() -> None:
    text = " ".join(shown(summary(accounts.not_converged(), None)).split())
    assert "2 of 5 runs did not reach the target" in text
    assert "time per sample" not in text
    assert "1 of 4 failed" in text and "some code is in no phase" in text


def test_what_is_absent_has_a_reason() -> None:
    text = shown(summary(accounts.watched(), None))
    for reason in ("an accounted loop has no target", "no energy sensor", "no op recorder in this pass"):
        assert reason in text
    assert "812 J ± 19.5 J, 57.1 W on average" in shown(summary(accounts.with_power(), None))


def test_names_are_not_markup() -> None:
    text = shown(summary(accounts.hostile(), None), 400)
    assert text.count("[bold red]x[/]<img src=x onerror=alert(1)>") >= 10


def test_ops_on_other_threads_have_no_share_of_the_clock() -> None:
    account = accounts.run_account()
    first = account["ledger"]["ops"][0]
    first["thread"] = "other"
    line = next(line for line in shown(summary(account, None)).splitlines() if line.startswith("aten::mm "))
    assert re.search(r"1\.19 s +- +compute", line)


def record(passes: list[dict[str, Any]], **changes: Any) -> Record:
    fields = dict(
        id="0003-llama", kind="run", created="2026-03-02T10:15:04+00:00", command=[], commit=None,
        perfsuite_version="0.1.0", workload="llama", workload_path=None, scale="tiny", device="cpu", division="open",
        use={}, config={"num_runs": 2}, target=accounts.TARGET,
        schedule={"max_samples": 4000, "eval_every_samples": 100}, num_runs=2, seeds=[1, 2], data_folder=None,
        wanted={"ledger": True, "host_stacks": False}, machine={}, passes=passes,
    )  # fmt: skip
    return Record(**(fields | changes))


def clean(index: int, reached: bool = True, samples: int = 1000) -> dict[str, Any]:
    return {
        "kind": "clean", "index": index, "seed": index + 1, "state": "done", "error": None, "reached": reached,
        "stop_reason": "target" if reached else "max_samples", "quality": 2.39, "samples": samples,
        "clock_ns": 2_000_000_000, "init_ns": 1, "init_excess_ns": 0, "init": {}, "evaluations": [], "losses": [],
    }  # fmt: skip


def progress(width: int = 140, terminal: bool = False) -> tuple[RunProgress, io.StringIO]:
    out = io.StringIO()
    return RunProgress(Console(file=out, width=width, force_terminal=terminal, color_system=None)), out


def message(samples: int, **more: Any) -> dict[str, Any]:
    return {"event": "progress", "samples": samples, "loss": None, "quality": None, "elapsed_s": 1.0} | more


def test_without_a_terminal_there_is_a_line_for_each_pass_and_note() -> None:
    shows, out = progress()
    with shows:
        shows.note("building the [torch] extension")
        shows.pass_started("clean", 0, 2, record([]))
        shows.update(message(500, loss=2.5))
        shows.pass_done(clean(0))
        shows.pass_started("clean", 1, 2, record([]))
        shows.pass_done(clean(1, reached=False, samples=4000))
        shows.pass_started("ledger", 0, 1, record([]))
        shows.update({"event": "own_cost"})
        shows.update({"event": "done"})
        shows.pass_done({"kind": "ledger", "index": 0, "seed": 1, "state": "failed", "error": "it was killed [9]"})
    assert out.getvalue().splitlines() == [
        "building the [torch] extension",
        "run 1 of 2: target reached in 2.00 s, 1,000 samples, validation loss 2.39 (seed 1)",
        "run 2 of 2: target not reached, stopped by max_samples after 2.00 s, 4,000 samples, validation loss 2.39 "
        "(seed 2)",
        "ledger pass: failed: it was killed [9]",
    ]


def test_in_a_terminal_it_shows_loss_metric_and_time_left() -> None:
    shows, out = progress(terminal=True)
    with shows:
        shows.pass_started("clean", 0, 2, record([]))
        shows.update(message(1000, loss=2.5, quality=2.61, elapsed_s=10.0))
    assert "loss 2.500, validation loss 2.610 (target ≤ 2.4), at most 30 s left" in out.getvalue()


def test_time_left_is_taken_from_the_passes_before() -> None:
    shows, out = progress(terminal=True)
    with shows:
        shows.pass_started("clean", 0, 2, record([]))
        shows.pass_done(clean(0, samples=2000))
        shows.pass_started("clean", 1, 2, record([]))
        shows.update(message(1000, loss=2.5, elapsed_s=10.0))
    assert re.search(r"loss 2\.500, about 10 s left, \d+ s in all", out.getvalue())


def test_progress_of_passes_that_know_no_target() -> None:
    shows, out = progress(terminal=True)
    with shows:
        shows.pass_started("clean", 0, 1, record([], target=None, schedule=None))
        shows.update(message(0))
        shows.update(message(10, quality=1.0))
        shows.pass_done(clean(0) | {"quality": None})
    assert "run: target reached" in out.getvalue()


def test_list_of_records() -> None:
    scored = brief(record([clean(0), clean(1)]))
    assert scored["time_to_train_s"] == 2.0 and scored["time_to_train_reason"] is None
    assert (scored["passes_done"], scored["passes_planned"]) == (2, 3)
    missed = brief(record([clean(0), clean(1, reached=False)]))
    assert missed["time_to_train_s"] is None and "1 of 2 runs did not reach" in missed["time_to_train_reason"]
    text = shown(table([scored, missed, {"id": "0004-[x]", "error": "record.json is not JSON [red]"}]), 120)
    assert re.search(r"0003-llama +2026-03-02 10:15 +cpu +2/3 +2.00 s", text)
    assert "1 of 2 runs did not reach the target" in text
    assert "0004-[x]" in text and "is not JSON [red]" in text


def test_reports_need_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import perfsuite.report.terminal, perfsuite.report.progress, perfsuite.report.runs_text, perfsuite.report.html"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
