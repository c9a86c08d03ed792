"""The op recorder: which operators ran, how long, in which module and phase, on which shapes, and the bytes they move.

The recording is native (csrc/torch/op_recorder.h); this file names modules while it runs and puts names on its sums.
Times are taken on every step, shapes on every 16th: taking them costs about ten times as much.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from perfsuite import _native, torch_extension
from perfsuite.instruments import YES, Availability, no
from perfsuite.signature import OTHER_SHAPES

if TYPE_CHECKING:
    import torch

FORWARD_PHASE = "forward"
TIMELINE_STEPS = range(2, 6)
"""Steps whose single ops and kernels are kept for the timeline: the first ones after the caches are warm."""
COMPILED_REGION = "Torch-Compiled Region"
"""How torch records the run of what torch.compile made, with a number for each region."""


class OpRecorder:
    """Records every operator that torch runs in this process, on all threads; one recorder runs at a time.

    root: its modules are named as in root.named_modules(); None: ops have no module.
    clock: gives the phases their names, and is told which of its time was spent in ops (see PhaseClock.set_split).
        None: phases are named "".
    slice_steps: steps whose single ops are kept, at most 200 000 of them.
    Raises torch_extension.TorchExtensionError where perfsuite._torch can be neither found nor built.
    """

    NAME = "ops"

    def __init__(
        self,
        root: "torch.nn.Module | None" = None,
        clock: "_native.PhaseClock | None" = None,
        slice_steps: range = TIMELINE_STEPS,
    ):
        self._native = torch_extension.load()
        self._clock = clock
        self._slice_steps = slice_steps
        self._ids = {} if root is None else module_ids(root)
        self._hooks: list[Any] = []

    @staticmethod
    def available() -> Availability:
        """Whether perfsuite._torch is built or can be built here."""
        status = torch_extension.status()
        return YES if status.available else no(status.reason or "perfsuite._torch cannot be built")

    def start(self) -> None:
        """Start with empty sums. The calling thread is the clock thread. RuntimeError where a recorder runs already."""
        self._native.ops_start(self._slice_steps.start, self._slice_steps.stop)
        self._add_hooks()

    def begin_step(self, step: int) -> None:
        """What follows belongs to step `step`: switches the recording of shapes, and marks where a mark is due."""
        self._native.ops_begin_step(step)

    def begin_evaluation(self) -> None:
        """An evaluation follows, until the next step: shapes are recorded on the first one and every 16th after it."""
        self._native.ops_begin_evaluation()

    def pause(self) -> None:
        """As if never installed, until resume(): no hook, no callback. Call it between steps, on the clock thread."""
        self._native.ops_pause()
        self._remove_hooks()

    def resume(self) -> None:
        """Go on after pause()."""
        self._native.ops_resume()
        self._add_hooks()

    def stop(self) -> dict[str, Any]:
        """Stop and return what was recorded, as plain data.

        rows: one for each (name, direction, op, module, phase, thread), with calls, total_ns, self_ns and `shapes`.
            A forward that runs again to save memory has the direction forward and the phase of the backward pass.
        marks: {"steps": int64 (m,), "self_ns": int64 (m, rows), "calls": int64 (m, rows)}, cumulative sums when each of
            these steps began; the last is the end of the last step. At most 64.
        top_level_ns: time on the clock thread of the ops that no other op encloses; top_level_by_phase splits it.
            From the 129th shape of a row on, its calls are one: OTHER_SHAPES, with the mean of their bytes.
        dropped_rows: calls that found no row of their own and are summed under the name "(other)".
        compiled_regions: how many regions that torch.compile made have run; most of their work is not seen as ops.
        slices: int64 (n, 5), by start: start_ns, end_ns, index into slice_names, number of the thread (0: the clock's),
            how many ops of the thread enclose it. dropped_slices: how many found no room.
        """
        self._remove_hooks()
        return assemble(self._native.ops_stop(), self._phases(), _native.interned)

    def site(self, number: int) -> dict[str, str] | None:
        """The op behind a launch that carried this external correlation id: name, direction, op, module, phase, thread.

        As in the rows of stop(); from start() until the next start. None where no op has this number.
        """
        raw = self._native.ops_site(number)
        return None if raw is None else _named(raw, self._phases(), _native.interned)

    def _phases(self) -> list[str]:
        return [] if self._clock is None else list(self._clock.names)

    def _add_hooks(self) -> None:
        if not self._ids:
            return
        from torch.nn.modules import module

        enter, leave = _scope_hooks(self._ids)
        self._hooks = [
            module.register_module_forward_pre_hook(enter),
            module.register_module_forward_hook(leave, always_call=True),
        ]

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def module_ids(root: "torch.nn.Module") -> dict["torch.nn.Module", int]:
    """Scope id of each module under root, by its qualified name, without torch.compile's wrapper."""
    return {
        module: _native.intern(".".join(part for part in name.split(".") if part != "_orig_mod"))
        for name, module in root.named_modules()
    }


def _scope_hooks(ids: dict["torch.nn.Module", int]) -> tuple[Callable[..., None], Callable[..., None]]:
    import torch

    # Locals of a closure: these two run around every module of every step. torch.compile traces them as nothing.
    is_compiling = torch.compiler.is_compiling
    push, pop = _native.push_module, _native.pop_module

    def enter(module: torch.nn.Module, args: Any) -> None:
        if is_compiling():
            return
        number = ids.get(module)
        if number is not None:
            push(number)

    def leave(module: torch.nn.Module, args: Any, result: Any) -> None:
        if is_compiling():
            return
        if module in ids:
            pop()

    # Called on the wrapper of torch.compile they would be compiled themselves: to nothing, at a high price per call.
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    for hook in (enter, leave) if hasattr(dynamo, "skip_code") else ():
        dynamo.skip_code(hook.__code__)
    return enter, leave


def assemble(raw: dict[str, Any], phases: list[str], name_of: Callable[[int], str]) -> dict[str, Any]:
    """The sums of perfsuite._torch with names for ids; rows that differ only in how their direction was found are one.

    An op of the forward phase is forward even where autograd had nothing to record (inputs that need no gradient).
    """

    rows: list[dict[str, Any]] = []
    merged: dict[tuple[str, ...], int] = {}
    where = np.zeros(len(raw["rows"]), dtype=np.int64)
    for i, row in enumerate(raw["rows"]):
        row = _named(row, phases, name_of)
        key = tuple(row[part] for part in ("name", "direction", "op", "module", "phase", "thread"))
        where[i] = merged.setdefault(key, len(rows))
        if where[i] == len(rows):
            rows.append(row)
        else:
            _add(rows[where[i]], row)

    def columns(cumulative: np.ndarray) -> np.ndarray:
        out = np.zeros((cumulative.shape[0], len(rows)), dtype=np.int64)
        np.add.at(out.T, where, cumulative.T)
        return out

    by_phase: dict[str, int] = {}
    for phase, time_ns in raw["top_level_ns"].items():
        name = _phase_name(phases, phase)
        by_phase[name] = by_phase.get(name, 0) + time_ns
    return {
        "rows": rows,
        "sampled_steps": raw["sampled_steps"],
        "every": raw["every"],
        "dropped_rows": raw["dropped_rows"],
        "dropped_slices": raw["dropped_slices"],
        "slices": raw["slices"],
        "slice_names": raw["slice_names"],
        "top_level_ns": sum(by_phase.values()),
        "top_level_by_phase": by_phase,
        "events": sum(row["calls"] for row in rows),
        "compiled_regions": len({row["name"] for row in rows if row["name"].startswith(COMPILED_REGION)}),
        "marks": {
            "steps": np.array(raw["mark_steps"], dtype=np.int64),
            "self_ns": columns(raw["mark_self_ns"]),
            "calls": columns(raw["mark_calls"]),
        },
    }


def _phase_name(phases: list[str], phase: int) -> str:
    return phases[phase] if 0 <= phase < len(phases) else ""


def _named(row: dict[str, Any], phases: list[str], name_of: Callable[[int], str]) -> dict[str, Any]:
    row = row | {
        "op": name_of(row["op"]), "module": name_of(row["module"]), "phase": _phase_name(phases, row["phase"])
    }  # fmt: skip
    if row["direction"] == "none" and row["phase"] == FORWARD_PHASE:
        row["direction"] = "forward"
    return row


def _add(row: dict[str, Any], other: dict[str, Any]) -> None:
    for part in ("calls", "total_ns", "self_ns"):
        row[part] += other[part]
    for shape in other["shapes"]:
        same = [s for s in row["shapes"] if _same_shape(s, shape)]
        if not same:
            row["shapes"].append(shape)
            continue
        (known,) = same
        for part in ("bytes", "footprint_bytes"):
            if known[part] != shape[part]:
                known[part] = _mean_of_a_call(part, known, shape)
        known["sampled_calls"] += shape["sampled_calls"]
        known["sampled_self_ns"] += shape["sampled_self_ns"]


def _same_shape(a: dict[str, Any], b: dict[str, Any]) -> bool:
    if a["signature"] != b["signature"]:
        return False
    return a["signature"] == OTHER_SHAPES or all(a[part] == b[part] for part in ("bytes", "footprint_bytes"))


def _mean_of_a_call(part: str, a: dict[str, Any], b: dict[str, Any]) -> int | None:
    if a[part] is None or b[part] is None:
        return None
    calls = a["sampled_calls"] + b["sampled_calls"]
    return round((a[part] * a["sampled_calls"] + b[part] * b["sampled_calls"]) / calls)
