// Softmax of rows and its gradient. Half precision is computed in float32.
//
//   y_j = exp(x_j - m) / sum_k exp(x_k - m), m = max x          dx_j = y_j (g_j - sum_k g_k y_k)
//
// A row of nothing but -inf is NaN, and so is one with a NaN or +inf in it.
#pragma once

#include <cstdint>

#include "types.h"

namespace perfsuite::cpu {

// Rows [begin, end) of y; width elements each, those of x x_stride apart. stream: write past the caches (stream.h).
template <class T>
void softmax_forward(const T* x, int64_t x_stride, int64_t width, int64_t begin, int64_t end, T* y, bool stream,
                     Isa isa);

// Rows [begin, end) of dx, from the upstream gradient and y. All are contiguous.
template <class T>
void softmax_backward(const T* upstream, const T* y, int64_t width, int64_t begin, int64_t end, T* grad_x, bool stream,
                      Isa isa);

}  // namespace perfsuite::cpu
