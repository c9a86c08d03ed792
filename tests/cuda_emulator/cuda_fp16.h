// float16 with the rounding of the CPU kernels: to nearest even, NaN stays NaN. Arithmetic is done in float.
#pragma once

#include "../../csrc/ops/cpu/types.h"

struct __half {
  perfsuite::cpu::Half value;
  __half() = default;
  explicit __half(float x) { perfsuite::cpu::from_acc(x, &value); }
  explicit operator float() const { return perfsuite::cpu::to_acc(value); }
};
inline float __half2float(__half x) { return float(x); }
inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
