// perfsuite::dot_interaction_cpp_forward and _backward: csrc/ops/cpu/dot_interaction.h as torch operators.

#include "../ops/cpu/dot_interaction.h"

#include <ATen/ops/empty.h>

#include <tuple>

#include "op.h"

namespace perfsuite {
namespace {

using at::Tensor;

Tensor with_adjacent_elements(const Tensor& x) { return x.size(-1) <= 1 || x.stride(-1) == 1 ? x : x.contiguous(); }

template <class T>
cpu::DotInteraction<T> arguments(const Tensor& dense, const Tensor& sparse) {
  return {const_data<T>(dense), const_data<T>(sparse), dense.stride(0),    sparse.stride(0),
          sparse.stride(1),     sparse.size(0),        sparse.size(1) + 1, sparse.size(2)};
}

// Multiplications stand for elements here: a sample is worth much more than it has elements.
template <class Body>
void for_samples(const Tensor& sparse, const Body& body) {
  const int64_t features = sparse.size(1) + 1;
  for_rows(sparse.size(0), features * features * sparse.size(2) / 8, body);
}

// dense (samples, width), sparse (samples, features - 1, width) -> (samples, width + features (features - 1) / 2)
Tensor forward_cpu(const Tensor& dense_any, const Tensor& sparse_any) {
  const Tensor dense = with_adjacent_elements(dense_any), sparse = with_adjacent_elements(sparse_any);
  const int64_t pairs = sparse.size(1) * (sparse.size(1) + 1) / 2;
  Tensor out = empty_reused({dense.size(0), dense.size(1) + pairs}, dense.scalar_type());
  PERFSUITE_FOR_TYPE(dense, "dot_interaction", [&] {
    const auto op = arguments<T>(dense, sparse);
    T* to = mutable_data<T>(out);
    for_samples(sparse, [&](int64_t begin, int64_t end) {
      cpu::dot_interaction_forward<T>(op, begin, end, to, cpu::best_isa());
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> backward_cpu(const Tensor& upstream_any, const Tensor& dense_any, const Tensor& sparse_any) {
  const Tensor dense = with_adjacent_elements(dense_any), sparse = with_adjacent_elements(sparse_any),
               upstream = with_adjacent_elements(upstream_any);
  Tensor grad_dense = empty_reused(dense.sizes(), dense.scalar_type());
  Tensor grad_sparse = empty_reused(sparse.sizes(), sparse.scalar_type());
  PERFSUITE_FOR_TYPE(dense, "dot_interaction_backward", [&] {
    const auto op = arguments<T>(dense, sparse);
    const T* from = const_data<T>(upstream);
    T *to_dense = mutable_data<T>(grad_dense), *to_sparse = mutable_data<T>(grad_sparse);
    for_samples(sparse, [&](int64_t begin, int64_t end) {
      cpu::dot_interaction_backward<T>(op, begin, end, from, upstream.stride(0), to_dense, to_sparse, cpu::best_isa());
    });
  });
  return {grad_dense, grad_sparse};
}

Tensor forward_meta(const Tensor& dense, const Tensor& sparse) {
  const c10::SymInt others = sparse.sym_size(1);
  return at::empty_symint({dense.sym_size(0), dense.sym_size(1) + others * (others + 1) / 2}, dense.options());
}

std::tuple<Tensor, Tensor> backward_meta(const Tensor&, const Tensor& dense, const Tensor& sparse) {
  return {at::empty_symint(dense.sym_sizes(), dense.options()), at::empty_symint(sparse.sym_sizes(), sparse.options())};
}

}  // namespace
}  // namespace perfsuite

TORCH_LIBRARY_FRAGMENT(perfsuite, m) {
  m.def("dot_interaction_cpp_forward(Tensor dense, Tensor sparse) -> Tensor", {at::Tag::pt2_compliant_tag});
  m.def("dot_interaction_cpp_backward(Tensor upstream, Tensor dense, Tensor sparse) -> (Tensor, Tensor)",
        {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(perfsuite, CPU, m) {
  m.impl("dot_interaction_cpp_forward", perfsuite::forward_cpu);
  m.impl("dot_interaction_cpp_backward", perfsuite::backward_cpu);
}
TORCH_LIBRARY_IMPL(perfsuite, Meta, m) {
  m.impl("dot_interaction_cpp_forward", perfsuite::forward_meta);
  m.impl("dot_interaction_cpp_backward", perfsuite::backward_meta);
}
