// Backward of RMSNorm and LayerNorm, see norm_rows.h. Each block adds up its own rows' part of the gradients of weight and
// bias; a second kernel adds those of all blocks, always in the same order.
#include "norm_rows.h"

namespace perfsuite::cuda {
namespace {

template <class T>
struct Backward {
  using X = typename T::X;
  using H = typename T::H;
  using Y = typename T::Y;
  using Acc = acc_t<H>;
  const Y* upstream;
  const H* upstream_h;  // null: none
  const H* h;
  int64_t h_stride;
  const void* weight;  // null: 1
  bool narrow;         // weight is of x's type
  const Acc* mean;
  const Acc* rstd;
  Dropout dropout;
  X* grad_x;
  H* grad_residual;  // null: not wanted, or the same as grad_x
  Acc* weight_sums;  // (blocks, width); null: not wanted
  Acc* bias_sums;
  int64_t rows, width;
};

// n = (h - mean) rstd and g w of N elements.
template <bool kCentered, int N, class T>
__device__ __forceinline__ void terms(const Backward<T>& a, int64_t column, const Elements<typename T::Y, N>& g,
                                      const Elements<typename T::H, N>& h, typename Backward<T>::Acc mean,
                                      typename Backward<T>::Acc rstd, typename Backward<T>::Acc* n,
                                      typename Backward<T>::Acc* gw) {
  typename Backward<T>::Acc w[N];
  h.get(n);
  g.get(gw);
#pragma unroll
  for (int i = 0; i < N; ++i) n[i] = (kCentered ? n[i] - mean : n[i]) * rstd;
  if (a.weight) {
    load_vector<typename T::X, N>(a.weight, a.narrow, column, w);
#pragma unroll
    for (int i = 0; i < N; ++i) gw[i] *= w[i];
  }
}

// d: the gradient through the norm.
template <int N, class T>
__device__ __forceinline__ void store_gradients(const Backward<T>& a, int64_t row, int64_t column,
                                                typename Backward<T>::Acc* d) {
  const int64_t at = row * a.width + column;
  if (a.upstream_h) {
    Elements<typename T::H, N> e;
    typename Backward<T>::Acc u[N];
    e.load(a.upstream_h + at);
    e.get(u);
#pragma unroll
    for (int i = 0; i < N; ++i) d[i] += u[i];
  }
  if (a.grad_residual) {
    Elements<typename T::H, N> e;
    e.set(d);
    e.store(a.grad_residual + at);
  }
  if (a.dropout.seed) drop<N>(a.dropout, at, d);
  Elements<typename T::X, N> e;
  e.set(d);
  e.store(a.grad_x + at);
}

// sums += values, N elements in packs of 16 bytes; pack number i is `apart` packs behind the one before it.
template <int N, class Acc>
__device__ __forceinline__ void add_shared(Acc* sums, int apart, const Acc* values) {
  constexpr int M = kWidest<Acc>;
#pragma unroll
  for (int i = 0; i < N / M; ++i) {
    Pack<Acc, M> pack = load_pack<Acc, M>(sums + i * apart * M);
#pragma unroll
    for (int j = 0; j < M; ++j) pack.values[j] += values[i * M + j];
    store_pack<Acc, M>(sums + i * apart * M, pack);
  }
}

// The block's part of a gradient, from what its groups have in shared memory: group by group [v][pack of N][thread].
template <int N, int V, class Acc>
__device__ void store_sums(const Acc* sums, int groups, int threads, int width, int apart, Acc* out) {
  constexpr int M = kWidest<Acc>;
  for (int slot = threadIdx.x; slot < V * N * threads; slot += blockDim.x) {
    const int pack = slot / M, thread = pack % threads, number = pack / threads;
    const int column = (number / (N / M) * threads + thread) * N + number % (N / M) * M + slot % M;
    if (column >= width) continue;
    Acc total = 0;
    for (int group = 0; group < groups; ++group) total += sums[group * apart + slot];
    out[column] = total;
  }
}

// A row stays in registers, as it was loaded; Held::kAhead: and the next one is loaded while this one is computed. The
// sums for weight and bias are in shared memory, where each thread has places of its own. threads: of a group.
template <bool kCentered, int N, class Held, class T>
__global__ void __launch_bounds__(Held::kThreads) backward_kernel(Backward<T> a, int threads) {
  constexpr int V = Held::V;
  const int width = int(a.width);  // rows that fit in registers
  using Acc = typename Backward<T>::Acc;
  constexpr int K = kCentered ? 2 : 1;
  PERFSUITE_SHARED(Acc, shared);
  const bool is_block = threads == int(blockDim.x);
  const int groups = blockDim.x / threads, thread = threadIdx.x % threads, group = threadIdx.x / threads;
  const int64_t step = int64_t(gridDim.x) * groups;
  Acc* const scratch = shared;
  // Of every group: V N values a thread for the weight, and as many for the bias where its gradient is wanted.
  const int of_one = V * N * threads, apart = of_one * ((a.weight_sums ? 1 : 0) + (a.bias_sums ? 1 : 0));
  Acc* const sums = shared + 32 * K;
  Acc* const mine = sums + group * apart + thread * kWidest<Acc>;
  for (int i = threadIdx.x; i < apart * groups; i += blockDim.x) sums[i] = 0;
  __syncthreads();

  int64_t row = int64_t(blockIdx.x) * groups + group;
  Part<typename T::Y, N, V> g, next_g;
  Part<typename T::H, N, V> h, next_h;
  Acc mean = 0, rstd = 0, next_mean = 0, next_rstd = 0;
  const auto load = [&](int64_t from, auto& to_g, auto& to_h, Acc& to_mean, Acc& to_rstd) {
    if (from >= a.rows) return;
    to_g.load(a.upstream + from * a.width, width, thread, threads);
    to_h.load(a.h + from * a.h_stride, width, thread, threads);
    to_rstd = a.rstd[from];
    if (kCentered) to_mean = a.mean[from];
  };
  if (Held::kAhead) load(row, g, h, mean, rstd);
  for (; row < a.rows; row += step) {
    if (Held::kAhead) {
      load(row + step, next_g, next_h, next_mean, next_rstd);
    } else {
      load(row, g, h, mean, rstd);
    }
    Acc totals[K] = {};
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int column = (v * threads + thread) * N;
      if (column >= width) continue;
      Acc n[N], gw[N];
      terms<kCentered, N>(a, column, g.at[v], h.at[v], mean, rstd, n, gw);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        totals[0] += gw[i] * n[i];
        if (kCentered) totals[K - 1] += gw[i];
      }
    }
    group_sums(totals, scratch, is_block);
    const Acc with_n = totals[0] / Acc(width), alone = kCentered ? totals[K - 1] / Acc(width) : Acc(0);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int column = (v * threads + thread) * N;
      if (column >= width) continue;
      Acc n[N], gw[N], d[N];
      terms<kCentered, N>(a, column, g.at[v], h.at[v], mean, rstd, n, gw);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        d[i] = (gw[i] - n[i] * with_n - alone) * rstd;
      }
      Acc* const place = mine + v * N * threads;
      Acc upstream[N];
      g.at[v].get(upstream);
      if (a.bias_sums) add_shared<N>(place + (a.weight_sums ? of_one : 0), threads, upstream);
      if (a.weight_sums) {
#pragma unroll
        for (int i = 0; i < N; ++i) upstream[i] *= n[i];
        add_shared<N>(place, threads, upstream);
      }
      store_gradients<N>(a, row, column, d);
    }
    if (Held::kAhead) g = next_g, h = next_h, mean = next_mean, rstd = next_rstd;
  }
  __syncthreads();
  const int64_t out = int64_t(blockIdx.x) * a.width;
  if (a.weight_sums) store_sums<N, V>(sums, groups, threads, width, apart, a.weight_sums + out);
  if (a.bias_sums)
    store_sums<N, V>(sums + (a.weight_sums ? of_one : 0), groups, threads, width, apart, a.bias_sums + out);
}

// A block per row, which is read twice: rows too wide for registers, and those that are not aligned to packs (N = 1). The
// sums are kept in global memory, where each thread has columns of its own.
template <bool kCentered, int N, class T>
__global__ void wide_backward_kernel(Backward<T> a) {
  using Acc = typename Backward<T>::Acc;
  constexpr int K = kCentered ? 2 : 1;
  PERFSUITE_SHARED(Acc, scratch);
  const int64_t first = int64_t(threadIdx.x) * N, step = int64_t(blockDim.x) * N, sums = int64_t(blockIdx.x) * a.width;
  for (int64_t column = first; column < a.width; column += step)
    for (int i = 0; i < N; ++i) {
      if (a.weight_sums) a.weight_sums[sums + column + i] = 0;
      if (a.bias_sums) a.bias_sums[sums + column + i] = 0;
    }
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const Acc mean = kCentered ? a.mean[row] : Acc(0), rstd = a.rstd[row];
    Elements<typename T::Y, N> g;
    Elements<typename T::H, N> h;
    Acc n[N], gw[N], upstream[N];
    Acc totals[K] = {};
    for (int64_t column = first; column < a.width; column += step) {
      g.load(a.upstream + row * a.width + column);
      h.load(a.h + row * a.h_stride + column);
      terms<kCentered, N>(a, column, g, h, mean, rstd, n, gw);
      for (int i = 0; i < N; ++i) {
        totals[0] += gw[i] * n[i];
        if (kCentered) totals[K - 1] += gw[i];
      }
    }
    group_sums(totals, scratch, true);
    const Acc with_n = totals[0] / Acc(a.width), alone = kCentered ? totals[K - 1] / Acc(a.width) : Acc(0);
    for (int64_t column = first; column < a.width; column += step) {
      g.load(a.upstream + row * a.width + column);
      h.load(a.h + row * a.h_stride + column);
      g.get(upstream);
      terms<kCentered, N>(a, column, g, h, mean, rstd, n, gw);
      for (int i = 0; i < N; ++i) {
        if (a.weight_sums) a.weight_sums[sums + column + i] += upstream[i] * n[i];
        if (a.bias_sums) a.bias_sums[sums + column + i] += upstream[i];
        gw[i] = (gw[i] - n[i] * with_n - alone) * rstd;
      }
      store_gradients<N>(a, row, column, gw);
    }
  }
}

// (parts, width) -> (width,). A block of 32 columns by 16 parts at a time.
constexpr int kColumns = 32, kPartsAtOnce = 16;
template <class Acc>
__global__ void sum_kernel(const Acc* sums, int64_t parts, int64_t width, Acc* out) {
  PERFSUITE_SHARED(Acc, shared);
  const int lane = threadIdx.x % kColumns, part = threadIdx.x / kColumns;
  const int64_t column = int64_t(blockIdx.x) * kColumns + lane;
  Acc total = 0;
  if (column < width)
    for (int64_t p = part; p < parts; p += kPartsAtOnce) total += sums[p * width + column];
  shared[threadIdx.x] = total;
  __syncthreads();
  if (part != 0 || column >= width) return;
  for (int p = 1; p < kPartsAtOnce; ++p) total += shared[p * kColumns + lane];
  out[column] = total;
}

template <class T>
bool is_packed(const Backward<T>& a) {
  constexpr int N = kPack<typename T::X>;
  return a.width % N == 0 && a.h_stride % N == 0 &&
         aligned({a.upstream, a.upstream_h, a.h, a.weight, a.grad_x, a.grad_residual});
}

// Launches at most `parts` blocks and says how many.
template <bool kCentered, class T>
int backward(const Backward<T>& a, int64_t processors, int64_t parts, int64_t* blocks, cudaStream_t stream) {
  using Acc = typename Backward<T>::Acc;
  constexpr int N = kPack<typename T::X>;
  constexpr size_t kMostShared = 160 * 1024;  // of a block; sm_80 has 163 KiB
  const bool packed = is_packed(a);
  const size_t scratch = 32 * (kCentered ? 2 : 1) * sizeof(Acc);
  if constexpr (!std::is_same_v<Acc, double>) {
    const Layout layout = layout_of<N>(a.width);
    const int sums = (a.weight_sums ? 1 : 0) + (a.bias_sums ? 1 : 0);
    const size_t shared = scratch + size_t(layout.packs) * N * layout.block * sums * sizeof(Acc);
    if (packed && layout.hold != Hold::kNot && shared <= kMostShared) {
      const int64_t of_rows = (a.rows * layout.threads + layout.block - 1) / layout.block;
      *blocks = std::min({of_rows, parts, processors * std::max(1, 512 / layout.block)});
      const dim3 grid{unsigned(*blocks)}, block{unsigned(layout.block)};
      return for_layout<N>(layout.hold, [&](auto held) {
        return launch(backward_kernel<kCentered, N, decltype(held), T>, grid, block, shared, stream, 1, a, layout.threads);
      });
    }
  }
  const int threads = whole_warps(packed ? a.width / N : a.width);
  *blocks = std::min({a.rows, parts, processors * std::max(1, kMostThreads / threads)});
  const dim3 grid{unsigned(*blocks)}, block{unsigned(threads)};
  return packed ? launch(wide_backward_kernel<kCentered, N, T>, grid, block, scratch, stream, 1, a)
                : launch(wide_backward_kernel<kCentered, 1, T>, grid, block, scratch, stream, 1, a);
}

template <class Acc>
int sum_parts(const Acc* sums, int64_t parts, int64_t width, Acc* out, cudaStream_t stream) {
  if (!sums) return 0;
  const dim3 grid(unsigned((width + kColumns - 1) / kColumns)), block(kColumns * kPartsAtOnce);
  return launch(sum_kernel<Acc>, grid, block, kColumns * kPartsAtOnce * sizeof(Acc), stream, 1, sums, parts, width, out);
}

}  // namespace
}  // namespace perfsuite::cuda

// dtype: of x; h_dtype and y_dtype likewise, upstream is of y's. weight: of x's type where narrow is 1, else of the
// accumulator's. mean null: RMSNorm. weight_sums, bias_sums: (parts, width) each, null where that gradient is not wanted;
// there are at most parts blocks. rows > 0.
extern "C" int perfsuite_norm_rows_backward(int dtype, const void* upstream, const void* upstream_h, const void* h,
                                            int64_t h_stride, const void* weight, int64_t narrow, const void* mean,
                                            const void* rstd, const void* seed, const void* offset, void* grad_x,
                                            void* grad_residual, void* weight_sums, void* bias_sums, void* grad_weight,
                                            void* grad_bias, int64_t rows, int64_t width, int64_t h_dtype,
                                            int64_t y_dtype, int64_t threshold, double scale, int64_t processors,
                                            int64_t parts, void* stream) {
  using namespace perfsuite::cuda;
  return for_types(dtype, h_dtype, y_dtype, [&](auto types) {
    using T = decltype(types);
    using Acc = typename Backward<T>::Acc;
    Backward<T> a{};
    a.upstream = static_cast<const typename T::Y*>(upstream);
    a.upstream_h = static_cast<const typename T::H*>(upstream_h);
    a.h = static_cast<const typename T::H*>(h), a.h_stride = h_stride;
    a.weight = weight, a.narrow = narrow != 0;
    a.mean = static_cast<const Acc*>(mean), a.rstd = static_cast<const Acc*>(rstd);
    a.dropout = {static_cast<const int64_t*>(seed), static_cast<const int64_t*>(offset), uint32_t(threshold), scale};
    a.grad_x = static_cast<typename T::X*>(grad_x), a.grad_residual = static_cast<typename T::H*>(grad_residual);
    a.weight_sums = static_cast<Acc*>(weight_sums), a.bias_sums = static_cast<Acc*>(bias_sums);
    a.rows = rows, a.width = width;
    const auto on = static_cast<cudaStream_t>(stream);
    int64_t blocks = 0;
    int error = mean ? backward<true, T>(a, processors, parts, &blocks, on)
                     : backward<false, T>(a, processors, parts, &blocks, on);
    if (!error) error = sum_parts(a.weight_sums, blocks, width, static_cast<Acc*>(grad_weight), on);
    if (!error) error = sum_parts(a.bias_sums, blocks, width, static_cast<Acc*>(grad_bias), on);
    return error;
  });
}
