#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <stdexcept>

#include "membench.h"
#include "membench_kernels.h"
#include "membench_team.h"

namespace perfsuite {
namespace {

constexpr size_t kHugePage = size_t(2) << 20;
// Between two arrays of a thread. Whole multiples of 4 KiB between a load and an earlier store make many cores take the
// one for the other and wait (4 KiB aliasing); five lines keep them apart.
constexpr size_t kArrayGapBytes = 320;

struct KernelInfo {
  const char* name;
  int arrays;
  BandwidthKernel KernelSet::*code;
};
constexpr KernelInfo kKernels[] = {
    {"read", 1, &KernelSet::read},
    {"write", 1, &KernelSet::write},
    {"copy", 2, &KernelSet::copy},
    {"triad", 3, &KernelSet::triad},
    {"streaming_write", 1, &KernelSet::streaming_write},
    {"streaming_copy", 2, &KernelSet::streaming_copy},
};

const KernelInfo& kernel_info(const std::string& name) {
  for (const KernelInfo& info : kKernels)
    if (name == info.name) return info;
  throw std::invalid_argument("no bandwidth kernel '" + name +
                              "': choose one of read, write, copy, triad, streaming_write, streaming_copy");
}

void fill(float* values, size_t n, uint32_t first, uint32_t multiplier) {
  for (size_t i = 0; i < n; ++i) values[i] = float(int32_t(((first + uint32_t(i)) * multiplier) >> 20));
}

}  // namespace

Slab::Slab(size_t bytes) : mapped_bytes_(bytes + kHugePage) {
  mapping_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping_ == MAP_FAILED) throw std::bad_alloc();
  data_ = (void*)((uintptr_t(mapping_) + kHugePage - 1) / kHugePage * kHugePage);
  // Without huge pages the page walks are measured along with the memory. Refused is fine.
  madvise(mapping_, mapped_bytes_, MADV_HUGEPAGE);
}

Slab::~Slab() {
  if (mapping_) munmap(mapping_, mapped_bytes_);
}

Slab::Slab(Slab&& other) noexcept
    : mapping_(other.mapping_), mapped_bytes_(other.mapped_bytes_), data_(other.data_) {
  other.mapping_ = nullptr;
}

std::vector<std::string> membench_isas() {
  std::vector<std::string> names;
  for (const KernelSet& set : kernel_sets()) names.push_back(set.isa);
  return names;
}

std::vector<std::string> membench_kernels() {
  std::vector<std::string> names;
  for (const KernelInfo& info : kKernels)
    if (kernel_sets().front().*info.code) names.push_back(info.name);
  return names;
}

MemoryBench::MemoryBench(std::vector<int> cpus, int64_t max_bytes, const std::string& isa)
    : cpus_(std::move(cpus)), max_bytes_(max_bytes), isa_(kernel_set(isa).isa) {
  if (cpus_.empty()) throw std::invalid_argument("cpus is empty: name one processor for each thread");
  if (max_bytes < 1) throw std::invalid_argument("max_bytes must be at least 1");
  for (size_t t = 0; t < cpus_.size(); ++t) slabs_.emplace_back(size_t(max_bytes) / cpus_.size() + 2 * kArrayGapBytes);
}

BandwidthRun MemoryBench::run(const std::string& kernel, int64_t working_set_bytes, int64_t passes, int repetitions,
                              int slices) {
  std::lock_guard<std::mutex> lock(mutex_);
  const KernelInfo& info = kernel_info(kernel);
  const KernelSet& set = kernel_set(isa_);
  const BandwidthKernel code = set.*info.code;
  if (!code) throw std::invalid_argument("this CPU has no streaming stores that perfsuite knows: leave out " + kernel);
  if (passes < 1) throw std::invalid_argument("passes must be at least 1");
  if (slices < 1) throw std::invalid_argument("slices must be at least 1");
  if (working_set_bytes > max_bytes_)
    throw std::invalid_argument("working set of " + std::to_string(working_set_bytes) +
                                " bytes is larger than max_bytes " + std::to_string(max_bytes_));
  const size_t threads = cpus_.size(), arrays = size_t(info.arrays);
  const size_t share = working_set_bytes < 0 ? 0 : size_t(working_set_bytes) / threads / arrays;
  const size_t slice = share / size_t(slices) / kBlockBytes * kBlockBytes / sizeof(float);
  const size_t n = slice * size_t(slices);
  if (n == 0)
    throw std::invalid_argument("working set of " + std::to_string(working_set_bytes) + " bytes is too small: " +
                                kernel + " on " + std::to_string(threads) + " threads needs at least " +
                                std::to_string(threads * arrays * kBlockBytes * size_t(slices)));

  BandwidthRun result;
  result.checksums.resize(threads);
  std::vector<size_t> turns(threads, 0);
  struct Arrays {
    float *a, *b, *c;
  };
  auto arrays_of = [&](int t) {
    float* base = static_cast<float*>(slabs_[size_t(t)].data());
    const size_t stride = n + kArrayGapBytes / sizeof(float);
    if (info.code == &KernelSet::read) return Arrays{base, base, base};
    return Arrays{base, base + stride, base + 2 * stride};
  };
  auto prepare = [&](int t) {
    const Arrays x = arrays_of(t);
    const uint32_t first = uint32_t(size_t(t) * n);
    std::fill_n(reinterpret_cast<uint32_t*>(x.a), n, 0xffffffffu);
    if (arrays > 1 || x.a == x.b) fill(x.b, n, first, 2654435761u);
    if (arrays > 2) fill(x.c, n, first, 2246822519u);
    code(x.a, x.b, x.c, n, 1);
  };
  auto body = [&](int t) {
    const Arrays x = arrays_of(t);
    const size_t at = turns[size_t(t)]++ % size_t(slices) * slice;
    result.checksums[size_t(t)] = code(x.a + at, x.b + at, x.c + at, slice, passes);
  };
  auto finish = [&](int t) {
    const Arrays x = arrays_of(t);
    if (x.a != x.b) result.checksums[size_t(t)] = set.read(nullptr, x.a, nullptr, n, 1);
  };
  const TeamTimes times = run_team(cpus_, repetitions, prepare, body, finish);
  result.samples_ns = times.samples_ns;
  result.pinned = times.pinned;
  result.elements = int64_t(n);
  result.working_set_bytes = int64_t(n * sizeof(float) * arrays * threads);
  result.bytes = result.working_set_bytes / slices * passes;
  return result;
}

}  // namespace perfsuite
