// perfsuite::dcn_cross_cpp_forward and _backward: matrix products of torch's libraries and csrc/ops/cpu/dcn_cross.h
// between them, as torch operators. Other matrices go to memory that is kept: fresh pages cost as much as that part.

#include "../ops/cpu/dcn_cross.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <tuple>

#include "op.h"
#include "product.h"

namespace perfsuite {
namespace {

using at::Tensor;

// Rows that share one sum for the bias: the sums are added in a fixed order, whatever the number of threads.
constexpr int64_t kRowsPerSum = 64;

Tensor with_adjacent_elements(const Tensor& x) { return x.size(1) <= 1 || x.stride(1) == 1 ? x : x.contiguous(); }

Tensor product(const Tensor& a, const Tensor& b) { return product_transposed(a, b.t()); }

// x0, x (rows, width), v (rank, width), u (width, rank), bias (width,) -> y, p = x v^T and q = p u^T. v and u have one
// dtype, in which p is; x0, x, bias, y and q have another one, or the same.
std::tuple<Tensor, Tensor, Tensor> forward_cpu(const Tensor& x0_any, const Tensor& x_any, const Tensor& v,
                                               const Tensor& u, const Tensor& bias_any) {
  const Tensor x0 = with_adjacent_elements(x0_any), x = with_adjacent_elements(x_any), bias = bias_any.contiguous();
  const Tensor p = product(x.to(v.scalar_type()), v.t());
  const Tensor q = product(p, u.t()).to(x0.scalar_type());
  Tensor y = empty_reused(x0.sizes(), x0.scalar_type());
  PERFSUITE_FOR_TYPE(x0, "dcn_cross", [&] {
    const cpu::CrossRows<T> op{const_data<T>(x0), x0.stride(0), const_data<T>(q), const_data<T>(bias), x0.size(1)};
    const T* from = const_data<T>(x);
    T* to = mutable_data<T>(y);
    for_rows(x0.size(0), x0.size(1), [&](int64_t begin, int64_t end) {
      cpu::dcn_cross_forward<T>(op, begin, end, from, x.stride(0), to, cpu::best_isa());
    });
  });
  return {y, p, q};
}

// Gradients of x0, x, v, u and bias.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward_cpu(const Tensor& upstream_any, const Tensor& x0_any,
                                                                const Tensor& x, const Tensor& p, const Tensor& q,
                                                                const Tensor& v, const Tensor& u,
                                                                const Tensor& bias_any) {
  const Tensor upstream = with_adjacent_elements(upstream_any), x0 = with_adjacent_elements(x0_any),
               bias = bias_any.contiguous();
  const int64_t rows = x0.size(0), width = x0.size(1), sums = (rows + kRowsPerSum - 1) / kRowsPerSum;
  Tensor grad_x0 = empty_reused(x0.sizes(), x0.scalar_type()), grad_x = empty_reused(x0.sizes(), x0.scalar_type());
  Tensor grad_q = empty_reused(x0.sizes(), x0.scalar_type());
  Tensor bias_sums = at::zeros({sums, width}, x0.options().dtype(acc_type(x0)));
  PERFSUITE_FOR_TYPE(x0, "dcn_cross_backward", [&] {
    using Acc = cpu::acc_t<T>;
    const cpu::CrossRows<T> op{const_data<T>(x0), x0.stride(0), const_data<T>(q), const_data<T>(bias), width};
    const cpu::CrossGradients<T> out{const_data<T>(upstream), upstream.stride(0), mutable_data<T>(grad_x0),
                                     mutable_data<T>(grad_q), mutable_data<T>(grad_x)};
    Acc* to_bias = bias_sums.mutable_data_ptr<Acc>();
    for_rows(sums, kRowsPerSum * width, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i * kRowsPerSum, last = std::min(rows, first + kRowsPerSum);
        cpu::dcn_cross_backward<T>(op, first, last, out, to_bias + i * width, cpu::best_isa());
      }
    });
  });
  const Tensor of_q = grad_q.to(v.scalar_type());
  const Tensor of_p = product(of_q, u);
  grad_x.add_(product(of_p, v));
  return {grad_x0, grad_x, product(of_p.t(), x.to(v.scalar_type())), product(of_q.t(), p),
          bias_sums.sum(0).to(bias.scalar_type())};
}

std::tuple<Tensor, Tensor, Tensor> forward_meta(const Tensor& x0, const Tensor&, const Tensor& v, const Tensor&,
                                                const Tensor&) {
  return {at::empty_symint(x0.sym_sizes(), x0.options()),
          at::empty_symint({x0.sym_size(0), v.sym_size(0)}, v.options()),
          at::empty_symint(x0.sym_sizes(), x0.options())};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward_meta(const Tensor&, const Tensor& x0, const Tensor& x,
                                                                 const Tensor&, const Tensor&, const Tensor& v,
                                                                 const Tensor& u, const Tensor& bias) {
  const auto like = [](const Tensor& tensor) { return at::empty_symint(tensor.sym_sizes(), tensor.options()); };
  return {like(x0), like(x), like(v), like(u), like(bias)};
}

}  // namespace
}  // namespace perfsuite

TORCH_LIBRARY_FRAGMENT(perfsuite, m) {
  m.def("dcn_cross_cpp_forward(Tensor x0, Tensor x, Tensor v, Tensor u, Tensor bias) -> (Tensor, Tensor, Tensor)",
        {at::Tag::pt2_compliant_tag});
  m.def(
      "dcn_cross_cpp_backward(Tensor upstream, Tensor x0, Tensor x, Tensor p, Tensor q, Tensor v, Tensor u, "
      "Tensor bias) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(perfsuite, CPU, m) {
  m.impl("dcn_cross_cpp_forward", perfsuite::forward_cpu);
  m.impl("dcn_cross_cpp_backward", perfsuite::backward_cpu);
}
TORCH_LIBRARY_IMPL(perfsuite, Meta, m) {
  m.impl("dcn_cross_cpp_forward", perfsuite::forward_meta);
  m.impl("dcn_cross_cpp_backward", perfsuite::backward_meta);
}
