"""What compilers made of an op's GPU kernels: registers, spills, widths of memory accesses, occupancy. Needs no GPU.

`inspect` looks at one op. `python -m perfsuite.op_inspect` prints that, and with --write-baseline it writes
kernels/inspect_baseline.json, which the tests compare with.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

ARCHS = (80, 90, 100)
"""Compute capabilities: A100, H100, B200."""


def inspect(
    op_name: str, archs: Sequence[int] = ARCHS, progress: Callable[[str], None] | None = None
) -> list[dict[str, Any]]:
    """One row for each kernel of the op's implementations "triton" and "cuda", for each compute capability:

    op, impl, kernel    for CUDA with the element type
    case                the Case's name that launches it (Triton); None for CUDA: kernels are compiled for every shape
    arch                90 for sm_90
    registers           of a thread
    spill_store_bytes, spill_load_bytes    of a thread
    shared_bytes        of a block; for CUDA the static part
    num_warps           of a block
    occupancy           {"blocks", "warps_share", "limited_by"} of a multiprocessor, see occupancy.py
    load_widths, store_widths              {bytes of one thread's access of global memory: instructions}
    bulk_copies, matrix_instructions       {name: instructions}
    local_accesses, generic_accesses       instructions
    unknown             {field: why it is None}

    Triton kernels are those of cases("code"), compiled anew; CUDA kernels are all in the sources that those cases call.
    progress: called with a line now and then. Imports torch. ValueError for an unknown op or
    compute capability.
    """
    from perfsuite.kernels import contract
    from perfsuite.op_inspect.occupancy import LIMITS

    op = contract.op(op_name)
    strange = [arch for arch in archs if arch not in LIMITS]
    if strange:
        known = ", ".join(map(str, LIMITS))
        raise ValueError(f"compute capability {strange[0]} is not known: give one of {known}, e.g. 90 for an H100")
    say = progress or (lambda line: None)
    return [row for arch in archs for row in (*triton_rows(op, arch, say), *_cuda_rows(op, arch, say))]


def triton_rows(op: Any, arch: int, progress: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The rows of the implementation "triton" of an op alone."""
    from perfsuite.op_inspect import triton_kernels

    if "triton" not in op.implementations:
        return
    reason = triton_kernels.why_not()
    if reason:
        yield _row({"op": op.name, "impl": "triton", "arch": arch}, dict.fromkeys(_FIELDS, reason))
        return
    for case, kernels in triton_kernels.kernels(op, list(op.cases("code")), arch, progress).items():
        for kernel in kernels:
            known = {
                "op": op.name, "impl": "triton", "kernel": kernel.name, "case": case, "arch": arch,
                "shared_bytes": kernel.code.static_shared_bytes + kernel.dynamic_shared_bytes,
                "num_warps": kernel.warps,
            }  # fmt: skip
            unknown = {}
            if kernel.spills is None:
                unknown = dict.fromkeys(_SPILLS, "this version of Triton does not show the assembler's messages")
            yield _row(known | _of_code(kernel.code, kernel.spills), unknown)


def _cuda_rows(op: Any, arch: int, progress: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    from perfsuite.op_inspect import cuda_kernels

    if "cuda" not in op.implementations:
        return
    known = {"op": op.name, "impl": "cuda", "arch": arch}
    try:
        kernels = cuda_kernels.kernels(op, arch, progress)
    except ValueError as error:
        yield _row(known, dict.fromkeys(_FIELDS, str(error)))
        return
    for kernel in kernels:
        unknown = {
            "case": "a CUDA kernel is compiled once for all shapes",
            "num_warps": "the size of a block is chosen at launch",
            "occupancy": "the size of a block is chosen at launch",
        }
        if kernel.spills is None:
            unknown |= dict.fromkeys(_SPILLS, "the object's log is not in the cache")
        code = kernel.code
        shared = {"kernel": kernel.name, "shared_bytes": code.static_shared_bytes}
        yield _row(known | shared | _of_code(code, kernel.spills), unknown)


_SPILLS = ("spill_store_bytes", "spill_load_bytes")
_FIELDS = (
    "kernel", "case", "registers", *_SPILLS, "shared_bytes", "num_warps", "occupancy", "load_widths", "store_widths",
    "bulk_copies", "matrix_instructions", "local_accesses", "generic_accesses",
)  # fmt: skip


def _of_code(code: Any, spills: Any) -> dict[str, Any]:
    values = {name: value for name, value in code._asdict().items() if name in _FIELDS}
    if spills is not None:
        values |= {"spill_store_bytes": spills.store_bytes, "spill_load_bytes": spills.load_bytes}
    return values


def _row(known: dict[str, Any], unknown: dict[str, str]) -> dict[str, Any]:
    from perfsuite.op_inspect.occupancy import occupancy

    row = {"op": known["op"], "impl": known["impl"], **dict.fromkeys(_FIELDS), **known, "unknown": unknown}
    if row["num_warps"] is not None:
        fits = occupancy(row["arch"], row["registers"], row["shared_bytes"], row["num_warps"])
        row["occupancy"] = fits and fits._asdict()
        if fits is None:
            unknown["occupancy"] = f"the limits of sm_{row['arch']} are not known"
    return row
