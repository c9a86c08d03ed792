"""Measures the power of a GPU that has nothing to do, before the clock of a run starts.

Idle means here: the CUDA context exists, the model lies in the GPU's memory, nothing has been launched since the
warm-up ended and settled. A context alone raises a GPU's power (clocks and memory stay up), and a training run pays
for that too, so the idle of a GPU that nobody has touched would be the wrong one to subtract.
"""

import time
from collections.abc import Callable
from typing import Any

from perfsuite import _native
from perfsuite.energy_idle import idle_power, none
from perfsuite.instruments.sampler import Sampler

SETTLE_S = 1.0
"""Longer than any averaging of the sensors that was published."""
MEASURE_S = 3.0
PERIOD_S = 0.02
"""Of the sampler: the energy counter's renewals are dated to within this."""


def measure(
    device: str,
    sampler: Sampler | None = None,
    wait: Callable[[float], None] = time.sleep,
    now_ns: Callable[[], int] = _native.now_ns,
) -> dict[str, Any]:
    """What energy_idle.idle_power() says of a few seconds from now; takes SETTLE_S + MEASURE_S where there is a GPU.

    device: that of the run; for "cpu" nothing is measured. The caller has waited for the device to finish. sampler,
    wait and now_ns replace the sensors and the clock in tests.
    """
    if device == "cpu":
        return none("measured before runs on a GPU only")
    sampler = sampler or Sampler(period_s=PERIOD_S)
    there = sampler.available()
    if not there.available:
        return none(there.reason)
    sampler.start()
    try:
        wait(SETTLE_S)
        start_ns = now_ns()
        wait(MEASURE_S)
        stop_ns = now_ns()
    finally:
        sampled = sampler.stop()
    return idle_power(sampled, start_ns, stop_ns)
