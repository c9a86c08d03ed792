"""The page, opened in a browser: no script error, every chart drawn, sums kept, nothing wider than the window."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("plotly")

from perfsuite.report import charts
from perfsuite.report.html import render
from perfsuite.report.tables import OP_COLUMNS


def _beside(name: str) -> ModuleType:
    """A module beside this one: with import-mode importlib the folder of tests is not on the path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


accounts, chromium = _beside("accounts"), _beside("chromium")

PROBE = r"""
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const $ = (s) => document.querySelector(s);
const leaves = () => {
  const t = $("#chart-icicle") && $("#chart-icicle").data[0];
  if (!t) return null;
  const inner = new Set(t.parents);
  const sums = {};
  t.ids.forEach((id, i) => { sums[t.parents[i]] = (sums[t.parents[i]] || 0) + t.values[i]; });
  return {
    sum: t.values.reduce((sum, v, i) => sum + (inner.has(t.ids[i]) ? 0 : v), 0),
    uneven: t.ids.filter((id, i) => inner.has(id) && sums[id] !== t.values[i]), labels: t.labels,
    text: [...document.querySelectorAll("#chart-icicle text")].map((e) => e.textContent),
  };
};
const out = { icicle: [] };
out.charts = [...document.querySelectorAll("[data-chart]")].map((e) => ({
  name: e.dataset.chart, drawn: e.dataset.drawn || "no",
  marks: e.querySelectorAll(".points path, .slice path, .js-line").length,
  wanted: (e.layout.annotations || []).length, labels: e.querySelectorAll(".annotation").length,
  font: e.layout.font.color, width: e.querySelector("svg").getBoundingClientRect().width }));
out.icicle.push(leaves());
if ($("#chart-convergence")) out.samples = $("#chart-convergence").data.filter((t) => t.mode === "lines+markers")[0].x;
for (const button of document.querySelectorAll(".switch button[aria-pressed=false]")) {
  button.click();
  await wait(400);
  if (button.closest("[data-for=icicle]")) out.icicle.push(leaves());
  if (button.dataset.view === "seconds") out.seconds = $("#chart-convergence").data[0].x;
}
const column = (n) => [...document.querySelectorAll("table.ops tbody tr")].map((r) => r.cells[n].dataset.v);
const head = (title) => [...document.querySelectorAll("table.ops th")].find((h) => h.textContent === title);
if ($("table.ops")) {
  out.selfTimes = column(head("self time").cellIndex);
  const ceiling = head("of ceiling");
  ceiling.querySelector("button").click();
  out.down = column(ceiling.cellIndex);
  ceiling.querySelector("button").click();
  out.up = column(ceiling.cellIndex);
  $("#ops-filter").value = "aten::mm backward";
  $("#ops-filter").dispatchEvent(new Event("input"));
  out.filtered = [...document.querySelectorAll("table.ops tbody tr")].filter((r) => r.offsetParent)
    .map((r) => [r.cells[0].textContent, r.cells[1].textContent]);
  out.count = $("#ops-count").textContent;
}
out.scroll = [document.documentElement.scrollWidth, innerWidth];
out.injected = document.querySelectorAll("main img, main script, main td b:not(.key), .chart img").length;
out.h1 = $("h1").textContent;
out.text = $("main").textContent;
return out;
"""

ALL_CHARTS = {"convergence", "icicle", "roofline", "series"}
CHARTS = {"watched": {"icicle"}, "unfinished": set(),
          **dict.fromkeys(("with_power", "hostile"), ALL_CHARTS | {"power"})}  # fmt: skip
WIDE, NARROW = 1280, 400
KINDS = ("run_account", "not_converged", "with_power", "watched", "unfinished", "hostile")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    chromium.require()
    folder = tmp_path_factory.mktemp("pages")
    rendered = {kind: render(getattr(accounts, kind)()) for kind in KINDS}
    pages = {f"{kind}-{width}": (rendered[kind], width) for kind in KINDS for width in (WIDE, NARROW)}
    return chromium.observe(pages, PROBE, folder)


EVERY = pytest.mark.parametrize("name", [f"{kind}-{width}" for kind in KINDS for width in (WIDE, NARROW)])


@pytest.mark.browser
@EVERY
def test_no_script_fails_and_every_chart_draws(seen: dict[str, Any], name: str) -> None:
    assert seen[name]["problems"] == []
    charts = {c["name"]: c for c in seen[name]["result"]["charts"]}
    assert charts.keys() == CHARTS.get(name.rpartition("-")[0], ALL_CHARTS)
    for chart in charts.values():
        assert chart["drawn"] == "yes" and chart["marks"] > 0, chart
        assert chart["labels"] == chart["wanted"], chart


@pytest.mark.browser
@EVERY
def test_nothing_is_wider_than_the_window(seen: dict[str, Any], name: str) -> None:
    width = int(name.rpartition("-")[2])
    scrolled, inner = seen[name]["result"]["scroll"]
    assert inner == width and scrolled <= inner
    assert all(0 < chart["width"] <= inner for chart in seen[name]["result"]["charts"])


@pytest.mark.browser
@EVERY
def test_tiles_add_up_to_the_clock(seen: dict[str, Any], name: str) -> None:
    ledger = getattr(accounts, name.rpartition("-")[0])()["ledger"]
    if ledger is None:
        assert seen[name]["result"]["icicle"] == [None]
        return
    views = seen[name]["result"]["icicle"]
    assert len(views) == (2 if ledger["ops"] else 1)
    for view in views:
        assert view["sum"] == round(ledger["clock_s"] * 1e9)
        assert view["uneven"] == []
        assert "unattributed" in view["labels"]
        assert any(text.startswith("run") for text in view["text"])


@pytest.mark.browser
def test_convergence_is_against_samples_and_a_switch_shows_seconds(seen: dict[str, Any]) -> None:
    first = accounts.run_account()["score"]["runs"][0]
    result = seen[f"run_account-{WIDE}"]["result"]
    assert result["samples"] == [e["samples"] for e in first["evaluations"]]
    assert result["seconds"] == [e["time_s"] for e in first["evaluations"]]


@pytest.mark.browser
def test_ops_sort_with_the_unknown_last_and_filter(seen: dict[str, Any]) -> None:
    result = seen[f"run_account-{WIDE}"]["result"]
    times = [float(v) for v in result["selfTimes"]]
    assert times == sorted(times, reverse=True)
    for shown, down in ((result["down"], True), (result["up"], False)):
        known = [float(v) for v in shown if v != ""]
        assert 0 < len(known) < len(shown)
        assert shown[: len(known)] == [v for v in shown if v != ""]
        assert known == sorted(known, reverse=down)
    ops = accounts.run_account()["ledger"]["ops"]
    want = [op for op in ops if (op["name"], op["phase"]) == ("aten::mm", "backward")]
    assert result["filtered"] == [["aten::mm", "backward"]] * len(want)
    assert result["count"].startswith(f"{len(want)} of ")


@pytest.mark.browser
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_hostile_names_stay_text(seen: dict[str, Any], width: int) -> None:
    result = seen[f"hostile-{width}"]["result"]
    assert result["injected"] == 0
    assert accounts.HOSTILE in result["h1"]
    assert any(accounts.HOSTILE in text for view in result["icicle"] for text in view["text"])


@pytest.mark.browser
def test_charts_follow_the_colour_scheme(seen: dict[str, Any], tmp_path: Path) -> None:
    dark = chromium.observe({"dark": (render(accounts.run_account()), WIDE)}, PROBE, tmp_path, dark=True)["dark"]
    assert dark["problems"] == []
    light = {c["font"] for c in seen[f"run_account-{WIDE}"]["result"]["charts"]}
    assert {c["font"] for c in dark["result"]["charts"]}.isdisjoint(light)


@pytest.mark.parametrize("kind", KINDS)
def test_page_needs_no_network_and_data_cannot_end_a_script(kind: str) -> None:
    page = render(getattr(accounts, kind)())
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*\s(?:src|href)=", page.split("<script>", 1)[0])
    data = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL)[1]
    assert ("icicle" in json.loads(data)) == (kind != "unfinished")
    assert page.count("</html>") == 1 and page.index("<h1") < page.index("<h2>")


def test_what_is_absent_is_a_sentence_with_its_reason() -> None:
    page = render(accounts.watched())
    for reason in (
        "an accounted loop has no target to reach",
        "not measured: run `perfsuite machine`",
        "no energy sensor",
        "the torch extension is not built",
        "py-spy was not started",
        "no op recorder in this pass",
    ):
        assert reason in page, reason
    page = render(accounts.unfinished())
    assert page.count("no pass of this record has finished") >= 4
    page = render(accounts.not_converged())
    assert "2 of 5 runs did not reach the target" in page
    assert "some code is in no phase" in page


def test_unknown_is_a_dash_with_a_reason_and_never_zero() -> None:
    account = accounts.run_account()
    account["ledger"]["ops"] = [op for op in account["ledger"]["ops"] if op["bytes"] is None][:1]
    row = re.search(r'<table class="ops long">.*?<tbody>(<tr>.*?</tr>)', render(account), re.DOTALL)[1]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    unknown = [re.search(r'class="unknown" title="([^"]+)"[^>]*>-<', cell) for cell in cells]
    known = ["op", "phase", "module", "self time", "of clock", "calls", "shape"]
    assert [title for (title, _), match in zip(OP_COLUMNS, unknown, strict=True) if not match] == known
    reasons = {title: match[1] for (title, _), match in zip(OP_COLUMNS, unknown, strict=True) if match}
    assert reasons["bytes/s"] == reasons["bytes"] == "the bytes of this op are not known"
    assert "powercap" in reasons["joules"]


def test_ops_that_exceed_their_phase_are_said_and_not_drawn() -> None:
    account = accounts.run_account()
    next(op for op in account["ledger"]["ops"] if op["phase"] == "optimizer")["self_time_s"] *= 10
    page = render(account)
    assert re.search(r"The ops of the optimizer phase add up to [\d.]+ s more than it has", page)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_roofs_meet_whatever_the_ops_are(scale: float) -> None:
    account = accounts.run_account()
    for op in account["ledger"]["ops"]:
        op["flops"] = op["flops"] and op["flops"] * scale
    chart, _ = charts.roofline(account)
    roofs = [trace for trace in chart["views"]["roofline"]["data"] if trace["mode"] == "lines"]
    ceilings = account["machine"]["ceilings"]
    peak = max(ceilings[key]["float32"]["ceiling"] for key in ("gemm_flops_per_s", "fma_flops_per_s")) / 1e9
    for level, roof in zip(ceilings["levels"], roofs[: len(ceilings["levels"])], strict=True):
        assert roof["x"][0] < roof["x"][1] and roof["y"][1] == pytest.approx(peak)
        rate = level["read_bytes_per_s"]["ceiling"] / 1e9
        assert [y / x for x, y in zip(roof["x"], roof["y"], strict=True)] == pytest.approx([rate, rate])
    assert max(roof["y"][1] for roof in roofs) == pytest.approx(peak) and len(roofs) == len(ceilings["levels"]) + 2


def reference_file(folder: Path, **changes: Any) -> dict[str, Any]:
    """An account of a workload file, with reference points beside it: three seeds, one of which missed the target."""
    account = accounts.run_account() | {"workload_path": str(folder / "mine.py"), "config": {"batch_size": 8}}
    curves = {"1": [[100, 5.0], [200, 2.3]], "2": [[100, 4.0], [200, 3.0], [300, 2.2]], "3": [[100, 4.5], [300, None]]}
    points = {"batch_size": 8, "target": 2.4, "metric": "loss", "seeds": [1, 2, 3], "curves": curves,
              "samples_to_target": [200, 300, None], "quality": [2.3, 2.2, None]} | changes  # fmt: skip
    (folder / "mine.rcp.json").write_text(json.dumps({"schema": 1, "tiny": points}))
    return account


def drawn(page: str) -> dict[str, Any]:
    return json.loads(re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL)[1])


@pytest.mark.parametrize("higher_is_better", [False, True])
def test_runs_stand_before_the_range_of_the_reference_runs(tmp_path: Path, higher_is_better: bool) -> None:
    account = reference_file(tmp_path)
    account["target"]["higher_is_better"] = higher_is_better
    page = render(account)
    lowest, highest, bar, *runs = drawn(page)["convergence"]["views"]["samples"]["data"]
    assert (lowest["x"], lowest["y"], highest["y"]) == ([100, 200, 300], [4.0, 2.3, 2.2], [5.0, 3.0, 2.2])
    assert (bar["x"], bar["y"]) == ([200, 300], [2.4, 2.4])
    assert len(runs) == 5 and all(run["mode"] == "lines+markers" for run in runs)
    assert len(drawn(page)["convergence"]["views"]["seconds"]["data"]) == 5
    assert "2 of them reached the target, after 200 to 300 samples" in page


def test_reference_points_of_another_task_are_not_drawn(tmp_path: Path) -> None:
    for changes, said in (({"batch_size": 16}, "target 2.4 and batches of 16"), ({"target": 2.0}, "target 2 and")):
        page = render(reference_file(tmp_path, **changes))
        assert "There are no reference points behind them" in page and said in page
        assert len(drawn(page)["convergence"]["views"]["samples"]["data"]) == 5
    (tmp_path / "mine.rcp.json").unlink()
    assert "none were made: `perfsuite rcp llama --scale tiny` does" in render(
        accounts.run_account() | {"workload_path": str(tmp_path / "mine.py")}
    )


@pytest.mark.browser
def test_the_band_of_the_reference_runs_draws(tmp_path: Path) -> None:
    chromium.require()
    seen = chromium.observe({"page": (render(reference_file(tmp_path)), WIDE)}, PROBE, tmp_path)["page"]
    assert seen["problems"] == []
    assert {chart["drawn"] for chart in seen["result"]["charts"]} == {"yes"}
    first = accounts.run_account()["score"]["runs"][0]
    assert seen["result"]["samples"] == [e["samples"] for e in first["evaluations"]]


def test_the_character_is_one_section() -> None:
    account = accounts.run_account()
    shares = {"memory": 0.3, "compute": 0.5, "overhead": 0.15}
    account["character"] = {
        "available": True, "reason": None, **{f"{name}_bound_share": share for name, share in shares.items()},
        "unknown_share": 0.05, "unknown": [{"reason": "its bytes are not modelled", "share": 0.05, "ops": ["odd<i>"]}],
        "bytes_per_sample": 5.4e7, "flops_per_sample": 5.36e8, "per_sample_reason": None, "flops_per_byte": 9.93,
        "bytes_unknown_share": 0.05, "flops_unknown_share": 0.0, "definition": "what it is",
        "top_ops": [{"name": "aten::mm", "time_s": 1.0, "share": 0.4, "bound": "compute"}],
    }  # fmt: skip
    part = re.search(r'<section id="character">(.*?)</section>', render(account), re.DOTALL)[1]
    for said in ("memory 30.0 %", "compute 50.0 %", "overhead 15.0 %", "not known 5.0 %", "54.0 MB", "536 MFLOP",
                 "9.93 FLOP/byte", "aten::mm 40.0 % (compute)", "5.0 % its bytes are not modelled (odd&lt;i&gt;)",
                 "not modelled for 5.0 % of the time", "known for all ops"):  # fmt: skip
        assert said in part, said
    widths = [float(width) for width in re.findall(r'<i style="width:([\d.]+)%', part)]
    assert sum(widths) == pytest.approx(100)
    account["character"] = {"available": False, "reason": "no op recorder ran in this clean pass"}
    assert "It is not known: no op recorder ran in this clean pass." in render(account)
