// The CPU kernels of csrc/ops/cpu/cross_entropy.h as operators without autograd: kernels/cross_entropy.py adds that.

#include <ATen/ops/empty.h>

#include <optional>
#include <tuple>

#include "../ops/cpu/cross_entropy.h"
#include "op.h"

namespace {

using at::Tensor;
namespace cpu = perfsuite::cpu;

enum Reduction : int64_t { kNone = 0, kMean = 1, kSum = 2 };  // at::Reduction's numbers

// Gradients of more than this leave the caches before anybody reads them.
constexpr int64_t kStreamBytes = 16 << 20;

// Rows that count; every target is looked at before a kernel indexes with it.
int64_t check_targets(const Tensor& target, int64_t classes, int64_t ignore_index) {
  const int64_t* t = target.const_data_ptr<int64_t>();
  int64_t counted = 0;
  for (int64_t r = 0; r < target.size(0); ++r) {
    if (t[r] == ignore_index) continue;
    TORCH_CHECK_INDEX(t[r] >= 0 && t[r] < classes, "cross_entropy: target ", t[r], " of row ", r, " is outside [0, ",
                      classes, ")");
    ++counted;
  }
  return counted;
}

Tensor with_adjacent_classes(const Tensor& logits) {
  return logits.size(1) <= 1 || logits.stride(1) == 1 ? logits : logits.contiguous();
}

template <class T>
cpu::CrossEntropy<T> kernel_arguments(const Tensor& logits, const Tensor& target, int64_t ignore_index,
                                      double label_smoothing, double z_loss) {
  return {perfsuite::const_data<T>(logits), logits.stride(0), target.const_data_ptr<int64_t>(), logits.size(0),
          logits.size(1), ignore_index, cpu::acc_t<T>(label_smoothing), cpu::acc_t<T>(z_loss)};
}

// What the gradient of a row is multiplied by besides its upstream gradient.
double gradient_scale(int64_t reduction, int64_t counted) { return reduction == kMean ? 1.0 / double(counted) : 1.0; }

// The loss of each row and its stats; the gradient times scale into `gradient`, if there is one, past the caches if
// `stream`.
std::tuple<Tensor, Tensor> each_row(const Tensor& logits, const Tensor& target, int64_t ignore_index,
                                    double label_smoothing, double z_loss, Tensor* gradient, double scale,
                                    bool stream) {
  const auto acc = logits.options().dtype(perfsuite::acc_type(logits));
  Tensor losses = at::empty({logits.size(0)}, acc), stats = at::empty({logits.size(0), 2}, acc);
  PERFSUITE_FOR_TYPE(logits, "cross_entropy", [&] {
    using Acc = cpu::acc_t<T>;
    const auto op = kernel_arguments<T>(logits, target, ignore_index, label_smoothing, z_loss);
    std::optional<cpu::Gradient<T>> out;
    if (gradient) out = {perfsuite::mutable_data<T>(*gradient), Acc(scale), nullptr, 0, stream};
    Acc* loss = perfsuite::mutable_data<Acc>(losses);
    auto* row_stats = reinterpret_cast<cpu::RowStats<T>*>(perfsuite::mutable_data<Acc>(stats));
    const auto isa = cpu::best_isa();
    perfsuite::for_rows(op.rows, op.classes, [&](int64_t begin, int64_t end) {
      cpu::cross_entropy_forward<T>(op, begin, end, loss, row_stats, out ? &*out : nullptr, isa);
    });
  });
  return {losses, stats};
}

Tensor reduced(const Tensor& losses, int64_t reduction, int64_t counted) {
  if (reduction == kNone) return losses;
  Tensor loss = at::empty({}, losses.options());
  AT_DISPATCH_FLOATING_TYPES(losses.scalar_type(), "cross_entropy", [&] {
    double total = 0;
    for (int64_t r = 0; r < losses.size(0); ++r) total += losses.const_data_ptr<scalar_t>()[r];
    *loss.mutable_data_ptr<scalar_t>() = scalar_t(reduction == kMean ? total / double(counted) : total);
  });
  return loss;
}

// loss: () or (rows,) in the accumulation dtype; stats: (rows, 2), maximum and sum; gradient: (rows, classes), or (0,)
// where it is not wanted.
std::tuple<Tensor, Tensor, Tensor> forward_cpu(const Tensor& logits_any, const Tensor& target_any, int64_t ignore_index,
                                               double label_smoothing, double z_loss, int64_t reduction,
                                               bool with_gradient) {
  const Tensor logits = with_adjacent_classes(logits_any), target = target_any.contiguous();
  const int64_t counted = check_targets(target, logits.size(1), ignore_index);
  Tensor gradient = with_gradient ? perfsuite::empty_reused(logits.sizes(), logits.scalar_type())
                                  : at::empty({0}, logits.options());
  auto [losses, stats] = each_row(logits, target, ignore_index, label_smoothing, z_loss,
                                  with_gradient ? &gradient : nullptr, gradient_scale(reduction, counted),
                                  int64_t(gradient.nbytes()) > kStreamBytes);
  return {reduced(losses, reduction, counted), stats, gradient};
}

// upstream: of the loss's shape. Returns (rows, classes) in the dtype of logits.
Tensor backward_cpu(const Tensor& upstream_any, const Tensor& logits_any, const Tensor& target_any, const Tensor& stats,
                    int64_t ignore_index, double label_smoothing, double z_loss, int64_t reduction) {
  const Tensor logits = with_adjacent_classes(logits_any), target = target_any.contiguous();
  const int64_t counted = check_targets(target, logits.size(1), ignore_index);
  const Tensor upstream = upstream_any.to(perfsuite::acc_type(logits)).contiguous();
  Tensor gradient = perfsuite::empty_reused(logits.sizes(), logits.scalar_type());
  PERFSUITE_FOR_TYPE(logits, "cross_entropy_backward", [&] {
    using Acc = cpu::acc_t<T>;
    const auto op = kernel_arguments<T>(logits, target, ignore_index, label_smoothing, z_loss);
    const cpu::Gradient<T> out{perfsuite::mutable_data<T>(gradient), Acc(gradient_scale(reduction, counted)),
                               perfsuite::const_data<Acc>(upstream), reduction == kNone ? 1 : 0,
                               int64_t(gradient.nbytes()) > kStreamBytes};
    const auto* row_stats = reinterpret_cast<const cpu::RowStats<T>*>(perfsuite::const_data<Acc>(stats));
    const auto isa = cpu::best_isa();
    perfsuite::for_rows(op.rows, op.classes, [&](int64_t begin, int64_t end) {
      cpu::cross_entropy_backward<T>(op, begin, end, row_stats, out, isa);
    });
  });
  return gradient;
}

// Overwrites contiguous logits with their gradient (times scale); returns the loss of each row.
Tensor overwrite_cpu(Tensor& logits, const Tensor& target_any, const std::optional<Tensor>& scale, int64_t ignore_index,
                     double label_smoothing, double z_loss) {
  TORCH_CHECK_VALUE(logits.is_contiguous(), "cross_entropy_cpp_overwrite: logits must be contiguous");
  const Tensor target = target_any.contiguous();
  check_targets(target, logits.size(1), ignore_index);
  const double factor = scale ? scale->item<double>() : 1.0;
  return std::get<0>(each_row(logits, target, ignore_index, label_smoothing, z_loss, &logits, factor, false));
}

std::tuple<Tensor, Tensor, Tensor> forward_meta(const Tensor& logits, const Tensor&, int64_t, double, double,
                                                int64_t reduction, bool with_gradient) {
  const auto acc = logits.options().dtype(perfsuite::acc_type(logits));
  const c10::SymInt rows = logits.sym_size(0);
  Tensor loss = reduction == kNone ? at::empty_symint({rows}, acc) : at::empty({}, acc);
  Tensor gradient =
      with_gradient ? at::empty_symint(logits.sym_sizes(), logits.options()) : at::empty({0}, logits.options());
  return {loss, at::empty_symint({rows, 2}, acc), gradient};
}

Tensor backward_meta(const Tensor&, const Tensor& logits, const Tensor&, const Tensor&, int64_t, double, double,
                     int64_t) {
  return at::empty_symint(logits.sym_sizes(), logits.options());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(perfsuite, m) {
  m.def(
      "cross_entropy_cpp_forward(Tensor logits, Tensor target, int ignore_index, float label_smoothing, float z_loss, "
      "int reduction, bool with_gradient) -> (Tensor, Tensor, Tensor)");
  m.def(
      "cross_entropy_cpp_backward(Tensor upstream, Tensor logits, Tensor target, Tensor stats, int ignore_index, "
      "float label_smoothing, float z_loss, int reduction) -> Tensor");
  m.def(
      "cross_entropy_cpp_overwrite(Tensor(a!) logits, Tensor target, Tensor? scale, int ignore_index, "
      "float label_smoothing, float z_loss) -> Tensor");
}
TORCH_LIBRARY_IMPL(perfsuite, CPU, m) {
  m.impl("cross_entropy_cpp_forward", forward_cpu);
  m.impl("cross_entropy_cpp_backward", backward_cpu);
  m.impl("cross_entropy_cpp_overwrite", overwrite_cpu);
}
TORCH_LIBRARY_IMPL(perfsuite, Meta, m) {
  m.impl("cross_entropy_cpp_forward", forward_meta);
  m.impl("cross_entropy_cpp_backward", backward_meta);
}
