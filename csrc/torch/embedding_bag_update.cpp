// perfsuite::embedding_bag_update_cpp: csrc/ops/cpu/row_updates.h as a torch operator that changes its arguments.

#include "lookups.h"
#include "op.h"

namespace perfsuite {
namespace {

using at::Tensor;

constexpr const char* kName = "embedding_bag_update";

// weight (rows, width) and state (rows,), none for SGD, are changed; gradient (bags, width) in the dtype of weight.
void update_cpu(const Tensor& weight, const std::optional<Tensor>& state, const Tensor& indices_any,
                const Tensor& offsets_any, const Tensor& gradient_any, double learning_rate, double epsilon) {
  const Tensor indices = indices_any.contiguous(), offsets = offsets_any.contiguous(),
               gradient = gradient_any.contiguous();
  TORCH_CHECK_VALUE(weight.size(1) <= 1 || weight.stride(1) == 1, kName, ": weight must have adjacent columns");
  TORCH_CHECK_VALUE(!state || state->is_contiguous(), kName, ": state must be contiguous");
  check_offsets(kName, indices, offsets);
  check_indices(kName, indices, weight.size(0));
  PERFSUITE_FOR_TYPE(weight, "embedding_bag_update", [&] {
    using Acc = cpu::acc_t<T>;
    const cpu::RowUpdates<T> op{lookups_of(kName, indices, offsets, weight.size(0)),
                                const_data<T>(gradient),
                                gradient.stride(0),
                                mutable_data<T>(weight),
                                weight.stride(0),
                                weight.size(1),
                                state ? cpu::RowRule::kRowwiseAdagrad : cpu::RowRule::kSgd,
                                state ? state->mutable_data_ptr<Acc>() : nullptr,
                                Acc(learning_rate),
                                Acc(epsilon)};
    update_all_rows<T>(op);
  });
}

void update_meta(const Tensor&, const std::optional<Tensor>&, const Tensor&, const Tensor&, const Tensor&, double,
                 double) {}

}  // namespace
}  // namespace perfsuite

TORCH_LIBRARY_FRAGMENT(perfsuite, m) {
  m.def(
      "embedding_bag_update_cpp(Tensor(a!) weight, Tensor(b!)? state, Tensor indices, Tensor offsets, "
      "Tensor grad_output, float lr, float eps) -> ()",
      {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(perfsuite, CPU, m) { m.impl("embedding_bag_update_cpp", perfsuite::update_cpu); }
TORCH_LIBRARY_IMPL(perfsuite, Meta, m) { m.impl("embedding_bag_update_cpp", perfsuite::update_meta); }
