// Elementary functions and conversions of one float, with plain multiplies and adds. Algorithms
// and coefficients: fit_vector_math.py. Errors as in vector_math_avx512.h.
#pragma once

#include <cstdint>

#include "kernels/cpu/vector_math_coefficients.h"

namespace octavo::cpu::portable {

static inline uint32_t Bits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits;
}

static inline float FromBits(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}

// x rounded to an integer, half to even, for |x| below 2^22.
static inline float RoundSmall(float x) { return (x + 12582912.0f) - 12582912.0f; }

// Round to nearest even; any NaN becomes 0x7fc0.
static inline uint16_t ToBf16(float x) {
  const uint32_t bits = Bits(x);
  return x != x ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float FromBf16(uint16_t x) { return FromBits(static_cast<uint32_t>(x) << 16); }

// 2^n for an integer n in [-126, 127].
static inline float PowerOfTwo(float n) {
  return FromBits(static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23);
}

template <int kTerms>
static inline float Polynomial(const float (&coefficients)[kTerms], float x) {
  float value = coefficients[kTerms - 1];
  for (int i = kTerms - 2; i >= 0; --i) value = value * x + coefficients[i];
  return value;
}

static inline float Exp(float x) {
  if (!(x >= -87.0f)) return x != x ? x : 0.0f;
  if (x > 88.7f) return FromBits(0x7f800000u);
  const float n = RoundSmall(x * 1.44269504f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  const float p = Polynomial(kExp, r);
  return n > 127.0f ? p * 2.0f * PowerOfTwo(127.0f) : p * PowerOfTwo(n);
}

static inline float Exp2(float x) {
  if (!(x >= -126.0f)) return x != x ? x : 0.0f;
  const float n = RoundSmall(x);
  return Polynomial(kExp2, x - n) * PowerOfTwo(n);
}

template <int kTerms>
static inline float GeluByTail(const float (&coefficients)[kTerms], int squarings, float limit,
                               float x) {
  const float magnitude = x < 0.0f ? -x : x;
  const float u = magnitude > limit ? limit : magnitude;
  float tail = Polynomial(coefficients, u);
  for (int i = 0; i < squarings; ++i) tail = tail * tail;
  return (x < 0.0f ? 0.0f : x) - tail * u;
}

static inline float Gelu(float x) { return GeluByTail(kGelu, kGeluSquarings, kGeluLimit, x); }

static inline float GeluCoarse(float x) {
  return GeluByTail(kGeluCoarse, kGeluCoarseSquarings, kGeluCoarseLimit, x);
}

static inline float GeluTanh(float x) {
  return GeluByTail(kGeluTanh, kGeluTanhSquarings, kGeluTanhLimit, x);
}

static inline float Silu(float x) { return x / (1.0f + Exp(-x)); }

}  // namespace octavo::cpu::portable
