"""What every op file needs around its kernels: which implementations this machine can run, and operators for launchers.

An op file has launchers, plain functions that allocate outputs and launch kernels. `raw_op` makes an operator of each,
so that torch.compile takes it as one node; one torch.autograd.Function then serves all implementations of the op.
"""

import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from perfsuite.kernels.contract import Implementation

try:
    import triton
except ImportError:  # Triton has no wheels for some platforms
    triton = None

_LIBRARY = torch.library.Library("perfsuite", "FRAGMENT")


def raw_op(schema: str, launcher: Callable[..., Any] | None, fake: Callable[..., Any]) -> Any:
    """Register `launcher` as the operator perfsuite::<schema>, without autograd; returns it, to be called.

    launcher: None where C++ has the operator's kernels and only the rest is to be registered.
    schema: as torch writes it, e.g. "rms_norm_triton(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)".
    fake: takes the same arguments and returns empty tensors of the results' shapes, dtypes and strides.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=[torch.Tag.pt2_compliant_tag])
    if launcher is not None:
        _LIBRARY.impl(name, launcher, "CompositeExplicitAutograd")
    torch.library.register_fake(f"perfsuite::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.perfsuite, name).default


def refuse_second_derivative(op: str, implementation: str) -> None:
    """To be called in the backward: RuntimeError where its own gradient is wanted, which it does not give.

    torch.autograd.function.once_differentiable raises only where somebody differentiates the result: a gradient penalty
    that is added to the loss would silently have no gradient.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            f"{op}={implementation} has no second derivative; choose --use {op}=eager for create_graph=True"
        )


def eager(run: Callable[..., Any]) -> Implementation:
    """What torch's own functions make of the op, as a user would write it."""
    return Implementation("eager", run, lambda device: None)


def compiled(run: Callable[..., Any]) -> Implementation:
    """torch.compile of `run`, one graph; within somebody's compiled region `run` itself."""

    @cache
    def graph() -> Any:
        return torch.compile(run, fullgraph=True)

    def call(*args: Any, **options: Any) -> Any:
        return run(*args, **options) if torch.compiler.is_compiling() else graph()(*args, **options)

    return Implementation("compile", call, _no_compiler)


def cpp(run: Callable[..., Any]) -> Implementation:
    """C++ on the CPU: operators of perfsuite._torch."""
    return Implementation("cpp", run, _no_cpp)


def in_triton(run: Callable[..., Any]) -> Implementation:
    """Triton kernels."""
    return Implementation("triton", run, _no_triton)


def in_cuda(run: Callable[..., Any]) -> Implementation:
    """CUDA C++ kernels of perfsuite.cuda_extension."""
    return Implementation("cuda", run, _no_cuda)


def _no_compiler(device: str) -> str | None:
    if device == "cuda":
        return None if triton is not None else "torch.compile needs Triton on a GPU: pip install triton"
    compiler = os.environ.get("CXX", "g++").split()[0]
    return None if shutil.which(compiler) else f"torch.compile needs a C++ compiler, {compiler} is missing: install g++"


def _no_cpp(device: str) -> str | None:
    return _load_extension() if device == "cpu" else "it runs on the CPU only"


@cache
def _load_extension() -> str | None:
    from perfsuite import torch_extension

    try:
        torch_extension.load()
    except ValueError as error:
        return str(error)
    return None


def _no_triton(device: str) -> str | None:
    if triton is None:
        return "Triton is not installed: pip install triton"
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "it needs a GPU; for a test on the CPU set TRITON_INTERPRET=1 before Python starts (slow)"
    if device == "cuda" and not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return None


def _no_cuda(device: str) -> str | None:
    from perfsuite import cuda_extension

    return cuda_extension.why_not(device)
