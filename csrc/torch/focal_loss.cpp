// perfsuite::focal_loss_cpp_forward and _backward: csrc/ops/cpu/focal_loss.h as torch operators.
// (cpp in kernels/focal_loss.py puts autograd around them.)

#include <ATen/ops/empty.h>

#include <tuple>
#include <vector>

#include "../ops/cpu/focal_loss.h"
#include "op.h"
#include "rows.h"

namespace {

using at::Tensor;
using namespace perfsuite;

double value_of(const std::optional<Tensor>& scalar) { return scalar ? scalar->item<double>() : 1.0; }

// Every target is looked at before a kernel indexes with it.
void check_targets(const Tensor& target, int64_t classes) {
  const int64_t* values = target.const_data_ptr<int64_t>();
  for (int64_t r = 0; r < target.numel(); ++r)
    TORCH_CHECK_INDEX(values[r] >= cpu::kIgnored && values[r] < classes, "focal_loss: target ", values[r], " of row ",
                      r, " is neither -2, -1 nor within [0, ", classes, ")");
}

// Loss (where wanted) and gradient times factor (into a tensor of logits' shape, or none) of all rows.
double run(const Tensor& logits_any, const Tensor& target_any, double alpha, double gamma, double factor,
           bool want_loss, const Tensor* gradient) {
  const Tensor logits = as_rows(logits_any), target = target_any.contiguous();
  const int64_t classes = logits.size(1);
  check_targets(target, classes);
  if (logits.numel() == 0) return 0;
  const int64_t block = cpu::focal_loss_block(classes), blocks = (logits.size(0) + block - 1) / block;
  std::vector<double> sums(want_loss ? blocks : 0);
  PERFSUITE_FOR_TYPE(logits, "focal_loss", [&] {
    const cpu::FocalLoss<T> op{const_data<T>(logits), logits.stride(0), target.const_data_ptr<int64_t>(),
                               logits.size(0), classes, gamma, alpha < 0 ? 1 : alpha, alpha < 0 ? 1 : 1 - alpha};
    T* out = gradient ? mutable_data<T>(*gradient) : nullptr;
    const auto isa = cpu::best_isa();
    for_rows(blocks, block * classes, [&](int64_t begin, int64_t end) {
      cpu::focal_loss<T>(op, begin, end, want_loss ? sums.data() : nullptr, out, cpu::acc_t<T>(factor), isa);
    });
  });
  double total = 0;  // in the order of the blocks, whatever the number of threads
  for (const double sum : sums) total += sum;
  return total;
}

// (loss, gradient for an upstream gradient of 1, or (0,) where it is not wanted).
std::tuple<Tensor, Tensor> forward_cpu(const Tensor& logits, const Tensor& target,
                                       const std::optional<Tensor>& normalizer, double alpha, double gamma,
                                       bool with_gradient) {
  const double divisor = value_of(normalizer);
  Tensor loss = at::empty({}, logits.options().dtype(acc_type(logits)));
  Tensor gradient =
      with_gradient ? empty_reused(logits.sizes(), logits.scalar_type()) : at::empty({0}, logits.options());
  const double total = run(logits, target, alpha, gamma, 1 / divisor, true, with_gradient ? &gradient : nullptr);
  loss.fill_(total / divisor);
  return {loss, gradient};
}

Tensor backward_cpu(const Tensor& upstream, const Tensor& logits, const Tensor& target,
                    const std::optional<Tensor>& normalizer, double alpha, double gamma) {
  Tensor gradient = empty_reused(logits.sizes(), logits.scalar_type());
  run(logits, target, alpha, gamma, upstream.item<double>() / value_of(normalizer), false, &gradient);
  return gradient;
}

std::tuple<Tensor, Tensor> forward_meta(const Tensor& logits, const Tensor&, const std::optional<Tensor>&, double,
                                        double, bool with_gradient) {
  return {at::empty({}, logits.options().dtype(acc_type(logits))),
          with_gradient ? at::empty_symint(logits.sym_sizes(), logits.options()) : at::empty({0}, logits.options())};
}

Tensor backward_meta(const Tensor&, const Tensor& logits, const Tensor&, const std::optional<Tensor>&, double, double) {
  return at::empty_symint(logits.sym_sizes(), logits.options());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(perfsuite, m) {
  m.def(
      "focal_loss_cpp_forward(Tensor logits, Tensor target, Tensor? normalizer, float alpha, float gamma, "
      "bool with_gradient) -> (Tensor, Tensor)");
  m.def(
      "focal_loss_cpp_backward(Tensor upstream, Tensor logits, Tensor target, Tensor? normalizer, float alpha, "
      "float gamma) -> Tensor");
}
TORCH_LIBRARY_IMPL(perfsuite, CPU, m) {
  m.impl("focal_loss_cpp_forward", forward_cpu);
  m.impl("focal_loss_cpp_backward", backward_cpu);
}
TORCH_LIBRARY_IMPL(perfsuite, Meta, m) {
  m.impl("focal_loss_cpp_forward", forward_meta);
  m.impl("focal_loss_cpp_backward", backward_meta);
}
