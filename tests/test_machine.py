"""The fingerprint sees what is there, says what is not, and the cache gives ceilings back to their own machine only."""

import copy
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest

from perfsuite import ceilings, machine, topology


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def cache_files(cpu: int, index: int, level: int, kind: str, size: str, shared: str) -> dict[str, str]:
    folder = f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
    return {
        f"{folder}/level": str(level),
        f"{folder}/type": kind,
        f"{folder}/size": size,
        f"{folder}/coherency_line_size": "64",
        f"{folder}/shared_cpu_list": shared,
    }


def leaves(value: Any) -> Iterator[Any]:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if children is None:
        yield value
    else:
        for child in children:
            yield from leaves(child)


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "perfsuite"


def some_ceilings(fp: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": 1,
        "fingerprint_id": machine.fingerprint_id(fp),
        "threads": 2,
        "default_threads": 2,
        "others_busy_cpus": 0.0,
        "levels": [{"name": "DRAM"}],
    }


def test_fingerprint_is_plain_json_and_the_same_twice() -> None:
    fp = machine.fingerprint()
    assert json.loads(json.dumps(fp)) == fp
    assert machine.fingerprint_id(fp) == machine.fingerprint_id(machine.fingerprint())
    assert fp["cpu"]["logical_available"] == len(topology.available_cpus())


def test_without_sysfs_and_procfs_what_is_unknown_has_a_reason(tmp_path: Path) -> None:
    fp = machine.fingerprint(tmp_path)
    assert fp["caches"] == [] and "cache sizes are not visible" in fp["caches_reason"]
    for group, key in [
        ("cpu", "model"),
        ("cpu", "physical_available"),
        ("cpu", "quota_cpus"),
        ("memory", "total_bytes"),
        ("memory", "limit_bytes"),
        ("frequency", "governor"),
        ("frequency", "turbo"),
    ]:
        assert fp[group][key] is None and fp[group][f"{key}_reason"], key
    assert fp["virtualised"]["value"] is None and fp["virtualised"]["reason"]
    assert machine.machine_name(fp).startswith(platform.machine().replace("_", "-"))
    assert machine.fingerprint_id(fp) != machine.fingerprint_id(machine.fingerprint())


def test_host_name_stays_at_home() -> None:
    fp, host = machine.fingerprint(), platform.node().lower()
    assert not any(host == str(leaf).lower() for leaf in leaves(fp))
    assert "-" + host + "-" not in machine.machine_name(fp)


def test_machine_name_is_a_slug_of_the_model_and_the_hardware(tmp_path: Path) -> None:
    info = {"proc/cpuinfo": "model name : Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz\nflags : fpu hypervisor"}
    fp = machine.fingerprint(write(tmp_path, info))
    fp["gpus"] = None
    name = machine.machine_name(fp)
    assert name.startswith("intel-xeon-platinum-8480-") and fp["virtualised"]["value"] is True
    other_torch = copy.deepcopy(fp) | {"torch": "9.9"}
    assert machine.machine_name(other_torch) == name
    assert machine.fingerprint_id(other_torch) != machine.fingerprint_id(fp)
    more_memory = copy.deepcopy(fp)
    more_memory["memory"]["total_bytes"] = 1 << 40
    assert machine.machine_name(more_memory) != name
    fp["gpus"] = [{"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 85 << 30, "power_limit_w": 700.0}]
    assert machine.machine_name(fp).startswith("nvidia-h100-80gb-hbm3-x1-")


def test_the_kernel_and_small_changes_of_memory_do_not_change_the_id() -> None:
    fp = machine.fingerprint()
    other = copy.deepcopy(fp)
    other["os"]["kernel"] = "99.0"
    other["memory"]["total_bytes"] += 1 << 20
    assert machine.fingerprint_id(other) == machine.fingerprint_id(fp)
    other["cpu"]["quota_cpus"] = 0.5
    assert machine.fingerprint_id(other) != machine.fingerprint_id(fp)


def test_caches_of_a_hybrid_machine(tmp_path: Path) -> None:
    files = {}
    for cpu, size in [(0, "48K"), (1, "32K"), (2, "32K")]:
        files |= cache_files(cpu, 0, 1, "Data", size, str(cpu))
        files |= cache_files(cpu, 1, 1, "Instruction", "64K", str(cpu))
        files |= cache_files(cpu, 2, 2, "Unified", "2M", "0" if cpu == 0 else "1-2")
    found, reason = topology.data_caches([0, 1, 2], write(tmp_path, files))
    assert reason is None
    assert found == [
        (1, 32 << 10, 64, (1,)),
        (1, 32 << 10, 64, (2,)),
        (1, 48 << 10, 64, (0,)),
        (2, 2 << 20, 64, (0,)),
        (2, 2 << 20, 64, (1, 2)),
    ]


def test_cores_group_their_threads(tmp_path: Path) -> None:
    folder = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    root = write(tmp_path, {folder.format(cpu): f"{cpu % 2},{cpu % 2 + 2}" for cpu in range(4)})
    assert topology.cores([0, 1, 2, 3], root) == ([(0, 2), (1, 3)], None)
    assert topology.cores([0, 1, 2, 9], root)[0] is None


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "150000 100000"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, None),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
                "sys/fs/cgroup/a/cpu.max": "50000 100000",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/b/cpu.max": "70000 100000",
                "sys/fs/cgroup/a/cpu.max": "400000 100000",
            },
            0.7,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/x\n0::/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/x",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
)
def test_quota_of_the_control_group(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    found, reason = topology.cpu_quota(write(tmp_path, files))
    assert found == quota and (quota is not None or reason == "no quota is set")


def test_memory_limit_of_the_control_group(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/memory.max": "1048576"}
    assert topology.memory_limit_bytes(write(tmp_path, files)) == (1 << 20, None)
    write(tmp_path, {"sys/fs/cgroup/a/memory.max": "9223372036854771712"})
    assert topology.memory_limit_bytes(tmp_path) == (None, "no limit is set")


def test_worker_cpus_are_within_the_process_and_checked() -> None:
    cpus = topology.available_cpus()
    assert set(topology.worker_cpus()) <= set(cpus)
    assert sorted(topology.worker_cpus(len(cpus))) == cpus
    for threads in (0, -1, len(cpus) + 1):
        with pytest.raises(ValueError, match="the processors this process may use"):
            topology.worker_cpus(threads)


def test_a_gpu_whose_power_limit_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        total = 85 << 30

    def refuse(_handle: object) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda _handle: "NVIDIA H100",
        "nvmlDeviceGetMemoryInfo": lambda _handle: Memory,
        "nvmlDeviceGetEnforcedPowerLimit": refuse,
        "nvmlSystemGetDriverVersion": lambda: "580.1",
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    fp = machine.fingerprint()
    assert fp["driver"] == "580.1" and fp["gpus_reason"] is None
    assert fp["gpus"] == [
        {
            "name": "NVIDIA H100",
            "memory_bytes": 85 << 30,
            "power_limit_w": None,
            "power_limit_w_reason": "NVML: Not Supported",
            "parts": dict.fromkeys(("max_sm_clock_hz", "max_memory_clock_hz", "pcie_generation", "pcie_lanes",
                                    "memory_bus_bits")),
        }
    ]


def test_cache_round_trip(cache_home: Path) -> None:
    fp = machine.fingerprint()
    assert machine.load_ceilings(fp) == (
        None,
        "no ceilings have been measured on this machine as it is now: run `perfsuite machine`",
    )
    path, reason = ceilings.save(some_ceilings(fp))
    assert reason is None and path is not None and path.parent == cache_home
    assert machine.load_ceilings() == (some_ceilings(fp), None)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"schema": 99, "levels": [1]}', '{"schema": 1, "levels": []}', "\udcff"]
)
def test_a_corrupt_cache_is_not_used(cache_home: Path, content: str) -> None:
    path, _ = ceilings.save(some_ceilings(machine.fingerprint()))
    path.write_text(content, errors="surrogateescape")
    found, reason = machine.load_ceilings()
    assert found is None and str(path) in reason and "measure again" in reason and "\n" not in reason


def test_a_cache_of_another_machine_is_not_used(cache_home: Path) -> None:
    fp = machine.fingerprint()
    path, _ = ceilings.save(some_ceilings(fp))
    path.write_text(json.dumps(some_ceilings(fp) | {"fingerprint_id": "0" * 12}))
    found, reason = machine.load_ceilings(fp)
    assert found is None and "measured on another machine" in reason
    path.write_text(json.dumps(some_ceilings(fp)))
    fp["cpu"]["model"] = "another"
    assert machine.load_ceilings(fp)[0] is None


@pytest.mark.parametrize("where", ["file", "sysfs", "locked"])
def test_a_cache_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "locked").mkdir(mode=0o500)
    home = {"file": tmp_path / "file", "sysfs": Path("/sys"), "locked": tmp_path / "locked"}[where]
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    try:
        (home / "probe").touch()
        pytest.skip("this user may write everywhere")
    except OSError:
        pass
    path, reason = ceilings.save(some_ceilings(machine.fingerprint()))
    assert path is None and "not kept" in reason and "XDG_CACHE_HOME" in reason
    assert machine.load_ceilings()[0] is None


def test_an_interrupted_save_leaves_what_was_there(cache_home: Path) -> None:
    good = some_ceilings(machine.fingerprint())
    ceilings.save(good)
    with pytest.raises(TypeError):
        ceilings.save(good | {"levels": [object()]})
    assert machine.load_ceilings() == (good, None)
    assert len(list(cache_home.iterdir())) == 1


def test_ceilings_of_other_threads_are_not_kept(cache_home: Path) -> None:
    path, reason = ceilings.save(some_ceilings(machine.fingerprint()) | {"threads": 1})
    assert path is None and "1 threads instead of 2" in reason and not cache_home.exists()


def test_nothing_here_imports_torch() -> None:
    code = (
        "import sys, perfsuite.machine, perfsuite.ceilings, perfsuite.report.machine_text\n"
        "perfsuite.machine.fingerprint(); perfsuite.machine.load_ceilings()\n"
        "sys.exit('torch' in sys.modules or 'triton' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ceilings_taken_while_others_were_busy_are_not_kept(cache_home: Path) -> None:
    path, reason = ceilings.save(some_ceilings(machine.fingerprint()) | {"others_busy_cpus": 1.5})
    assert path is None and "1.5 processors busy" in reason
    assert not cache_home.exists()


def test_parts_are_hardware_and_not_what_the_kernel_makes(tmp_path: Path) -> None:
    write(tmp_path, {
        **{f"sys/devices/system/cpu/cpu{i}/topology/physical_package_id": str(i // 2) for i in range(4)},
        "sys/block/nvme0n1/device/model": "made up", "sys/block/nvme0n1/size": "2000",
        "sys/block/nvme0n1/queue/rotational": "0",
        "sys/block/sda/device/model": "made up", "sys/block/sda/size": "4000", "sys/block/sda/queue/rotational": "1",
        "sys/block/loop0/size": "8", "sys/block/zram0/size": "8",
        "sys/class/net/lo/type": "772",
        "sys/class/net/eth0/type": "1", "sys/class/net/eth0/speed": "25000", "sys/class/net/eth0/device/vendor": "x",
        "sys/class/net/ib0/type": "32", "sys/class/net/ib0/speed": "-1", "sys/class/net/ib0/device/vendor": "x",
    })  # fmt: skip
    assert machine.fingerprint(tmp_path)["parts"] == {
        "sockets": 2,
        "disks": [{"type": "NVMe SSD", "size_bytes": 1_024_000}, {"type": "hard disk", "size_bytes": 2_048_000}],
        "networks": [{"type": "Ethernet", "speed_bps": 25 * 10**9},
                     {"type": "InfiniBand or another link", "speed_bps": None}],
    }  # fmt: skip
