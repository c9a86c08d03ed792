// AdamW on the CPU: Adam's step (adam.h) with decay of the parameter beside it.
//
//   p = (1 - lr weight_decay) p - lr m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps)
#pragma once

#include "adam.h"

namespace perfsuite::cpu {

template <class Acc>
struct AdamWConstants {
  AdamConstants<Acc> adam;
  Acc keep;       // 1 - lr weight_decay
  Acc step_size;  // lr / (1 - beta1^step)
};

// Updates elements [first, first + n). Instantiated for T = G = float, double (plain code), BFloat16 and Half, and for
// T = float with G = BFloat16 and Half. Any split of the elements gives the same bits.
template <class T, class G>
void adamw(const AdamTensor<T, G>& t, const AdamWConstants<acc_t<T>>& k, int64_t first, int64_t n, Isa isa);

}  // namespace perfsuite::cpu
