"""How the GPU's power sensors behave: a load that is switched on and off, and their readings meanwhile.

The load is matrix products; perfsuite.sensor_behaviour says what the readings tell of the sensor.
"""

import random
import time
from typing import Any

import numpy as np

from perfsuite import sensor_behaviour
from perfsuite.gpu_machine.device import Gpu, Run
from perfsuite.instruments.sampler import Sampler

SENSORS = ("power_instant_w", "power_average_w")
"""The sampler's columns, less their GPU."""
_PERIOD_S = 0.002
_HALF_S = 0.5
_BATCH_NS = 10e6


def measure(gpu: Gpu, load: Run, cycles: int, nvml_path: str | None = None) -> dict[str, Any]:
    """About one second for each of the cycles.

    {"cycles", "half_period_s", "period_s", "samples", "sensors": {column: what sensor_behaviour.analyse found}}.
    load: launches work for the whole GPU, some milliseconds of it. nvml_path: as in Sampler. RuntimeError where NVML
    or this GPU has no such sensors.
    """
    sampler = Sampler(period_s=_PERIOD_S, nvml_path=nvml_path)
    availability = sampler.available()
    if not availability.available:
        raise RuntimeError(availability.reason)
    batch = max(1, int(_BATCH_NS / max(1.0, gpu.event_ns(load))))
    sampler.start()
    try:
        edges_ns = _square_wave(gpu, load, batch, cycles)
    finally:
        data = sampler.stop()
    prefix = _prefix(gpu, data["gpus"])
    energy = _column(data, f"{prefix}energy_j")
    found = {}
    for name in SENSORS:
        watts = _column(data, prefix + name)
        if watts is not None:
            found[name] = sensor_behaviour.analyse(data["t_ns"], watts, edges_ns, energy)
    if not found:
        raise RuntimeError(data["absent"].get(prefix + SENSORS[0], "NVML gives no power of this GPU"))
    return {"cycles": cycles, "half_period_s": _HALF_S, "period_s": _PERIOD_S, "samples": len(data["t_ns"]),
            "late": data["late"], "sensors": found}  # fmt: skip


def _square_wave(gpu: Gpu, load: Run, batch: int, cycles: int) -> np.ndarray:
    """int64 (2 * cycles,): monotonic ns at which the load began, ended, began, ..."""
    # Halves of unequal length: in step with the sensor they would show the same part of its period each time.
    draw = random.Random(1)
    edges = []
    for _ in range(cycles):
        edges.append(time.monotonic_ns())
        end = edges[-1] + int(1e9 * _HALF_S * draw.uniform(0.6, 1.4))
        while time.monotonic_ns() < end:
            for _ in range(batch):
                load()
            gpu.synchronize()
        edges.append(time.monotonic_ns())
        time.sleep(_HALF_S * draw.uniform(0.6, 1.4))
    return np.array(edges, dtype=np.int64)


def _prefix(gpu: Gpu, gpus: list[dict[str, Any]]) -> str:
    """Of the columns of this GPU: NVML counts devices that CUDA does not see, so that it is found by its UUID."""
    for one in gpus:
        if (one["uuid"] or "").removeprefix("GPU-") == gpu.uuid.removeprefix("GPU-"):
            return f"gpu{one['index']}_"
    raise RuntimeError(f"NVML knows no GPU with the UUID of CUDA's device {gpu.index}")


def _column(data: dict[str, Any], name: str) -> np.ndarray | None:
    """None where it was not read."""
    if name not in data["columns"] or name in data["absent"]:
        return None
    return data["values"][:, data["columns"].index(name)]
