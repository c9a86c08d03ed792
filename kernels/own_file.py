"""Somebody's own kernel: the function named after an op in a Python file, as one more implementation of that op."""

import importlib.util
import sys
from pathlib import Path

from perfsuite.kernels.contract import Implementation, Op


def kernel_from_file(path: Path, op: Op) -> Implementation:
    """The function named after the op in somebody's file, as an implementation named after the file.

    It takes what Op.reference takes. ValueError, one line, where the file does not import or lacks the function.
    """
    # A name of its own for every path: neither another file of that stem nor an installed package is in its way.
    name = f"perfsuite_kernel_{path.resolve().as_posix().encode().hex()}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or not path.is_file():
        raise ValueError(f"{path} is not a Python file: give one that defines {op.name}(...)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, pickle and Triton look a function's module up by its name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever somebody's module raises
        del sys.modules[name]
        line = str(error).splitlines()[0] if str(error) else ""
        raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {line}") from None
    function = getattr(module, op.name, None)
    if not callable(function):
        raise ValueError(f"{path} lacks the function {op.name}: define it with the arguments of the op's reference")
    return Implementation(path.stem, function, lambda device: None)
