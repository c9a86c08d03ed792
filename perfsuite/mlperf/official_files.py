"""The files of the installed package mlperf-logging: found without importing it, and read as data only."""

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

_ASK = "pip install 'perfsuite[mlperf]'"


def package_folder() -> Path:
    """Where mlperf-logging is installed. Raises ValueError, in one line, where it is not."""
    found = importlib.util.find_spec("mlperf_logging")
    if found is None or not found.submodule_search_locations:
        raise ValueError(f"the official rules come with mlperf-logging, which is not installed: {_ASK}")
    return Path(next(iter(found.submodule_search_locations)))


def checker_folder() -> Path:
    """The compliance checker's folder: one folder of rule files a round."""
    return package_folder() / "compliance_checker"


def rule_folder(usage: str, ruleset: str) -> Path:
    """The rule files of one round. Raises ValueError where the package has none."""
    folder = checker_folder() / f"{usage}_{ruleset}"
    if not folder.is_dir():
        known = ", ".join(rulesets(usage)) or f"no round of usage {usage!r}"
        raise ValueError(f"mlperf-logging has no rules of {usage} {ruleset}; it has {known}")
    return folder


def rulesets(usage: str) -> list[str]:
    """The rounds of a usage ("training" or "hpc") that the package has rules of, e.g. "5.1.0", oldest first."""
    names = (path.name.removeprefix(f"{usage}_") for path in checker_folder().glob(f"{usage}_*") if path.is_dir())
    return sorted(name for name in names if name.replace(".", "").isdigit())


def yaml_records(path: Path) -> list[dict[str, Any]]:
    """The records of one rule file, every value as text."""
    import yaml

    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader) or []


@cache
def table(file: str, name: str) -> Any:
    """A table of constants in a Python file of the package, read as data. Raises ValueError where it is not there."""
    path = package_folder() / file
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return ast.literal_eval(node.value)
    raise ValueError(f"{path} has no table {name}: install a version of mlperf-logging that has")


def benchmarks(usage: str, ruleset: str) -> list[str]:
    """Benchmarks of a round as the package checker and the summarizer know them; [] for a round that they lack."""
    known = table("benchmark_meta.py", "_ALL_ALLOWED_BENCHMARKS").get(usage, {})
    return known.get(ruleset) or known.get(ruleset.rpartition(".")[0]) or []


def num_runs(usage: str) -> dict[str, int]:
    """Runs of a result by the package checker and the summarizer; not by the rules in every case (ncf)."""
    return table("benchmark_meta.py", "_ALL_RESULT_FILE_COUNTS").get(usage, {})
