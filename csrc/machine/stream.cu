// Bandwidth: read, write, copy and triad (those of the STREAM benchmark), any number of passes in one kernel.
//
// Loads go past L1 (.cg), as stores do anyway: a footprint that the L1 caches of all multiprocessors could hold together
// would show their speed, not that of L2. What one block reads in a pass another reads in the next.
#include "../ops/cuda/device.h"

namespace {
using namespace perfsuite::cuda;

constexpr int kThreads = 256, kAccesses = 4, kFloats = 4;
constexpr int64_t kTile = int64_t(kThreads) * kAccesses * kFloats;  // floats that a block moves at a time
constexpr int kBlocks = 4;                                         // of a multiprocessor, so that registers suffice

enum Kind : int64_t { kRead, kWrite, kCopy, kTriad };

__device__ __forceinline__ unsigned words(const float4& x) {
  unsigned w[4];
  memcpy(w, &x, sizeof w);
  return w[0] + w[1] + w[2] + w[3];
}

// read: *sum += all words of b, modulo 2^32. write: a = value. copy: a = b. triad: a = b + value c. Of tiles * kTile
// floats, `passes` times.
template <int64_t kind>
__global__ void __launch_bounds__(kThreads, kBlocks)
    stream(float* a, const float* b, const float* c, float value, unsigned* sum, int64_t tiles, int64_t passes) {
  PERFSUITE_SHARED(unsigned, scratch);  // 32 words
  unsigned total = 0;
  const int64_t items = tiles * passes, step = gridDim.x % tiles;
  int64_t tile = blockIdx.x % tiles;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t start = tile * kTile + int64_t(threadIdx.x) * kFloats;
    float4 x[kAccesses];
    if constexpr (kind != kWrite) {
#pragma unroll
      for (int i = 0; i < kAccesses; ++i)
        x[i] = __ldcg(reinterpret_cast<const float4*>(b + start + i * kThreads * kFloats));
    }
    if constexpr (kind == kTriad) {
      float4 y[kAccesses];
#pragma unroll
      for (int i = 0; i < kAccesses; ++i)
        y[i] = __ldcg(reinterpret_cast<const float4*>(c + start + i * kThreads * kFloats));
#pragma unroll
      for (int i = 0; i < kAccesses; ++i)
        x[i] = make_float4(x[i].x + value * y[i].x, x[i].y + value * y[i].y, x[i].z + value * y[i].z,
                           x[i].w + value * y[i].w);
    }
    if constexpr (kind == kWrite) {
#pragma unroll
      for (int i = 0; i < kAccesses; ++i) x[i] = make_float4(value, value, value, value);
    }
#pragma unroll
    for (int i = 0; i < kAccesses; ++i) {
      if constexpr (kind == kRead)
        total += words(x[i]);
      else
        *reinterpret_cast<float4*>(a + start + i * kThreads * kFloats) = x[i];
    }
    tile += step;
    if (tile >= tiles) tile -= tiles;
  }
  if constexpr (kind == kRead) {
    total = block_sum(total, scratch);
    if (threadIdx.x == 0) atomicAdd(sum, total);
  }
}

template <int64_t kind>
int run(float* a, const float* b, const float* c, double value, unsigned* sum, int64_t floats, int64_t passes,
        int64_t blocks, cudaStream_t to) {
  return launch(stream<kind>, dim3(unsigned(blocks)), kThreads, 32 * sizeof(unsigned), to, 1, a, b, c, float(value), sum,
                floats / kTile, passes);
}
}  // namespace

// kind: of the enum above. Arrays of `floats` floats, a multiple of kTile; what a kind does not use may be null. sum: one
// 32-bit word. blocks_each: for each multiprocessor.
extern "C" int machine_stream(int, int64_t kind, void* a, const void* b, const void* c, double value, void* sum,
                              int64_t floats, int64_t passes, int64_t blocks_each, void* stream) {
  if (floats < kTile || floats % kTile || passes < 1 || blocks_each < 1) return int(cudaErrorInvalidValue);
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return int(error);
  const int64_t items = floats / kTile * passes, wanted = multiprocessors * blocks_each;
  const int64_t blocks = wanted < items ? wanted : items;
  const auto go = [&](auto function) {
    return function(static_cast<float*>(a), static_cast<const float*>(b), static_cast<const float*>(c), value,
                    static_cast<unsigned*>(sum), floats, passes, blocks, cudaStream_t(stream));
  };
  switch (kind) {
    case kRead: return go(run<kRead>);
    case kWrite: return go(run<kWrite>);
    case kCopy: return go(run<kCopy>);
    case kTriad: return go(run<kTriad>);
    default: return int(cudaErrorInvalidValue);
  }
}
