"""A GPU's ceilings: which sizes stand for which level, the whole measurement on a stand-in, and how it is shown.

The stand-in has the emulator's kernels, the host's clock and the sizes of a small GPU: what it measures is wrong as a
figure and right as a document.
"""

import io
import json
import math
import sys
import time
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from perfsuite import ceilings, cuda_extension, gpu_machine, machine, roofline
from perfsuite.gpu_machine import device, gemm, latency, launch, memory, plan, sections, transfer
from perfsuite.gpu_state import State
from perfsuite.op_bench import gpu_ceilings
from perfsuite.report.gpu_text import render_gpu
from perfsuite.report.machine_text import render_machine

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
H100 = {"l1": 228 * KIB, "l2": 50 * MIB, "free": 79 * GIB}


def test_the_ladder_reaches_from_a_few_lines_to_a_gigabyte():
    sizes = plan.ladder(H100["l2"], H100["free"])
    assert sizes[0] == 4 * KIB and sizes[-1] == GIB and sizes == sorted(set(sizes))
    assert all(size % plan.LINE_BYTES == 0 for size in sizes)
    assert max(b / a for a, b in pairwise(sizes)) <= 1.5
    assert plan.ladder(126 * MIB, H100["free"])[-1] >= 7 * 126 * MIB
    small = plan.ladder(4 * MIB, 2 * GIB)
    assert small[-1] <= 2 * GIB // 8


@pytest.mark.parametrize(("l1", "l2"), [(228 * KIB, 50 * MIB), (164 * KIB, 40 * MIB), (228 * KIB, 126 * MIB)])
def test_every_step_of_the_ladder_has_sizes_and_they_do_not_overlap(l1, l2):
    sizes = plan.ladder(l2, 70 * GIB)
    names = [plan.plateau(size, l1, l2) for size in sizes]
    steps = [name for name in names if name]
    assert list(dict.fromkeys(steps)) == list(plan.PLATEAUS)
    assert all(steps.count(name) >= 2 for name in ("L1", "L2", "DRAM"))
    for size, name in zip(sizes, names, strict=True):
        if name == "L1":
            assert size < l1
        elif name in ("L2", "L2 upper half"):
            assert l1 < size < l2
        elif name == "DRAM":
            assert size >= 4 * l2


def test_arrays_are_beyond_l2_or_it_is_said():
    size, note = plan.array_bytes(H100["l2"], H100["free"])
    assert size == GIB and note is None and size % plan.TILE_BYTES == 0
    size, note = plan.array_bytes(48 * MIB, GIB)
    assert 3 * size <= GIB // 4 and "too small for arrays of four times L2" in note
    for arrays in (1, 2, 3):
        each = plan.l2_array_bytes(H100["l2"], arrays)
        assert each % plan.TILE_BYTES == 0 and H100["l2"] / 5 < arrays * each <= H100["l2"] / 4


def test_two_timers_that_disagree_are_an_error():
    gpu = SimpleNamespace(event_ns=lambda run: 1e6, graph=lambda run, calls: lambda: calls)
    gpu.host_ns = lambda run: 1e6 * run()
    assert device.check_second_timer(gpu, lambda: None) == {"events_ns": 1e6, "graph_ns": 1e6}
    gpu.host_ns = lambda run: 1.2e6 * run()
    with pytest.raises(device.TimerError, match="1000 us by events, 1200 us by a graph"):
        device.check_second_timer(gpu, lambda: None)


def test_a_part_that_fails_is_absent_and_the_others_go_on():
    gpu = SimpleNamespace(recover=lambda: None)
    calls = []

    def task() -> list[float]:
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("an illegal address\nand much more")
        return [1.0]

    def good(gpu, notes):
        notes.append("seen")
        return sections.Prepared({("good", "x"): lambda: [2.0]}, lambda found: {"good": found["good", "x"]})

    def refused(gpu, notes):
        raise ValueError("no nvcc found")

    def failing(gpu, notes):
        return sections.Prepared({("bad", "x"): task}, lambda found: {"bad": found["bad", "x"]})

    notes: list[str] = []
    parts = {"good": good, "refused": refused, "failing": failing}
    entries, absent = sections.measure_parts(gpu, parts, 4, math.inf, lambda done: None, notes)
    assert entries == {"good": [2.0] * 4} and notes == ["seen"] and len(calls) == 3
    assert absent == {"refused": "no nvcc found", "failing": "an illegal address"}


class StandIn:
    """In place of perfsuite.gpu_machine.device.Gpu."""

    device = "cpu"
    index, count, name, uuid, capability = 0, 2, "a stand-in", "0", (9, 0)
    multiprocessors, memory_bytes, l2_bytes, l1_bytes = 4, 64 * MIB, 512 * KIB, 16 * KIB

    def free_bytes(self) -> int:
        return 16 * MIB

    def synchronize(self) -> None:
        pass

    recover = synchronize

    def event_ns(self, run: Any, behind_sleep: bool = True) -> float:
        start = time.monotonic_ns()
        run()
        return float(max(1, time.monotonic_ns() - start))

    host_ns = event_ns

    def graph(self, run: Any, calls: int) -> Any:
        return lambda: [run() for _ in range(calls)]

    def side_by_side(self, first: Any, second: Any) -> Any:
        return lambda: (first(), second())

    def host_buffer(self, size_bytes: int, pinned: bool) -> torch.Tensor:
        return torch.zeros(size_bytes, dtype=torch.uint8)

    def state(self) -> State:
        return State(10**9, ("software power cap",), None)


@pytest.fixture(scope="module")
def small(cuda_emulator_building):
    """Everything of a size that the emulator can do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cuda_extension.EMULATOR, str(cuda_emulator_building.build()))
        patch.setattr(cuda_extension, "_failures", {})
        patch.setattr(gpu_machine, "_LIMIT_S", 0.0)  # as few rounds as there may be
        patch.setattr(gpu_machine, "_SUSTAINED_S", 0.0)
        for module in (device, latency, transfer):  # nothing that a busy machine decides
            patch.setattr(module, "agree", lambda a, b: True)
        for module in (memory, latency):
            patch.setattr(module, "_REPETITION_NS", 1.0)
        patch.setattr(device, "_GRAPH_NS", 1.0)
        patch.setattr(gemm, "_BATCH_NS", 1.0)
        patch.setattr(gemm, "SIZES", (32, 64))
        patch.setattr(transfer, "SIZES", (8, 64 * KIB, MIB))
        for name, count in (("CALLS", 60), ("NODES", 20), ("OPS", 10)):
            patch.setattr(launch, name, count)
        yield


@pytest.fixture(scope="module")
def measured(small):
    shares: list[float] = []
    found = gpu_machine.measure_on(StandIn(), lambda share, what: shares.append(share), quick=True)
    assert shares == sorted(shares) and 0 <= shares[0] and shares[-1] <= 1
    return found


def spreads(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, dict | list):
        return []
    if isinstance(value, dict) and "samples" in value:
        return [value]
    return [found for child in (value.values() if isinstance(value, dict) else value) for found in spreads(child)]


def test_a_measurement_is_complete(measured):
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    # There is no NVML to read power with here; everything else was measured.
    assert set(measured["absent"]) <= {"sensor"}, measured["absent"]
    assert [level["name"] for level in measured["levels"]] == ["L2", "DRAM"]
    assert [level["capacity_bytes"] for level in measured["levels"]] == [512 * KIB, None]
    for level in measured["levels"]:
        for kind in memory.KINDS:
            assert level[f"{kind}_bytes_per_s"]["ceiling"] > 0
    assert [step["name"] for step in measured["latency"]["plateaus"]] == list(plan.PLATEAUS)
    assert measured["levels"][1]["latency_ns"] == measured["latency"]["plateaus"][-1]["latency_ns"]
    assert len(measured["latency"]["ladder"]) == len(plan.ladder(512 * KIB, 16 * MIB))
    assert {(row["direction"], row["pinned"]) for row in measured["transfers"]} == {
        ("HtoD", True), ("DtoH", True), ("both", True), ("HtoD", False), ("DtoH", False)}  # fmt: skip
    assert set(measured["launch"]) == set(launch.MEANINGS)
    assert measured["op_overhead_ns"] == measured["launch"]["op_ns"]
    assert any("software power cap" in note for note in measured["notes"])
    assert any("2 GPUs" in note for note in measured["notes"])
    assert measured["sm_clock_hz"] == {"lo": 10**9, "hi": 10**9}
    assert spreads(measured)
    for found in spreads(measured):
        assert found["lo"] <= found["median"] <= found["hi"] and found["ceiling"] in found["samples"]


def test_products_that_were_measured_have_a_burst_and_a_sustained_rate(measured):
    rates, reasons = measured["gemm_flops_per_s"], measured["gemm_reasons"]
    assert set(rates) == set(gemm.DTYPES) and {dtype for dtype in rates if rates[dtype] is None} == set(reasons)
    for dtype in ("float32", "tf32", "bfloat16", "float64"):
        assert rates[dtype]["n"] in (32, 64) and [one["n"] for one in rates[dtype]["sizes"]] == [32, 64]
        assert measured["gemm_sustained"][dtype]["lowered_by"] == ["software power cap"]


def test_the_op_benchmarks_hold_kernels_against_the_same_ceilings(small, measured, monkeypatch):
    kept = {"gpus": [measured]}
    monkeypatch.setattr(machine, "load_ceilings", lambda: (kept, None))
    found, cache_bytes, absent = gpu_ceilings.measure()
    assert found.levels == roofline.machine_of(measured).levels and found.op_overhead_ns is None
    assert cache_bytes == 512 * KIB and absent == measured["absent"]
    kept["gpus"] = None  # measured now, by the same code
    monkeypatch.setattr(gpu_machine, "Gpu", StandIn)
    found, cache_bytes, absent = gpu_ceilings.measure()
    assert [level.name for level in found.levels] == ["L2", "DRAM"] and {"f32", "bf16"} <= set(found.peak_flops_per_s)
    assert cache_bytes == 512 * KIB and absent == {}


def test_units_that_this_gpu_lacks_are_said():
    class Old(StandIn):
        capability = (7, 5)

    for dtype, least in (("tf32", "8.0"), ("bfloat16", "8.0"), ("float8_e4m3fn", "8.9")):
        with pytest.raises(RuntimeError, match=f"{dtype} needs compute capability {least}, this GPU has 7.5"):
            gemm.product(Old(), dtype, 32)


def test_float32_products_leave_the_precision_as_it_was():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        for dtype in ("tf32", "float32"):
            gemm.product(StandIn(), dtype, 32)()
            assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_copies_that_bring_back_something_else_are_refused(monkeypatch):
    monkeypatch.setattr(transfer, "_copy", lambda target, source: lambda: target.zero_())
    with pytest.raises(RuntimeError, match="is not what was sent"):
        transfer.prepare(StandIn(), [])


def rate(value: float, share: float = 0.01) -> dict[str, Any]:
    low, high = value * (1 - share), value * (1 + share)
    return {"ceiling": value, "median": value, "lo": low, "hi": high, "samples": [low, value, high]}


@pytest.fixture
def made_up() -> dict[str, Any]:
    """Round figures near what is published of an H100 SXM. Nobody measured them."""
    def level(name: str, capacity: int | None, bandwidth: float, ns: float) -> dict[str, Any]:
        return {"name": name, "capacity_bytes": capacity, "working_set_bytes": 12 * MIB, "latency_ns": rate(ns),
                **{f"{kind}_bytes_per_s": rate(bandwidth) for kind in memory.KINDS}}  # fmt: skip

    def sensor(window_s: float | None, update_s: float) -> dict[str, Any]:
        known = {"value": update_s, "spread": [0.9 * update_s, 1.1 * update_s], "reason": None}
        unknown = {"value": None, "spread": None, "reason": "no window explains the readings"}
        times = dict.fromkeys(("update_period_s", "lag_s", "rise_s", "fall_s", "counter_update_period_s"), known)
        window = unknown if window_s is None else known | {"value": window_s, "spread": [window_s, window_s]}
        return times | {"window_s": window, "aliasing": {"risk": "75% of the time is in no reading"}}

    plateaus = [{"name": name, "sizes": text, "from_bytes": 4 * KIB, "to_bytes": 96 * KIB, "reason": None,
                 "latency_ns": rate(200), "cycles": rate(350)} for name, text in plan.PLATEAUS.items()]  # fmt: skip
    plateaus[2] |= {"latency_ns": None, "cycles": None, "reason": "no size of the ladder lies there"}
    return {
        "index": 0, "name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0", "multiprocessors": 132,
        "memory_bytes": 80 * GIB, "l2_bytes": 50 * MIB, "l1_bytes": 228 * KIB,
        "levels": [level("L2", 50 * MIB, 5.5e12, 200.0), level("DRAM", None, 2.9e12, 500.0)],
        "latency": {"line_bytes": 128, "ladder": [], "plateaus": plateaus},
        "transfers": [{"direction": way, "pinned": pinned, "bytes": size, "time_ns": rate(1e4),
                       "bytes_per_s": rate(5e10)}
                      for way, pinned in (("HtoD", True), ("both", True), ("DtoH", False)) for size in (8, 256 * MIB)],
        "launch": {name: rate(2000.0) for name in launch.MEANINGS}, "op_overhead_ns": rate(5000.0),
        "gemm_flops_per_s": {dtype: {"n": 8192, **rate(7e14)} for dtype in gemm.DTYPES} | {"float8_e4m3fn": None},
        "gemm_reasons": {"float8_e4m3fn": "this torch has no product of them"},
        "gemm_sustained": {"bfloat16": {"seconds": 2.0, "flops_per_s": rate(6e14), "sm_clock_hz": 1.4e9,
                                        "lowered_by": ["software power cap"], "reason": None}},
        "sensor": {"sensors": {"power_instant_w": sensor(0.025, 0.1), "power_average_w": sensor(None, 0.1)}},
        "absent": {"launch": "no nvcc found"}, "notes": ["a note"],
        "sm_clock_hz": {"lo": 1.2e9, "hi": 1.98e9}, "sm_clock_reason": None,
    }  # fmt: skip


def shown(what: Any) -> str:
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(what)
    return console.file.getvalue()


def test_a_gpu_fits_on_one_screen(made_up):
    text = shown(render_gpu(made_up))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100 and len(lines) <= 80 and "…" not in text
    assert "NVIDIA H100 80GB HBM3" in text and "2900" in text and "5500" in text
    for dtype in set(gemm.DTYPES) - {"float8_e4m3fn"}:
        assert any(line.split()[:1] == [dtype] for line in lines)
    assert "GEMM float8_e4m3fn: not measured (this torch has no product of them)" in text
    assert "GPU launch: not measured (no nvcc found)" in text
    assert "GPU power average, averages over: unknown (no window explains the readings)" in text
    assert "GPU power instant: 75% of the time is in no reading" in text
    assert "software power cap" in text and "256 MiB" in text and "SM clock 1200 to 1980 MHz" in text


def test_a_measured_document_can_be_shown(measured):
    assert "…" not in shown(render_gpu(measured))


def test_the_roofline_takes_the_gpu_for_ops_on_it(made_up):
    cpu = {"levels": [], "gemm_flops_per_s": {}, "op_overhead_ns": None, "gpus": [made_up], "gpus_reason": None}
    part = {"ceilings": cpu, "ceilings_reason": None}
    for name in ("cuda", "cuda:1"):
        found, reason = roofline.ceilings_for(part, name)
        assert found is made_up and reason is None
    roofs = roofline.machine_of(made_up)
    assert [level.name for level in roofs.levels] == ["L2", "DRAM"] and roofs.op_overhead_ns == 5000.0
    assert roofs.levels[0].capacity_bytes == 50 * MIB and math.isinf(roofs.levels[1].capacity_bytes)
    assert {"f32", "f64", "bf16", "f16", "tf32"} == set(roofs.peak_flops_per_s)
    large = roofline.place(roofs, "bf16[1]", 1, 1.0, 2 * 10**12, 0, GIB)
    assert large.level == "DRAM" and large.least_s == pytest.approx(2 / 2.9, rel=0.05)
    for device_name in ("cpu", None):
        assert roofline.ceilings_for(part, device_name) == (cpu, None)
    assert roofline.ceilings_for({"ceilings": None, "ceilings_reason": "none yet"}, "cuda") == (None, "none yet")


def test_ceilings_from_before_gpus_are_still_read_and_say_what_they_lack():
    old = {"levels": [], "gemm_flops_per_s": {}, "op_overhead_ns": None}
    part = {"ceilings": old, "ceilings_reason": None}
    assert roofline.ceilings_for(part, "cpu") == (old, None)
    found, reason = roofline.ceilings_for(part, "cuda")
    assert found is None and "run `perfsuite machine` to measure again" in reason
    none = {"ceilings": old | {"gpus": None, "gpus_reason": "torch sees no CUDA device"}, "ceilings_reason": None}
    assert roofline.ceilings_for(none, "cuda") == (None, "torch sees no CUDA device")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_reason_is_in_the_document_and_on_the_screen(monkeypatch):
    assert gpu_machine.measure() == (None, "torch sees no CUDA device")
    monkeypatch.setattr(ceilings, "_LIMIT_S", 0.0)
    found = ceilings.measure(quick=True, threads=1)
    assert found["gpus"] is None and found["gpus_reason"] == "torch sees no CUDA device"
    assert "GPU: none (torch sees no CUDA device)" in shown(render_machine(machine.fingerprint(), found))
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "torch is not installed" in gpu_machine.measure()[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_real_gpu_is_measured_and_its_levels_are_in_order():
    found, reason = gpu_machine.measure(quick=True)
    assert found is not None, reason
    assert found["absent"] == {}
    l2, dram = found["levels"]
    for kind in memory.KINDS:
        assert l2[f"{kind}_bytes_per_s"]["ceiling"] > dram[f"{kind}_bytes_per_s"]["ceiling"]
    steps = [step["latency_ns"]["median"] for step in found["latency"]["plateaus"]]
    assert steps == sorted(steps) and steps[-1] > 5 * steps[0]
    # What the two clocks of a walk say of the SM clock must be possible.
    for step in found["latency"]["plateaus"]:
        assert 0.2e9 < 1e9 * step["cycles"]["median"] / step["latency_ns"]["median"] < 4e9
    rates = found["gemm_flops_per_s"]
    assert rates["bfloat16"]["ceiling"] > rates["float32"]["ceiling"]
