"""How the power sensors of known GPUs work: how often a reading is renewed, and how much of that time it covers.

Source: Yang, Adamek, Armour, "Part-time Power Measurements: nvidia-smi's Lack of Attention", arXiv:2312.02741, and the
results of over 70 cards beside it (github.com/JimZeyuYang/GPU_Power_Benchmark, Overall_Results.xlsx).
"""

from typing import NamedTuple


class PowerSensor(NamedTuple):
    """One kind of sensor. A reading is the mean power over the last `window_s` before it was renewed."""

    update_s: float
    """Time between renewals."""
    window_s: float
    """Time that a reading stands for. The shortest that was published: a shorter one only widens the bounds."""
    source: str
    """Where the two come from."""


_PAPER = "arXiv:2312.02741, measured on {}"

# By a part of the name that the driver gives.
_SENSORS = {
    "A100": PowerSensor(0.100, 0.025, _PAPER.format("A100 PCIe and SXM4")),
    "H100": PowerSensor(0.100, 0.022, _PAPER.format("H100 PCIe")),
    "V100": PowerSensor(0.020, 0.010, _PAPER.format("V100")),
    "RTX 3090": PowerSensor(0.100, 0.095, _PAPER.format("RTX 3090")),
}


def sensor_of(gpu_name: str | None) -> PowerSensor | None:
    """The power sensor of a GPU of this name, None where nobody has published how it works."""
    return next((sensor for part, sensor in _SENSORS.items() if part in (gpu_name or "")), None)
