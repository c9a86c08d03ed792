// LAMB on the CPU: Adam's step with decay in it (adam.h), as long as the tensor's norm tells.
//
//   u = m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay p
//   p = p - lr ratio u                       ratio = ||p|| / ||u|| of the tensor, 1 where one of them is 0
//
// The ratio needs all of u first: two passes. The second computes u again, so it is never written. The first writes
// m and v where they are what u is computed in, which saves the second from reading the gradient; rounded to half
// precision they would give another u.
#pragma once

#include "adam.h"

namespace perfsuite::cpu {

template <class Acc>
struct LambConstants {
  AdamConstants<Acc> adam;
  Acc weight_decay;
};

// Sums of squares of a block's elements: float32 within, so blocks are those of tensor_blocks.h.
struct LambSums {
  double param;
  double update;
};

// Both for elements [first, first + n); types as for adamw (adamw.h). The same blocks give the same bits.
// First pass.
template <class T, class G>
LambSums lamb_sums(const AdamTensor<T, G>& t, const LambConstants<acc_t<T>>& k, int64_t first, int64_t n, Isa isa);
// Second pass, rate = lr ratio.
template <class T, class G>
void lamb_apply(const AdamTensor<T, G>& t, const LambConstants<acc_t<T>>& k, acc_t<T> rate, int64_t first, int64_t n,
                Isa isa);

}  // namespace perfsuite::cpu
