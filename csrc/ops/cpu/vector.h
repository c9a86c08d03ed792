// Vectors of float32 for the CPU kernels, one struct per instruction set, all with the same names. A kernel's body is
// written once against `Vec` and compiled once per instruction set with function target attributes, so that one build
// serves every x86-64 machine and no flag of the compiler matters.
#pragma once

#if defined(__x86_64__)

// GCC 12 warns of its own _mm512_undefined_ps (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "types.h"

#define PERFSUITE_AVX2 __attribute__((target("avx2,fma,f16c")))
#define PERFSUITE_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define PERFSUITE_INLINE static inline __attribute__((always_inline))

namespace perfsuite::cpu {

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2 in two parts (Cody and Waite), exp(r) by the polynomial of
// degree 7 of the Cephes library's expf. Largest error over [-87.3, 0]: 1.1 ulp (tests/test_cross_entropy.py measures it).
struct ExpFloat {
  static constexpr float log2e = 1.44269504088896341f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float c7 = 1.9875691500e-4f, c6 = 1.3981999507e-3f, c5 = 8.3334519073e-3f, c4 = 4.1665795894e-2f,
                         c3 = 1.6666665459e-1f, c2 = 5.0000001201e-1f;
};

struct Avx512 {
  using V = __m512;
  static constexpr int64_t width = 16;

  PERFSUITE_AVX512 PERFSUITE_INLINE V set(float x) { return _mm512_set1_ps(x); }
  PERFSUITE_AVX512 PERFSUITE_INLINE V add(V a, V b) { return _mm512_add_ps(a, b); }
  PERFSUITE_AVX512 PERFSUITE_INLINE V sub(V a, V b) { return _mm512_sub_ps(a, b); }
  PERFSUITE_AVX512 PERFSUITE_INLINE V max(V a, V b) { return _mm512_max_ps(a, b); }
  PERFSUITE_AVX512 PERFSUITE_INLINE V multiply_subtract(V a, V b, V c) { return _mm512_fmsub_ps(a, b, c); }
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
  // Past the caches; p is aligned to a whole vector.
  PERFSUITE_AVX512 PERFSUITE_INLINE void stream(float* p, V x) { _mm512_stream_ps(p, x); }
  template <class T>
  PERFSUITE_AVX512 PERFSUITE_INLINE void stream(T* p, V x) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow(x, p));
  }

  // For x <= 0; below -103.97 it is 0. NaN stays NaN: max returns its second operand when one is NaN.
  PERFSUITE_AVX512 PERFSUITE_INLINE V exp(V x) {
    using C = ExpFloat;
    x = _mm512_max_ps(set(-110.f), x);
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
};

struct Avx2 {
  using V = __m256;
  static constexpr int64_t width = 8;

  PERFSUITE_AVX2 PERFSUITE_INLINE V set(float x) { return _mm256_set1_ps(x); }
  PERFSUITE_AVX2 PERFSUITE_INLINE V add(V a, V b) { return _mm256_add_ps(a, b); }
  PERFSUITE_AVX2 PERFSUITE_INLINE V sub(V a, V b) { return _mm256_sub_ps(a, b); }
  PERFSUITE_AVX2 PERFSUITE_INLINE V max(V a, V b) { return _mm256_max_ps(a, b); }
  PERFSUITE_AVX2 PERFSUITE_INLINE V multiply_subtract(V a, V b, V c) { return _mm256_fmsub_ps(a, b, c); }
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
  PERFSUITE_AVX2 PERFSUITE_INLINE void stream(float* p, V x) { _mm256_stream_ps(p, x); }
  template <class T>
  PERFSUITE_AVX2 PERFSUITE_INLINE void stream(T* p, V x) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), narrow(x, p));
  }

  // For x <= 0; results below the smallest normal number are 0. NaN stays NaN.
  PERFSUITE_AVX2 PERFSUITE_INLINE V exp(V x) {
    using C = ExpFloat;
    const V lowest = set(-87.33654f);
    const V keep = _mm256_cmp_ps(x, lowest, _CMP_NLT_UQ);
    x = _mm256_max_ps(lowest, x);
    const V n = _mm256_round_ps(_mm256_mul_ps(x, set(C::log2e)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    V r = _mm256_fnmadd_ps(n, set(C::ln2_high), x);
    r = _mm256_fnmadd_ps(n, set(C::ln2_low), r);
    V p = _mm256_fmadd_ps(set(C::c7), r, set(C::c6));
    p = _mm256_fmadd_ps(p, r, set(C::c5));
    p = _mm256_fmadd_ps(p, r, set(C::c4));
    p = _mm256_fmadd_ps(p, r, set(C::c3));
    p = _mm256_fmadd_ps(p, r, set(C::c2));
    p = _mm256_add_ps(_mm256_fmadd_ps(_mm256_mul_ps(r, r), p, r), set(1.f));
    const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_and_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(exponent)), keep);
  }
};

// The n < width elements at p, padded.
template <class Vec, class T>
struct Partial {
  T buffer[Vec::width];
  Partial(const T* p, int64_t n, float pad) {
    for (int64_t i = 0; i < Vec::width; ++i) {
      if (i < n) {
        buffer[i] = p[i];
      } else {
        from_acc(pad, &buffer[i]);
      }
    }
  }
};

}  // namespace perfsuite::cpu

#endif
