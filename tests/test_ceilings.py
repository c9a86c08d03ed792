"""Ceilings: which working sets stand for which level, what a ceiling is, and a whole measurement on this machine."""

import io
import json
import sys
from typing import Any

import pytest
from rich.console import Console

from perfsuite import ceilings, machine, topology
from perfsuite.memory_levels import plan_levels
from perfsuite.report.machine_text import render_machine
from perfsuite.topology import Cache

KIB, MIB = 1 << 10, 1 << 20


def two_cores(l3_bytes: int | None) -> list[Cache]:
    caches = [Cache(1, 48 * KIB, 64, (0,)), Cache(1, 48 * KIB, 64, (1,))]
    caches += [Cache(2, MIB, 64, (0,)), Cache(2, MIB, 64, (1,))]
    return caches + ([Cache(3, l3_bytes, 64, (0, 1))] if l3_bytes else [])


def test_each_level_gets_a_working_set_that_only_it_holds() -> None:
    levels, notes = plan_levels([0, 1], two_cores(32 * MIB), None, 64 << 30)
    assert [(level.name, level.capacity_bytes) for level in levels] == [
        ("L1", 96 * KIB),
        ("L2", 2 * MIB),
        ("L3", 32 * MIB),
        ("DRAM", None),
    ]
    assert notes == []
    below = 0
    for level in levels:
        assert level.working_set_bytes >= 4 * below
        assert level.capacity_bytes is None or level.working_set_bytes <= level.capacity_bytes
        below = level.capacity_bytes or 0


def test_one_thread_has_its_own_caches_and_the_whole_shared_one() -> None:
    levels, _ = plan_levels([1], two_cores(32 * MIB), None, None)
    assert [level.capacity_bytes for level in levels] == [48 * KIB, MIB, 32 * MIB, None]
    assert all(level.chase_bytes == level.working_set_bytes for level in levels)


def test_no_third_level() -> None:
    levels, notes = plan_levels([0, 1], two_cores(None), None, 64 << 30)
    assert [level.name for level in levels] == ["L1", "L2", "DRAM"] and notes == []


def test_a_last_level_no_larger_than_the_one_below_is_noted() -> None:
    levels, notes = plan_levels([0, 1], two_cores(2 * MIB), None, 64 << 30)
    assert levels[2].working_set_bytes > 2 * MIB
    assert notes == ["L3: less than four times the level below, which serves part of the working set"]


def test_unlike_cores_are_noted_and_share_by_the_smallest() -> None:
    caches = [Cache(1, 48 * KIB, 64, (0,)), Cache(1, 32 * KIB, 64, (1,)), Cache(2, 2 * MIB, 64, (0,))]
    levels, notes = plan_levels([0, 1], caches, None, 64 << 30)
    assert [level.name for level in levels] == ["L1", "DRAM"]
    assert levels[0].capacity_bytes == 80 * KIB and levels[0].working_set_bytes == 32 * KIB
    assert len(notes) == 2 and "L1 differs" in notes[0] and "L2 is left out" in notes[1]


def test_without_caches_only_dram_is_measured_and_it_is_said() -> None:
    levels, notes = plan_levels([0], [], "cache sizes are not visible", 64 << 30)
    assert [level.name for level in levels] == ["DRAM"]
    assert notes == ["only DRAM is measured: cache sizes are not visible"]


def test_little_memory_is_noted() -> None:
    levels, notes = plan_levels([0, 1], two_cores(32 * MIB), None, 256 * MIB)
    assert levels[-1].working_set_bytes == 64 * MIB
    assert "memory is too small" in notes[0]


def test_a_ceiling_was_reached_three_times() -> None:
    rates = ceilings.spread([10.0, 50.0, 11.0, 40.0, 45.0, 12.0, 13.0])
    assert rates["ceiling"] == 40.0 and rates["median"] == 13.0 and rates["lo"] <= 13.0 <= rates["hi"]
    assert ceilings.spread([5.0, 1.0, 2.0, 3.0], best="low")["ceiling"] == 3.0
    assert ceilings.spread([7.0])["ceiling"] == 7.0


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ceilings, "_LIMIT_S", 0.0)  # as few rounds as there may be
        progress: list[tuple[int, int, str]] = []
        result = ceilings.measure(lambda *args: progress.append(args), quick=True, threads=1)
    assert progress[0][0] == 0 and all(done <= total for done, total, _ in progress)
    return result


def spreads(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, dict | list):
        return []
    if isinstance(value, dict) and "samples" in value:
        return [value]
    return [found for child in (value.values() if isinstance(value, dict) else value) for found in spreads(child)]


def test_a_measurement_is_complete(measured: dict[str, Any]) -> None:
    assert json.loads(json.dumps(measured)) == measured
    assert measured["threads"] == 1 and measured["schema"] == 1 and measured["quick"]
    assert measured["fingerprint_id"] == machine.fingerprint_id(machine.fingerprint())
    caches = topology.data_caches(topology.worker_cpus(1))[0]
    assert [level["name"] for level in measured["levels"]] == [
        *(f"L{n}" for n in sorted({c.level for c in caches})),
        "DRAM",
    ]
    for level in measured["levels"]:
        for name in ("read", "write", "copy", "triad"):
            assert level[f"{name}_bytes_per_s"]["ceiling"] > 0
    for spread in spreads(measured):
        assert len(spread["samples"]) >= 3 and min(spread["samples"]) > 0
        assert spread["lo"] <= spread["median"] <= spread["hi"] and spread["ceiling"] in spread["samples"]
    assert measured["gemm_flops_per_s"]["float32"]["n"] >= 256 and measured["op_overhead_ns"]["ceiling"] > 0


def test_torch_threads_are_put_back(measured: dict[str, Any]) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    rates = ceilings.yardstick(repeats=2, threads=1)
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == 3
    assert len(rates["copy_bytes_per_s"]) == len(rates["gemm_flops_per_s"]) == 2 and rates["gemm_reason"] is None


def test_without_torch_the_reason_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of torch fails from here on
    rates = ceilings.yardstick(repeats=1, threads=1)
    assert rates["gemm_flops_per_s"] is None and "torch is not installed" in rates["gemm_reason"]
    assert len(rates["copy_bytes_per_s"]) == 1


def test_too_many_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="the processors this process may use"):
        ceilings.measure(threads=100_000)


def shown(*args: Any) -> str:
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(render_machine(*args))
    return console.file.getvalue()


def test_the_machine_fits_on_one_screen(measured: dict[str, Any]) -> None:
    text = shown(machine.fingerprint(), measured)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100 and len(lines) <= 50 and "…" not in text
    for level in measured["levels"]:
        assert any(line.split()[:1] == [level["name"]] for line in lines)
    assert "GEMM float32" in text and "third-best" in text


def test_what_is_absent_is_shown_with_its_reason(measured: dict[str, Any]) -> None:
    assert "No ceilings: run it first" in shown(machine.fingerprint(), None, "run it first")
    without = measured | {
        "gemm_flops_per_s": {"float32": None, "bfloat16": None},
        "gemm_reason": "torch is not installed",
        "op_overhead_ns": None,
        "op_overhead_reason": "torch is not installed",
    }
    assert shown(machine.fingerprint(), without).count("not measured: torch is not installed") == 3
