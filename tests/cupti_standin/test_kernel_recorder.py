"""The kernel recorder's whole life, against a scripted CUPTI that real torch ops launch into."""

import ctypes
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from perfsuite import _native
from perfsuite.instruments import Unavailable, kernels
from perfsuite.instruments.ops import OpRecorder
from perfsuite.watch import Watch

LAUNCHES = torch.library.Library("standin", "FRAGMENT")
LAUNCHES.define("gemm(Tensor x) -> Tensor")
current = None  # the stand-in that the ops launch into


def launching(name, x):
    """An op inside begins and ends before the launch: the launch is not that op's."""
    y = x * 2
    current.launch(name)
    return y


LAUNCHES.impl("gemm", lambda x: launching("gemm", x), "CPU")


class Gemm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return launching("gemm_kernel<float>(float*)", x)

    @staticmethod
    def backward(ctx, grad):
        return launching("gemm_backward_kernel", grad)


class Layer(torch.nn.Module):
    def forward(self, x):
        return Gemm.apply(x)


@pytest.fixture
def device(standin):
    global current
    current = standin
    yield standin
    current = None


def record(device, run, **options):
    recorder = device.recorder(**options)
    recorder.start()
    run()
    device.synchronize()
    return recorder.stop()


def check_device(data):
    """What holds for every recording: the parts of each device's account add up exactly."""
    for one in data["devices"]:
        assert one["busy_ns"] + one["idle_ns"] == one["clock_ns"]
        assert sum(row["time_ns"] for row in one["idle"]) == one["idle_ns"]
        assert sum(row["time_ns"] for row in one["busy"]) == one["busy_ns"]
        shares = sum(row["share_ns"] for row in data["rows"] if row["device"] == one["device"])
        assert shares == one["busy_ns"]


def test_a_training_step_is_told_by_op_module_direction_and_phase(device):
    model = torch.nn.Sequential(Layer())
    clock = _native.PhaseClock(["data", "forward", "backward", "optimizer"])
    ops = OpRecorder(model, clock)
    kernels = device.recorder(ops, clock)
    ops.start()
    kernels.start()
    clock.start()
    for step in range(8):
        clock.begin_step()
        ops.begin_step(step)
        kernels.begin_step(step)
        with clock.phase("data"):
            x = torch.ones(4, requires_grad=True)
            device.copy(1 << 20)
        with clock.phase("forward"):
            loss = model(x).sum()
        with clock.phase("backward"):
            loss.backward()
        with clock.phase("optimizer"):
            device.launch("outside_all_ops")
    device.synchronize()
    clock.stop()
    ops_data, data = ops.stop(), kernels.stop()

    check_device(data)
    rows = {row["name"]: row for row in data["rows"]}
    site = {name: None if row["site"] is None else data["sites"][row["site"]] for name, row in rows.items()}
    assert {name: (row["kind"], row["phase"], row["calls"]) for name, row in rows.items()} == {
        "gemm_kernel<float>(float*)": ("kernel", "forward", 8),
        "gemm_backward_kernel": ("kernel", "backward", 8),
        "outside_all_ops": ("kernel", "optimizer", 8),
        "memcpy HtoD": ("memcpy", "data", 8),
    }
    common = {"op": "", "thread": "clock"}
    assert site["gemm_kernel<float>(float*)"] == {
        "name": "Gemm", "direction": "forward", "module": "0", "phase": "forward", **common
    }  # fmt: skip
    assert site["gemm_backward_kernel"] == {
        "name": "GemmBackward", "direction": "backward", "module": "0", "phase": "backward", **common
    }  # fmt: skip
    assert site["outside_all_ops"] is None
    fields = ("name", "direction", "op", "module", "phase", "thread")
    known = [{field: row[field] for field in fields} for row in ops_data["rows"]]
    assert all(one in known for one in data["sites"])
    assert data["cupti"] == {"version": 130001, "path": device.cupti}
    assert data["notes"] == []


def test_copies_and_waits(device):
    def run():
        device.copy(1000, pinned=True)
        device.copy(24, pinned=True)
        device.copy(8, pinned=False)
        device.synchronize()

    data = record(device, run)
    check_device(data)
    copies = {row["copy"]["pinned"]: row for row in data["rows"] if row["kind"] == "memcpy"}
    assert {pinned: (row["calls"], row["bytes"]) for pinned, row in copies.items()} == {True: (2, 1024), False: (1, 8)}
    assert all(row["copy"]["direction"] == "HtoD" and row["grid"] is None for row in copies.values())
    assert sum(sync["calls"] for sync in data["syncs"]) >= 2


def test_single_pieces_of_work_are_kept_for_the_chosen_steps(device):
    recorder = device.recorder(slice_steps=range(1, 3))
    recorder.start()
    for step in range(5):
        recorder.begin_step(step)
        device.launch(f"kernel_{step}")
        device.synchronize()
    data = recorder.stop()
    slices = data["slices"]
    assert [data["rows"][row]["name"] for row in slices[:, 2]] == ["kernel_1", "kernel_2"]
    assert (slices[:, 1] - slices[:, 0] == 2000).all() and (slices[:, 4] == 7).all()
    assert len(set(slices[:, 5])) == 2
    launches = data["launch_ns"]
    assert launches.shape == (2,) and (launches > 0).all() and (launches <= slices[:, 0]).all()


def test_busy_time_by_interval_adds_up_to_the_rows(device, monkeypatch):
    clock = _native.PhaseClock(["forward"])
    recorder = device.recorder(clock=clock)
    recorder.start()
    clock.start()
    for i in range(40):
        device.launch(f"kernel_{i % 3}", 300_000)
        device.copy(64, duration_ns=1000)
    device.synchronize()
    clock.stop()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: types.SimpleNamespace(uuid=f"0000000{i}-abcd"))
    data = recorder.stop()
    check_device(data)
    assert data["power"]["device"] == 0 and data["power"]["uuid"] == "GPU-00000000-abcd"
    assert data["power"]["reason"] is None
    shares = {row["name"]: row["share_ns"] for row in data["rows"]}
    names, edges, busy = data["power"]["names"], data["power_edges_ns"], data["power_busy"]
    assert dict(zip(names, busy.sum(axis=0)[:-1].tolist(), strict=True)) == {n: ns for n, ns in shares.items() if ns}
    assert edges[0] <= clock.start_ns and edges[-1] == clock.start_ns + clock.elapsed_ns
    assert busy.shape == (len(edges) - 1, len(names) + 1) and (busy.sum(axis=1) <= np.diff(edges)).all()


@pytest.mark.parametrize(("uuid", "told"), [("GPU-12", "GPU-12"), (None, None)])
def test_the_gpu_is_named_as_nvml_does(device, monkeypatch, uuid, told):
    recorder = device.recorder()
    recorder.start()
    device.launch()
    device.synchronize()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: uuid is not None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: types.SimpleNamespace(uuid=uuid))
    assert recorder.stop()["power"]["uuid"] == told


def test_a_recording_without_work_has_no_device(device):
    data = record(device, lambda: None)
    assert data["power"] is None and len(data["power_edges_ns"]) == 0 and data["power_busy"].shape == (0, 1)


def test_a_watched_loop_keeps_all_of_it(device, monkeypatch):
    monkeypatch.setattr(kernels, "KernelRecorder", lambda *args: device.recorder(*args))
    watched = Watch("watch", torch.nn.Linear(2, 2))
    watched.start()
    for _ in range(3):
        watched.begin_step()
        with watched.phase("forward"):
            torch.ops.standin.gemm(torch.ones(2))
    device.synchronize()
    watched.stop()
    data, arrays = watched.data(), watched.arrays()
    assert data["kernels"]["power"]["names"] == ["gemm"]
    assert json.loads(json.dumps(data["kernels"])) == data["kernels"]
    edges = arrays["kernel_power_edges_ns"]
    assert edges[0] <= data["start_ns"] and edges[-1] == data["start_ns"] + data["clock_ns"]
    assert arrays["kernel_power_busy"].sum() == data["kernels"]["devices"][0]["busy_ns"]
    assert len(arrays["kernel_launch_ns"]) == len(arrays["kernel_slices"])


def test_launches_of_other_threads_are_told_apart(device):
    def run():
        torch.ops.standin.gemm(torch.ones(2))
        other = threading.Thread(target=lambda: torch.ops.standin.gemm(torch.ones(2)))
        other.start()
        other.join()

    ops = OpRecorder()
    ops.start()
    recorder = device.recorder(ops)
    recorder.start()
    run()
    device.synchronize()
    data = recorder.stop()
    ops.stop()
    threads = {data["sites"][row["site"]]["thread"]: row["calls"] for row in data["rows"]}
    assert threads == {"clock": 1, "other": 1}


def test_sites_are_known_before_and_after_the_op_recorder_stops(device):
    for ops_first in (True, False):
        ops = OpRecorder()
        recorder = device.recorder(ops)
        ops.start()
        recorder.start()
        torch.ops.standin.gemm(torch.ones(2))
        device.synchronize()
        if ops_first:
            ops.stop()
        data = recorder.stop()
        if not ops_first:
            ops.stop()
        assert [site["name"] for site in data["sites"]] == ["standin::gemm"]


def test_nothing_is_recorded_while_paused(device):
    recorder = device.recorder()
    recorder.start()
    device.launch("before")
    device.synchronize()
    recorder.pause()
    assert device.count("kinds") == device.count("calls") == 0
    device.launch("meanwhile")
    recorder.resume()
    device.launch("after")
    device.synchronize()
    data = recorder.stop()
    check_device(data)
    assert {row["name"] for row in data["rows"]} == {"before", "after"}
    assert any("paused for" in note for note in data["notes"])


def test_only_calls_that_give_work_or_wait_are_recorded(device):
    recorder = device.recorder()
    recorder.start()
    # The stand-in knows 3 of interest in the driver's part and 3 in the runtime's, among 224.
    assert (device.count("calls"), device.count("kinds")) == (6, 9)
    assert device.count("all_sync_records") == 0
    recorder.pause()
    recorder.resume()  # which enables the kinds again, and CUPTI forgets what was chosen
    assert (device.count("calls"), device.count("kinds")) == (6, 9)
    recorder.stop()


def test_a_library_without_a_choice_of_calls_records_all_of_them(build_standin):
    standin = build_standin("cuptiActivityEnableDriverApi", "cuptiActivityEnableRuntimeApi")
    recorder = standin.recorder()
    recorder.start()
    assert (standin.count("calls"), standin.count("kinds")) == (224, 9)
    standin.launch()
    standin.synchronize()
    data = recorder.stop()
    standin.check_given_back()
    assert [row["calls"] for row in data["rows"]] == [1]
    assert len([note for note in data["notes"] if "all API calls" in note]) == 1


def test_buffers_are_used_again_and_few(device):
    recorder = device.recorder()
    recorder.start()
    for _ in range(30_000):  # about 8 MB of records
        device.launch("small", 10)
    device.synchronize()
    data = recorder.stop()
    check_device(data)
    assert sum(row["calls"] for row in data["rows"]) == 30_000
    assert data["dropped"] == 0 and device.count("most_held") <= 64
    assert data["late"] == 0


def test_buffers_that_are_not_full_are_asked_for_while_it_runs(device):
    """A thread that launches little would keep its records to itself until the end, too late for the account."""
    recorder = device.recorder()
    recorder.start()
    device.launch("rare")
    until_ns = _native.now_ns() + 30 * 10**9
    while device.count("flushes") == 0 and _native.now_ns() < until_ns:
        device.launch("more", 10)
    assert device.count("flushes") > 0
    device.synchronize()
    assert recorder.stop()["late"] == 0


def test_a_full_pool_is_counted_never_silent(device):
    """More threads than there are buffers: the records of the rest are dropped, and every one of them is counted."""
    recorder = device.recorder()
    recorder.start()
    inside = threading.Barrier(81)

    def launch():
        device.launch("one")
        inside.wait()  # all of them hold a buffer at once

    threads = [threading.Thread(target=launch) for _ in range(80)]
    for thread in threads:
        thread.start()
    inside.wait()
    for thread in threads:
        thread.join()
    data = recorder.stop()
    recorded = sum(row["calls"] for row in data["rows"])
    assert recorded < 80 and data["dropped"] > 0
    assert data["records"] + data["dropped"] == 160  # a call and a kernel each


def test_the_clock_of_the_records_is_ours_and_given_back(device):
    recorder = device.recorder()
    recorder.start()
    assert abs(device.count("clock_ns") - _native.now_ns()) < 10**9
    recorder.stop()
    assert abs(device.count("clock_ns") - time.time_ns()) < 10**9


def test_another_client_is_one_clear_reason(device):
    device.lib.standin_other_client(1)
    recorder = device.recorder()
    assert recorder.available().available  # only starting tells
    with pytest.raises(Unavailable, match=r"another CUPTI client .*\(CUPTI for Scripted\)"):
        recorder.start()
    device.lib.standin_other_client(0)
    recorder.start()
    recorder.stop()


def test_another_client_of_an_older_library_has_no_name(build_standin):
    standin = build_standin("cuptiSubscribe_v2")
    standin.lib.standin_other_client(1)
    with pytest.raises(Unavailable, match="another CUPTI client holds"):
        standin.recorder().start()
    standin.lib.standin_other_client(0)
    standin.check_given_back()


def test_torch_profiler_at_work_is_a_reason(device):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        availability = device.recorder().available()
    assert not availability.available and "torch.profiler" in availability.reason
    assert device.recorder().available().available


@pytest.mark.parametrize(
    "function",
    ["cuptiSubscribe", "cuptiActivityRegisterCallbacks", "cuptiActivityRegisterTimestampCallback",
     "cuptiActivityEnable 10", "cuptiActivityEnable 39"],
)  # fmt: skip
def test_what_fails_at_the_start_is_the_reason_and_leaves_nothing_on(device, function):
    device.fail(function, 15)
    recorder = device.recorder()
    with pytest.raises(Unavailable, match=f"{function.split()[0]}.*CUPTI_ERROR_NOT_INITIALIZED"):
        recorder.start()
    device.check_given_back()
    device.fail(function, 0)
    recorder.start()  # and it was not the last word
    device.launch()
    device.synchronize()
    assert [row["calls"] for row in recorder.stop()["rows"]] == [1]


def test_what_can_be_done_without_is_noted(device):
    device.fail("cuptiActivityEnable 17", 27)
    recorder = device.recorder()
    recorder.start()
    assert any("not recorded: overhead" in note for note in recorder.stop()["notes"])


def test_a_flush_that_fails_is_noted(device):
    recorder = device.recorder()
    recorder.start()
    device.launch()
    device.fail("cuptiActivityFlushAll", 999)
    data = recorder.stop()
    assert any("records may be missing: cuptiActivityFlushAll" in note for note in data["notes"])
    assert any("did not come back" in note for note in data["notes"])
    device.fail("cuptiActivityFlushAll", 0)
    device.lib.cuptiActivityFlushAll(1)  # a buffer that comes after the stop harms nobody


def test_versions_and_functions_that_are_not_known(build_standin):
    standin = build_standin()
    standin.lib.standin_version(11)
    assert "11" in standin.recorder().available().reason
    with pytest.raises(Unavailable, match="11"):
        standin.recorder().start()
    missing = build_standin("cuptiActivityPushExternalCorrelationId")
    assert "has no cuptiActivityPushExternalCorrelationId" in missing.recorder().available().reason


def test_a_driver_that_sees_no_gpu(device):
    device.driver_lib.standin_driver(0, 0)
    assert device.recorder().available().reason == "the NVIDIA driver sees no GPU"
    device.driver_lib.standin_driver(100, 0)
    assert "cuInit returns 100" in device.recorder().available().reason


def test_one_recorder_at_a_time(device):
    first, second = device.recorder(), device.recorder()
    first.start()
    with pytest.raises(RuntimeError, match="already"):
        first.start()
    with pytest.raises(Unavailable, match="already running in this process"):
        second.start()
    first.stop()
    second.start()
    second.stop()
    with pytest.raises(RuntimeError, match="not running"):
        second.stop()


def test_a_recorder_that_is_thrown_away_gives_everything_back(device):
    device.recorder().start()


def test_a_second_recording_starts_from_nothing(device):
    first = record(device, lambda: device.launch("first"))
    second = record(device, lambda: device.launch("second"))
    assert [row["name"] for row in first["rows"] + second["rows"]] == ["first", "second"]


def test_an_op_that_outlives_the_recording_leaves_no_number_behind(device):
    ops = OpRecorder()
    ops.start()
    recorder = device.recorder(ops)

    @torch.library.custom_op("standin::stops", mutates_args=())
    def stops(x: torch.Tensor) -> torch.Tensor:
        recorder.stop()
        return x.clone()

    recorder.start()
    stops(torch.ones(1))
    assert device.count("pushed") == 0
    ops.stop()


def test_a_forked_process_records_nothing_and_does_not_hang(device):
    ops = OpRecorder()
    ops.start()
    recorder = device.recorder(ops)
    recorder.start()
    child = multiprocessing.get_context("fork").Process(target=_forked)
    child.start()
    child.join(30)
    assert child.exitcode == 0
    recorder.stop()
    ops.stop()


def _forked():
    torch.ones(3).sum()
    os._exit(current.count("pushed"))


def test_the_real_library_without_a_driver_says_why():
    """In a process of its own: CUPTI's functions for the device can crash there."""
    try:
        ctypes.CDLL("libcuda.so.1")
        pytest.skip("there is a driver")
    except OSError:
        pass
    code = (
        "from perfsuite.instruments.kernels import KernelRecorder\n"
        "recorder = KernelRecorder()\n"
        "print(recorder.available().reason)\n"
        "try: recorder.start()\n"
        "except RuntimeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reason, raised = done.stdout.splitlines()
    assert reason == raised and reason.startswith("no NVIDIA driver: libcuda.so.1")


def test_the_real_library_under_a_scripted_driver_fails_with_its_reason(standin):
    """Past the guard CUPTI itself says that there is no driver: that is the reason, nothing crashes, nothing stays."""
    library = real_cupti()
    code = (
        "import sys\n"
        "from perfsuite.instruments.kernels import KernelRecorder\n"
        "recorder = KernelRecorder(driver=sys.argv[1], cupti=sys.argv[2])\n"
        "print(recorder.available())\n"
        "for _ in range(2):\n"
        "    try: recorder.start()\n"
        "    except RuntimeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, standin.driver, library], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    available, first, second = done.stdout.splitlines()
    assert "available=True" in available or "not known" in available
    assert first == second and first.startswith(("cuptiSubscribe: CUPTI_ERROR_", str(library)))


def test_the_real_library_has_a_name_for_every_number_of_a_call():
    """The recorder chooses calls by their names, and looks for them up to the first number without one."""
    library = ctypes.CDLL(real_cupti())
    name = ctypes.c_char_p()
    names = []
    for domain in (1, 2):
        number = 1
        while library.cuptiGetCallbackName(domain, number, ctypes.byref(name)) == 0:
            names.append(name.value.decode())
            number += 1
    assert {"cuLaunchKernelEx", "cudaLaunchKernel_v7000", "cudaGraphLaunch_v10000", "cudaMemcpyAsync_v3020"} <= {*names}
    assert len(names) > 1000


def real_cupti():
    """The CUDA toolkit's library; skips where there is none."""
    homes = [Path(home) for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    for home in homes:
        for found in sorted([*home.glob("lib*/libcupti.so.*"), *home.glob("extras/CUPTI/lib64/libcupti.so.*")]):
            return str(found)
    pytest.skip(f"no libcupti in {' or '.join(map(str, homes))}")
