"""The CUDA kernels of an op, compiled for a GPU that need not be there."""

from collections.abc import Callable
from typing import NamedTuple

from perfsuite import cuda_extension
from perfsuite.kernels import contract
from perfsuite.op_inspect import machine_code, triton_kernels
from perfsuite.op_inspect.machine_code import Code, Spills


class Kernel(NamedTuple):
    """One kernel for one element type."""

    name: str
    code: Code
    spills: Spills | None
    """None where what the assembler said is not kept."""


def kernels(op_name: str, arch: int, progress: Callable[[str], None]) -> list[Kernel]:
    """All kernels of csrc/ops/cuda/<op>*.cu, as perfsuite.cuda_extension builds them.

    ValueError where there are none, and where they cannot be compiled or read.
    """
    if triton_kernels.why_not():
        raise ValueError("cuobjdump and nvdisasm come with Triton: pip install triton")
    cuobjdump, folder = triton_kernels.tools()
    found: list[Kernel] = []
    for source, made in cuda_extension.objects(arch).items():
        if _op_of(source) != op_name:
            continue
        codes = machine_code.read(made, arch, cuobjdump, folder)
        log = made.with_suffix(".log")
        spilled = machine_code.spills(log.read_text() if log.exists() else "")
        names = machine_code.demangle(list(codes))
        found += [
            Kernel(name, code, spilled.get(mangled))
            for name, (mangled, code) in zip(names, codes.items(), strict=True)
        ]
        progress(f"{op_name}=cuda {source}.cu for sm_{arch}: {len(codes)} kernels")
    if not found:
        raise ValueError(f"there are no kernels in csrc/ops/cuda/{op_name}*.cu")
    return sorted(found, key=lambda kernel: kernel.name)


def _op_of(source: str) -> str | None:
    """The op whose name the file's begins with; of several the longest."""
    return max((name for name in contract.MODULES if source.startswith(name)), key=len, default=None)
