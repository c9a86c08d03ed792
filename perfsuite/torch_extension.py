"""Builds and loads perfsuite._torch, the native code that is compiled against the installed torch.

It is built at first use (or by `make`) into a cache folder named after everything the result depends on: torch's build,
Python's ABI, the compiler and the sources. Processes that need it at the same time wait for one build. Object files are
kept beside it, each named after all that went into it, so that a change compiles only what it touches.
"""

import importlib.machinery
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from perfsuite import build_cache
from perfsuite.build_cache import BuildError as TorchExtensionError
from perfsuite.build_cache import Status, Target

MODULE = "perfsuite._torch"
_FILE = "_torch" + (sysconfig.get_config_var("EXT_SUFFIX") or ".so")
_FLAGS = ["-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-fopenmp", "-pthread", "-Wall"]
_ADVICE = "g++ 11 or newer is needed, set CXX to choose one"


class _Plan(NamedTuple):
    compiler: list[str]
    torch: Path
    sources: list[Path]
    flags: list[str]
    base: str
    """Digest of all that every object file depends on."""
    target: Target
    note: str | None


_loaded: ModuleType | None = None
_failure: TorchExtensionError | None = None


def load() -> ModuleType:
    """The module perfsuite._torch, built if need be. Imports torch. Raises TorchExtensionError."""
    global _loaded, _failure
    if _loaded is not None:
        return _loaded
    if _failure is not None:
        raise _failure  # a build that failed is not tried again by the same process
    try:
        path = build()
        import torch  # noqa: F401  its libraries have to be in the process

        _loaded = _import(path)
    except TorchExtensionError as error:
        _failure = error
        raise
    return _loaded


def status() -> Status:
    """Whether perfsuite._torch is built or can be, without building it and without importing torch."""
    try:
        plan = _plan()
    except TorchExtensionError as error:
        return Status(False, str(error), False, None, None)
    return build_cache.status(plan.target, plan.note)


def build(progress: Callable[[str], None] | None = None) -> Path:
    """Build perfsuite._torch unless it is built; returns the path of the library. Raises TorchExtensionError.

    progress: called with one line for each file that has been compiled.
    """
    plan = _plan()
    return build_cache.build(plan.target, lambda scratch: _compile(plan, scratch, progress or (lambda line: None)))


def _plan() -> _Plan:
    torch = _torch_folder()
    compiler = _compiler()
    root = build_cache.source_root()
    sources = sorted([*root.glob("torch/*.cpp"), *root.glob("ops/cpu/*.cpp")])
    if not sources:
        raise TorchExtensionError(f"no C++ sources in {root}: reinstall perfsuite")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        raise TorchExtensionError(
            f"Python.h is not in {sysconfig.get_path('include')}: install this Python's headers (python3-dev)"
        )
    flags = [*_FLAGS, f"-std=c++{_cxx_standard(torch)}"]
    version = build_cache.compiler_version(tuple(compiler))
    base = build_cache.digest([_torch_build(torch), _FILE, *compiler, version, *flags])
    key = build_cache.digest([base, *(build_cache.object_name(base, source) for source in sources)])[:20]
    folder, note = build_cache.cache_folder()
    return _Plan(compiler, torch, sources, flags, base, Target(folder, f"torch-{key}", _FILE, MODULE), note)


def _torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise TorchExtensionError("torch is not installed: pip install 'perfsuite[torch]'")
    return Path(spec.origin).parent


def _torch_build(torch: Path) -> str:
    """Names one build of torch: its version file has the commit; sizes tell builds of one commit apart."""
    libraries = [torch / "lib" / name for name in ("libc10.so", "libtorch_cpu.so")]
    missing = [str(path) for path in libraries if not path.exists()]
    if missing:
        raise TorchExtensionError(f"{missing[0]} is missing: reinstall torch (a build with shared libraries)")
    return (torch / "version.py").read_text() + " ".join(str(path.stat().st_size) for path in libraries)


def _cxx_standard(torch: Path) -> int:
    """The C++ standard that torch's headers need: what torch passes when it builds extensions itself."""
    text = (torch / "utils" / "cpp_extension.py").read_text()
    return max((int(number) for number in re.findall(r"-std=c\+\+(\d\d)", text)), default=17)


def _compiler() -> list[str]:
    """The C++ compiler as a command: $CXX, else g++ or clang++."""
    chosen = os.environ.get("CXX", "").split()
    for command in [chosen] if chosen else [["g++"], ["clang++"]]:
        found = shutil.which(command[0])
        if found:
            return [found, *command[1:]]
    if chosen:
        raise TorchExtensionError(f"the C++ compiler in $CXX, {chosen[0]!r}, is not found: install it or unset CXX")
    raise TorchExtensionError("no C++ compiler found: install g++ (Debian, Ubuntu: apt-get install g++) or set CXX")


def _compile(plan: _Plan, scratch: Path, progress: Callable[[str], None]) -> Path:
    import torch

    abi = int(torch.compiled_with_cxx11_abi())
    headers = [plan.torch / "include", plan.torch / "include/torch/csrc/api/include", sysconfig.get_path("include")]
    command = [*plan.compiler, *plan.flags, f"-D_GLIBCXX_USE_CXX11_ABI={abi}"]
    for folder in headers:
        command += ["-isystem", str(folder)]
    objects = build_cache.compile_objects(plan.target, scratch, command, plan.base, plan.sources, progress, _ADVICE)
    libraries = plan.torch / "lib"
    link = ["-shared", "-fopenmp", "-pthread", *objects, f"-L{libraries}", "-lc10", "-ltorch_cpu"]
    link += [f"-Wl,-rpath,{libraries}", "-o", str(scratch / _FILE)]
    build_cache.call(plan.target, [*plan.compiler, *link], "the library", _ADVICE)
    return scratch / _FILE


def _import(path: Path) -> ModuleType:
    loader = importlib.machinery.ExtensionFileLoader(MODULE, str(path))
    spec = importlib.util.spec_from_file_location(MODULE, path, loader=loader)
    assert spec is not None
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        raise TorchExtensionError(f"{path} does not load: {error}; delete {path.parent} and try again") from None
    sys.modules[MODULE] = module
    return module


def main() -> None:
    """`python -m perfsuite.torch_extension`: build it now, as `make` does, rather than at first use."""
    try:
        print(build(lambda line: print(line, file=sys.stderr)))
    except TorchExtensionError as error:
        print(f"perfsuite: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
