"""What building native code on the user's machine takes: a cache folder, one build at a time, named after its inputs.

Used for perfsuite._torch (torch_extension) and the CUDA kernels (cuda_extension).
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple


class BuildError(ValueError):
    """Native code cannot be built or loaded here: one line with the cause and how to mend it."""


class Status(NamedTuple):
    """What there is of a library that is built on this machine."""

    available: bool
    """Built, or can be built at first use."""
    reason: str | None
    """Why it is not available."""
    built: bool
    path: Path | None
    """The library, or where it will be."""
    note: str | None
    """What a user may want to know, e.g. that the cache folder cannot be written."""


class Target(NamedTuple):
    """A library in the cache: <folder>/<name>/<file>, its lock, its log and what made it fail beside it."""

    folder: Path
    name: str
    """The kind and a digest of all that the library depends on: "torch-0123456789abcdef"."""
    file: str
    title: str
    """What messages call it."""

    @property
    def path(self) -> Path:
        return self.folder / self.name / self.file

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def failure(self) -> Path:
        return self.folder / f"{self.name}.failed"


def status(target: Target, note: str | None) -> Status:
    """Whether it is built, failed to build, or can be built."""
    if target.path.exists():
        return Status(True, None, True, target.path, note)
    try:
        reason = target.failure.read_text().strip()
    except OSError:
        return Status(True, None, False, target.path, note or "not built yet: it is built at first use")
    return Status(False, reason, False, target.path, note)


def build(target: Target, make: Callable[[Path], Path]) -> Path:
    """Build the library unless it is built; returns its path. Processes at the same time wait for one build.

    make: called with an empty scratch folder in the cache; returns the library that it made in there.
    """
    if target.path.exists():
        return target.path
    try:
        with _lock(target.folder / f"{target.name}.lock"):
            if not target.path.exists():  # else another process has built it meanwhile
                _build_in_scratch(target, make)
    except OSError as error:
        raise BuildError(
            f"{target.title} cannot be built in {target.folder}: {error}; set XDG_CACHE_HOME to a folder with room"
        ) from None
    return target.path


def _build_in_scratch(target: Target, make: Callable[[Path], Path]) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="build-", dir=target.folder))
    try:
        _publish(make(scratch), target.path)
        target.failure.unlink(missing_ok=True)
    except BuildError as error:
        target.failure.write_text(str(error) + "\n")
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _publish(library: Path, final: Path) -> None:
    """Put the library in its folder at once: nobody sees half of it."""
    staging = library.parent / "publish"
    staging.mkdir()
    shutil.move(library, staging / final.name)
    try:
        os.rename(staging, final.parent)
    except OSError:
        if not final.parent.exists():
            raise
        os.replace(staging / final.name, final)  # the folder is there without its library


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Exclusive among processes; the system releases it when a process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def compile_objects(
    target: Target, scratch: Path, command: list[str], base: str, sources: Iterable[Path],
    progress: Callable[[str], None], advice: str,
) -> list[str]:  # fmt: skip
    """Compile each source with `command`, unless its object is kept from an earlier build; returns the objects.

    Beside each object stays what the compiler said, <object>.log.
    base: digest of all that every object depends on besides its own text. progress: called with a line for each.
    """
    kept = target.folder / "objects"
    kept.mkdir(exist_ok=True)
    _forget_old(kept)
    done: list[str] = []
    # The longest first, so that the last one does not run alone.
    ordered = sorted(sources, key=lambda path: -path.stat().st_size)

    def compile_one(source: Path) -> str:
        made = kept / object_name(base, source)
        log = made.with_suffix(".log")
        if made.exists() and log.exists():
            os.utime(made)
            os.utime(log)
        else:
            said = call(target, [*command, "-c", str(source), "-o", str(scratch / made.name)], source.name, advice)
            log.write_text(said)
            os.replace(scratch / made.name, made)
        done.append(str(made))
        progress(f"compiled {source.name} ({len(done)} of {len(ordered)})")
        return str(made)

    with ThreadPoolExecutor(max_workers=_at_once()) as pool:
        return list(pool.map(compile_one, ordered))


def _at_once() -> int:
    """Compilers that run at the same time, two at least: torch's headers need about 0.7 GB each."""
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(2, min(len(os.sched_getaffinity(0)), free_bytes >> 30))


def call(target: Target, command: list[str], what: str, advice: str) -> str:
    """Run a compiler; returns what it said. BuildError with its first error where it fails, and the log has it all."""
    answer = subprocess.run(command, capture_output=True, text=True, errors="replace")
    said = answer.stderr + answer.stdout
    if answer.returncode != 0:
        target.log.write_text(" ".join(command) + "\n" + said)
        raise BuildError(
            f"{target.title}: compiling {what} failed: {first_error(said)} (all of it: {target.log}); {advice}"
        )
    return said


def _forget_old(folder: Path) -> None:
    """Remove what no build has used for a month."""
    for path in folder.iterdir():
        with suppress(OSError):  # another build may remove it too
            if time.time() - path.stat().st_mtime > 30 * 86400:
                path.unlink()


def digest(parts: Iterable[str]) -> str:
    """Of all the parts, in hexadecimal."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def object_name(base: str, source: Path) -> str:
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
    return f"{source.parent.name}-{source.stem}-{digest([base, *parts])[:16]}.o"


def source_root() -> Path:
    """The folder csrc of the installed package."""
    import perfsuite.csrc

    return Path(next(iter(perfsuite.csrc.__path__)))


@cache
def compiler_version(compiler: tuple[str, ...]) -> str:
    """What the compiler says of itself. BuildError where it does not run."""
    answer = subprocess.run([*compiler, "--version"], capture_output=True, text=True)
    if answer.returncode != 0:
        raise BuildError(f"the compiler {compiler[0]} does not run: {first_error(answer.stderr)}")
    return answer.stdout.strip()


def first_error(text: str) -> str:
    """The line of a compiler's output that says what was wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "no message")


def cache_folder() -> tuple[Path, str | None]:
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
        raise BuildError(f"{usual} is {cause} and {fallback} belongs to somebody else: set XDG_CACHE_HOME")
    return fallback, f"{usual} is {cause}: built in {fallback} instead; set XDG_CACHE_HOME to keep it"
