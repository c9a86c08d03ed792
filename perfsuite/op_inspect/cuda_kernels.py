"""The CUDA kernels of an op, compiled for a GPU that need not be there."""

from collections.abc import Callable
from typing import NamedTuple

from perfsuite import cuda_extension
from perfsuite.kernels.contract import Op
from perfsuite.op_inspect import calling, machine_code, triton_kernels
from perfsuite.op_inspect.machine_code import Code, Spills


class Kernel(NamedTuple):
    """One kernel for one element type."""

    name: str
    code: Code
    spills: Spills | None
    """None where what the assembler said is not kept."""


def kernels(op: Op, arch: int, progress: Callable[[str], None]) -> list[Kernel]:
    """All kernels of the sources whose functions the op's implementation "cuda" calls in cases("code").

    They are those that perfsuite.cuda_extension builds. ValueError where they cannot be compiled or read.
    """
    if triton_kernels.why_not():
        raise ValueError("cuobjdump and nvdisasm come with Triton: pip install triton")
    with cuda_extension.recording() as names:
        for case in op.cases("code"):
            calling.call(op, "cuda", case)
    if not names:
        raise ValueError('it launches nothing in cases("code")')
    cuobjdump, folder = triton_kernels.tools()
    objects = cuda_extension.objects(arch)
    found: list[Kernel] = []
    for source in sorted({cuda_extension.entry_points()[name].source for name in names}):
        made = objects[source]
        codes = machine_code.read(made, arch, cuobjdump, folder)
        log = made.with_suffix(".log")
        spilled = machine_code.spills(log.read_text() if log.exists() else "")
        readable = machine_code.demangle(list(codes))
        found += [
            Kernel(name, code, spilled.get(mangled))
            for name, (mangled, code) in zip(readable, codes.items(), strict=True)
        ]
        progress(f"{op.name}=cuda {source.name} for sm_{arch}: {len(codes)} kernels")
    return sorted(found, key=lambda kernel: kernel.name)
