"""The passes of one `perfsuite run`, in order, each a process of its own; the record is written after every one.

Clean passes, one a seed, carry the phase clock and the sampler only: they are scored. The ledger pass repeats the first
seed with the recorders on: it is explained. The host-stack pass, on request, repeats it with py-spy beside it.
"""

import json
import os
import secrets
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import perfsuite
from perfsuite import conditions, machine, record, topology
from perfsuite.harness import data_files, ops_choice
from perfsuite.harness.batch_size import rescaled
from perfsuite.harness.one_pass import result_path
from perfsuite.mlperf import division
from perfsuite.record import Record
from perfsuite.workloads import registry


@dataclass(frozen=True)
class Request:
    """What `perfsuite run` was asked for."""

    workload: str = "llama"
    scale: str = "tiny"
    num_runs: int | None = None
    seed: int | None = None
    device: str | None = None
    division: str = "open"
    use: dict[str, str] = field(default_factory=dict)
    ops: str = "eager"
    data_folder: Path | None = None
    out: Path = Path("runs")
    ledger: bool = True
    timeline: bool = False
    counters: bool = False
    host_stacks: bool = False
    target: float | None = None
    batch_size: int | None = None
    command: tuple[str, ...] = ()


ON_REQUEST = ("ledger", "timeline", "host_stacks", "counters")
"""Kinds of the passes after the clean ones, in order; what a record's `wanted` says of them."""


class Observer(Protocol):
    """Who is told how far it is: the progress display, or nobody."""

    def pass_started(self, kind: str, index: int, of: int, record: Record) -> None: ...
    def update(self, message: dict[str, Any]) -> None: ...
    def pass_done(self, result: dict[str, Any]) -> None: ...
    def note(self, text: str) -> None: ...


def begin(request: Request) -> tuple[Record, Path]:
    """Make a record for the request, without its passes. Raises ValueError for what cannot be run."""
    made = new_record(request)
    folder = record.new_folder(request.out, f"{made.workload}-{made.scale}-{machine.machine_name()}")
    made.id = folder.name
    record.save(made, folder)
    return made, folder


def start(request: Request, observer: Observer) -> tuple[Record, Path]:
    """Make a record for the request and run all of its passes. Raises ValueError for what cannot be run."""
    made, folder = begin(request)
    finish(made, folder, observer)
    return made, folder


def finish(made: Record, folder: Path, observer: Observer) -> None:
    """Run the passes that the record lacks."""
    prepare(made, folder, observer)
    run_missing(made, folder, observer)


def resume(folder: Path, observer: Observer) -> tuple[Record, Path]:
    """Run the passes of a record that are missing: all that were not finished when it was cut off."""
    made = reopen(folder)
    finish(made, folder, observer)
    return made, folder


def reopen(folder: Path) -> Record:
    """The record of a run that was cut off, with what its passes have left.

    Raises ValueError for one of another kind or of another machine.
    """
    made = record.load(folder)
    if made.kind != "run":
        raise ValueError(f"{folder} holds an accounted loop, not a run: only runs can be resumed")
    here = machine.fingerprint_id(machine.fingerprint())
    there = machine.fingerprint_id(made.machine["fingerprint"])
    if here != there:
        raise ValueError(f"{folder} was recorded on another machine ({there}, this is {here}): start a new run")
    for kind, index, _ in planned(made):  # a pass that was finished but not yet taken over
        take_over(made, folder, kind, index)
    return made


def new_record(request: Request) -> Record:
    """The record of a run that has not started. Raises ValueError for an unknown workload, scale, device or op."""
    workload = registry.load(request.workload)
    if request.scale not in workload.CONFIGS:
        known = ", ".join(workload.CONFIGS)
        raise ValueError(f"workload {workload.NAME} has no scale {request.scale!r}; it has: {known}")
    config, notes = rescaled(workload, workload.CONFIGS[request.scale], request.batch_size)
    device = conditions.device(request.device)
    for flag in ("timeline", "counters"):
        if getattr(request, flag) and device == "cpu":
            raise ValueError(f"--{flag} reads a GPU's counters and this run is on the CPU: leave it out")
    use = ops_choice.resolved(request.use)
    # Builds what it needs, and refuses what is not there before anything is recorded.
    ops_choice.select(request.ops, use, device)
    num_runs = request.num_runs or config.num_runs
    first_seed = secrets.randbelow(2**31 - num_runs) if request.seed is None else request.seed
    path = Path(request.workload) if request.workload.endswith(".py") else None
    # The record says null for the packed data: wherever perfsuite is installed, it is there.
    own_data = request.data_folder or (path.resolve().parent if path else None)
    data_folder = own_data or registry.data_folder()
    if not data_folder.is_dir():
        raise ValueError(f"data folder {data_folder} does not exist; give the folder that holds the data with --data")
    missing = data_files.missing(config, data_folder)
    if missing:
        raise ValueError(missing)
    target = asdict(config.target) | ({"value": request.target} if request.target is not None else {})
    made = Record(
        id="",
        kind="run",
        created=conditions.now(),
        command=list(request.command),
        commit=conditions.commit(),
        perfsuite_version=perfsuite.__version__,
        workload=workload.NAME,
        workload_path=str(path.resolve()) if path else None,
        scale=request.scale,
        device=device,
        division=request.division,
        use=use,
        ops=request.ops,
        batch_size=request.batch_size,
        notes=notes,
        config=asdict(config),
        target=target,
        schedule=asdict(config.schedule),
        num_runs=num_runs,
        seeds=[first_seed + i for i in range(num_runs)],
        data_folder=str(own_data.resolve()) if own_data else None,
        wanted={kind: getattr(request, kind) for kind in ON_REQUEST},
        machine=conditions.machine_part(),
        build={"kernel_files": ops_choice.digests(use)} if ops_choice.digests(use) else {},
    )
    if made.division == "closed":
        division.refuse(vars(made))
    return made


def prepare(made: Record, folder: Path, observer: Observer) -> None:
    """Build the torch extension and measure the machine's ceilings where that has not been done yet."""
    made.build["ops_missing"] = ops_choice.missing(made.ops, made.device)
    for line in made.build["ops_missing"]:
        observer.note(line)
    if made.wanted["ledger"]:
        from perfsuite import torch_extension

        started = time.monotonic()
        built = torch_extension.status().built
        if not built:
            observer.note("building the torch extension (once for this torch, about a minute)")
            try:
                torch_extension.build()
            except torch_extension.TorchExtensionError as error:
                observer.note(f"no op recorder: {error}")
        made.build["torch_extension_s"] = 0.0 if built else time.monotonic() - started
    kept = made.machine["ceilings"]
    if kept is None or (made.device != "cpu" and "gpus" not in kept):  # they may be older than their GPU part
        took = "about a minute, with the CUDA probes built first" if made.device != "cpu" else "about 10 s"
        observer.note(f"measuring this machine's ceilings (once, {took})")
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "perfsuite.ceilings"], capture_output=True, text=True)
        made.build["ceilings_s"] = time.monotonic() - started
        if done.returncode:
            made.machine["ceilings_reason"] = f"measuring failed: {last_line(done.stderr)}"
        else:
            made.machine |= {"ceilings": json.loads(done.stdout), "ceilings_reason": None}
    record.save(made, folder)


def planned(made: Record) -> list[tuple[str, int, int]]:
    """(kind, index, seed) of every pass that was asked for, in order."""
    passes = [("clean", i, seed) for i, seed in enumerate(made.seeds)]
    passes += [(kind, 0, made.seeds[0]) for kind in ON_REQUEST if made.wanted.get(kind)]
    return passes


def run_missing(made: Record, folder: Path, observer: Observer) -> None:
    """Run each planned pass that the record does not hold, writing the record after each."""
    have = {(p["kind"], p["index"]) for p in made.passes}
    plan = planned(made)
    for kind, index, seed in plan:
        if (kind, index) in have:
            continue
        of = sum(k == kind for k, _, _ in plan)
        observer.pass_started(kind, index, of, made)
        result = run_process(made, folder, kind, index, seed, observer)
        take_over(made, folder, kind, index, result)
        observer.pass_done(result)


def take_over(made: Record, folder: Path, kind: str, index: int, result: dict[str, Any] | None = None) -> None:
    """Put the result a pass left into the record, then remove the pass's own file. Nothing where it left none."""
    path = result_path({"folder": folder, "kind": kind, "index": index})
    if any((p["kind"], p["index"]) == (kind, index) for p in made.passes):
        path.unlink(missing_ok=True)
        return
    if result is None:
        if not path.exists():
            return
        result = json.loads(path.read_text(encoding="utf-8"))
    made.passes.append(result)
    record.save(made, folder)
    path.unlink(missing_ok=True)


def run_process(
    made: Record, folder: Path, kind: str, index: int, seed: int, observer: Observer, threads: int | None = None
) -> dict[str, Any]:
    """One pass in a process of its own; its result, or a failed one that says how the process ended."""
    request = {
        "folder": str(folder.resolve()),
        "kind": kind,
        "index": index,
        "seed": seed,
        "workload": made.workload_path or made.workload,
        "scale": made.scale,
        "device": made.device,
        "division": made.division,
        "use": made.use,
        "ops": made.ops,
        "batch_size": made.batch_size,
        "target": made.target["value"] if made.target else None,
        "data_folder": made.data_folder or str(registry.data_folder()),
        "threads": threads or len(topology.worker_cpus()),
        "parent_pid": os.getpid(),
    }
    errors = folder / f"pass-{kind}-{index}.stderr"
    command = [sys.executable, "-m", "perfsuite.harness.one_pass", json.dumps(request)]
    with errors.open("w") as sink, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sink, text=True) as process:
        try:
            for line in process.stdout:
                observer.update(json.loads(line))
        except BaseException:  # Ctrl-C above all: the record keeps what is done, the pass in flight goes
            process.kill()
            raise
        code = process.wait()
    path = result_path(request)
    if path.exists():
        if errors.stat().st_size == 0:
            errors.unlink()
        return json.loads(path.read_text(encoding="utf-8"))
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    reason = last_line(errors.read_text(errors="replace"))
    return {"kind": kind, "index": index, "seed": seed, "state": "failed", "reached": False,
            "error": f"the process of the pass ended with {how}: {reason} (all of it in {errors.name})"}


def last_line(text: str) -> str:
    """The last line that is not empty, or a word that says there was none."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")
