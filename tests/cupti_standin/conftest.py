"""Builds the scripted libcupti.so.13 and libcuda.so.1, and drives them."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import perfsuite.csrc
from perfsuite.instruments.kernels import KernelRecorder

FOLDER = Path(__file__).parent


class Standin:
    """One build of the CUPTI stand-in, with the driver's, and their script."""

    def __init__(self, cupti: Path, driver: Path) -> None:
        self.cupti, self.driver = str(cupti), str(driver)
        self.lib, self.driver_lib = ctypes.CDLL(self.cupti), ctypes.CDLL(self.driver)
        self.lib.standin_launch.argtypes = [ctypes.c_char_p, ctypes.c_uint64]
        self.lib.standin_copy.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int]
        self.lib.standin_count.argtypes = [ctypes.c_char_p]
        self.lib.standin_count.restype = ctypes.c_int64
        self.lib.standin_violation.restype = ctypes.c_char_p
        self.synchronize = self.lib.standin_synchronize
        self.driver_lib.standin_driver(0, 1)
        self.lib.standin_reset()

    def recorder(self, *args, **options) -> KernelRecorder:
        """A kernel recorder on these libraries."""
        return KernelRecorder(*args, driver=self.driver, cupti=self.cupti, **options)

    def launch(self, name: str = "gemm", duration_ns: int = 2000) -> None:
        """Launch a kernel from this thread."""
        self.lib.standin_launch(name.encode(), duration_ns)

    def copy(self, size_bytes: int, duration_ns: int = 2000, pinned: bool = True) -> None:
        """Copy from the host to the device."""
        self.lib.standin_copy(size_bytes, duration_ns, pinned)

    def fail(self, function: str, code: int) -> None:
        """Let a function return this code from now on."""
        self.lib.standin_fail(function.encode(), code)

    def count(self, what: str) -> int:
        """What is on now, or has happened since the reset."""
        return self.lib.standin_count(what.encode())

    def check_given_back(self) -> None:
        """Nothing is left on, and the client has done nothing wrong."""
        assert self.lib.standin_violation().decode() == ""
        on = {what: self.count(what) for what in ("kinds", "calls", "subscribed", "zeroed", "held", "pushed")}
        assert on == dict.fromkeys(on, 0)
        assert self.count("all_sync_records") == 1


@pytest.fixture(scope="session")
def build_standin(tmp_path_factory) -> Callable[..., Standin]:
    """build(*functions to leave out) -> Standin, freshly reset; each variant is compiled once a session."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler to build the CUPTI stand-in with")
    native = Path(next(iter(perfsuite.csrc.__path__)), "native")
    folder = tmp_path_factory.mktemp("cupti")
    driver = folder / "libcuda.so.1"
    shared = [compiler, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*shared, FOLDER / "driver.cpp", "-o", driver], check=True)
    built: dict[tuple[str, ...], Standin] = {}

    def build(*omit: str) -> Standin:
        if omit not in built:
            path = folder / f"variant{len(built)}" / "libcupti.so.13"
            path.parent.mkdir(exist_ok=True)
            flags = ["-std=c++17", "-O1", "-fvisibility=hidden", "-pthread", *(f"-DOMIT_{name}" for name in omit)]
            subprocess.run([*shared, *flags, f"-I{native}", FOLDER / "standin.cpp", "-o", path], check=True)
            built[omit] = Standin(path, driver)
        built[omit].lib.standin_reset()
        built[omit].driver_lib.standin_driver(0, 1)
        return built[omit]

    return build


@pytest.fixture
def standin(build_standin):
    """The whole library, freshly reset, with one GPU; whatever the test did, everything has to be given back."""
    standin = build_standin()
    yield standin
    standin.check_given_back()
