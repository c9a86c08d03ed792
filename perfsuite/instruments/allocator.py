"""The allocator account: how much memory torch holds on the CPU at most, and how much it asks for over a run."""

from typing import Any

from perfsuite import _native, torch_extension
from perfsuite.instruments import YES, Availability, no


class AllocatorAccount:
    """Counts what torch's CPU allocator hands out, on all threads. Tensors made before start() are not in it.

    clock: gives the phases their names; None: one phase named "".
    Raises torch_extension.TorchExtensionError where perfsuite._torch can be neither found nor built.
    """

    NAME = "allocator"

    def __init__(self, clock: "_native.PhaseClock | None" = None):
        self._native = torch_extension.load()
        self._clock = clock

    @staticmethod
    def available() -> Availability:
        """Whether perfsuite._torch is built or can be built here."""
        status = torch_extension.status()
        return YES if status.available else no(status.reason or "perfsuite._torch cannot be built")

    def start(self) -> None:
        """Start counting. RuntimeError where an account runs already or torch's allocator was replaced by another."""
        self._native.allocator_start()

    def pause(self) -> None:
        """As if never installed, until resume()."""
        self._native.allocator_stop()

    def resume(self) -> None:
        """Count again, from nothing."""
        self._native.allocator_start()

    def stop(self) -> dict[str, Any]:
        """Stop; {"peak_bytes", "current_bytes", "churn_bytes", "allocations", "phases": [{"name", "churn_bytes",
        "allocations"}]}.

        peak and current are what malloc holds for the blocks, churn what was asked for. A phase is the one in which the
        clock thread was when a block was allocated.
        """
        raw = self._native.allocator_stop()
        names = [] if self._clock is None else list(self._clock.names)
        phases: dict[str, dict[str, Any]] = {}
        for phase, sums in raw["phases"].items():
            name = names[phase] if 0 <= phase < len(names) else ""
            total = phases.setdefault(name, {"name": name, "churn_bytes": 0, "allocations": 0})
            total["churn_bytes"] += sums["churn_bytes"]
            total["allocations"] += sums["allocations"]
        return raw | {"phases": list(phases.values())}
