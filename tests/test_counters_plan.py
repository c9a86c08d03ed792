"""Planning of hardware counters for every chip that CUPTI knows, through its real host library, and our declarations of
its interface. No GPU and no driver."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import perfsuite.csrc
from perfsuite import _native
from perfsuite.counters import library as counter_library
from perfsuite.counters.planner import plan
from perfsuite.counters.sets import SETS

NATIVE = Path(next(iter(perfsuite.csrc.__path__)), "native")
BYTES = ["dram__bytes_read.sum", "dram__bytes_write.sum", "lts__t_bytes.sum", "l1tex__t_bytes.sum"]
TENSOR = "sm__ops_path_tensor_src_{}.sum"


def skip_or_fail(reason):
    if os.environ.get("PERFSUITE_REQUIRE_VENDOR_HEADERS"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def cupti():
    try:
        return counter_library.load()
    except counter_library.CounterLibraryError as error:
        skip_or_fail(str(error))


def host(cupti, chip, collection=_native.Collection.ranges):
    return _native.CounterHost(cupti, chip, collection)


def passes(cupti, chip, metrics, collection=_native.Collection.ranges):
    its = host(cupti, chip, collection)
    return its.passes(its.config_image(metrics))


def test_all_chips_are_known(cupti):
    chips = cupti.chips()
    assert len(chips) == len(set(chips)) >= 30
    assert {"GV100", "TU102", "GA100", "AD102", "GH100", "GB100", "GB202"} <= set(chips)


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_planned_for_every_chip(cupti, name):
    wanted = SETS[name]
    for chip in cupti.chips():
        found = plan(cupti, chip, name)
        planned = [column.quantity.name for column in found.columns]
        assert sorted([*planned, *found.absent]) == sorted(quantity.name for quantity in wanted.quantities), chip
        assert all(found.absent.values()), chip
        if not planned:
            # Volta has no PM sampling, and Xavier no profiler that this CUPTI knows.
            assert chip in ("GV100", "GV11B") and found.passes == found.config_bytes == 0
            continue
        assert 1 <= found.passes <= wanted.passes
        its = host(cupti, chip, wanted.collection)
        image = its.config_image(found.metrics)
        assert its.passes(image) == found.passes and len(image) == found.config_bytes > 0
        for column in found.columns:
            for metric in column.option.metrics:
                unit = its.properties(metric)[2]
                expected = {"B": ("l2_sector", "l1_sector", "sector") if column.option.scale == 32 else ("byte",),
                            "ns": ("nanosecond",), "1": ("math_op",)}.get(column.quantity.unit)  # fmt: skip
                assert expected is None or unit in expected, (chip, metric, unit)
                assert (column.quantity.unit == "share") == (".pct" in metric)


def test_whole_sets_on_an_h100(cupti):
    """What a run on an H100 gets, in one pass each."""
    for name in ("memory", "compute"):
        found = plan(cupti, "GH100", name)
        assert found.passes == 1 and not found.absent
    assert len(plan(cupti, "GH100", "memory").columns) == 13
    assert plan(cupti, "GH100", "bytes").passes == 6


@pytest.mark.parametrize("metrics, count", [
    (BYTES[:2], 1),
    ([*BYTES, TENSOR.format("bf16_dst_fp32")], 1),
    (["lts__t_sectors_lookup_hit.sum", "lts__t_sectors_lookup_miss.sum"], 2),
    (["lts__t_sector_hit_rate.pct"], 2),
    ([TENSOR.format("fp16")], 2),
    ([TENSOR.format(source) for source in ("bf16_dst_fp32", "fp16", "tf32_dst_fp32")], 4),
    (["sm__throughput.avg.pct_of_peak_sustained_elapsed"], 8),
])  # fmt: skip
def test_passes_on_an_h100(cupti, metrics, count):
    assert passes(cupti, "GH100", metrics) == count


@pytest.mark.parametrize("chip, name, metric", [
    ("GH100", "dram_read_bytes", "dram__bytes_read.sum"),
    ("GB202", "dram_read_bytes", "dram__bytes_op_read.sum"),
    ("GB202", "dram_write_bytes", "dram__bytes_op_write.sum"),
    ("GH100", "l2_hit_share", "LTS.TriageCompute.lts__average_t_sector_hit_rate_realtime.pct"),
    ("AD102", "l2_hit_share", "LTS.TriageAC.lts__average_t_sector_hit_rate_realtime.pct"),
    ("GB202", "l2_hit_share", "lts__average_t_sector_hit_rate_realtime.pct"),
    # The plain name needs a second pass beside the others here.
    ("GH100", "tensor_active_share",
     "TPC.TriageCompute.sm__pipe_tensor_cycles_active_realtime.avg.pct_of_peak_sustained_elapsed"),
    ("GA100", "l2_hit_share", None),
    ("AD102", "nvlink_rx_bytes", None),
    ("GB100", "pcie_read_bytes", None),
    ("GB10B", "dram_read_bytes", None),
])  # fmt: skip
def test_names_differ_between_chips(cupti, chip, name, metric):
    found = plan(cupti, chip, "memory")
    chosen = {column["name"]: column["metric"] for column in found.as_dict()["columns"]}
    assert chosen.get(name) == metric
    assert (name in found.absent) == (metric is None)


def test_reasons_tell_missing_from_too_many(cupti):
    assert plan(cupti, "AD102", "memory").absent["nvlink_tx_bytes"] == "AD102 has none of nvltx__bytes.sum"
    assert "2 passes are needed, 1 allowed" in plan(cupti, "GA100", "memory").absent["l2_hit_share"]
    assert plan(cupti, "GV100", "memory").absent["l2_bytes"].startswith("GV100 has no PM sampling: ")


def test_the_most_important_come_first_where_passes_are_few(cupti):
    one, two = plan(cupti, "GH100", "bytes", passes=1), plan(cupti, "GH100", "bytes", passes=2)
    names = [[column.quantity.name for column in found.columns] for found in (one, two)]
    assert names[0][:6] == ["dram_read_bytes", "dram_write_bytes", "l2_bytes", "l1_bytes", "duration_ns",
                            "tensor_ops_bf16"]  # fmt: skip
    assert "tensor_ops_tf32" not in names[0] and "tensor_ops_tf32" in names[1]
    assert (one.passes, two.passes) == (1, 2)


def test_what_is_summed_of_two_counters(cupti):
    column = next(c for c in plan(cupti, "GA100", "bytes").columns if c.quantity.name == "tensor_ops_fp16")
    both = (TENSOR.format("fp16_dst_fp32"), TENSOR.format("fp16_dst_fp16"))
    assert column.option.metrics == both and column.as_dict()["metric"] == " + ".join(both)


def test_unknown_names_are_refused(cupti):
    with pytest.raises(RuntimeError, match="failed"):
        host(cupti, "GH100").config_image(["dram__bytes_eaten.sum"])
    absent = plan(cupti, "GX999", "memory").absent
    assert len(absent) == len(SETS["memory"].quantities) and "GX999" in absent["l2_bytes"]
    with pytest.raises(KeyError):
        plan(cupti, "GH100", "everything")


def test_what_is_no_sample_data_is_not_evaluated(cupti):
    """What CUPTI's own host library says of it. (Of ranges it reads anything that it is given, and crashes.)"""
    its = host(cupti, "GH100", _native.Collection.sampling)
    for data in (b"", bytes(1 << 16), its.config_image(BYTES)):
        with pytest.raises(RuntimeError, match="cuptiProfilerHostEvaluateToGpuValues"):
            its.evaluate(data, 0, BYTES)


def test_without_a_driver_every_instrument_says_so(cupti):
    """With the real libcupti loaded, whose target functions crash without a driver."""
    missing = _native.counter_driver_missing()
    if not missing:
        pytest.skip("there is a driver here")
    from perfsuite.instruments.counters import CounterReplay, CounterTimeline

    for instrument in (CounterTimeline(), CounterReplay()):
        assert instrument.available() == (False, missing)
        with pytest.raises(RuntimeError, match="driver"):
            instrument.start()
    for call in (lambda: cupti.chip_of(0), lambda: _native.sampling_availability(cupti, 0),
                 lambda: _native.ranges_availability(cupti)):  # fmt: skip
        with pytest.raises(RuntimeError, match="driver"):
            call()
    sampling = host(cupti, "GH100", _native.Collection.sampling)
    with pytest.raises(RuntimeError, match="driver"):
        _native.PmSampling(sampling, 0, BYTES[:1], [-1], True, 10**6, 1 << 20, 100, 10**7, 100).start()
    with pytest.raises(RuntimeError, match="driver"):
        _native.RangeReplay(host(cupti, "GH100"), BYTES[:1], 100).start()


def test_command_line(cupti):
    def perfsuite(*arguments):
        command = [sys.executable, "-c", "from perfsuite.cli import main; main()", "counters", "plan", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    told = json.loads(perfsuite("--chip", "AD102", "--set", "memory", "--json").stdout)
    assert told["cupti"] == cupti.version and told["plans"] == [plan(cupti, "AD102", "memory").as_dict()]
    shown = perfsuite("--chip", "AD102").stdout
    assert "AD102 memory: 1 pass\n" in shown and "absent: AD102 has none of nvlrx__bytes.sum" in shown
    wrong = perfsuite("--chip", "XX1")
    assert wrong.returncode == 2 and len(wrong.stderr.splitlines()) == 1 and "GH100" in wrong.stderr


def include_folder(cupti_path):
    """Of the toolkit that this libcupti belongs to."""
    for folder in cupti_path.parents:
        if (folder / "include" / "cupti_range_profiler.h").exists() and (folder / "include" / "cuda.h").exists():
            return folder / "include"
    return None


def check_declarations(tmp_path, include, change=("", "")):
    for name in ("cupti_profiler_abi.h", "cupti_profiler_check.cpp"):
        text = (NATIVE / name).read_text()
        assert name.endswith(".cpp") or change[0] in text
        (tmp_path / name).write_text(text.replace(*change, 1) if change[0] else text)
    compiler = os.environ.get("CXX", "g++")
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", include, "-I", NATIVE,
               tmp_path / "cupti_profiler_check.cpp"]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True)


def test_declarations_are_the_vendors(tmp_path):
    found = [include for path in counter_library.candidates() if (include := include_folder(path))]
    if not found:
        skip_or_fail("no CUPTI headers beside a libcupti")
    answer = check_declarations(tmp_path, found[0])
    assert answer.returncode == 0, answer.stderr[:3000]
    for wrong in [("kInvalidParameter = 1,", "kInvalidParameter = 2,"),
                  ("size_t pass, nesting_level;", "size_t nesting_level, pass; int more;"),
                  ("int trigger, append;", "long trigger, append;")]:  # fmt: skip
        assert "static assertion failed" in check_declarations(tmp_path, found[0], wrong).stderr


FAKE = """
#include "cupti_profiler_abi.h"
namespace perfsuite::cupti_profiler {
extern "C" {
#define WEAK(symbol, member, parameters) __attribute__((weak)) Result symbol parameters { return kUnknown; }
PERFSUITE_CUPTI_PROFILER_FUNCTIONS(WEAK)
}
}
"""


def fake(folder, version, chips):
    """A libcupti that says it is of this version, and does `chips` when it is asked for chips."""
    folder.mkdir()
    (folder / "a.cpp").write_text(FAKE)
    (folder / "b.cpp").write_text(f"""
    #include <cstdint>
    extern "C" int cuptiGetVersion(uint32_t* v) {{ *v = {version}; return 0; }}
    extern "C" int cuptiProfilerHostGetSupportedChips(void* p) {{ {chips} }}
    """)
    compiler = os.environ.get("CXX", "g++")
    shared = [compiler, "-std=c++17", "-w", "-shared", "-fPIC", "-I", NATIVE]
    subprocess.run([*shared, folder / "a.cpp", folder / "b.cpp", "-o", folder / "libcupti.so.13"], check=True)
    shutil.copy(folder / "libcupti.so.13", folder / "libnvperf_host.so")
    return folder / "libcupti.so.13"


@pytest.mark.skipif(bool(_native.counter_driver_missing()) is False, reason="there is a driver here")
def test_a_library_that_crashes_is_refused(tmp_path):
    """13.2 by its version, before the call that crashes; others when they crash, in a process of their own."""
    crash = "*static_cast<volatile int*>(nullptr) = 1; return 0;"
    of_13_2 = counter_library.why_not(fake(tmp_path / "a", 130200, crash))
    assert "130200 needs a driver" in of_13_2 and "13.0 or 13.1" in of_13_2
    assert "SIGSEGV" in counter_library.why_not(fake(tmp_path / "b", 130001, crash))
    assert "failed" in counter_library.why_not(fake(tmp_path / "c", 130001, "return 999;"))
    alone = fake(tmp_path / "d", 130001, crash)
    (alone.parent / "libnvperf_host.so").unlink()
    assert counter_library.why_not(alone) == "libnvperf_host.so is not beside it"


def test_what_is_loaded_already_is_taken(tmp_path):
    """A second CUPTI beside torch's would be a second client."""
    path = fake(tmp_path / "x", 130001, "return 0;")
    code = f"""import ctypes; ctypes.CDLL({str(path)!r})
from perfsuite.counters.library import candidates
print([str(p) for p in candidates()])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str([str(path)]), done.stderr
