"""Runs a workload to its target at several batch sizes, with the same seeds, in turns.

    runs/0009-sweep-llama-tiny-<machine>/
      sweep.json            which batch sizes and seeds, and the folder of each record
      0001-llama-tiny-b8/   an ordinary record for each batch size
      sweep.html            the page

Each seed is run at every batch size before the next seed begins, in an order drawn for it, so that what drifts on the
machine meets all of them alike. A record is written after every run: `--resume` goes on.
"""

import json
import random
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from perfsuite import conditions, machine, record
from perfsuite.harness import run as harness
from perfsuite.record import Record

SCHEMA = 1
SWEEP_FILE = "sweep.json"

Sides = list[tuple[Record, Path]]


def start(request: harness.Request, batch_sizes: Sequence[int], observer: harness.Observer) -> Path:
    """Make the records and run them; the folder of the sweep. Raises ValueError for what cannot be run."""
    if request.seed is None:
        request = replace(request, seed=secrets.randbelow(2**31 - (request.num_runs or 1)))
    asked = [replace(request, batch_size=size, ledger=False) for size in sorted(set(batch_sizes))]
    made = [harness.new_record(one) for one in asked]
    first = made[0]
    name = f"{first.workload}-{first.scale}"
    folder = record.new_folder(request.out, f"sweep-{name}-{machine.machine_name()}")
    sides = []
    for one in made:
        inside = record.new_folder(folder, f"{name}-b{one.batch_size}")
        one.id = inside.name
        sides.append((one, inside))
        record.save(one, inside)
    document = {"schema": SCHEMA, "id": folder.name, "created": conditions.now(), "command": list(request.command),
                "seeds": first.seeds, "records": [inside.name for _, inside in sides]}  # fmt: skip
    record.write_json(folder / SWEEP_FILE, document)
    _run(sides, first.seeds, observer)
    return folder


def resume(folder: Path, observer: harness.Observer) -> Path:
    """Run what is missing of a sweep that was cut off. Raises ValueError where that is not possible here."""
    sweep = load(folder)
    sides = [(harness.reopen(folder / name), folder / name) for name in sweep["records"]]
    _run(sides, sweep["seeds"], observer)
    return folder


def load(folder: Path) -> dict[str, Any]:
    """What sweep.json holds. Raises ValueError where there is none, or one that this version cannot read."""
    path = folder / SWEEP_FILE
    try:
        sweep = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no sweep in {folder}: it has no {SWEEP_FILE}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): restore it or sweep again") from None
    if not isinstance(sweep, dict) or sweep.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not a sweep of schema {SCHEMA}, which this version reads: sweep again")
    return sweep


def _run(sides: Sides, seeds: Sequence[int], observer: harness.Observer) -> None:
    for made, folder in sides:
        made.machine |= sides[0][0].machine  # measured once, if at all
        harness.prepare(made, folder, observer)
    for index, seed in enumerate(seeds):
        for turn, (made, folder) in enumerate(random.Random(seed).sample(sides, len(sides))):
            if any(p["index"] == index for p in made.passes):
                continue
            observer.pass_started("clean", index * len(sides) + turn, len(seeds) * len(sides), made)
            result = harness.run_process(made, folder, "clean", index, seed, observer)
            harness.take_over(made, folder, "clean", index, result)
            observer.pass_done(result)
