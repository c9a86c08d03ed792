#include "swiglu.h"

#include "stream.h"
#include "vector.h"

namespace perfsuite::cpu {
namespace {

#define PERFSUITE_BODY "swiglu_rows.h"
#include "each_isa.h"

template <class T, Activation kKind>
void forward_rows(const Gated<T>& op, int64_t begin, int64_t end, T* out, bool stream, Isa isa) {
  for (int64_t r = begin; r < end; ++r) {
    const int64_t n = r + 1 == op.rows ? op.last : op.width;
    const T *gate = op.gate + r * op.gate_stride, *up = op.up + r * op.up_stride;
    T* out_row = out + r * op.width;
    PERFSUITE_DISPATCH(isa, forward_row<T, kKind>(gate, up, n, out_row, stream));
  }
}

template <class T, Activation kKind>
void backward_rows(const Gated<T>& op, int64_t begin, int64_t end, const T* upstream, T* grad_gate, T* grad_up,
                   int64_t grad_stride, bool stream, Isa isa) {
  for (int64_t r = begin; r < end; ++r) {
    const int64_t n = r + 1 == op.rows ? op.last : op.width;
    const T *g = upstream + r * op.width, *gate = op.gate + r * op.gate_stride, *up = op.up + r * op.up_stride;
    T *of_gate = grad_gate + r * grad_stride, *of_up = grad_up + r * grad_stride;
    PERFSUITE_DISPATCH(isa, backward_row<T, kKind>(g, gate, up, n, of_gate, of_up, stream));
  }
}

}  // namespace

template <class T>
void swiglu_forward(const Gated<T>& op, int64_t begin, int64_t end, T* out, bool stream, Isa isa) {
  const auto rows = op.activation == Activation::kSilu   ? forward_rows<T, Activation::kSilu>
                    : op.activation == Activation::kGelu ? forward_rows<T, Activation::kGelu>
                                                         : forward_rows<T, Activation::kGeluTanh>;
  rows(op, begin, end, out, stream, isa);
  if (stream) finish_streams();
}

template <class T>
void swiglu_backward(const Gated<T>& op, int64_t begin, int64_t end, const T* upstream, T* grad_gate, T* grad_up,
                     int64_t grad_stride, bool stream, Isa isa) {
  const auto rows = op.activation == Activation::kSilu   ? backward_rows<T, Activation::kSilu>
                    : op.activation == Activation::kGelu ? backward_rows<T, Activation::kGelu>
                                                         : backward_rows<T, Activation::kGeluTanh>;
  rows(op, begin, end, upstream, grad_gate, grad_up, grad_stride, stream, isa);
  if (stream) finish_streams();
}

#define PERFSUITE_INSTANTIATE(T)                                                                                    \
  template void swiglu_forward<T>(const Gated<T>&, int64_t, int64_t, T*, bool, Isa);                                \
  template void swiglu_backward<T>(const Gated<T>&, int64_t, int64_t, const T*, T*, T*, int64_t, bool, Isa);
PERFSUITE_INSTANTIATE(float)
PERFSUITE_INSTANTIATE(double)
PERFSUITE_INSTANTIATE(BFloat16)
PERFSUITE_INSTANTIATE(Half)

}  // namespace perfsuite::cpu
