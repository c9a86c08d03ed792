"""Whether a kernel does an op by the torch operators that eager does it by: then it is torch, whatever its name is."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from perfsuite.kernels import evaluate
from perfsuite.kernels.contract import Case, Implementation, Op


class _Noting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def operators(op: Op, implementation: Implementation, case: Case, device: str) -> list[str]:
    """Torch operators of one forward at the case, in order."""
    arguments = evaluate.leaves(op, op.inputs(case, device, torch.Generator().manual_seed(0)))
    with _Noting() as noted:
        implementation.run(**arguments, **{**op.defaults, **case.options})
    return noted.names


def falls_back(op: Op, implementation: Implementation, case: Case, device: str) -> bool:
    """Whether its forward at the case is operator for operator that of eager."""
    eager = operators(op, op.implementations["eager"], case, device)
    return operators(op, implementation, case, device) == eager
