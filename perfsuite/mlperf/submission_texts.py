"""The words of a submission that are made from a record: READMEs, scripts, and the footnote of an unverified score."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfsuite.mlperf.score import FOOTNOTE
from perfsuite.record import Record


def command(made: Record, implementation: str) -> str:
    """The command of a record, with files of the user's own where the submission holds them."""
    own = [made.workload_path, *made.use.values()]
    names = {Path(path).name for path in own if path and path.endswith(".py")}
    words = []
    for word in made.command or ["perfsuite", "run", made.workload, "--scale", made.scale]:
        op, equals, path = word.rpartition("=")
        moved = Path(path).name in names
        words.append(f"{op}{equals}../implementations/{implementation}/{Path(path).name}" if moved else word)
    return shlex.join(words)


def implementation_readme(made: Record, implementation: str) -> str:
    """README.md of benchmarks/<benchmark>/implementations/<implementation>."""
    use = [f"- `{op}` by `{Path(name).name if name.endswith('.py') else name}`" for op, name in made.use.items()]
    files = "this folder's file" if made.workload_path else f"perfsuite's workload `{made.workload}`, a copy of it here"
    lines = [
        f"# {implementation}",
        "",
        f"Model, data, optimizer and target: {files}, scale `{made.scale}`. Ops: `--ops {made.ops}`.",
        *(["", "Single ops are done by", "", *use] if use else []),
        "",
        "    pip install 'perfsuite[torch]'",
        f"    {command(made, implementation)}",
    ]
    return "\n".join(lines) + "\n"


def system_readme(made: Record, about: Mapping[str, Any]) -> str:
    """README.md of benchmarks/<benchmark>/<system>. about: what package.py knows of the entry."""
    lines = [
        f"# {about['benchmark']} on {about['system']}",
        "",
        f"Division: {about['division']}. Round: {about['round']}. Runs: {len(about['logs'])}.",
        "",
        f"Made from the record {made.id} of {made.created} by perfsuite {made.perfsuite_version}"
        + (f", commit {made.commit}" if made.commit else "") + ".",
        "In its logs the values of submission_org, submission_platform and submission_division are those of this",
        "submission; every other line is as the runs wrote it.",
        "",
        "1. `setup.sh` installs what the runs were made with.",
        "2. `init_datasets.sh` says where the data comes from.",
        "3. `run_and_time.sh` makes the runs.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def setup_script(made: Record) -> str:
    """setup.sh."""
    torch = made.machine["fingerprint"]["torch"]
    pinned = f" 'torch=={torch.split('+')[0]}'" if torch else ""
    return f"#!/bin/sh\nset -eu\npip install 'perfsuite[torch]=={made.perfsuite_version}'{pinned}\n"


def data_script(made: Record) -> str:
    """init_datasets.sh."""
    files = ", ".join(made.config.get("data_files") or ()) or "none"
    said = f"# Files: {files}\n"
    if made.data_folder is None:
        return f"#!/bin/sh\n{said}# They come with perfsuite: there is nothing to do.\n"
    how = " ".join(str(made.config.get("data_from") or "Not known: the workload does not say how to get them.").split())
    return f"#!/bin/sh\n{said}# {how}\n# Give their folder to the run with --data.\n"


def run_script(made: Record, implementation: str) -> str:
    """run_and_time.sh."""
    return f'#!/bin/sh\nset -eu\ncd "$(dirname "$0")"\n{command(made, implementation)}\n'


def entry_json(made: Record, about: Mapping[str, Any]) -> str:
    """<system>_<implementation>.json: what was run."""
    said = {
        "system": about["system"],
        "implementation": about["implementation"],
        "benchmark": about["benchmark"],
        "division": about["division"],
        "workload": made.workload,
        "scale": made.scale,
        "ops": made.ops,
        "use": {op: Path(name).name if name.endswith(".py") else name for op, name in made.use.items()},
        "global_batch_size": made.config["batch_size"],
        "target": made.target,
        "data": made.config.get("data") or "not known: the workload does not say",
    }
    return json.dumps(said, indent=2) + "\n"


def footnote(about: Mapping[str, Any]) -> str:
    """UNVERIFIED.txt: the score with its footnote (messaging guidelines, "Use of MLPerf")."""
    score = "no score" if about["score_min"] is None else f"{about['score_min']:.4f} minutes (unverified)"
    quality = f"\nQuality on the closed metric: {about['quality']}" if about["quality"] else ""
    return f"{about['benchmark']} on {about['system']}, {about['division']} division: {score}{quality}\n{FOOTNOTE}\n"
