"""What --ops means for a pass: which implementation the op library takes, and whether torch.compile takes the model."""

from collections.abc import Callable
from typing import Any

from perfsuite.kernels import contract
from perfsuite.workloads.contract import Basics, Job

Build = Callable[[Basics, str, int], Job]


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
