"""What --ops means for a pass: which implementation the op library takes, and whether torch.compile takes the model."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perfsuite.kernels import contract
from perfsuite.workloads.contract import Basics, Job

Build = Callable[[Basics, str, int], Job]


def resolved(use: dict[str, str]) -> dict[str, str]:
    """The same with files by their whole path, so that a record says which."""
    return {op: str(Path(impl).resolve()) if contract.is_file(impl) else impl for op, impl in use.items()}


def digests(use: dict[str, str]) -> dict[str, str]:
    """SHA-256 of each file that an op is done by: two records with one path may hold two kernels."""
    files = [impl for impl in use.values() if contract.is_file(impl)]
    return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files}


def select(ops: str, use: dict[str, str], device: str) -> dict[str, str]:
    """Choose for this process (contract.select). Under "compile" the op library is plain torch, which is compiled."""
    return contract.select(use, device, contract.NATIVE if ops == contract.NATIVE else contract.DEFAULT)


def missing(ops: str, device: str) -> list[str]:
    """What --ops native has to do without on this machine, a line each."""
    if ops != contract.NATIVE:
        return []
    from perfsuite.kernels import tuning

    return tuning.missing([contract.op(name) for name in contract.MODULES], device)


def building(ops: str, build: Build) -> Build:
    """The workload's build, with the job's model compiled where `ops` is "compile". It compiles in the warm-up."""
    if ops != "compile":
        return build

    def compiled(config: Basics, device: str, seed: int) -> Job:
        job: Any = build(config, device, seed)
        if not hasattr(job, "model"):
            raise ValueError("--ops compile needs a workload whose job has its network as `model`")
        job.model.compile()
        return job

    return compiled
