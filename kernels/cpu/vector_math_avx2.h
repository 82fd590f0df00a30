// Elementary functions and conversions of 8 floats, for AVX2 with FMA. Include only in files
// compiled for them. Functions, errors and NaN as in vector_math_avx512.h.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/vector_math_coefficients.h"

namespace octavo::cpu::avx2 {

// Round to nearest even; any NaN becomes 0x7fc0.
static inline __m128i ToBf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i words = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

static inline __m256 FromBf16(__m128i x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}

template <int kTerms>
static inline __m256 Polynomial(const float (&coefficients)[kTerms], __m256 x) {
  __m256 value = _mm256_set1_ps(coefficients[kTerms - 1]);
#pragma GCC unroll 16
  for (int i = kTerms - 2; i >= 0; --i) {
    value = _mm256_fmadd_ps(value, x, _mm256_set1_ps(coefficients[i]));
  }
  return value;
}

// p * 2^n for an integer n with a normal result, by adding to the exponent.
static inline __m256 ScaleByPower(__m256 p, __m256 n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
}

static inline __m256 Round(__m256 x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline __m256 Exp(__m256 x) {
  const __m256 kept = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_NLT_UQ);
  const __m256 infinite = _mm256_cmp_ps(x, _mm256_set1_ps(88.7f), _CMP_GT_OQ);
  const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  const __m256 n = Round(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)));
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fmadd_ps(n, _mm256_set1_ps(2.12194440e-4f), r);
  // The result is normal: at n = 128 the polynomial is below 1, at n = -126 above.
  __m256 result = _mm256_and_ps(ScaleByPower(Polynomial(kExp, r), n), kept);
  const __m256 infinity = _mm256_set1_ps(__builtin_inff());
  result = _mm256_blendv_ps(result, infinity, infinite);
  return _mm256_blendv_ps(result, x, nan);
}

template <int kTerms>
static inline __m256 Exp2With(const float (&coefficients)[kTerms], __m256 x) {
  const __m256 kept = _mm256_cmp_ps(x, _mm256_set1_ps(-126.0f), _CMP_NLT_UQ);
  const __m256 n = Round(x);
  const __m256 p = Polynomial(coefficients, _mm256_sub_ps(x, n));
  // A NaN's exponent bits stay set whatever is added to them but 2^31, what a conversion of NaN
  // gives; shifted out, nothing is added.
  return _mm256_and_ps(ScaleByPower(p, n), kept);
}

static inline __m256 Exp2(__m256 x) { return Exp2With(kExp2, x); }
static inline __m256 Exp2Coarse(__m256 x) { return Exp2With(kExp2Coarse, x); }

template <int kTerms>
static inline __m256 GeluByTail(const float (&coefficients)[kTerms], int squarings, float limit,
                                __m256 x) {
  const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
  const __m256 u = _mm256_min_ps(_mm256_set1_ps(limit), magnitude);
  __m256 tail = Polynomial(coefficients, u);
#pragma GCC unroll 8
  for (int i = 0; i < squarings; ++i) tail = _mm256_mul_ps(tail, tail);
  return _mm256_fnmadd_ps(tail, u, _mm256_max_ps(_mm256_setzero_ps(), x));
}

static inline __m256 Gelu(__m256 x) { return GeluByTail(kGelu, kGeluSquarings, kGeluLimit, x); }

static inline __m256 GeluCoarse(__m256 x) {
  return GeluByTail(kGeluCoarse, kGeluCoarseSquarings, kGeluCoarseLimit, x);
}

static inline __m256 GeluTanh(__m256 x) {
  return GeluByTail(kGeluTanh, kGeluTanhSquarings, kGeluTanhLimit, x);
}

static inline __m256 Silu(__m256 x) {
  const __m256 e = Exp(_mm256_sub_ps(_mm256_setzero_ps(), x));
  return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

}  // namespace octavo::cpu::avx2
