"""Names of workloads to modules, imported only when they are asked for. Standard library only."""

import dataclasses
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from perfsuite.workloads.contract import Basics

BUILT_IN = ("llama", "resnet", "ncf", "dlrm", "transformer", "gnmt", "bert", "retinanet")
ASK = f"give one of {', '.join(BUILT_IN)}, or the path of a .py file"
PROMISED = ("NAME", "MLPERF", "CONFIGS", "build")


def names() -> tuple[str, ...]:
    """The workloads that come with perfsuite."""
    return BUILT_IN


def data_folder() -> Path:
    """Where the packed data of the built-in workloads lies."""
    return Path(__file__).parent / "data"


def reference_points_file(name: str) -> Path:
    """Where the reference convergence points of a workload lie, or would lie: beside it. name: as for load()."""
    return Path(name).with_suffix(".rcp.json") if name.endswith(".py") else Path(__file__).parent / f"{name}.rcp.json"


def load(name: str) -> ModuleType:
    """The module of a built-in workload, or of somebody's own file: a path that ends in .py.

    Raises ValueError, in one line, for an unknown name, a missing file, and one that fails to import or to promise.
    """
    if name.endswith(".py"):
        return _load_file(Path(name))
    if name not in BUILT_IN:
        raise ValueError(f"no workload is called {name!r}: {ASK}")
    return importlib.import_module(f"perfsuite.workloads.{name}")


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"there is no workload file {path}: {ASK}")
    # A name of its own for every path: neither another file of that stem nor an installed package is in its way.
    module_name = f"perfsuite_workload_{path.resolve().as_posix().encode().hex()}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look up the module of a class by its name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        said = " ".join(str(error).split())
        raise ValueError(f"workload file {path} cannot be imported: {type(error).__name__}: {said}") from error
    _check(module, path)
    return module


def _check(module: ModuleType, path: Path) -> None:
    """Raise ValueError where the module lacks what workloads/contract.py asks for."""
    see = "perfsuite/workloads/contract.py says what a workload file promises"
    missing = [promise for promise in PROMISED if not hasattr(module, promise)]
    if missing:
        raise ValueError(f"workload file {path} lacks {', '.join(missing)}: {see}")
    if not callable(module.build):
        raise ValueError(f"workload file {path}: build is not a function: {see}")
    if not isinstance(module.CONFIGS, dict) or not module.CONFIGS:
        raise ValueError(f"workload file {path}: CONFIGS is not a dict with a Config for each scale: {see}")
    for scale, config in module.CONFIGS.items():
        if not isinstance(config, Basics) or not dataclasses.is_dataclass(config):
            raise ValueError(f"workload file {path}: CONFIGS[{scale!r}] is not a Config that inherits Basics: {see}")
