"""On a real GPU: what the tests without one cannot know. `make gpu STAGE=tests`, or `pytest -m gpu`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from perfsuite.instruments.counters import CounterReplay, CounterTimeline
from perfsuite.watch import Watch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
COPY_BYTES = 1 << 30
COPIES = 200
"""Some 100 ms of them: the samples at both ends, which are not kept, are 1 ms each."""


def watched(kind: str, step, steps: int = 8) -> Watch:
    """A watch over `steps` steps, each in the phase "forward", with warm-up before."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    watch = Watch(kind)
    watch.start()
    for _ in range(steps):
        watch.begin_step()
        with watch.phase("forward"):
            step()
    with watch.phase("other"):
        torch.cuda.synchronize()
    watch.stop()
    return watch


def products():
    a, b = torch.randn(2048, 2048, device="cuda"), torch.randn(2048, 2048, device="cuda")

    def step():
        for _ in range(5):
            torch.exp(a @ b)  # each is one op all the way down; relu is not, it calls clamp_min

    return step


def kernels_of(watch: Watch) -> dict:
    found = watch.data()["kernels"]
    reason = next((row["reason"] for row in watch.data()["instruments"] if row["name"] == "kernel recorder"), None)
    assert found is not None, reason
    return found


def check_device(watch: Watch, found: dict) -> None:
    """Busy and idle add up to the clock, shares to busy, and every piece of work lies in it."""
    (device,) = found["devices"]
    assert device["busy_ns"] + device["idle_ns"] == device["clock_ns"] == watch.data()["clock_ns"]
    assert sum(row["share_ns"] for row in found["rows"]) == device["busy_ns"] > 0
    assert found["dropped"] == found["late"] == 0, found["notes"]


def test_kernels_are_counted_with_their_ops():
    watch = watched("ledger", products())
    found = kernels_of(watch)
    check_device(watch, found)
    by_site = {}
    for row in found["rows"]:
        name = found["sites"][row["site"]]["name"] if row["site"] is not None else None
        by_site[name] = by_site.get(name, 0) + row["calls"]
    assert by_site["aten::mm"] >= 40 and by_site["aten::exp"] == 40
    assert {row["phase"] for row in found["rows"]} == {"forward"}


def test_a_replayed_graph_is_accounted_for():
    step = products()
    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    watch = watched("ledger", graph.replay)
    found = kernels_of(watch)
    check_device(watch, found)
    assert sum(row["calls"] for row in found["rows"] if row["graph"]) >= 8 * 10


def test_compiled_regions_are_accounted_for():
    x = torch.randn(4096, 4096, device="cuda")
    compiled = torch.compile(lambda t: (t * 2 + 1).relu().sum())
    watch = watched("ledger", lambda: compiled(x))
    found = kernels_of(watch)
    check_device(watch, found)
    assert any("triton" in row["name"] for row in found["rows"])


def copies():
    source = torch.randint(0, 255, (COPY_BYTES,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def test_sampled_bytes_are_those_of_a_known_copy():
    available = CounterTimeline().available()
    if not available.available:
        pytest.skip(available.reason)
    watch = watched("timeline", copies(), COPIES)
    counters = watch.data()["counters"]
    names = [column["name"] for column in counters["columns"]]
    read, written = (float(watch.arrays()["counters_values"][:, names.index(f"dram_{way}_bytes")].sum())
                     for way in ("read", "write"))  # fmt: skip
    assert read == pytest.approx(COPIES * COPY_BYTES, rel=0.1)
    assert written == pytest.approx(COPIES * COPY_BYTES, rel=0.1)


def test_replayed_bytes_are_those_of_a_known_kernel():
    source = torch.randint(0, 255, (COPY_BYTES,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def step():
        torch.bitwise_not(source, out=target)  # a copy is no kernel to CUPTI, and is not replayed

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    available = CounterReplay().available()
    if not available.available:
        pytest.skip(available.reason)
    watch = watched("counters", step, 2)
    replay = watch.data()["replay"]
    names = [column["name"] for column in replay["columns"]]
    assert sum(row["calls"] for row in replay["rows"]) == 2 and not replay["unjoined"], replay["notes"]
    assert {replay["sites"][row["site"]]["name"] for row in replay["rows"]} == {"aten::bitwise_not"}
    read = sum(row["values"][names.index("dram_read_bytes")] for row in replay["rows"])
    assert read == pytest.approx(2 * COPY_BYTES, rel=0.1)


def test_a_run_with_every_pass(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from perfsuite.cli import main; main()", "run", "llama", "--runs", "1",
         "--device", "cuda", "--timeline", "--counters", "--json"], cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr[-3000:]
    account = json.loads(done.stdout)
    assert account["ledger"]["device"]["available"], account["ledger"]["device"]["reason"]
    failed = [check for check in account["ledger"]["checks"] if not check["ok"] and "device" in check["name"]]
    assert not failed, failed
    assert account["power"]["available"], account["power"]["reason"]
