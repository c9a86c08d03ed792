// perfsuite::adamw_cpp: the CPU kernel of csrc/ops/cpu/adamw.h as a torch operator.
#include "../ops/cpu/adamw.h"

#include <cmath>

#include "adam_lists.h"

namespace {

using at::Tensor;
using at::TensorList;
namespace cpu = perfsuite::cpu;

// torch.nn.utils.clip_grad_norm_'s coefficient; NaN stays NaN.
double clip_coefficient(const std::optional<Tensor>& grad_norm, double max_norm) {
  if (!grad_norm) return 1;
  const double coefficient = max_norm / (grad_norm->item<double>() + 1e-6);
  return coefficient > 1 ? 1 : coefficient;
}

void adamw_cpu(TensorList params, TensorList grads, TensorList exp_avgs, TensorList exp_avg_sqs, TensorList steps,
               const std::optional<Tensor>& grad_norm, TensorList copies, const std::optional<Tensor>& lr_tensor,
               double lr, double beta1, double beta2, double eps, double weight_decay, double max_norm) {
  const perfsuite::AdamLists lists{"adamw", params, grads, exp_avgs, exp_avg_sqs, steps, copies};
  lists.check();
  const double rate = perfsuite::number(lr_tensor, lr), clip = clip_coefficient(grad_norm, max_norm);
  lists.for_types([&](auto type, auto grad_type) {
    using T = decltype(type);
    using G = decltype(grad_type);
    using Acc = cpu::acc_t<T>;
    perfsuite::Detours detours;
    const auto tensors = lists.tensors<T, G>(detours);
    const auto constants = lists.count_step([&](double step) {
      return cpu::AdamWConstants<Acc>{{clip, beta1, beta2, eps, step},
                                      Acc(1 - rate * weight_decay),
                                      Acc(rate / (1 - std::pow(beta1, step)))};
    });
    const auto isa = cpu::best_isa();
    perfsuite::for_blocks(lists.blocks(), [&](int64_t, int64_t i, int64_t first, int64_t n) {
      cpu::adamw(tensors[size_t(i)], constants[size_t(i)], first, n, isa);
    });
    detours.write_back();
  });
  lists.bump_versions();
}

void adamw_meta(TensorList, TensorList, TensorList, TensorList, TensorList, const std::optional<Tensor>&, TensorList,
                const std::optional<Tensor>&, double, double, double, double, double, double) {}

}  // namespace

TORCH_LIBRARY_FRAGMENT(perfsuite, m) {
  m.def(
      "adamw_cpp(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
      "Tensor(d!)[] steps, Tensor? grad_norm, Tensor(e!)[] copies, Tensor? lr_tensor, float lr, float beta1, "
      "float beta2, float eps, float weight_decay, float max_norm) -> ()");
}
TORCH_LIBRARY_IMPL(perfsuite, CPU, m) { m.impl("adamw_cpp", adamw_cpu); }
TORCH_LIBRARY_IMPL(perfsuite, Meta, m) { m.impl("adamw_cpp", adamw_meta); }
