"""systems/<system>.json of a submission: the 33 fields, filled from what a record knows of its machine.

Nothing is guessed: a field that the record does not know says "not known" and why. All values are text, as the official
system description checker joins them. Source: submission rules, "System description".
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from perfsuite.mlperf.system_fields import FIELDS, STATUSES

STATUS = "Research, Development, or Internal (RDI)"
_NOT_LOOKED_AT = "not known: records do not hold it"
_NO_ACCELERATOR = "none: the run was on the CPU"
_SET_ELSEWHERE = {"division": "--division", "submitter": "--org", "system_name": "--system"}


def describe(
    machine: Mapping[str, Any], device: str, *, submitter: str, division: str, system: str, told: Mapping[str, str]
) -> dict[str, str]:
    """The description of a machine that runs were made on. told: fields that the user fills.

    machine: the machine part of a record; device: what the runs were on, "cpu" or "cuda". Raises ValueError, in one
    line, for a field that does not exist or a value that it may not have.
    """
    refuse(told)
    fp = machine["fingerprint"]
    known = {
        "submitter": submitter,
        "division": division,
        "status": STATUS,
        "system_name": system,
        "number_of_nodes": "1",
        **_host(fp),
        **(_gpu(fp) if device.startswith("cuda") else _no_gpu()),
        "hw_notes": _hardware_notes(fp, device),
        "framework": f"PyTorch {fp['torch']}" if fp["torch"] else f"not known: {fp['torch_reason']}",
        "other_software_stack": _software(fp),
        "operating_system": f"{fp['os']['distribution'] or fp['os']['system']}, kernel {fp['os']['kernel']}",
        "sw_notes": "described by perfsuite from a record of the runs",
    }
    described = dict.fromkeys(FIELDS, _NOT_LOOKED_AT) | known | dict(told)
    return {field: described[field] for field in FIELDS}


def refuse(told: Mapping[str, str]) -> None:
    """Raise ValueError for what --set may not say."""
    for field, value in told.items():
        if field not in FIELDS:
            near = difflib.get_close_matches(field, FIELDS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"--set {field}: a system description has no field of that name{hint}")
        if field in _SET_ELSEWHERE:
            raise ValueError(f"--set {field}: {_SET_ELSEWHERE[field]} says it")
        if field == "status" and value not in STATUSES:
            raise ValueError(f"--set status={value}: it is one of {'; '.join(STATUSES)}")


def unknown(described: Mapping[str, str]) -> list[str]:
    """Fields that say that they are not known: what --set is for."""
    return [field for field, value in described.items() if value.startswith("not known")]


def _host(fp: Mapping[str, Any]) -> dict[str, str]:
    cpu, memory, highest = fp["cpu"], fp["memory"], fp["frequency"]["max_hz"]
    whole = cpu["logical_available"] == cpu["logical_total"]
    cores = cpu["physical_available"]
    if cores is None:
        core_count = f"not known: {cpu['physical_available_reason']}"
    else:
        core_count = f"{cores}, of all processors together" if whole else (
            f"not known: the runs might use {cores} cores of the machine's")  # fmt: skip
    return {
        **_parts(fp.get("parts")),
        "host_processor_model_name": cpu["model"] or f"not known: {cpu['model_reason']}",
        "host_processor_core_count": core_count,
        "host_processor_vcpu_count": f"{cpu['logical_total']}, of all processors together",
        "host_processor_frequency": f"{highest / 1e9:.2f} GHz at most" if highest else
        f"not known: {fp['frequency']['governor_reason'] or 'the kernel shows no highest frequency'}",
        "host_processor_caches": _caches(fp),
        "host_memory_capacity": f"{memory['total_bytes'] / 2**30:.1f} GiB" if memory["total_bytes"] else
        f"not known: {memory['total_bytes_reason']}",
        "host_networking_topology": "none: one node",
    }  # fmt: skip


def _parts(parts: Mapping[str, Any] | None) -> dict[str, str]:
    """Of what machine_parts.py saw; records of before it have none."""
    if parts is None:
        return {}
    sockets, disks, networks = parts["sockets"], parts["disks"], parts["networks"]
    hidden = "not known: the kernel shows none"
    links = _counted(f"{link['type']}, {_speed(link['speed_bps'])}" for link in networks)
    return {
        "host_processors_per_node": str(sockets) if sockets else hidden,
        "host_processor_interconnect": "none: one processor" if sockets == 1 else _NOT_LOOKED_AT,
        "host_storage_type": _counted(disk["type"] for disk in disks) or hidden,
        "host_storage_capacity": _counted(_terabytes(disk["size_bytes"]) for disk in disks) or hidden,
        "host_networking": f"{links or hidden}; the runs used one machine and no network",
    }


def _counted(names: Iterable[str]) -> str:
    """ "2x SSD, 1x hard disk"."""
    return ", ".join(f"{count}x {name}" for name, count in Counter(names).items())


def _terabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e12:.2f} TB" if size_bytes >= 1e12 else f"{size_bytes / 1e9:.0f} GB"


def _speed(speed_bps: int | None) -> str:
    return f"{speed_bps / 1e9:g} Gb/s" if speed_bps else "its driver does not say how fast"


def _caches(fp: Mapping[str, Any]) -> str:
    if not fp["caches"]:
        return f"not known: {fp['caches_reason']}"
    return "; ".join(f"L{c['level']}{'d' if c['level'] == 1 else ''}: {c['size_bytes'] / 2**10:g} KiB "
                     f"({c['instances']} instances)" for c in fp["caches"])  # fmt: skip


def _no_gpu() -> dict[str, str]:
    return {field: "0" if field == "accelerators_per_node" else _NO_ACCELERATOR for field in FIELDS
            if field.startswith("accelerator")}  # fmt: skip


def _gpu(fp: Mapping[str, Any]) -> dict[str, str]:
    gpus = fp["gpus"] or []
    if not gpus:
        return {field: f"not known: {fp['gpus_reason']}" for field in FIELDS if field.startswith("accelerator")}
    first = gpus[0]
    alike = all(gpu["name"] == first["name"] for gpu in gpus)
    memory = first["memory_bytes"]
    return {
        "accelerators_per_node": "1",
        "accelerator_model_name": first["name"] if alike else "not known: the machine has several models",
        "accelerator_memory_capacity": f"{memory / 2**30:.1f} GiB" if alike and memory else _NOT_LOOKED_AT,
        **(_gpu_parts(first["parts"]) if alike and first.get("parts") else {}),
        "accelerator_interconnect": "none: one accelerator was used",
        "accelerator_interconnect_topology": "none: one accelerator was used",
    }


def _gpu_parts(parts: Mapping[str, Any]) -> dict[str, str]:
    said = "not known: NVML does not say"
    generation, lanes = parts["pcie_generation"], parts["pcie_lanes"]
    bus, memory_hz, sm_hz = parts["memory_bus_bits"], parts["max_memory_clock_hz"], parts["max_sm_clock_hz"]
    link = f"PCIe generation {generation}, {lanes} lanes" if generation and lanes else said
    return {
        "accelerator_host_interconnect": link,
        "accelerator_frequency": f"{sm_hz / 1e6:.0f} MHz at most" if sm_hz else said,
        "accelerator_memory_configuration": f"bus of {bus} bits, {memory_hz / 1e6:.0f} MHz at most" if bus and memory_hz
        else said,
    }  # fmt: skip


def _hardware_notes(fp: Mapping[str, Any], device: str) -> str:
    said = []
    if fp["memory"]["numa_nodes"]:
        said.append(f"NUMA nodes: {fp['memory']['numa_nodes']}")
    if fp["virtualised"]["value"]:
        said.append("a virtual machine")
    if fp["cpu"]["quota_cpus"]:
        said.append(f"processor time of {fp['cpu']['quota_cpus']:g} processors")
    gpus = fp["gpus"] or []
    if device.startswith("cuda") and gpus:
        said.append(f"{len(gpus)} accelerators in the machine, of which a run uses one")
        said += [f"power limit {gpus[0]['power_limit_w']:g} W"] if gpus[0]["power_limit_w"] else []
    return "; ".join(said)


def _software(fp: Mapping[str, Any]) -> str:
    said = [f"{fp['python']['implementation']} {fp['python']['version']}", fp["compiler"]]
    if fp["driver"]:
        said.append(f"driver {fp['driver']}")
    return ", ".join(said)
