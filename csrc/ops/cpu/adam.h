// Adam's moments on the CPU, for the optimizers that have them.
//
//   g = c grad,   m = m + (1 - beta1) (g - m),   v = beta2 v + (1 - beta2) g^2                     c: clipping, or 1
//   m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps): what is made of them
//
// NaN and infinities come out as in torch's fused kernel, which takes the same steps.
#pragma once

#include "types.h"

namespace perfsuite::cpu {

// One tensor to update: elements adjacent, all arrays in the same order. T: parameter and moments; G: gradient.
template <class T, class G>
struct AdamTensor {
  T* param;
  const G* grad;
  T* exp_avg;
  T* exp_avg_sq;
  BFloat16* bfloat16_copy;  // or null: gets the rounded new parameter; for float only, as half_copy
  Half* half_copy;
};

// What is the same for all elements of a tensor; computed in float64.
template <class Acc>
struct AdamConstants {
  Acc clip;
  Acc weight;        // 1 - beta1 where m moves towards g; -beta1, where that is smaller: g moves towards m
  bool from_moment;  // the former, as torch.lerp has it
  Acc beta2, one_minus_beta2;
  Acc inverse_bias1;       // 1 / (1 - beta1^step)
  Acc inverse_root_bias2;  // 1 / sqrt(1 - beta2^step)
  Acc eps;

  AdamConstants(double clip_, double beta1, double beta2_, double eps_, double step)
      : clip(Acc(clip_)),
        weight(Acc(1 - beta1 < 0.5 ? 1 - beta1 : -beta1)),
        from_moment(1 - beta1 < 0.5),
        beta2(Acc(beta2_)),
        one_minus_beta2(Acc(1 - beta2_)),
        inverse_bias1(Acc(1 / (1 - std::pow(beta1, step)))),
        inverse_root_bias2(Acc(1 / std::sqrt(1 - std::pow(beta2_, step)))),
        eps(Acc(eps_)) {}
};

}  // namespace perfsuite::cpu
