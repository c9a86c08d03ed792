// Cross-entropy of rows of logits, forward and gradient, on the CPU.
//
//   m = max_j x_j,  s = sum_j exp(x_j - m),  lse = m + log s
//   loss = lse - (1 - e) x_target - e mean_j x_j + z lse^2            e: label_smoothing, z: z_loss
//   dloss/dx_j = (1 + 2 z lse) exp(x_j - m) / s - e / classes - (1 - e) [j = target]
//
// A row is read from memory once, and each exponential is computed once: those of a row wait in the cache for its sum.
// Sums over blocks of a row and the logarithm are taken in double. NaN and infinities come out as in that formula, except
// that an ignored row is not read: its loss and gradient are 0 whatever it holds.
#pragma once

#include "types.h"

namespace perfsuite::cpu {

template <class T>
struct CrossEntropy {
  const T* logits;        // (rows, classes), elements of a row adjacent
  int64_t row_stride;     // in elements
  const int64_t* target;  // (rows,); each ignore_index or within [0, classes): the caller has checked
  int64_t rows;
  int64_t classes;
  int64_t ignore_index;
  acc_t<T> label_smoothing;
  acc_t<T> z_loss;
};

// What the backward needs to know of a row besides its logits.
template <class T>
struct RowStats {
  acc_t<T> max;
  acc_t<T> sum;
};

// Where gradients go. Row r is multiplied by scale * upstream[r * upstream_stride]; upstream null: by scale.
template <class T>
struct Gradient {
  T* out;  // (rows, classes), contiguous; in the forward it may be the logits
  acc_t<T> scale;
  const acc_t<T>* upstream = nullptr;
  int64_t upstream_stride = 0;
  bool stream = false;  // write past the caches: for more than they hold
};

// Rows [begin, end): loss (not reduced), stats, and the gradient where gradient is not null. Instantiated for float,
// double (plain code), BFloat16 and Half. Any split of the rows over threads gives the same bits.
template <class T>
void cross_entropy_forward(const CrossEntropy<T>& op, int64_t begin, int64_t end, acc_t<T>* loss, RowStats<T>* stats,
                           const Gradient<T>* gradient, Isa isa);

// Rows [begin, end) of the gradient from the stats of an earlier forward.
template <class T>
void cross_entropy_backward(const CrossEntropy<T>& op, int64_t begin, int64_t end, const RowStats<T>* stats,
                            const Gradient<T>& gradient, Isa isa);

}  // namespace perfsuite::cpu
