// perfsuite::norm_rows_cpp_forward and _backward: the CPU kernels of csrc/ops/cpu/norm_rows.h as torch operators without
// autograd; kernels/norm_rows.py has that. Arguments are checked there.

#include <ATen/Functions.h>

#include <optional>
#include <tuple>

#include "../ops/cpu/norm_rows.h"
#include "op.h"

namespace {

using at::Tensor;
using std::optional;
namespace cpu = perfsuite::cpu;
using perfsuite::const_data;
using perfsuite::empty_reused;
using perfsuite::mutable_data;

// Outputs of more than this leave the caches before anybody reads them.
constexpr int64_t kStreamBytes = 16 << 20;
// The sums over rows are those of at most so many parts, whatever the number of threads: the same bits from all of them.
constexpr int64_t kMostParts = 64;
constexpr int64_t kLeastRowsOfPart = 8;

// (rows, width) with adjacent columns and any row stride: a view where x allows it.
Tensor as_rows(const Tensor& x) {
  const int64_t width = x.size(-1);
  Tensor rows = x.dim() == 2 ? x : x.reshape({x.numel() / width, width});
  return rows.stride(1) == 1 || width == 1 ? rows : rows.contiguous();
}

Tensor in_accumulator(const optional<Tensor>& weight, at::ScalarType acc) {
  return weight ? weight->to(acc).contiguous() : Tensor();
}

template <class T>
const T* data_or_null(const Tensor& tensor) {
  return tensor.defined() ? const_data<T>(tensor) : nullptr;
}

cpu::Dropout dropout_of(double p, const optional<Tensor>& seed, const optional<Tensor>& offset) {
  if (p == 0) return {};
  return cpu::dropout_with(p, uint64_t(*const_data<int64_t>(*seed)), uint64_t(*const_data<int64_t>(*offset)));
}

// body(X(), H()) with the kernels' element types; those of norm_rows.h are all there are.
template <class Body>
void for_types(const Tensor& x, at::ScalarType h, const Body& body) {
  PERFSUITE_FOR_TYPE(x, "norm_rows", [&] {
    if (x.scalar_type() == h) {
      body(T(), T());
    } else if constexpr (sizeof(T) == 2) {
      TORCH_CHECK(h == at::kFloat, "norm_rows: residual must be of the dtype of x or float32, got ", h);
      body(T(), float());
    } else {
      TORCH_CHECK(false, "norm_rows: residual must be of the dtype of x, got ", h, " and ", x.scalar_type());
    }
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& x_any, const optional<Tensor>& residual_any,
                                                   const optional<Tensor>& weight_any, const optional<Tensor>& bias_any,
                                                   const optional<Tensor>& seed, const optional<Tensor>& offset,
                                                   bool centered, double eps, double dropout_p,
                                                   bool float32_output) {
  const Tensor x = as_rows(x_any), residual = residual_any ? as_rows(*residual_any) : Tensor();
  const at::ScalarType kind = residual.defined() ? residual.scalar_type() : x.scalar_type();
  TORCH_CHECK(!float32_output || kind == at::kFloat, "norm_rows: on the CPU the output has the dtype of its input");
  const at::ScalarType acc = kind == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t rows = x.size(0), width = x.size(1);
  const bool makes_h = residual.defined() || dropout_p != 0;
  Tensor y = empty_reused(x_any.sizes(), kind), h = makes_h ? empty_reused(x_any.sizes(), kind) : empty_reused({0}, kind);
  Tensor mean = empty_reused({centered ? rows : 0}, acc), rstd = empty_reused({rows}, acc);
  const Tensor weight = in_accumulator(weight_any, acc), bias = in_accumulator(bias_any, acc);
  for_types(x, kind, [&](auto x_type, auto h_type) {
    using X = decltype(x_type);
    using H = decltype(h_type);
    using Acc = cpu::acc_t<H>;
    cpu::NormForward<X, H> op{};
    op.x = const_data<X>(x), op.x_stride = x.stride(0);
    if (residual.defined()) op.residual = const_data<H>(residual), op.residual_stride = residual.stride(0);
    op.weight = data_or_null<Acc>(weight), op.bias = data_or_null<Acc>(bias);
    op.width = width, op.eps = eps, op.centered = centered;
    op.dropout = dropout_of(dropout_p, seed, offset);
    op.h = makes_h ? mutable_data<H>(h) : nullptr;
    op.y = mutable_data<H>(y);
    op.mean = centered ? mutable_data<Acc>(mean) : nullptr;
    op.rstd = mutable_data<Acc>(rstd);
    op.stream = y.numel() * int64_t(sizeof(H)) > kStreamBytes;
    const auto isa = cpu::best_isa();
    perfsuite::for_rows(rows, width, [&](int64_t begin, int64_t end) {
      cpu::norm_rows_forward<X, H>(op, begin, end, isa);
    });
  });
  return {y, h, mean, rstd};
}

// The parts in order; (parts, width) -> (width,).
template <class Acc>
Tensor sum_of_parts(const Tensor& parts) {
  const int64_t width = parts.size(1);
  Tensor sum = at::empty({width}, parts.options());
  Acc* out = mutable_data<Acc>(sum);
  std::fill_n(out, width, Acc(0));
  for (int64_t part = 0; part < parts.size(0); ++part) {
    const Acc* row = const_data<Acc>(parts) + part * width;
    for (int64_t j = 0; j < width; ++j) out[j] += row[j];
  }
  return sum;
}

// Gradients of x in its dtype, of the residual where it is not the same tensor, of weight and bias in the accumulator's
// dtype; empty where not wanted.
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& upstream_any, const optional<Tensor>& upstream_h_any,
                                                    const Tensor& h_any, const optional<Tensor>& weight_any,
                                                    const Tensor& mean, const Tensor& rstd, const optional<Tensor>& seed,
                                                    const optional<Tensor>& offset, double dropout_p,
                                                    at::ScalarType x_kind, bool centered, bool separate_residual,
                                                    bool want_weight, bool want_bias) {
  const Tensor upstream = upstream_any.contiguous(), h = as_rows(h_any);
  const Tensor upstream_h = upstream_h_any ? upstream_h_any->contiguous() : Tensor();
  const at::ScalarType kind = h.scalar_type(), acc = rstd.scalar_type();
  const int64_t rows = h.size(0), width = h.size(1);
  Tensor grad_x = empty_reused(h_any.sizes(), x_kind);
  Tensor grad_residual = separate_residual ? empty_reused(h_any.sizes(), kind) : empty_reused({0}, kind);
  const Tensor weight = in_accumulator(weight_any, acc);
  const int64_t parts = std::max<int64_t>(
      1, std::min({kMostParts, rows / kLeastRowsOfPart, rows * width / perfsuite::kElementsPerTask}));
  const auto options = h.options().dtype(acc);
  Tensor weight_parts = want_weight ? at::zeros({parts, width}, options) : Tensor();
  Tensor bias_parts = want_bias ? at::zeros({parts, width}, options) : Tensor();
  Tensor grad_weight = at::empty({0}, options), grad_bias = at::empty({0}, options);
  for_types(grad_x, kind, [&](auto x_type, auto h_type) {
    using X = decltype(x_type);
    using H = decltype(h_type);
    using Acc = cpu::acc_t<H>;
    cpu::NormBackward<X, H> op{};
    op.upstream = const_data<H>(upstream), op.upstream_h = data_or_null<H>(upstream_h);
    op.h = const_data<H>(h), op.h_stride = h.stride(0);
    op.weight = data_or_null<Acc>(weight);
    op.mean = centered ? const_data<Acc>(mean) : nullptr;
    op.rstd = const_data<Acc>(rstd);
    op.width = width;
    op.dropout = dropout_of(dropout_p, seed, offset);
    op.grad_x = mutable_data<X>(grad_x);
    op.grad_residual = separate_residual ? mutable_data<H>(grad_residual) : nullptr;
    op.stream = grad_x.numel() * int64_t(sizeof(X)) > kStreamBytes;
    const auto isa = cpu::best_isa();
    at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part)
        cpu::norm_rows_backward<X, H>(op, rows * part / parts, rows * (part + 1) / parts,
                                      want_weight ? mutable_data<Acc>(weight_parts) + part * width : nullptr,
                                      want_bias ? mutable_data<Acc>(bias_parts) + part * width : nullptr, isa);
    });
    if (want_weight) grad_weight = sum_of_parts<Acc>(weight_parts);
    if (want_bias) grad_bias = sum_of_parts<Acc>(bias_parts);
  });
  return {grad_x, grad_residual, grad_weight, grad_bias};
}

}  // namespace

TORCH_LIBRARY_IMPL(perfsuite, CPU, m) {
  m.impl("norm_rows_cpp_forward", forward);
  m.impl("norm_rows_cpp_backward", backward);
}
