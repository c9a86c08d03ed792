"""Processors, caches and limits that this process may use, read from sysfs, procfs and the control group. A leaf.

Every function takes the root of the file system, so that other machines' files can be looked at.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")
_CFS = ("quota", "period")


class Cache(NamedTuple):
    """One cache that holds data: level, size and line in bytes, and the processors that share it."""

    level: int
    size_bytes: int
    line_bytes: int
    cpus: tuple[int, ...]


def read_text(path: Path) -> str | None:
    """The stripped content of a small file, or None where it cannot be read (or is empty)."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Processor numbers in the kernel's list format: "0-2,8" is (0, 1, 2, 8). Raises ValueError on anything else."""
    cpus: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return tuple(cpus)


def _parse_size(text: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def available_cpus() -> list[int]:
    """Processors in this process's affinity mask."""
    return sorted(os.sched_getaffinity(0))


def cores(cpus: Iterable[int], root: Path = ROOT) -> tuple[list[tuple[int, ...]] | None, str | None]:
    """`cpus` grouped by physical core, or (None, reason) where the kernel does not show the topology."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for cpu in cpus:
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        text = read_text(folder / "core_cpus_list") or read_text(folder / "thread_siblings_list")
        try:
            groups.setdefault(parse_cpu_list(text or ""), []).append(cpu)
        except ValueError:
            return None, f"the kernel does not show the cores: {folder} has no core_cpus_list"
    return [tuple(group) for group in groups.values()], None


def data_caches(cpus: Iterable[int], root: Path = ROOT) -> tuple[list[Cache], str | None]:
    """The data and unified caches of `cpus`, each once, by level; ([], reason) where sysfs does not show them."""
    found: set[Cache] = set()
    for cpu in cpus:
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/cache"
        for index in sorted(folder.glob("index[0-9]*")):
            kind, level = read_text(index / "type"), read_text(index / "level")
            size, line = read_text(index / "size"), read_text(index / "coherency_line_size")
            shared = read_text(index / "shared_cpu_list")
            if kind not in ("Data", "Unified") or level is None or size is None:
                continue
            # Line and sharing are left out by some hypervisors: 64 bytes and a cache of its own are the usual case.
            sharing = parse_cpu_list(shared) if shared else (cpu,)
            found.add(Cache(int(level), _parse_size(size), int(line or 64), sharing))
    if not found:
        return [], f"cache sizes are not visible: no {root / 'sys/devices/system/cpu'}/cpu*/cache/index*/size"
    return sorted(found), None


def _cgroup_folders(controller: str, root: Path) -> list[Path]:
    """Folders of this process's control group and its ancestors for a controller, v2 and v1."""
    folders = []
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        for mount in [root / "sys/fs/cgroup" / name for name in ([controller, controllers] if controllers else [""])]:
            parts = [part for part in path.split("/") if part and part != ".."]
            # Inside a container the path may be the host's; the container's own group is then the mount itself.
            folders += [mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return folders


def cpu_quota(root: Path = ROOT) -> tuple[float | None, str | None]:
    """Processors' worth of time that the control groups allow, or (None, why there is no such number)."""
    quotas, seen = [], False
    for folder in _cgroup_folders("cpu", root):
        version_2 = read_text(folder / "cpu.max")
        quota, period = version_2.split() if version_2 else (read_text(folder / f"cpu.cfs_{n}_us") for n in _CFS)
        if quota is None or period is None:
            continue
        seen = True
        if quota not in ("max", "-1"):
            quotas.append(int(quota) / int(period))
    if quotas:
        return min(quotas), None
    return None, "no quota is set" if seen else "no control group shows a quota"


def memory_limit_bytes(root: Path = ROOT) -> tuple[int | None, str | None]:
    """The control groups' memory limit in bytes, or (None, why there is no such number)."""
    limits, seen = [], False
    for folder in _cgroup_folders("memory", root):
        text = read_text(folder / "memory.max") or read_text(folder / "memory.limit_in_bytes")
        seen = seen or text is not None
        if text not in (None, "max"):
            limits.append(int(text))
    real = [limit for limit in limits if limit < 1 << 60]  # version 1 writes "no limit" as a number near 2^63
    if real:
        return min(real), None
    return None, "no limit is set" if seen else "no control group shows a limit"


def meminfo_bytes(key: str, root: Path = ROOT) -> int | None:
    """A line of /proc/meminfo, e.g. "MemTotal", in bytes; None where it is not there."""
    for line in (read_text(root / "proc/meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    return None


def busy_seconds(root: Path = ROOT) -> float | None:
    """Processor seconds since boot that were not idle, of everybody, the hypervisor's other guests (steal) included."""
    fields = (read_text(root / "proc/stat") or "").split("\n")[0].split()[1:9]
    if len(fields) < 8:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def worker_cpus(threads: int | None = None, root: Path = ROOT) -> list[int]:
    """The processors that `threads` threads are pinned to: one per core first, then their siblings.

    By default a thread for each physical core, no more than the quota allows. Raises ValueError where threads is not
    between 1 and the processors available.
    """
    cpus = available_cpus()
    groups, _ = cores(cpus, root)
    groups = groups or [(cpu,) for cpu in cpus]
    quota, _ = cpu_quota(root)
    if threads is None:
        threads = len(groups) if quota is None else max(1, min(len(groups), int(quota)))
    if not 1 <= threads <= len(cpus):
        raise ValueError(f"threads is {threads}: choose 1 to {len(cpus)}, the processors this process may use")
    ordered = [group[i] for i in range(max(map(len, groups))) for group in groups if i < len(group)]
    return ordered[:threads]
