"""The sampler: power, GPU and process counters over time, read on a native thread that never takes Python's lock."""

from typing import Any

import numpy as np

from perfsuite import _native
from perfsuite.instruments import YES, Availability, no

NVML_LIBRARY = "libnvidia-ml.so.1"
POWERCAP = "/sys/class/powercap"


class Sampler:
    """Samples at absolute times with jitter, and says what could not be read and why.

    Sample k is due at start + (k + jitter * u) * period_s with u uniform in (-0.5, 0.5), drawn from `seed`: a sampler
    in step with the sensor or with the load sees the same part of them each time, and its error does not fall with
    the length of the run. The period is no divisor of the sensors' 100 or 20 ms: samples then fall everywhere between
    two renewals and date them well.
    """

    NAME = "sampler"

    def __init__(
        self,
        period_s: float = 0.047,
        jitter: float = 0.5,
        nvml_path: str | None = None,
        clock: tuple[int, int] | None = None,
        *,
        seed: int = 0,
        powercap: str = POWERCAP,
        stop_timeout_s: float = 5.0,
    ) -> None:
        """Choose the schedule and where to look for sensors.

        nvml_path: what to load in place of "libnvidia-ml.so.1". powercap: the folder of the RAPL zones.
        clock: addresses of two C functions that replace CLOCK_MONOTONIC, `int64_t now_ns(void)` and
        `int sleep_until_ns(int64_t)`; the second returns 0 at the deadline, anything else to end the sampling.
        stop_timeout_s: how long stop() waits for a driver call that hangs before it leaves the thread behind.
        Raises ValueError for a period or a jitter that makes no schedule.
        """
        if not 0.001 <= period_s <= 3600:
            raise ValueError(f"the sampler's period_s is {period_s}: it must lie between 0.001 and 3600 seconds")
        if not 0 <= jitter <= 1:
            raise ValueError(f"the sampler's jitter is {jitter}: it is a share of the period, between 0 and 1")
        self._period_s = period_s
        self._jitter = jitter
        self._seed = seed
        self._nvml = nvml_path or NVML_LIBRARY
        self._powercap = powercap
        self._clock = clock or (0, 0)
        self._stop_timeout_s = stop_timeout_s
        self._native: Any = None

    def _open(self) -> Any:
        period_ns = round(self._period_s * 1e9)
        return _native.Sampler(period_ns, self._jitter, self._seed, self._nvml, self._powercap, *self._clock)

    def sources(self) -> dict[str, Availability]:
        """Whether there is anything to read from "gpu" (NVML), "rapl" (processor energy) and "proc" (this process)."""
        return {name: no(why) if why else YES for name, why in self._open().unavailable()}

    def available(self) -> Availability:
        """Whether the GPU columns, power among them, can be sampled. The process columns always can."""
        return self.sources()["gpu"]

    def start(self) -> None:
        """Open the sensors and begin; returns once the first sample is taken."""
        if self._native is not None:
            raise RuntimeError("the sampler is running already: stop it first")
        native = self._open()
        native.start()
        self._native = native

    def stop(self) -> dict[str, Any]:
        """Take a last sample and return everything as plain data.

        Arrays: "t_ns" int64 (n,) monotonic; "values" float64 (n, columns), NaN where there is no value; "late_ns" int64
        (n,), how long after its due time each sample began. "columns" [name], "units" {column: unit}. "absent" {column
        or source: reason}: never read. "failed" [{column, reason, first_t_ns, count}]: reads that failed on the way.
        "late": {median_ns, p99_ns, max_ns, missed, dropped}, `missed` being due times that had passed before the
        sampler came to them. "gpus" [{index, name, uuid, power_limit_w, ...}], "rapl" [{name, column, range_j}].
        "cost": {cpu_s, cpu_s_per_sample} of the sampling thread. "error": a reason where the thread had to be left
        behind. "period_s", "jitter", "seed" as given.
        """
        if self._native is None:
            raise RuntimeError("the sampler is not running: start it first")
        native, self._native = self._native, None
        stopped = native.stop(round(self._stop_timeout_s * 1e9))
        data = native.samples()
        columns = native.columns()
        absent = {name: why for name, why in native.unavailable() if why}
        absent |= {name: why for name, _, why in columns if why}
        error = None if stopped else f"a sensor read did not return within {self._stop_timeout_s:g} s of the end"
        return {
            "t_ns": data["t_ns"],
            "values": data["values"],
            "late_ns": data["late_ns"],
            "columns": [name for name, _, _ in columns],
            "units": {name: unit for name, unit, _ in columns},
            "absent": absent,
            "failed": [
                {"column": column, "reason": reason, "first_t_ns": first, "count": count}
                for column, reason, first, count in data["failures"]
            ],
            "period_s": self._period_s,
            "jitter": self._jitter,
            "seed": self._seed,
            "late": lateness(data["late_ns"]) | {"missed": data["missed"], "dropped": data["dropped"]},
            "gpus": native.gpus(),
            "rapl": native.rapl(),
            "cost": {"cpu_s": data["cpu_ns"] / 1e9, "cpu_s_per_sample": data["cpu_ns"] / 1e9 / len(data["t_ns"])},
            "error": error,
        }


def lateness(late_ns: np.ndarray) -> dict[str, int]:
    """Median, 99th percentile and maximum of the samples' lateness, in ns."""
    median, p99 = np.percentile(late_ns, [50, 99])
    return {"median_ns": int(median), "p99_ns": int(p99), "max_ns": int(late_ns.max())}
