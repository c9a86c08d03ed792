// What the low-rank cross layer of DCNv2 does besides its matrix products, on the CPU, q = u v x being one of them:
//
//   y = x0 (q + bias) + x
//   grad_x0 = upstream (q + bias),  grad_q = upstream x0,  grad_x = upstream (its product part is added later),
//   grad_bias = sum of grad_q over the rows
//
// All matrices are (rows, width), contiguous but for x0, x and upstream, whose rows may be apart.
#pragma once

#include "types.h"

namespace perfsuite::cpu {

template <class T>
struct CrossRows {
  const T* x0;
  int64_t x0_stride;  // in elements
  const T* q;
  const T* bias;      // (width,)
  int64_t width;
};

// Rows [begin, end) of y. Instantiated for float, double, BFloat16 and Half, as the next one.
template <class T>
void dcn_cross_forward(const CrossRows<T>& op, int64_t begin, int64_t end, const T* x, int64_t x_stride, T* y, Isa isa);

template <class T>
struct CrossGradients {
  const T* upstream;
  int64_t upstream_stride;
  T* x0;
  T* q;
  T* x;
};

// Rows [begin, end) of the gradients. bias_sum (width,) is increased by the sum of their grad_q, not rounded to T.
template <class T>
void dcn_cross_backward(const CrossRows<T>& op, int64_t begin, int64_t end, const CrossGradients<T>& out,
                        acc_t<T>* bias_sum, Isa isa);

}  // namespace perfsuite::cpu
