"""What a reader sees of a run on a GPU: the terminal's summary and the page; and how little of it on a CPU."""

import functools
import html
import importlib.util
import io
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

pytest.importorskip("plotly")

from perfsuite.ledger import account as account_of
from perfsuite.report import charts, idle, kernels, names, strips
from perfsuite.report.html import render
from perfsuite.report.terminal import summary


def _beside(name: str) -> ModuleType:
    """A module beside this one: with import-mode importlib the folder of tests is not on the path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


accounts, chromium, gpu_accounts = _beside("accounts"), _beside("chromium"), _beside("gpu_accounts")

BAD = accounts.HOSTILE + "[bold red]x[/]<img src=x onerror=alert(1)>"
KINDS = ("on_gpu", "throttled", "without_counters", "without_recorder", "replayed_only", "two_devices", "hostile",
         "accounted")  # fmt: skip


@functools.cache
def _accounted() -> str:
    """The account that perfsuite.ledger makes of a made-up record, as JSON."""
    _beside("gpu_schedule")  # gpu_records imports it by its name
    return json.dumps(account_of(*_beside("gpu_records").gpu_record()))


def made(kind: str) -> dict[str, Any]:
    if kind == "accounted":
        return json.loads(_accounted())
    if kind == "hostile":
        return gpu_accounts.hostile(accounts.run_account(), BAD)
    return getattr(gpu_accounts, kind)(accounts.run_account())


def shown(account: dict[str, Any], width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(summary(account, None))
    return console.file.getvalue()


def part(page: str, name: str) -> str:
    """One section of the page."""
    return re.search(rf'<section id="{name}">(.*?)</section>', page, re.DOTALL)[1]


def words(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", markup))


# --- names


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("triton_poi_fused_add_0", "triton_poi_fused_add_0"),
        ("void f<float, 4>(float const*, int)", "f<float, 4>"),
        ("void at::native::(anonymous namespace)::softmax<4, c10::Half>(c10::Half*, (anonymous namespace)::P)",
         "softmax<4, c10::Half>"),
        ("void ns::k<(ns::Mode)1, false>", "k<(ns::Mode)1, false>"),
        ("ns::cut_off<a::b, (", "cut_off<a::b, ("),
        (")", ")"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_kernel_keeps_its_own_name_and_template_arguments(name: str, short: str) -> None:
    assert names.kernel(name, 60) == short


def test_what_is_too_long_loses_its_middle() -> None:
    assert names.middle("abcdefghij", 10) == "abcdefghij"
    assert names.middle("abcdefghijk", 10) == "abcdef…ijk"
    nn, tn = (names.kernel(gpu_accounts.CUTLASS.format(layout=layout), 44) for layout in ("nn", "tn"))
    assert len(nn) == len(tn) == 44 and nn != tn and nn.startswith("Kernel2<cutlass_80_tensorop")


# --- the terminal


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("kind", KINDS)
def test_summary_fits(kind: str, width: int) -> None:
    assert max(map(len, shown(made(kind), width).splitlines())) <= width


def test_summary_says_what_the_device_did() -> None:
    text = shown(made("on_gpu"))
    for title in ("Longest kernels", "Where the device waited", "Memory system"):
        assert text.count(f"\n{title}") == 1
    flat = " ".join(text.split())
    assert re.search(r"device 0 busy 84\.7 % of 13\.9 s, idle 15\.3 % \(ops 5\.0 %, sync 3\.1 %", flat)
    assert "data 1.3 %, not known 0.20 %), residual" in flat
    assert re.search(r"Kernel2<cutlass\S+ aten::mm backward 4\.49 s 31\.8 % compute 64\.6 % 2\.26 kJ", flat)
    assert re.search(r"memcpy HtoD aten::copy_ data 264 ms 1\.9 % 52\.0 GB/s ~31\.7 J", flat)
    assert "and 2 more lines, 88.1 ms together" in flat
    assert re.search(r"L2 28\.9 TB 2\.09 TB/s 2\.46 TB/s 32\.4 % 52\.0 %", flat)
    assert re.search(r"sampled 15\.\d TB, replayed 15\.\d TB \(1\.02 x sampled\), modelled 14\.\d TB \(0\.93 x", flat)
    assert "mfu 41.3 % (327 TFLOP/s of 792 TFLOP/s, bf16): flops of the model's forward and backward" in flat
    assert re.search(
        r"6\.31 kJ ± 37\.9 J, 455 W on average \(the energy counter\); 5\.32 kJ ± 44\.2 J above the idle 71\.3 W; 33",
        flat,
    )
    assert re.search(r"by kernel Kernel2<cutlass\S+ 2\.26 kJ ± 176 J; .* 8 more 1\.60 kJ; no kernel running", flat)
    assert "running 297 J ± 53.1 J; 3 of 11 not told apart from others" in flat
    assert "gpm gpu0: DRAM 46.0 %, tensor 33.0 %, SM 84.0 %, PCIe received 3.10 GB/s" in flat
    assert "not throttled; SM 1,965 to 1,980 MHz, median 1,980" in flat
    assert "activations 21.7 GB, optimizer state 6.44 GB" in flat and "HtoD pageable 966 MB" in flat


def test_printed_idle_times_add_up() -> None:
    lines = shown(made("on_gpu")).split("Where the device waited\n")[1].split("\n\n")[0].splitlines()
    head = ["launch s", "sync s", "data s", "ops s", "python s", "not known s", "all s"]
    assert re.split(r"  +", lines[0].strip())[-7:] == head
    rows = [[float(x) for x in line.split()[-7:]] for line in lines[1:]]
    assert lines[-1].startswith("idle") and len(rows) == len(gpu_accounts.IDLE) + 1
    for row in rows:
        assert sum(row[:-1]) == pytest.approx(row[-1], abs=0.003)
    for column in zip(*rows, strict=True):
        assert sum(column[:-1]) == pytest.approx(column[-1], abs=0.004)


def test_ops_are_shown_by_their_time_on_the_device() -> None:
    account = made("on_gpu")
    account["ledger"]["ops"][0] |= {"device_time_s": 2.5, "thread": "other"}
    line = next(line for line in shown(account).splitlines() if line.startswith("aten::mm "))
    assert re.search(r"2\.50 s +18\.0 %", line)
    assert re.search(r"phase +on GPU +share", shown(account)) and "on GPU" not in shown(made("without_recorder"))


def test_a_throttled_run_is_marked() -> None:
    text = " ".join(shown(made("throttled")).split())
    marked = "the GPU's clocks were held back by heat or a brake for 4.2 % of the run"
    assert text.count(marked) == 2 and text.index(marked) < text.index("Where the time went")
    assert "lowered by software power cap 14.1 %, hardware thermal slowdown 4.2 %" in text
    assert "held back" not in shown(made("on_gpu"))


@pytest.mark.parametrize(
    ("kind", "reasons"),
    [("without_counters", ("only root read counters", "no peak of bf16", "does not say why it lowers clocks")),
     ("without_recorder", ("not accounted: another CUPTI client", "not sampled: PM sampling is not possible",
                           "not known: the allocator keeps no history", "NVML refuses", "no peak of bf16")),
     ("replayed_only", ("not sampled: PM sampling needs a newer driver",
                        "sampled not known (PM sampling needs a newer driver), replayed 15."))],
)  # fmt: skip
def test_what_is_absent_is_one_line_with_its_reason(kind: str, reasons: tuple[str, ...]) -> None:
    lines = shown(made(kind), 160).splitlines()
    for reason in reasons:
        assert any(reason in line for line in lines), reason


def test_on_a_cpu_there_are_two_lines_more() -> None:
    lines = shown(accounts.run_account()).splitlines()
    assert [line for line in lines if "GPU" in line or "kernel" in line.lower()] == []
    assert [line.split()[0] for line in lines if line.startswith(("device ", "mfu "))] == ["device", "mfu"]
    after = {line.split()[0]: lines[i + 1] for i, line in enumerate(lines[:-1]) if line.startswith(("device ", "mfu "))}
    assert after["device"].startswith("mfu ") and after["mfu"].startswith("power ")
    assert re.search(r"device +none: the run was on a CPU", "\n".join(lines))
    assert "28.1 % (34.0 GFLOP/s of 121 GFLOP/s, float32)" in "\n".join(lines)


def test_names_are_not_markup() -> None:
    assert shown(made("hostile"), 2000).count("[bold red]x[/]<img src=x onerror=alert(1)>") >= 20


def test_the_account_of_a_record_is_shown_in_full() -> None:
    account = made("accounted")
    text, device = shown(account), account["ledger"]["device"]["devices"][0]
    assert f"busy {100 * device['busy_s'] / device['clock_s']:.1f} % of" in text
    lines = text.split("Longest kernels\n")[1].split("\n\n")[0].splitlines()
    grouped = kernels.grouped(account["ledger"]["kernels"])
    assert len(lines) == 12 and f"and {len(grouped) - 10} more lines" in lines[-1]
    assert sum(row["share_s"] for row in grouped) == pytest.approx(device["busy_s"])
    page = render(account)
    assert part(page, "kernels").count("<tr>") == len(account["ledger"]["kernels"]) + 1
    for level in account["memory"]["counters"]["levels"]:
        assert re.search(rf"\b{level['name']}\b", part(page, "memory-system"))


# --- the page without a browser


@pytest.mark.parametrize("kind", KINDS)
def test_no_section_is_empty_and_no_figure_is_not_a_number(kind: str) -> None:
    page = render(made(kind))
    sections = re.findall(r'<section id="([\w-]+)"><h2>[^<]*</h2>(.*?)</section>', page, re.DOTALL)
    assert {"idle", "kernels", "memory-system", "gpu-memory", "power"} <= {name for name, _ in sections}
    for name, content in sections:
        assert re.search(r"<p|<table|<ul|<dl|data-chart", content), name
        assert "<tbody></tbody>" not in content, name
    body = page.split('<script type="application/json"')[0]
    assert not re.search(r">[^<]*\b(?:nan|inf|None)\b[^<]*<", body)
    charts = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL)[1]
    json.loads(charts, parse_constant=lambda constant: pytest.fail(constant))


def test_a_kernel_is_shown_short_with_all_of_its_name_where_it_is_pointed_at() -> None:
    table = part(render(made("on_gpu")), "kernels")
    whole = re.findall(r'<code title="([^"]*)"', table)
    assert sorted(map(html.unescape, whole)) == sorted(k["name"] for k in made("on_gpu")["ledger"]["kernels"])
    assert gpu_accounts.ELEMENTWISE not in words(table) and "vectorized_elementwise_kernel<4, " in words(table)


def test_hostile_names_are_text() -> None:
    page = render(made("hostile"))
    assert "<img" not in page.split("<script>")[0] and page.count(html.escape(BAD)) > 40
    assert '<code title="k&lt;&quot;&lt;/script&gt;' in page


def test_on_a_cpu_one_short_section_says_why_there_is_nothing() -> None:
    page = render(accounts.run_account())
    assert re.findall(r'<section id="((?:gpu|idle|kernels|memory-system)[\w-]*)"', page) == ["gpu"]
    assert words(part(page, "gpu")).split() == (
        "GPU There are no kernels, idle times, counters or device memory to show: the run was on a CPU.".split()
    )
    assert "28.1 %" in words(page) and "activations" in words(part(page, "memory"))
    assert "GPU time" not in part(page, "ops")


def test_unfinished_records_say_so() -> None:
    page = render(accounts.unfinished() | {"device": "cuda"})
    for name in ("idle", "kernels", "memory-system", "gpu-memory", "power"):
        assert "no pass of this record has finished" in words(part(page, name))


@pytest.mark.parametrize(
    ("kind", "section", "reason"),
    [
        ("without_counters", "memory-system", "only root read counters"),
        ("without_counters", "power", "Energy was not split by kernel: no instant power was sampled"),
        ("without_counters", "power", "Energy above idle is not known: no idle power was measured"),
        ("without_counters", "power", "Clocks and throttling are not known: the driver does not say"),
        ("without_recorder", "idle", "another CUPTI client"),
        ("without_recorder", "kernels", "another CUPTI client"),
        ("without_recorder", "gpu-memory", "the allocator keeps no history"),
        ("without_recorder", "limits", "this GPU has no measured ceilings (the GPU was in use)"),
        ("without_recorder", "power", "NVML refuses"),
        ("replayed_only", "memory-system", "not sampled: PM sampling needs a newer driver"),
    ],
)
def test_what_is_absent_is_a_sentence_with_its_reason(kind: str, section: str, reason: str) -> None:
    assert reason in words(part(render(made(kind)), section))


def test_a_dash_for_a_counter_says_why() -> None:
    table = part(render(made("without_counters")), "kernels")
    row = next(row for row in table.split("<tr>") if "rms_norm_forward" in row)
    assert row.count("only root read counters") == 6 and "no instant power was sampled" in row
    copy = next(row for row in table.split("<tr>") if "HtoD" in row)
    assert "52.0 GB/s" in copy and "counters do not see copies" in copy


def test_a_throttled_run_is_marked_at_the_top_of_the_page() -> None:
    page = render(made("throttled"))
    warning = re.search(r'<p class="warning">(.*?)</p>', page.split("</header>")[0])[1]
    assert "held back by heat or a brake for 4.2 % of the run" in words(warning)
    assert "hardware thermal slowdown" in words(part(page, "power"))
    assert 'class="warning"' not in render(made("on_gpu"))


def test_lines_of_a_kernel_in_several_modules_are_summed_up() -> None:
    account = made("on_gpu")
    rows = account["ledger"]["kernels"]
    second = rows[0] | {"module": "layers.9", "time_s": 1.0, "share_s": 1.0, "share_of_ceiling": 0.1, "joules": None}
    rows += [second, rows[0] | {"phase": "forward"}]
    first = kernels.grouped(rows)[0]
    assert first["time_s"] == rows[0]["time_s"] + 1.0 and first["module"] is None and first["bound"] == "compute"
    assert first["share_of_ceiling"] == pytest.approx(
        (rows[0]["share_of_ceiling"] * rows[0]["time_s"] + 0.1) / first["time_s"]
    )
    assert first["joules"] is None and first["told_apart"] is True and len(kernels.grouped(rows)) == len(rows) - 1
    rows[-2] |= {"joules": rows[0]["joules"], "told_apart": False}
    first = kernels.grouped(rows)[0]
    assert first["joules"] == 2 * rows[0]["joules"] and first["told_apart"] is False
    rows[-2]["bound"] = "memory"  # the smaller part
    first = kernels.grouped(rows)[0]
    assert first["bound"] == "compute" and first["share_of_ceiling"] == rows[0]["share_of_ceiling"]


def test_energy_by_kernel_adds_up_and_says_what_it_does_not_tell() -> None:
    account = made("on_gpu")
    power = account["power"]
    found = part(render(account), "power")
    rows = re.findall(r"<tr>(.*?)</tr>", found.split("told apart</th>")[1].split("</table>")[0])
    lines = [re.sub(r"\s+", " ", words(row)).strip() for row in rows]
    assert len(lines) == 1 + len(power["kernels"])  # with the time without one, without those that took no time
    assert re.fullmatch(r"Kernel2<\S+ 4\.\d\d s 2\.26 kJ ± 176 J 36\.9 % 512 W yes 2\.08 kJ 2\.43 kJ", lines[0])
    assert re.fullmatch(r"memcpy HtoD 367 ms ~44\.1 J \S+ % 120 W no 0 J 154 J", lines[7])
    assert re.fullmatch(r"no kernel running 2\.1\d s 297 J ± 53\.1 J 4\.\d % 140 W yes 244 J 350 J", lines[-2])
    assert re.fullmatch(r"the GPU 13\.9 s 6\.1\d kJ 100\.0 %", lines[-1])
    shares = [float(re.search(r"([\d.]+) % \d+ W", line)[1]) for line in lines[:-1]]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert "in each of 138 short windows" in words(found) and "leaves 1.3 % of a window" in words(found)
    assert "share one power: 138 windows" in words(found)
    assert "by the energy counter. Idle is a GPU with nothing to do" in words(found)
    copy = next(row for row in part(render(account), "kernels").split("<tr>") if "memcpy DtoD" in row)
    assert re.search(r"~15\.9 J\s*</td>", copy) and "2.26 kJ  ± 176 J" in words(part(render(account), "kernels"))


def test_more_kernels_than_are_shown_are_summed_up() -> None:
    account = made("on_gpu")
    power = account["power"]
    power["kernels"] += [power["kernels"][0] | {"name": f"k{i}", "time_s": 0.1, "energy_j": 2.0} for i in range(20)]
    found = words(part(render(account), "power"))
    rest_j = sum(sorted((row["energy_j"] for row in power["kernels"]), reverse=True)[15:])
    assert re.search(rf"\s16 more\s+1\.6\d s\s+{rest_j:.1f} J\s", found)


def test_lost_records_are_a_warning() -> None:
    account = made("on_gpu")
    account["ledger"]["device"] |= {"dropped": 12, "late": 3}
    found = words(part(render(account), "idle"))
    assert "12 records were dropped and 3 came after their time was accounted" in found


def test_gaps_are_named_by_their_length() -> None:
    gaps = made("on_gpu")["ledger"]["device"]["devices"][0]["gaps"]
    labels = [idle.gap_label(gaps, i) for i in range(len(gaps))]
    assert labels[:3] == ["up to 1 µs", "1 µs to 10 µs", "10 µs to 100 µs"] and labels[-1] == "above 1 s"


def test_idle_bars_hold_all_idle_time() -> None:
    account = made("on_gpu")
    drawn: dict[str, Any] = {}
    idle.idle(account, drawn)
    bars = drawn["idle-0"]["views"]["idle"]["data"]
    assert [bar["name"] for bar in bars] == ["launch", "sync", "data", "ops", "python", "not known"]
    longest_first = ["forward", "backward", "evaluation", "optimizer", "data", "other", "in no phase"]
    assert all(bar["y"] == longest_first for bar in bars)
    device = account["ledger"]["device"]["devices"][0]
    assert sum(sum(bar["x"]) for bar in bars) == pytest.approx(device["idle_s"])
    assert device["busy_s"] + device["idle_s"] + device["residual_s"] == pytest.approx(device["clock_s"])


def test_ops_on_a_gpu_are_held_against_its_ceilings() -> None:
    chart, _ = charts.roofline(made("on_gpu"))
    labels = [label["text"] for label in chart["views"]["roofline"]["layout"]["annotations"]]
    assert labels == ["L2 7.60 TB/s", "HBM 3.02 TB/s", "bfloat16 GEMM 792 TFLOP/s"]
    account = made("on_gpu")
    account["device"] = "cuda:1"
    assert charts.roofline(account)[0] == chart  # GPUs of one machine are taken to be alike
    account["machine"]["ceilings"]["gpus"] = [gpu_accounts.CEILINGS | {"levels": [], "absent": {"levels": "no room"}}]
    assert charts.roofline(account) == (None, "No roofline: this GPU has no measured ceilings (no room).")
    account = made("without_recorder")
    account["machine"]["ceilings"]["gpus"] = [gpu_accounts.CEILINGS]
    assert "not known how long the ops ran" in charts.roofline(account)[1]


def test_strips_of_shares_are_in_percent_and_keep_their_gaps() -> None:
    chart = strips.chart([0.0, 1.0], [strips.Strip("hit", "share", {"": [0.5, None]})])
    view = chart["views"]["series"]
    assert view["data"][0]["y"] == [50.0, None] and view["layout"]["annotations"][0]["text"] == "hit, %"


# --- the page in a browser

PROBE = r"""
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const $ = (s) => document.querySelector(s);
const out = {};
const look = () => [...document.querySelectorAll("[data-chart]")].map((e) => ({
  name: e.dataset.chart, drawn: e.dataset.drawn || "no",
  marks: e.querySelectorAll(".points path, .slice path, .js-line").length,
  wanted: (e.layout.annotations || []).length, labels: e.querySelectorAll(".annotation").length,
  width: e.querySelector("svg").getBoundingClientRect().width }));
out.charts = look();
for (const button of document.querySelectorAll(".switch button[aria-pressed=false]")) {
  button.click();
  await wait(300);
}
out.switched = look();
const table = $("table.kernels");
if (table) {
  const rows = () => [...table.tBodies[0].rows];
  const head = (title) => [...table.tHead.rows[0].cells].find((h) => h.textContent === title);
  out.times = rows().map((r) => r.cells[head("time").cellIndex].dataset.v);
  head("joules").querySelector("button").click();
  out.joules = rows().map((r) => r.cells[head("joules").cellIndex].dataset.v);
  $("#kernels-filter").value = "binary_internal backward";
  $("#kernels-filter").dispatchEvent(new Event("input"));
  out.filtered = rows().filter((r) => r.offsetParent).map((r) => r.cells[0].textContent);
  out.count = $("#kernels-count").textContent;
  out.others = [...document.querySelectorAll("table.ops tbody tr")].filter((r) => !r.offsetParent).length;
}
out.scroll = [document.documentElement.scrollWidth, innerWidth];
out.injected = document.querySelectorAll("main img, main script, main td b:not(.key), .chart img").length;
return out;
"""

WIDE, NARROW = 1280, 400
PAGES = [(kind, WIDE) for kind in KINDS] + [("on_gpu", NARROW), ("hostile", NARROW)]
USUAL = {"convergence", "icicle", "roofline", "series"}
DEVICE, COUNTED = {"idle-0", "gaps-0"}, {"memory-system", "measured-roofline"}
CHARTS = {
    "on_gpu": USUAL | DEVICE | COUNTED | {"power"},
    "throttled": USUAL | DEVICE | COUNTED | {"power"},
    "without_counters": USUAL | DEVICE | {"power"},
    "without_recorder": USUAL - {"roofline"},
    "replayed_only": USUAL | DEVICE | {"measured-roofline", "power"},
    "two_devices": USUAL | DEVICE | {"idle-1", "gaps-1"} | COUNTED | {"power"},
    "hostile": USUAL | DEVICE | COUNTED | {"power"},
    "accounted": USUAL | DEVICE | COUNTED | {"power"},
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    chromium.require()
    folder = tmp_path_factory.mktemp("pages")
    pages = {f"{kind}-{width}": (render(made(kind)), width) for kind, width in PAGES}
    return chromium.observe(pages, PROBE, folder)


@pytest.mark.browser
@pytest.mark.parametrize(("kind", "width"), PAGES)
def test_every_chart_draws_within_the_window(seen: dict[str, Any], kind: str, width: int) -> None:
    found = seen[f"{kind}-{width}"]
    assert found["problems"] == []
    result = found["result"]
    assert {chart["name"] for chart in result["charts"]} == CHARTS[kind]
    for chart in (*result["charts"], *result["switched"]):
        assert chart["drawn"] == "yes" and chart["marks"] > 0 and chart["labels"] == chart["wanted"], chart
        assert 0 < chart["width"] <= width
    scrolled, inner = result["scroll"]
    assert inner == width and scrolled <= inner
    assert result["injected"] == 0


@pytest.mark.browser
def test_kernels_sort_and_filter_by_their_whole_names(seen: dict[str, Any]) -> None:
    result = seen[f"on_gpu-{WIDE}"]["result"]
    for column in ("times", "joules"):
        values = [float(v) for v in result[column]]
        assert values == sorted(values, reverse=True) and len(values) == 12
    assert [name.partition("<")[0] for name in result["filtered"]] == ["vectorized_elementwise_kernel"]
    assert result["count"] == "1 of 12 lines" and result["others"] == 0


@pytest.mark.browser
def test_dark_pages_draw_too(tmp_path: Path) -> None:
    dark = chromium.observe({"dark": (render(made("throttled")), WIDE)}, PROBE, tmp_path, dark=True)["dark"]
    assert dark["problems"] == [] and {chart["drawn"] for chart in dark["result"]["charts"]} == {"yes"}
