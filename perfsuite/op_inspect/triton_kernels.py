"""Which Triton kernels an op launches, compiled for a GPU that need not be there.

The op's own launchers run on CPU tensors, so that the kernels, their constants and what is known of alignments are
those of a real call; where a kernel would be launched it is compiled for the wanted GPU instead. Nothing is executed:
outputs are uninitialised memory.
"""

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch

from perfsuite.kernels.contract import Case, Op
from perfsuite.op_inspect import calling, machine_code
from perfsuite.op_inspect.machine_code import Code, Spills


class Kernel(NamedTuple):
    """One compiled kernel that a case launches."""

    name: str
    """Of the function; "#2" and so on behind it where the case launches it with other constants, too."""
    warps: int
    dynamic_shared_bytes: int
    code: Code
    spills: Spills | None
    """None where the assembler's messages could not be read."""


class _Driver:
    """Stands in for Triton's driver of a GPU of compute capability `arch`."""

    def __init__(self, arch: int) -> None:
        from triton.backends.compiler import GPUTarget

        self._target = GPUTarget("cuda", arch, 32)
        self._name = f"inspected sm_{arch}"  # kernels are kept apart by device

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> str:
        return self._name

    def get_current_stream(self, device: Any = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def why_not() -> str | None:
    """None where Triton kernels can be compiled in this process."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed: pip install triton"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET=1 is set: kernels are interpreted, not compiled; unset it"
    return None


def kernels(op: Op, cases: list[Case], arch: int, progress: Callable[[str], None]) -> dict[str, list[Kernel]]:
    """By case, the kernels that the op's implementation "triton" launches, forward and backward, in order."""
    found: dict[str, list[Kernel]] = {}
    read: dict[str, tuple[Code, Spills | None]] = {}
    with _recording(arch) as launched:
        for case in cases:
            launched.clear()
            calling.call(op, "triton", case)
            of_case: dict[str, Any] = {}
            for compiled, log in launched:
                if compiled.hash not in read:
                    read[compiled.hash] = _read(compiled, log, arch)
                of_case.setdefault(compiled.hash, compiled)
            names: dict[str, int] = {}
            found[case.name] = []
            for digest, compiled in of_case.items():
                name = compiled.metadata.name
                names[name] = names.get(name, 0) + 1
                number = f"#{names[name]}" if names[name] > 1 else ""
                metadata = compiled.metadata
                found[case.name].append(Kernel(name + number, metadata.num_warps, metadata.shared, *read[digest]))
            progress(f"{op.name}=triton {case.name} for sm_{arch}: {len(found[case.name])} kernels")
    return found


@contextmanager
def _recording(arch: int) -> Iterator[list[tuple[Any, str]]]:
    """Within, kernels are compiled for `arch` and not launched: the list gets (compiled kernel, assembler's messages).

    Messages are empty for a kernel that was compiled before. Everything is put back at the end; nothing is cached.
    """
    import triton
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    launched: list[tuple[Any, str]] = []
    touched: set[Any] = set()
    run, active, device = JITFunction.run, driver._active, _Driver(arch)

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        touched.add(self)
        said = io.StringIO()
        with redirect_stdout(said):
            compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
        launched.append((compiled, said.getvalue()))
        return compiled

    knobs = triton.knobs
    with tempfile.TemporaryDirectory() as folder, knobs.cache.scope(), knobs.nvidia.scope():
        knobs.cache.dir, knobs.nvidia.dump_ptxas_log = folder, True
        driver.set_active(device)
        JITFunction.run = compile_only
        try:
            yield launched
        finally:
            JITFunction.run = run
            driver._active = active
            for function in touched:
                function.device_caches.pop(device.get_current_device(), None)


def _read(compiled: Any, log: str, arch: int) -> tuple[Code, Spills | None]:
    cuobjdump, folder = tools()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        (code,) = machine_code.read(path, arch, cuobjdump, folder).values()
    spilled = machine_code.spills(log)
    return code, next(iter(spilled.values())) if len(spilled) == 1 else None


def tools() -> tuple[str, Path]:
    """Triton's cuobjdump, and the folder that its nvdisasm is in."""
    import triton

    nvidia = triton.knobs.nvidia
    return nvidia.cuobjdump.path, Path(nvidia.nvdisasm.path).parent
