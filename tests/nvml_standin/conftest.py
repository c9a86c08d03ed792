"""Builds the scripted libnvidia-ml.so.1 and drives its virtual clock."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from perfsuite.instruments.sampler import Sampler

MS = 1_000_000
SECOND = 1_000_000_000
START_NS = 1000 * SECOND
NEVER_NS = 2**62


class Standin:
    """One build of the library, and its script."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.lib = ctypes.CDLL(self.path)
        i64, double, text = ctypes.c_int64, ctypes.c_double, ctypes.c_char_p
        for name, arguments in {
            "reset": [ctypes.c_uint, i64],
            "gpu": [ctypes.c_uint, text, double, ctypes.c_int],
            "load": [ctypes.c_uint, double, double, double, i64, i64],
            "sensor": [ctypes.c_uint, i64, i64, i64],
            "counter": [ctypes.c_uint, i64, i64, i64],
            "fail": [ctypes.c_int, text, ctypes.c_int, ctypes.c_int, i64, i64],
            "call_takes": [i64],
            "hang": [ctypes.c_int],
            "gpm": [ctypes.c_uint, ctypes.c_int],
            "schedule": [ctypes.c_uint, i64, ctypes.c_void_p, ctypes.c_void_p],
            "clock": [ctypes.c_int, ctypes.c_uint, ctypes.c_ulonglong, i64, i64],
            "advance_to": [i64],
            "end": [],
        }.items():
            function = getattr(self.lib, f"standin_{name}")
            function.argtypes, function.restype = arguments, None
        self.lib.standin_now_ns.restype = i64
        self.lib.standin_true_energy_j.argtypes = [ctypes.c_uint, i64]
        self.lib.standin_true_energy_j.restype = double

    @property
    def clock(self) -> tuple[int, int]:
        """Addresses of the virtual clock's functions."""
        functions = (self.lib.standin_now_ns, self.lib.standin_sleep_until_ns)
        return tuple(ctypes.cast(function, ctypes.c_void_p).value for function in functions)

    def reset(
        self, gpus: int = 1, name: str = "NVIDIA H100 80GB HBM3", limit_w: float = 700.0, mig: bool = False
    ) -> None:
        """Idle GPUs that see 25 ms of every 100 ms, with a counter renewed every 100 ms."""
        self.lib.standin_reset(gpus, START_NS)
        for i in range(gpus):
            self.lib.standin_gpu(i, name.encode(), limit_w, mig)
            self.load(gpu=i)
            self.sensor(gpu=i)
            self.counter(gpu=i)
            self.lib.standin_gpm(i, 1)

    def load(
        self, low_w: float = 100.0, high_w: float = 100.0, duty: float = 0.5, period_s: float = 1.0,
        phase_s: float = 0.0, gpu: int = 0,
    ) -> None:  # fmt: skip
        """A square wave of power."""
        self.lib.standin_load(gpu, low_w, high_w, duty, round(period_s * SECOND), round(phase_s * SECOND))

    def schedule(self, edges_s: np.ndarray, watts: np.ndarray, gpu: int = 0) -> None:
        """Any load: watts[k] from edges_s[k] to edges_s[k + 1], in seconds after START_NS."""
        edges_ns = START_NS + np.round(np.asarray(edges_s) * SECOND).astype(np.int64)
        watts = np.ascontiguousarray(watts, np.float64)
        assert len(edges_ns) == len(watts) + 1
        self.lib.standin_schedule(gpu, len(watts), edges_ns.ctypes.data, watts.ctypes.data)

    def clock_lowered(self, mhz: int, reasons: int, from_s: float, until_s: float, gpu: int = 0) -> None:
        """An SM clock, and the bits of why it is lowered, for a while. Else it is 1980 MHz under the power cap."""
        from_ns, until_ns = (START_NS + round(t * SECOND) for t in (from_s, until_s))
        self.lib.standin_clock(gpu, mhz, reasons, from_ns, until_ns)

    def sensor(self, update_ms: float = 100, window_ms: float = 25, phase_ms: float = 0, gpu: int = 0) -> None:
        """What the power sensor sees."""
        self.lib.standin_sensor(gpu, round(update_ms * MS), round(window_ms * MS), round(phase_ms * MS))

    def counter(self, update_ms: float = 100, phase_ms: float = 0, reset_s: float | None = None, gpu: int = 0) -> None:
        """How often the energy counter is renewed, and when it starts again from 0, in seconds after START_NS."""
        reset_ns = -1 if reset_s is None else START_NS + round(reset_s * SECOND)
        self.lib.standin_counter(gpu, round(update_ms * MS), round(phase_ms * MS), reset_ns)

    def fail(
        self,
        function: str,
        code: int,
        field: int = 0,
        gpu: int = -1,
        from_s: float = -1.0,
        until_s: float | None = None,
    ) -> None:
        """Let a function (or one field) return this code, for a while; gpu -1: all of them."""
        until_ns = NEVER_NS if until_s is None else START_NS + round(until_s * SECOND)
        self.lib.standin_fail(gpu, function.encode(), field, code, START_NS + round(from_s * SECOND), until_ns)

    def sampler(self, **options) -> Sampler:
        """A sampler on the virtual clock."""
        return Sampler(nvml_path=self.path, clock=self.clock, powercap="/nonexistent", **options)

    def sample(self, seconds: float, **options) -> dict:
        """What a sampler records in this much virtual time."""
        sampler = self.sampler(**options)
        sampler.start()
        self.lib.standin_advance_to(START_NS + round(seconds * SECOND))
        self.lib.standin_end()
        return sampler.stop()

    def true_energy_j(self, t0_s: float, t1_s: float, gpu: int = 0) -> float:
        """What the GPU has really drawn between two times after START_NS."""
        t0, t1 = (START_NS + round(t * SECOND) for t in (t0_s, t1_s))
        return self.lib.standin_true_energy_j(gpu, t1) - self.lib.standin_true_energy_j(gpu, t0)


@pytest.fixture(scope="session")
def build_standin(tmp_path_factory) -> Callable[..., Standin]:
    """build(*functions to leave out) -> Standin; each variant is compiled once a session."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build the NVML stand-in with")
    built: dict[tuple[str, ...], Standin] = {}
    folder = tmp_path_factory.mktemp("nvml")

    def build(*omit: str) -> Standin:
        if omit not in built:
            path = folder / f"variant{len(built)}" / "libnvidia-ml.so.1"
            path.parent.mkdir()
            flags = ["-std=c11", "-O1", "-shared", "-fPIC", *(f"-DOMIT_{name}" for name in omit)]
            source = Path(__file__).with_name("standin.c")
            subprocess.run([compiler, *flags, source, "-o", path, "-lm", "-pthread"], check=True)
            built[omit] = Standin(path)
        built[omit].reset()
        return built[omit]

    return build


@pytest.fixture
def standin(build_standin) -> Standin:
    """The whole library, freshly reset, with one GPU."""
    return build_standin()
