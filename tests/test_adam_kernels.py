"""The C++ kernels of AdamW, LAMB and global norm by themselves, for every instruction set."""

import ctypes

import pytest
import torch

from perfsuite.kernels import adamw, lamb

SHIM = """
#include "adamw.h"
#include "global_norm.h"
#include "lamb.h"
#include "tensor_blocks.h"
using namespace perfsuite::cpu;
#define DEFINE(T, G, name)                                                                                           \\
  extern "C" void adamw_##name(T* p, const G* g, T* m, T* v, uint16_t* b, uint16_t* h, int64_t n, double clip,       \\
                               double lr, double decay, double beta1, double beta2, double eps, double step,         \\
                               int isa) {                                                                            \\
    using Acc = acc_t<T>;                                                                                            \\
    const AdamTensor<T, G> t{p, g, m, v, reinterpret_cast<BFloat16*>(b), reinterpret_cast<Half*>(h)};                \\
    const AdamWConstants<Acc> k{{clip, beta1, beta2, eps, step},                                                     \\
                                Acc(1 - lr * decay), Acc(lr / (1 - std::pow(beta1, step)))};                         \\
    adamw(t, k, 0, n, Isa(isa));                                                                                     \\
  }                                                                                                                  \\
  extern "C" void lamb_##name(T* p, const G* g, T* m, T* v, uint16_t* b, uint16_t* h, int64_t n, double clip,        \\
                              double lr, double decay, double beta1, double beta2, double eps, double step,          \\
                              int isa) {                                                                             \\
    using Acc = acc_t<T>;                                                                                            \\
    const AdamTensor<T, G> t{p, g, m, v, reinterpret_cast<BFloat16*>(b), reinterpret_cast<Half*>(h)};                \\
    const LambConstants<Acc> k{{clip, beta1, beta2, eps, step}, Acc(decay)};                                         \\
    const LambSums sums = lamb_sums(t, k, 0, n, Isa(isa));                                                           \\
    lamb_apply(t, k, Acc(lr * std::sqrt(sums.param) / std::sqrt(sums.update)), 0, n, Isa(isa));                      \\
  }
DEFINE(float, float, f32)
DEFINE(float, BFloat16, f32_bf16)
DEFINE(float, Half, f32_f16)
DEFINE(double, double, f64)
DEFINE(BFloat16, BFloat16, bf16)
DEFINE(Half, Half, f16)
#define NORM(T, name) extern "C" double squares_##name(const T* x, int64_t n, int isa) {                             \\
    return sum_of_squares(x, n, Isa(isa)); }
NORM(float, f32)
NORM(double, f64)
NORM(BFloat16, bf16)
NORM(Half, f16)
extern "C" void block_at(const int64_t* sizes, int64_t count, int64_t block, int64_t* found) {
  TensorBlocks blocks;
  for (int64_t i = 0; i < count; ++i) blocks.add(sizes[i]);
  blocks.for_each(block, block + 1, [&](int64_t number, int64_t tensor, int64_t first, int64_t n) {
    const int64_t values[] = {number, tensor, first, n, blocks.blocks()};
    std::copy_n(values, 5, found);
  });
}
extern "C" int best() { return int(best_isa()); }
"""
ISAS = {"plain": 0, "avx2": 1, "avx512": 2}
DTYPES = {"f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16, "f16": torch.float16}
OPS = {"adamw": adamw.OP, "lamb": lamb.OP}


@pytest.fixture(scope="module")
def library(compile_kernels):
    made = compile_kernels(SHIM, "adamw", "lamb", "global_norm")
    for name in DTYPES:
        getattr(made, f"squares_{name}").restype = ctypes.c_double
    return made


@pytest.fixture
def isa(request, library):
    if ISAS[request.param] > library.best():
        pytest.skip(f"this processor has no {request.param}")
    return ISAS[request.param]


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("n", [1, 7, 16, 65, 1000])
@pytest.mark.parametrize("name", ["f32", "f32_bf16", "f32_f16", "f64", "bf16", "f16"])
@pytest.mark.parametrize("op", OPS)
def test_every_instruction_set_agrees_with_float64(library, isa, op, name, n):
    torch.manual_seed(n)
    dtype, grad_dtype = DTYPES[name.split("_")[0]], DTYPES[name.split("_")[-1]]
    # One element more than the kernel may touch, and memory that is not aligned to vectors.
    p, m = torch.randn(n + 2).to(dtype)[1:], (0.1 * torch.randn(n + 2)).to(dtype)[1:]
    v, g = (0.01 + torch.rand(n + 2)).to(dtype)[1:], (0.3 * torch.randn(n + 2)).to(grad_dtype)[1:]
    copies = {kind: torch.full((n + 1,), 9.0, dtype=DTYPES[kind]) for kind in ("bf16", "f16")}
    options = {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-4, "weight_decay": 0.1}
    exact = [[tensor[:n].double().clone()] for tensor in (p, g, m, v)]
    more = {"use_nvlamb": False} if op == "lamb" else {}
    OPS[op].reference(*exact, [torch.tensor(2.0)], torch.tensor(8.0 - 1e-6 * (op == "adamw"), dtype=torch.float64),
                      None, **options, max_norm=2.0, **more)  # fmt: skip
    wants_copy = name == "f32"
    for kind in ("bf16", "f16") if wants_copy else ("none",):
        given = [tensor.clone() for tensor in (p, g, m, v)]
        both = [pointer(copies[key]) if key == kind else None for key in ("bf16", "f16")]
        numbers = [0.25, *(options[key] for key in ("lr", "weight_decay", "beta1", "beta2", "eps")), 3.0]
        getattr(library, f"{op}_{name}")(
            *map(pointer, given), *both, ctypes.c_int64(n), *map(ctypes.c_double, numbers), ctypes.c_int(isa)
        )
        eps = 4 * torch.finfo(dtype).eps
        for new, old, want, what in zip(given, (p, g, m, v), exact, "pgmv", strict=True):
            assert new[n] == old[n], f"{what} is written beyond its end"
            torch.testing.assert_close(new[:n].double(), want[0], rtol=eps, atol=eps)
        assert torch.equal(given[1], g)
        if wants_copy:
            assert copies[kind][n] == 9.0 and torch.equal(copies[kind][:n], given[0][:n].to(DTYPES[kind]))


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("n", [0, 1, 7, 16, 65, 4096])
@pytest.mark.parametrize("name", DTYPES)
def test_sums_of_squares_are_right(library, isa, name, n):
    x = torch.full((n + 2,), torch.nan, dtype=DTYPES[name])[1:]
    x[:n] = torch.randn(n)
    found = getattr(library, f"squares_{name}")(pointer(x), ctypes.c_int64(n), ctypes.c_int(isa))
    assert found == pytest.approx(x[:n].double().square().sum().item(), rel=1e-5)


@pytest.mark.parametrize("block", [0, 1, 2, 2**21 + 1, 2**21 + 2, 2**21 + 3])
def test_blocks_of_tensors_beyond_2_to_the_32_elements(library, block):
    sizes = [0, 4097, 0, 2**33 + 5, 0, 3]
    found = (ctypes.c_int64 * 5)()
    library.block_at((ctypes.c_int64 * 6)(*sizes), ctypes.c_int64(6), ctypes.c_int64(block), found)
    number, tensor, first, n, blocks = found
    assert number == block and blocks == 2 + 2**21 + 1 + 1
    starts = {1: 0, 3: 2, 5: 2 + 2**21 + 1}
    assert first == (block - starts[tensor]) * 4096 and n == min(4096, sizes[tensor] - first) and n > 0
