"""A call of an op on CPU tensors, for the launches in it."""

import torch

from perfsuite.kernels import evaluate
from perfsuite.kernels.contract import Case, Op


def call(op: Op, implementation: str, case: Case) -> None:
    """Forward, and backward where the case wants the gradient."""
    tensors = op.inputs(case, "cpu", torch.Generator().manual_seed(0))
    arguments = evaluate.copy(tensors)
    if case.gradient:
        arguments = evaluate.leaves(op, arguments)
    options = {**op.defaults, **case.options}
    outputs = evaluate.call(op, op.implementations[implementation].run, arguments, options)
    if case.gradient:
        evaluate.gradients(op, outputs, arguments, {name: torch.ones_like(value) for name, value in outputs.items()})
