"""How a power sensor works, from its readings under a load that is switched on and off: pure functions."""

from typing import Any

import numpy as np


def analyse(
    t_ns: np.ndarray, watts: np.ndarray, load_edges_ns: np.ndarray, energy_j: np.ndarray | None = None
) -> dict[str, Any]:
    """Update period, averaging window and delays of a sensor under a square-wave load.

    t_ns: int64 (n,) monotonic, when each sample was taken, in order. watts: float64 (n,) the power readings, NaN where
    there is none. load_edges_ns: int64 (m,) monotonic, when the load changed: on at the first, off at the second, and
    so on in turn. energy_j: float64 (n,) the energy counter's readings of the same samples.
    """
    raise NotImplementedError
