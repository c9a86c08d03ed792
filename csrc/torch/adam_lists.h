// The lists of tensors that the operators of AdamW and LAMB take, for the kernels of csrc/ops/cpu/adam.h.
#pragma once

#include <optional>

#include "../ops/cpu/adam.h"
#include "tensor_lists.h"

namespace perfsuite {

struct AdamLists {
  const char* op;
  at::TensorList params, grads, exp_avgs, exp_avg_sqs, steps, copies;  // copies may be empty

  // What the kernels rely on; the rest is the caller's.
  void check() const {
    const auto is = [&](const at::Tensor& t, const at::Tensor& p, at::ScalarType type) {
      return t.is_cpu() && t.scalar_type() == type && t.sizes() == p.sizes();
    };
    const size_t n = params.size();
    TORCH_CHECK_VALUE(grads.size() == n && exp_avgs.size() == n && exp_avg_sqs.size() == n && steps.size() == n &&
                          (copies.empty() || copies.size() == n),
                      op, ": lists of different lengths");
    const auto type = params[0].scalar_type(), grad_type = grads[0].scalar_type();
    const auto copy_type = copies.empty() ? at::kBFloat16 : copies[0].scalar_type();
    const auto is_half = [](at::ScalarType t) { return t == at::kBFloat16 || t == at::kHalf; };
    TORCH_CHECK_VALUE(grad_type == type || (type == at::kFloat && is_half(grad_type)), op,
                      ": gradients of ", grad_type, " for parameters of ", type);
    TORCH_CHECK_VALUE(copies.empty() || (type == at::kFloat && is_half(copy_type)), op,
                      ": copies in ", copy_type, " of parameters of ", type);
    for (size_t i = 0; i < n; ++i) {
      const at::Tensor& p = params[i];
      TORCH_CHECK_VALUE(is(p, p, type) && is(grads[i], p, grad_type) && is(exp_avgs[i], p, type) &&
                            is(exp_avg_sqs[i], p, type) && (copies.empty() || is(copies[i], p, copy_type)),
                        op, ": the tensors of parameter ", i, " differ in device, dtype or shape");
      TORCH_CHECK_VALUE(steps[i].is_cpu() && steps[i].scalar_type() == at::kFloat && steps[i].numel() == 1, op,
                        ": step ", i, " must be one float32 number on the CPU");
    }
  }

  // body(T(), G()) with the kernels' types of parameters and gradients.
  template <class Body>
  void for_types(const Body& body) const {
    const auto type = params[0].scalar_type(), grad_type = grads[0].scalar_type();
    if (type == at::kDouble) return body(double(), double());
    if (type == at::kBFloat16) return body(cpu::BFloat16(), cpu::BFloat16());
    if (type == at::kHalf) return body(cpu::Half(), cpu::Half());
    TORCH_CHECK_VALUE(type == at::kFloat, op, ": parameters of ", type);
    if (grad_type == at::kBFloat16) return body(float(), cpu::BFloat16());
    if (grad_type == at::kHalf) return body(float(), cpu::Half());
    return body(float(), float());
  }

  template <class T, class G>
  std::vector<cpu::AdamTensor<T, G>> tensors(Detours& detours) const {
    std::vector<cpu::AdamTensor<T, G>> out;
    out.reserve(params.size());
    for (size_t i = 0; i < params.size(); ++i) {
      const at::Tensor p = detours.dense(params[i]);
      cpu::AdamTensor<T, G> t{mutable_data<T>(p), detours.const_data<G>(grads[i], p),
                              detours.mutable_data<T>(exp_avgs[i], p), detours.mutable_data<T>(exp_avg_sqs[i], p),
                              nullptr, nullptr};
      if (!copies.empty()) {
        if (copies[i].scalar_type() == at::kHalf) {
          t.half_copy = detours.mutable_data<cpu::Half>(copies[i], p);
        } else {
          t.bfloat16_copy = detours.mutable_data<cpu::BFloat16>(copies[i], p);
        }
      }
      out.push_back(t);
    }
    return out;
  }

  cpu::TensorBlocks blocks() const {
    cpu::TensorBlocks out;
    for (const at::Tensor& p : params) out.add(p.numel());
    return out;
  }

  // One more step of every tensor: make(step) for each; called once for steps that are alike.
  template <class Make>
  auto count_step(const Make& make) const {
    std::vector<decltype(make(1.0))> out;
    out.reserve(params.size());
    float before = 0;
    for (const at::Tensor& tensor : steps) {
      const float step = *mutable_data<float>(tensor) += 1;
      if (!out.empty() && step == before) {
        out.push_back(out.back());
      } else {
        out.push_back(make(double(step)));
      }
      before = step;
    }
    return out;
  }

  // Tells autograd that they have changed.
  void bump_versions() const {
    for (const at::TensorList& list : {params, exp_avgs, exp_avg_sqs, steps, copies})
      for (const at::Tensor& t : list) t.unsafeGetTensorImpl()->bump_version();
  }
};

inline double number(const std::optional<at::Tensor>& tensor, double otherwise) {
  return tensor ? tensor->item<double>() : otherwise;
}

}  // namespace perfsuite
