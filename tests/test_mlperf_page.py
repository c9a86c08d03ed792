"""The page of `perfsuite score --html`, in a browser: every chart drawn, in every view, with the right figures."""

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("plotly")
pytest.importorskip("mlperf_logging")

from perfsuite.cli import cli
from perfsuite.mlperf import folder_score, results, rounds, run_log, score_curves
from perfsuite.report import score_charts, score_page


def neighbour(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


logs, records, chromium = neighbour("mlperf_logs"), neighbour("mlperf_records"), neighbour("chromium")

PROBE = r"""
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const marks = (e) => e.querySelectorAll(".points path, .js-line").length;
const look = () => [...document.querySelectorAll("[data-chart]")].map((e) => [e.dataset.chart, marks(e)]);
for (let i = 0; i < 100 && look().some(([, n]) => !n); i++) await wait(50);
const out = { first: look(), views: [] };
for (const button of document.querySelectorAll(".switch button[aria-pressed=false]")) {
  button.click();
  await wait(300);
  const place = document.getElementById("chart-" + button.closest("[data-for]").dataset.for);
  out.views.push([button.dataset.view, marks(place)]);
}
out.text = document.body.innerText;
out.wide = document.documentElement.scrollWidth - innerWidth;
return out;
"""


def submission(root, *, power=True, **more):
    runs = [logs.run(14 + i % 2, seed=i, minutes=60 + i, **more) for i in range(10)]
    runs[9] = logs.run(14, seed=9, minutes=20, status="aborted", **more)
    logs.submission(root, runs)
    if power:
        for i in range(10):
            readings = [logs.event(at, "POINT_IN_TIME", "power_reading", 1000.0) for at in range(60, 4200, 10)]
            folder = root / "results" / "box" / "llama31_8b" / "power" / f"result_{i}"
            logs.write(folder / "node_0.txt", readings)
    return root


def detailed(path, played="6.1"):
    return [folder_score.score(one, rounds.parse(played), True) for one in results.find(path)]


def test_the_page_in_a_browser(tmp_path):
    chromium.require()
    root = submission(tmp_path / "Acme")
    own = records.new(division="closed")
    own_logs = [records.own_log(tmp_path, own, evals=n, seed=n) for n in (10, 11, 11, 12, 11)]
    record = records.save(tmp_path / "0001-x", own, own_logs)
    before = logs.contents(root)
    pages = {}
    for name, path, more in (("round", root, ["--round", "6.1"]), ("own", record, [])):
        file = tmp_path / f"{name}.page.html"
        done = CliRunner().invoke(cli, ["score", str(path), "--html", str(file), *more], standalone_mode=False)
        assert done.exception is None, done.exception
        pages[name] = (file.read_text(), 1100)
    pages["narrow"] = (pages["round"][0], 420)
    assert logs.contents(root) == before
    seen = chromium.observe(pages, PROBE, tmp_path)
    for name, found in seen.items():
        assert found["problems"] == [], (name, found["problems"])
        result = found["result"]
        assert all(marks for _, marks in result["first"]) and all(marks for _, marks in result["views"]), (name, result)
        assert result["wide"] <= 0, name
    first = seen["round"]["result"]
    assert [name for name, _ in first["first"]] == ["r0-runs", "r0-convergence", "r0-time", "r0-energy"]
    assert [view for view, _ in first["views"]] == ["quality"]
    assert "not verified by MLCommons" in first["text"] and "(unverified)" in first["text"]
    assert [name for name, _ in seen["own"]["result"]["first"]] == ["r0-runs", "r0-convergence", "r0-time"]
    assert "no energy: no power logs" in seen["own"]["result"]["text"]
    assert "own_llama.json" in seen["own"]["result"]["text"]


def test_runs_are_drawn_as_they_are_scored(tmp_path):
    (one,) = detailed(submission(tmp_path / "Acme"))
    view = score_charts.runs(one)["views"]["runs"]
    shown = {trace["name"]: trace["y"] for trace in view["data"]}
    assert len(shown["in the mean"]) == 8 and shown["dropped"] == [pytest.approx(60)]
    assert shown["did not converge"] == [pytest.approx(20)]
    line, band = view["layout"]["shapes"]
    assert line["y0"] == one["unscaled_min"] == pytest.approx(sum(range(61, 69)) / 8)
    assert (band["y0"] * one["factor"], band["y1"] * one["factor"]) == pytest.approx(one["ci95_min"])


def test_the_reference_in_the_three_readings(tmp_path):
    (one,) = detailed(submission(tmp_path / "Acme"))
    view = score_charts.convergence(one)["views"]["against the reference"]
    for mode, check in one["convergence"].items():
        lowest, mean = [trace for trace in view["data"] if trace["name"] == mode]
        at = mean["x"].index(32)
        assert mean["y"][at] == pytest.approx(check["reference"]["mean"])
        assert lowest["y"][at] == pytest.approx(check["lowest"])
        assert mean["x"] == sorted(mean["x"])
    (runs,) = [trace for trace in view["data"] if trace["name"] == "runs"]
    assert runs["y"] == [(14 + i % 2) * logs.EVERY for i in range(9)]
    quality = score_charts.convergence(one)["views"]["quality"]
    assert len(quality["data"]) == 10 and quality["layout"]["shapes"][0]["y0"] == 3.3


def test_a_round_without_a_reference_draws_the_quality_alone(tmp_path):
    root = submission(tmp_path / "Acme", power=False, division="open")
    (one,) = detailed(root)
    one["curves"]["reference"] = None
    assert list(score_charts.convergence(one)["views"]) == ["quality"]
    (plain,) = [folder_score.score(found, None, True) for found in results.find(root)]
    assert "no round was given" in score_page.render([plain], [], "Acme")


def test_shares_of_time(tmp_path):
    """Evaluations of the logs take one second each, the clock an hour and more."""
    (one,) = detailed(submission(tmp_path / "Acme", init_s=90))
    times = one["curves"]["runs"][0]["times"]
    assert times == {"init_s": 90, "training_s": pytest.approx(3600 - 14), "evaluation_s": pytest.approx(14)}
    assert score_charts.said_shares(one).startswith("init 90.0 s before the clock; on it training 99.6 %, evaluation")


def test_evaluations_that_the_clock_cannot_hold_are_not_shared_out(tmp_path):
    log = run_log.RunLog(tmp_path, start_ms=0, stop_ms=1000, eval_ms=5000)
    assert score_curves.times(log) == {"init_s": None, "training_s": 1.0, "evaluation_s": None}
    log.eval_ms = None
    assert score_curves.times(log)["evaluation_s"] is None


def test_runs_whose_names_begin_alike_have_a_bar_each(tmp_path):
    root = submission(tmp_path / "Acme")
    where = next(root.rglob("power")).parent
    for path in [*where.glob("result_*.txt"), *where.glob("power/result_*")]:
        path.rename(path.with_name(path.name.replace("result_", "job-20240510_").replace(".txt", ".log")))
    (one,) = detailed(where)
    for chart in (score_charts.shares(one), score_charts.power(one)):
        (view,) = chart["views"].values()
        assert view["data"][0]["x"] == list(range(10))
        assert view["layout"]["xaxis"]["ticktext"] == [str(i + 1) for i in range(10)]


def test_names_in_a_tree_are_text(tmp_path):
    root = logs.submission(tmp_path / "Acme", [logs.run(3, seed=i) for i in range(10)], system="<b>x")
    html = score_page.render(detailed(root), [], "<script>alert(1)</script>")
    assert "<script>alert" not in html and "<b>x" not in html


def test_many_results_are_not_all_drawn(tmp_path):
    (one,) = detailed(submission(tmp_path / "Acme", power=False))
    html = score_page.render([one] * 50, [], "tree")
    assert "10 more results are in the table and not drawn" in html
    assert len(json.loads(html.split('id="charts">')[1].split("</script>")[0])) == 40 * 3


def test_a_score_of_what_is_not_valid_is_no_good_news(tmp_path):
    good, bad = ([logs.run(15, seed=i, minutes=60 + i) for i in range(count)] for count in (10, 9))
    for name, runs in (("good", good), ("bad", bad)):
        logs.submission(tmp_path / name / "Acme", runs)
        page = str(score_page.render(detailed(tmp_path / name), [], name))
        assert ('class="tile lead"' in page) is (name == "good")
        assert ("not valid by the rules text</h1>" in page) is (name == "bad")
