// perfsuite::embedding_bag_cpp_forward and _backward: csrc/ops/cpu/embedding_bag.h and row_updates.h for torch.

#include "../ops/cpu/embedding_bag.h"

#include <ATen/ops/empty.h>

#include <atomic>

#include "lookups.h"
#include "op.h"

namespace perfsuite {
namespace {

using at::Tensor;

constexpr const char* kName = "embedding_bag";

Tensor with_adjacent_columns(const Tensor& rows) {
  return rows.size(1) <= 1 || rows.stride(1) == 1 ? rows : rows.contiguous();
}

// weight (rows, width), indices (lookups,), offsets (bags + 1,) -> (bags, width)
Tensor forward_cpu(const Tensor& weight_any, const Tensor& indices_any, const Tensor& offsets_any) {
  const Tensor indices = indices_any.contiguous(), offsets = offsets_any.contiguous();
  check_offsets(kName, indices, offsets);
  const Tensor weight = with_adjacent_columns(weight_any);
  const int64_t bags = offsets.size(0) - 1, width = weight.size(1);
  Tensor out = empty_reused({bags, width}, weight.scalar_type());
  std::atomic<int64_t> bad{-1};
  PERFSUITE_FOR_TYPE(weight, "embedding_bag", [&] {
    const cpu::EmbeddingBag<T> op{const_data<T>(weight), weight.stride(0), weight.size(0), width,
                                  indices.const_data_ptr<int64_t>(), offsets.const_data_ptr<int64_t>()};
    T* to = mutable_data<T>(out);
    for_rows(bags, width * (indices.size(0) / std::max<int64_t>(1, bags) + 1), [&](int64_t begin, int64_t end) {
      const int64_t lookup = cpu::embedding_bag_forward<T>(op, begin, end, to, cpu::best_isa());
      if (lookup >= 0) bad = lookup;
    });
  });
  if (bad >= 0) check_indices(kName, indices, weight.size(0));
  return out;
}

// The gradient of the whole table, (rows, width).
Tensor backward_cpu(const Tensor& upstream_any, const Tensor& indices_any, const Tensor& offsets_any, int64_t rows) {
  const Tensor upstream = with_adjacent_columns(upstream_any), indices = indices_any.contiguous(),
               offsets = offsets_any.contiguous();
  check_indices(kName, indices, rows);
  Tensor out = empty_reused({rows, upstream.size(1)}, upstream.scalar_type());
  out.zero_();
  PERFSUITE_FOR_TYPE(upstream, "embedding_bag_backward", [&] {
    const cpu::RowUpdates<T> op{lookups_of(kName, indices, offsets, rows),
                                const_data<T>(upstream),
                                upstream.stride(0),
                                mutable_data<T>(out),
                                out.stride(0),
                                out.size(1),
                                cpu::RowRule::kGradient,
                                nullptr,
                                0,
                                0};
    update_all_rows<T>(op);
  });
  return out;
}

Tensor forward_meta(const Tensor& weight, const Tensor&, const Tensor& offsets) {
  return at::empty_symint({offsets.sym_size(0) - 1, weight.sym_size(1)}, weight.options());
}

Tensor backward_meta(const Tensor& upstream, const Tensor&, const Tensor&, c10::SymInt rows) {
  return at::empty_symint({rows, upstream.sym_size(1)}, upstream.options());
}

}  // namespace
}  // namespace perfsuite

TORCH_LIBRARY_FRAGMENT(perfsuite, m) {
  m.def("embedding_bag_cpp_forward(Tensor weight, Tensor indices, Tensor offsets) -> Tensor",
        {at::Tag::pt2_compliant_tag});
  m.def("embedding_bag_cpp_backward(Tensor upstream, Tensor indices, Tensor offsets, SymInt rows) -> Tensor",
        {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(perfsuite, CPU, m) {
  m.impl("embedding_bag_cpp_forward", perfsuite::forward_cpu);
  m.impl("embedding_bag_cpp_backward", perfsuite::backward_cpu);
}
TORCH_LIBRARY_IMPL(perfsuite, Meta, m) {
  m.impl("embedding_bag_cpp_forward", perfsuite::forward_meta);
  m.impl("embedding_bag_cpp_backward", perfsuite::backward_meta);
}
