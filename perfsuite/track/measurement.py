"""One figure of one stored file, whichever tool stored it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple


class Quantity(NamedTuple):
    """What a series is of. For each of them less is better."""

    name: str
    unit: str
    exact: bool = False
    """Without chance: every difference beyond 0.1 % and `slack` is a change."""
    slack: float = 0.0
    """In its unit."""


TIME = Quantity("time", "s")
TIME_TO_TRAIN = Quantity("time to train", "s")
TIME_PER_SAMPLE = Quantity("time per sample", "s")
SAMPLES_TO_TARGET = Quantity("samples to target", "")
ENERGY = Quantity("energy", "J")
BYTES = Quantity("bytes", "B", exact=True)
FLOPS = Quantity("flops", "", exact=True)
LAUNCHES = Quantity("launches", "", exact=True)
PEAK_MEMORY = Quantity("peak memory", "B", exact=True, slack=4096)  # a page of the allocator


@dataclass(frozen=True)
class Measurement:
    """A figure of a benchmark, and what it was measured under as far as the file says."""

    file: Path
    benchmark: str
    quantity: Quantity
    value: float
    """Positive and finite, in the quantity's unit."""
    time_s: float
    """When it was measured, seconds since 1970."""
    machine: str
    """The hardware: model and number of processors, GPUs. Two of them are never in one series."""
    commit: str | None
    """Full hash; None where the file names none."""
    dirty: bool = False
    """Whether the working tree held changes that are not in the commit."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """What a machine may change while it stays the same machine: driver, Python, libraries."""
    options: Mapping[str, str] = field(default_factory=dict)
    """How it was measured: rounds, timer, warm-up; hyperparameters of a workload."""
    yardstick: Mapping[str, float] = field(default_factory=dict)
    """Rates of the fixed copy and GEMM, per second, timed beside it."""
    source: str | None = None
    """File of the benchmark's own code, as the stored file spells it."""
    function: str | None = None
    """The test in that file; None: the whole file is the benchmark."""


def machine_id(processor: object, count: object, gpus: object = ()) -> str:
    """E.g. "amd-epyc-7b13-4cpu": the same machine gets the same name from every tool's files."""
    names = [str(processor or "unknown processor"), *(f"{count}cpu" for _ in [0] if count)]
    names += [str(gpu) for gpu in gpus] if isinstance(gpus, list) else []
    text = re.sub(r"\((r|tm|c)\)|\bcpu\b|\bprocessor\b|@.*", " ", " ".join(names[:1]).lower())
    return re.sub(r"[^a-z0-9]+", "-", " ".join([text, *names[1:]]).lower()).strip("-")


def rates(yardsticks: object) -> dict[str, float]:
    """Median rate of each yardstick, {"copy", "gemm"}, of a list of perfsuite.ceilings.yardstick() results."""
    found = {}
    for name, key in (("copy", "copy_bytes_per_s"), ("gemm", "gemm_flops_per_s")):
        listed = yardsticks if isinstance(yardsticks, list) else []
        each = [one[key] for one in listed if isinstance(one, dict) and isinstance(one.get(key), list)]
        values = [rate for one in each for rate in one if isinstance(rate, float) and 0 < rate < math.inf]
        if values:
            found[name] = median(values)
    return found
