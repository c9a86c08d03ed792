"""Build perfsuite._native, the half of the native code that needs no torch. Everything else is in pyproject.toml.

Drivers (NVML, CUPTI) are found at run time with dlopen, so that one build serves every machine.
The other half, perfsuite._torch, is compiled against the installed torch by perfsuite/torch_extension.py.
"""

import os
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

native = Pybind11Extension(
    "perfsuite._native",
    sorted(str(path) for path in Path("csrc/native").glob("*.cpp")),
    include_dirs=["csrc/native"],
    depends=sorted(str(path) for path in Path("csrc/native").glob("*.h")),
    extra_compile_args=["-O3", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"],
    extra_link_args=["-pthread", "-ldl"],
    cxx_std=17,
)

ParallelCompile(default=len(os.sched_getaffinity(0))).install()
setup(ext_modules=[native], cmdclass={"build_ext": build_ext})
