// What the rows of an embedding table get from the gradient of bags, on the CPU. For every row that is looked up
//
//   g = sum of gradient[bag] over the row's lookups, in their order, in float32 (float64 for doubles)
//
//   kGradient:        out[row] = g
//   kSgd:             out[row] -= learning_rate g
//   kRowwiseAdagrad:  state[row] += mean(g^2);  out[row] -= learning_rate g / (sqrt(state[row]) + epsilon)
#pragma once

#include "lookups.h"
#include "types.h"

namespace perfsuite::cpu {

enum class RowRule { kGradient, kSgd, kRowwiseAdagrad };

template <class T>
struct RowUpdates {
  Lookups lookups;
  const T* gradient;        // (bags, width), elements of a bag adjacent
  int64_t gradient_stride;  // in elements
  T* out;                   // (rows, width), elements of a row adjacent
  int64_t out_stride;
  int64_t width;
  RowRule rule;
  acc_t<T>* state;          // (rows,); null where the rule has none
  acc_t<T> learning_rate;
  acc_t<T> epsilon;
};

// The rows of one part of `parts`, see lookups.h: any number of them gives the same bits. Instantiated for float,
// double, BFloat16 and Half.
template <class T>
void update_rows(const RowUpdates<T>& op, int64_t part, int64_t parts, Isa isa);

}  // namespace perfsuite::cpu
