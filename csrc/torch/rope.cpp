// perfsuite::rope_cpp and rope_cpp_: the CPU kernel of csrc/ops/cpu/rope.h as torch operators, without autograd.

#include "../ops/cpu/rope.h"

#include <ATen/ops/empty.h>

#include "../ops/cpu/row_runs.h"
#include "op.h"

namespace {

using at::Tensor;
namespace cpu = perfsuite::cpu;

void check(const Tensor& x, const Tensor& cos, const Tensor& sin, int64_t position_dim) {
  TORCH_CHECK_VALUE(position_dim >= 0 && position_dim < x.dim() - 1, "rope: no position dimension ", position_dim);
  TORCH_CHECK_VALUE(x.sym_size(-1) % 2 == 0, "rope: the last dimension of x must be even, got ", x.sym_size(-1));
  for (const Tensor* table : {&cos, &sin}) {
    TORCH_CHECK_VALUE(table->scalar_type() == perfsuite::acc_type(x) && table->dim() == 2 &&
                          table->sym_size(0) >= x.sym_size(position_dim) && table->sym_size(1) * 2 == x.sym_size(-1),
                      "rope: cos and sin must be (positions, half of x's last dimension) in the dtype x is turned in");
  }
}

// The last dimension of x and out is contiguous.
void turn(const Tensor& x, const Tensor& out, const Tensor& cos_any, const Tensor& sin_any, int64_t position_dim,
          bool inverse) {
  if (x.numel() == 0) return;
  const Tensor cos = cos_any.contiguous(), sin = sin_any.contiguous();
  const int64_t half = x.size(-1) / 2;
  cpu::RowRuns<3> runs;
  for (int64_t d = 0; d < x.dim() - 1; ++d) {
    const bool fits = runs.add(x.size(d), {x.stride(d), out.stride(d), d == position_dim ? half : 0});
    TORCH_CHECK_VALUE(fits, "rope: x has too many dimensions");
  }
  PERFSUITE_FOR_TYPE(x, "rope", [&] {
    using Acc = cpu::acc_t<T>;
    const T* from = perfsuite::const_data<T>(x);
    T* to = perfsuite::mutable_data<T>(out);
    const Acc *cosines = perfsuite::const_data<Acc>(cos), *sines = perfsuite::const_data<Acc>(sin);
    const auto isa = cpu::best_isa();
    perfsuite::for_rows(runs.rows(), 2 * half, [&](int64_t begin, int64_t end) {
      runs.each(begin, end, [&](const int64_t* at, const int64_t* distance, int64_t rows) {
        cpu::rope<T>({from + at[0], to + at[1], cosines + at[2], sines + at[2], distance[0], distance[1], distance[2],
                      rows, half, inverse},
                     isa);
      });
    });
  });
}

Tensor with_adjacent_pairs(const Tensor& x) { return x.stride(-1) == 1 ? x : x.contiguous(); }

// A contiguous tensor of x's sizes.
Tensor rope_cpu(const Tensor& x, const Tensor& cos, const Tensor& sin, int64_t position_dim, bool inverse) {
  check(x, cos, sin, position_dim);
  Tensor out = perfsuite::empty_reused(x.sizes(), x.scalar_type());
  turn(with_adjacent_pairs(x), out, cos, sin, position_dim, inverse);
  return out;
}

void rope_cpu_(const Tensor& x, const Tensor& cos, const Tensor& sin, int64_t position_dim, bool inverse) {
  check(x, cos, sin, position_dim);
  if (x.stride(-1) == 1) return turn(x, x, cos, sin, position_dim, inverse);
  x.copy_(rope_cpu(x, cos, sin, position_dim, inverse));
}

Tensor rope_meta(const Tensor& x, const Tensor& cos, const Tensor& sin, int64_t position_dim, bool) {
  check(x, cos, sin, position_dim);
  return at::empty_symint(x.sym_sizes(), x.options());
}

void rope_meta_(const Tensor& x, const Tensor& cos, const Tensor& sin, int64_t position_dim, bool) {
  check(x, cos, sin, position_dim);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(perfsuite, m) {
  m.def("rope_cpp(Tensor x, Tensor cos, Tensor sin, int position_dim, bool inverse) -> Tensor",
        {at::Tag::pt2_compliant_tag});
  m.def("rope_cpp_(Tensor(a!) x, Tensor cos, Tensor sin, int position_dim, bool inverse) -> ()",
        {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(perfsuite, CPU, m) {
  m.impl("rope_cpp", rope_cpu);
  m.impl("rope_cpp_", rope_cpu_);
}
TORCH_LIBRARY_IMPL(perfsuite, Meta, m) {
  m.impl("rope_cpp", rope_meta);
  m.impl("rope_cpp_", rope_meta_);
}
