// Batch normalisation over rows of channels, with an addition and a ReLU, forward and gradient: the formulas are those of
// kernels/batch_norm_add_relu.py. A row is a position of an NHWC tensor.
//
// Each direction is three kernels: sums over pieces of the rows, one that adds the pieces up in double and makes of them
// what each channel is multiplied with, and one over all elements. A thread has N adjacent channels, 16 bytes of them
// where the rows allow it, and walks down the rows; what belongs to its channels stays in its registers.
#include "device.h"

namespace {
using namespace perfsuite::cuda;

constexpr unsigned kThreads = 256;
constexpr int kBlocks = 4;  // on a multiprocessor at a time: 64 registers for each thread
// Rows that the origin of a piece is the mean of. Every thread reads them, from the cache.
constexpr int kOriginRows = 8;
// Rows of each thread in the kernels over all elements.
constexpr int kRowsOfThread = 8;
// The kernels that add up pieces: so many channels to a block, as many pieces at a time as its threads allow.
constexpr unsigned kSumChannels = 32;

// Where a thread of a block of lanes x height threads is.
template <int N>
struct Place {
  unsigned lanes, lane, row, height;  // threads along the channels, and where among them; the same along the rows
  int64_t j;  // its first channel
  bool inside;
  __device__ __forceinline__ Place(unsigned lanes, int64_t channels)
      : lanes(lanes), lane(threadIdx.x % lanes), row(threadIdx.x / lanes), height(kThreads / lanes),
        j((int64_t(blockIdx.y) * lanes + lane) * N), inside(j < channels) {}
};

template <class T, int N>
struct Values {
  acc_t<T> v[N];
};
template <class T, int N>
__device__ __forceinline__ Values<T, N> load(const T* p) {
  const Pack<T, N> pack = load_pack<T, N>(p);
  Values<T, N> out;
#pragma unroll
  for (int i = 0; i < N; ++i) out.v[i] = to_acc(pack.values[i]);
  return out;
}
template <class T, int N>
__device__ __forceinline__ void store(T* p, const Values<T, N>& values) {
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.values[i] = from_acc<T>(values.v[i]);
  store_pack<T, N>(p, pack);
}
// Of this thread's channels; 0 outside.
template <class T, int N>
__device__ __forceinline__ Values<T, N> of_channels(const acc_t<T>* p, const Place<N>& at) {
  Values<T, N> out;
#pragma unroll
  for (int i = 0; i < N; ++i) out.v[i] = at.inside ? p[at.j + i] : acc_t<T>(0);
  return out;
}

// Adds up what the rows of threads of a block have; the first row of threads gets the sums. All threads of the block call
// it. scratch: kThreads * N values.
template <class T, int N>
__device__ __forceinline__ void add_rows(Values<T, N>& sum, const Place<N>& at, acc_t<T>* scratch) {
  acc_t<T>* const mine = scratch + threadIdx.x * N;
#pragma unroll
  for (int i = 0; i < N; ++i) mine[i] = sum.v[i];
  __syncthreads();
  for (unsigned half = at.height / 2; half > 0; half /= 2) {
    if (at.row < half) {
#pragma unroll
      for (int i = 0; i < N; ++i) mine[i] += mine[half * at.lanes * N + i];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < N; ++i) sum.v[i] = mine[i];
  __syncthreads();
}

// partial (pieces, 3, channels): an origin near x, the sums of x - origin and of its square.
template <class T, int N>
__global__ void __launch_bounds__(kThreads, kBlocks)
    sums(const T* x, acc_t<T>* partial, int64_t rows, int64_t rows_of_each, int64_t channels, unsigned lanes) {
  using Acc = acc_t<T>;
  PERFSUITE_SHARED(Acc, scratch);
  const Place<N> at(lanes, channels);
  const int64_t first = int64_t(blockIdx.x) * rows_of_each;
  const int64_t count = rows - first < rows_of_each ? rows - first : rows_of_each;
  const T* const from = x + first * channels + at.j;
  Values<T, N> origin = {}, s1 = {}, s2 = {};
  if (at.inside) {
    const int some = int(count < kOriginRows ? count : kOriginRows);
    for (int r = 0; r < some; ++r) {
      const Values<T, N> value = load<T, N>(from + r * channels);
#pragma unroll
      for (int i = 0; i < N; ++i) origin.v[i] += value.v[i];
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
      origin.v[i] /= some;
      if (!(origin.v[i] - origin.v[i] == 0)) origin.v[i] = 0;  // where it is infinite or NaN, any number will do
    }
#pragma unroll 2
    for (int64_t r = at.row; r < count; r += at.height) {
      const Values<T, N> value = load<T, N>(from + r * channels);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const Acc d = value.v[i] - origin.v[i];
        s1.v[i] += d;
        s2.v[i] += d * d;
      }
    }
  }
  add_rows(s1, at, scratch);
  add_rows(s2, at, scratch);
  if (at.inside && at.row == 0) {
    Acc* const out = partial + int64_t(blockIdx.x) * 3 * channels + at.j;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      out[i] = origin.v[i];
      out[channels + i] = s1.v[i];
      out[2 * channels + i] = s2.v[i];
    }
  }
}

// partial (pieces, 2, channels): the sums of g and of g (x - mean). bits null: g = dy.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    backward_sums(const T* dy, const uint8_t* bits, const T* x, const acc_t<T>* mean, acc_t<T>* partial, int64_t rows,
                  int64_t rows_of_each, int64_t channels, unsigned lanes) {
  using Acc = acc_t<T>;
  PERFSUITE_SHARED(Acc, scratch);
  const Place<N> at(lanes, channels);
  const int64_t first = int64_t(blockIdx.x) * rows_of_each;
  const int64_t count = rows - first < rows_of_each ? rows - first : rows_of_each, bytes = (channels + 7) / 8;
  const Values<T, N> center = of_channels<T>(mean, at);
  Values<T, N> s1 = {}, s2 = {};
  if (at.inside) {
#pragma unroll 2
    for (int64_t r = first + at.row; r < first + count; r += at.height) {
      const Values<T, N> g = load<T, N>(dy + r * channels + at.j), value = load<T, N>(x + r * channels + at.j);
      const unsigned passes = bits ? unsigned(bits[r * bytes + at.j / 8]) >> (at.j % 8) : ~0u;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const Acc masked = passes >> i & 1 ? g.v[i] : Acc(0);
        s1.v[i] += masked;
        s2.v[i] += masked * (value.v[i] - center.v[i]);
      }
    }
  }
  add_rows(s1, at, scratch);
  add_rows(s2, at, scratch);
  if (at.inside && at.row == 0) {
    Acc* const out = partial + int64_t(blockIdx.x) * 2 * channels + at.j;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      out[i] = s1.v[i];
      out[channels + i] = s2.v[i];
    }
  }
}

// Two sums over the threads that have the same channel in a block of kSumChannels x height; valid in the first of them.
__device__ __forceinline__ void add_two(double& a, double& b, double* scratch) {
  const unsigned height = kThreads / kSumChannels, row = threadIdx.x / kSumChannels;
  scratch[2 * threadIdx.x] = a;
  scratch[2 * threadIdx.x + 1] = b;
  __syncthreads();
  if (row == 0) {
    for (unsigned r = 1; r < height; ++r) {
      a += scratch[2 * (r * kSumChannels + threadIdx.x)];
      b += scratch[2 * (r * kSumChannels + threadIdx.x) + 1];
    }
  }
}

// What a batch's channels are normalised with, from the sums of its pieces; weight and bias may be null.
template <class Acc>
struct Statistics {
  const Acc *weight, *bias;
  Acc *mean, *rstd, *var, *scale, *shift;
};
template <class Acc>
__global__ void __launch_bounds__(kThreads) statistics(const Acc* partial, Statistics<Acc> out, int64_t rows,
                                                       int64_t rows_of_each, int64_t pieces, int64_t channels,
                                                       double eps) {
  PERFSUITE_SHARED(double, scratch);
  const int64_t j = int64_t(blockIdx.x) * kSumChannels + threadIdx.x % kSumChannels;
  const bool inside = j < channels;
  const double origin = inside ? partial[j] : 0;
  double s1 = 0, s2 = 0;
  for (int64_t p = threadIdx.x / kSumChannels; inside && p < pieces; p += kThreads / kSumChannels) {
    const Acc* const piece = partial + p * 3 * channels + j;
    const int64_t left = rows - p * rows_of_each;
    const double n = double(left < rows_of_each ? left : rows_of_each), step = double(piece[0]) - origin;
    const double t1 = piece[channels], t2 = piece[2 * channels];
    s1 += t1 + n * step;
    s2 += t2 + step * (2 * t1 + n * step);
  }
  add_two(s1, s2, scratch);
  if (!inside || threadIdx.x >= kSumChannels) return;
  const double n = double(rows), step = s1 / n, mean = origin + step;
  double squares = s2 - step * s1;
  if (squares < 0) squares = 0;  // NaN stays
  const double rstd = 1 / sqrt(squares / n + eps), scale = out.weight ? rstd * out.weight[j] : rstd;
  // What the mean loses when it is rounded comes back in the shift. Where that is no number nothing is lost.
  const double lost = (double(Acc(mean)) - mean) * scale;
  out.mean[j] = Acc(mean);
  out.rstd[j] = Acc(rstd);
  out.var[j] = Acc(squares / (n > 1 ? n - 1 : 1));
  out.scale[j] = Acc(scale);
  out.shift[j] = Acc((out.bias ? double(out.bias[j]) : 0) + (lost - lost == 0 ? lost : 0));
}

// Gradients of weight and bias, and dx = a g + b (x - mean) + c, from the sums of the pieces; weight may be null.
template <class Acc>
struct Coefficients {
  const Acc *weight, *rstd;
  Acc *d_weight, *d_bias, *a, *b, *c;
};
template <class Acc>
__global__ void __launch_bounds__(kThreads)
    coefficients(const Acc* partial, Coefficients<Acc> out, int64_t rows, int64_t pieces, int64_t channels) {
  PERFSUITE_SHARED(double, scratch);
  const int64_t j = int64_t(blockIdx.x) * kSumChannels + threadIdx.x % kSumChannels;
  const bool inside = j < channels;
  double s1 = 0, s2 = 0;
  for (int64_t p = threadIdx.x / kSumChannels; inside && p < pieces; p += kThreads / kSumChannels) {
    s1 += partial[p * 2 * channels + j];
    s2 += partial[(p * 2 + 1) * channels + j];
  }
  add_two(s1, s2, scratch);
  if (!inside || threadIdx.x >= kSumChannels) return;
  const double n = double(rows), rstd = out.rstd[j], slope = out.weight ? rstd * out.weight[j] : rstd;
  out.d_weight[j] = Acc(s2 * rstd);
  out.d_bias[j] = Acc(s1);
  out.a[j] = Acc(slope);
  out.b[j] = Acc(-slope * rstd * rstd * (s2 / n));
  out.c[j] = Acc(-slope * (s1 / n));
}

// y, and the bits where `bits` is not null. All threads of a warp go through all rows: some make one byte together.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    apply(const T* x, const T* add, const acc_t<T>* mean, const acc_t<T>* scale, const acc_t<T>* shift, T* y,
          uint8_t* bits, bool relu, int64_t rows, int64_t channels, unsigned lanes) {
  using Acc = acc_t<T>;
  const Place<N> at(lanes, channels);
  const Values<T, N> m = of_channels<T>(mean, at), s = of_channels<T>(scale, at), b = of_channels<T>(shift, at);
  const int64_t first = int64_t(blockIdx.x) * (at.height * kRowsOfThread) + at.row, bytes = (channels + 7) / 8;
#pragma unroll 2
  for (int k = 0; k < kRowsOfThread; ++k) {
    const int64_t r = first + int64_t(k) * at.height, here = r * channels + at.j;
    const bool inside = at.inside && r < rows;
    unsigned passes = 0;
    if (inside) {
      Values<T, N> z = load<T, N>(x + here);
#pragma unroll
      for (int i = 0; i < N; ++i) z.v[i] = (z.v[i] - m.v[i]) * s.v[i] + b.v[i];
      if (add) {
        const Values<T, N> added = load<T, N>(add + here);
#pragma unroll
        for (int i = 0; i < N; ++i) z.v[i] += added.v[i];
      }
      if (relu) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
          const bool pass = !(z.v[i] <= 0);  // NaN passes
          passes |= unsigned(pass) << i;
          if (!pass) z.v[i] = Acc(0);
        }
      }
      store<T, N>(y + here, z);
    }
    if (bits) {
      passes <<= at.j % 8;
#pragma unroll
      for (int step = 1; step < 8 / N; step *= 2) passes |= __shfl_xor_sync(0xffffffffu, passes, step);
      if (inside && at.j % 8 == 0) bits[r * bytes + at.j / 8] = uint8_t(passes);
    }
  }
}

// dx, and g where d_add is not null. b null: without the terms of the statistics, and x is not read.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    backward(const T* dy, const uint8_t* bits, const T* x, const acc_t<T>* mean, const acc_t<T>* a, const acc_t<T>* b,
             const acc_t<T>* c, T* dx, T* d_add, int64_t rows, int64_t channels, unsigned lanes) {
  using Acc = acc_t<T>;
  const Place<N> at(lanes, channels);
  if (!at.inside) return;
  const Values<T, N> m = of_channels<T>(mean, at), slope = of_channels<T>(a, at);
  Values<T, N> of_x = {}, shift = {};
  if (b) {
    of_x = of_channels<T>(b, at);
    shift = of_channels<T>(c, at);
  }
  const int64_t first = int64_t(blockIdx.x) * (at.height * kRowsOfThread) + at.row, bytes = (channels + 7) / 8;
#pragma unroll 2
  for (int k = 0; k < kRowsOfThread; ++k) {
    const int64_t r = first + int64_t(k) * at.height, here = r * channels + at.j;
    if (r >= rows) break;
    Values<T, N> g = load<T, N>(dy + here), gradient;
    const unsigned passes = bits ? unsigned(bits[r * bytes + at.j / 8]) >> (at.j % 8) : ~0u;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (!(passes >> i & 1)) g.v[i] = Acc(0);
      gradient.v[i] = slope.v[i] * g.v[i];
    }
    if (b) {
      const Values<T, N> value = load<T, N>(x + here);
#pragma unroll
      for (int i = 0; i < N; ++i) gradient.v[i] += of_x.v[i] * (value.v[i] - m.v[i]) + shift.v[i];
    }
    store<T, N>(dx + here, gradient);
    if (d_add) store<T, N>(d_add + here, g);
  }
}

// Threads along the channels: a power of two that covers them if 32 do, and enough of them for one byte of bits.
template <int N>
unsigned lanes_for(int64_t channels) {
  unsigned lanes = N < 8 ? 8 / N : 1;
  while (lanes < 32 && lanes * N < channels) lanes *= 2;
  return lanes;
}
template <int N>
unsigned blocks_of_channels(int64_t channels) {
  const unsigned width = lanes_for<N>(channels) * N;
  return unsigned((uint64_t(channels) + width - 1) / width);
}
template <int N>
dim3 whole_grid(int64_t rows, int64_t channels) {
  const unsigned height = kThreads / lanes_for<N>(channels) * kRowsOfThread;
  return dim3(unsigned((uint64_t(rows) + height - 1) / height), blocks_of_channels<N>(channels));
}

template <class... Pointers>
bool aligned(Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) | ...) & 15) == 0;
}

template <class T, int N>
int forward_in(const T* x, const T* add, acc_t<T>* partial, const Statistics<acc_t<T>>& stats, T* y, uint8_t* bits,
               bool relu, int64_t rows, int64_t rows_of_each, int64_t pieces, int64_t channels, double eps,
               cudaStream_t stream) {
  const unsigned lanes = lanes_for<N>(channels);
  if (partial) {
    int error = launch(sums<T, N>, dim3(unsigned(pieces), blocks_of_channels<N>(channels)), dim3(kThreads),
                       kThreads * N * sizeof(acc_t<T>), stream, 1, x, partial, rows, rows_of_each, channels, lanes);
    if (error) return error;
    error = launch(statistics<acc_t<T>>, dim3(unsigned((channels + kSumChannels - 1) / kSumChannels)), dim3(kThreads),
                   2 * kThreads * sizeof(double), stream, 1, partial, stats, rows, rows_of_each, pieces, channels, eps);
    if (error) return error;
  }
  return launch(apply<T, N>, whole_grid<N>(rows, channels), dim3(kThreads), 0, stream, 1, x, add, stats.mean,
                stats.scale, stats.shift, y, bits, relu, rows, channels, lanes);
}

template <class T, int N>
int backward_in(const T* dy, const uint8_t* bits, const T* x, const acc_t<T>* mean, acc_t<T>* partial,
                const Coefficients<acc_t<T>>& out, T* dx, T* d_add, bool training, int64_t rows, int64_t rows_of_each,
                int64_t pieces, int64_t channels, cudaStream_t stream) {
  using Acc = acc_t<T>;
  const unsigned lanes = lanes_for<N>(channels);
  int error = launch(backward_sums<T, N>, dim3(unsigned(pieces), blocks_of_channels<N>(channels)), dim3(kThreads),
                     kThreads * N * sizeof(Acc), stream, 1, dy, bits, x, mean, partial, rows, rows_of_each, channels,
                     lanes);
  if (error) return error;
  error = launch(coefficients<Acc>, dim3(unsigned((channels + kSumChannels - 1) / kSumChannels)), dim3(kThreads),
                 2 * kThreads * sizeof(double), stream, 1, partial, out, rows, pieces, channels);
  if (error) return error;
  return launch(backward<T, N>, whole_grid<N>(rows, channels), dim3(kThreads), 0, stream, 1, dy, bits, x, mean, out.a,
                training ? out.b : nullptr, out.c, dx, d_add, rows, channels, lanes);
}

}  // namespace

// partial (pieces, 3, channels), null where mean, scale and shift are given. weight, bias, add and bits may be null.
extern "C" int perfsuite_batch_norm_add_relu_forward(int dtype, const void* x, const void* weight, const void* bias,
                                                     const void* add, void* partial, void* mean, void* rstd, void* var,
                                                     void* scale, void* shift, void* y, void* bits, int64_t relu,
                                                     int64_t rows, int64_t rows_of_each, int64_t pieces,
                                                     int64_t channels, double eps, void* stream) {
  return PERFSUITE_CUDA_FOR_TYPE(dtype, [&] {
    using Acc = acc_t<T>;
    const Statistics<Acc> stats{static_cast<const Acc*>(weight), static_cast<const Acc*>(bias), static_cast<Acc*>(mean),
                                static_cast<Acc*>(rstd),         static_cast<Acc*>(var),        static_cast<Acc*>(scale),
                                static_cast<Acc*>(shift)};
    const bool wide = channels % kWidest<T> == 0 && aligned(x, add, y);
    const auto run = wide ? forward_in<T, kWidest<T>> : forward_in<T, 1>;
    return run(static_cast<const T*>(x), static_cast<const T*>(add), static_cast<Acc*>(partial), stats,
               static_cast<T*>(y), static_cast<uint8_t*>(bits), relu != 0, rows, rows_of_each, pieces, channels, eps,
               static_cast<cudaStream_t>(stream));
  });
}

// partial (pieces, 2, channels), and a, b and c (channels,) to work in. weight, bits and d_add may be null.
extern "C" int perfsuite_batch_norm_add_relu_backward(int dtype, const void* dy, const void* bits, const void* x,
                                                      const void* weight, const void* mean, const void* rstd,
                                                      void* partial, void* a, void* b, void* c, void* dx,
                                                      void* d_weight, void* d_bias, void* d_add, int64_t training,
                                                      int64_t rows, int64_t rows_of_each, int64_t pieces,
                                                      int64_t channels, void* stream) {
  return PERFSUITE_CUDA_FOR_TYPE(dtype, [&] {
    using Acc = acc_t<T>;
    const Coefficients<Acc> out{static_cast<const Acc*>(weight), static_cast<const Acc*>(rstd),
                                static_cast<Acc*>(d_weight),     static_cast<Acc*>(d_bias),
                                static_cast<Acc*>(a),            static_cast<Acc*>(b),
                                static_cast<Acc*>(c)};
    const bool wide = channels % kWidest<T> == 0 && aligned(dy, x, dx, d_add);
    const auto run = wide ? backward_in<T, kWidest<T>> : backward_in<T, 1>;
    return run(static_cast<const T*>(dy), static_cast<const uint8_t*>(bits), static_cast<const T*>(x),
               static_cast<const Acc*>(mean), static_cast<Acc*>(partial), out, static_cast<T*>(dx),
               static_cast<T*>(d_add), training != 0, rows, rows_of_each, pieces, channels,
               static_cast<cudaStream_t>(stream));
  });
}
