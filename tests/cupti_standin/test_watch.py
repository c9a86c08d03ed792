"""The kernel recorder beside the other instruments of a watch."""

import numpy as np
import pytest
import torch

from perfsuite.instruments import kernels
from perfsuite.watch import Watch


@pytest.fixture
def watched(standin, monkeypatch):
    """run(between) -> Watch, after 8 steps of real ops that launch into the stand-in; between: called after step 4."""
    monkeypatch.setattr(kernels, "KernelRecorder", standin.recorder)
    model = torch.nn.Linear(4, 4)

    def run(between=lambda watch: None) -> Watch:
        watch = Watch("ledger", model)
        watch.start()
        for step in range(8):
            watch.begin_step()
            with watch.phase("forward"):
                loss = model(torch.ones(2, 4)).sum()
                standin.launch(f"kernel_{step}")
            with watch.phase("backward"):
                loss.backward()
            if step == 4:
                between(watch)
        with watch.phase("device wait"):
            standin.synchronize()
        watch.stop()
        return watch

    return run


def instrument(watch: Watch, name: str) -> dict:
    return next(row for row in watch.data()["instruments"] if row["name"] == name)


def test_kernels_of_a_watch(watched):
    watch = watched()
    data, arrays = watch.data(), watch.arrays()
    assert instrument(watch, "kernel recorder") == {"name": "kernel recorder", "available": True, "reason": None}
    rows = data["kernels"]["rows"]
    assert [(row["name"], row["phase"]) for row in rows] == [(f"kernel_{step}", "forward") for step in range(8)]
    (device,) = data["kernels"]["devices"]
    assert device["busy_ns"] + device["idle_ns"] == device["clock_ns"]
    assert device["clock_ns"] == data["clock_ns"]
    slices = arrays["kernel_slices"]
    assert [rows[row]["name"] for row in slices[:, 2]] == [f"kernel_{step}" for step in range(2, 6)]
    starts = arrays["step_starts"]
    assert (starts[2:6] <= slices[:, 0]).all() and (slices[:-1, 0] < starts[3:6]).all()


def test_a_client_that_came_before_is_the_reason(watched, standin):
    standin.lib.standin_other_client(1)
    watch = watched()
    standin.lib.standin_other_client(0)
    assert watch.data()["kernels"] is None and "kernel_slices" not in watch.arrays()
    row = instrument(watch, "kernel recorder")
    assert not row["available"] and row["reason"].startswith("another CUPTI client")
    assert instrument(watch, "op recorder")["available"]


def test_without_recorders_cupti_is_left_alone(watched, standin):
    def arms(watch):
        watch.set_arm("off")
        assert standin.count("kinds") == 0
        watch.set_arm("recorders")
        assert standin.count("kinds") > 0

    watch = watched(arms)
    assert any("paused" in note for note in watch.data()["kernels"]["notes"])


def test_without_a_gpu_the_reason_is_recorded_and_ops_have_their_slices():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    watch = Watch("ledger")
    watch.start()
    for _ in range(8):
        watch.begin_step()
        torch.ones(3).add(1)
    watch.stop()
    row = instrument(watch, "kernel recorder")
    assert not row["available"] and row["reason"].startswith("no NVIDIA driver: libcuda.so.1")
    assert watch.data()["kernels"] is None
    slices, names = watch.arrays()["op_slices"], watch.data()["op_slice_names"]
    assert slices.dtype == np.int64 and {names[i] for i in slices[:, 2]} == set(names)
    starts = watch.arrays()["step_starts"]
    assert (slices[:, 0] >= starts[2]).all() and (slices[:, 0] < starts[6]).all()
    adds = slices[slices[:, 2] == names.index("aten::add")]
    assert len(adds) == 4 and (adds[:, 0] <= adds[:, 1]).all()
