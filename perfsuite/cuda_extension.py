"""Builds, loads and calls the CUDA kernels: the .cu files of csrc/ops/cuda and csrc/machine, as one shared library of
plain C functions.

nvcc compiles them at first use for the compute capability of the GPU that is there, into the cache folder of
perfsuite.torch_extension and by the same rules. The library needs no torch and has its own CUDA runtime inside, so that
it fits every build of torch. For tests without a GPU, $PERFSUITE_CUDA_LIBRARY names a library with the same functions
that runs the same sources on the CPU (tests/cuda_emulator).
"""

import ctypes
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from perfsuite import build_cache
from perfsuite.build_cache import BuildError, Status, Target

if TYPE_CHECKING:
    import torch

EMULATOR = "PERFSUITE_CUDA_LIBRARY"
TITLE = "the CUDA kernels"
_FILE = "libperfsuite_cuda.so"
_FLAGS = ["-std=c++17", "-O3", "-DNDEBUG", "-Xcompiler=-fPIC,-Wall", "-Xptxas=-v", "--cudart=static"]
_ADVICE = "a CUDA toolkit that knows this GPU is needed, set CUDACXX to its nvcc"
_USUAL_HOME = "/usr/local/cuda"
_KINDS = {"int": ctypes.c_int, "int64_t": ctypes.c_int64, "double": ctypes.c_double}


class EntryPoint(NamedTuple):
    """A C function of the library, as the sources declare it."""

    source: Path
    kinds: list[Any]
    """ctypes of its arguments."""


def why_not(device: str) -> str | None:
    """None where `call` works with tensors of this device type, "cpu" or "cuda"; else why not. Builds the library."""
    if device == "cpu":
        if not os.environ.get(EMULATOR):
            return f"it needs a GPU; the tests run it on the CPU with {EMULATOR} (slow)"
        index = -1
    else:
        reason = _no_device()
        if reason:
            return reason
        import torch

        index = torch.cuda.current_device()
    try:
        _library(index)
    except BuildError as error:
        return str(error)
    return None


def call(name: str, dtype: "torch.dtype", *args: Any) -> None:
    """Call the C function `name` of the library for elements of `dtype`, on the current stream of the tensors' device.

    args: as the function declares them, without dtype and stream: tensors for pointers (None is null), int, float.
    Launches only, does not wait. Raises RuntimeError where the function returns an error, BuildError where there is no
    library, TypeError and ctypes.ArgumentError for other arguments than it has.
    """
    index = None
    values: list[Any] = []
    for arg in args:
        if hasattr(arg, "data_ptr"):
            here = arg.get_device()  # -1 on the CPU
            if index is None:
                index = here
            elif here != index:
                raise RuntimeError(f"{name}: tensors on several devices, {index} and {here} (-1 is the CPU)")
            values.append(arg.data_ptr())
        else:
            values.append(arg)
    (_libraries.get(index) or _library(index)).call(name, dtype, values)


class _Library:
    """The library for one device: its functions with the types that the sources declare."""

    def __init__(self, path: Path, index: int) -> None:
        import torch

        try:
            self._loaded = ctypes.CDLL(str(path))
        except OSError as error:
            raise BuildError(f"{path} does not load: {error}; delete {path.parent} and try again") from None
        self._functions: dict[str, Callable[..., int]] = {}
        self._dtypes = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}  # device.h's DType
        self._index = index
        # What Triton and torch.compile call at each launch, too: a torch.cuda.Stream object is several times as slow.
        self._stream = torch._C._cuda_getCurrentRawStream if index >= 0 else lambda index: None
        self._on_device = torch.cuda.device
        self._current_device = torch.cuda.current_device if index >= 0 else lambda: index
        self._loaded.perfsuite_error_string.restype = ctypes.c_char_p

    def call(self, name: str, dtype: "torch.dtype", values: list[Any]) -> None:
        function = self._functions.get(name) or self._function(name)
        try:
            number = self._dtypes[dtype]
        except KeyError:
            raise RuntimeError(f"{name}: no CUDA kernels for {dtype}") from None
        if self._current_device() == self._index:
            error = function(number, *values, self._stream(self._index))
        else:
            with self._on_device(self._index):
                error = function(number, *values, self._stream(self._index))
        if error:
            raise RuntimeError(f"{name}: {self.error_string(error)}")

    def error_string(self, error: int) -> str:
        return f"{self._loaded.perfsuite_error_string(error).decode()} (CUDA error {error})"

    def _function(self, name: str) -> Callable[..., int]:
        entry = entry_points().get(name)
        if entry is None:
            raise RuntimeError(f"{name}: csrc has no such function; it has {', '.join(entry_points())}")
        function = getattr(self._loaded, name, None)
        if function is None:
            raise RuntimeError(f"{name}: {self._loaded._name} lacks it: it is older than the sources")
        function.argtypes = entry.kinds
        self._functions[name] = function
        return function


@contextmanager
def recording() -> Iterator[list[str]]:
    """Within, `call` with CPU tensors adds the function's name to this list and does nothing else."""
    names: list[str] = []
    before = _libraries.get(-1)
    _libraries[-1] = SimpleNamespace(call=lambda name, dtype, values: names.append(name))
    try:
        yield names
    finally:
        del _libraries[-1]
        if before is not None:
            _libraries[-1] = before


_libraries: dict[int, Any] = {}
"""By torch's device index; -1 is the CPU."""
_failures: dict[int, BuildError] = {}


def _library(index: int | None) -> _Library:
    """The library for this device, built and tried if need be. A failure is not tried again by the same process."""
    if index is None:
        raise RuntimeError("a CUDA kernel was called without a tensor")
    if index in _failures:
        raise _failures[index]
    if index not in _libraries:
        try:
            _libraries[index] = _load(index)
        except BuildError as error:
            _failures[index] = error
            raise
    return _libraries[index]


def _load(index: int) -> _Library:
    if index < 0:
        emulator = os.environ.get(EMULATOR)
        if not emulator:
            raise BuildError("CUDA kernels need tensors on a GPU, got some on the CPU")
        return _Library(Path(emulator), index)
    import torch

    with torch.cuda.device(index):
        library = _Library(build(arch_of(index)), index)
        try:
            library.call("perfsuite_try_device", torch.float32, [])
        except RuntimeError as error:
            raise BuildError(
                f"{TITLE} do not run on this GPU: {error}; use a CUDA toolkit no newer than the driver (nvidia-smi)"
            ) from None
    return library


def _no_device() -> str | None:
    try:
        import torch
    except ImportError:
        return "torch is not installed: pip install 'perfsuite[torch]'"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if torch.version.cuda is None:
        return "this torch is not built for CUDA"
    return None


def arch_of(index: int) -> int:
    """Compute capability of torch's device `index`: 90 for 9.0."""
    import torch

    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


def status() -> Status:
    """Whether the library for the current GPU is built or can be, without building it. Imports torch."""
    reason = _no_device()
    try:
        if reason:
            nvcc()  # its absence is worth telling as well
            return Status(False, reason, False, None, None)
        import torch

        target, note, _ = _plan(arch_of(torch.cuda.current_device()))
    except BuildError as error:
        return Status(False, "; ".join(filter(None, [reason, str(error)])), False, None, None)
    return build_cache.status(target, note)


def build(arch: int, progress: Callable[[str], None] | None = None) -> Path:
    """Build the library for this compute capability (90 for 9.0) unless it is built; needs nvcc, but no GPU.

    Returns its path. progress: called with one line for each file that has been compiled. Raises BuildError.
    """
    target, _, base = _plan(arch)

    def make(scratch: Path) -> Path:
        command = _command(arch)
        objects = build_cache.compile_objects(
            target, scratch, command, base, sources(), progress or (lambda line: None), _ADVICE
        )
        library = scratch / _FILE
        build_cache.call(target, [*command, "-shared", *objects, "-o", str(library)], "the library", _ADVICE)
        return library

    return build_cache.build(target, make)


def objects(arch: int) -> dict[Path, Path]:
    """The object of each source, built if need be; what nvcc said stands beside it, in <object>.log."""
    _, _, base = _plan(arch)
    folder = build(arch).parents[1] / "objects"
    return {source: folder / build_cache.object_name(base, source) for source in sources()}


def _plan(arch: int) -> tuple[Target, str | None, str]:
    """The library, a note about its folder, and the digest of what every object depends on."""
    command = _command(arch)
    base = build_cache.digest([*command, build_cache.compiler_version((command[0],))])
    key = build_cache.digest([base, *(build_cache.object_name(base, source) for source in sources())])[:20]
    folder, note = build_cache.cache_folder()
    return Target(folder, f"cuda-sm{arch}-{key}", _FILE, TITLE), note, base


def _command(arch: int) -> list[str]:
    return [nvcc(), *_FLAGS, f"-gencode=arch=compute_{arch},code=sm_{arch}"]


def sources() -> list[Path]:
    """The .cu files. BuildError where there are none."""
    root = build_cache.source_root()
    found = sorted([*root.glob("ops/cuda/*.cu"), *root.glob("machine/*.cu")])
    if not found:
        raise BuildError(f"no CUDA sources in {root}: reinstall perfsuite")
    return found


def nvcc() -> str:
    """Path of the CUDA compiler: $CUDACXX, else nvcc on PATH, in $CUDA_HOME/bin or /usr/local/cuda/bin."""
    chosen = os.environ.get("CUDACXX")
    if chosen:
        found = shutil.which(chosen)
        if not found:
            raise BuildError(f"the CUDA compiler in $CUDACXX, {chosen!r}, is not found: install it or unset CUDACXX")
        return found
    folders = [Path(home) / "bin" for home in (os.environ.get("CUDA_HOME"), _USUAL_HOME) if home]
    for candidate in ["nvcc", *(str(folder / "nvcc") for folder in folders)]:
        found = shutil.which(candidate)
        if found:
            return found
    raise BuildError("no nvcc found: install the CUDA toolkit, or set CUDACXX to its nvcc")


@cache
def entry_points() -> dict[str, EntryPoint]:
    """The C functions that `call` can call, by name."""
    found: dict[str, EntryPoint] = {}
    for source in sources():
        text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", source.read_text(), flags=re.DOTALL)
        for name, arguments in re.findall(r'extern\s+"C"\s+int\s+(\w+)\s*\(([^)]*)\)', text):
            found[name] = EntryPoint(source, [_kind(name, argument) for argument in arguments.split(",")])
    return found


def _kind(name: str, argument: str) -> Any:
    if "*" in argument:
        return ctypes.c_void_p
    word = argument.replace("const ", " ").split()[0]
    if word not in _KINDS:
        raise BuildError(f"{name}: an argument {argument.strip()!r}; only pointers, int, int64_t and double are passed")
    return _KINDS[word]


def main() -> None:
    """`python -m perfsuite.cuda_extension 80 90 100`: build for these compute capabilities now; no GPU is needed."""
    try:
        if not sys.argv[1:] and (reason := _no_device()):
            raise ValueError(f"{reason}: name the compute capabilities to build for, e.g. 90")
        for arch in sys.argv[1:] or [str(arch_of(0))]:
            print(build(int(arch), lambda line: print(line, file=sys.stderr)))
    except ValueError as error:
        print(f"perfsuite: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
