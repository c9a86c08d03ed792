// Sums of squares for the norm of many tensors, on the CPU.
#pragma once

#include "types.h"

namespace perfsuite::cpu {

// Of n elements: summed in float32 (float64 for double), so n is a block (tensor_blocks.h); blocks are added in double.
// Instantiated for float, double (plain code), BFloat16 and Half.
template <class T>
double sum_of_squares(const T* x, int64_t n, Isa isa);

}  // namespace perfsuite::cpu
