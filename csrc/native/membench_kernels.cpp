#include "membench_kernels.h"

#include <stdexcept>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define PERFSUITE_STRING_(x) #x
#define PERFSUITE_STRING(x) PERFSUITE_STRING_(x)

namespace perfsuite {
namespace {

#if defined(__x86_64__)
#define ISA avx512
#define ISA_TARGET __attribute__((target("avx512f")))
#define VECTOR_BYTES 64
#define ACCUMULATORS 16
#define FMA(x, y, z) ((Floats)_mm512_fmadd_ps((__m512)(x), (__m512)(y), (__m512)(z)))
#define STREAM(p, v) _mm512_stream_ps(p, (__m512)(v))
#include "membench_kernels_body.h"

#define ISA avx2
#define ISA_TARGET __attribute__((target("avx2,fma")))
#define VECTOR_BYTES 32
#define ACCUMULATORS 12
#define FMA(x, y, z) ((Floats)_mm256_fmadd_ps((__m256)(x), (__m256)(y), (__m256)(z)))
#define STREAM(p, v) _mm256_stream_ps(p, (__m256)(v))
#include "membench_kernels_body.h"
#endif

// What every CPU of the architecture has: SSE2 or NEON, 16 bytes wide.
#define ISA plain
#define ISA_TARGET
#define VECTOR_BYTES 16
#define ACCUMULATORS 12
#define FMA(x, y, z) ((x) * (y) + (z))
#if defined(__x86_64__)
#define STREAM(p, v) _mm_stream_ps(p, (__m128)(v))
#endif
#include "membench_kernels_body.h"

}  // namespace

const std::vector<KernelSet>& kernel_sets() {
  static const std::vector<KernelSet> sets = [] {
    std::vector<KernelSet> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) found.push_back(avx512::kSet);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(avx2::kSet);
#endif
    found.push_back(plain::kSet);
    return found;
  }();
  return sets;
}

const KernelSet& kernel_set(const std::string& isa) {
  if (isa.empty()) return kernel_sets().front();
  std::string names;
  for (const KernelSet& set : kernel_sets()) {
    if (isa == set.isa) return set;
    names += std::string(names.empty() ? "" : ", ") + set.isa;
  }
  throw std::invalid_argument("no kernels for instruction set '" + isa + "' on this CPU: choose one of " + names);
}

}  // namespace perfsuite
