"""Which implementation is the fastest for a shape: the table that `perfsuite ops bench` measures, and choosing by it.

A table belongs to one machine (perfsuite.machine.fingerprint_id) and lies in the cache folder beside its ceilings. A
shape that is not in it takes the nearest of the same op and dtype, if that is near; without one the native
implementation comes first.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from perfsuite import machine
from perfsuite.kernels.contract import Case, Implementation, Op

SCHEMA = 1
PREFERRED = {"cpu": ("cpp", "onednn", "eager"), "cuda": ("triton", "cuda", "eager")}
"""What may be chosen, in the order of a machine that was not tuned. Not compile: its first call takes seconds."""
FARTHEST = 2.0
"""How far the nearest measured shape may be: the sum over sizes of |log2(size / measured size)|."""


class Entry(NamedTuple):
    """The best implementation of one op at one case."""

    op: str
    device: str
    dtype: str
    shape: dict[str, int]
    impl: str
    speedup: float
    """Over eager, forward and backward together."""


def path_of(identity: str | None = None) -> Path:
    """Where this machine's table is kept."""
    identity = identity or machine.fingerprint_id(machine.fingerprint())
    ceilings = machine.cache_path(identity)
    return ceilings.with_name(ceilings.name.replace("ceilings-", "tuning-"))


def load(path: Path | None = None) -> tuple[list[Entry], str | None]:
    """The entries of this machine's table, or none and the reason."""
    path = path or path_of()
    try:
        content = json.loads(path.read_text())
        if content["schema"] != SCHEMA:
            return [], f"{path} is not a table of schema {SCHEMA}: run `perfsuite ops bench` to measure again"
        return [Entry(**entry) for entry in content["entries"]], None
    except FileNotFoundError:
        return [], "this machine was not tuned: run `perfsuite ops bench`"
    except (OSError, ValueError, TypeError, KeyError) as error:
        return [], f"cannot read {path} ({error}): run `perfsuite ops bench` to measure again"


def save(entries: Iterable[Entry], path: Path | None = None) -> Path:
    """Put the entries into this machine's table, in place of those for the same op, device, dtype and shape."""
    path = path or path_of()
    merged = {_identity(entry): entry for entry in [*load(path)[0], *entries]}
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        json.dump({"schema": SCHEMA, "entries": [entry._asdict() for entry in merged.values()]}, file, indent=1)
    os.replace(unfinished, path)
    return path


def chooser(
    entries: Sequence[Entry], device: str, ops: Iterable[Op]
) -> Callable[[Op, Sequence[Any], Mapping[str, Any]], Implementation]:
    """For Op.best of these ops: (op, arguments, options) -> the implementation to run on this device."""
    known: dict[Any, Implementation] = {}
    defaults = {op.name: default(op, device) for op in ops}

    def choose(op: Op, args: Sequence[Any], options: Mapping[str, Any]) -> Implementation:
        import torch

        if torch.compiler.is_compiling():  # shapes may be symbols
            return defaults[op.name]
        key = (op.name, *map(_key, args))
        if key not in known:
            known[key] = for_case(op, op.case_of(*args, **options), entries, device)
        return known[key]

    return choose


def for_case(op: Op, case: Case, entries: Sequence[Entry], device: str) -> Implementation:
    """What the table says of this case, or `default`."""
    near = [(distance, entry) for entry in entries if (distance := _distance(entry, op, case, device)) <= FARTHEST]
    if near:
        chosen = op.implementations.get(min(near, key=lambda pair: pair[0])[1].impl)
        if chosen is not None and chosen.why_not(device) is None:
            return chosen
    return default(op, device)


def default(op: Op, device: str) -> Implementation:
    """The first of PREFERRED that the op has and this machine can run."""
    names = [name for name in PREFERRED[device] if name in op.implementations]
    return op.implementations[next(name for name in names if op.implementations[name].why_not(device) is None)]


def missing(ops: Iterable[Op], device: str) -> list[str]:
    """A line for each reason why "native" falls back to plain torch, or to another kernel, for want of something."""
    lines: dict[str, list[str]] = {}
    for op in ops:
        for name in PREFERRED[device]:
            reason = op.implementations[name].why_not(device) if name in op.implementations else None
            if reason:
                lines.setdefault(f"{name}: {reason}", []).append(op.name)
    return [f"--ops native goes without {reason} ({', '.join(names)})" for reason, names in lines.items()]


def _identity(entry: Entry) -> tuple[Any, ...]:
    return entry.op, entry.device, entry.dtype, tuple(sorted(entry.shape.items()))


def _distance(entry: Entry, op: Op, case: Case, device: str) -> float:
    same = (entry.op, entry.device, entry.dtype) == (op.name, device, case.dtype)
    if not same or entry.shape.keys() != case.shape.keys():
        return math.inf
    pairs = [(size, entry.shape[name]) for name, size in case.shape.items()]
    if any((a == 0) != (b == 0) for a, b in pairs):
        return math.inf
    return sum(abs(math.log2(a / b)) for a, b in pairs if a)


def _key(argument: Any) -> Any:
    if isinstance(argument, (list, tuple)):
        return len(argument), tuple(argument[0].shape) if argument else None
    return None if argument is None else (argument.shape, argument.dtype)
