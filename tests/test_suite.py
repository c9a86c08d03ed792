"""`perfsuite run all` over small workloads of its own: what it records, goes on after, says at the end; its table, its
page in a browser, and the list of workloads."""

import importlib.util
import io
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from perfsuite import cli, measured_here, suite
from perfsuite.report import suite_page, suite_text, workloads_text
from perfsuite.workloads import registry

HERE = Path(__file__).parent
SCRIPTED = (HERE / "data/scripted.py").read_text()


def _beside(name: str) -> ModuleType:
    """A module beside this one: with import-mode importlib the folder of tests is not on the path."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


accounts, chromium = _beside("accounts"), _beside("chromium")


def workload(folder: Path, name: str, *changes: tuple[str, str], area: str = "") -> str:
    """A scripted workload file: its path, which stands for a built-in name."""
    source = SCRIPTED.replace('NAME = "scripted"', f'NAME = "{name}"\nAREA = "{area}"' if area else f'NAME = "{name}"')
    for before, after in changes:
        assert before in source
        source = source.replace(before, after)
    path = folder / f"{name}.py"
    path.write_text(source)
    return str(path)


MISSES = ("num_runs=3,", 'num_runs=3,\n        data_files=("absent.bin",),\n        data_from="It is made up",')
RAISES = ("self.steps += 1", 'raise RuntimeError("on fire")')


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """(names, *arguments) -> (exit code, standard output, standard error) of `perfsuite run all`, these being all."""
    monkeypatch.chdir(tmp_path)

    def call(names: list[str], *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(registry, "names", lambda: tuple(names))
        monkeypatch.setattr(sys, "argv", ["perfsuite", "run", "all", *arguments])
        with pytest.raises(SystemExit) as done:
            cli.main()
        said = capsys.readouterr()
        return done.value.code, said.out, said.err

    return call


QUICK = ("--no-ledger", "--runs", "1", "--seed", "3")


def test_it_goes_on_after_a_failure_and_says_what_failed(tmp_path: Path, run: Any) -> None:
    names = [workload(tmp_path, "burns", RAISES), workload(tmp_path, "lacks", MISSES),
             workload(tmp_path, "works", area="theatre"),
             workload(tmp_path, "other", ('CONFIGS = {\n    "tiny"', 'CONFIGS = {\n    "huge"'))]  # fmt: skip
    code, out, err = run(names, *QUICK, "--json")
    assert code == 1, err
    found = json.loads(out)
    burns, lacks, works = found["workloads"]
    assert (found["kind"], found["scale"], found["num_reached"]) == ("suite", "tiny", 1)
    assert [row["reached"] for row in (burns, lacks, works)] == [False, False, True]
    assert "RuntimeError: on fire" in burns["reason"] and burns["id"] is not None
    assert "lacks absent.bin; It is made up" in lacks["reason"] and lacks["id"] is None
    assert (works["workload"], works["area"], works["reason"]) == ("works", "theatre", None)
    assert works["samples_to_target"] == 3 * 12288 and works["quality"] == 3.29 and works["time_to_train_s"] > 0
    assert works["num_runs"] == 1 and works["character"]["reason"] == "no op recorder ran in this clean pass"
    for row in (burns, works):
        assert (tmp_path / "runs" / row["report"]).is_file()
    records = [json.loads(p.read_text()) for p in sorted((tmp_path / "runs").glob("*/record.json"))]
    assert [r["workload"] for r in records] == ["burns", "works"]
    assert all(r["seeds"] == [3] and r["wanted"]["ledger"] is False for r in records)
    page = (tmp_path / "runs/suite.html").read_text()
    assert f'href="{works["report"]}"' in page and "on fire" in page and "absent.bin" in page


def test_a_suite_that_was_cut_off_goes_on_with_what_is_missing(tmp_path: Path, run: Any) -> None:
    first, second = workload(tmp_path, "first"), workload(tmp_path, "second", MISSES)
    assert run([first, second], *QUICK, "--json")[0] == 1
    (record,) = (tmp_path / "runs").glob("*/record.json")
    before = record.read_text()
    workload(tmp_path, "second")
    code, out, err = run([first, second], "--resume", "last")
    assert code == 0, err
    assert record.read_text() == before
    lines = out.splitlines()
    assert max(map(len, lines)) < 120
    assert "2 of 2 workloads reached their target at scale tiny" in out and "runs/suite.html" in out
    assert [line.split()[0] for line in lines if re.match(r"(first|second) ", line)] == ["first", "second"]
    made = json.loads(sorted((tmp_path / "runs").glob("*/record.json"))[1].read_text())
    assert (made["workload"], made["seeds"], made["wanted"]["ledger"]) == ("second", [3], False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--target", "3"), ("--target", "leave it out")),
        (("--scale", "huge"), ("no workload has a scale 'huge'",)),
        (("--data", "nowhere"), ("no workload could be run", "nowhere")),
        (("--resume", "last"), ("no suite was begun in runs", "suite.json")),
    ],
)
def test_what_none_can_be_run_with_is_one_line(tmp_path: Path, run: Any, arguments: Any, words: Any) -> None:
    code, out, err = run([workload(tmp_path, "works")], *arguments)
    last = err.strip().splitlines()[-1]
    assert (code, out) == (2, "") and last.startswith("perfsuite: ")
    assert all(word in last for word in words), last
    assert not (tmp_path / "runs").exists()


def character(memory: float, compute: float, flops_per_byte: float) -> dict[str, Any]:
    return {
        "available": True, "reason": None, "ops_time_s": 3.0, "memory_bound_share": memory,
        "compute_bound_share": compute, "overhead_bound_share": 0.9 - memory - compute, "unknown_share": 0.1,
        "unknown": [{"reason": "its bytes are not modelled", "share": 0.1, "ops": ["aten::odd"]}],
        "bytes_per_sample": 5.4e7, "flops_per_sample": 5.4e7 * flops_per_byte, "per_sample_reason": None,
        "flops_per_byte": flops_per_byte, "bytes_unknown_share": 0.1, "flops_unknown_share": 0.2, "flops_per_s": 4e10,
        "top_ops": [{"name": "aten::mm", "time_s": 1.0, "share": 0.4, "bound": "compute"},
                    {"name": "aten::_scaled_dot_product_flash_attention_for_cpu_backward", "time_s": 0.5, "share": 0.2,
                     "bound": None}],
        "definition": "what it is",
    }  # fmt: skip


def document(kind: str = "run_account") -> dict[str, Any]:
    """Two workloads that ran, the first as `kind` of tests/accounts.py, and one that failed."""
    account = getattr(accounts, kind)()
    account["character"] = character(0.3, 0.5, 9.9)
    account["working_set"] = {"bytes": 12_300_000, "source": "touched", "fits_in": "L3"}
    second = accounts.run_account() | {"workload": "ncf", "character": character(0.8, 0.05, 0.4)}
    second["score"]["time_to_train_s"] = second["score"]["ci95_s"] = None
    second["score_reason"] = "2 of 5 runs did not reach the target"
    state = {"scale": "tiny", "created": "2026-03-02T10:15:04+00:00", "command": ["perfsuite", "run", "all"]}
    rows = [suite.row(account, "language"), suite.row(second, None), suite.failed_row("dlrm", "tiny", None, "no data")]
    return suite.document(state, rows, account["machine"], account["commit"])


def test_the_table_has_every_figure_and_fits() -> None:
    console = Console(file=io.StringIO(), width=suite_text.WIDTH)
    console.print(suite_text.render(document(), "runs/suite.html"))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) < 120
    for said in ("14.2 s", "12.9 s to 15.6 s", "219,136", "memory 30.0 %", "compute 50.0 %", "overhead 10.0 %",
                 "not known 10.0 %", "54.0 MB", "9.90 FLOP/byte", "12.3 MB, in L3", "40.0 % mm", "not reached",
                 "failed", "ncf: 2 of 5 runs did not reach the target", "dlrm: no data", "1 of 3"):  # fmt: skip
        assert said in text, said


def test_a_row_says_where_the_clock_went() -> None:
    row = document()["workloads"][0]
    ledger = accounts.run_account()["ledger"]
    assert row["phase_shares"]["evaluation"] == pytest.approx(ledger["phases"][4]["time_s"] / ledger["clock_s"])
    assert row["report"] == "0007-llama-tiny-xeon-2/report.html" and row["overhead"]["ratio"] == 1.013
    assert row["time_range_s"] == [13.1, 16.3]


PROBE = r"""
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const shown = () => document.querySelector("#chart-suite").data.filter((t) => t.mode === "markers+text")
  .map((t) => [t.name, t.x[0], t.y[0]]);
const out = { roofline: shown() };
document.querySelector(".switch button[aria-pressed=false]").click();
await wait(400);
out.share = shown();
out.rows = [...document.querySelectorAll("table.suite tbody tr")].map((r) => r.cells[0].textContent);
out.links = [...document.querySelectorAll("table.suite a")].map((a) => a.getAttribute("href"));
out.scroll = [document.documentElement.scrollWidth, innerWidth];
out.injected = document.querySelectorAll("main img, main script, main td b:not(.key)").length;
return out;
"""


@pytest.mark.browser
def test_the_page_draws_and_hostile_names_stay_text(tmp_path: Path) -> None:
    chromium.require()
    pages = {f"{kind}-{width}": (suite_page.render(document(kind)), width)
             for kind in ("run_account", "hostile") for width in (1280, 400)}  # fmt: skip
    seen = chromium.observe(pages, PROBE, tmp_path)
    for name, page in seen.items():
        assert page["problems"] == [], name
        result = page["result"]
        assert [mark[1:] for mark in result["roofline"]] == [[9.9, 40.0], [0.4, 40.0]]
        assert [mark[1:] for mark in result["share"]] == [[9.9, 30.0], [0.4, 80.0]]
        assert len(result["rows"]) == 3 and result["injected"] == 0
        assert result["scroll"][0] <= result["scroll"][1], name
    assert seen["run_account-1280"]["result"]["links"][0] == "0007-llama-tiny-xeon-2/report.html"


def test_workloads_are_listed_with_what_this_machine_measured(tmp_path: Path, run: Any) -> None:
    names = [workload(tmp_path, "works", ("num_runs=3,", 'num_runs=3,\n        data="made up",'), area="theatre")]
    assert run(names, *QUICK, "--json")[0] == 0
    scored = measured_here.scored(tmp_path / "runs")
    assert scored == []  # a workload file of one's own is not one of the listed
    (folder,) = (tmp_path / "runs").glob("0*")
    made = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(made | {"workload_path": None}))
    (tmp_path / "runs/0009-x").mkdir()
    (tmp_path / "runs/0009-x/record.json").write_text("{")
    scored = measured_here.scored(tmp_path / "runs")
    assert [row["id"] for row in scored] == [folder.name]
    modules = [registry.load(names[0]), registry.load("llama")]
    rows = workloads_text.rows(modules, scored)
    works, llama = rows[0], rows[1]
    assert (works["area"], works["data"], works["measured"]["id"]) == ("theatre", "made up", folder.name)
    assert works["time_to_train_s"] == scored[0]["time_to_train_s"] > 0
    assert llama["area"] == "language modelling" and llama["time_to_train_s"] is None and llama["measured"] is None
    other = scored[0] | {"target": 9.9}
    assert workloads_text.rows(modules, [other])[0]["measured"] is None  # to another target: another task
    console = Console(file=io.StringIO(), width=workloads_text.WIDTH)
    console.print(workloads_text.table(rows))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) < 120
    assert "theatre" in text and "made up" in text and text.count("not measured") == len(rows) - 1
    foreign = made | {"workload_path": None}
    foreign["machine"]["fingerprint"]["torch"] = "another"
    (folder / "record.json").write_text(json.dumps(foreign))
    assert measured_here.scored(tmp_path / "runs") == []


RECORDS = sorted(HERE.parent.glob("bench/results/*/llama-tiny"))


@pytest.mark.skipif(not RECORDS, reason="this tree has no kept record of llama")
def test_the_readmes_table_is_recomputed_from_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("bench_workloads", HERE.parent / "bench/workloads.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)

    def call(*arguments: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr(sys, "argv", ["bench/workloads.py", "--results", str(tmp_path / "results"), *arguments])
        code = bench.main()
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    records = ("--records", str(tmp_path / "runs"))
    assert call(*records)[0] == 2
    for number, changes in ((1, {}), (2, {"ops": "native"}), (3, {"scale": "gpu"})):
        folder = tmp_path / "runs" / f"000{number}-llama"
        shutil.copytree(RECORDS[0], folder)
        made = json.loads((folder / "record.json").read_text()) | changes
        (folder / "record.json").write_text(json.dumps(made))
    code, lines, _ = call(*records)
    assert code == 0 and len(lines) == 3
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[0] == "`llama`: language modelling" and "llama-tiny" in cells[-1]
    assert not (tmp_path / "results/llama-tiny/report.html").exists()
    path = tmp_path / "results/workloads.json"
    (row,) = json.loads(path.read_text())["workloads"]
    assert cells[2].startswith(f"{row['time_to_train_s']:.3g} (") and row["id"] == made["id"]
    assert call("--table") == (0, lines, "")
    reached = row["num_reached"]
    path.write_text(path.read_text().replace(f'"num_reached": {reached}', '"num_reached": 99'))
    code, again, said = call("--table")
    assert (code, again) == (1, lines)
    assert said == f"llama: num_reached is 99 in workloads.json, {reached} from the record\n"
