// Rotary positions on the CPU: pairs (x_j, x_{j + half}) of a row turn by the angle of the row's position.
//
//   out_j        = x_j cos_j - x_{j + half} sin_j
//   out_{j+half} = x_{j + half} cos_j + x_j sin_j            inverse: with -sin
//
// A row is read once and written once; half precision is turned in float32.
#pragma once

#include "types.h"

namespace perfsuite::cpu {

// Rows at equal distances, in elements. The rows of out may be those of x.
template <class T>
struct RopeRun {
  const T* x;
  T* out;
  const acc_t<T>* cos;  // rows of `half`; a distance of 0: all rows have the same position
  const acc_t<T>* sin;
  int64_t x_distance, out_distance, table_distance;
  int64_t rows;
  int64_t half;
  bool inverse;
};

// Instantiated for float, double (plain code), BFloat16 and Half.
template <class T>
void rope(const RopeRun<T>& run, Isa isa);

}  // namespace perfsuite::cpu
