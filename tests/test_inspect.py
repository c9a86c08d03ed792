"""Looking at compiled kernels: what is read is right, nothing runs, and a kernel that got worse is noticed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from rich.console import Console

from perfsuite import build_cache, cuda_extension
from perfsuite.kernels import contract, native
from perfsuite.kernels.contract import Case, Cost, Op
from perfsuite.op_inspect import ARCHS, baseline, inspect
from perfsuite.op_inspect.occupancy import LIMITS, occupancy
from perfsuite.report import inspect_text

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton interprets kernels here", allow_module_level=True)

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")


# -- every op against the baseline ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(contract.MODULES))
def test_no_kernel_got_worse(name):
    before, here = baseline.load(), baseline.versions()
    compilers = {"triton": "triton", "cuda": "nvcc"}
    there = before["compilers"]
    same = [impl for impl, compiler in compilers.items() if here[compiler] and there[compiler] == here[compiler]]
    wanted = [impl for impl in compilers if impl in contract.op(name).implementations]
    if not wanted:
        pytest.skip("no GPU kernels")
    if not set(wanted) & set(same):
        pytest.skip(f"the baseline was made by {there}, here are {here}")
    rows = [row for row in inspect(name) if row["impl"] in same]
    kept = {kernel: summary for kernel, summary in before["ops"].get(name, {}).items() if kernel.split()[0] in same}
    assert not baseline.worse(kept, baseline.summarize(rows))


# -- kernels of our own -----------------------------------------------------------------------------------------------


@triton.jit
def double_kernel(x, out, n, BLOCK: tl.constexpr):
    here = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + here, mask=here < n)
    # The sum needs all values before any can be written.
    tl.store(out + here, values * 2 + tl.sum(values), mask=here < n)


@triton.jit
def halve_kernel(x, out, n, BLOCK: tl.constexpr):
    here = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + here, tl.load(x + here, mask=here < n) / 2, mask=here < n)


@triton.jit
def product_kernel(a, b, out, N: tl.constexpr):
    here = tl.arange(0, N)
    at = here[:, None] * N + here[None, :]
    tl.store(out + at, tl.dot(tl.load(a + at), tl.load(b + at)))


def planted(monkeypatch, run, case, implementations=None):
    """An op of one case, which `inspect("planted")` looks at."""
    op = Op(
        name="planted",
        reference=lambda x: 2 * x,
        defaults={},
        cost=lambda case: Cost(0, 0),
        cases=lambda scale: [case],
        case_of=lambda x: case,
        inputs=lambda case, device, generator: {"x": torch.zeros(case.shape["n"])},
        differentiable=("x",),
        scales=lambda *_: {},
        implementations=implementations or [native.eager(lambda x: 2 * x), native.in_triton(run)],
    )
    monkeypatch.setattr(contract, "op", lambda name: op)


def doubled(BLOCK=1024, num_warps=8, offset=0, seen=None):
    """A launcher with a backward; seen: gets what it returned."""

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            out = torch.full_like(x, 7.0)
            double_kernel[(1,)](x[offset:], out, x.numel(), BLOCK=BLOCK, num_warps=num_warps)
            return out

        @staticmethod
        def backward(ctx, upstream):
            out = torch.full_like(upstream, 7.0)
            halve_kernel[(1,)](upstream, out, upstream.numel(), BLOCK=1024, num_warps=4)
            halve_kernel[(1,)](upstream, out, upstream.numel(), BLOCK=1024, num_warps=4)
            halve_kernel[(1,)](upstream, out, upstream.numel(), BLOCK=256, num_warps=1)
            return out

    def run(x):
        out = Double.apply(x)
        if seen is not None:
            seen.append(out)
        return out

    return run


CASE = Case("float32", {"n": 4096})


def summary_of(monkeypatch, **how):
    planted(monkeypatch, doubled(**how), CASE)
    return baseline.summarize(inspect("planted", (90,)))


def test_all_kernels_of_forward_and_backward_are_compiled_and_none_runs(monkeypatch):
    seen: list[torch.Tensor] = []
    planted(monkeypatch, doubled(seen=seen), CASE)
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    before = JITFunction.run, driver._active, dict(os.environ), triton.knobs.cache.dir
    lines: list[str] = []
    rows = inspect("planted", progress=lines.append)
    assert (JITFunction.run, driver._active, dict(os.environ), triton.knobs.cache.dir) == before
    assert not double_kernel.device_caches and not halve_kernel.device_caches
    assert len(lines) == len(ARCHS)
    assert len(seen) == len(ARCHS) and all(bool((out == 7).all()) for out in seen)
    assert [(row["arch"], row["kernel"]) for row in rows] == [
        (arch, kernel) for arch in ARCHS for kernel in ("double_kernel", "halve_kernel", "halve_kernel#2")
    ]
    for row in rows:
        assert row["case"] == "4096 float32" and row["impl"] == "triton" and not row["unknown"]
        assert row["spill_store_bytes"] == row["spill_load_bytes"] == row["local_accesses"] == 0
        assert row["num_warps"] == {"double_kernel": 8, "halve_kernel": 4, "halve_kernel#2": 1}[row["kernel"]]
        assert set(row["load_widths"]) == set(row["store_widths"]) == {16}
        assert (row["shared_bytes"] > 0) == (row["kernel"] == "double_kernel") and row["shared_bytes"] < 1024
        assert row["matrix_instructions"] == row["bulk_copies"] == {}


def test_a_kernel_that_spills_or_loads_narrow_is_noticed(monkeypatch):
    good = summary_of(monkeypatch)
    assert baseline.worse(good, good) == []
    spilling = summary_of(monkeypatch, BLOCK=32768, num_warps=1)
    (line,) = baseline.worse(good, spilling)
    assert re.match(r"triton double_kernel \[4096 float32\] sm_90: spills \d+ bytes of a thread", line)
    narrow = summary_of(monkeypatch, offset=1)
    assert baseline.worse(good, narrow) == [
        "triton double_kernel [4096 float32] sm_90: load of 4 bytes, was 16",
        "triton double_kernel [4096 float32] sm_90: widest load of 4 bytes, was 16",
        "triton double_kernel [4096 float32] sm_90: narrowest load of 4 bytes, was 16",
    ]
    assert baseline.worse(spilling, good) == []
    fewer = {name: summary for name, summary in good.items() if "#2" not in name}
    (new,), (gone,) = baseline.worse(fewer, good), baseline.worse(good, fewer)
    assert "#2" in new and "not in the baseline" in new
    assert "#2" in gone and "is no more" in gone


def test_matrix_instructions_are_counted_by_generation(monkeypatch):
    def run(x):
        a = torch.zeros(128, 128, dtype=torch.bfloat16)
        product_kernel[(1,)](a, a, torch.empty(128, 128), N=128, num_warps=4)
        return x

    planted(monkeypatch, run, Case("float32", {"n": 4}, gradient=False))
    names = [next(iter(row["matrix_instructions"])) for row in inspect("planted")]
    assert names[:2] == ["HMMA", "HGMMA"] and names[2].startswith("UTC") and names[2].endswith("MMA")


def test_what_is_unknown_has_a_reason(monkeypatch):
    planted(monkeypatch, doubled(), CASE)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    (row,) = inspect("planted", (90,))
    assert row["registers"] is row["load_widths"] is row["occupancy"] is None
    assert "TRITON_INTERPRET=1 is set" in row["unknown"]["registers"]
    with pytest.raises(ValueError, match="TRITON_INTERPRET"):
        baseline.summarize([row])


def test_the_table_shows_every_kernel_and_reason(monkeypatch):
    planted(monkeypatch, doubled(), CASE)
    known = inspect("planted", (90,))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    console = Console(width=200, record=True, file=open(os.devnull, "w"))
    console.print(inspect_text.table([*known, *inspect("planted", (80,))]))
    text = " ".join(console.export_text().split())
    assert "halve_kernel#2" in text and "8 blocks, 100%" in text
    assert re.search(r"\? kernel, case, registers, .*: TRITON_INTERPRET=1 is set", text)


def test_the_baseline_keeps_other_ops_unless_compilers_changed(monkeypatch, tmp_path):
    rows = [
        {"op": "a", "impl": "triton", "kernel": "k", "case": "4 float32", "arch": 90, "spill_store_bytes": 4,
         "spill_load_bytes": 8, "load_widths": {4: 9, 16: 2}, "store_widths": {}, "unknown": {}},
    ]  # fmt: skip
    monkeypatch.setattr(baseline, "path", lambda: tmp_path / "baseline.json")
    baseline.write({"a": rows})
    baseline.write({"b": rows})
    kept = baseline.load()["ops"]
    summary = {"spill": 12, "load": 4, "widest_load": 16, "narrowest_load": 4, "store": None, "widest_store": None}
    assert kept == {"a": {"triton k [4 float32] sm_90": summary}, "b": {"triton k [4 float32] sm_90": summary}}
    monkeypatch.setattr(baseline, "versions", lambda: {"triton": "4", "nvcc": None})
    baseline.write({"b": rows})
    assert list(baseline.load()["ops"]) == ["b"]
    with pytest.raises(ValueError, match="two kernels are triton k"):
        baseline.summarize([*rows, *rows])


# -- CUDA -------------------------------------------------------------------------------------------------------------

CUDA = """
#include "device.h"
namespace {
using namespace perfsuite::cuda;
template <class T, int N>
__global__ void scale(const T* x, T* out) {
  PERFSUITE_SHARED(float, scratch);
  auto pack = load_pack<T, N>(x + N * threadIdx.x);
  const float sum = block_sum(float(to_acc(pack.values[0])), scratch);
  for (int i = 0; i < N; ++i) pack.values[i] = from_acc<T>(to_acc(pack.values[i]) * sum);
  store_pack(out + N * threadIdx.x, pack);
}
// Values that come out of branches.
template <bool kGlobal>
__global__ void clamp(const float* x, float* out, uint8_t* bits, bool any) {
  auto pack = load_pack<float, 4>(x + 4 * threadIdx.x);
  unsigned kept = 0;
  for (int i = 0; i < 4; ++i) {
    if (any && !(pack.values[i] > 0)) {
      pack.values[i] = 0;
    } else {
      kept |= 1u << i;
    }
  }
  if constexpr (kGlobal) {
    store_pack_global(out + 4 * threadIdx.x, pack);
  } else {
    store_pack(out + 4 * threadIdx.x, pack);
  }
  bits[threadIdx.x] = kept;
}
// 64 values at a time in 32 registers.
__global__ void __launch_bounds__(1024, 2) spilling(const float* x, float* out) {
  float values[64], sum = 0;
#pragma unroll
  for (int i = 0; i < 64; ++i) sum += values[i] = x[i * 1024 + threadIdx.x];
#pragma unroll
  for (int i = 0; i < 64; ++i) out[i * 1024 + threadIdx.x] = values[i] * sum;
}
__global__ void in_clusters(float* out) {
  PERFSUITE_SHARED(float, scratch);
  scratch[threadIdx.x] = out[threadIdx.x];
  cluster_sync();
  out[threadIdx.x] = *cluster_peer(scratch + threadIdx.x, cluster_rank() ^ 1);
  cluster_sync();
}
}  // namespace
extern "C" int planted_scale(int dtype, const void* x, void* out, void* stream) {
  const auto s = cudaStream_t(stream);
  launch(spilling, 1, 1024, 0, s, 1, (const float*)x, (float*)out);
  launch(clamp<true>, 1, 32, 0, s, 1, (const float*)x, (float*)out, (uint8_t*)out, true);
  launch(clamp<false>, 1, 32, 0, s, 1, (const float*)x, (float*)out, (uint8_t*)out, true);
  launch(in_clusters, 2, 32, 128, s, 2, (float*)out);
  launch(scale<BFloat16, 1>, 1, 32, 128, s, 1, (const BFloat16*)x, (BFloat16*)out);
  return PERFSUITE_CUDA_FOR_TYPE(dtype, [&] {
    return launch(scale<T, kWidest<T>>, 1, 32, 128, s, 1, (const T*)x, (T*)out);
  });
}
"""


@needs_nvcc
@pytest.mark.parametrize("arch", ARCHS)
def test_cuda_kernels_are_read_by_element_type(request, monkeypatch, tmp_path, arch):
    folder = tmp_path / "csrc" / "ops" / "cuda"
    folder.mkdir(parents=True)
    shutil.copy(build_cache.source_root() / "ops" / "cuda" / "device.h", folder)
    (folder / "planted_scale.cu").write_text(CUDA)
    (folder / "other.cu").write_text("__global__ void other() {}\n")
    monkeypatch.setattr(build_cache, "source_root", lambda: tmp_path / "csrc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cuda_extension, "_libraries", {})
    cuda_extension.entry_points.cache_clear()
    request.addfinalizer(cuda_extension.entry_points.cache_clear)

    def scaled(x):
        out = torch.empty_like(x)
        cuda_extension.call("planted_scale", x.dtype, x, out)
        return out

    planted(monkeypatch, None, CASE, [native.eager(lambda x: x), native.in_cuda(scaled)])
    rows = {row["kernel"]: row for row in inspect("planted", (arch,))}
    wide = {"scale<float, 4>", "scale<bfloat16, 8>", "scale<float16, 8>", "scale<double, 2>"}
    assert set(rows) == {*wide, "scale<bfloat16, 1>", "spilling", "in_clusters", "clamp<true>", "clamp<false>"}
    for name in wide:
        assert rows[name]["load_widths"] == rows[name]["store_widths"] == {16: 1}, rows[name]
        assert rows[name]["spill_store_bytes"] == rows[name]["local_accesses"] == rows[name]["shared_bytes"] == 0
        assert rows[name]["occupancy"] is None and "at launch" in rows[name]["unknown"]["occupancy"]
    assert rows["scale<bfloat16, 1>"]["load_widths"] == {2: 1}
    assert rows["clamp<true>"]["store_widths"] == {1: 1, 16: 1}
    spilling = rows["spilling"]
    assert spilling["registers"] <= 32 and spilling["spill_store_bytes"] > 0 and spilling["local_accesses"] > 0
    assert (rows["in_clusters"]["generic_accesses"] > 0) == (arch >= 90)
    text = baseline.worse({}, baseline.summarize(list(rows.values())))
    assert len(text) == len(rows)
    monkeypatch.setenv("CUDACXX", "no-such-nvcc")
    (row,) = inspect("planted", (arch,))
    assert row["registers"] is None and "'no-such-nvcc', is not found" in row["unknown"]["registers"]
    planted(monkeypatch, None, CASE, [native.eager(lambda x: x), native.in_cuda(lambda x: x)])
    (row,) = inspect("planted", (arch,))
    assert row["registers"] is None and "launches nothing" in row["unknown"]["registers"]


OCCUPANCY = """
#include <climits>
#include <cstddef>
#include <cstdio>
#include "cuda_occupancy.h"
int main() {
  int arch, registers, shared, warps, resident, of_sm, of_block;
  while (scanf("%d%d%d%d%d%d%d", &arch, &registers, &shared, &warps, &resident, &of_sm, &of_block) == 7) {
    cudaOccDeviceProp p;
    p.computeMajor = arch / 10;
    p.computeMinor = arch % 10;
    p.maxThreadsPerBlock = 1024;
    p.maxThreadsPerMultiprocessor = 32 * resident;
    p.regsPerBlock = p.regsPerMultiprocessor = 65536;
    p.warpSize = 32;
    p.sharedMemPerBlock = 48 * 1024;
    p.sharedMemPerMultiprocessor = of_sm;
    p.sharedMemPerBlockOptin = of_block;
    p.reservedSharedMemPerBlock = 1024;
    p.numSms = 1;
    cudaOccFuncAttributes f = {};
    f.maxThreadsPerBlock = 1024;
    f.numRegs = registers;
    f.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    f.maxDynamicSharedSizeBytes = of_block;
    f.numBlockBarriers = 1;
    cudaOccDeviceState state;
    cudaOccResult result;
    const auto error = cudaOccMaxActiveBlocksPerMultiprocessor(&result, &p, &f, &state, 32 * warps, shared);
    printf("%d\\n", error == CUDA_OCC_SUCCESS ? result.activeBlocksPerMultiprocessor : -1);
  }
}
"""


def test_occupancy_is_that_of_the_toolkit(tmp_path):
    homes = ["/usr/local/cuda", *filter(None, [os.environ.get("CUDA_HOME")])]
    found = [path for home in homes for path in Path(home).glob("include/cuda_occupancy.h")]
    if not found or shutil.which("g++") is None:
        pytest.skip("no cuda_occupancy.h or no g++")
    (tmp_path / "occupancy.cpp").write_text(OCCUPANCY)
    program = tmp_path / "occupancy"
    command = ["g++", "-O1", f"-I{found[0].parent}", str(tmp_path / "occupancy.cpp"), "-o", str(program)]
    subprocess.run(command, check=True)
    drawn = torch.randint(0, 2**31, (600, 4), generator=torch.Generator().manual_seed(0)).tolist()
    asked, lines = [], []
    for a, r, s, w in drawn:
        arch = list(LIMITS)[a % len(LIMITS)]
        asked.append((arch, 16 + r % 240, s % 240_000 * (s % 3 > 0), 1 + w % 32))
        limits = LIMITS[arch]
        sizes = (limits.warps, limits.shared_bytes, limits.shared_bytes_of_block)
        lines.append(" ".join(map(str, (*asked[-1], *sizes))))
    answer = subprocess.run([str(program)], input="\n".join(lines), capture_output=True, text=True, check=True)
    theirs = [int(line) for line in answer.stdout.split()]
    mine = [occupancy(*call).blocks for call in asked]
    assert len(set(mine)) > 10 and mine == theirs
    assert occupancy(75, 32, 0, 4) is None
