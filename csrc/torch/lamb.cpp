// perfsuite::lamb_cpp: the CPU kernels of csrc/ops/cpu/lamb.h as a torch operator.
#include "../ops/cpu/lamb.h"

#include <cmath>

#include "adam_lists.h"

namespace {

using at::Tensor;
using at::TensorList;
namespace cpu = perfsuite::cpu;

// As apex has it: no epsilon, and a NaN norm does not clip.
double clip_coefficient(const std::optional<Tensor>& grad_norm, double max_norm) {
  const double norm = perfsuite::number(grad_norm, 0);
  return grad_norm && norm > max_norm ? max_norm / norm : 1;
}

// lr times the ratio of the norms.
double rate(double lr, bool adapt, double param, double update) {
  return adapt && param != 0 && update != 0 ? lr * (std::sqrt(param) / std::sqrt(update)) : lr;
}

void lamb_cpu(TensorList params, TensorList grads, TensorList exp_avgs, TensorList exp_avg_sqs, TensorList steps,
              const std::optional<Tensor>& grad_norm, TensorList copies, const std::optional<Tensor>& lr_tensor,
              double lr_number, double beta1, double beta2, double eps, double weight_decay, double max_norm,
              bool use_nvlamb) {
  const perfsuite::AdamLists lists{"lamb", params, grads, exp_avgs, exp_avg_sqs, steps, copies};
  lists.check();
  const double lr = perfsuite::number(lr_tensor, lr_number), clip = clip_coefficient(grad_norm, max_norm);
  const bool adapt = use_nvlamb || weight_decay != 0;
  lists.for_types([&](auto type, auto grad_type) {
    using T = decltype(type);
    using G = decltype(grad_type);
    using Acc = cpu::acc_t<T>;
    perfsuite::Detours detours;
    const auto tensors = lists.tensors<T, G>(detours);
    const auto constants = lists.count_step(
        [&](double step) { return cpu::LambConstants<Acc>{{clip, beta1, beta2, eps, step}, Acc(weight_decay)}; });
    const auto isa = cpu::best_isa();
    const cpu::TensorBlocks blocks = lists.blocks();
    std::vector<cpu::LambSums> sums(size_t(blocks.blocks()));
    perfsuite::for_blocks(blocks, [&](int64_t block, int64_t i, int64_t first, int64_t n) {
      sums[size_t(block)] = cpu::lamb_sums(tensors[size_t(i)], constants[size_t(i)], first, n, isa);
    });
    std::vector<Acc> rates;
    for (int64_t i = 0; i < blocks.tensors(); ++i) {
      cpu::LambSums total{0, 0};
      for (int64_t block = blocks.first(i); block < blocks.first(i + 1); ++block) {
        total.param += sums[size_t(block)].param;
        total.update += sums[size_t(block)].update;
      }
      rates.push_back(Acc(rate(lr, adapt, total.param, total.update)));
    }
    perfsuite::for_blocks(blocks, [&](int64_t, int64_t i, int64_t first, int64_t n) {
      cpu::lamb_apply(tensors[size_t(i)], constants[size_t(i)], rates[size_t(i)], first, n, isa);
    });
    detours.write_back();
  });
  lists.bump_versions();
}

void lamb_meta(TensorList, TensorList, TensorList, TensorList, TensorList, const std::optional<Tensor>&, TensorList,
               const std::optional<Tensor>&, double, double, double, double, double, double, bool) {}

}  // namespace

TORCH_LIBRARY_FRAGMENT(perfsuite, m) {
  m.def(
      "lamb_cpp(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
      "Tensor(d!)[] steps, Tensor? grad_norm, Tensor(e!)[] copies, Tensor? lr_tensor, float lr, float beta1, "
      "float beta2, float eps, float weight_decay, float max_norm, bool use_nvlamb) -> ()");
}
TORCH_LIBRARY_IMPL(perfsuite, CPU, m) { m.impl("lamb_cpp", lamb_cpu); }
TORCH_LIBRARY_IMPL(perfsuite, Meta, m) { m.impl("lamb_cpp", lamb_meta); }
