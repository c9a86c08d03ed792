// perfsuite::softmax_cpp_forward and _backward: csrc/ops/cpu/softmax.h as torch operators, over the last dimension.
// (cpp in kernels/softmax.py puts autograd around them.)

#include <ATen/ops/empty.h>

#include "../ops/cpu/softmax.h"
#include "../ops/cpu/stream.h"
#include "op.h"
#include "rows.h"

namespace {

using at::Tensor;
using namespace perfsuite;

template <class T>
bool streams(const Tensor& out) {
  return cpu::can_stream(out.const_data_ptr(), out.size(-1) * int64_t(sizeof(T)), int64_t(out.nbytes()));
}

Tensor forward_cpu(const Tensor& x) {
  Tensor y = empty_reused(x.sizes(), x.scalar_type());
  if (x.numel() == 0) return y;
  const Tensor rows = as_rows(x);
  PERFSUITE_FOR_TYPE(x, "softmax", [&] {
    const T* from = const_data<T>(rows);
    T* to = mutable_data<T>(y);
    const int64_t stride = rows.stride(0), width = rows.size(1);
    const bool stream = streams<T>(y);
    const auto isa = cpu::best_isa();
    for_rows(rows.size(0), width, [&](int64_t begin, int64_t end) {
      cpu::softmax_forward<T>(from, stride, width, begin, end, to, stream, isa);
    });
  });
  return y;
}

// y: what forward returned.
Tensor backward_cpu(const Tensor& upstream_any, const Tensor& y_any) {
  const Tensor upstream = upstream_any.contiguous(), y = y_any.contiguous();
  Tensor grad = empty_reused(y.sizes(), y.scalar_type());
  if (y.numel() == 0) return grad;
  PERFSUITE_FOR_TYPE(y, "softmax_backward", [&] {
    const T *g = const_data<T>(upstream), *from = const_data<T>(y);
    T* to = mutable_data<T>(grad);
    const int64_t width = y.size(-1);
    const bool stream = streams<T>(grad);
    const auto isa = cpu::best_isa();
    for_rows(y.numel() / width, width, [&](int64_t begin, int64_t end) {
      cpu::softmax_backward<T>(g, from, width, begin, end, to, stream, isa);
    });
  });
  return grad;
}

Tensor forward_meta(const Tensor& x) { return at::empty_symint(x.sym_sizes(), x.options()); }
Tensor backward_meta(const Tensor&, const Tensor& y) { return at::empty_symint(y.sym_sizes(), y.options()); }

}  // namespace

TORCH_LIBRARY_FRAGMENT(perfsuite, m) {
  m.def("softmax_cpp_forward(Tensor x) -> Tensor");
  m.def("softmax_cpp_backward(Tensor upstream, Tensor y) -> Tensor");
}
TORCH_LIBRARY_IMPL(perfsuite, CPU, m) {
  m.impl("softmax_cpp_forward", forward_cpu);
  m.impl("softmax_cpp_backward", backward_cpu);
}
TORCH_LIBRARY_IMPL(perfsuite, Meta, m) {
  m.impl("softmax_cpp_forward", forward_meta);
  m.impl("softmax_cpp_backward", backward_meta);
}
