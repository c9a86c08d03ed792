// Kernels that are right, and the same with one mistake each, for tests of the emulator.
#include "device.h"

namespace {
using namespace perfsuite::cuda;

enum Mistake : int64_t {
  kNone,
  kNoBarrierAfterWrite,
  kNoBarrierBeforeReuse,
  kSharedBeyondEnd,
  kSharedBeforeStart,
  kBarrierInBranch,
  kOneThreadLeaves,
  kTwoBarriers,
  kUnwritten,
  kMisaligned,
  kShuffleInBranch,
  kShuffleFromOutside,
  kIndexBeyondPack,
  kOverflow,
  kNoSyncwarp,
};

// Sums of rows: a block takes several rows one after the other, a value from each thread through shared memory.
template <class T>
__global__ void row_sums(const T* x, acc_t<T>* sums, int64_t rows, int64_t width, int64_t mistake) {
  using Acc = acc_t<T>;
  PERFSUITE_SHARED(Acc, scratch);  // a value for each warp
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* const here = x + row * width;
    Acc sum = 0;
    constexpr int N = kWidest<T>;
    for (int64_t i = threadIdx.x * N; i < width; i += int64_t(blockDim.x) * N) {
      const Pack<T, N> pack = load_pack<T, N>(mistake == kMisaligned ? here + 1 : here + i);
      for (int j = 0; j < (mistake == kIndexBeyondPack ? N + 1 : N); ++j) sum += to_acc(pack.values[j]);
    }
    if (mistake == kOverflow) sum += Acc(int(threadIdx.x) * 0x7fffffff);
    if (mistake == kShuffleInBranch && lane < 7) sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    if (mistake == kShuffleFromOutside && lane < 16) sum += __shfl_sync(0x0000ffffu, sum, 20);
    sum = warp_sum(sum);
    int at = warp;
    if (mistake == kSharedBeyondEnd && warp == warps - 1) at = warps;
    if (mistake == kSharedBeforeStart && warp == 0) at = -1;
    if (lane == 0 && !(mistake == kUnwritten && warp == 1)) scratch[at] = sum;
    if (mistake == kOneThreadLeaves && threadIdx.x == 5) return;
    if (mistake == kBarrierInBranch) {
      if (warp != 1) __syncthreads();
    } else if (mistake == kTwoBarriers) {
      if (warp != 1)
        __syncthreads();
      else
        __syncthreads();
    } else if (mistake != kNoBarrierAfterWrite) {
      __syncthreads();
    }
    Acc total = 0;
    for (int w = 0; w < warps; ++w) total += scratch[w];
    if (mistake != kNoBarrierBeforeReuse) __syncthreads();
    // Each warp's first lane has it; the others get it by way of shared memory within the warp.
    if (mistake == kNoSyncwarp) {
      if (lane == 0) scratch[warp] = Acc(0);
      if (lane == 31) scratch[warp] = total;
      total = scratch[warp];
      __syncthreads();
    }
    if (threadIdx.x == 0) sums[row] = total;
  }
}

// The sum of all values by clusters: each block adds its values, block 0 of the cluster the blocks' sums.
__global__ void cluster_sums(const float* x, float* sums, int64_t leaves_early) {
  PERFSUITE_SHARED(float, scratch);  // 32 for block_sum, one for the sum
  const float sum = block_sum(x[int64_t(blockIdx.x) * blockDim.x + threadIdx.x], scratch);
  if (threadIdx.x == 0) scratch[32] = sum;
  cluster_sync();
  if (leaves_early && cluster_rank() != 0) return;
  if (cluster_rank() == 0 && threadIdx.x == 0) {
    float total = 0;
    for (unsigned rank = 0; rank < 4; ++rank) total += *cluster_peer(scratch + 32, rank);
    sums[blockIdx.x / 4] = total;
  }
  if (!leaves_early) cluster_sync();
}

__global__ void lanes(int* out) {
  const int lane = threadIdx.x % 32;
  const unsigned all = 0xffffffffu;
  int* const mine = out + 8 * threadIdx.x;
  mine[0] = __shfl_sync(all, lane, 3);
  mine[1] = __shfl_up_sync(all, lane, 2);
  mine[2] = __shfl_down_sync(all, lane, 2);
  mine[3] = __shfl_xor_sync(all, lane, 5);
  mine[4] = int(__ballot_sync(all, lane % 3 == 0));
  mine[5] = __shfl_sync(all, lane, 1, 8);
  mine[6] = lane < 16 ? __shfl_xor_sync(0x0000ffffu, lane, 1) : __shfl_xor_sync(0xffff0000u, lane, 2);
  mine[7] = __any_sync(all, lane == 31) + 2 * __all_sync(all, lane == 31);
}

template <class T>
__global__ void round_trip(const float* x, T* out, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) store_pack_global<T, 1>(out + i, Pack<T, 1>{{from_acc<T>(x[i])}});
}

__global__ void count_up(int* counter) { atomicAdd(counter, 1); }
}  // namespace

extern "C" int planted_row_sums(int dtype, const void* x, void* sums, int64_t rows, int64_t width, int64_t blocks,
                                int64_t threads, int64_t mistake, void* stream) {
  return PERFSUITE_CUDA_FOR_TYPE(dtype, [&] {
    return launch(row_sums<T>, dim3(unsigned(blocks)), dim3(unsigned(threads)), threads / 32 * sizeof(acc_t<T>),
                  cudaStream_t(stream), 1, static_cast<const T*>(x), static_cast<acc_t<T>*>(sums), rows, width,
                  mistake);
  });
}
extern "C" int planted_cluster_sums(const void* x, void* sums, int64_t clusters, int64_t leaves_early, void* stream) {
  return launch(cluster_sums, dim3(unsigned(4 * clusters)), 128, 33 * sizeof(float), cudaStream_t(stream), 4,
                static_cast<const float*>(x), static_cast<float*>(sums), leaves_early);
}
extern "C" int planted_lanes(void* out, int64_t threads, void* stream) {
  return launch(lanes, 1, dim3(unsigned(threads)), 0, cudaStream_t(stream), 1, static_cast<int*>(out));
}
extern "C" int planted_round_trip(int dtype, const void* x, void* out, int64_t count, void* stream) {
  return PERFSUITE_CUDA_FOR_TYPE(dtype, [&] {
    return launch(round_trip<T>, dim3(unsigned(count / 256 + 1)), 256, 0, cudaStream_t(stream), 1,
                  static_cast<const float*>(x), static_cast<T*>(out), count);
  });
}
extern "C" int planted_launch(void* counter, int64_t grid, int64_t block, int64_t shared_bytes, int64_t cluster) {
  return launch(count_up, dim3(unsigned(grid)), dim3(unsigned(block)), size_t(shared_bytes), nullptr, int(cluster),
                static_cast<int*>(counter));
}
extern "C" const char* planted_error_string(int error) { return cudaGetErrorString(cudaError_t(error)); }
