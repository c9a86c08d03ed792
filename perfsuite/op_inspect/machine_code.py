"""What the machine code of a kernel says: registers, shared memory, widths of accesses, matrix instructions, spills.

Read with NVIDIA's cuobjdump and nvdisasm, which Triton brings along.
"""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple


class Code(NamedTuple):
    """Of one kernel. Widths are bytes that one thread moves with one instruction; counts are of instructions."""

    registers: int
    """Of a thread."""
    static_shared_bytes: int
    """Of a block."""
    load_widths: dict[int, int]
    """Global loads by width; those that go to shared memory asynchronously too."""
    store_widths: dict[int, int]
    bulk_copies: dict[str, int]
    """Asynchronous copies of whole tiles (TMA), by instruction; they have no width of their own."""
    matrix_instructions: dict[str, int]
    local_accesses: int
    """Loads and stores of local memory: spills, arrays indexed at run time, the stack."""
    generic_accesses: int
    """Loads and stores whose memory the compiler did not know; also those in the shared memory of a cluster's block."""


class Spills(NamedTuple):
    """Bytes of a thread that the assembler put to local memory for want of registers."""

    store_bytes: int
    load_bytes: int


_LOADS = {"LDG", "LDGSTS"}
_GENERIC = {"LD", "ST"}
_LOCAL = {"LDL", "STL"}
_BULK = re.compile(r"UBLKCP|UBLKRED|UTMA(LDG|STG|REDG)")
# HMMA and relatives: sm_80; HGMMA (wgmma): sm_90; UTC*MMA (tcgen05): sm_100.
_MATRIX = re.compile(r"([HDIQO]|B|[HIQB]G|UTC[A-Z]*)MMA")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*(?:\.\w+)*)", re.MULTILINE)


def read(binary: Path, arch: int, cuobjdump: str, nvdisasm_folder: Path) -> dict[str, Code]:
    """Of every kernel in a cubin, object or library for this compute capability, by its mangled name.

    ValueError where the tools cannot read it.
    """
    # cuobjdump looks for nvdisasm on PATH.
    environment = {"PATH": f"{nvdisasm_folder}:/usr/bin:/bin"}

    def ask(option: str) -> str:
        answer = subprocess.run([cuobjdump, option, str(binary)], capture_output=True, text=True, env=environment)
        if answer.returncode:
            raise ValueError(f"cuobjdump {option} failed: {(answer.stderr or answer.stdout).strip().splitlines()[-1]}")
        return answer.stdout

    usage = re.findall(r"Function (\S+):\s+REG:(\d+) .*?SHARED:(\d+)", ask("--dump-resource-usage"))
    if not usage:
        return {}
    parts = re.split(r"^\s*Function : (\S+)$", ask("-sass"), flags=re.MULTILINE)
    texts = dict(zip(parts[1::2], parts[2::2], strict=True))
    # From sm_90 on the figure has the driver's own part in it, as soon as any kernel in the file uses shared memory.
    driver = 1024 if arch >= 90 else 0
    return {
        name: _code(int(registers), max(0, int(shared) - driver), texts[name]) for name, registers, shared in usage
    }


def _code(registers: int, shared: int, text: str) -> Code:
    loads: Counter[int] = Counter()
    stores: Counter[int] = Counter()
    bulk: Counter[str] = Counter()
    matrix: Counter[str] = Counter()
    local = generic = 0
    for instruction in _INSTRUCTION.findall(text):
        name, *modifiers = instruction.split(".")
        if name in _LOADS:
            loads[_width(modifiers)] += 1
        elif name == "STG":
            stores[_width(modifiers)] += 1
        elif name in _LOCAL:
            local += 1
        elif name in _GENERIC:
            generic += 1
        elif _BULK.fullmatch(name):
            bulk[name] += 1
        elif _MATRIX.fullmatch(name):
            matrix[name] += 1
    ordered = [dict(sorted(counter.items())) for counter in (loads, stores)]
    return Code(registers, shared, *ordered, dict(sorted(bulk.items())), dict(sorted(matrix.items())), local, generic)


def _width(modifiers: list[str]) -> int:
    for modifier in modifiers:
        if modifier in ("U8", "S8"):
            return 1
        if modifier in ("U16", "S16"):
            return 2
        if modifier in ("64", "128", "256"):
            return int(modifier) // 8
    return 4


def spills(log: str) -> dict[str, Spills]:
    """By mangled name, from what ptxas -v prints."""
    pattern = r"Function properties for (\S+)\s+.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
    return {name: Spills(int(stores), int(loads)) for name, stores, loads in re.findall(pattern, log)}


def demangle(names: list[str]) -> list[str]:
    """As short as they stay readable: without namespaces and parameters. As they are where there is no c++filt."""
    if not names or shutil.which("c++filt") is None:
        return names
    answer = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return [_short(name) for name in answer.stdout.splitlines()]


def _short(name: str) -> str:
    name = name.replace("(anonymous namespace)::", "").replace("perfsuite::cuda::", "")
    name = re.sub(r"_GLOBAL__N__\w+::", "", name).removeprefix("void ")
    name = name.replace("__nv_bfloat16", "bfloat16").replace("__half", "float16")
    return re.sub(r"\((int|bool|long|unsigned int|unsigned long)\)", "", name).partition("(")[0]
