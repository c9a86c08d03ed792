// Element types and instruction sets of the CPU kernels. No torch here: raw pointers and sizes in.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace perfsuite::cpu {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

// What sums and exponentials of an element type are computed in.
template <class T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <class T>
using acc_t = typename Accumulate<T>::type;

// kAvx2 needs AVX2, FMA and F16C; kAvx512 needs F, BW, DQ and VL.
enum class Isa { kPlain, kAvx2, kAvx512 };

inline Isa best_isa() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return Isa::kAvx512;
  // Every processor with AVX2 and FMA has F16C; GCC 12 cannot be asked for it by name.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;
#endif
  return Isa::kPlain;
}

inline uint32_t bits_of(float x) {
  uint32_t b;
  std::memcpy(&b, &x, 4);
  return b;
}
inline float float_of(uint32_t b) {
  float x;
  std::memcpy(&x, &b, 4);
  return x;
}

inline float to_acc(float x) { return x; }
inline double to_acc(double x) { return x; }
inline float to_acc(BFloat16 x) { return float_of(uint32_t(x.bits) << 16); }
inline float to_acc(Half x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, magnitude = x.bits & 0x7fff;
  if (magnitude >= 0x7c00) return float_of(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  if (magnitude < 0x400) return float_of(sign | bits_of(float(magnitude) * 0x1p-24f));  // subnormal
  return float_of(sign | ((magnitude << 13) + (112u << 23)));
}

inline void from_acc(float x, float* out) { *out = x; }
inline void from_acc(double x, double* out) { *out = x; }
// Both round to nearest even and keep NaN a NaN.
inline void from_acc(float x, BFloat16* out) {
  const uint32_t b = bits_of(x);
  out->bits = x != x ? 0x7fc0 : uint16_t((b + 0x7fff + ((b >> 16) & 1)) >> 16);
}
inline void from_acc(float x, Half* out) {
  const uint32_t b = bits_of(x), sign = (b >> 16) & 0x8000, magnitude = b & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00;
  } else if (magnitude >= 0x477ff000) {  // 65520 and above round to infinity
    half = 0x7c00;
  } else if (magnitude < 0x38800000) {  // below the smallest normal: a float addition does the rounding
    half = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  } else {
    half = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  }
  out->bits = uint16_t(sign | half);
}

}  // namespace perfsuite::cpu
