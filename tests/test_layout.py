"""Who may import whom, what an import may load, and which packages are installed."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "perfsuite": ROOT / "perfsuite",
    "perfsuite.kernels": ROOT / "kernels",
    "perfsuite.workloads": ROOT / "workloads",
}

# Layers, lowest first. A module may import its own layer and those below; listed by prefix, the longest one decides.
LAYERS = (
    {"perfsuite", "perfsuite._native", "perfsuite.csrc"},
    {"perfsuite.stats", "perfsuite.verdict", "perfsuite.revisions", "perfsuite.record", "perfsuite.machine",
     "perfsuite.topology", "perfsuite.machine_parts", "perfsuite.memory_levels", "perfsuite.ceiling_tasks",
     "perfsuite.gpu_state", "perfsuite.torch_rates", "perfsuite.conditions", "perfsuite.tampering",
     "perfsuite.energy", "perfsuite.energy_sources", "perfsuite.energy_bands", "perfsuite.power_sensors",
     "perfsuite.energy_idle", "perfsuite.energy_kernels", "perfsuite.energy_fit", "perfsuite.energy_observations",
     "perfsuite.clock_events", "perfsuite.sensor_behaviour", "perfsuite.renewals",
     "perfsuite.build_cache", "perfsuite.torch_extension", "perfsuite.cuda_extension", "perfsuite.signature",
     "perfsuite.flops", "perfsuite.roofline", "perfsuite.mlperf", "perfsuite.counters",
     "perfsuite.workloads.contract", "perfsuite.workloads.registry"},
    {"perfsuite.kernels"},
    {"perfsuite.instruments", "perfsuite.workloads", "perfsuite.op_inspect"},
    {"perfsuite.gpu_machine", "perfsuite.ceilings"},
    {"perfsuite.watch", "perfsuite.account_phases", "perfsuite.account_ops", "perfsuite.account_checks",
     "perfsuite.account_blocks", "perfsuite.account_kernels", "perfsuite.account_replay", "perfsuite.account_device",
     "perfsuite.account_samples", "perfsuite.account_counters", "perfsuite.account_bytes", "perfsuite.account_memory",
     "perfsuite.account_mfu", "perfsuite.account_power", "perfsuite.account_kernel_power",
     "perfsuite.account_overhead", "perfsuite.account_character", "perfsuite.account_working_set",
     "perfsuite.headline", "perfsuite.ledger"},
    {"perfsuite.compare", "perfsuite.compare_conditions", "perfsuite.compare_split", "perfsuite.compare_revisions",
     "perfsuite.sweep_account", "perfsuite.sweep_fit", "perfsuite.track", "perfsuite.measured_here",
     "perfsuite.suite"},
    {"perfsuite.harness", "perfsuite.loop", "perfsuite.report", "perfsuite.op_check", "perfsuite.op_bench"},
    {"perfsuite.prove", "perfsuite.sweep"},
    {"perfsuite.doctor", "perfsuite.cli", "perfsuite.cli_ops", "perfsuite.cli_counters", "perfsuite.cli_compare",
     "perfsuite.cli_track", "perfsuite.cli_prove", "perfsuite.cli_sweep", "perfsuite.cli_workloads",
     "perfsuite.cli_suite", "perfsuite.cli_report", "perfsuite.cli_options",
     "perfsuite.cli_score", "perfsuite.cli_verify",
     "perfsuite.cli_package", "perfsuite.op_inspect.__main__", "perfsuite.pytest_plugin",
     "perfsuite.bench_plugin"},
)  # fmt: skip

# Pairs inside the order above that are still not allowed: (importer, imported).
APART = [
    ("perfsuite.workloads", "perfsuite.watch"),
    ("perfsuite.workloads", "perfsuite.instruments"),
    ("perfsuite.workloads", "perfsuite.record"),
    ("perfsuite.kernels", "perfsuite.record"),
    ("perfsuite.ledger", "perfsuite.watch"),
    ("perfsuite.ledger", "perfsuite.kernels"),
    ("perfsuite.report", "perfsuite.harness"),
    ("perfsuite.report", "perfsuite.watch"),
    ("perfsuite.watch", "perfsuite.ledger"),
    ("perfsuite.harness", "perfsuite.ledger"),
    ("perfsuite.harness", "perfsuite.report"),
]


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            if "data" in path.parts:
                continue
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *(p for p in parts if p != "__init__")))] = path
    return found


def imports(path: Path) -> set[str]:
    """Every perfsuite module that the file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "perfsuite"}


def layer(module: str) -> int:
    best = max(((len(prefix), level) for level, prefixes in enumerate(LAYERS) for prefix in prefixes
                if module == prefix or module.startswith(prefix + ".")), default=None)  # fmt: skip
    assert best is not None, f"{module} stands in no layer"
    return best[1]


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_down(module: str) -> None:
    known = set(modules()) | {"perfsuite._native"}
    if module == "perfsuite":  # hands out account_for lazily
        return
    for imported in imports(modules()[module]):
        target = imported if imported in known else imported.rpartition(".")[0]
        if target == "perfsuite":
            continue
        assert layer(target) <= layer(module), f"{module} imports {target}, which stands above it"
        for importer, forbidden in APART:
            inside = module == importer or module.startswith(importer + ".")
            reached = target == forbidden or target.startswith(forbidden + ".")
            assert not (inside and reached), f"{module} imports {target}"


def test_every_package_is_listed() -> None:
    packages = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    on_disk = {"perfsuite.csrc"}
    for package, folder in FOLDERS.items():
        for path in folder.rglob("__init__.py"):
            on_disk.add(".".join((package, *path.parent.relative_to(folder).parts)))
    assert packages == on_disk


@pytest.mark.parametrize(
    "module", ["perfsuite", "perfsuite.cli", "perfsuite.ledger", "perfsuite.record", "perfsuite.report.html",
               "perfsuite.report.terminal", "perfsuite.watch", "perfsuite.machine", "perfsuite.kernels.contract",
               "perfsuite.pytest_plugin", "perfsuite.bench_plugin.session", "perfsuite.bench_plugin.fixture"]
)  # fmt: skip
def test_importing_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'triton') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_readme_names_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.match(r"[\w-]+", dependency)[0] for dependency in wanted}
    readme = (ROOT / "README.md").read_text()
    assert not [name for name in sorted(names) if f"`{name}`" not in readme]


def test_nothing_speaks_of_where_it_was_made() -> None:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".h", ".cpp", ".toml", ".txt", ".css", ".js", "") and path.is_file():
            text = path.read_text(errors="replace")
            assert "/" + "work/" not in text, name
