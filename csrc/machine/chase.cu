// Latency: one thread follows addresses from line to line; each load waits for the one before.
#include "probes.h"

namespace {
using namespace perfsuite::cuda;

__device__ __forceinline__ uint64_t follow(uint64_t at, int64_t hops) {
#pragma unroll 8
  for (int64_t i = 0; i < hops; ++i) at = load_word(at);
  return at;
}

// *position: the address of a word that holds the next one; afterwards where the walk stands. times: cycles of the
// multiprocessor and nanoseconds that `hops` loads took; warm_hops loads before them are not timed.
__global__ void chase(uint64_t* position, int64_t* times, int64_t warm_hops, int64_t hops) {
  if (threadIdx.x != 0) return;
  uint64_t at = follow(*position, warm_hops);
  const int64_t start_ns = global_ns(), start = cycles();
  at = follow(at, hops);
  const int64_t end = cycles(), end_ns = global_ns();
  *position = at;
  times[0] = end - start;
  times[1] = end_ns - start_ns;
}
}  // namespace

// position: one 64-bit word; times: two.
extern "C" int machine_chase(int, void* position, void* times, int64_t warm_hops, int64_t hops, void* stream) {
  // L1 and shared memory are one memory: none of it is needed for sharing here.
  const cudaError_t error =
      cudaFuncSetAttribute(chase, cudaFuncAttributePreferredSharedMemoryCarveout, int(cudaSharedmemCarveoutMaxL1));
  if (error != cudaSuccess) return int(error);
  return launch(chase, 1, 32, 0, cudaStream_t(stream), 1, static_cast<uint64_t*>(position),
                static_cast<int64_t*>(times), warm_hops, hops);
}
