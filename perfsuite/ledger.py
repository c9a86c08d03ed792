"""The account of a record: its seconds by phase and op, its bytes by memory level, its joules, and what limits it.

Pure functions from what was recorded; nothing is measured here and torch is not needed. Where a number is not known it
is null with a reason, never 0.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from perfsuite import account_blocks as blocks
from perfsuite import account_power
from perfsuite.account_character import character_block
from perfsuite.account_checks import checks, residuals
from perfsuite.account_counters import counters_block
from perfsuite.account_device import device_block, device_checks, unavailable_reason
from perfsuite.account_kernel_power import add_joules
from perfsuite.account_kernels import device_times, kernel_lines
from perfsuite.account_memory import gpu_memory_block
from perfsuite.account_mfu import mfu_block
from perfsuite.account_ops import OpDevice, op_lines, op_notes, suite_ops
from perfsuite.account_overhead import overhead
from perfsuite.account_phases import Arrays, Span, whole
from perfsuite.account_phases import window as windowed
from perfsuite.account_replay import open_replay
from perfsuite.account_working_set import working_set_block
from perfsuite.headline import answer, limits
from perfsuite.mlperf.division import closed_quality
from perfsuite.mlperf.score import score as score_of
from perfsuite.roofline import Gpu, Machine, ceilings_for, gpu_of, machine_of

SCHEMA = 1


def account(
    record: Mapping[str, Any], arrays: Callable[[str], Arrays], window: tuple[int, int] | None = None
) -> dict[str, Any]:
    """The account of `record`, as `perfsuite report --json` prints it.

    arrays(file name) gives the arrays of a pass. window (A, B) narrows the ledger to steps A to B - 1, 0-based, of the
    pass that it accounts for. Raises ValueError for a negative line, and for a window that is not in the pass.
    """
    passes = record["passes"]
    ceilings = record["machine"]["ceilings"]
    machine = None if ceilings is None else machine_of(ceilings)
    score, score_reason = score_of(record)
    pass_ = ledger_pass(passes)
    out: dict[str, Any] = {
        "schema": SCHEMA,
        **{key: record.get(key) for key in ("id", "kind", "workload", "workload_path", "scale", "device", "command",
                                            "commit", "created", "use", "ops", "batch_size", "division", "build",
                                            "machine", "target", "config", "perfsuite_version")},
        "score": score, "score_reason": score_reason, "closed_quality": closed_quality(record),
    }  # fmt: skip
    if pass_ is None:
        reason = "no pass of this record has finished: run it again or resume it"
        return out | {
            "headline": {"answer": answer(record, score, score_reason, None), "limits": None},
            "ledger": None, "memory": None, "working_set": None, "power": account_power.unavailable(reason),
            "mfu": None, "character": None, "host": blocks.host(passes),
            "overhead": None, "instruments": [], "series": None, "notes": [*record.get("notes", []), reason],
        }  # fmt: skip
    pass_arrays = arrays(pass_["arrays"]) if pass_.get("arrays") else {}
    span = windowed(pass_, pass_arrays, *window) if window is not None else whole(pass_)
    # Somebody's own loop may use a GPU without saying so.
    trained_on = "cuda" if (pass_.get("kernels") or {}).get("rows") else record["device"]
    on_gpu = trained_on.startswith("cuda")
    roofs, no_roofs = ceilings_for(record["machine"], trained_on)
    gpu = gpu_of(roofs) if on_gpu and roofs is not None else None
    no_device = unavailable_reason(pass_, span, trained_on)
    ops = op_lines(span, machine, _op_device(pass_, gpu, no_device) if on_gpu else None)
    found, check_notes = checks(pass_, passes, span, ops)
    replay, replay_said = open_replay(passes)
    kernels: list[dict[str, Any]] = []
    if no_device is None:
        kernels = kernel_lines(pass_["kernels"], span.clock_ns, replay, gpu)
        device_found, device_notes = device_checks(pass_, span, replay)
        found, check_notes = found + device_found, check_notes + device_notes
    mfu = mfu_block(pass_, passes, span, ops, kernels, roofs, no_roofs)
    character = character_block(pass_, span, ops, kernels, no_roofs)
    power = account_power.power(pass_, pass_arrays, span, mfu["model_flops_per_sample"])
    add_joules(kernels, pass_, power)
    found += account_power.throttle_checks(power)
    notes = op_notes(ops, pass_.get("compiled_regions") or 0) + check_notes
    if pass_.get("ops") is None:
        notes.insert(0, f"no ops: the account is of a {pass_['kind']} pass, without an op recorder")
    if on_gpu:
        absent = {"no device ledger": no_device, "no ceilings of the GPU": no_roofs if machine is not None else None}
        notes += [f"{what}: {reason}" for what, reason in absent.items() if reason]
    notes += [f"ceilings: {note}" for note in (ceilings or {}).get("notes", [])]
    if machine is None:
        notes.append(f"no ceilings: {record['machine']['ceilings_reason']}")
    device = device_block(pass_, span, no_device)
    memory = blocks.memory(pass_, *_placed(ops, machine, gpu, on_gpu))
    memory["gpu"] = gpu_memory_block(pass_)
    accounted = {"pass": pass_, "ops": ops, "kernels": kernels}
    memory["counters"] = counters_block(record, arrays, gpu, accounted, replay_said)
    return out | {
        "headline": {"answer": answer(record, score, score_reason, pass_),
                     "limits": limits(span, ops, device, kernels)},
        "ledger": _ledger(pass_, span, ops, found, notes) | {"kernels": kernels, "device": device},
        "mfu": mfu,
        "character": character,
        "memory": memory,
        "working_set": working_set_block(pass_, record["machine"], trained_on),
        "power": power,
        "host": blocks.host(passes),
        "overhead": overhead(record, pass_, arrays),
        "instruments": _instruments(passes),
        "series": blocks.series(pass_, pass_arrays),
        "notes": [*record.get("notes", []), *_pass_notes(passes), *account_power.throttle_notes(passes)],
    }


def _op_device(pass_: Mapping[str, Any], gpu: Gpu | None, no_device: str | None) -> OpDevice:
    times = device_times(pass_.get("kernels")) if no_device is None else None
    return OpDevice(None if gpu is None else gpu.machine, times)


def _placed(ops: Sequence[Mapping[str, Any]], machine: Machine | None, gpu: Gpu | None,
            on_gpu: bool) -> tuple[list[Mapping[str, Any]], Machine | None]:  # fmt: skip
    """The ops that ran on the device that trained, and its ceilings."""
    if not on_gpu:
        return list(ops), machine
    return [op for op in ops if op["device_time_ns"]], None if gpu is None else gpu.machine


def ledger_pass(passes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The pass that the ledger accounts for: a ledger pass, else a watched loop, else the first clean one; done."""
    for kind in ("ledger", "watch", "clean"):
        for pass_ in passes:
            if pass_["kind"] == kind and pass_["state"] == "done":
                return pass_
    return None


def _ledger(pass_: Mapping[str, Any], span: Span, ops: Sequence[Mapping[str, Any]], found: list[dict[str, Any]],
            notes: list[str]) -> dict[str, Any]:  # fmt: skip
    def seconds(ns: int | None) -> float | None:
        return None if ns is None else ns / 1e9

    return {
        "pass_kind": pass_["kind"],
        "seed": pass_["seed"],
        "clock_s": span.clock_ns / 1e9,
        "clock_ns": span.clock_ns,
        "unattributed_s": span.unattributed_ns / 1e9,
        "unattributed_ns": span.unattributed_ns,
        "window": span.window,
        "num_steps": span.num_steps,
        "phases": [
            {"name": line.name, "time_s": line.time_ns / 1e9, "time_ns": line.time_ns, "ops_s": seconds(line.op_ns),
             "host_s": seconds(line.host_ns), "calls": line.calls}
            for line in span.phases
        ],
        "ops": ops,
        "suite_ops": suite_ops(ops, pass_.get("op_costs") or []) if span.window is None else [],
        "checks": found,
        "residuals": residuals(span),
        "notes": notes,
    }  # fmt: skip


def _instruments(passes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every instrument of every pass once: available if it was in any pass."""
    merged: dict[str, dict[str, Any]] = {}
    for entry in (entry for pass_ in passes for entry in pass_.get("instruments") or []):
        if entry["name"] not in merged or (entry["available"] and not merged[entry["name"]]["available"]):
            merged[entry["name"]] = dict(entry)
    return list(merged.values())


def _pass_notes(passes: Sequence[Mapping[str, Any]]) -> list[str]:
    failed = [pass_ for pass_ in passes if pass_["state"] != "done"]
    return [f"{p['kind']} pass {p['index']} (seed {p['seed']}) failed: {p['error']}" for p in failed]
