"""The conditions that a record is made under: machine, commit, device, time."""

import ctypes
import datetime
import subprocess
from typing import Any

from perfsuite import machine


def now() -> str:
    """The time, ISO 8601, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def machine_part() -> dict[str, Any]:
    """The machine part of a record: what it is and, where they are cached, its measured ceilings."""
    ceilings, reason = machine.load_ceilings()
    return {"fingerprint": machine.fingerprint(), "ceilings": ceilings, "ceilings_reason": reason}


def default_device() -> str:
    """The device that is used when none is asked for: cuda where torch can use a GPU, else cpu."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:  # no driver: torch, which takes seconds to load, would find no device
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device(asked_for: str | None) -> str:
    """The device to use: the one that was asked for, or default_device(). ValueError for a GPU that is not there."""
    if asked_for is not None and asked_for.partition(":")[0] == "cuda" and default_device() != "cuda":
        raise ValueError(f"--device {asked_for}: torch sees no CUDA device here; leave it out or give --device cpu")
    return asked_for or default_device()


def commit() -> str | None:
    """The commit of the working tree that the command is called in, with "+changes" where it is not clean."""

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        head, changes = git("rev-parse", "HEAD"), git("status", "--porcelain")
    except FileNotFoundError:
        return None
    return f"{head}+changes" if head and changes else head
