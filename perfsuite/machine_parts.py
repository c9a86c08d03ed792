"""Parts of a machine that no ceiling depends on, but that a system description names: sockets, disks, network, links.

No serial numbers, no addresses, no names that an owner gave. What cannot be seen is None.
"""

from pathlib import Path
from typing import Any

from perfsuite.topology import ROOT, read_text

_SECTOR_BYTES = 512  # of /sys/block/*/size, whatever the disk's own
_ETHERNET = "1"


def parts(root: Path = ROOT) -> dict[str, Any]:
    """sockets: processors; disks: {"type", "size_bytes"} of each; networks: {"type", "speed_bps"} of each link."""
    return {"sockets": _sockets(root), "disks": _disks(root), "networks": _networks(root)}


def _sockets(root: Path) -> int | None:
    folders = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/topology/physical_package_id")
    return len({read_text(path) for path in folders}) or None


def _disks(root: Path) -> list[dict[str, Any]]:
    found = []
    for folder in sorted((root / "sys/block").glob("*")):
        sectors = read_text(folder / "size")
        if not (folder / "device").exists() or not sectors or sectors == "0" or folder.name.startswith("sr"):
            continue  # loop devices, memory disks, and drives for discs
        spinning = read_text(folder / "queue/rotational") == "1"
        kind = ("virtual disk" if folder.name.startswith(("vd", "xvd")) else
                "NVMe SSD" if folder.name.startswith("nvme") else "hard disk" if spinning else "SSD")  # fmt: skip
        found.append({"type": kind, "size_bytes": int(sectors) * _SECTOR_BYTES})
    return found


def _networks(root: Path) -> list[dict[str, Any]]:
    found = []
    for folder in sorted((root / "sys/class/net").glob("*")):
        if not (folder / "device").exists():
            continue  # not hardware
        megabits = read_text(folder / "speed")
        known = megabits is not None and megabits.isdigit()  # -1: the driver does not say
        kind = "Ethernet" if read_text(folder / "type") == _ETHERNET else "InfiniBand or another link"
        found.append({"type": kind, "speed_bps": int(megabits) * 10**6 if known else None})
    return found


def gpu_parts(pynvml: Any, handle: Any) -> dict[str, Any]:
    """Of one GPU, by NVML: highest SM clock, PCIe generation and width, width of its memory bus."""
    asked = {
        "max_sm_clock_hz": lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM) * 10**6,
        "max_memory_clock_hz": lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM) * 10**6,
        "pcie_generation": lambda: pynvml.nvmlDeviceGetMaxPcieLinkGeneration(handle),
        "pcie_lanes": lambda: pynvml.nvmlDeviceGetMaxPcieLinkWidth(handle),
        "memory_bus_bits": lambda: pynvml.nvmlDeviceGetMemoryBusWidth(handle),
    }
    found = {}
    for name, ask in asked.items():
        try:
            found[name] = ask()
        except pynvml.NVMLError:
            found[name] = None
    return found
