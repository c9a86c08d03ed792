"""Compiles CUDA sources as C++ together with the emulator, into one library with the functions of the CUDA one."""

import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from perfsuite import build_cache, cuda_extension
from perfsuite.build_cache import Target

HERE = Path(__file__).parent
COMMAND = [
    "g++", "-std=c++17", "-O1", "-fPIC", "-pthread", "-fno-strict-aliasing", "-Wall", "-Wno-unknown-pragmas",
    "-fsanitize=alignment,bounds-strict,signed-integer-overflow,shift-exponent", f"-I{HERE}",
]  # fmt: skip


def why_not() -> str | None:
    """None where the emulator can be built."""
    if platform.machine() != "x86_64":
        return f"the emulator switches threads in x86-64 assembly, this is {platform.machine()}"
    return None if shutil.which("g++") else "no g++"


def build(sources: Sequence[Path] = ()) -> Path:
    """The library of these .cu files, by default perfsuite's own. Built once for all processes and kept."""
    everything = [*(sources or cuda_extension.sources()), HERE / "emulator.cpp"]
    base = _base()
    key = build_cache.digest([base, *(build_cache.object_name(base, source) for source in everything)])[:20]
    folder, _ = build_cache.cache_folder()
    target = Target(folder, f"emulator-{key}", "libemulator.so", "the CUDA emulator")

    def make(scratch: Path) -> Path:
        library = scratch / target.file
        objects = build_cache.compile_objects(
            target, scratch, [*_command(), "-x", "c++"], base, everything, lambda line: None, "see the log"
        )
        # Without the sanitizers' own library: emulator.cpp has what they call.
        build_cache.call(target, ["g++", "-shared", "-pthread", *objects, "-o", str(library)], "the library", "")
        return library

    return build_cache.build(target, make)


def names_in_several(sources: Sequence[Path]) -> dict[str, list[str]]:
    """Functions that several of the sources define, other than those of device.h: {name: files}.

    The linker keeps one of them for all, silently; what a file needs for itself belongs in an unnamed namespace.
    """
    text = (build_cache.source_root() / "ops" / "cuda" / "device.h").read_text()
    shared = set(re.findall(r"\b(\w+)\(", text)) | {"Pack"}
    build(sources)
    folder, _ = build_cache.cache_folder()
    where: dict[str, list[str]] = {}
    for source in sources:
        made = folder / "objects" / build_cache.object_name(_base(), source)
        listed = subprocess.run(["nm", "-C", "--defined-only", str(made)], capture_output=True, text=True, check=True)
        names = set()
        for line in listed.stdout.splitlines():
            kind, name = line.split(maxsplit=2)[1:]
            bare = re.sub(r"<.*|\(.*", "", name).split()
            if kind in "WVu" and bare and not re.match(r"std::|emulator::|__|operator|DW\.ref", bare[-1]):
                names.add(bare[-1])
        for name in names:
            if name.rpartition("::")[2] not in shared:
                where.setdefault(name, []).append(source.name)
    return {name: files for name, files in where.items() if len(files) > 1}


def _command() -> list[str]:
    return [*COMMAND, f"-I{build_cache.source_root() / 'ops' / 'cuda'}"]


def _base() -> str:
    """Digest of what every object depends on."""
    shims = [path.read_text() for path in sorted(HERE.glob("*.h"))]
    return build_cache.digest([*_command(), build_cache.compiler_version(("g++",)), *shims])
