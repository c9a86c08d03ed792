"""kernels/inspect_baseline.json: what the compilers made of every kernel when it was last looked at, and comparing.

Only what must not get worse unseen: spills, and how wide memory is read and written. Kernels are named
"<impl> <kernel> [<case>] sm_<arch>".
"""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfsuite import cuda_extension

WRITE = "python -m perfsuite.op_inspect --write-baseline"


def path() -> Path:
    """Of the file."""
    import perfsuite.kernels

    return Path(next(iter(perfsuite.kernels.__path__))) / "inspect_baseline.json"


def load() -> dict[str, Any]:
    """{"compilers": {"triton": version, "nvcc": version}, "ops": {op: {kernel's name: summary}}}"""
    return json.loads(path().read_text())


def write(ops: Mapping[str, list[dict[str, Any]]]) -> None:
    """The rows of `inspect` by op. Ops that are not given stay, unless they were made by other compilers."""
    compilers = versions()
    kept: dict[str, Any] = {}
    if path().exists():
        before = load()
        kept = before["ops"] if before["compilers"] == compilers else {}
    kept |= {op: summarize(rows) for op, rows in ops.items()}
    lines = [f'{{"compilers": {json.dumps(compilers)}, "ops": {{']
    for op, kernels in sorted(kept.items()):
        inside = ",\n".join(f" {json.dumps(name)}: {json.dumps(kernels[name])}" for name in sorted(kernels))
        lines.append(f"{json.dumps(op)}: {{\n{inside}\n}},")
    path().write_text("\n".join(lines).removesuffix(",") + "\n}}\n")


def versions() -> dict[str, str | None]:
    """Of the compilers on this machine; None where one is missing."""
    try:
        import triton

        of_triton = triton.__version__
    except ImportError:
        of_triton = None
    try:
        said = subprocess.run([cuda_extension.nvcc(), "--version"], capture_output=True, text=True).stdout
        found = re.search(r"V(\d+\.\d+\.\d+)", said)
    except ValueError:
        found = None
    return {"triton": of_triton, "nvcc": found and found[1]}


def summarize(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the baseline keeps of rows of `inspect`, by the kernel's name.

    ValueError for a row of which that is unknown, and for two kernels of one name.
    """
    out: dict[str, dict[str, Any]] = {}
    for row in rows:
        case = row["case"] and f"[{row['case']}]"
        name = " ".join(filter(None, [row["impl"], row["kernel"], case, f"sm_{row['arch']}"]))
        for field in ("kernel", "spill_store_bytes", "load_widths"):
            if row[field] is None:
                raise ValueError(f"{row['op']}: {name}: {field}: {row['unknown'][field]}")
        if name in out:
            raise ValueError(f"{row['op']}: two kernels are {name}: give them different names")
        loads, stores = row["load_widths"], row["store_widths"]
        out[name] = {
            "spill": row["spill_store_bytes"] + row["spill_load_bytes"],
            "load": _dominant(loads),
            "widest_load": max(loads, default=None),
            "narrowest_load": min(loads, default=None),
            "store": _dominant(stores),
            "widest_store": max(stores, default=None),
        }
    return out


def _dominant(widths: Mapping[int, int]) -> int | None:
    """The width by which most bytes go, each instruction counted once; the wider one of two.

    A loop over single elements that the compiler unrolls can outweigh the wide one that does the work: the widest
    access is compared as well.
    """
    return max(widths, key=lambda width: (width * widths[width], width), default=None)


def worse(before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for each kernel of an op that spills where it did not, is narrower, is new or is gone."""
    found: list[str] = []
    for name, summary in now.items():
        if name not in before:
            found.append(f"{name}: not in the baseline; look at it, then {WRITE}")
            continue
        old = before[name]
        if summary["spill"] > 0 and not old["spill"]:
            found.append(f"{name}: spills {summary['spill']} bytes of a thread, and did not")
        for field in ("load", "widest_load", "narrowest_load", "store", "widest_store"):
            if old[field] is not None and summary[field] is not None and summary[field] < old[field]:
                found.append(f"{name}: {field.replace('_', ' ')} of {summary[field]} bytes, was {old[field]}")
    found += [f"{name}: in the baseline, and is no more; {WRITE}" for name in before if name not in now]
    return found
