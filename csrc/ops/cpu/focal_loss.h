// Sigmoid focal loss of rows of logits against class indices (Lin et al. 2017), its gradient in the same pass. With u = x
// where the class is not the row's target and u = -x where it is, q = sigmoid(u), p = sigmoid(-u) and w the weight of
// the side:
//
//   loss = w q^gamma softplus(u)          dloss/du = w q^gamma (gamma p softplus(u) + q)
//
// Nothing cancels in them. Half precision is computed in float32.
#pragma once

#include <cstdint>

#include "types.h"

namespace perfsuite::cpu {

constexpr int64_t kBackground = -1;  // a target: no class is the row's
constexpr int64_t kIgnored = -2;     // the row has loss 0 and gradient 0, and is not read

template <class T>
struct FocalLoss {
  const T* logits;
  int64_t row_stride;
  const int64_t* target;  // by row: a class, kBackground or kIgnored
  int64_t rows;
  int64_t classes;  // at least 1
  double gamma;
  double target_weight;  // alpha
  double other_weight;   // 1 - alpha
};

// Rows that are computed together: about as many as fit into the first cache.
int64_t focal_loss_block(int64_t classes);

// Blocks [begin, end). sums[block]: the losses of its rows, null: not wanted. gradient: contiguous rows, scale times the
// gradient, null: not wanted.
template <class T>
void focal_loss(const FocalLoss<T>& op, int64_t begin, int64_t end, double* sums, T* gradient, acc_t<T> scale,
                Isa isa);

}  // namespace perfsuite::cpu
