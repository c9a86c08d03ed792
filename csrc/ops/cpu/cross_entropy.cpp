#include "cross_entropy.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "vector.h"

namespace perfsuite::cpu {
namespace {

// Elements of a row per block: its maximum and its exponentials are two passes, and the second shall find it in L1.
constexpr int64_t kBlock = 1024;

template <class T>
struct Row {
  acc_t<T> max;
  double sum;    // of exp(x - max)
  double total;  // of x; only where it was asked for
};

// Joins a block to the row so far. The maximum starts at the lowest finite number, not at -inf, so that leading blocks
// of -inf add 0 and not NaN; a row of nothing else ends with sum 0, whose logarithm makes the loss the NaN it should be.
template <class T>
void join(Row<T>& row, acc_t<T> block_max, double block_sum) {
  row.sum = row.sum * std::exp(double(row.max) - double(block_max)) + block_sum;
  row.max = block_max;
}

namespace plain {

template <class T>
Row<T> scan(const T* x, int64_t n, bool want_total) {
  using Acc = acc_t<T>;
  Row<T> row{std::numeric_limits<Acc>::lowest(), 0, 0};
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t end = std::min(n, start + kBlock);
    Acc m = row.max;
    for (int64_t j = start; j < end; ++j) m = std::max(m, to_acc(x[j]));
    double sum = 0, total = 0;
    for (int64_t j = start; j < end; ++j) sum += std::exp(to_acc(x[j]) - m);
    if (want_total)
      for (int64_t j = start; j < end; ++j) total += to_acc(x[j]);
    join(row, m, sum);
    row.total += total;
  }
  return row;
}

// out_j = a exp(x_j - m) - b
template <class T>
void gradient_row(const T* x, int64_t n, acc_t<T> m, acc_t<T> a, acc_t<T> b, T* out, bool /*stream*/) {
  for (int64_t j = 0; j < n; ++j) from_acc(a * std::exp(to_acc(x[j]) - m) - b, out + j);
}

}  // namespace plain

#if defined(__x86_64__)
namespace avx2 {
using Vec = Avx2;
#define PERFSUITE_TARGET PERFSUITE_AVX2
#include "cross_entropy_rows.h"
#undef PERFSUITE_TARGET
}  // namespace avx2
namespace avx512 {
using Vec = Avx512;
#define PERFSUITE_TARGET PERFSUITE_AVX512
#include "cross_entropy_rows.h"
#undef PERFSUITE_TARGET
}  // namespace avx512
#endif

template <class T>
struct RowKernels {
  Row<T> (*scan)(const T*, int64_t, bool);
  void (*gradient_row)(const T*, int64_t, acc_t<T>, acc_t<T>, acc_t<T>, T*, bool);
};

template <class T>
RowKernels<T> kernels_for(Isa isa) {
#if defined(__x86_64__)
  if constexpr (!std::is_same_v<T, double>) {
    if (isa == Isa::kAvx512) return {avx512::scan<T>, avx512::gradient_row<T>};
    if (isa == Isa::kAvx2) return {avx2::scan<T>, avx2::gradient_row<T>};
  }
#endif
  (void)isa;
  return {plain::scan<T>, plain::gradient_row<T>};
}

template <class T>
void write_gradient(const CrossEntropy<T>& op, const RowKernels<T>& kernels, int64_t r, const RowStats<T>& stats,
                    const Gradient<T>& gradient) {
  using Acc = acc_t<T>;
  T* out = gradient.out + r * op.classes;
  const int64_t target = op.target[r];
  if (target == op.ignore_index) {
    std::fill_n(out, op.classes, T{});
    return;
  }
  const T* x = op.logits + r * op.row_stride;
  Acc scale = gradient.scale;
  if (gradient.upstream) scale *= gradient.upstream[r * gradient.upstream_stride];
  const Acc slope = op.z_loss == 0 ? Acc(1) : Acc(1 + 2 * op.z_loss * (stats.max + std::log(double(stats.sum))));
  const Acc a = scale * slope / stats.sum;
  const Acc b = op.label_smoothing == 0 ? Acc(0) : scale * op.label_smoothing / op.classes;
  kernels.gradient_row(x, op.classes, stats.max, a, b, out, gradient.stream);
  const Acc at_target = a * std::exp(to_acc(x[target]) - stats.max) - b;
  from_acc(at_target - scale * (1 - op.label_smoothing), out + target);
}

}  // namespace

template <class T>
void cross_entropy_forward(const CrossEntropy<T>& op, int64_t begin, int64_t end, acc_t<T>* loss, RowStats<T>* stats,
                           const Gradient<T>* gradient, Isa isa) {
  using Acc = acc_t<T>;
  const RowKernels<T> kernels = kernels_for<T>(isa);
  for (int64_t r = begin; r < end; ++r) {
    const int64_t target = op.target[r];
    if (target == op.ignore_index) {
      loss[r] = 0;
      stats[r] = {0, 1};
    } else {
      const T* x = op.logits + r * op.row_stride;
      const Row<T> row = kernels.scan(x, op.classes, op.label_smoothing != 0);
      const double log_sum = std::log(row.sum), e = op.label_smoothing;
      // The maximum is taken off before the small logarithm is added: nothing is lost where it is large.
      double value = (double(row.max) - double(to_acc(x[target]))) + log_sum;
      if (e != 0) value = (1 - e) * value + e * ((row.max - row.total / op.classes) + log_sum);
      if (op.z_loss != 0) value += op.z_loss * (row.max + log_sum) * (row.max + log_sum);
      loss[r] = Acc(value);
      stats[r] = {row.max, Acc(row.sum)};
    }
    if (gradient) write_gradient(op, kernels, r, stats[r], *gradient);
  }
}

template <class T>
void cross_entropy_backward(const CrossEntropy<T>& op, int64_t begin, int64_t end, const RowStats<T>* stats,
                            const Gradient<T>& gradient, Isa isa) {
  const RowKernels<T> kernels = kernels_for<T>(isa);
  for (int64_t r = begin; r < end; ++r) write_gradient(op, kernels, r, stats[r], gradient);
}

#define PERFSUITE_INSTANTIATE(T)                                                                                     \
  template void cross_entropy_forward<T>(const CrossEntropy<T>&, int64_t, int64_t, acc_t<T>*, RowStats<T>*,          \
                                         const Gradient<T>*, Isa);                                                   \
  template void cross_entropy_backward<T>(const CrossEntropy<T>&, int64_t, int64_t, const RowStats<T>*,              \
                                          const Gradient<T>&, Isa);
PERFSUITE_INSTANTIATE(float)
PERFSUITE_INSTANTIATE(double)
PERFSUITE_INSTANTIATE(BFloat16)
PERFSUITE_INSTANTIATE(Half)

}  // namespace perfsuite::cpu
