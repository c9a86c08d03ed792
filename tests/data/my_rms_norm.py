"""RMSNorm in C++: a kernel of one's own, as `perfsuite prove` takes it.

    perfsuite prove my_rms_norm.py --op rms_norm --workload llama

All it needs is a function with the op's name that takes what the op's reference takes. This one calls C++ through
ctypes for what it is made for, float32 on the CPU, and leaves everything else to the reference.
"""

import ctypes
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import torch

from perfsuite.kernels.rms_norm import reference

SOURCE = r"""
#include <cmath>
#include <cstdint>

// y = h rstd w, rstd = 1 / sqrt(mean(h^2) + eps)
extern "C" void forward(const float* h, const float* w, float* y, float* rstd, int64_t rows, int64_t width, float eps) {
  for (int64_t r = 0; r < rows; ++r, h += width, y += width) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < width; ++j) sum += h[j] * h[j];
    const float s = rstd[r] = 1 / std::sqrt(sum / width + eps);
    for (int64_t j = 0; j < width; ++j) y[j] = h[j] * s * w[j];
  }
}

// dh = rstd (g w - n mean(g w n)) with n = h rstd; dw = sum of g n over each block of rows
extern "C" void backward(const float* g, const float* h, const float* w, const float* rstd, float* dh, float* dw,
                         int64_t rows, int64_t width, int64_t block) {
  for (int64_t r = 0; r < rows; ++r, g += width, h += width, dh += width) {
    if (r && r % block == 0) dw += width;
    const float s = rstd[r];
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < width; ++j) dot += g[j] * w[j] * (h[j] * s);
    const float mean = dot / width;
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) {
      dh[j] = s * (g[j] * w[j] - h[j] * s * mean);
      dw[j] += g[j] * (h[j] * s);
    }
  }
}
"""
FLAGS = ("-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-shared", "-fPIC")
BLOCK = 64
"""Rows of one partial sum of the weight's gradient: adding thousands one by one would lose digits."""


def load() -> ctypes.CDLL:
    """The library, compiled once for this source and processor."""
    identity = SOURCE + " ".join(FLAGS) + Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    name = f"my_rms_norm-{os.getuid()}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    path = Path(tempfile.gettempdir(), name)
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            (Path(folder) / "kernel.cpp").write_text(SOURCE)
            subprocess.run(["g++", *FLAGS, f"{folder}/kernel.cpp", "-o", f"{folder}/kernel.so"], check=True)
            os.replace(f"{folder}/kernel.so", path)
    return ctypes.CDLL(str(path))


LIBRARY = load()


def address(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


class Norm(torch.autograd.Function):
    """Of the last dimension of h, float32 and contiguous, as weight is."""

    @staticmethod
    def forward(ctx, h, weight, eps):
        rows, width = h.numel() // h.shape[-1], h.shape[-1]
        y, rstd = torch.empty_like(h), h.new_empty(rows)
        LIBRARY.forward(*map(address, (h, weight, y, rstd)), ctypes.c_int64(rows), ctypes.c_int64(width),
                        ctypes.c_float(eps))  # fmt: skip
        ctx.save_for_backward(h, weight, rstd)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        h, weight, rstd = ctx.saved_tensors
        rows, width = len(rstd), h.shape[-1]
        g, dh = g.contiguous(), torch.empty_like(h)
        dw = h.new_zeros(max(1, -(-rows // BLOCK)), width)
        LIBRARY.backward(*map(address, (g, h, weight, rstd, dh, dw)), ctypes.c_int64(rows), ctypes.c_int64(width),
                         ctypes.c_int64(BLOCK))  # fmt: skip
        return dh, dw.sum(0), None


def rms_norm(x, weight, residual=None, *, eps, dropout_p=0.0, seed=0, offset=0):
    tensors = [t for t in (x, weight, residual) if t is not None]
    made_for = weight is not None and all(t.dtype == torch.float32 and t.is_cpu for t in tensors)
    if dropout_p or not made_for or torch.compiler.is_compiling():
        return reference(x, weight, residual, eps=eps, dropout_p=dropout_p, seed=seed, offset=offset)
    h = x if residual is None else residual + x
    y = Norm.apply(h.contiguous(), weight.contiguous(), eps)
    return y if residual is None else (y, h)
