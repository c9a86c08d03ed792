"""`perfsuite sweep`: planted trade-offs between samples and time per sample are found, doubt is said, runs go on."""

import copy
import json
import math
import os
import re
import signal
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from perfsuite import record, sweep, sweep_account
from perfsuite.report import sweep_page, sweep_text
from perfsuite.sweep_fit import Point, critical_batch_size

PERFSUITE = Path(sysconfig.get_path("scripts"), "perfsuite")
HERE = Path(__file__).parent
RESULTS = HERE.parent / "bench" / "results" / "amd-epyc-2c-46b157" / "llama-tiny"
SEEDS = [1, 2, 3]
SAMPLES_MIN, CRITICAL = 16_000, 40.0


@pytest.fixture(scope="module")
def llama() -> dict[str, Any]:
    made = vars(record.load(RESULTS))
    made["passes"] = [p for p in made["passes"] if p["kind"] == "clean"][: len(SEEDS)]
    return made


def swept(llama: dict[str, Any], sizes: list[int], spread: float = 0.02, missed: dict[int, int] | None = None,
          per_sample_s: Any = lambda size: 1e-3 + 24e-3 / size) -> dict[str, Any]:  # fmt: skip
    """An account of made-up runs: S_min (1 + B / 40) samples, and a time per sample that falls with the batch size.

    missed: of these batch sizes, so many runs do not reach the target.
    """
    rng, records = np.random.default_rng(1), []
    for size in sizes:
        made = copy.deepcopy(llama)
        made["id"], made["batch_size"] = f"b{size}", size
        made["config"] |= {"batch_size": size, "learning_rate": 1e-3 * size}
        made["schedule"] |= {"eval_every_samples": size, "max_samples": 64_000}
        for index, (seed, p) in enumerate(zip(SEEDS, made["passes"], strict=True)):
            exact = SAMPLES_MIN * (1 + size / CRITICAL) * math.exp(spread * rng.standard_normal())
            p["reached"] = index >= (missed or {}).get(size, 0)
            p["samples"] = math.ceil(exact / size) * size if p["reached"] else 64_000
            seconds = per_sample_s(size) * p["samples"] * math.exp(0.003 * rng.standard_normal())
            p |= {"seed": seed, "clock_ns": round(1e9 * seconds), "init_excess_ns": 0}
            p["stop_reason"] = "target" if p["reached"] else "max_samples"
        records.append(made)
    about = {"id": "0001-sweep", "created": "", "command": ["perfsuite"], "seeds": SEEDS,
             "records": [made["id"] for made in records]}  # fmt: skip
    return sweep_account.account(about, records)


def test_the_trade_off_is_found(llama: dict[str, Any]) -> None:
    """(1 + B / 40) (1 + 24 / B) is least at B = sqrt(40 24) = 31."""
    found = swept(llama, [8, 16, 32, 128, 512])
    best = found["best"]
    assert best["batch_size"] == 32 and best["answer"].startswith("more throughput shortens training up to")
    assert best["between"] in ([32, 32], [16, 32])
    first, last = found["steps"][0], found["steps"][-1]
    assert (first["from"], first["to"]) == (8, 16) and (last["from"], last["to"]) == (128, 512)
    assert first["time_to_train"]["verdict"] == first["time_per_sample"]["verdict"] == "FASTER"
    assert {last[key]["verdict"] for key in ("time_to_train", "samples_to_target")} == {"SLOWER"}
    assert last["samples_to_target"]["ratio"] == pytest.approx((1 + 512 / 40) / (1 + 128 / 40), rel=0.05)
    for row in found["batch_sizes"]:
        product = row["samples_to_target"] * row["time_per_sample_s"]
        assert row["time_to_train_s"] == pytest.approx(product)
        assert all(row[key][0] < row[key[: key.index("_ci95")] + key[key.index("_ci95") + 5 :]] < row[key][1]
                   for key in row if "_ci95" in key)  # fmt: skip
        assert row["config"] == {"learning_rate": 1e-3 * row["batch_size"]}
    low, high = found["critical_batch_size"]["ci95"]
    assert low < CRITICAL < high < 2 * CRITICAL
    assert found["critical_batch_size"]["samples_min"] == pytest.approx(SAMPLES_MIN, rel=0.1)


def test_doubt_is_said(llama: dict[str, Any]) -> None:
    noisy = swept(llama, [8, 16, 32, 64], spread=0.5)
    assert noisy["best"]["verdict"] == "CANNOT_TELL" and "cannot tell" in noisy["best"]["answer"]
    assert {step["samples_to_target"]["verdict"] for step in noisy["steps"]} == {"CANNOT_TELL"}
    rising = swept(llama, [1, 4, 16])
    assert rising["best"]["between"] == [16, 16] and "the largest that was tried" in rising["best"]["answer"]
    falling = swept(llama, [16, 64], per_sample_s=lambda size: 1e-3)
    assert "does not shorten" in falling["best"]["answer"] and falling["best"]["batch_size"] == 16
    assert falling["critical_batch_size"]["value"] is None
    assert "3 batch sizes" in falling["critical_batch_size"]["reason"]


def test_runs_that_miss_the_target_take_infinitely_many_samples(llama: dict[str, Any]) -> None:
    found = swept(llama, [8, 16, 32, 64, 128], missed={64: 1, 128: 3})
    rows = {row["batch_size"]: row for row in found["batch_sizes"]}
    assert rows[128]["time_to_train_s"] is None and rows[128]["samples_to_target_ci95"] is None
    assert rows[128]["num_reached"] == 0 and rows[128]["time_per_sample_s"] > 0
    steps = {step["to"]: step for step in found["steps"]}
    assert steps[128]["time_to_train"]["verdict"] == steps[128]["samples_to_target"]["verdict"] == "SLOWER"
    assert steps[128]["time_to_train"]["ratio"] is None and "did not reach" in steps[128]["time_to_train"]["why"]
    assert steps[128]["time_per_sample"]["verdict"] == "FASTER"
    # One of three missed: it has a score, but its samples speak against it or not at all.
    assert rows[64]["time_to_train_s"] is not None
    assert steps[64]["samples_to_target"]["verdict"] in ("SLOWER", "CANNOT_TELL")
    assert found["critical_batch_size"]["batch_sizes"] == [8, 16, 32]
    assert found["critical_batch_size"]["left_out"] == [64, 128]
    lucky = swept(llama, [8, 64], missed={64: 1}, per_sample_s=lambda size: 1 / size**3)
    assert lucky["steps"][0]["time_to_train"]["verdict"] == "CANNOT_TELL"
    assert "did not reach" in lucky["steps"][0]["time_to_train"]["why"]
    begun = sweep_account._to_target(rows[8], rows[16] | {"time_to_train_s": None, "num_runs": 0}, "samples")
    assert begun.word == "CANNOT_TELL" and "not run yet" in begun.why
    none = swept(llama, [8, 16], missed={8: 3, 16: 2})
    assert none["best"]["batch_size"] is None and none["steps"][0]["time_to_train"]["verdict"] == "CANNOT_TELL"


def test_the_interval_of_the_critical_batch_size_covers_it() -> None:
    rng, covered, said = np.random.default_rng(2), 0, 0
    for _ in range(200):
        points = [Point(size, round(1000 * (1 + size / CRITICAL) * math.exp(0.1 * rng.standard_normal())), 0)
                  for size in (8, 16, 32, 64, 128) for _ in range(3)]  # fmt: skip
        found = critical_batch_size(points)
        if found["ci95"]:
            low, high = found["ci95"]
            covered += (low or 0) < CRITICAL < (high or math.inf)
            said += 1
    assert said >= 190 and covered >= 0.9 * said


@pytest.mark.parametrize("samples, says", [
    (lambda size: 1000 + size % 3, "hardly grow"),
    (lambda size: 1000 * size, "grow about as fast"),
    (lambda size: 5000 - 30 * size if size < 100 else 8000, "do not follow"),
])  # fmt: skip
def test_a_critical_batch_size_that_is_not_determined(samples: Any, says: str) -> None:
    points = [Point(size, samples(size) + seed, 2) for size in (8, 16, 32, 64, 128) for seed in range(3)]
    found = critical_batch_size(points)
    assert found["value"] is None and says in found["reason"]
    assert found["ci95"] is None or None in found["ci95"]


def test_evaluations_hide_what_lies_between_them() -> None:
    """Three runs that end at the same evaluation are not known to the sample."""
    points = [Point(size, 4000, 1000) for size in (8, 16, 32) for _ in range(3)]
    assert critical_batch_size(points)["ci95"][0] < 1000


def test_text_and_page_show_what_was_found(llama: dict[str, Any]) -> None:
    found = swept(llama, [8, 16, 32, 64, 128], missed={64: 1, 128: 3})
    console = Console(width=100, record=True, file=open(os.devnull, "w"))
    console.print(sweep_text.render(found, "runs/0001-sweep", "sweep.html"))
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 100
    for words in ("0 of 3", "2 of 3", "batch size 128: no time-to-train", "learning_rate", "Critical batch size"):
        assert words in " ".join(shown.split()), shown
    page = sweep_page.render(found)
    for name in ("time_to_train_s", "samples_to_target", "time_per_sample_s"):
        assert f'data-chart="{name}"' in page
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', page)[1], parse_constant=pytest.fail)
    (over,) = [trace for trace in charts["time_to_train_s"]["views"]["time_to_train_s"]["data"]
               if trace["marker"].get("symbol") == "triangle-up-open"]  # fmt: skip
    assert over["x"] == [64, 128, 128, 128]


# -- runs -------------------------------------------------------------------------------------------------------------


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PERFSUITE, "sweep", *arguments], capture_output=True, text=True, cwd=cwd, timeout=300)


def test_a_sweep_that_was_killed_goes_on(tmp_path: Path) -> None:
    """Killed as its second run begins; every record is then an ordinary one."""
    (tmp_path / "mine.py").write_text((HERE / "data" / "scripted.py").read_text() + RESCALED)
    command = [PERFSUITE, "sweep", "mine.py", "--batch-size", "64,16", "--runs", "2", "--seed", "7"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert "run 1 of 4" in process.stderr.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    folder = next((tmp_path / "runs").iterdir())
    assert sum(len(record.load(folder / name).passes) for name in sweep.load(folder)["records"]) == 1
    done = run("--resume", "last", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["records"] == ["0001-scripted-tiny-b16", "0002-scripted-tiny-b64"]
    assert [row["batch_size"] for row in found["batch_sizes"]] == [16, 64] and found["seeds"] == [7, 8]
    assert (folder / "sweep.html").stat().st_size > 1_000_000
    for name, size in zip(found["records"], (16, 64), strict=True):
        made = record.load(folder / name)
        assert [p["seed"] for p in made.passes] == [7, 8] and made.batch_size == size
        assert made.config["losses"] == [size / 32]  # what its rescaled() said
        assert all(p["losses"][0][1] == size / 32 for p in made.passes)  # in the processes of the runs as well
        assert all(p["num_steps"] == p["samples"] // size for p in made.passes)
    account = subprocess.run([PERFSUITE, "report", "2", "--out", str(folder), "--json"], capture_output=True, text=True)
    assert json.loads(account.stdout)["batch_size"] == 64
    assert run("--resume", str(folder), "--json", cwd=tmp_path).stdout == done.stdout


RESCALED = '''

def rescaled(config, batch_size):
    import dataclasses

    return dataclasses.replace(config, batch_size=batch_size, losses=(batch_size / 32,))
'''


@pytest.mark.parametrize("arguments, words", [
    (("llama",), ["batch sizes"]),
    (("llama", "--batch-size", "16"), ["two whole numbers"]),
    (("llama", "--batch-size", "16,x"), ["16,x"]),
    (("llama", "--batch-size", "16,3000"), ["batch size 3000 is too large", "3200 samples", "1 to 1600"]),
    (("lama", "--batch-size", "8,16"), ["no workload is called 'lama'"]),
    (("--resume", "4"), ["no sweep '4'"]),
])  # fmt: skip
def test_wrong_input_is_one_line(tmp_path: Path, arguments: tuple[str, ...], words: list[str]) -> None:
    done = run(*arguments, cwd=tmp_path)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1 and all(word in lines[0] for word in words), done.stderr
    assert not (tmp_path / "runs").exists()
