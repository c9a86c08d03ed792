"""Global norm: every implementation against float64 and torch.nn.utils.clip_grad_norm_."""

import math
import re

import pytest
import torch

from perfsuite.kernels import adam_cases, contract
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Implementation
from perfsuite.kernels.global_norm import OP, cases, global_norm, reference

CASES = {case.name: case for case in cases("tiny")}
ON_THE_EMULATOR = [
    "8x9239 float32 sizes=odd",
    "0x0 float32",
    "1x1 float32",
    "5x600 float32 layout=every second",
    "5x600 float32 values=infinite",
    "8x9239 bfloat16 sizes=odd",
    "8x9239 float64 sizes=odd",
]


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})


@pytest.fixture
def cpp():
    contract.select({"global_norm": "cpp"})


@pytest.mark.parametrize("name", CASES)
def test_cpp_is_right(name, cpp):
    report = check(OP, OP.implementations["cpp"], CASES[name])
    assert report.ok and report.deterministic, report


def test_cpp_is_right_in_any_case(cpp):
    report = check_drawn(OP, OP.implementations["cpp"], draws=100)
    assert report.ok, report


@pytest.mark.parametrize("name", CASES)
def test_eager_and_reference_are_right(name):
    for implementation in (OP.implementations["eager"], Implementation("reference", reference, lambda device: None)):
        report = check(OP, implementation, CASES[name])
        assert report.ok, report


def test_compile_is_right():
    report = check(OP, OP.implementations["compile"], CASES["3x12300 float32"])
    assert report.ok, report


@pytest.mark.parametrize("name", ON_THE_EMULATOR)
def test_cuda_is_right(name, cuda_emulator):
    report = check(OP, OP.implementations["cuda"], CASES[name])
    assert report.ok and report.deterministic, report


def test_cuda_takes_more_tensors_than_one_launch_has_room_for(cuda_emulator):
    report = check(OP, OP.implementations["cuda"], adam_cases.case(61, 61 * 6))
    assert report.ok, report


WRONG = {
    "the largest norm": lambda tensors: torch.stack([t.norm() for t in tensors]).max(),
    "the sum of norms": lambda tensors: torch.stack([t.norm() for t in tensors]).sum(),
    "without the root": lambda tensors: torch.stack([t.square().sum() for t in tensors]).sum(),
    "without the last tensor": lambda tensors: reference(tensors[:-1]),
    "without the last element": lambda tensors: reference([*tensors[:-1], tensors[-1].flatten()[:-1]]),
    "added in bfloat16": lambda tensors: reference([t.bfloat16() for t in tensors]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_kernel_is_refused(name):
    report = check(OP, Implementation(name, WRONG[name], lambda device: None), CASES["5x600 float32 layout=mixed"])
    assert any("output: RMS" in failure for failure in report.failures), report


def test_the_number_of_threads_does_not_change_a_bit(cpp):
    torch.manual_seed(0)
    tensors = [torch.randn(n) for n in (100_003, 1, 0, 70_000, 4097)]
    before = torch.get_num_threads()
    norms = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            norms.append(global_norm(tensors))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(norms[0], norms[1]) and torch.equal(norms[0], norms[2])


def test_several_dtypes_at_once(cpp, cuda_emulator):
    torch.manual_seed(0)
    tensors = [torch.randn(n).to(t) for n, t in ((50, torch.float32), (7, torch.bfloat16), (90, torch.float16))]
    expected = math.sqrt(sum(t.double().square().sum().item() for t in tensors))
    for name in ("eager", "cpp", "cuda"):
        contract.select({"global_norm": name})
        norm = global_norm(tensors)
        assert norm.dtype == torch.float32 and norm.item() == pytest.approx(expected, rel=1e-6)
        assert global_norm([*tensors, torch.zeros(2, dtype=torch.float64)]).dtype == torch.float64


def test_it_is_the_norm_that_torch_clips_by(cpp):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.zeros(n)) for n in (1000, 3, 20)]
    for p in params:
        p.grad = torch.randn_like(p)
    norm = global_norm([p.grad for p in params])
    torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(params, 1.0))


def test_rows_more_than_2_to_the_31_elements_apart(cpp):
    # Two rows at the ends of 4 GiB that nobody touches: only their pages exist.
    far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 500), (2**31 + 64, 1))
    near = torch.randn(2, 500).bfloat16()
    far.copy_(near)
    torch.testing.assert_close(global_norm([far]), near.float().norm())


def test_the_operator_keeps_torchs_rules(cpp):
    torch.library.opcheck(torch.ops.perfsuite.global_norm_cpp.default, ([torch.randn(3), torch.randn(2, 2)],),
                          test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_static"))  # fmt: skip


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([torch.ones(3), torch.ones(3, dtype=torch.int64)], "tensors[1] must be floating-point, got torch.int64"),
        ([torch.ones(3), torch.ones(3, device="meta")], "on one device are needed, got cpu and meta"),
    ],
)
def test_bad_arguments_are_refused(tensors, words):
    with pytest.raises(ValueError, match="global_norm: .*" + re.escape(words)):
        global_norm(tensors)
