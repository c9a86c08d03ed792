// perfsuite::cross_entropy: the CPU kernel of csrc/ops/cpu/cross_entropy.h as a torch operator with autograd.
//
// In eager mode the forward also writes the gradient for an upstream gradient of 1, which is what loss.backward() hands
// over: the logits are read once and need not be kept. Under torch.compile, without reduction, and for float16 (whose
// gradients must be scaled before they are rounded, see torch.amp.GradScaler) the backward writes it from the row's
// maximum and sum instead.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "../ops/cpu/cross_entropy.h"

namespace {

using at::Tensor;
namespace cpu = perfsuite::cpu;

enum Reduction : int64_t { kNone = 0, kMean = 1, kSum = 2 };  // at::Reduction's numbers

// Gradients of more than this leave the caches before anybody reads them.
constexpr int64_t kStreamBytes = 16 << 20;
// Fewer are not worth waking a thread for; torch's own element-wise kernels draw the line at the same place.
constexpr int64_t kElementsPerTask = 32768;

struct Options {
  int64_t ignore_index;
  double label_smoothing;
  double z_loss;
  int64_t reduction;
};

template <class T>
struct KernelType {
  using type = T;
};
template <>
struct KernelType<at::BFloat16> {
  using type = cpu::BFloat16;
};
template <>
struct KernelType<at::Half> {
  using type = cpu::Half;
};

at::ScalarType acc_type(const Tensor& logits) {
  return logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

void check_shapes(const Tensor& logits, const Tensor& target) {
  TORCH_CHECK_VALUE(logits.dim() == 2, "cross_entropy: logits must be (rows, classes), got ", logits.dim(), " dimensions");
  TORCH_CHECK_VALUE(target.dim() == 1, "cross_entropy: target must be (rows,), got ", target.dim(), " dimensions");
  TORCH_CHECK_VALUE(target.scalar_type() == at::kLong, "cross_entropy: target must be int64, got ", target.scalar_type());
}

// Rows that count; every target is looked at before a kernel indexes with it.
int64_t check_targets(const int64_t* target, int64_t rows, int64_t classes, int64_t ignore_index) {
  int64_t counted = 0;
  for (int64_t r = 0; r < rows; ++r) {
    if (target[r] == ignore_index) continue;
    TORCH_CHECK_INDEX(target[r] >= 0 && target[r] < classes, "cross_entropy: target ", target[r], " of row ", r,
                      " is outside [0, ", classes, ")");
    ++counted;
  }
  return counted;
}

Tensor with_adjacent_classes(const Tensor& logits) {
  return logits.size(1) <= 1 || logits.stride(1) == 1 ? logits : logits.contiguous();
}

// Pages of ordinary size: huge ones halve the time while memory is in one piece, and cost ten times as much where the
// kernel has to compact it first.
Tensor empty_gradient(const Tensor& logits) { return at::empty(logits.sizes(), logits.options()); }

template <class T>
cpu::CrossEntropy<T> kernel_arguments(const Tensor& logits, const Tensor& target, const Options& options) {
  return {static_cast<const T*>(logits.const_data_ptr()), logits.stride(0), target.const_data_ptr<int64_t>(),
          logits.size(0), logits.size(1), options.ignore_index, cpu::acc_t<T>(options.label_smoothing),
          cpu::acc_t<T>(options.z_loss)};
}

template <class Body>
void for_rows(const Tensor& logits, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, logits.size(1)));
  at::parallel_for(0, logits.size(0), grain, body);
}

// What the gradient of row r is multiplied by besides its upstream gradient.
double gradient_scale(int64_t reduction, int64_t counted) { return reduction == kMean ? 1.0 / double(counted) : 1.0; }

template <class Scalar>
cpu::Gradient<typename KernelType<Scalar>::type> destination(const Tensor& out, double scale) {
  using T = typename KernelType<Scalar>::type;
  return {static_cast<T*>(out.mutable_data_ptr()), cpu::acc_t<T>(scale), nullptr, 0, int64_t(out.nbytes()) > kStreamBytes};
}

// loss: () or (rows,) in the accumulation dtype; stats: (rows, 2), maximum and sum; gradient: (rows, classes), or (0,)
// where it is not kept.
std::tuple<Tensor, Tensor, Tensor> forward_cpu(const Tensor& logits_any, const Tensor& target_any, int64_t ignore_index,
                                               double label_smoothing, double z_loss, int64_t reduction,
                                               bool keep_gradient) {
  check_shapes(logits_any, target_any);
  const Tensor logits = with_adjacent_classes(logits_any), target = target_any.contiguous();
  const int64_t rows = logits.size(0), classes = logits.size(1);
  TORCH_CHECK_VALUE(target.size(0) == rows, "cross_entropy: ", rows, " rows of logits but ", target.size(0), " targets");
  const int64_t counted = check_targets(target.const_data_ptr<int64_t>(), rows, classes, ignore_index);
  const Options options{ignore_index, label_smoothing, z_loss, reduction};

  const auto acc = logits.options().dtype(acc_type(logits));
  Tensor loss = at::empty({rows}, acc), stats = at::empty({rows, 2}, acc);
  Tensor gradient = keep_gradient ? empty_gradient(logits) : at::empty({0}, logits.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, logits.scalar_type(), "cross_entropy", [&] {
    using T = typename KernelType<scalar_t>::type;
    using Acc = cpu::acc_t<T>;
    const auto op = kernel_arguments<T>(logits, target, options);
    const auto out = destination<scalar_t>(gradient, gradient_scale(reduction, counted));
    Acc* losses = loss.mutable_data_ptr<Acc>();
    auto* row_stats = reinterpret_cast<cpu::RowStats<T>*>(stats.mutable_data_ptr<Acc>());
    const auto isa = cpu::best_isa();
    for_rows(logits, [&](int64_t begin, int64_t end) {
      cpu::cross_entropy_forward<T>(op, begin, end, losses, row_stats, keep_gradient ? &out : nullptr, isa);
    });
    if (reduction != kNone) {
      double total = 0;
      for (int64_t r = 0; r < rows; ++r) total += losses[r];
      loss = at::empty({}, acc);
      *loss.mutable_data_ptr<Acc>() = Acc(reduction == kMean ? total / double(counted) : total);
    }
  });
  return {loss, stats, gradient};
}

// upstream: of the loss's shape and dtype. Returns (rows, classes) in the dtype of logits.
Tensor backward_cpu(const Tensor& upstream_any, const Tensor& logits_any, const Tensor& target_any, const Tensor& stats,
                    int64_t ignore_index, double label_smoothing, double z_loss, int64_t reduction) {
  const Tensor logits = with_adjacent_classes(logits_any), target = target_any.contiguous();
  const int64_t counted =
      check_targets(target.const_data_ptr<int64_t>(), logits.size(0), logits.size(1), ignore_index);
  const Tensor upstream = upstream_any.to(acc_type(logits)).contiguous();
  const Options options{ignore_index, label_smoothing, z_loss, reduction};
  Tensor gradient = empty_gradient(logits);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, logits.scalar_type(), "cross_entropy_backward", [&] {
    using T = typename KernelType<scalar_t>::type;
    using Acc = cpu::acc_t<T>;
    const auto op = kernel_arguments<T>(logits, target, options);
    auto out = destination<scalar_t>(gradient, gradient_scale(reduction, counted));
    out.upstream = upstream.const_data_ptr<Acc>();
    out.upstream_stride = reduction == kNone ? 1 : 0;
    const auto* row_stats = reinterpret_cast<const cpu::RowStats<T>*>(stats.const_data_ptr<Acc>());
    const auto isa = cpu::best_isa();
    for_rows(logits, [&](int64_t begin, int64_t end) {
      cpu::cross_entropy_backward<T>(op, begin, end, row_stats, out, isa);
    });
  });
  return gradient;
}

std::tuple<Tensor, Tensor, Tensor> forward_meta(const Tensor& logits, const Tensor& target, int64_t, double, double,
                                                int64_t reduction, bool keep_gradient) {
  check_shapes(logits, target);
  const auto acc = logits.options().dtype(acc_type(logits));
  const c10::SymInt rows = logits.sym_size(0);
  Tensor loss = reduction == kNone ? at::empty_symint({rows}, acc) : at::empty({}, acc);
  Tensor gradient = keep_gradient ? at::empty_symint(logits.sym_sizes(), logits.options()) : at::empty({0}, logits.options());
  return {loss, at::empty_symint({rows, 2}, acc), gradient};
}

Tensor backward_meta(const Tensor&, const Tensor& logits, const Tensor&, const Tensor&, int64_t, double, double, int64_t) {
  return at::empty_symint(logits.sym_sizes(), logits.options());
}

std::tuple<Tensor, Tensor, Tensor> call_forward(const Tensor& logits, const Tensor& target, const Options& o,
                                                bool keep_gradient) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("perfsuite::cross_entropy_forward", "")
                             .typed<decltype(forward_cpu)>();
  return op.call(logits, target, o.ignore_index, o.label_smoothing, o.z_loss, o.reduction, keep_gradient);
}

Tensor call_backward(const Tensor& upstream, const Tensor& logits, const Tensor& target, const Tensor& stats,
                     const Options& o) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("perfsuite::cross_entropy_backward", "")
                             .typed<decltype(backward_cpu)>();
  return op.call(upstream, logits, target, stats, o.ignore_index, o.label_smoothing, o.z_loss, o.reduction);
}

struct CrossEntropyFunction : torch::autograd::Function<CrossEntropyFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& logits, const Tensor& target,
                        int64_t ignore_index, double label_smoothing, double z_loss, int64_t reduction) {
    const Options options{ignore_index, label_smoothing, z_loss, reduction};
    // A tensor that only stands for one (being traced) must not take the road on which the backward looks at a value.
    const bool keep_gradient =
        reduction != kNone && logits.scalar_type() != at::kHalf && !at::isTensorSubclassLike(logits);
    auto [loss, stats, gradient] = call_forward(logits, target, options, keep_gradient);
    if (keep_gradient) {
      context->save_for_backward({gradient});
    } else {
      context->save_for_backward({logits, target, stats});
      context->saved_data["ignore_index"] = ignore_index;
      context->saved_data["label_smoothing"] = label_smoothing;
      context->saved_data["z_loss"] = z_loss;
      context->saved_data["reduction"] = reduction;
    }
    return loss;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list upstreams) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "cross_entropy=cpp has no second derivative; choose --use cross_entropy=eager for create_graph=True");
    const Tensor& upstream = upstreams[0];
    const auto saved = context->get_saved_variables();
    Tensor gradient;
    if (!upstream.defined()) {
    } else if (saved.size() == 1) {
      // Handed out as it is: a saved tensor's version counter catches whoever writes into it and comes back for more.
      const bool is_one = !at::isTensorSubclassLike(upstream) && upstream.item<double>() == 1.0;
      gradient = is_one ? saved[0] : saved[0].mul(upstream);
    } else {
      const Options options{context->saved_data["ignore_index"].toInt(), context->saved_data["label_smoothing"].toDouble(),
                            context->saved_data["z_loss"].toDouble(), context->saved_data["reduction"].toInt()};
      gradient = call_backward(upstream, saved[0], saved[1], saved[2], options);
    }
    return {gradient, Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Tensor cross_entropy(const Tensor& logits, const Tensor& target, int64_t ignore_index, double label_smoothing,
                     double z_loss, int64_t reduction) {
  if (at::GradMode::is_enabled() && logits.requires_grad())
    return CrossEntropyFunction::apply(logits, target, ignore_index, label_smoothing, z_loss, reduction);
  return std::get<0>(call_forward(logits, target, {ignore_index, label_smoothing, z_loss, reduction}, false));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(perfsuite, m) {
  m.def(
      "cross_entropy(Tensor logits, Tensor target, int ignore_index, float label_smoothing, float z_loss, int reduction) "
      "-> Tensor",
      cross_entropy);
  m.def(
      "cross_entropy_forward(Tensor logits, Tensor target, int ignore_index, float label_smoothing, float z_loss, "
      "int reduction, bool keep_gradient) -> (Tensor, Tensor, Tensor)");
  m.def(
      "cross_entropy_backward(Tensor upstream, Tensor logits, Tensor target, Tensor stats, int ignore_index, "
      "float label_smoothing, float z_loss, int reduction) -> Tensor");
}
TORCH_LIBRARY_IMPL(perfsuite, CPU, m) {
  m.impl("cross_entropy_forward", forward_cpu);
  m.impl("cross_entropy_backward", backward_cpu);
}
TORCH_LIBRARY_IMPL(perfsuite, Meta, m) {
  m.impl("cross_entropy_forward", forward_meta);
  m.impl("cross_entropy_backward", backward_meta);
}
