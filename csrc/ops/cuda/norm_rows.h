// What the forward and the backward of RMSNorm and LayerNorm share on a GPU; the formulas: csrc/ops/cpu/norm_rows.h.
//
// A row belongs to a group of threads, a warp where it is narrow, else a block; groups take rows in turn. Thread t holds
// the packs of N elements number t, t + T, ... (V of them) of a row. X: of x. H: of h and the residual. Y: of y.
#pragma once

#include <algorithm>

#include "device.h"
#include "philox.h"

namespace perfsuite::cuda {
namespace {  // both sources have their own

constexpr int kWarpsOfBlock = 4;  // where a warp has a row
constexpr int kMostThreads = 1024;

// N elements, in accesses of 16 bytes where they fill some.
template <class T, int N>
struct Elements {
  static constexpr int kOne = N < kWidest<T> ? N : kWidest<T>;
  Pack<T, kOne> packs[N / kOne];

  __device__ __forceinline__ void load(const T* p) {
#pragma unroll
    for (int i = 0; i < N / kOne; ++i) packs[i] = load_pack<T, kOne>(p + i * kOne);
  }
  __device__ __forceinline__ void store(T* p) const {
#pragma unroll
    for (int i = 0; i < N / kOne; ++i) store_pack<T, kOne>(p + i * kOne, packs[i]);
  }
  template <class Acc>
  __device__ __forceinline__ void get(Acc* values) const {
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = to_acc(packs[i / kOne].values[i % kOne]);
  }
  template <class Acc>
  __device__ __forceinline__ void set(const Acc* values) {
#pragma unroll
    for (int i = 0; i < N; ++i) packs[i / kOne].values[i % kOne] = from_acc<T>(values[i]);
  }
};

// A thread's part of a row; what lies beyond the row is 0.
template <class T, int N, int V>
struct Part {
  Elements<T, N> at[V];

  __device__ __forceinline__ void load(const T* row, int width, int thread, int threads) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int column = (v * threads + thread) * N;
      if (column < width) {
        at[v].load(row + column);
      } else {
        const acc_t<T> zeros[N] = {};
        at[v].set(zeros);
      }
    }
  }
};

// Weight or bias: N values from a column on. Either of x's element type, or of the accumulator's.
template <class X, int N, class Acc>
__device__ __forceinline__ void load_vector(const void* vector, bool narrow, int64_t column, Acc* values) {
  if (!std::is_same_v<X, Acc> && narrow) {
    Elements<X, N> e;
    e.load(static_cast<const X*>(vector) + column);
    e.get(values);
  } else {
    Elements<Acc, N> e;
    e.load(static_cast<const Acc*>(vector) + column);
    e.get(values);
  }
}

// Over the threads of a group; all get the sums. scratch: 32 K values in shared memory, for a group that is a block.
template <int K, class Acc>
__device__ __forceinline__ void group_sums(Acc (&sums)[K], Acc* scratch, bool is_block) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
#pragma unroll
  for (int k = 0; k < K; ++k) sums[k] = warp_sum(sums[k]);
  if (!is_block || warps == 1) return;
  if (lane == 0)
    for (int k = 0; k < K; ++k) scratch[32 * k + warp] = sums[k];
  __syncthreads();
#pragma unroll
  for (int k = 0; k < K; ++k) sums[k] = warp_sum(lane < warps ? scratch[32 * k + lane] : Acc(0));
  __syncthreads();
}

__device__ __forceinline__ float inverse_sqrt(float x) { return 1 / sqrtf(x); }
__device__ __forceinline__ double inverse_sqrt(double x) { return 1 / sqrt(x); }

template <class X_, class H_, class Y_>
struct Types {
  using X = X_;
  using H = H_;
  using Y = Y_;
};

// body(Types<X, H, Y>()): all of one type, a float32 stream of a narrower x, or (under autocast) only y in float32.
template <class Body>
int for_types(int x, int64_t h, int64_t y, const Body& body) {
  return PERFSUITE_CUDA_FOR_TYPE(x, [&]() -> int {
    if constexpr (sizeof(T) == 2) {
      if (h == kFloat) return body(Types<T, float, float>());
      if (y == kFloat) return body(Types<T, T, float>());
    }
    return body(Types<T, T, T>());
  });
}

// Elements of a pack: 16 bytes of the narrowest type.
template <class X>
constexpr int kPack = kWidest<X>;

// How rows stay in registers: V packs a thread, blocks of at most kThreads, and whether there are registers left to load
// the next row ahead.
template <int V_, int kThreads_, bool kAhead_>
struct Held {
  static constexpr int V = V_, kThreads = kThreads_;
  static constexpr bool kAhead = kAhead_;
};
using HeldByFew = Held<2, 512, true>;
using HeldWide = Held<4, 512, false>;
using HeldWidest = Held<4, 1024, false>;  // float32 only: others need more registers than there are

enum class Hold { kFew, kWide, kWidest, kNot };
struct Layout {
  Hold hold;
  int packs;    // V
  int threads;  // of a row
  int block;
};

inline int whole_warps(int64_t threads) { return int(std::min<int64_t>(kMostThreads, (threads + 31) / 32 * 32)); }

// For rows of whole packs of N.
template <int N>
Layout layout_of(int64_t width) {
  if (width <= 32 * N * HeldByFew::V) return {Hold::kFew, HeldByFew::V, 32, 32 * kWarpsOfBlock};
  const auto block = [&](Hold hold, int v) {
    const int threads = whole_warps((width / N + v - 1) / v);
    return Layout{hold, v, threads, threads};
  };
  if (width <= HeldByFew::kThreads * N * HeldByFew::V) return block(Hold::kFew, HeldByFew::V);
  if (width <= HeldWide::kThreads * N * HeldWide::V) return block(Hold::kWide, HeldWide::V);
  if (N == 4 && width <= HeldWidest::kThreads * N * HeldWidest::V) return block(Hold::kWidest, HeldWidest::V);
  return {Hold::kNot, 0, 0, 0};
}

// body(Held<...>()) for a layout other than kNot.
template <int N, class Body>
int for_layout(Hold hold, const Body& body) {
  if (hold == Hold::kFew) return body(HeldByFew());
  if constexpr (N == 4) {
    if (hold == Hold::kWidest) return body(HeldWidest());
  }
  return body(HeldWide());
}

inline bool aligned(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(), [](const void* p) { return uintptr_t(p) % 16 == 0; });
}

}  // namespace
}  // namespace perfsuite::cuda
