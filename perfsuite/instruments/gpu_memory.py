"""The memory account: the most that a run held on its device, and what held it, by category.

The peaks are those of the whole run. What held the memory is found in a few steps: all of their allocations are
recorded and replayed to their peak, with the tensors of model and optimizer known by their addresses.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from perfsuite import _native, torch_extension
from perfsuite.instruments import YES, Availability, no
from perfsuite.instruments.memory_replay import CATEGORIES, Peak, Sighting, replay
from perfsuite.instruments.memory_sources import CpuAllocator, CudaAllocator

if TYPE_CHECKING:
    import torch

FIRST_STEP = 2
FROM_STEP = 64
DIFFERS = 0.02
"""A sampled peak that is so far from the run's own is said to be another one."""


def is_sampled(step: int) -> bool:
    """Step 2, and 64, 128, 256 and so on: few enough that recording them costs nothing that could be measured."""
    return step == FIRST_STEP or (step >= FROM_STEP and step & (step - 1) == 0)


class MemoryAccount:
    """Records the memory of one device; on the CPU it needs AllocatorAccount to run from before start() to stop().

    model: its parameters, buffers and gradients are told apart; None: they count as "other". optimizer: so is its
    state, and gradients are seen as its step begins, where it is a torch.optim.Optimizer. clock: gives the phases, by
    which activations are told from workspace; None: both count as "other". device: by default that of the model.

    Raises torch_extension.TorchExtensionError where the device is the CPU and perfsuite._torch cannot be built.
    """

    NAME = "gpu_memory"

    def __init__(self, model: "torch.nn.Module | None" = None, optimizer: Any = None,
                 clock: "_native.PhaseClock | None" = None, device: Any = None) -> None:  # fmt: skip
        import torch

        self._model, self._optimizer, self._clock = model, optimizer, clock
        if device is None:
            first = next(model.parameters(), None) if model is not None else None
            device = "cpu" if first is None else first.device
        self._device = torch.device(device)
        if self._device.type == "cuda" and self._device.index is None:
            self._device = torch.device("cuda", torch.cuda.current_device())
        self._source = CudaAllocator(self._device) if self._device.type == "cuda" else CpuAllocator()
        self._step: int | None = None
        """The one that is being recorded."""
        self._begin_ns = 0
        self._sightings: list[Sighting] = []
        self._hook: Any = None
        self._best: tuple[int, Peak] | None = None
        self._skipped: dict[str, int] = {}
        self._paused = False
        self._saw_gradients = False

    @staticmethod
    def available() -> Availability:
        """Whether perfsuite._torch is built or can be built here; on a GPU torch alone is needed."""
        status = torch_extension.status()
        return YES if status.available else no(status.reason or "perfsuite._torch cannot be built")

    def start(self) -> None:
        """Count peaks from here on."""
        self._source.start([storage for found in self._tensors().values() for storage in self._storages(found)])

    def begin_step(self, step: int) -> None:
        """Step `step` (0-based) begins: ends the recording of the step before, and records this one if it is due."""
        self._end()
        if self._paused or not is_sampled(step):
            return
        if self._clock is not None and self._clock.timeline_dropped:
            self._skip("the phase clock no longer notes phases")
            return
        reason = self._source.begin()
        if reason is not None:
            self._skip(reason)
            return
        self._step, self._begin_ns, self._sightings = step, _native.now_ns(), []
        self._sight()
        if hasattr(self._optimizer, "register_step_pre_hook"):
            self._hook = self._optimizer.register_step_pre_hook(lambda *_: self._sight())

    def begin_evaluation(self) -> None:
        """The step is over: an evaluation is not part of it."""
        self._end()

    def pause(self) -> None:
        """As if never installed, until resume(): a step that is being recorded is given up."""
        if self._step is not None:
            self._unhook()
            self._source.cancel()
        self._paused = True

    def resume(self) -> None:
        """Go on after pause()."""
        self._paused = False

    def stop(self) -> dict[str, Any]:
        """What a record keeps as pass["gpu_memory"].

        {"device", "allocated_peak_bytes", "reserved_peak_bytes", "fragmentation_share" (of what was reserved at the
        replayed peak, the part not allocated), "peak": null or {"t_ns" (monotonic), "step", "phase", "allocated_bytes",
        "categories": [{"name", "bytes"}], "source"}, "retries", "ooms", "num_device_alloc", "notes"}; null where the
        allocator does not tell.
        """
        self._end()
        totals = self._source.totals()
        notes = [*self._source.notes(), *self._missing()]
        notes += [f"{count} sampled steps were not replayed: {reason}" for reason, count in self._skipped.items()]
        peak, share = None, None
        if self._best is None:
            notes.append(f"no step was replayed: the run had none of the sampled ones ({FIRST_STEP}, {FROM_STEP}, "
                         f"{2 * FROM_STEP}, ...)" if not self._skipped else "no step was replayed")  # fmt: skip
        else:
            step, best = self._best
            peak = {"t_ns": best.t_ns, "step": step, "phase": best.phase, "allocated_bytes": best.allocated_bytes,
                    "categories": [{"name": name, "bytes": best.categories[name]} for name in CATEGORIES],
                    "source": f"step {step} replayed"}  # fmt: skip
            if best.reserved_bytes:
                share = max(0.0, 1 - best.allocated_bytes / best.reserved_bytes)
            run_bytes = totals["allocated_peak_bytes"]
            ratio = best.allocated_bytes / run_bytes if run_bytes else 1
            if abs(ratio - 1) > DIFFERS:
                notes.append(f"the replayed peak of {best.allocated_bytes} bytes is {ratio:.3g} times the run's own of "
                             f"{run_bytes} bytes: that one was not in a sampled step")  # fmt: skip
        return {"device": str(self._device), **totals, "fragmentation_share": share, "peak": peak, "notes": notes}

    def _skip(self, reason: str) -> None:
        self._skipped[reason] = self._skipped.get(reason, 0) + 1

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self._step = None

    def _end(self) -> None:
        step = self._step
        if step is None:
            return
        self._sight()
        self._unhook()
        done = self._source.end(self._flat(self._sightings[0].blocks))
        if isinstance(done, str):
            self._skip(done)
            return
        peak = replay(done, self._sightings, self._phases(), self._begin_ns)
        if self._best is None or peak.allocated_bytes > self._best[1].allocated_bytes:
            self._best = (step, peak)

    def _phases(self) -> list[tuple[int, str]]:
        """(ns from when on, name) since the step began, and of the phase that was open then."""
        if self._clock is None:
            return []
        timeline = self._clock.timeline()
        names = [*self._clock.names, ""]  # -1: no phase
        first = max(0, int(np.searchsorted(timeline[:, 0], self._begin_ns, side="right")) - 1)
        return [(int(t_ns), names[phase]) for t_ns, phase, _ in timeline[first:]]

    def _sight(self) -> None:
        self._sightings.append(Sighting(_native.now_ns(), self._known()))

    @staticmethod
    def _flat(known: Mapping[str, Mapping[int, int]]) -> dict[int, int]:
        return {address: size for blocks in known.values() for address, size in blocks.items()}

    def _known(self) -> dict[str, dict[int, int]]:
        """Bytes by address, by category."""
        return {
            category: {storage.data_ptr(): storage.nbytes() for storage in self._storages(tensors)}
            for category, tensors in self._tensors().items()
        }

    def _tensors(self) -> dict[str, list[Any]]:
        parameters = list(self._model.parameters()) if self._model is not None else []
        buffers = list(self._model.buffers()) if self._model is not None else []
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self._saw_gradients |= bool(gradients)
        return {"weights": parameters + buffers, "gradients": gradients,
                "optimizer_state": list(_tensors_in(getattr(self._optimizer, "state", {})))}  # fmt: skip

    def _storages(self, tensors: list[Any]) -> list[Any]:
        """What those on this device are stored in."""
        storages = [tensor.untyped_storage() for tensor in tensors if tensor.device == self._device]
        return [storage for storage in storages if storage.nbytes()]

    def _missing(self) -> list[str]:
        notes = []
        if self._model is None:
            notes.append("no model was given: weights and gradients count as other")
        elif not self._saw_gradients:
            notes.append("no gradient was seen when a step or the optimizer began: they count as workspace")
        if self._optimizer is None:
            notes.append("no optimizer was given: its state counts as other")
        if self._clock is None:
            notes.append("no phases were marked: activations and workspace count as other")
        return notes


def _tensors_in(value: Any) -> Any:
    """Every tensor within dicts, lists and tuples."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors_in(inner)
