#include "cross_entropy.h"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "vector.h"

namespace perfsuite::cpu {
namespace {

// Elements of a row per block: its maximum and its exponentials are two passes, and the second shall find it in L1.
constexpr int64_t kBlock = 1024;

template <class T>
acc_t<T> row_scale(const Gradient<T>& gradient, int64_t r) {
  return gradient.upstream ? gradient.scale * gradient.upstream[r * gradient.upstream_stride] : gradient.scale;
}

#define PERFSUITE_BODY "cross_entropy_rows.h"
#include "each_isa.h"

// Room for the exponentials of a row: they are computed once, and wait in the cache for the row's sum.
template <class T>
acc_t<T>* room(int64_t classes) {
  thread_local std::vector<acc_t<T>> kept;
  const size_t needed = size_t(classes + kBlock + classes / kBlock + 1);
  if (kept.size() < needed) kept.resize(needed);
  return kept.data();
}

template <class T>
void write_zeros(const CrossEntropy<T>& op, int64_t r, const Gradient<T>& gradient) {
  std::fill_n(gradient.out + r * op.classes, op.classes, T{});
}

// Other threads may read streamed rows as soon as the caller says that they are written.
void finish_streams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace

template <class T>
void cross_entropy_forward(const CrossEntropy<T>& op, int64_t begin, int64_t end, acc_t<T>* loss, RowStats<T>* stats,
                           const Gradient<T>* gradient, Isa isa) {
  acc_t<T>* const kept = room<T>(op.classes);
  for (int64_t r = begin; r < end; ++r) {
    if (op.target[r] == op.ignore_index) {
      loss[r] = 0;
      stats[r] = {0, 1};
      if (gradient) write_zeros(op, r, *gradient);
    } else {
      PERFSUITE_DISPATCH(isa, forward_row<T>(op, r, loss, stats, gradient, kept));
    }
  }
  finish_streams();
}

template <class T>
void cross_entropy_backward(const CrossEntropy<T>& op, int64_t begin, int64_t end, const RowStats<T>* stats,
                            const Gradient<T>& gradient, Isa isa) {
  acc_t<T>* const kept = room<T>(op.classes);
  for (int64_t r = begin; r < end; ++r) {
    if (op.target[r] == op.ignore_index) {
      write_zeros(op, r, gradient);
    } else {
      PERFSUITE_DISPATCH(isa, backward_row<T>(op, r, stats, gradient, kept));
    }
  }
  finish_streams();
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
