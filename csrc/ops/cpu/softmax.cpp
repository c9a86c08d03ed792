#include "softmax.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "stream.h"
#include "vector.h"

namespace perfsuite::cpu {
namespace {

// Elements that are added in float32 before they go into a sum in float64.
constexpr int64_t kBlock = 1024;

#define PERFSUITE_BODY "softmax_rows.h"
#include "each_isa.h"

}  // namespace

template <class T>
void softmax_forward(const T* x, int64_t x_stride, int64_t width, int64_t begin, int64_t end, T* y, bool stream,
                     Isa isa) {
  using Acc = acc_t<T>;
  std::vector<Acc> kept(width);  // the exponentials of a row: taken once, and in the caches
  for (int64_t r = begin; r < end; ++r) {
    const T* row = x + r * x_stride;
    const Acc m = PERFSUITE_DISPATCH(isa, row_maximum<T>(row, width));
    const double sum = PERFSUITE_DISPATCH(isa, row_exponentials<T>(row, width, m, kept.data()));
    PERFSUITE_DISPATCH(isa, scale_row<T>(kept.data(), width, Acc(1 / sum), y + r * width, stream));
  }
  if (stream) finish_streams();
}

template <class T>
void softmax_backward(const T* upstream, const T* y, int64_t width, int64_t begin, int64_t end, T* grad_x, bool stream,
                      Isa isa) {
  for (int64_t r = begin; r < end; ++r) {
    const T *g = upstream + r * width, *row = y + r * width;
    const double dot = PERFSUITE_DISPATCH(isa, dot_row<T>(g, row, width));
    PERFSUITE_DISPATCH(isa, gradient_row<T>(g, row, width, acc_t<T>(dot), grad_x + r * width, stream));
  }
  if (stream) finish_streams();
}

#define PERFSUITE_INSTANTIATE(T)                                                                                    \
  template void softmax_forward<T>(const T*, int64_t, int64_t, int64_t, int64_t, T*, bool, Isa);                    \
  template void softmax_backward<T>(const T*, const T*, int64_t, int64_t, int64_t, T*, bool, Isa);
PERFSUITE_INSTANTIATE(float)
PERFSUITE_INSTANTIATE(double)
PERFSUITE_INSTANTIATE(BFloat16)
PERFSUITE_INSTANTIATE(Half)

}  // namespace perfsuite::cpu
