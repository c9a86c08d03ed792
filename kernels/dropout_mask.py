"""Which elements dropout keeps: the same bits in plain torch, C++, Triton and CUDA, from a seed and an offset alone.

Philox 4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Element i of a
contiguous tensor has word i % 4 of the block whose counter is (low, high, 0, 0), the 32-bit halves of offset + i // 4,
under the key (low, high) of seed; both count modulo 2^64. It is kept where

    word >= min(ceil(p 2^32), 2^32 - 1)        p: dropout_p, the probability to be dropped

and multiplied by 1 / (1 - p) then (p = 1: by 0), else by 0. A call uses up ceil(elements / 4) counters.
C++: csrc/ops/cpu/philox.h, CUDA: csrc/ops/cuda/philox.h.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton has no wheels for some platforms
    triton = None

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One block of four words for each element. counter: four, key: two int64 tensors of values in [0, 2^32)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # Products wrap at 2^64 and shifts keep the sign: all 64 bits are right once they are masked.
        p0, p1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = ((p1 >> 32) & _LOW) ^ c1 ^ k0, p1 & _LOW, ((p0 >> 32) & _LOW) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + KEY_STEPS[0]) & _LOW, (k1 + KEY_STEPS[1]) & _LOW
    return c0, c1, c2, c3


def words(count: int, seed: Tensor, offset: Tensor) -> Tensor:
    """(count,) int64 in [0, 2^32): the words of elements 0 to count - 1."""
    counter = offset + torch.arange((count + 3) // 4, device=offset.device)
    zero = torch.zeros_like(counter)
    block = philox((counter & _LOW, (counter >> 32) & _LOW, zero, zero), (seed & _LOW, (seed >> 32) & _LOW))
    return torch.stack(block, dim=1).flatten()[:count]


def threshold(p: float) -> int:
    """The least word that is kept."""
    return min(math.ceil(p * 2**32), 2**32 - 1)


def scale(p: float) -> float:
    """What kept elements are multiplied by."""
    return 1 / (1 - p) if p < 1 else 0.0


def factors(like: Tensor, p: float, seed: int | Tensor, offset: int | Tensor) -> Tensor:
    """0 or 1 / (1 - p) for each element of `like`, in its dtype (half precision: float32) and shape."""
    seed, offset = counters(like, seed, offset)
    kept = words(like.numel(), seed, offset).view(like.shape) >= threshold(p)
    return kept.to(torch.promote_types(like.dtype, torch.float32)) * scale(p)


def counters(like: Tensor, seed: int | Tensor, offset: int | Tensor) -> tuple[Tensor, Tensor]:
    """Both as 0-dim int64 tensors on the device of `like`, as kernels read them; tensors stay what they are."""

    def tensor(value: int | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            return value
        return torch.full((), value, dtype=torch.int64, device=like.device)

    return tensor(seed), tensor(offset)


def check_arguments(op: str, like: Tensor, p: float, seed: int | Tensor, offset: int | Tensor) -> None:
    """ValueError, one line, for a probability outside [0, 1] and for a seed or offset of another kind."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{op}: dropout_p must be within [0, 1], got {p}")
    for name, value in (("seed", seed), ("offset", offset)):
        if isinstance(value, Tensor) and (value.shape or value.dtype != torch.int64 or value.device != like.device):
            raise ValueError(
                f"{op}: {name} must be an int or an int64 tensor of no dimensions on {like.device}, "
                f"got {value.dtype}{tuple(value.shape)} on {value.device}"
            )


if triton is not None:

    @triton.jit
    def dropout_keep(
        start, columns, seed, offset,
        THRESHOLD: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, IN_FOURS: tl.constexpr,
    ):  # fmt: skip
        """(ROWS, BLOCK): whether the elements start[row] + columns are kept.

        start: (ROWS,) int64. columns: tl.arange(0, BLOCK) plus a multiple of 4. seed, offset: pointers. IN_FOURS: every
        start and BLOCK are multiples of 4, and four elements share a block of words; else each computes its own.
        """
        key, first = tl.load(seed), tl.load(offset)
        if IN_FOURS:
            fours = tl.min(columns, 0) // 4 + tl.arange(0, BLOCK // 4)
            w0, w1, w2, w3 = tl.randint4x(key, first + start[:, None] // 4 + fours[None, :])
            word = tl.join(tl.join(w0, w2), tl.join(w1, w3)).reshape(ROWS, BLOCK)
        else:
            index = start[:, None] + columns[None, :]
            w0, w1, w2, w3 = tl.randint4x(key, first + index // 4)
            at = index % 4
            word = tl.where(at < 2, tl.where(at == 0, w0, w1), tl.where(at == 2, w2, w3))
        return (word.to(tl.int64) & 0xFFFFFFFF) >= THRESHOLD
