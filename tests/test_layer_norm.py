"""What LayerNorm alone can get wrong. The rest: test_norms.py."""

import pytest
import torch

from perfsuite.kernels import contract, layer_norm, norm_cases
from perfsuite.kernels.check import check
from perfsuite.kernels.contract import Implementation

CASES = {case.name: case for case in norm_cases.tiny()}


def failures(variance, name):
    """Of a LayerNorm that computes its variance like this."""

    def run(x, weight, bias, residual, *, eps, **options):
        y = (x - x.mean(-1, keepdim=True)) * (variance(x) + eps).rsqrt()
        return y * weight + bias

    return check(layer_norm.OP, Implementation("wrong", run, lambda device: None), CASES[name]).failures


def test_a_variance_that_cancels_is_refused():
    def variance(x):
        return (x.square().mean(-1, keepdim=True) - x.mean(-1, keepdim=True).square()).clamp_min(0)

    assert any("output: " in line for line in failures(variance, "8x1040 float32 values=large"))


def test_the_unbiased_variance_is_refused():
    found = failures(lambda x: x.var(-1, keepdim=True), "13x100 float32 eps=0.1 layout=transposed")
    assert any("output: RMS" in line for line in found)


def test_the_right_variance_is_not():
    assert not failures(lambda x: x.var(-1, keepdim=True, correction=0), "13x100 float32 eps=0.1 layout=transposed")


@pytest.mark.parametrize("which", ["weight", "bias"])
def test_weight_and_bias_without_each_other(which):
    x = torch.randn(4, 9, requires_grad=True)
    vectors = {"weight": None, "bias": None, which: torch.randn(9, requires_grad=True)}
    results = []
    for name in ("eager", "cpp"):
        contract.select({"layer_norm": name})
        y = layer_norm.layer_norm(x, **vectors)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, vectors[which]])])
    contract.select({})
    torch.testing.assert_close(*results)
