// The inner loops of the microbenchmarks, one set for each instruction set, chosen at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace perfsuite {

// Every array is a whole number of these: eight vectors of the widest instruction set.
constexpr size_t kBlockBytes = 512;

// passes times over n floats of a (written), b and c (read). Returns the sum of the words read by `read`, else 0.
using BandwidthKernel = uint32_t (*)(float* a, const float* b, const float* c, size_t n, int64_t passes);
// x = x * multiplier + addend, `iterations` times, for every float of the accumulators. Returns their sum.
using FmaKernel = double (*)(int64_t iterations, float multiplier, float addend);

struct KernelSet {
  const char* isa;
  BandwidthKernel read, write, copy, triad;
  BandwidthKernel streaming_write, streaming_copy;  // null where there are no streaming stores
  FmaKernel fma;
  int fma_floats;  // floats in the accumulators of one thread
};

// The sets this CPU runs, widest first.
const std::vector<KernelSet>& kernel_sets();
// The one of this name, the widest for "". Throws std::invalid_argument where there is none.
const KernelSet& kernel_set(const std::string& isa);

}  // namespace perfsuite
