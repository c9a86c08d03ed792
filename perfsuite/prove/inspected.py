"""What a compiler made of somebody's Triton kernels: the same look that `perfsuite ops inspect` takes at ours."""

import copy
from typing import Any

import torch

from perfsuite import op_inspect
from perfsuite.kernels.contract import Implementation, Op


def inspected(op: Op, implementation: Implementation, device: str,
              arch: int | None = None) -> tuple[list[dict[str, Any]], str | None]:  # fmt: skip
    """Rows as op_inspect.inspect() has them, for compute capability `arch` (that of this machine's GPU by default).

    Returns (rows, None), or ([], why there are none).
    """
    if arch is None and device != "cuda":
        return [], "it runs on the CPU: there is no GPU kernel to inspect"
    if arch is None:
        major, minor = torch.cuda.get_device_capability()
        arch = 10 * major + minor
    theirs = copy.copy(op)
    theirs.implementations = {**op.implementations, "triton": implementation}
    try:
        rows = list(op_inspect.triton_rows(theirs, arch, lambda line: None))
    except Exception as error:  # a kernel of another kind fails on the tensors of the CPU that are used here
        return [], f"no Triton kernel could be compiled: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    rows = [{**row, "impl": implementation.name} for row in rows if row["kernel"]]
    return (rows, None) if rows else ([], "it launches no Triton kernel")
