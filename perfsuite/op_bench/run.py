"""`perfsuite ops bench`: measures the cases of some ops, and tunes this machine by what it finds.

Each of several ops is measured in a process of its own: what the ops before it have left of the memory, in one piece or
in many, changes what a large allocation costs (cross-entropy in eager torch took 21 or 55 ms by that).
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import geometric_mean
from typing import Any

import torch

from perfsuite import ceilings, machine, roofline
from perfsuite.kernels import contract, tuning
from perfsuite.kernels.contract import Implementation, Op
from perfsuite.op_bench import calls, gpu_ceilings, yardsticks
from perfsuite.op_bench.measure import measure
from perfsuite.op_bench.rows import rows, summary

SCHEMA = 1
Progress = Callable[[str, float], None]
"""Told the case and the share of it that is done."""


def bench(
    names: Sequence[str], device: str, *, scale: str | None = None, case_filter: str = "", budget_s: float = 4.0,
    impls: Sequence[str] = (), max_autotune: bool | None = None, warm_too: bool = True, tune: bool = True,
    progress: Progress = lambda what, share: None,
) -> dict[str, Any]:  # fmt: skip
    """Measure; returns {"schema", "machine", "conditions", "rows", "summary", "absent", "failed", "tuning"}.

    Raises ValueError for what `perfsuite ops` refuses, also where a process of an op does not end well.

    names: ops. scale: of the cases, the device's by default. case_filter: only cases whose name contains it. budget_s:
    for each case and cache state. impls: only these besides eager and compile. max_autotune: whether torch.compile is
    timed in that mode as well; on a GPU by default. warm_too: small cases once more with their inputs in the caches.
    """
    options = {"scale": scale, "case_filter": case_filter, "budget_s": budget_s, "impls": list(impls),
               "max_autotune": max_autotune, "warm_too": warm_too, "tune": tune}  # fmt: skip
    if len(names) > 1:
        return _joined([_in_a_process(name, device, options, progress) for name in names])
    made, cache_bytes, ceilings_absent = machine_of(device, progress)
    found: list[dict[str, Any]] = []
    absent: list[dict[str, str]] = []
    failed: list[dict[str, str]] = []
    for name in names:
        op = contract.op(name)
        wanted = _implementations(op, device, impls, device == "cuda" if max_autotune is None else max_autotune, absent)
        chosen = [case for case in op.cases(scale or device) if case_filter in case.name]
        for case in chosen:
            size = calls.footprint_bytes(op, case)
            for cold in (True, False) if warm_too and size <= cache_bytes else (True,):
                title = f"{name} {case.name} {'cold' if cold else 'warm'}"
                torch._dynamo.reset()  # each case gets a graph of its own, not one with symbols for sizes
                timed, errors, _ = measure(
                    op, wanted, case, device, cache_bytes, cold, budget_s, lambda share, t=title: progress(t, share)
                )
                failed += [{"op": name, "case": case.name, "impl": i, "error": e} for i, e in errors.items()]
                costs = op.cost(replace(case, gradient=False)), op.cost(case)
                found += rows(name, case, device, cold, timed, costs, size, made)
    result = {
        "schema": SCHEMA,
        "machine": machine.fingerprint(),
        "conditions": {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": _device_name(device),
                       "budget_s": budget_s, "cache_bytes": cache_bytes, "ceilings_absent": ceilings_absent},
        "rows": found,
        "summary": summary(found, [r["impl"] for r in found if r["verdict"] is not None]),
        "absent": absent,
        "failed": failed,
        "tuning": None,
    }  # fmt: skip
    if tune:
        result["tuning"] = tuning.save(best(found, device)).name
    return result


def _in_a_process(name: str, device: str, options: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """bench() of one op. Its process tells its progress and then the result on standard output, JSON a line."""
    request = json.dumps({"names": [name], "device": device, **options})
    command = [sys.executable, "-m", "perfsuite.op_bench.run", request]
    result = None
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        for line in process.stdout:
            message = json.loads(line)
            if isinstance(message, list):
                progress(*message)
            else:
                result = message
        process.wait()
        errors.seek(0)
        said = [line for line in errors.read().splitlines() if line.strip()]
    if result is None:
        raise ValueError(f"timing {name} failed: {said[-1] if said else f'exit code {process.returncode}'}")
    return result


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One result of the results of several ops."""
    together = {key: [one for part in parts for one in part[key]] for key in ("rows", "summary", "absent", "failed")}
    return {**parts[0], **together}


def main() -> None:
    """`python -m perfsuite.op_bench.run '{"names": ["rms_norm"], "device": "cpu", ...}'`, see _in_a_process."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a compiler prints must not garble the channel

    def tell(what: str, share: float) -> None:
        channel.write(json.dumps([what, share]) + "\n")

    channel.write(json.dumps(bench(**json.loads(sys.argv[1]), progress=tell)) + "\n")


def best(found: Sequence[dict[str, Any]], device: str) -> list[tuning.Entry]:
    """The fastest of what may be chosen (tuning.PREFERRED) for each op and case: by the mean over cache states."""
    with_backward = {(row["op"], row["case"]) for row in found if row["direction"] == "both"}
    times: dict[tuple[str, str], dict[str, list[float]]] = {}
    shapes: dict[tuple[str, str], dict[str, Any]] = {}
    for row in found:
        key = row["op"], row["case"]
        whole = row["direction"] == ("both" if key in with_backward else "forward")
        if whole and row["impl"] in tuning.PREFERRED[device] and row["verdict"] not in ("WRONG", "REJECTED"):
            shapes[key] = row
            times.setdefault(key, {}).setdefault(row["impl"], []).append(row["device_time_ns"])
    entries = []
    for (name, case), by_impl in times.items():
        means = {impl: geometric_mean(values) for impl, values in by_impl.items()}
        winner = min(means, key=means.__getitem__)
        row = shapes[name, case]
        speedup = round(means["eager"] / means[winner], 3)
        entries.append(tuning.Entry(name, device, row["dtype"], row["shape"], winner, speedup))
    return entries


def _implementations(
    op: Op, device: str, impls: Sequence[str], max_autotune: bool, absent: list[dict[str, str]]
) -> list[Implementation]:
    """Eager first; then all that this machine has."""
    names = [n for n in op.implementations if not impls or n in impls or n in ("eager", "compile")]
    wanted = [op.implementations[name] for name in names]
    wanted.sort(key=lambda one: one.name != "eager")
    liger = yardsticks.liger(op.name)
    if max_autotune and "compile" in op.implementations:
        graph = torch.compile(op.reference, fullgraph=True, mode="max-autotune-no-cudagraphs")
        wanted.append(Implementation("compile max-autotune", graph, op.implementations["compile"].why_not))
    if liger is not None:
        wanted.append(liger)
    here = []
    for one in wanted:
        reason = one.why_not(device)
        if reason is None:
            here.append(one)
        else:
            absent.append({"op": op.name, "impl": one.name, "reason": reason})
    return here


def machine_of(device: str, progress: Progress) -> tuple[roofline.Machine, int, dict[str, str]]:
    """Ceilings, measured now where they are not kept, the size of the last-level cache, what was not measured."""
    if device == "cuda":
        progress("ceilings of the GPU", 0.0)
        return gpu_ceilings.measure()
    kept, _ = machine.load_ceilings()
    if kept is None:
        progress("ceilings of this machine", 0.0)
        kept = ceilings.measure()
        ceilings.save(kept)
    sizes = [level["capacity_bytes"] for level in kept["levels"] if level["capacity_bytes"]]
    return roofline.machine_of(kept), max(sizes, default=32 << 20), {}


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else machine.machine_name()


if __name__ == "__main__":
    main()
