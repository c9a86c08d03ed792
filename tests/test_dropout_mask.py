"""The words of Philox 4x32-10, against the answers that its authors published, and what dropout makes of them."""

import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from perfsuite.kernels import dropout_mask

# Random123's kat_vectors, philox4x32 with 10 rounds: counter, key, words.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter, key, words):
    found = dropout_mask.philox([torch.tensor([c]) for c in counter], [torch.tensor(k) for k in key])
    assert tuple(int(word) for word in found) == words


def test_words_of_a_tensor():
    """Element i has word i % 4 of the block of counter offset + i // 4, whose halves carry into each other."""
    offset, seed = 2**32 - 2, 2**63 + 12345 - 2**64
    words = dropout_mask.words(19, torch.tensor(seed), torch.tensor(offset))
    for i in range(19):
        counter = offset + i // 4
        block = dropout_mask.philox(
            [torch.tensor(c) for c in (counter & 0xFFFFFFFF, counter >> 32, 0, 0)],
            [torch.tensor(k) for k in (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)],
        )
        assert words[i] == block[i % 4]


@pytest.mark.parametrize("p", [0.0, 2.0**-33, 0.1, 0.5, 1.0])
def test_the_share_that_is_kept(p):
    x = torch.empty(400, 1000)
    factors = dropout_mask.factors(x, p, 1, 2)
    kept = (factors != 0).double().mean().item()
    assert abs(kept - (1 - p)) < 4 * max(1e-7, p * (1 - p) / x.numel()) ** 0.5
    assert set(factors.unique().tolist()) <= {0.0, torch.tensor(dropout_mask.scale(p)).item()}


def test_calls_that_follow_each_other_continue_the_words():
    seed, offset = torch.tensor(3), torch.tensor(10)
    whole = dropout_mask.words(40, seed, offset)
    assert torch.equal(whole[20:], dropout_mask.words(20, seed, offset + 5))
    assert not torch.equal(whole, dropout_mask.words(40, seed + 1, offset))


SHIM = """
#include "philox.h"
using namespace perfsuite::cpu;
extern "C" void words(const uint32_t* counter, const uint32_t* key, uint32_t* out) {
  PhiloxBlocks<1> b{{counter[0]}, {counter[1]}, {counter[2]}, {counter[3]}};
  philox(b, uint64_t(key[1]) << 32 | key[0]);
  out[0] = b.c0[0], out[1] = b.c1[0], out[2] = b.c2[0], out[3] = b.c3[0];
}
extern "C" void factors(double p, int64_t seed, int64_t offset, int64_t first, int64_t n, double* out) {
  dropout_factors(dropout_with(p, uint64_t(seed), uint64_t(offset)), first, n, out);
}
"""


@pytest.fixture(scope="module")
def library(compile_kernels):
    return compile_kernels(SHIM, optimise="-O3")


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers_in_cpp(library, counter, key, words):
    out = np.zeros(4, np.uint32)
    given = [np.array(values, np.uint32) for values in (counter, key)]
    library.words(*(ctypes.c_void_p(array.ctypes.data) for array in (*given, out)))
    assert tuple(out.tolist()) == words


@pytest.mark.parametrize("p", [0.3, 1.0])
@pytest.mark.parametrize("first", [0, 1, 6, 2**33 + 3])
@pytest.mark.parametrize("n", [1, 4, 63, 64, 200])
def test_cpp_has_the_same_mask(library, first, n, p):
    seed, offset = -5, 2**32 - 1
    out = np.full(n + 1, 99.0)
    integers = [ctypes.c_int64(value) for value in (seed, offset, first, n)]
    library.factors(ctypes.c_double(p), *integers, ctypes.c_void_p(out.ctypes.data))
    # Whole blocks are skipped by the offset.
    like = torch.empty(first % 4 + n, dtype=torch.float64)
    expected = dropout_mask.factors(like, p, seed, offset + first // 4)[first % 4 :]
    assert out[-1] == 99.0 and out[:-1].tolist() == expected.tolist()


INTERPRETED = """
import torch, triton, triton.language as tl
from perfsuite.kernels import dropout_mask
from perfsuite.kernels.dropout_mask import dropout_keep

@triton.jit
def kernel(out, width, seed, offset, THRESHOLD: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
           IN_FOURS: tl.constexpr, START: tl.constexpr):
    row, columns = tl.arange(0, ROWS).to(tl.int64), START + tl.arange(0, BLOCK)
    keep = dropout_keep(row * width, columns, seed, offset, THRESHOLD, ROWS, BLOCK, IN_FOURS)
    tl.store(out + row[:, None] * width + columns[None, :], keep.to(tl.int8), mask=(columns < width)[None, :])

seed, offset = torch.tensor(2**40 + 3), torch.tensor(2**32 - 2)
for width in (5, 8, 12, 31):
    out = torch.zeros(4, width, dtype=torch.int8)
    for start in (0, 16):
        kernel[(1,)](out, width, seed, offset, dropout_mask.threshold(0.4), 4, 16, width % 4 == 0, start)
    assert torch.equal(out.bool(), dropout_mask.factors(out, 0.4, seed, offset) > 0), width
"""


def test_triton_has_the_same_mask(tmp_path):
    pytest.importorskip("triton")
    (tmp_path / "masks.py").write_text(INTERPRETED)
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, str(tmp_path / "masks.py")]
    answer = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-3000:]
