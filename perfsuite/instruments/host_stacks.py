"""Python stacks of a running pass, sampled by py-spy from outside the process and folded by phase.

py-spy samples at random moments (a Poisson process), pauses nobody (--nonblocking) and writes a trace with times
relative to its own start. This process therefore spins through short, numbered marker functions at the start and at the
end: a sample that shows marker 17 was taken while marker 17 ran, and that ties the two clocks together.
"""

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import numpy as np

from perfsuite.instruments import YES, Availability, no
from perfsuite.instruments.host_fold import MARK_NAME, fold

RATE_HZ = 100
MARK_NS = 1_000_000
MARKS = 120
"""Numbered markers at either end: 0.12 s, in which 12 samples are expected, and none 1 time in 160,000."""
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 30.0

_PR_SET_PTRACER = 0x59616D61
_PR_SET_PTRACER_ANY = ctypes.c_ulong(-1)


def _spin(until_ns: int) -> None:
    while time.monotonic_ns() < until_ns:
        pass


def _marker(number: int) -> types.FunctionType:
    """_spin under a name of its own, so that a stack says which marker was running."""
    name = f"{MARK_NAME}_{number}"
    return types.FunctionType(_spin.__code__.replace(co_name=name, co_qualname=name), globals())


def _py_spy() -> str | None:
    beside = Path(sysconfig.get_path("scripts")) / "py-spy"
    return str(beside) if beside.is_file() else shutil.which("py-spy")


def _allow_tracer(pid: Any) -> None:
    """Under Yama's ptrace_scope 1 a process is read by its own child only if it says so. Else this does nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PTRACER, pid, 0, 0, 0)


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


class HostStacks:
    """Records the Python stacks of this process from start() to stop(), called on the thread that is of interest."""

    NAME = "host_stacks"

    def __init__(self, rate_hz: int = RATE_HZ) -> None:
        self._rate_hz = rate_hz
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._since_ns = 0
        self._marks: dict[int, tuple[int, int]] = {}
        self._reason: str | None = None

    def available(self) -> Availability:
        """Whether py-spy is there and may read this process: it is asked to, once, for one stack."""
        program = _py_spy()
        if program is None:
            return no("py-spy was not found: pip install 'perfsuite[stacks]'")
        _allow_tracer(_PR_SET_PTRACER_ANY)
        try:
            done = subprocess.run([program, "dump", "--nonblocking", "--pid", str(os.getpid())], check=False,
                                  capture_output=True, text=True, timeout=_START_TIMEOUT_S)  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return no(f"py-spy does not run here: {error}")
        finally:
            _allow_tracer(0)
        if done.returncode != 0:
            said = " ".join(done.stderr.split())[:200]
            return no(f"py-spy may not read this process (grant CAP_SYS_PTRACE or run as root): {said}")
        return YES

    def start(self) -> None:
        """Start py-spy on this process, wait until it samples, and spin through the first markers.

        Never raises for py-spy's sake: the reason is in what stop() returns.
        """
        program = _py_spy()
        if program is None:
            self._reason = "py-spy was not found: pip install 'perfsuite[stacks]'"
            return
        self._folder = tempfile.TemporaryDirectory(prefix="perfsuite-stacks-")
        folder = Path(self._folder.name)
        # --idle: without it a thread that waits leaves no event, and its wait is charged to what ran before.
        command = [program, "record", "--nonblocking", "--idle", "--format", "chrometrace",
                   "--rate", str(self._rate_hz), "--output", str(folder / "trace.json"),
                   "--pid", str(os.getpid())]  # fmt: skip
        _allow_tracer(_PR_SET_PTRACER_ANY)
        try:
            with open(folder / "said", "wb") as said:
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        except OSError as error:
            self._reason = f"py-spy does not start: {error}"
            return
        _allow_tracer(self._process.pid)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while "Sampling process" not in (folder / "said").read_text(errors="replace"):
            if self._process.poll() is not None:
                self._reason = f"py-spy ended at once: {_last_line(folder / 'said')}"
                return
            if time.monotonic() > deadline:
                self._reason = f"py-spy did not begin to sample within {_START_TIMEOUT_S:.0f} s"
                return
            time.sleep(0.01)
        self._since_ns = time.monotonic_ns()
        self._spin_marks()

    def _spin_marks(self) -> None:
        for number in range(len(self._marks), len(self._marks) + MARKS):
            marker = _marker(number)
            begin = time.monotonic_ns()
            marker(begin + MARK_NS)
            self._marks[number] = (begin, time.monotonic_ns())

    def stop(self, timeline: np.ndarray, names: list[str], start_ns: int, stop_ns: int) -> dict[str, Any]:
        """Stop py-spy and fold what it saw between start_ns and stop_ns (monotonic), the clock of the pass.

        timeline is the phase clock's, int64 (events, 3), and names its phases. Returns plain data: `reason` (why there
        is nothing, else None), `rows` and how far they can be trusted, as `fold` gives them, and what py-spy said. Its
        `arrays` belong among those of the pass.
        """
        out: dict[str, Any] = {"reason": self._reason, "rows": [], "rate_hz": self._rate_hz, "arrays": {}}
        try:
            if self._reason is None and self._process is not None and self._folder is not None:
                out.update(self._collect(self._process, Path(self._folder.name), timeline, names, start_ns, stop_ns))
            elif self._reason is None:
                out["reason"] = "host stacks were never started"
        finally:
            self._end()
        return out

    def _collect(self, process: subprocess.Popen[bytes], folder: Path, timeline: np.ndarray, names: list[str],
                 start_ns: int, stop_ns: int) -> dict[str, Any]:  # fmt: skip
        if process.poll() is None:
            self._spin_marks()
            process.send_signal(signal.SIGINT)  # it writes its file on SIGINT
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                return {"reason": f"py-spy did not write its samples within {_STOP_TIMEOUT_S:.0f} s"}
        sampled_ns = time.monotonic_ns() - self._since_ns
        said = (folder / "said").read_text(errors="replace")
        counts = re.search(r"Samples: (\d+) Errors: (\d+)", said)
        try:
            trace = json.loads((folder / "trace.json").read_text())
        except (OSError, ValueError):
            trace = None
        if trace is None or counts is None or not int(counts[1]):
            last = _last_line(folder / "said")
            return {"reason": f"py-spy left no samples (exit status {process.returncode}): {last}"}
        samples = int(counts[1])
        folded = fold(trace, timeline, names, self._marks, start_ns, stop_ns, sampled_ns / samples, sys.path)
        # It says so each time it is a second or more behind.
        return folded | {"samples": samples, "errors": int(counts[2]), "behind": said.count("behind in sampling")}

    def _end(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            self._process = None
            _allow_tracer(0)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
