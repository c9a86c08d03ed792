// Forward of RMSNorm and LayerNorm, see norm_rows.h.
#include "norm_rows.h"

namespace perfsuite::cuda {
namespace {

template <class T>
struct Forward {
  using X = typename T::X;
  using H = typename T::H;
  using Y = typename T::Y;
  using Acc = acc_t<H>;
  const X* x;
  int64_t x_stride;
  const H* residual;  // null: none
  int64_t residual_stride;
  const void* weight;  // null: 1
  const void* bias;    // null: 0
  bool narrow;         // weight and bias are of x's type
  Dropout dropout;
  Y* y;
  H* h;  // null: h is x
  Acc* mean;
  Acc* rstd;
  int64_t rows, width;
  double eps;
};

// N elements of h from those of x and the residual, rounded as they are stored.
template <int N, class T>
__device__ __forceinline__ void make_h(const Forward<T>& a, int64_t row, int64_t column,
                                       const Elements<typename T::X, N>& x, const Elements<typename T::H, N>& residual,
                                       typename Forward<T>::Acc* values) {
  x.get(values);
  if (!a.h) return;
  if (a.dropout.seed) drop<N>(a.dropout, row * a.width + column, values);
  if (a.residual) {
    typename Forward<T>::Acc r[N];
    residual.get(r);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] += r[i];
  }
  Elements<typename T::H, N> h;
  h.set(values);
  h.store(a.h + row * a.width + column);
  h.get(values);
}

template <bool kCentered, int N, class T>
__device__ __forceinline__ void store_y(const Forward<T>& a, int64_t row, int64_t column,
                                        typename Forward<T>::Acc rstd, typename Forward<T>::Acc* difference) {
  using Acc = typename Forward<T>::Acc;
  Acc w[N];
#pragma unroll
  for (int i = 0; i < N; ++i) difference[i] *= rstd;
  if (a.weight) {
    load_vector<typename T::X, N>(a.weight, a.narrow, column, w);
#pragma unroll
    for (int i = 0; i < N; ++i) difference[i] *= w[i];
  }
  if (kCentered && a.bias) {
    load_vector<typename T::X, N>(a.bias, a.narrow, column, w);
#pragma unroll
    for (int i = 0; i < N; ++i) difference[i] += w[i];
  }
  Elements<typename T::Y, N> y;
  y.set(difference);
  y.store(a.y + row * a.width + column);
}

// A row stays in registers; Held::kAhead: and the next one is loaded while this one is computed. threads: of a group.
template <bool kCentered, int N, class Held, class T>
__global__ void __launch_bounds__(Held::kThreads) forward_kernel(Forward<T> a, int threads) {
  constexpr int V = Held::V;
  const int width = int(a.width);  // rows that fit in registers
  using Acc = typename Forward<T>::Acc;
  PERFSUITE_SHARED(Acc, scratch);
  const bool is_block = threads == int(blockDim.x);
  const int groups = blockDim.x / threads, thread = threadIdx.x % threads;
  const int64_t step = int64_t(gridDim.x) * groups;
  int64_t row = int64_t(blockIdx.x) * groups + threadIdx.x / threads;
  Part<typename T::X, N, V> x, next_x;
  Part<typename T::H, N, V> residual, next_residual;
  const auto load = [&](int64_t from, auto& to_x, auto& to_residual) {
    if (from >= a.rows) return;
    to_x.load(a.x + from * a.x_stride, width, thread, threads);
    if (a.residual) to_residual.load(a.residual + from * a.residual_stride, width, thread, threads);
  };
  if (Held::kAhead) load(row, x, residual);
  for (; row < a.rows; row += step) {
    if (Held::kAhead) load(row + step, next_x, next_residual);
    Acc values[V][N];
    Acc sum[1] = {};
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int column = (v * threads + thread) * N;
#pragma unroll
      for (int i = 0; i < N; ++i) values[v][i] = 0;
      if (column < width) {
        if (!Held::kAhead) {
          x.at[v].load(a.x + row * a.x_stride + column);
          if (a.residual) residual.at[v].load(a.residual + row * a.residual_stride + column);
        }
        make_h<N>(a, row, column, x.at[v], residual.at[v], values[v]);
      }
#pragma unroll
      for (int i = 0; i < N; ++i) sum[0] += kCentered ? values[v][i] : values[v][i] * values[v][i];
    }
    group_sums(sum, scratch, is_block);
    if (kCentered) {
      const Acc mean = sum[0] / Acc(width);
      if (thread == 0) a.mean[row] = mean;
      sum[0] = 0;
#pragma unroll
      for (int v = 0; v < V; ++v)
        if ((v * threads + thread) * N < width)
#pragma unroll
          for (int i = 0; i < N; ++i) {
            values[v][i] -= mean;
            sum[0] += values[v][i] * values[v][i];
          }
      group_sums(sum, scratch, is_block);
    }
    const Acc rstd = inverse_sqrt(sum[0] / Acc(width) + Acc(a.eps));
    if (thread == 0) a.rstd[row] = rstd;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int column = (v * threads + thread) * N;
      if (column < width) store_y<kCentered, N>(a, row, column, rstd, values[v]);
    }
    if (Held::kAhead) x = next_x, residual = next_residual;
  }
}

// A block per row, which is read again for the variance and for y: rows too wide for registers, and those that are not
// aligned to packs (N = 1). Each thread reads what it has written itself.
template <bool kCentered, int N, class T>
__global__ void wide_forward_kernel(Forward<T> a) {
  using Acc = typename Forward<T>::Acc;
  using H = typename T::H;
  PERFSUITE_SHARED(Acc, scratch);
  const int64_t first = int64_t(threadIdx.x) * N, step = int64_t(blockDim.x) * N;
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    // Without an h of its own, h is x and of the same type.
    const H* h = a.h ? a.h + row * a.width : reinterpret_cast<const H*>(a.x + row * a.x_stride);
    Acc sum[1] = {};
    for (int64_t column = first; column < a.width; column += step) {
      Elements<typename T::X, N> x;
      Elements<H, N> residual;
      Acc values[N];
      x.load(a.x + row * a.x_stride + column);
      if (a.residual) residual.load(a.residual + row * a.residual_stride + column);
      make_h<N>(a, row, column, x, residual, values);
      for (int i = 0; i < N; ++i) sum[0] += kCentered ? values[i] : values[i] * values[i];
    }
    group_sums(sum, scratch, true);
    Acc mean = 0;
    if (kCentered) {
      mean = sum[0] / Acc(a.width);
      if (threadIdx.x == 0) a.mean[row] = mean;
      sum[0] = 0;
      for (int64_t column = first; column < a.width; column += step) {
        Elements<H, N> e;
        Acc values[N];
        e.load(h + column);
        e.get(values);
        for (int i = 0; i < N; ++i) sum[0] += (values[i] - mean) * (values[i] - mean);
      }
      group_sums(sum, scratch, true);
    }
    const Acc rstd = inverse_sqrt(sum[0] / Acc(a.width) + Acc(a.eps));
    if (threadIdx.x == 0) a.rstd[row] = rstd;
    for (int64_t column = first; column < a.width; column += step) {
      Elements<H, N> e;
      Acc values[N];
      e.load(h + column);
      e.get(values);
      for (int i = 0; i < N; ++i) values[i] -= mean;
      store_y<kCentered, N>(a, row, column, rstd, values);
    }
  }
}

template <bool kCentered, class T>
int forward(const Forward<T>& a, int64_t processors, cudaStream_t stream) {
  using Acc = typename Forward<T>::Acc;
  constexpr int N = kPack<typename T::X>;
  const bool packed = a.width % N == 0 && a.x_stride % N == 0 && a.residual_stride % N == 0 &&
                      aligned({a.x, a.residual, a.weight, a.bias, a.y, a.h});
  const size_t shared = 32 * sizeof(Acc);
  if constexpr (!std::is_same_v<Acc, double>) {
    const Layout layout = layout_of<N>(a.width);
    if (packed && layout.hold != Hold::kNot) {
      const int64_t blocks = (a.rows * layout.threads + layout.block - 1) / layout.block;
      const dim3 grid(unsigned(std::min(blocks, processors * std::max(1, kMostThreads / layout.block))));
      return for_layout<N>(layout.hold, [&](auto held) {
        return launch(forward_kernel<kCentered, N, decltype(held), T>, grid, dim3(unsigned(layout.block)), shared, stream,
                      1, a, layout.threads);
      });
    }
  }
  const int block = whole_warps(packed ? a.width / N : a.width);
  const dim3 grid(unsigned(std::min(a.rows, processors * std::max(1, 2 * kMostThreads / block))));
  return packed ? launch(wide_forward_kernel<kCentered, N, T>, grid, dim3(block), shared, stream, 1, a)
                : launch(wide_forward_kernel<kCentered, 1, T>, grid, dim3(block), shared, stream, 1, a);
}

}  // namespace
}  // namespace perfsuite::cuda

// dtype: of x; h_dtype and y_dtype likewise. weight and bias: of x's type where narrow is 1, else of the accumulator's.
// mean null: RMSNorm. rows > 0.
extern "C" int perfsuite_norm_rows_forward(int dtype, const void* x, int64_t x_stride, const void* residual,
                                           int64_t residual_stride, const void* weight, const void* bias,
                                           int64_t narrow, const void* seed, const void* offset, void* y, void* h,
                                           void* mean, void* rstd, int64_t rows, int64_t width, int64_t h_dtype,
                                           int64_t y_dtype, int64_t threshold, double scale, double eps,
                                           int64_t processors, void* stream) {
  using namespace perfsuite::cuda;
  return for_types(dtype, h_dtype, y_dtype, [&](auto types) {
    using T = decltype(types);
    using Acc = typename Forward<T>::Acc;
    Forward<T> a{};
    a.x = static_cast<const typename T::X*>(x), a.x_stride = x_stride;
    a.residual = static_cast<const typename T::H*>(residual), a.residual_stride = residual_stride;
    a.weight = weight, a.bias = bias, a.narrow = narrow != 0;
    a.dropout = {static_cast<const int64_t*>(seed), static_cast<const int64_t*>(offset), uint32_t(threshold), scale};
    a.y = static_cast<typename T::Y*>(y), a.h = static_cast<typename T::H*>(h);
    a.mean = static_cast<Acc*>(mean), a.rstd = static_cast<Acc*>(rstd);
    a.rows = rows, a.width = width, a.eps = eps;
    const auto on = static_cast<cudaStream_t>(stream);
    return mean ? forward<true, T>(a, processors, on) : forward<false, T>(a, processors, on);
  });
}
