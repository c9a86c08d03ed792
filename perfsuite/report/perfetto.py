"""A record as one Perfetto trace: phases, steps, ops, kernels, host stacks, power and counters of all passes.

Each pass is a group of tracks. The passes were run one after the other; they are laid over one another on the clock of
the ledger pass (trace_clock), so that what several of them saw of one step stands at one place.
"""

from collections.abc import Callable, Mapping
from typing import Any

from perfsuite.ledger import ledger_pass
from perfsuite.report import trace_clock, trace_tracks
from perfsuite.report.trace_clock import Arrays
from perfsuite.report.trace_writer import TraceWriter

FILE_NAME = "trace.perfetto-trace"
SOURCES = (
    ("ops", "op_slices", ("op recorder",)),
    ("kernels and copies", "kernel_slices", ("kernel recorder", "kernels")),
    ("hardware counters", "counters_values", ("counters", "pm sampling")),
    ("host stacks", "stack_slices", ("host stacks",)),
)
"""What a trace can hold, the array of a pass that holds it, and how the instrument that makes it is listed."""


def render(record: Mapping[str, Any], arrays: Callable[[str], Arrays]) -> tuple[bytes, list[str]]:
    """The trace file of `record`, and one line for each thing that it lacks, with the reason.

    record: as in record.json. arrays(file name) gives the arrays of a pass. Raises ValueError where no pass has any.
    """
    passes = [(pass_, arrays(pass_["arrays"])) for pass_ in record["passes"] if pass_.get("arrays")]
    if not passes:
        raise ValueError(f"no pass of {record['id']} has finished: there is nothing to draw; run it again or resume it")
    chosen = ledger_pass(record["passes"])
    at = next((i for i, (pass_, _) in enumerate(passes) if pass_ is chosen), 0)
    passes.insert(0, passes.pop(at))
    base, base_arrays = passes[0]

    writer = TraceWriter()
    root = writer.track(f"{record['id']}: {record['workload']} {record['scale']} on {record['device']}",
                        description=f"All passes on the clock of the {base['kind']} pass {base['index']}.")  # fmt: skip
    metric = (record.get("target") or {}).get("metric", "quality")
    notes: list[str] = []
    for pass_, pass_arrays in passes:
        clock = (trace_clock.reference(pass_) if pass_ is base
                 else trace_clock.onto(pass_, pass_arrays, base, base_arrays))  # fmt: skip
        name = f"{pass_['kind']} pass {pass_['index']}" + ("" if pass_["seed"] is None else f", seed {pass_['seed']}")
        group = writer.track(name, root, f"{name}: {clock.note}.")
        notes += [f"{name}: {line}" for line in trace_tracks.add(writer, group, pass_, pass_arrays, clock, metric)]
    failed = [f"{p['kind']} pass {p['index']}: {p.get('error')}" for p in record["passes"] if not p.get("arrays")]
    return writer.serialize(), [*_absent(record, passes), *failed, *notes]


def _absent(record: Mapping[str, Any], passes: list[tuple[Mapping[str, Any], Arrays]]) -> list[str]:
    said = {row["name"]: row["reason"] for pass_ in record["passes"] for row in pass_.get("instruments") or []
            if not row["available"]}  # fmt: skip
    lines = []
    for what, array, instruments in SOURCES:
        if not any(len(found.get(array, ())) for _, found in passes):
            why = next((said[name] for name in instruments if said.get(name)), "no pass of this record kept any")
            lines.append(f"no {what}: {why}")
    columns = {column for pass_, _ in passes for column in pass_["sampler"]["columns"]}
    if not any(column.endswith("_w") or column.endswith("_j") for column in columns):
        sensors = next((p["sampler"]["absent"] for p, _ in passes), {})
        reasons = [f"{name}: {sensors[name]}" for name in ("gpu", "rapl") if name in sensors]
        lines.append("no power: " + ("; ".join(reasons) or "the sampler read no power sensor"))
    return lines
