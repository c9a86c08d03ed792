// What the CUDA kernels share: element types, wide loads, sums over warps, blocks and clusters, launching.
// No torch here: raw pointers, sizes and a stream in; the tests also run these kernels on a CPU (tests/cuda_emulator).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace perfsuite::cuda {

using BFloat16 = __nv_bfloat16;
using Half = __half;

// What sums are computed in.
template <class T>
using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ __forceinline__ float to_acc(float x) { return x; }
__device__ __forceinline__ double to_acc(double x) { return x; }
__device__ __forceinline__ float to_acc(BFloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_acc(Half x) { return __half2float(x); }

template <class T, class Acc>
__device__ __forceinline__ T from_acc(Acc x) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return __float2bfloat16(x);
  } else if constexpr (std::is_same_v<T, Half>) {
    return __float2half(x);
  } else {
    return T(x);
  }
}

// N adjacent elements, read or written at once; 16 bytes are the widest access. The address must be aligned to all.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
};
template <class T>
constexpr int kWidest = 16 / sizeof(T);

template <class T, int N>
__device__ __forceinline__ Pack<T, N> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <class T, int N>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(p) = pack;
}

// store_pack for global memory only, and one access whatever the compiler thinks: after branches it takes a Pack apart
// and stores single elements (`perfsuite ops inspect` shows the widths).
template <class T, int N>
__device__ __forceinline__ void store_pack_global(T* p, const Pack<T, N>& pack) {
  constexpr int kBytes = sizeof(Pack<T, N>);
  static_assert(kBytes == 16 || kBytes == 8 || kBytes == 4 || kBytes == 2, "a pack of 2, 4, 8 or 16 bytes");
  using Word = std::conditional_t<
      kBytes == 16, uint4,
      std::conditional_t<kBytes == 8, uint2, std::conditional_t<kBytes == 4, unsigned int, unsigned short>>>;
  Word word;
  memcpy(&word, &pack, kBytes);
  __stwb(reinterpret_cast<Word*>(p), word);
}

template <class Acc>
__device__ __forceinline__ Acc warp_sum(Acc x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
template <class Acc>
__device__ __forceinline__ Acc warp_max(Acc x) {
  for (int step = 16; step > 0; step /= 2) {
    const Acc other = __shfl_xor_sync(0xffffffffu, x, step);
    x = other > x ? other : x;
  }
  return x;
}

// Over all threads of a block of whole warps; every thread gets the result. scratch: 32 values in shared memory, which
// may be used again at once.
template <class Acc>
__device__ __forceinline__ Acc block_sum(Acc x, Acc* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  x = warp_sum(x);
  if (warps == 1) return x;
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  x = warp_sum(lane < warps ? scratch[lane] : Acc(0));
  __syncthreads();
  return x;
}
template <class Acc>
__device__ __forceinline__ Acc block_max(Acc x, Acc* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  x = warp_max(x);
  if (warps == 1) return x;
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  x = warp_max(scratch[lane < warps ? lane : 0]);
  __syncthreads();
  return x;
}

// Dynamic shared memory of a block, as `type* name`. The only shared memory that kernels use.
#ifndef PERFSUITE_SHARED
#define PERFSUITE_SHARED(type, name)                        \
  extern __shared__ __align__(16) unsigned char name##_[]; \
  type* const name = reinterpret_cast<type*>(name##_)

// Blocks of one cluster see each other's shared memory. Before sm_90 there are none: what uses them compiles, to code
// that stops, and a launch with cluster > 1 is refused there.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define PERFSUITE_IN_CLUSTER(...) __VA_ARGS__
#else
#define PERFSUITE_IN_CLUSTER(...) __trap()
#endif
__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank = 0;
  PERFSUITE_IN_CLUSTER(asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank)));
  return rank;
}
__device__ __forceinline__ void cluster_sync() {
  PERFSUITE_IN_CLUSTER(asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory"));
}
// The same place in the shared memory of another block of the cluster.
template <class T>
__device__ __forceinline__ T* cluster_peer(T* own, unsigned rank) {
  uint64_t there = 0;
  PERFSUITE_IN_CLUSTER(
      asm volatile("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(reinterpret_cast<uint64_t>(own)), "r"(rank)));
  return reinterpret_cast<T*>(there);
}

// Launch; returns a cudaError_t as int, 0 is success. cluster: blocks along x that form one, 1 for none.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, int cluster,
           Arguments&&... arguments) {
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
    if (error != cudaSuccess) return int(error);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = unsigned(cluster);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  config.attrs = &attribute;
  config.numAttrs = cluster > 1 ? 1 : 0;
  return int(cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...));
}
#endif  // PERFSUITE_SHARED

// Element types by number, as perfsuite/cuda_extension.py passes them. body.template operator()<T>()
enum DType : int { kFloat = 0, kBFloat16 = 1, kHalf = 2, kDouble = 3 };
#define PERFSUITE_CUDA_FOR_TYPE(dtype, ...)              \
  [&]() -> int {                                         \
    switch (dtype) {                                     \
      case ::perfsuite::cuda::kFloat: {                  \
        using T = float;                                 \
        return __VA_ARGS__();                            \
      }                                                  \
      case ::perfsuite::cuda::kBFloat16: {               \
        using T = ::perfsuite::cuda::BFloat16;           \
        return __VA_ARGS__();                            \
      }                                                  \
      case ::perfsuite::cuda::kHalf: {                   \
        using T = ::perfsuite::cuda::Half;               \
        return __VA_ARGS__();                            \
      }                                                  \
      default: {                                         \
        using T = double;                                \
        return __VA_ARGS__();                            \
      }                                                  \
    }                                                    \
  }()

}  // namespace perfsuite::cuda
