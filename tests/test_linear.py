"""The linear map by oneDNN against float64 and eager torch."""

import pytest
import torch
import torch.nn.functional as F

from perfsuite.kernels import contract
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Implementation
from perfsuite.kernels.linear import OP, cases, linear, reference

CASES = {case.name: case for case in cases("tiny")}


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("name", ["onednn", "reference"])
def test_it_is_right(name, case):
    one = Implementation("reference", reference, lambda d: None) if name == "reference" else OP.implementations[name]
    report = check(OP, one, case)
    assert report.ok, report


def test_it_is_right_for_drawn_cases():
    report = check_drawn(OP, OP.implementations["onednn"], draws=60)
    assert report.ok, report


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (lambda x, weight: F.linear(x.bfloat16(), weight.bfloat16()).float(), "output: RMS"),
        (lambda x, weight: F.linear(x, weight.detach()) + 0 * weight.sum(), "grad_weight: RMS"),
        (lambda x, weight: F.linear(x[..., :-1], weight[:, :-1]), "output"),
    ],
    ids=["bfloat16", "no gradient of the weight", "a column short"],
)
def test_a_wrong_product_is_refused(wrong, complaint):
    report = check(OP, Implementation("wrong", wrong, lambda device: None), CASES["64x32x48 float32"])
    assert any(complaint in line for line in report.failures), report


def test_leading_dimensions_autocast_and_compile():
    contract.select({"linear": "onednn"})
    x, weight = torch.randn(2, 3, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight))
    compiled = torch.compile(lambda x, w: 2 * linear(x, w), fullgraph=True, backend="aot_eager")
    for got, want in zip(
        torch.autograd.grad(compiled(x, weight).square().sum(), (x, weight)),
        torch.autograd.grad((2 * F.linear(x, weight)).square().sum(), (x, weight)), strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(got, want)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight))


def test_only_wanted_gradients_and_no_second_one():
    contract.select({"linear": "onednn"})
    x, weight = torch.randn(3, 8), torch.randn(5, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(linear(x, weight).sum(), weight)
    torch.testing.assert_close(gradient, x.sum(0).expand(5, 8))
    with pytest.raises(RuntimeError, match="linear=onednn has no second derivative"):
        torch.autograd.grad(linear(x, weight).square().sum(), weight, create_graph=True)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"linear: x must be .* got \(3, 4\) and \(5, 6\)"):
        linear(torch.randn(3, 4), torch.randn(5, 6))
