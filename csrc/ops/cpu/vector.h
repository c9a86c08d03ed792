// Vectors of float32 for the CPU kernels, one struct per instruction set, all with the same names. A kernel's body is
// written once against `Vec` and compiled once per instruction set with function target attributes, so that one build
// serves every x86-64 machine and no flag of the compiler matters.
#pragma once

#include <algorithm>
#include <type_traits>

#include "types.h"

#define PERFSUITE_INLINE static inline __attribute__((always_inline))

#if defined(__x86_64__)
// GCC 12 warns of its own _mm512_undefined_ps (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#define PERFSUITE_AVX2 __attribute__((target("avx2,fma,f16c")))
#define PERFSUITE_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#endif

namespace perfsuite::cpu {

// One element at a time: float64, and processors without AVX2. Acc is float or double.
template <class Acc>
struct Plain {
  using V = Acc;
  using Mask = bool;
  static constexpr int64_t width = 1;

  PERFSUITE_INLINE V set(Acc x) { return x; }
  PERFSUITE_INLINE V add(V a, V b) { return a + b; }
  PERFSUITE_INLINE V sub(V a, V b) { return a - b; }
  PERFSUITE_INLINE V mul(V a, V b) { return a * b; }
  PERFSUITE_INLINE V div(V a, V b) { return a / b; }
  PERFSUITE_INLINE V max(V a, V b) { return a > b ? a : b; }  // of NaN and b: b, as the vector instructions have it
  PERFSUITE_INLINE V min(V a, V b) { return a < b ? a : b; }
  PERFSUITE_INLINE V sqrt(V a) { return std::sqrt(a); }
  PERFSUITE_INLINE V abs(V a) { return std::abs(a); }
  PERFSUITE_INLINE V multiply_add(V a, V b, V c) { return a * b + c; }
  PERFSUITE_INLINE V multiply_subtract(V a, V b, V c) { return a * b - c; }
  PERFSUITE_INLINE V negative_multiply_add(V a, V b, V c) { return c - a * b; }
  PERFSUITE_INLINE Mask greater(V a, V b) { return a > b; }
  PERFSUITE_INLINE Mask above_or_nan(V a, V b) { return !(a <= b); }
  // One bit an element, the first the lowest.
  PERFSUITE_INLINE uint32_t bits(Mask m) { return m; }
  PERFSUITE_INLINE Mask mask_of(uint32_t bits) { return bits & 1; }
  PERFSUITE_INLINE V zero_unless(Mask m, V a) { return m ? a : V(0); }
  PERFSUITE_INLINE V select(Mask m, V yes, V no) { return m ? yes : no; }
  PERFSUITE_INLINE Acc sum(V a) { return a; }
  PERFSUITE_INLINE Acc largest(V a) { return a; }
  template <class T>
  PERFSUITE_INLINE V load(const T* p) { return to_acc(*p); }
  template <class T>
  PERFSUITE_INLINE V load_first(const T*, int64_t, Acc pad) { return pad; }
  template <class T>
  PERFSUITE_INLINE void store(T* p, V x) { from_acc(x, p); }
  template <class T>
  PERFSUITE_INLINE void store_first(T*, V, int64_t) {}
  template <class T>
  PERFSUITE_INLINE void stream(T* p, V x) { from_acc(x, p); }
  PERFSUITE_INLINE V exp(V x) { return std::exp(x); }
};

#if defined(__x86_64__)
// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2 in two parts (Cody and Waite), exp(r) by the polynomial of
// degree 7 of the Cephes library's expf. Largest error over [-87.3, 0]: 1.1 ulp (tests/test_cross_entropy.py measures it).
struct ExpFloat {
  static constexpr float log2e = 1.44269504088896341f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float c7 = 1.9875691500e-4f, c6 = 1.3981999507e-3f, c5 = 8.3334519073e-3f, c4 = 4.1665795894e-2f,
                         c3 = 1.6666665459e-1f, c2 = 5.0000001201e-1f;
};

struct Avx512 {
  using V = __m512;
  using Mask = __mmask16;
  static constexpr int64_t width = 16;

  PERFSUITE_AVX512 PERFSUITE_INLINE V set(float x) { return _mm512_set1_ps(x); }
  PERFSUITE_AVX512 PERFSUITE_INLINE V add(V a, V b) { return _mm512_add_ps(a, b); }
  PERFSUITE_AVX512 PERFSUITE_INLINE V sub(V a, V b) { return _mm512_sub_ps(a, b); }
  PERFSUITE_AVX512 PERFSUITE_INLINE V max(V a, V b) { return _mm512_max_ps(a, b); }
  PERFSUITE_AVX512 PERFSUITE_INLINE V mul(V a, V b) { return _mm512_mul_ps(a, b); }
  PERFSUITE_AVX512 PERFSUITE_INLINE V div(V a, V b) { return _mm512_div_ps(a, b); }
  PERFSUITE_AVX512 PERFSUITE_INLINE V min(V a, V b) { return _mm512_min_ps(a, b); }
  PERFSUITE_AVX512 PERFSUITE_INLINE V sqrt(V a) { return _mm512_sqrt_ps(a); }
  PERFSUITE_AVX512 PERFSUITE_INLINE V abs(V a) { return _mm512_abs_ps(a); }
  PERFSUITE_AVX512 PERFSUITE_INLINE V multiply_add(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  PERFSUITE_AVX512 PERFSUITE_INLINE V multiply_subtract(V a, V b, V c) { return _mm512_fmsub_ps(a, b, c); }
  PERFSUITE_AVX512 PERFSUITE_INLINE V negative_multiply_add(V a, V b, V c) { return _mm512_fnmadd_ps(a, b, c); }
  PERFSUITE_AVX512 PERFSUITE_INLINE Mask greater(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
  PERFSUITE_AVX512 PERFSUITE_INLINE Mask above_or_nan(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLE_UQ); }
  PERFSUITE_AVX512 PERFSUITE_INLINE uint32_t bits(Mask m) { return m; }
  PERFSUITE_AVX512 PERFSUITE_INLINE Mask mask_of(uint32_t bits) { return Mask(bits); }
  PERFSUITE_AVX512 PERFSUITE_INLINE V zero_unless(Mask m, V a) {
    // Else GCC makes a masked load of it, and from memory those run at half the speed (GCC 12, Zen 5).
    asm("" : "+v"(a));
    return _mm512_maskz_mov_ps(m, a);
  }
  PERFSUITE_AVX512 PERFSUITE_INLINE V select(Mask m, V yes, V no) { return _mm512_mask_blend_ps(m, no, yes); }
  PERFSUITE_AVX512 PERFSUITE_INLINE float sum(V a) { return _mm512_reduce_add_ps(a); }
  PERFSUITE_AVX512 PERFSUITE_INLINE float largest(V a) { return _mm512_reduce_max_ps(a); }

  PERFSUITE_AVX512 PERFSUITE_INLINE V load(const float* p) { return _mm512_loadu_ps(p); }
  PERFSUITE_AVX512 PERFSUITE_INLINE V load(const BFloat16* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  PERFSUITE_AVX512 PERFSUITE_INLINE V load(const Half* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }

  PERFSUITE_AVX512 PERFSUITE_INLINE __m256i narrow(V x, const BFloat16*) {
    const __m512i b = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(b, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
    return _mm512_cvtepi32_epi16(rounded);
  }
  PERFSUITE_AVX512 PERFSUITE_INLINE __m256i narrow(V x, const Half*) {
    return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  PERFSUITE_AVX512 PERFSUITE_INLINE void store(float* p, V x) { _mm512_storeu_ps(p, x); }
  template <class T>
  PERFSUITE_AVX512 PERFSUITE_INLINE void store(T* p, V x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x, p));
  }
  // The first n < width elements only; the rest of the vector is pad.
  PERFSUITE_AVX512 PERFSUITE_INLINE V load_first(const float* p, int64_t n, float pad) {
    return _mm512_mask_loadu_ps(set(pad), __mmask16((1u << n) - 1), p);
  }
  template <class T>
  PERFSUITE_AVX512 PERFSUITE_INLINE V load_first(const T* p, int64_t n, float pad) {
    const __m256i raw = _mm256_maskz_loadu_epi16(__mmask16((1u << n) - 1), p);
    alignas(32) T buffer[16];
    _mm256_store_si256(reinterpret_cast<__m256i*>(buffer), raw);
    return _mm512_mask_blend_ps(__mmask16((1u << n) - 1), set(pad), load(buffer));
  }
  PERFSUITE_AVX512 PERFSUITE_INLINE void store_first(float* p, V x, int64_t n) {
    _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), x);
  }
  template <class T>
  PERFSUITE_AVX512 PERFSUITE_INLINE void store_first(T* p, V x, int64_t n) {
    _mm256_mask_storeu_epi16(p, __mmask16((1u << n) - 1), narrow(x, p));
  }
  // Past the caches; p is aligned to a whole vector.
  PERFSUITE_AVX512 PERFSUITE_INLINE void stream(float* p, V x) { _mm512_stream_ps(p, x); }
  template <class T>
  PERFSUITE_AVX512 PERFSUITE_INLINE void stream(T* p, V x) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow(x, p));
  }

  // Below -103.97 it is 0, above 88.73 infinite. NaN stays NaN: max and min return their second operand then.
  PERFSUITE_AVX512 PERFSUITE_INLINE V exp(V x) {
    using C = ExpFloat;
    x = _mm512_min_ps(set(89.f), _mm512_max_ps(set(-110.f), x));
    const V n = _mm512_roundscale_ps(_mm512_mul_ps(x, set(C::log2e)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    V r = _mm512_fnmadd_ps(n, set(C::ln2_high), x);
    r = _mm512_fnmadd_ps(n, set(C::ln2_low), r);
    V p = _mm512_fmadd_ps(set(C::c7), r, set(C::c6));
    p = _mm512_fmadd_ps(p, r, set(C::c5));
    p = _mm512_fmadd_ps(p, r, set(C::c4));
    p = _mm512_fmadd_ps(p, r, set(C::c3));
    p = _mm512_fmadd_ps(p, r, set(C::c2));
    p = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(r, r), p, r), set(1.f));
    return _mm512_scalef_ps(p, n);
  }
  // x = 2^exponent mantissa, the mantissa in [0.75, 1.5); x positive and normal.
  PERFSUITE_AVX512 PERFSUITE_INLINE V mantissa(V x, V* exponent) {
    const V m = _mm512_getmant_ps(x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src);
    *exponent = _mm512_sub_ps(_mm512_getexp_ps(x), _mm512_getexp_ps(m));
    return m;
  }
};

struct Avx2 {
  using V = __m256;
  using Mask = __m256;
  static constexpr int64_t width = 8;

  PERFSUITE_AVX2 PERFSUITE_INLINE V set(float x) { return _mm256_set1_ps(x); }
  PERFSUITE_AVX2 PERFSUITE_INLINE V add(V a, V b) { return _mm256_add_ps(a, b); }
  PERFSUITE_AVX2 PERFSUITE_INLINE V sub(V a, V b) { return _mm256_sub_ps(a, b); }
  PERFSUITE_AVX2 PERFSUITE_INLINE V max(V a, V b) { return _mm256_max_ps(a, b); }
  PERFSUITE_AVX2 PERFSUITE_INLINE V mul(V a, V b) { return _mm256_mul_ps(a, b); }
  PERFSUITE_AVX2 PERFSUITE_INLINE V div(V a, V b) { return _mm256_div_ps(a, b); }
  PERFSUITE_AVX2 PERFSUITE_INLINE V min(V a, V b) { return _mm256_min_ps(a, b); }
  PERFSUITE_AVX2 PERFSUITE_INLINE V sqrt(V a) { return _mm256_sqrt_ps(a); }
  PERFSUITE_AVX2 PERFSUITE_INLINE V abs(V a) { return _mm256_andnot_ps(set(-0.f), a); }
  PERFSUITE_AVX2 PERFSUITE_INLINE V multiply_add(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  PERFSUITE_AVX2 PERFSUITE_INLINE V multiply_subtract(V a, V b, V c) { return _mm256_fmsub_ps(a, b, c); }
  PERFSUITE_AVX2 PERFSUITE_INLINE V negative_multiply_add(V a, V b, V c) { return _mm256_fnmadd_ps(a, b, c); }
  PERFSUITE_AVX2 PERFSUITE_INLINE Mask greater(V a, V b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
  PERFSUITE_AVX2 PERFSUITE_INLINE Mask above_or_nan(V a, V b) { return _mm256_cmp_ps(a, b, _CMP_NLE_UQ); }
  PERFSUITE_AVX2 PERFSUITE_INLINE uint32_t bits(Mask m) { return uint32_t(_mm256_movemask_ps(m)); }
  PERFSUITE_AVX2 PERFSUITE_INLINE Mask mask_of(uint32_t bits) {
    const __m256i one_each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i chosen = _mm256_and_si256(_mm256_set1_epi32(int(bits)), one_each);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(chosen, one_each));
  }
  PERFSUITE_AVX2 PERFSUITE_INLINE V zero_unless(Mask m, V a) { return _mm256_and_ps(m, a); }
  PERFSUITE_AVX2 PERFSUITE_INLINE V select(Mask m, V yes, V no) { return _mm256_blendv_ps(no, yes, m); }
  PERFSUITE_AVX2 PERFSUITE_INLINE float sum(V a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  PERFSUITE_AVX2 PERFSUITE_INLINE float largest(V a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
  }

  PERFSUITE_AVX2 PERFSUITE_INLINE V load(const float* p) { return _mm256_loadu_ps(p); }
  PERFSUITE_AVX2 PERFSUITE_INLINE V load(const BFloat16* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  PERFSUITE_AVX2 PERFSUITE_INLINE V load(const Half* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }

  PERFSUITE_AVX2 PERFSUITE_INLINE __m128i narrow(V x, const BFloat16*) {
    const __m256i b = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(b, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(b, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
  }
  PERFSUITE_AVX2 PERFSUITE_INLINE __m128i narrow(V x, const Half*) {
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  PERFSUITE_AVX2 PERFSUITE_INLINE void store(float* p, V x) { _mm256_storeu_ps(p, x); }
  template <class T>
  PERFSUITE_AVX2 PERFSUITE_INLINE void store(T* p, V x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(x, p));
  }
  template <class T>
  PERFSUITE_AVX2 PERFSUITE_INLINE V load_first(const T* p, int64_t n, float pad) {
    T buffer[8];
    for (int64_t i = 0; i < 8; ++i) i < n ? void(buffer[i] = p[i]) : from_acc(pad, &buffer[i]);
    return load(buffer);
  }
  template <class T>
  PERFSUITE_AVX2 PERFSUITE_INLINE void store_first(T* p, V x, int64_t n) {
    T buffer[8];
    store(buffer, x);
    for (int64_t i = 0; i < n; ++i) p[i] = buffer[i];
  }
  PERFSUITE_AVX2 PERFSUITE_INLINE void stream(float* p, V x) { _mm256_stream_ps(p, x); }
  template <class T>
  PERFSUITE_AVX2 PERFSUITE_INLINE void stream(T* p, V x) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), narrow(x, p));
  }

  // Below -103.97 it is 0, above 88.73 infinite. NaN stays NaN.
  PERFSUITE_AVX2 PERFSUITE_INLINE V exp(V x) {
    using C = ExpFloat;
    x = _mm256_min_ps(set(89.f), _mm256_max_ps(set(-110.f), x));
    const V n = _mm256_round_ps(_mm256_mul_ps(x, set(C::log2e)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    V r = _mm256_fnmadd_ps(n, set(C::ln2_high), x);
    r = _mm256_fnmadd_ps(n, set(C::ln2_low), r);
    V p = _mm256_fmadd_ps(set(C::c7), r, set(C::c6));
    p = _mm256_fmadd_ps(p, r, set(C::c5));
    p = _mm256_fmadd_ps(p, r, set(C::c4));
    p = _mm256_fmadd_ps(p, r, set(C::c3));
    p = _mm256_fmadd_ps(p, r, set(C::c2));
    p = _mm256_add_ps(_mm256_fmadd_ps(_mm256_mul_ps(r, r), p, r), set(1.f));
    // In two factors: 2^n itself may be no number.
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(p, power_of_2(half)), power_of_2(_mm256_sub_epi32(whole, half)));
  }
  PERFSUITE_AVX2 PERFSUITE_INLINE V power_of_2(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  }
  // x = 2^exponent mantissa, the mantissa in [0.75, 1.5); x positive and normal.
  PERFSUITE_AVX2 PERFSUITE_INLINE V mantissa(V x, V* exponent) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i e = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f400000)), 23);
    *exponent = _mm256_cvtepi32_ps(e);
    return _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(e, 23)));
  }
};

#endif  // defined(__x86_64__)

}  // namespace perfsuite::cpu
