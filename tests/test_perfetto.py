"""`perfsuite report --perfetto`: the file is read back strictly, track by track, and holds what the record holds."""

import importlib.util
import json
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("perfetto")

from perfsuite.report import perfetto, trace_clock

PERFSUITE = Path(sysconfig.get_path("scripts"), "perfsuite")
SCRIPTED = str(Path(__file__).parent / "data/scripted.py")
BOOT_NS = 9_123_456_789_012_345  # ns since boot: more than float64 tells apart one by one
MS = 1_000_000
PHASES = ("data", "forward", "backward", "optimizer", "evaluation", "other")
PARTS = (("data", 1), ("forward", 3), ("backward", 5), ("optimizer", 1))  # of a step, in tenths


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Reading = _beside("perfetto_reading").Reading


def made_pass(kind: str, start_ns: int, step_ns: list[int], *, evaluate_after: tuple[int, ...] = (),
              evaluation_ns: int = 0, **more: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:  # fmt: skip
    """A pass of these steps, each with its phases and no gap, and evaluations after some of them."""
    starts, timeline, evaluations, t = [], [], [], start_ns + MS
    for step, length_ns in enumerate(step_ns):
        starts.append(t)
        for name, tenths in PARTS:
            timeline.append((t, PHASES.index(name), step + 1))
            t += length_ns * tenths // 10
        if step in evaluate_after:
            timeline.append((t, PHASES.index("evaluation"), step + 1))
            t += evaluation_ns
            evaluations.append({"samples": 8 * (step + 1), "quality": 3.5 - step / 10, "t_ns": t - start_ns})
    timeline.append((t, -1, len(step_ns)))
    stop_ns = t + MS
    pass_ = {
        "kind": kind, "index": 0, "seed": 7, "state": "done", "arrays": f"pass-{kind}-0.npz", "start_ns": start_ns,
        "clock_ns": stop_ns - start_ns, "num_steps": len(step_ns), "phases": [{"name": name} for name in PHASES],
        "timeline_dropped": 0, "evaluations": evaluations, "instruments": [],
        "sampler": {"columns": ["gpu0_power_instant_w", "rss_bytes"], "units": {"gpu0_power_instant_w": "W",
                    "rss_bytes": "B"}, "absent": {}},
    } | more  # fmt: skip
    samples_ns = np.arange(start_ns, stop_ns, 5 * MS)
    power = 300 + 100 * np.sin(np.arange(len(samples_ns)))
    power[::3] = np.nan
    arrays = {
        "step_starts": np.array(starts), "timeline": np.array(timeline), "sampler_t_ns": samples_ns,
        "sampler_values": np.stack([power, np.full(len(samples_ns), 2.0**30)], axis=1),
    }  # fmt: skip
    return pass_, arrays


def read(*passes: tuple[dict[str, Any], dict[str, np.ndarray]], **more: Any) -> tuple[Any, list[str]]:
    record = {"id": "0001-x", "workload": "llama", "scale": "tiny", "device": "cuda",
              "target": {"metric": "validation loss"}, "passes": [pass_ for pass_, _ in passes]} | more  # fmt: skip
    arrays = {pass_["arrays"]: found for pass_, found in passes}
    data, absent = perfetto.render(record, arrays.__getitem__)
    return Reading(data), absent


def with_kernels(slices: list[tuple[int, ...]], rows: list[dict[str, Any]], **arrays: Any) -> tuple[Any, Any]:
    pass_, found = made_pass("ledger", BOOT_NS, [10 * MS] * 4)
    pass_ |= {"kernels": {"rows": rows, "sites": arrays.pop("sites", [])}, "op_slice_names": arrays.pop("names", [])}
    return pass_, found | {"kernel_slices": np.array(slices, np.int64).reshape(-1, 6)} | arrays


def kernel_row(name: str, kind: str = "kernel", **more: Any) -> dict[str, Any]:
    copy = {"direction": "HtoD", "pinned": True} if kind == "memcpy" else None
    return {"name": name, "kind": kind, "copy": copy, "site": None, "phase": "forward", "graph": False,
            "grid": [8, 1, 1], "block": [128, 1, 1], "registers": 40, "shared_bytes": 1024} | more  # fmt: skip


def held(tracks: list[Any]) -> Counter[tuple[int, int, str]]:
    return Counter((s.start_ns, s.end_ns, s.name) for track in tracks for s in track.slices)


def test_phases_steps_evaluations_and_power_of_one_pass() -> None:
    pass_, arrays = made_pass("ledger", BOOT_NS, [10 * MS, 20 * MS, 10 * MS], evaluate_after=(1,), evaluation_ns=7 * MS)
    trace, absent = read((pass_, arrays))
    steps = trace.ending("ledger pass 0, seed 7/steps")[0].slices
    assert [(s.name, s.end_ns - s.start_ns) for s in steps] == [
        ("step 0", 10 * MS), ("step 1", 27 * MS), ("step 2", 11 * MS)
    ]  # fmt: skip
    phases = trace.ending("/phases")[0].slices
    assert [s.name for s in phases][4:9] == ["data", "forward", "backward", "optimizer", "evaluation"]
    assert sum(s.end_ns - s.start_ns for s in phases) == 47 * MS and phases[0].facts == {}
    assert [(name, facts) for _, name, facts in trace.ending("/marks")[0].instants] == [
        ("run_start", {}), ("validation loss 3.4", {"quality": 3.4, "samples": 16}), ("run_stop", {})
    ]  # fmt: skip
    power = trace.ending("sampler/gpu0_power_instant_w")[0]
    values = arrays["sampler_values"][:, 0]
    read_ns = arrays["sampler_t_ns"][~np.isnan(values)]
    assert power.unit == "W" and power.points == list(zip(read_ns, values[~np.isnan(values)], strict=True))
    assert [line.split(":")[0] for line in absent] == [
        "no ops", "no kernels and copies", "no hardware counters", "no host stacks"
    ]  # fmt: skip


def test_what_is_absent_is_said_with_its_reason() -> None:
    pass_, arrays = made_pass("ledger", BOOT_NS, [10 * MS])
    pass_["instruments"] = [{"name": "kernel recorder", "available": False, "reason": "no CUDA device"}]
    pass_["sampler"] = {"columns": ["rss_bytes"], "units": {"rss_bytes": "B"},
                        "absent": {"gpu": "no NVIDIA driver", "rapl": "no zone"}}  # fmt: skip
    arrays["sampler_values"] = arrays["sampler_values"][:, 1:]
    failed = {"kind": "timeline", "index": 0, "seed": 7, "state": "failed", "error": "RuntimeError: x"}
    _, absent = read((pass_, arrays), passes=[pass_, failed])
    assert "no kernels and copies: no CUDA device" in absent
    assert "no power: gpu: no NVIDIA driver; rapl: no zone" in absent
    assert "timeline pass 0: RuntimeError: x" in absent
    with pytest.raises(ValueError, match="nothing to draw"):
        read(passes=[failed])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 25), st.integers(0, 3), st.integers(0, 1),
                          st.integers(1, 3)), max_size=60))  # fmt: skip
def test_no_kernel_is_lost_however_they_overlap(drawn: list[tuple[int, ...]]) -> None:
    rows = [kernel_row("gemm<float, 128>"), kernel_row("Größe_σ²<日本>"), kernel_row("copy", "memcpy"),
            kernel_row("fill", "memset")]  # fmt: skip
    slices = [(BOOT_NS + s, BOOT_NS + s + length, row, device, stream, i)
              for i, (s, length, row, device, stream) in enumerate(drawn)]  # fmt: skip
    trace, _ = read(with_kernels(slices, rows))
    tracks = [track for path, track in trace.tracks.items() if "/device " in path]
    assert held(tracks) == Counter((s[0], s[1], rows[s[2]]["name"]) for s in slices)
    for track in tracks:
        assert all(s.depth == 0 for s in track.slices)
        ends = [s.end_ns for s in track.slices]
        assert all(s.start_ns >= end for s, end in zip(track.slices[1:], ends, strict=False))
    for device in (0, 1):
        for stream in (1, 2, 3):
            for what, kinds in (("kernels", (0, 1)), ("copies and fills", (2, 3))):
                want = [s for s in slices if s[3] == device and s[4] == stream and s[2] in kinds]
                end = f"/device {device}/stream {stream}, {what}"
                lanes = [track for path, track in trace.tracks.items() if end in path]
                assert held(lanes) == Counter((s[0], s[1], rows[s[2]]["name"]) for s in want)


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.just([]), lambda inner: st.lists(inner, max_size=4), max_leaves=25), st.integers(0, 3),
       st.randoms())  # fmt: skip
def test_nested_ops_stay_on_one_track(tree: list[Any], spread_ns: int, random: Any) -> None:
    slices: list[tuple[int, ...]] = []

    def lay(node: list[Any], t: int, depth: int) -> int:  # with spread 0 begins and ends fall together
        mine, begin = len(slices), t
        slices.append(())
        t += spread_ns
        for child in node:
            t = lay(child, t, depth + 1)
        end = t + max(spread_ns, 0 if node else 1)
        slices[mine] = (begin, end, depth, 0, depth)
        return end

    lay(tree, BOOT_NS, 0)
    random.shuffle(slices)
    names = [f"op {depth}" for depth in range(30)]
    pass_, arrays = with_kernels([], [], names=names, op_slices=np.array(slices, np.int64))
    trace, _ = read((pass_, arrays))
    tracks = [track for path, track in trace.tracks.items() if "/ops" in path]
    assert len(tracks) == 1 and tracks[0].name == "ops, thread 0 (clock)"
    assert held(tracks) == Counter((s[0], s[1], names[s[2]]) for s in slices)
    assert Counter((s.name, s.depth) for s in tracks[0].slices) == Counter((names[s[2]], s[4]) for s in slices)


def test_facts_of_a_kernel_and_arrows_from_the_op_that_launched_it() -> None:
    sites = [{"name": "aten::mm", "direction": "forward", "op": "linear=eager", "module": "layers.0",
              "thread": "clock"}]  # fmt: skip
    rows = [kernel_row("gemm", site=0), kernel_row("Memcpy HtoD", "memcpy", grid=None, block=None, registers=None,
                                                   shared_bytes=None)]  # fmt: skip
    at = BOOT_NS + 2 * MS
    ops = [(at, at + 100, 1, 0, 0), (at + 10, at + 40, 0, 0, 1), (at + 50, at + 90, 0, 0, 1), (at, at + 100, 0, 1, 0)]
    kernels = [(at + 60, at + 70, 0, 0, 7, 1), (at + 70, at + 95, 0, 0, 7, 2), (at, at + 5, 1, 0, 7, 3),
               (at + 95, at + 99, 0, 0, 7, 4)]  # fmt: skip
    launches = np.array([at + 12, at + 55, at + 1, -1])
    trace, notes = read(with_kernels(kernels, rows, sites=sites, names=["aten::mm", "aten::linear"],
                                     op_slices=np.array(ops), kernel_launch_ns=launches))  # fmt: skip
    launched = trace.ending("stream 7, kernels")[0].slices
    starts = {s.start_ns: s.flows for s in trace.ending("ops, thread 0 (clock)")[0].slices}
    assert starts[at + 10] == launched[0].flows != [] and starts[at + 50] == launched[1].flows != []
    assert starts[at] == [] and launched[2].flows == [] and trace.ending("ops, thread 1")[0].slices[0].flows == []
    assert launched[0].facts == {
        "kind": "kernel", "launched in phase": "forward", "launched by": "aten::mm", "direction": "forward",
        "op": "linear=eager", "module": "layers.0", "grid": "8 x 1 x 1", "block": "128 x 1 x 1", "registers": 40,
        "shared_bytes": 1024,
    }  # fmt: skip
    copy = trace.ending("stream 7, copies and fills")[0].slices[0]
    assert copy.facts == {"kind": "memcpy", "launched in phase": "forward", "copy": "HtoD", "host memory": "pinned"}
    assert any("no arrow to 2 of 4 kernels" in note for note in notes)


def test_arrows_of_a_made_up_run_join_each_kernel_to_its_op() -> None:
    _beside("gpu_schedule")  # gpu_records imports it by its name
    made, arrays = _beside("gpu_records").gpu_record()
    pass_, found = next((p, arrays(p["arrays"])) for p in made["passes"] if p["kind"] == "ledger")
    trace, notes = read((pass_, found))
    launched = {slice_.start_ns: slice_ for path, track in trace.tracks.items() if "/device " in path
                for slice_ in track.slices}  # fmt: skip
    by_flow = {flow: slice_ for path, track in trace.tracks.items() if "/ops, thread" in path
               for slice_ in track.slices for flow in slice_.flows}  # fmt: skip
    rows, sites = pass_["kernels"]["rows"], pass_["kernels"]["sites"]
    without = 0
    for (start_ns, _, row, *_), launch_ns in zip(found["kernel_slices"], found["kernel_launch_ns"], strict=True):
        flows = launched[start_ns].flows
        if rows[row]["site"] is None or launch_ns < 0:
            without += 1
            assert flows == []
        else:
            op = by_flow[flows[0]]
            assert op.name == sites[rows[row]["site"]]["name"] and op.start_ns <= launch_ns <= op.end_ns
    assert 0 < without < len(found["kernel_slices"]) / 20 and (found["kernel_launch_ns"] < 0).sum() == 1
    assert any(f"no arrow to {without} of {len(found['kernel_slices'])} kernels" in note for note in notes)


def test_passes_of_other_speeds_are_laid_on_the_ledger_pass() -> None:
    evaluate = {"evaluate_after": (1, 3), "evaluation_ns": 30 * MS}
    ledger = made_pass("ledger", BOOT_NS, [20 * MS, 10 * MS, 30 * MS, 10 * MS], **evaluate)
    lengths = [5 * MS, 40 * MS, 13 * MS + 7, 11 * MS]
    clean = made_pass("clean", BOOT_NS - 10**13, lengths, evaluate_after=(1, 3), evaluation_ns=90 * MS)
    trace, _ = read(clean, ledger)  # the record has the clean pass first
    here, there = ("0001-x: llama tiny on cuda/" + name for name in ("ledger pass 0, seed 7", "clean pass 0, seed 7"))
    assert list(trace.tracks)[1] == here
    for kind in ("steps", "phases"):
        a, b = trace.tracks[f"{here}/{kind}"].slices, trace.tracks[f"{there}/{kind}"].slices
        assert [s.name for s in a] == [s.name for s in b]
        assert max(abs(x.start_ns - y.start_ns) for x, y in zip(a, b, strict=True)) <= 1
        assert max(abs(x.end_ns - y.end_ns) for x, y in zip(a, b, strict=True)) <= 1
        assert all(s.facts == {} for s in a)
    measured = [s.facts["measured_ns"] for s in trace.tracks[f"{there}/steps"].slices]
    assert measured == [5 * MS, 130 * MS, 13 * MS + 5, 102 * MS]  # the parts of a step are whole nanoseconds
    marks = [[t for t, _, _ in trace.tracks[f"{name}/marks"].instants] for name in (here, there)]
    assert np.abs(np.diff(marks, axis=0)).max() <= 1
    assert "on its own clock" in trace.tracks[here].description
    about = trace.tracks[there].description
    assert "4 of its 4 steps (that one has 4) and 2 evaluations: shifted by 10000 s" in about
    assert "stretched piece by piece by 0.25 to 4" in about and "measured_ns" in about


def test_passes_with_other_numbers_of_steps_share_the_common_ones() -> None:
    ledger, more, other_seed = (
        made_pass(
            kind, BOOT_NS + i * 10**12, [length] * steps, evaluate_after=(1,), evaluation_ns=length, index=i, seed=seed,
            arrays=f"{i}",
        )
        for i, (kind, length, steps, seed) in enumerate(
            [("ledger", 10 * MS, 4, 7), ("timeline", 20 * MS, 6, 7), ("clean", 20 * MS, 2, 8)]
        )
    )
    trace, _ = read(ledger, more, other_seed)
    a, b, c = (trace.ending(f"{name}/steps")[0].slices for name in
               ("ledger pass 0, seed 7", "timeline pass 1, seed 7", "clean pass 2, seed 8"))  # fmt: skip
    assert [s.start_ns for s in b[:4]] == [s.start_ns for s in a]
    assert b[4].start_ns - b[3].start_ns == 20 * MS and b[5].end_ns > a[3].end_ns  # beyond the common steps: as it was
    assert [s.start_ns for s in c] == [s.start_ns for s in a[:2]]
    assert "4 of its 6 steps (that one has 4)" in trace.ending("timeline pass 1, seed 7")[0].description
    assert "the seeds differ (8, 7)" in trace.ending("clean pass 2, seed 8")[0].description


def test_the_mapping_is_exact_at_steps_and_shifts_beyond_them() -> None:
    here = made_pass("clean", BOOT_NS, [10 * MS, 20 * MS])
    there = made_pass("ledger", BOOT_NS + 10**15, [30 * MS, 10 * MS])
    clock = trace_clock.onto(*here, *there)
    assert clock(here[1]["step_starts"]).tolist() == there[1]["step_starts"].tolist()
    # The last step goes on to the stop, 1 ms later.
    half = here[1]["step_starts"] + np.array([10 * MS // 2, 21 * MS // 2])
    assert clock(half).tolist() == (there[1]["step_starts"] + np.array([30 * MS // 2, 11 * MS // 2])).tolist()
    ends = np.array([p[0]["start_ns"] for p in (here, there)])
    assert clock(ends[:1] - 5).tolist() == [ends[1] - 5]
    assert clock(ends[:1] + here[0]["clock_ns"] + 5).tolist() == [ends[1] + there[0]["clock_ns"] + 5]


def test_hardware_counters_become_rates_and_copies_of_all_columns() -> None:
    pass_, arrays = made_pass("timeline", BOOT_NS, [10 * MS] * 3)
    columns = [("dram_read_bytes", "B"), ("l2_hit_share", "share")]
    pass_["counters"] = {"columns": [{"name": name, "unit": unit} for name, unit in columns]}
    spans = np.array([[BOOT_NS, BOOT_NS + MS], [BOOT_NS + MS, BOOT_NS + 3 * MS]])
    values = np.array([[2e6, 0.5], [2e6, np.nan]])
    trace, _ = read((pass_, arrays | {"counters_t_ns": spans, "counters_values": values}))
    dram, hits = (trace.ending(f"hardware counters/{name}")[0] for name in ("dram_read_bytes_per_s", "l2_hit_share"))
    assert dram.unit == "B/s" and dram.points == [(BOOT_NS, 2e9), (BOOT_NS + MS, 1e9)]
    assert hits.unit == "share" and hits.points == [(BOOT_NS, 0.5)]


def test_sampled_stacks_are_drawn_as_frames_within_their_callers() -> None:
    pass_, arrays = made_pass("host_stacks", BOOT_NS, [10 * MS] * 3)
    pass_["host_stacks"] = {"frames": [["main", "m.py", 9], ["train_step", "m.py", 4], ["evaluate", "m.py", 7]],
                            "interval_s": 0.01, "stacks_dropped": 3}  # fmt: skip
    at = [BOOT_NS + i * MS for i in range(6)]
    nodes = np.array([[-1, 0], [0, 1], [0, 2]])
    seen = np.array([[at[0], at[1], 1], [at[1], at[2], 1], [at[2], at[3], 2], [at[4], at[5], 2]])  # none from 3 to 4
    trace, notes = read((pass_, arrays | {"stack_slices": seen, "stack_nodes": nodes}))
    track = trace.ending("/Python stack of the clock thread")[0]
    assert [(s.name, s.start_ns, s.end_ns, s.depth) for s in track.slices] == [
        ("main (m.py:9)", at[0], at[3], 0), ("train_step (m.py:4)", at[0], at[2], 1),
        ("evaluate (m.py:7)", at[2], at[3], 1),
        ("main (m.py:9)", at[4], at[5], 0), ("evaluate (m.py:7)", at[4], at[5], 1),
    ]  # fmt: skip
    assert "every 10 ms" in track.description and any("last 3 changes of the stack" in note for note in notes)


def test_a_hundred_thousand_kernels_and_more_phases_than_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    begins = BOOT_NS + np.cumsum(rng.integers(100, 2000, 100_000))
    slices = np.zeros((100_000, 6), np.int64)
    slices[:, 0], slices[:, 1] = begins, begins + rng.integers(1, 4000, 100_000)
    slices[:, 2] = rng.integers(0, 50, 100_000)
    pass_, arrays = with_kernels([], [kernel_row(f"kernel_{i}") for i in range(50)])
    trace, _ = read((pass_, arrays | {"kernel_slices": slices}))
    assert sum(len(track.slices) for path, track in trace.tracks.items() if "/device " in path) == 100_000
    monkeypatch.setattr("perfsuite.report.trace_tracks.MAX_SLICES", 10)
    monkeypatch.setattr("perfsuite.report.trace_tracks.MAX_POINTS", 4)
    trace, notes = read((pass_, arrays))
    assert len(trace.ending("/phases")[0].slices) == 10 and len(trace.ending("/rss_bytes")[0].points) <= 4
    assert any("phases: the first 10 of 16 are drawn" in note for note in notes)
    assert any("sampler: one in 3 of 9 samples is drawn" in note for note in notes)


def perfsuite(*arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PERFSUITE, *arguments], capture_output=True, text=True, cwd=cwd, timeout=300, **options)


def test_the_command_writes_the_trace_of_a_real_run(tmp_path: Path) -> None:
    account = json.loads(perfsuite("run", SCRIPTED, "--runs", "2", "--no-ledger", "--json", cwd=tmp_path).stdout)
    done = perfsuite("report", "last", "--perfetto", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "runs" / account["id"] / "trace.perfetto-trace"
    assert tmp_path / done.stdout.strip() == path and "no kernels and copies: " in done.stderr
    trace = Reading(path.read_bytes())
    phases = trace.ending("clean pass 0, seed " + str(account["score"]["runs"][0]["seed"]) + "/phases")[0]
    assert sum(s.end_ns - s.start_ns for s in phases.slices) == sum(p["time_ns"] for p in account["ledger"]["phases"])
    assert len(trace.ending("/steps")) == 2 and len(trace.ending("sampler/rss_bytes")) == 2
    elsewhere = perfsuite("report", "last", "--json", "--perfetto", "x.trace", cwd=tmp_path)
    assert json.loads(elsewhere.stdout)["path"] == "x.trace"
    assert (tmp_path / "x.trace").read_bytes() == path.read_bytes()

    for arguments, said in ((["--perfetto", "nowhere/x"], "nowhere/x"), (["--steps", "1:2", "--perfetto"], "--steps")):
        wrong = perfsuite("report", "last", *arguments, cwd=tmp_path)
        assert wrong.returncode == 2 and said in wrong.stderr and wrong.stderr.count("\n") == 1, wrong.stderr
    (tmp_path / "perfetto.py").write_text("raise ModuleNotFoundError('none', name='perfetto')")
    missing = perfsuite("report", "last", "--perfetto", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert missing.returncode == 2 and missing.stdout == ""
    assert missing.stderr == "perfsuite: perfetto is not installed: pip install 'perfsuite[report]'\n"
