// bfloat16 with the rounding of the CPU kernels: to nearest even, NaN stays NaN. Arithmetic is done in float.
#pragma once

#include "../../csrc/ops/cpu/types.h"

struct __nv_bfloat16 {
  perfsuite::cpu::BFloat16 value;
  __nv_bfloat16() = default;
  explicit __nv_bfloat16(float x) { perfsuite::cpu::from_acc(x, &value); }
  explicit operator float() const { return perfsuite::cpu::to_acc(value); }
};
inline float __bfloat162float(__nv_bfloat16 x) { return float(x); }
inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
