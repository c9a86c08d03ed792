// perfsuite::qk_norm_rope_cpp_forward and _backward: the CPU kernels of csrc/ops/cpu/qk_norm_rope.h as torch operators,
// without autograd, for q or k alone.

#include "../ops/cpu/qk_norm_rope.h"

#include <ATen/ops/empty.h>

#include <tuple>
#include <vector>

#include "../ops/cpu/row_runs.h"
#include "op.h"

namespace {

using at::Tensor;
namespace cpu = perfsuite::cpu;

// The gradient of a weight is summed over so many rows, and then over these sums in their order, in double: any number
// of threads gives the same bits, and float32 is enough for so few.
constexpr int64_t kRowsPerSum = 64;

void check(const Tensor& x, const Tensor& weight, const Tensor& cos, const Tensor& sin, int64_t position_dim) {
  const auto acc = perfsuite::acc_type(x);
  TORCH_CHECK_VALUE(position_dim >= 0 && position_dim < x.dim() - 1, "qk_norm_rope: no position dimension ",
                    position_dim);
  TORCH_CHECK_VALUE(x.sym_size(-1) % 2 == 0, "qk_norm_rope: the last dimension must be even, got ", x.sym_size(-1));
  TORCH_CHECK_VALUE(weight.scalar_type() == acc && weight.dim() == 1 && weight.sym_size(0) == x.sym_size(-1),
                    "qk_norm_rope: a weight must be (dim,) in the dtype that is computed in");
  for (const Tensor* table : {&cos, &sin}) {
    TORCH_CHECK_VALUE(table->scalar_type() == acc && table->dim() == 2 &&
                          table->sym_size(0) >= x.sym_size(position_dim) && table->sym_size(1) * 2 == x.sym_size(-1),
                      "qk_norm_rope: cos and sin must be (positions, dim / 2) in the dtype that is computed in");
  }
}

Tensor with_adjacent_pairs(const Tensor& x) { return x.stride(-1) == 1 ? x : x.contiguous(); }

// Strides of x, upstream, out and the tables.
cpu::RowRuns<4> rows_of(const Tensor& x, const Tensor& upstream, const Tensor& out, int64_t position_dim) {
  cpu::RowRuns<4> runs;
  for (int64_t d = 0; d < x.dim() - 1; ++d) {
    const int64_t table = d == position_dim ? x.size(-1) / 2 : 0;
    TORCH_CHECK_VALUE(runs.add(x.size(d), {x.stride(d), upstream.stride(d), out.stride(d), table}),
                      "qk_norm_rope: too many dimensions");
  }
  return runs;
}

template <class T>
cpu::NormRopeRun<T> run_at(const cpu::NormRopeRun<T>& all, const int64_t* at, const int64_t* distance, int64_t rows,
                           cpu::acc_t<T>* weight_gradient) {
  return {all.x + at[0], all.upstream ? all.upstream + at[1] : nullptr, all.out + at[2], all.weight, all.cos + at[3],
          all.sin + at[3], weight_gradient, distance[0], distance[1], distance[2], distance[3], rows, all.half,
          all.eps};
}

// Contiguous.
Tensor forward_cpu(const Tensor& x_any, const Tensor& weight_any, const Tensor& cos_any, const Tensor& sin_any,
                   int64_t position_dim, double eps) {
  check(x_any, weight_any, cos_any, sin_any, position_dim);
  const Tensor x = with_adjacent_pairs(x_any), weight = weight_any.contiguous();
  const Tensor cos = cos_any.contiguous(), sin = sin_any.contiguous();
  Tensor out = perfsuite::empty_reused(x.sizes(), x.scalar_type());
  if (x.numel() == 0) return out;
  const auto runs = rows_of(x, x, out, position_dim);
  const int64_t dim = x.size(-1);
  PERFSUITE_FOR_TYPE(x, "qk_norm_rope", [&] {
    using Acc = cpu::acc_t<T>;
    const cpu::NormRopeRun<T> all{perfsuite::const_data<T>(x), nullptr, perfsuite::mutable_data<T>(out),
                                  perfsuite::const_data<Acc>(weight), perfsuite::const_data<Acc>(cos),
                                  perfsuite::const_data<Acc>(sin), nullptr, 0, 0, 0, 0, 0, dim / 2, Acc(eps)};
    const auto isa = cpu::best_isa();
    perfsuite::for_rows(runs.rows(), dim, [&](int64_t begin, int64_t end) {
      runs.each(begin, end, [&](const int64_t* at, const int64_t* distance, int64_t rows) {
        cpu::norm_rope_forward<T>(run_at(all, at, distance, rows, nullptr), isa);
      });
    });
  });
  return out;
}

// Gradients of x, contiguous, and of the weight.
std::tuple<Tensor, Tensor> backward_cpu(const Tensor& upstream_any, const Tensor& x_any, const Tensor& weight_any,
                                        const Tensor& cos_any, const Tensor& sin_any, int64_t position_dim,
                                        double eps) {
  check(x_any, weight_any, cos_any, sin_any, position_dim);
  const Tensor x = with_adjacent_pairs(x_any), upstream = with_adjacent_pairs(upstream_any);
  const Tensor weight = weight_any.contiguous(), cos = cos_any.contiguous(), sin = sin_any.contiguous();
  Tensor out = perfsuite::empty_reused(x.sizes(), x.scalar_type());
  Tensor weight_gradient = at::empty(weight.sizes(), weight.options());
  if (x.numel() == 0) return {out, weight_gradient.zero_()};
  const auto runs = rows_of(x, upstream, out, position_dim);
  const int64_t dim = x.size(-1), rows = runs.rows(), sums = (rows + kRowsPerSum - 1) / kRowsPerSum;
  PERFSUITE_FOR_TYPE(x, "qk_norm_rope_backward", [&] {
    using Acc = cpu::acc_t<T>;
    const cpu::NormRopeRun<T> all{perfsuite::const_data<T>(x), perfsuite::const_data<T>(upstream),
                                  perfsuite::mutable_data<T>(out), perfsuite::const_data<Acc>(weight),
                                  perfsuite::const_data<Acc>(cos), perfsuite::const_data<Acc>(sin),
                                  nullptr, 0, 0, 0, 0, 0, dim / 2, Acc(eps)};
    std::vector<Acc> partial(sums * dim);
    const auto isa = cpu::best_isa();
    perfsuite::for_rows(sums, kRowsPerSum * dim, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        Acc* sum = partial.data() + i * dim;
        runs.each(i * kRowsPerSum, std::min(rows, (i + 1) * kRowsPerSum),
                  [&](const int64_t* at, const int64_t* distance, int64_t count) {
                    cpu::norm_rope_backward<T>(run_at(all, at, distance, count, sum), isa);
                  });
      }
    });
    std::vector<double> total(dim);
    for (int64_t i = 0; i < sums; ++i)
      for (int64_t j = 0; j < dim; ++j) total[j] += partial[i * dim + j];
    std::copy(total.begin(), total.end(), weight_gradient.mutable_data_ptr<Acc>());
  });
  return {out, weight_gradient};
}

Tensor forward_meta(const Tensor& x, const Tensor& weight, const Tensor& cos, const Tensor& sin, int64_t position_dim,
                    double) {
  check(x, weight, cos, sin, position_dim);
  return at::empty_symint(x.sym_sizes(), x.options());
}

std::tuple<Tensor, Tensor> backward_meta(const Tensor&, const Tensor& x, const Tensor& weight, const Tensor& cos,
                                         const Tensor& sin, int64_t position_dim, double) {
  check(x, weight, cos, sin, position_dim);
  return {at::empty_symint(x.sym_sizes(), x.options()), at::empty_symint(weight.sym_sizes(), weight.options())};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(perfsuite, m) {
  m.def(
      "qk_norm_rope_cpp_forward(Tensor x, Tensor weight, Tensor cos, Tensor sin, int position_dim, float eps) "
      "-> Tensor",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "qk_norm_rope_cpp_backward(Tensor upstream, Tensor x, Tensor weight, Tensor cos, Tensor sin, int position_dim, "
      "float eps) -> (Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(perfsuite, CPU, m) {
  m.impl("qk_norm_rope_cpp_forward", forward_cpu);
  m.impl("qk_norm_rope_cpp_backward", backward_cpu);
}
TORCH_LIBRARY_IMPL(perfsuite, Meta, m) {
  m.impl("qk_norm_rope_cpp_forward", forward_meta);
  m.impl("qk_norm_rope_cpp_backward", backward_meta);
}
