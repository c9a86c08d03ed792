"""Builds and loads perfsuite._torch, the native code that is compiled against the installed torch.

It is built at first use (or by `make`) into a cache folder named after everything the result depends on: torch's build,
Python's ABI, the compiler and the sources. Processes that need it at the same time wait for one build. Object files are
kept beside it, each named after all that went into it, so that a change compiles only what it touches.
"""

import fcntl
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

MODULE = "perfsuite._torch"
_FILE = "_torch" + (sysconfig.get_config_var("EXT_SUFFIX") or ".so")
_FLAGS = ["-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-fopenmp", "-pthread", "-Wall"]


class TorchExtensionError(ValueError):
    """perfsuite._torch cannot be built or loaded here: one line with the cause and how to mend it."""


class Status(NamedTuple):
    """What there is of perfsuite._torch on this machine."""

    available: bool
    """Built, or can be built at first use."""
    reason: str | None
    """Why it is not available."""
    built: bool
    path: Path | None
    """The library, or where it will be."""
    note: str | None
    """What a user may want to know, e.g. that the cache folder cannot be written."""


class _Plan(NamedTuple):
    compiler: list[str]
    torch: Path
    sources: list[Path]
    flags: list[str]
    base: str
    """Digest of all that every object file depends on."""
    key: str


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
        folder, note = _cache_folder()
    except TorchExtensionError as error:
        return Status(False, str(error), False, None, None)
    path = folder / f"torch-{plan.key}" / _FILE
    if path.exists():
        return Status(True, None, True, path, note)
    try:
        reason = _failure_file(folder, plan.key).read_text().strip()
    except OSError:
        return Status(True, None, False, path, note or "not built yet: it is built at first use, in under a minute")
    return Status(False, reason, False, path, note)


def build(progress: Callable[[str], None] | None = None) -> Path:
    """Build perfsuite._torch unless it is built; returns the path of the library. Raises TorchExtensionError.

    progress: called with one line for each file that has been compiled.
    """
    plan = _plan()
    folder, _ = _cache_folder()
    final = folder / f"torch-{plan.key}"
    if (final / _FILE).exists():
        return final / _FILE
    try:
        with _lock(folder / f"torch-{plan.key}.lock"):
            if not (final / _FILE).exists():  # else another process has built it meanwhile
                _build_in(folder, plan, final, progress or (lambda line: None))
    except OSError as error:
        raise TorchExtensionError(
            f"perfsuite._torch cannot be built in {folder}: {error}; set XDG_CACHE_HOME to a folder with room"
        ) from None
    return final / _FILE


def _build_in(folder: Path, plan: _Plan, final: Path, progress: Callable[[str], None]) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="build-", dir=folder))
    failure = _failure_file(folder, plan.key)
    try:
        _compile(plan, scratch, folder / f"torch-{plan.key}.log", progress)
        _publish(scratch / _FILE, final)
        failure.unlink(missing_ok=True)
    except TorchExtensionError as error:
        failure.write_text(str(error) + "\n")
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _plan() -> _Plan:
    torch = _torch_folder()
    compiler = _compiler()
    root = _source_root()
    sources = sorted([*root.glob("torch/*.cpp"), *root.glob("ops/cpu/*.cpp")])
    if not sources:
        raise TorchExtensionError(f"no C++ sources in {root}: reinstall perfsuite")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        raise TorchExtensionError(
            f"Python.h is not in {sysconfig.get_path('include')}: install this Python's headers (python3-dev)"
        )
    flags = [*_FLAGS, f"-std=c++{_cxx_standard(torch)}"]
    base = _digest([_torch_build(torch), _FILE, *compiler, _compiler_version(tuple(compiler)), *flags])
    key = _digest([base, *(_object_name(base, source) for source in sources)])
    return _Plan(compiler, torch, sources, flags, base, key[:20])


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _object_name(base: str, source: Path) -> str:
    """Named after the source, all of our own headers that it includes, and what every object depends on."""
    seen: dict[Path, str] = {}

    def read(path: Path) -> None:
        if path in seen or not path.exists():
            return
        seen[path] = path.read_text()
        # The second form is csrc/ops/cpu/each_isa.h's: a file that is included under a name.
        for name in re.findall(r'^\s*#\s*(?:include|define PERFSUITE_BODY)\s+"([^"]+)"', seen[path], re.MULTILINE):
            read((path.parent / name).resolve())

    read(source.resolve())
    parts = [text for path in sorted(seen) for text in (path.name, seen[path])]
    return f"{source.parent.name}-{source.stem}-{_digest([base, *parts])[:16]}.o"


def _source_root() -> Path:
    import perfsuite.csrc

    return Path(next(iter(perfsuite.csrc.__path__)))


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


@cache
def _compiler_version(compiler: tuple[str, ...]) -> str:
    answer = subprocess.run([*compiler, "--version"], capture_output=True, text=True)
    if answer.returncode != 0:
        raise TorchExtensionError(f"the C++ compiler {compiler[0]} does not run: {_first_error(answer.stderr)}")
    return answer.stdout.splitlines()[0] if answer.stdout else ""


def _cache_folder() -> tuple[Path, str | None]:
    """Where libraries are kept, and a note where that is not the usual place."""
    home = os.environ.get("XDG_CACHE_HOME")
    usual = (Path(home) if home else Path(os.path.expanduser("~")) / ".cache") / "perfsuite"
    try:
        usual.mkdir(parents=True, exist_ok=True)
        if os.access(usual, os.W_OK | os.X_OK):
            return usual, None
        cause = "not writable"
    except OSError as error:
        cause = error.strerror or str(error)
    fallback = Path(tempfile.gettempdir()) / f"perfsuite-{os.getuid()}"
    fallback.mkdir(mode=0o700, exist_ok=True)
    owner = fallback.lstat()
    if owner.st_uid != os.getuid() or owner.st_mode & 0o022 or fallback.is_symlink():
        # Somebody else could put a library there for us to load.
        raise TorchExtensionError(f"{usual} is {cause} and {fallback} belongs to somebody else: set XDG_CACHE_HOME")
    return fallback, f"{usual} is {cause}: built in {fallback} instead; set XDG_CACHE_HOME to keep it"


def _failure_file(folder: Path, key: str) -> Path:
    return folder / f"torch-{key}.failed"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Exclusive among processes; the system releases it when a process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(plan: _Plan, scratch: Path, log: Path, progress: Callable[[str], None]) -> None:
    import torch

    abi = int(torch.compiled_with_cxx11_abi())
    headers = [plan.torch / "include", plan.torch / "include/torch/csrc/api/include", sysconfig.get_path("include")]
    command = [*plan.compiler, *plan.flags, f"-D_GLIBCXX_USE_CXX11_ABI={abi}"]
    for folder in headers:
        command += ["-isystem", str(folder)]
    kept = log.parent / "objects"
    kept.mkdir(exist_ok=True)
    _forget_old(kept)
    done: list[str] = []

    def compile_one(source: Path) -> str:
        target = kept / _object_name(plan.base, source)
        if target.exists():
            os.utime(target)
        else:
            _call([*command, "-c", str(source), "-o", str(scratch / target.name)], source.name, log)
            os.replace(scratch / target.name, target)
        done.append(str(target))
        progress(f"compiled {source.name} ({len(done)} of {len(plan.sources)})")
        return str(target)

    # Two at a time: each needs about 0.7 GB. The longest first, so that the last one does not run alone.
    with ThreadPoolExecutor(max_workers=2) as pool:
        objects = list(pool.map(compile_one, sorted(plan.sources, key=lambda path: -path.stat().st_size)))
    libraries = plan.torch / "lib"
    link = ["-shared", "-fopenmp", "-pthread", *objects, f"-L{libraries}", "-lc10", "-ltorch_cpu"]
    _call([*plan.compiler, *link, f"-Wl,-rpath,{libraries}", "-o", str(scratch / _FILE)], "the library", log)


def _forget_old(folder: Path) -> None:
    """Remove what no build has used for a month."""
    for path in folder.iterdir():
        with suppress(OSError):  # another build may remove it too
            if time.time() - path.stat().st_mtime > 30 * 86400:
                path.unlink()


def _call(command: list[str], what: str, log: Path) -> None:
    answer = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if answer.returncode != 0:
        log.write_text(" ".join(command) + "\n" + answer.stderr)
        raise TorchExtensionError(
            f"perfsuite._torch: compiling {what} failed: {_first_error(answer.stderr)} (all of it: {log}); "
            "g++ 11 or newer is needed, set CXX to choose one"
        )


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "no message")


def _publish(library: Path, final: Path) -> None:
    """Put the library in its folder at once: nobody sees half of it."""
    staging = library.parent / "publish"
    staging.mkdir()
    shutil.move(library, staging / _FILE)
    try:
        os.rename(staging, final)
    except OSError:
        if not final.exists():
            raise
        os.replace(staging / _FILE, final / _FILE)  # the folder is there without its library


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
