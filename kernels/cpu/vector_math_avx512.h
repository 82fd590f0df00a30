// Elementary functions and conversions of 16 floats, for AVX-512 (F, BW, DQ, VL). Include only in
// files compiled for it. Algorithms and coefficients: fit_vector_math.py. Every lane's result
// depends on that lane alone. NaN gives NaN.
//
//   Exp(x)         relative error <= 2e-7 for x >= -87, 0 below, infinity above 88.72
//   Exp2(x)        relative error <= 2e-7 for -126 <= x <= 0; at most 2^-126 for finite x below
//   Exp2Coarse(x)  relative error <= 1.1e-4 on the same range: for results kept in bf16
//   Gelu(x)        x / 2 (1 + erf(x / sqrt 2)); absolute error <= 1e-6, relative <= 2^-23 for x > 8
//   GeluCoarse(x)  the same within 1e-4: for results kept in 16 or 8 bits
//   GeluTanh(x)    x / 2 (1 + tanh(sqrt(2/pi)(x + 0.044715 x^3))), errors as Gelu
//   Silu(x)        x / (1 + e^-x); absolute error <= 1e-6 max(1, |x|)
#pragma once

#include <immintrin.h>

#include "kernels/cpu/vector_math_coefficients.h"

namespace octavo::cpu::avx512 {

// Round to nearest even; any NaN becomes 0x7fc0.
static inline __m256i ToBf16(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0)));
}

static inline __m512 FromBf16(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

template <int kTerms>
static inline __m512 Polynomial(const float (&coefficients)[kTerms], __m512 x) {
  __m512 value = _mm512_set1_ps(coefficients[kTerms - 1]);
#pragma GCC unroll 16
  for (int i = kTerms - 2; i >= 0; --i) {
    value = _mm512_fmadd_ps(value, x, _mm512_set1_ps(coefficients[i]));
  }
  return value;
}

static inline __m512 Exp(__m512 x) {
  // Not below, rather than above or equal: a NaN goes through.
  const __mmask16 kept = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
  x = _mm512_min_ps(_mm512_set1_ps(100.0f), x);  // in this order a NaN stays
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
  // ln 2 in two parts: the first has 9 bits, so that its product with n is exact.
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
  return _mm512_maskz_scalef_ps(kept, Polynomial(kExp, r), n);
}

// 0 in lanes that `kept` leaves out.
template <int kTerms>
static inline __m512 Exp2With(const float (&coefficients)[kTerms], __m512 x, __mmask16 kept) {
  const __m512 n = _mm512_roundscale_ps(x, 8);
  return _mm512_maskz_scalef_ps(kept, Polynomial(coefficients, _mm512_sub_ps(x, n)), n);
}

static inline __m512 Exp2(__m512 x) { return Exp2With(kExp2, x, 0xffff); }
static inline __m512 Exp2Coarse(__m512 x) { return Exp2With(kExp2Coarse, x, 0xffff); }
static inline __m512 Exp2Coarse(__m512 x, __mmask16 kept) { return Exp2With(kExp2Coarse, x, kept); }

template <int kTerms>
static inline __m512 GeluByTail(const float (&coefficients)[kTerms], int squarings, float limit,
                                __m512 x) {
  constexpr int kSmallerMagnitudeUnsigned = 0b1010;
  const __m512 u = _mm512_range_ps(x, _mm512_set1_ps(limit), kSmallerMagnitudeUnsigned);
  __m512 tail = Polynomial(coefficients, u);
#pragma GCC unroll 8
  for (int i = 0; i < squarings; ++i) tail = _mm512_mul_ps(tail, tail);
  return _mm512_fnmadd_ps(tail, u, _mm512_max_ps(_mm512_setzero_ps(), x));
}

static inline __m512 Gelu(__m512 x) { return GeluByTail(kGelu, kGeluSquarings, kGeluLimit, x); }

static inline __m512 GeluCoarse(__m512 x) {
  return GeluByTail(kGeluCoarse, kGeluCoarseSquarings, kGeluCoarseLimit, x);
}

static inline __m512 GeluTanh(__m512 x) {
  return GeluByTail(kGeluTanh, kGeluTanhSquarings, kGeluTanhLimit, x);
}

static inline __m512 Silu(__m512 x) {
  const __m512 e = Exp(_mm512_sub_ps(_mm512_setzero_ps(), x));
  return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

}  // namespace octavo::cpu::avx512
