"""The C++ kernels of swiglu, softmax and focal_loss by themselves: every instruction set, type and odd width."""

import ctypes

import pytest
import torch

from perfsuite.kernels import focal_loss, softmax, swiglu

SHIM = """
#include "focal_loss.h"
#include "softmax.h"
#include "swiglu.h"
using namespace perfsuite::cpu;
#define DEFINE(T, name)                                                                                              \\
  extern "C" void swiglu_##name(int kind, const T* x, int64_t n, int64_t stride, const T* g, T* y, T* dx, int isa) { \\
    const Gated<T> op{x, stride, x + n, stride, n, n, 3, Activation(kind)};                                          \\
    swiglu_forward<T>(op, 0, 3, y, false, Isa(isa));                                                                 \\
    swiglu_backward<T>(op, 0, 3, g, dx, dx + n, 2 * n, false, Isa(isa));                                             \\
  }                                                                                                                  \\
  extern "C" void softmax_##name(int, const T* x, int64_t n, int64_t stride, const T* g, T* y, T* dx, int isa) {     \\
    softmax_forward<T>(x, stride, n, 0, 3, y, false, Isa(isa));                                                      \\
    softmax_backward<T>(g, y, n, 0, 3, dx, false, Isa(isa));                                                         \\
  }                                                                                                                  \\
  extern "C" void focal_##name(const T* x, int64_t n, int64_t stride, const int64_t* target, double gamma,           \\
                               double* sums, T* dx, int isa) {                                                       \\
    const FocalLoss<T> op{x, stride, target, 3, n, gamma, 0.25, 0.75};                                               \\
    const int64_t block = focal_loss_block(n);                                                                       \\
    focal_loss<T>(op, 0, (3 + block - 1) / block, sums, dx, acc_t<T>(0.5), Isa(isa));                                \\
  }
DEFINE(float, f32)
DEFINE(BFloat16, bf16)
DEFINE(Half, f16)
DEFINE(double, f64)
extern "C" int best() { return int(best_isa()); }
"""
ISAS = {"plain": 0, "avx2": 1, "avx512": 2}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "f64": torch.float64}
WIDTHS = [1, 7, 16, 33, 1031, 2603]
GUARD = 99.0


@pytest.fixture(scope="module")
def library(compile_kernels):
    return compile_kernels(SHIM, "focal_loss", "softmax", "swiglu", optimise="-O1")


@pytest.fixture
def isa(request, library):
    if ISAS[request.param] > library.best():
        pytest.skip(f"this processor has no {request.param}")
    return ctypes.c_int(ISAS[request.param])


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


def guarded(count, dtype):
    """Room for an output, and one element behind it that nobody may touch."""
    return torch.full((count + 1,), GUARD, dtype=dtype)


def compare(got, expected, dtype):
    assert got[-1] == GUARD
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got[:-1].double().view(expected.shape), expected, rtol=16 * eps, atol=8 * eps)


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("op", ["silu", "gelu", "gelu_tanh", "softmax"])
def test_rows(library, isa, name, op):
    dtype = DTYPES[name]
    for width in WIDTHS:
        read = width if op == "softmax" else 2 * width
        x = torch.randn(3, read + 5, generator=torch.Generator().manual_seed(width)).to(dtype)  # rows with a gap
        g = torch.randn(3, width, generator=torch.Generator().manual_seed(1)).to(dtype)
        y, dx = guarded(3 * width, dtype), guarded(3 * read, dtype)
        call = getattr(library, f"{'softmax' if op == 'softmax' else 'swiglu'}_{name}")
        kind = 0 if op == "softmax" else swiglu.ACTIVATIONS.index(op)
        sizes = ctypes.c_int64(width), ctypes.c_int64(x.stride(0))
        call(ctypes.c_int(kind), pointer(x), *sizes, pointer(g), pointer(y), pointer(dx), isa)
        exact = x[:, :read].double().requires_grad_()
        output = softmax.reference(exact) if op == "softmax" else swiglu.reference(exact, activation=op)
        compare(y, output, dtype)
        compare(dx, torch.autograd.grad(output, exact, g.double())[0], dtype)


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_focal_loss(library, isa, name, gamma):
    dtype = DTYPES[name]
    for width in WIDTHS:
        x = torch.randn(3, width + 5, generator=torch.Generator().manual_seed(width)).to(dtype)
        target = torch.tensor([width - 1, focal_loss.IGNORED, focal_loss.BACKGROUND])
        dx, sums = guarded(3 * width, dtype), torch.zeros(3, dtype=torch.float64)
        sizes = ctypes.c_int64(width), ctypes.c_int64(x.stride(0))
        call = getattr(library, f"focal_{name}")
        call(pointer(x), *sizes, pointer(target), ctypes.c_double(gamma), pointer(sums), pointer(dx), isa)
        exact = x[:, :width].double().requires_grad_()
        loss = focal_loss.reference(exact, target, alpha=0.25, gamma=gamma)
        acc = torch.float64 if name == "f64" else torch.float32
        torch.testing.assert_close(sums.sum(), loss.detach(), rtol=8 * torch.finfo(acc).eps, atol=1e-12)
        compare(dx, torch.autograd.grad(0.5 * loss, exact)[0], dtype)
