"""Finds the CUPTI library that knows the chips' counters, and refuses those that crash.

Planning needs no GPU and no driver in CUPTI 13.0 and 13.1. Without a driver 13.2 crashes and later ones give an error,
so each library is tried in a process of its own before this one loads it.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from perfsuite import _native
from perfsuite.build_cache import BuildError
from perfsuite.cuda_extension import nvcc

WORKS_WITHOUT_DRIVER = range(130000, 130200)
"""By cuptiGetVersion: 13.0 and 13.1."""

_UNDER = ("lib", "lib64", "extras/CUPTI/lib64")
_HOST = "libnvperf_host.so"


class CounterLibraryError(RuntimeError):
    """No usable CUPTI: one line on why."""


def loaded() -> Path | None:
    """The libcupti that this process has loaded already, torch's for instance: a second one must not come beside it."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    for line in maps.splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if path.name.startswith("libcupti.so"):
            return path
    return None


def candidates() -> list[Path]:
    """Every libcupti that may do, the first choice first. The one that is loaded, if any, is the only choice."""
    here = loaded()
    if here:
        return [here]
    folders = []
    home = os.environ.get("CUDA_HOME")
    if home:
        folders += [Path(home, under) for under in _UNDER]
    folders += [toolkit / under for toolkit in _toolkits() for under in _UNDER]
    spec = importlib.util.find_spec("nvidia")
    folders += [Path(place, "cu13/lib") for place in (spec.submodule_search_locations or [] if spec else [])]
    found: dict[Path, Path] = {}  # one for each file: its names differ in how much of the version they say
    for folder in folders:
        for path in sorted(folder.glob("libcupti.so.[0-9]*"), key=lambda p: len(p.name)):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _toolkits() -> list[Path]:
    """Where nvcc says that its toolkit is: on the PATH there may be only a script that calls it."""
    try:
        command = [nvcc(), "--dryrun", "-x", "cu", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60).stderr
    except (BuildError, OSError, subprocess.TimeoutExpired):
        return []  # a wheel may be there
    tops = [line.partition("TOP=")[2].strip() for line in said.splitlines() if line.startswith("#$ TOP=")]
    return [Path(os.path.normpath(top)) for top in tops]


@cache
def load() -> "_native.CounterLibrary":
    """The library. Raises CounterLibraryError with what was found and why it does not do."""
    tried = candidates()
    reasons = []
    for path in tried:
        reason = why_not(path)
        if reason is None:
            return _native.CounterLibrary(str(path.parent), str(path))
        reasons.append(f"{path}: {reason}")
    if not tried:
        raise CounterLibraryError(
            "no libcupti found: install the CUDA toolkit 13.0 or set CUDA_HOME, or pip install nvidia-cuda-cupti"
        )
    raise CounterLibraryError("; ".join(reasons))


@cache
def why_not(path: Path) -> str | None:
    """Why this libcupti does not do, tried in a process of its own; None where it does."""
    if not (path.parent / _HOST).exists():
        return f"{_HOST} is not beside it"
    command = [sys.executable, "-m", "perfsuite.counters.library", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "it does not answer within a minute"
    if done.returncode < 0:
        return f"it crashes ({signal.Signals(-done.returncode).name}): use CUPTI 13.0 or 13.1"
    try:
        return json.loads(done.stdout)["reason"]
    except (ValueError, KeyError):
        return f"it cannot be tried: {(done.stderr.strip() or 'no answer').splitlines()[-1]}"


def _try(path: Path) -> str | None:
    try:
        library = _native.CounterLibrary(str(path.parent), str(path))
        if library.version not in WORKS_WITHOUT_DRIVER:
            no_driver = _native.counter_driver_missing()
            if no_driver:  # asked nothing more: what comes next is known to crash
                version = library.version or "unknown"
                return f"CUPTI of version {version} needs a driver, and {no_driver}: use CUPTI 13.0 or 13.1"
        return None if library.chips() else "it knows no chips"
    except RuntimeError as error:
        return str(error)


def main() -> None:
    """Try one library and print {"reason"}."""
    answer: dict[str, Any] = {"reason": _try(Path(sys.argv[1]))}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
