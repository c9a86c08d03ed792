// RMSNorm of rows with a weight, then rotary positions, on the CPU.
//
//   r = 1 / sqrt(mean_j x_j^2 + eps),  n_j = x_j r,  y = n w turned by the angle of the row's position (rope.h)
//   backward, from u = dy turned back:  dw_j = sum over rows of u_j n_j,
//                                       dx_j = r (u_j w_j - n_j mean_i(u_i w_i n_i))
//
// A row is read from memory once and written once; r is computed again by the backward. Half precision is computed in
// float32.
#pragma once

#include "types.h"

namespace perfsuite::cpu {

// Rows at equal distances, in elements.
template <class T>
struct NormRopeRun {
  const T* x;
  const T* upstream;         // null in the forward
  T* out;                    // y, or dx
  const acc_t<T>* weight;    // 2 * half
  const acc_t<T>* cos;       // rows of `half`; a distance of 0: all rows have the same position
  const acc_t<T>* sin;
  acc_t<T>* weight_gradient;  // 2 * half, what the rows add is added to it; null in the forward
  int64_t x_distance, upstream_distance, out_distance, table_distance;
  int64_t rows;
  int64_t half;
  acc_t<T> eps;
};

// Instantiated for float, double (plain code), BFloat16 and Half.
template <class T>
void norm_rope_forward(const NormRopeRun<T>& run, Isa isa);
template <class T>
void norm_rope_backward(const NormRopeRun<T>& run, Isa isa);

}  // namespace perfsuite::cpu
