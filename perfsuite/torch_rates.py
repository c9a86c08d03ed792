"""What torch makes of this machine: matrix products and the cost of one op. torch is imported where it is used."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A product that would take longer than this is measured on smaller matrices.
_LONGEST_PRODUCT_S = 0.25
OVERHEAD_CALLS = 2000


def torch_reason() -> str | None:
    """Why torch cannot be used, or None where it can (it is imported then)."""
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        return "torch is not installed: pip install 'perfsuite[torch]'"
    except (ImportError, OSError) as error:
        return f"torch cannot be imported: {error}"
    return None


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """torch's own parallel loops on this many threads within; as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def gemm(dtype: str, threads: int, n: int | None = None) -> tuple[Callable[[], float], int]:
    """A function that multiplies two n x n matrices into a third and returns flops per second (2 n^3 flops), and n.

    Without n: large enough to keep `threads` threads busy, smaller where this dtype is slow. Call within torch_threads.
    """
    import torch

    def product(size: int) -> Callable[[], float]:
        generator = torch.Generator().manual_seed(1)
        a, b = (torch.randn(size, size, generator=generator).to(getattr(torch, dtype)) for _ in range(2))
        out = torch.empty_like(a)

        def rate() -> float:
            start = time.monotonic_ns()
            torch.mm(a, b, out=out)
            return 2 * size**3 * 1e9 / (time.monotonic_ns() - start)

        rate()  # the first call packs, allocates and chooses a kernel
        return rate

    if n is not None:
        return product(n), n
    # About a millisecond on each thread: long against the start of a parallel loop, short enough that on a busy
    # machine some products run undisturbed (with twice the n none did, where others took one of two processors).
    n = max(512, int(512 * (threads / 2) ** (1 / 3)) // 256 * 256)
    with torch_threads(1):  # threads that wait for each other on a busy machine say nothing of the dtype
        small = product(256)
        slow = 2 * n**3 / (threads * max(small() for _ in range(5))) > _LONGEST_PRODUCT_S
    n = 256 if slow else n
    return product(n), n


def op_overhead() -> Callable[[], float]:
    """A function that returns the host time in ns of one call of the smallest op (add of two one-element tensors).

    The mean over OVERHEAD_CALLS calls, Python's loop included, as in a training loop written in Python.
    """
    import torch

    a, b = torch.ones(1), torch.ones(1)

    def mean_ns() -> float:
        start = time.monotonic_ns()
        for _ in range(OVERHEAD_CALLS):
            torch.add(a, b)
        return (time.monotonic_ns() - start) / OVERHEAD_CALLS

    mean_ns()
    return mean_ns
