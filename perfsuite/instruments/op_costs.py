"""The least bytes and flops of the suite's own ops, from the cost that each op file declares, noted while they run."""

from typing import Any

from perfsuite.instruments import YES, Availability
from perfsuite.kernels import contract


class OpCosts:
    """Notes the declared cost of every call of an op of the suite, by implementation and shape."""

    NAME = "op costs"

    @staticmethod
    def available() -> Availability:
        """Always: it is arithmetic on shapes."""
        return YES

    def start(self) -> None:
        """Begin with nothing noted."""
        contract.cost_log = {}

    def pause(self) -> None:
        """As if never installed, until resume()."""
        contract.cost_log = None

    def resume(self) -> None:
        """Note again, from nothing."""
        contract.cost_log = {}

    def stop(self) -> list[dict[str, Any]]:
        """One row a region and signature: {"region": "op=implementation", "signature", "calls", "bytes", "flops"}.

        bytes and flops are the least that one call has to move and compute; a signature that ends in " grad" counts
        forward and backward together.
        """
        log, contract.cost_log = contract.cost_log or {}, None
        return [
            {"region": region, "signature": signature, **cost}
            for region, calls in log.items()
            for signature, cost in calls.items()
        ]
