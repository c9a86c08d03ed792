#include "product.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/mm.h>

#include <optional>

namespace perfsuite {
namespace {

using LinearPointwise = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                                   std::string_view, c10::List<std::optional<at::Scalar>>,
                                   std::optional<std::string_view>);

// Null where this torch was built without oneDNN.
const std::optional<c10::OperatorHandle>& onednn() {
  static const auto handle = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
  return handle;
}

}  // namespace

at::Tensor product_transposed(const at::Tensor& a, const at::Tensor& b) {
  const bool float32 = a.scalar_type() == at::kFloat && b.scalar_type() == at::kFloat;
  if (!float32 || a.numel() == 0 || b.numel() == 0 || !onednn()) return at::mm(a, b.t());
  static const auto op = onednn()->typed<LinearPointwise>();
  return op.call(a, b, std::nullopt, "none", c10::List<std::optional<at::Scalar>>(), "");
}

}  // namespace perfsuite
