// perfsuite::global_norm_cpp: the CPU kernel of csrc/ops/cpu/global_norm.h as a torch operator.
#include "../ops/cpu/global_norm.h"

#include <ATen/ops/empty.h>

#include <cmath>

#include "tensor_lists.h"

namespace {

using at::Tensor;
using at::TensorList;
namespace cpu = perfsuite::cpu;

// float64 where a tensor is, else float32.
at::TensorOptions result_options(TensorList tensors) {
  const auto is_double = [](const Tensor& t) { return t.scalar_type() == at::kDouble; };
  const bool wide = std::any_of(tensors.begin(), tensors.end(), is_double);
  return tensors[0].options().dtype(wide ? at::kDouble : at::kFloat);
}

double sum_of_squares(const Tensor& tensor, int64_t first, int64_t n, cpu::Isa isa) {
  double sum = 0;
  PERFSUITE_FOR_TYPE(tensor, "global_norm",
                     [&] { sum = cpu::sum_of_squares(perfsuite::const_data<T>(tensor) + first, n, isa); });
  return sum;
}

Tensor global_norm_cpu(TensorList given) {
  std::vector<Tensor> tensors;
  tensors.reserve(given.size());
  cpu::TensorBlocks blocks;
  for (const Tensor& t : given) {
    TORCH_CHECK_VALUE(t.is_cpu() && t.is_floating_point(), "global_norm: floating-point tensors on the CPU, please");
    tensors.push_back(t.is_non_overlapping_and_dense() ? t : t.contiguous());
    blocks.add(t.numel());
  }
  // Blocks are the same for any number of threads, and so are the bits of the result.
  std::vector<double> sums(size_t(blocks.blocks()), 0);
  const auto isa = cpu::best_isa();
  perfsuite::for_blocks(blocks, [&](int64_t block, int64_t i, int64_t first, int64_t n) {
    sums[size_t(block)] = sum_of_squares(tensors[size_t(i)], first, n, isa);
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  Tensor norm = at::empty({}, result_options(given));
  if (norm.scalar_type() == at::kDouble) {
    *norm.mutable_data_ptr<double>() = std::sqrt(total);
  } else {
    *norm.mutable_data_ptr<float>() = float(std::sqrt(total));
  }
  return norm;
}

Tensor global_norm_meta(TensorList tensors) { return at::empty({}, result_options(tensors)); }

}  // namespace

TORCH_LIBRARY_FRAGMENT(perfsuite, m) { m.def("global_norm_cpp(Tensor[] tensors) -> Tensor"); }
TORCH_LIBRARY_IMPL(perfsuite, CPU, m) { m.impl("global_norm_cpp", global_norm_cpu); }
TORCH_LIBRARY_IMPL(perfsuite, Meta, m) { m.impl("global_norm_cpp", global_norm_meta); }
