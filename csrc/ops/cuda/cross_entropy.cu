// Cross-entropy of rows of logits with its gradient; the formula is in kernels/cross_entropy.py.
//
// A row belongs to one block, or to the blocks of one cluster, each with a slice of it. A slice is read once and waits in
// shared memory for the row's maximum and sum, which the blocks tell each other through their shared memory; then its
// gradient is written. Where a slice has no room there it is read a second time. The gradient may be written over the
// logits: a thread writes only what it has read itself.
#include "device.h"

namespace {
using namespace perfsuite::cuda;

constexpr int kThreads = 512;
// Of a multiprocessor: so that some blocks read while others write. float64 would spill registers.
template <class T>
constexpr int kBlocks = sizeof(T) == 8 ? 1 : 3;

template <class Acc>
__device__ __forceinline__ Acc infinity() {
  return Acc(INFINITY);
}
// The maximum starts at the lowest finite number: -inf then adds 0 and not NaN.
__device__ __forceinline__ float lowest(float) { return -3.402823466e38f; }
__device__ __forceinline__ double lowest(double) { return -1.7976931348623157e308; }
__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }

struct Options {
  int64_t classes, ignore_index;
  double smoothing, z;
};

// A row cut into packs of N at addresses aligned to a pack. Element j of the row is at place j + first; the first and the
// last pack may have places outside of the row, [first, end).
template <class T, int N>
struct Packs {
  T* base;  // of place 0
  int64_t first, end;

  __device__ __forceinline__ Packs(const T* row, int64_t classes)
      : first(N == 1 ? 0 : int64_t(reinterpret_cast<uint64_t>(row) % (N * sizeof(T)) / sizeof(T))),
        end(first + classes) {
    base = const_cast<T*>(row) - first;
  }
  __device__ __forceinline__ int64_t count() const { return (end + N - 1) / N; }
  __device__ __forceinline__ bool whole(int64_t p) const { return p * N >= first && (p + 1) * N <= end; }
  __device__ __forceinline__ bool inside(int64_t place) const { return place >= first && place < end; }
  // -inf outside of the row.
  __device__ __forceinline__ Pack<T, N> load(int64_t p) const {
    if (whole(p)) return load_pack<T, N>(base + p * N);
    Pack<T, N> pack;
    for (int i = 0; i < N; ++i)
      pack.values[i] = inside(p * N + i) ? base[p * N + i] : from_acc<T>(-infinity<acc_t<T>>());
    return pack;
  }
  __device__ __forceinline__ void store(int64_t p, const Pack<T, N>& pack) const {
    if (whole(p)) {
      store_pack<T, N>(base + p * N, pack);
    } else {
      for (int i = 0; i < N; ++i)
        if (inside(p * N + i)) base[p * N + i] = pack.values[i];
    }
  }
};

template <class Acc>
struct Row {
  Acc max, sum, total;  // sum: of exp(x - max); total: of x, for label smoothing
};

template <class Acc>
__device__ __forceinline__ void join(Row<Acc>& row, const Row<Acc>& other) {
  const Acc larger = other.max > row.max ? other.max : row.max;
  row.sum = row.sum * exponential(row.max - larger) + other.sum * exponential(other.max - larger);
  row.max = larger;
  row.total += other.total;
}

// k times the gradient; place_of_target: among the places of the pack, or outside of it.
template <class T, int N>
__device__ __forceinline__ Pack<T, N> gradient_pack(const Pack<T, N>& x, const Row<acc_t<T>>& row, acc_t<T> k,
                                                    const Options& o, int64_t place_of_target) {
  using Acc = acc_t<T>;
  const Acc slope = o.z == 0 ? Acc(1) : Acc(1) + 2 * Acc(o.z) * (row.max + logarithm(row.sum));
  const Acc a = k * slope / row.sum, b = k * Acc(o.smoothing) / Acc(o.classes), hot = k * (1 - Acc(o.smoothing));
  Pack<T, N> out;
  for (int i = 0; i < N; ++i) {
    const Acc g = a * exponential(to_acc(x.values[i]) - row.max) - b;
    out.values[i] = from_acc<T>(i == place_of_target ? g - hot : g);
  }
  return out;
}

template <class T, int N>
__device__ __forceinline__ void write_zeros(const Packs<T, N>& out, int64_t begin, int64_t end) {
  Pack<T, N> zeros;
  for (int i = 0; i < N; ++i) zeros.values[i] = from_acc<T>(acc_t<T>(0));
  for (int64_t p = begin + threadIdx.x; p < end; p += blockDim.x) out.store(p, zeros);
}

// Shared memory: 32 values for the sums over a block, the block's Row, then the slice if KEEP.
template <class T, int N, bool KEEP>
__global__ void __launch_bounds__(kThreads, KEEP ? kBlocks<T> : 1)
    forward(const T* logits, int64_t row_stride, const int64_t* targets, const acc_t<T>* scale, acc_t<T>* losses,
            acc_t<T>* stats, T* gradient, int64_t cluster, Options o) {
  using Acc = acc_t<T>;
  PERFSUITE_SHARED(Acc, scratch);
  Row<Acc>* const own = reinterpret_cast<Row<Acc>*>(scratch + 32);
  T* const kept = reinterpret_cast<T*>(scratch + 36);
  const int64_t r = blockIdx.x / cluster, rank = cluster > 1 ? int64_t(cluster_rank()) : 0, target = targets[r];
  const T* const x_row = logits + r * row_stride;
  const Packs<T, N> x(x_row, o.classes), out(gradient ? gradient + r * o.classes : x_row, o.classes);
  const int64_t each = (x.count() + cluster - 1) / cluster;
  const int64_t begin = min(x.count(), rank * each), end = min(x.count(), begin + each);
  const bool writes_loss = rank == 0 && threadIdx.x == 0;

  if (target == o.ignore_index) {
    if (writes_loss) losses[r] = 0, stats[2 * r] = 0, stats[2 * r + 1] = 1;
    if (gradient) write_zeros(out, begin, end);
    return;  // all blocks of the cluster
  }
  // A target outside the classes makes its row NaN: loud, and nobody waits for the device.
  const bool inside = target >= 0 && target < o.classes;
  const Acc x_target = writes_loss && inside ? to_acc(x_row[target]) : infinity<Acc>() - infinity<Acc>();

  Row<Acc> row{lowest(Acc()), 0, 0};
  for (int64_t p = begin + threadIdx.x; p < end; p += blockDim.x) {
    const Pack<T, N> pack = x.load(p);
    if (KEEP) store_pack<T, N>(kept + (p - begin) * N, pack);
    Row<Acc> here{row.max, 0, 0};
    for (int i = 0; i < N; ++i) here.max = to_acc(pack.values[i]) > here.max ? to_acc(pack.values[i]) : here.max;
    for (int i = 0; i < N; ++i) here.sum += exponential(to_acc(pack.values[i]) - here.max);  // a NaN shows here
    if (o.smoothing != 0)
      for (int i = 0; i < N; ++i)
        if (x.whole(p) || x.inside(p * N + i)) here.total += to_acc(pack.values[i]);
    row.sum = row.sum * exponential(row.max - here.max) + here.sum;
    row.max = here.max;
    row.total += here.total;
  }
  const Acc m = block_max(row.max, scratch);
  row.sum = block_sum(row.sum * exponential(row.max - m), scratch);
  row.max = m;
  if (o.smoothing != 0) row.total = block_sum(row.total, scratch);
  if (cluster > 1) {
    if (threadIdx.x == 0) *own = row;
    cluster_sync();
    row = *cluster_peer(own, 0);
    for (unsigned other = 1; other < cluster; ++other) join(row, *cluster_peer(own, other));  // all in the same order
  }

  if (writes_loss) {
    const Acc e = Acc(o.smoothing), log_sum = logarithm(row.sum);
    // The maximum is taken off before the small logarithm is added: nothing is lost where it is large.
    Acc value = (row.max - x_target) + log_sum;
    if (e != 0) value = (1 - e) * value + e * ((row.max - row.total / Acc(o.classes)) + log_sum);
    if (o.z != 0) value += Acc(o.z) * (row.max + log_sum) * (row.max + log_sum);
    losses[r] = value;
    stats[2 * r] = row.max;
    stats[2 * r + 1] = row.sum;
  }
  if (gradient) {
    const Acc k = inside ? (scale ? *scale : Acc(1)) : infinity<Acc>() - infinity<Acc>();
    for (int64_t p = begin + threadIdx.x; p < end; p += blockDim.x) {
      const Pack<T, N> pack = KEEP ? load_pack<T, N>(kept + (p - begin) * N) : x.load(p);
      out.store(p, gradient_pack(pack, row, k, o, target + x.first - p * N));
    }
  }
  if (cluster > 1) cluster_sync();  // nobody leaves while others may read its shared memory
}

// The gradient of row r times upstream[r * upstream_stride] (and *scale), from the forward's stats.
template <class T, int N>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    backward(const T* logits, int64_t row_stride, const int64_t* targets, const acc_t<T>* stats, const acc_t<T>* scale,
             const acc_t<T>* upstream, int64_t upstream_stride, T* gradient, int64_t blocks, Options o) {
  using Acc = acc_t<T>;
  const int64_t r = blockIdx.x / blocks, target = targets[r];
  const Packs<T, N> x(logits + r * row_stride, o.classes), out(gradient + r * o.classes, o.classes);
  const int64_t each = (x.count() + blocks - 1) / blocks;
  const int64_t begin = min(x.count(), blockIdx.x % blocks * each), end = min(x.count(), begin + each);
  if (target == o.ignore_index) return write_zeros(out, begin, end);
  const bool inside = target >= 0 && target < o.classes;
  const Acc given = upstream[r * upstream_stride] * (scale ? *scale : Acc(1));
  const Acc k = inside ? given : infinity<Acc>() - infinity<Acc>();
  const Row<Acc> row{stats[2 * r], stats[2 * r + 1], 0};
  for (int64_t p = begin + threadIdx.x; p < end; p += blockDim.x)
    out.store(p, gradient_pack(x.load(p), row, k, o, target + x.first - p * N));
}

// *scale = 1 / (rows that count), by one block.
template <class Acc>
__global__ void __launch_bounds__(kThreads)
    count(const int64_t* targets, Acc* scale, int64_t rows, int64_t ignore_index) {
  PERFSUITE_SHARED(int, scratch);
  int counted = 0;
  for (int64_t r = threadIdx.x; r < rows; r += blockDim.x) counted += targets[r] != ignore_index;
  counted = block_sum(counted, scratch);
  if (threadIdx.x == 0) *scale = Acc(1) / Acc(counted);
}

// Whether packs of 16 bytes of both are cut at the same places in every row.
template <class T>
bool same_packs(const void* a, int64_t a_stride, const void* b, int64_t b_stride) {
  const auto place = [](const void* p) { return reinterpret_cast<uint64_t>(p) % 16; };
  return place(a) == place(b) && (a_stride - b_stride) * int64_t(sizeof(T)) % 16 == 0;
}

// Whole warps for the packs of a block, about two packs to a thread.
unsigned threads_for(int64_t packs) {
  int64_t threads = 64;
  while (threads < kThreads && threads * 2 < packs) threads *= 2;
  return unsigned(threads);
}

}  // namespace

// losses: (rows,); stats: (rows, 2); scale: one number or null; gradient: (rows, classes), contiguous, or null. cluster:
// blocks to a row. kept_bytes: shared memory for a slice, 0 to read it twice.
extern "C" int perfsuite_cross_entropy_forward(int dtype, const void* logits, int64_t row_stride, const void* target,
                                               const void* scale, void* losses, void* stats, void* gradient,
                                               int64_t rows, int64_t classes, int64_t ignore_index, double smoothing,
                                               double z, int64_t cluster, int64_t kept_bytes, void* stream) {
  return PERFSUITE_CUDA_FOR_TYPE(dtype, [&] {
    using Acc = acc_t<T>;
    constexpr int N = kWidest<T>;
    const bool wide = !gradient || same_packs<T>(logits, row_stride, gradient, classes);
    const auto kernel = wide ? (kept_bytes ? forward<T, N, true> : forward<T, N, false>)
                             : (kept_bytes ? forward<T, 1, true> : forward<T, 1, false>);
    const unsigned threads = threads_for(classes / (wide ? N : 1) / cluster);
    return launch(kernel, dim3(unsigned(rows * cluster)), dim3(threads), 36 * sizeof(Acc) + size_t(kept_bytes),
                  cudaStream_t(stream), int(cluster), static_cast<const T*>(logits), row_stride,
                  static_cast<const int64_t*>(target), static_cast<const Acc*>(scale), static_cast<Acc*>(losses),
                  static_cast<Acc*>(stats), static_cast<T*>(gradient), cluster,
                  Options{classes, ignore_index, smoothing, z});
  });
}

// upstream: (rows,) with stride 1, or one number with stride 0. blocks: to a row.
extern "C" int perfsuite_cross_entropy_backward(int dtype, const void* logits, int64_t row_stride, const void* target,
                                                const void* stats, const void* scale, const void* upstream,
                                                int64_t upstream_stride, void* gradient, int64_t rows, int64_t classes,
                                                int64_t ignore_index, double smoothing, double z, int64_t blocks,
                                                void* stream) {
  return PERFSUITE_CUDA_FOR_TYPE(dtype, [&] {
    using Acc = acc_t<T>;
    constexpr int N = kWidest<T>;
    const bool wide = same_packs<T>(logits, row_stride, gradient, classes);
    return launch(wide ? backward<T, N> : backward<T, 1>, dim3(unsigned(rows * blocks)),
                  dim3(threads_for(classes / (wide ? N : 1) / blocks)), 0, cudaStream_t(stream), 1,
                  static_cast<const T*>(logits), row_stride, static_cast<const int64_t*>(target),
                  static_cast<const Acc*>(stats), static_cast<const Acc*>(scale), static_cast<const Acc*>(upstream),
                  upstream_stride, static_cast<T*>(gradient), blocks, Options{classes, ignore_index, smoothing, z});
  });
}

extern "C" int perfsuite_cross_entropy_count(int dtype, const void* target, void* scale, int64_t rows,
                                             int64_t ignore_index, void* stream) {
  const auto go = [&](auto kernel, auto* out) {
    return launch(kernel, dim3(1), dim3(kThreads), 32 * sizeof(int), cudaStream_t(stream), 1,
                  static_cast<const int64_t*>(target), out, rows, ignore_index);
  };
  if (dtype == kDouble) return go(count<double>, static_cast<double*>(scale));
  return go(count<float>, static_cast<float*>(scale));
}
