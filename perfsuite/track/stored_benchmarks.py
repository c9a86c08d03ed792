"""Reads what pytest-benchmark stored (any version with "benchmarks" and "stats"), and what perfsuite added to it."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from perfsuite.track.measurement import (
    BYTES,
    ENERGY,
    FLOPS,
    LAUNCHES,
    PEAK_MEMORY,
    TIME,
    Measurement,
    Quantity,
    machine_id,
    rates,
)

_COUNTS = {"bytes": BYTES, "flops": FLOPS, "launches": LAUNCHES, "peak_bytes": PEAK_MEMORY}
_UNTOLD = {"", "unknown", "unversioned", "none"}


def measurements(document: Mapping[str, Any], file: Path) -> tuple[list[Measurement], list[str]]:
    """(the figures of a stored file, why single benchmarks of it have none)."""
    about = _mapping(document.get("commit_info"))
    ours = _mapping(document.get("perfsuite"))
    commit = str(about.get("id") or "").strip().removesuffix("+")
    shared = {
        "file": file,
        "time_s": _when(document.get("datetime")) or _when(about.get("time")) or file.stat().st_mtime,
        "machine": _machine(document, ours),
        "commit": None if commit.lower() in _UNTOLD else commit,
        "dirty": bool(about.get("dirty")),
        "conditions": _conditions(document, ours),
        "yardstick": rates(ours.get("yardstick")),
    }
    found, problems = [], []
    for number, bench in enumerate(document["benchmarks"]):
        name = _name(bench)
        if name is None:
            problems.append(f"its benchmark {number} has no name")
            continue
        extra = _mapping(_mapping(bench.get("extra_info")).get("perfsuite"))
        value = _time_s(bench, extra)
        if value is None:
            problems.append(f"{name} has no time: neither a median nor a mean above 0")
            continue
        source, function = _source(bench)
        options = {key: _shown(value) for key, value in _mapping(bench.get("options")).items()}
        of = shared | {"benchmark": name, "options": options, "source": source, "function": function}
        found.append(Measurement(quantity=TIME, value=value, **of))
        found += [Measurement(quantity=quantity, value=value, **of) for quantity, value in _others(extra)]
    return found, problems


def identity(document: Mapping[str, Any]) -> str:
    """The same for two copies of a run, with data or without, however they are written."""
    benches = [(_name(b), _positive(_mapping(b.get("stats")).get("median")) if isinstance(b, dict) else None)
               for b in document["benchmarks"]]  # fmt: skip
    return json.dumps([str(document.get("datetime")), benches], default=str)


def _others(extra: Mapping[str, Any]) -> Iterator[tuple[Quantity, float]]:
    for key, quantity in _COUNTS.items():
        value = _positive(extra.get(key))
        if value is not None:
            yield quantity, value
    joules = _positive(_mapping(extra.get("energy")).get("joules"))
    if joules is not None:
        yield ENERGY, joules


def _time_s(bench: Mapping[str, Any], extra: Mapping[str, Any]) -> float | None:
    """Median over rounds of one call; over processes too, where it ran in several."""
    processes = extra.get("process_medians_s")
    if isinstance(processes, list) and processes and all(_positive(time) for time in processes):
        return median(processes)
    stats = _mapping(bench.get("stats"))
    return _positive(stats.get("median")) or _positive(stats.get("mean"))


def _name(bench: object) -> str | None:
    """The full name; with its parameters where the name does not show them."""
    bench = _mapping(bench)
    name = bench.get("fullname") or bench.get("name")
    if not isinstance(name, str) or not name:
        return None
    params = bench.get("params")
    if isinstance(params, dict) and params and "[" not in name:
        name += "[" + ", ".join(f"{key}={_shown(value)}" for key, value in sorted(params.items())) + "]"
    return name


def _source(bench: Mapping[str, Any]) -> tuple[str | None, str | None]:
    path, _, test = str(bench.get("fullname") or "").partition("::")
    return (path, test.partition("[")[0]) if path.endswith(".py") and test else (None, None)


def _machine(document: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    info = _mapping(document.get("machine_info"))
    cpu = _mapping(info.get("cpu"))
    model = cpu.get("brand_raw") or cpu.get("brand") or info.get("processor") or info.get("machine")
    gpus = _mapping(_mapping(ours.get("machine")).get("fingerprint")).get("gpus")
    names = [_mapping(gpu).get("name") for gpu in gpus] if isinstance(gpus, list) else []
    return machine_id(model, cpu.get("count"), names)


def _conditions(document: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, str]:
    info, machine = _mapping(document.get("machine_info")), _mapping(ours.get("machine"))
    fingerprint = _mapping(machine.get("fingerprint"))
    told = {
        "Python": info.get("python_version"),
        "Python's compiler": info.get("python_compiler"),
        "kernel": info.get("release"),
        "host": info.get("node"),
        "pytest-benchmark": document.get("version"),
        "perfsuite": ours.get("version"),
        "torch": fingerprint.get("torch"),
        "GPU driver": fingerprint.get("driver"),
        "fingerprint": machine.get("id"),
    }
    return {key: str(value) for key, value in told.items() if value not in (None, "")}


def _when(text: object) -> float | None:
    """Seconds since 1970 of an ISO time; without a zone it is UTC, as old versions of pytest-benchmark wrote it."""
    try:
        moment = datetime.fromisoformat(str(text))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _positive(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON allows integers of any length
        return None
    return number if 0 < number < math.inf else None


def _shown(value: object) -> str:
    """A parameter or an option; the address in an object's repr differs from run to run."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)
