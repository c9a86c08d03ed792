"""The CUDA kernels of cross-entropy, run on the CPU by the emulator."""

import pytest
import torch

from perfsuite.kernels import contract, cross_entropy_cuda
from perfsuite.kernels.check import check
from perfsuite.kernels.cross_entropy import OP, cases, cross_entropy

WANTED = [
    "1x1 float32",
    "1x1031 float32 reduction=sum",
    "0x7 float32 reduction=sum",
    "7x33 float32 reduction=none label_smoothing=0.1 z_loss=0.001 ignored=0.4",
    "9x40 float32 ignored=1.0",
    "13x100 float32 label_smoothing=0.3 ignored=0.4 layout=transposed",
    "12x50 float32 label_smoothing=0.1 reduction=none values=nan",
    "12x1500 float32 reduction=none values=infinite",
    "8x1040 float32 values=large",
    "16x512 bfloat16 label_smoothing=0.1 z_loss=0.001 ignored=0.4",
    "5x1030 bfloat16 reduction=sum layout=padded rows",
    "5x1030 float16 reduction=none",
    "6x1100 float64 label_smoothing=0.1 z_loss=0.001 ignored=0.4",
]
CASES = {case.name: case for case in cases("tiny")}
IN_CLUSTERS = ["1x1031 float32 reduction=sum", WANTED[3], WANTED[7], WANTED[9], WANTED[10], WANTED[12]]


@pytest.fixture
def cuda(cuda_emulator):
    contract.select({"cross_entropy": "cuda"})
    yield
    contract.select({})


@pytest.mark.parametrize("name", WANTED)
def test_cuda_is_right(cuda, name):
    report = check(OP, OP.implementations["cuda"], CASES[name])
    assert report.ok and report.deterministic, report


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "read twice"])
@pytest.mark.parametrize("name", IN_CLUSTERS)
def test_cuda_in_clusters_is_right(cuda, name, kept, monkeypatch):
    shared = 227 << 10 if kept else 0
    monkeypatch.setattr(cross_entropy_cuda, "SLICE_BYTES", 512)
    monkeypatch.setattr(cross_entropy_cuda, "_split", lambda x: cross_entropy_cuda.split_row(
        x.shape[1] * x.element_size(), shared, True))  # fmt: skip
    report = check(OP, OP.implementations["cuda"], CASES[name])
    assert report.ok and report.deterministic, report


def test_rows_are_split_by_what_fits():
    split = cross_entropy_cuda.split_row
    assert split(2 * 256, 227 << 10, True)[0] == 1
    blocks, kept = split(2 * 128256, 227 << 10, True)
    assert blocks == 8 and kept * blocks >= 2 * 128256 and kept < 33 << 10
    blocks, kept = split(4 * 1_000_000, 227 << 10, True)
    assert (blocks, kept) == (8, 0)  # 500 KB to a block: read twice
    assert split(2 * 50257, 163 << 10, False)[0] == 1 and split(2 * 50257, 163 << 10, False)[1] >= 2 * 50257
    assert split(2 * 128256, 163 << 10, False) == (1, 0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_target_outside_the_classes_gives_nan(cuda, reduction):
    logits = torch.randn(3, 5, requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([1, 5, 2]), reduction=reduction)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.isnan().any() and gradient[1].isnan().all() and gradient[0].isfinite().all()


@pytest.mark.parametrize("slice_bytes", [512, 32768])
def test_the_gradient_may_be_written_over_the_logits(cuda, slice_bytes, monkeypatch):
    monkeypatch.setattr(cross_entropy_cuda, "SLICE_BYTES", slice_bytes)
    logits, target = torch.randn(6, 700), torch.randint(0, 700, (6,))
    expected, out = torch.empty_like(logits), logits.clone()
    losses, _ = cross_entropy_cuda.launch_forward(logits, target, -100, 0.1, 0.0, None, expected)
    again, _ = cross_entropy_cuda.launch_forward(out, target, -100, 0.1, 0.0, None, out)
    assert torch.equal(out, expected) and torch.equal(losses, again)


def test_rows_more_than_2_to_the_31_elements_apart(cuda):
    far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 64), (2**31 + 64, 1))
    far.copy_(torch.randn(2, 64))
    target = torch.tensor([3, 9])
    assert torch.equal(cross_entropy(far, target), cross_entropy(far.contiguous(), target))
