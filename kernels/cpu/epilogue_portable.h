// The vector type of epilogue.h for any processor: a vector of one, the same operations.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cpu/epilogue.h"
#include "kernels/cpu/vector_math_portable.h"

namespace octavo::cpu {
namespace {

struct PortableVector {
  static constexpr int kWidth = 1;
  using F = float;
  using I = int32_t;

  static F Load(const float* from) { return *from; }
  static F LoadFirst(const float* from, int) { return *from; }
  static void Store(float* to, F x) { *to = x; }
  static void StoreFirst(float* to, F x, int) { *to = x; }
  static void StoreBf16(uint16_t* to, F x) { *to = portable::ToBf16(x); }
  static void StoreBf16First(uint16_t* to, F x, int) { StoreBf16(to, x); }
  static F Set(float x) { return x; }
  static F Add(F a, F b) { return a + b; }
  static F Mul(F a, F b) { return a * b; }
  static F Gelu(F x) { return GeluByTail(kGelu, kGeluSquarings, kGeluLimit, x); }
  static F GeluCoarse(F x) {
    return GeluByTail(kGeluCoarse, kGeluCoarseSquarings, kGeluCoarseLimit, x);
  }
  static F GeluTanh(F x) { return GeluByTail(kGeluTanh, kGeluTanhSquarings, kGeluTanhLimit, x); }
  static F Silu(F x) { return x / (1.0f + ExpUpTo87(0.0f - x)); }
  static void Split(F low, F high, F* even, F* odd) {
    *even = low;
    *odd = high;
  }
  static I ZeroInts() { return 0; }
  static I MaxAbsBits(I bits, F x) {
    uint32_t magnitude;
    __builtin_memcpy(&magnitude, &x, sizeof(magnitude));
    magnitude &= 0x7fffffffu;
    return static_cast<I>(magnitude) > bits ? static_cast<I>(magnitude) : bits;
  }
  static uint32_t MaxOfBits(I bits) { return static_cast<uint32_t>(bits); }
  static I Round(F x) { return static_cast<I>(std::nearbyint(x)); }
  static I AddInts(I a, I b) { return a + b; }
  static int32_t SumOfInts(I x) { return x; }
  static void StoreInt8(int8_t* to, I x) { *to = static_cast<int8_t>(x); }
  static void StoreInt8First(int8_t* to, I x, int) { *to = static_cast<int8_t>(x); }

 private:
  // As in vector_math_portable.h, but fused where the vector files fuse: the same bits.
  template <int kTerms>
  static F Polynomial(const float (&coefficients)[kTerms], F x) {
    F value = coefficients[kTerms - 1];
    for (int i = kTerms - 2; i >= 0; --i) value = std::fma(value, x, coefficients[i]);
    return value;
  }
  static F ExpUpTo87(F x) {
    if (!(x >= -87.0f)) return x != x ? x : 0.0f;
    if (x > 87.0f) x = 87.0f;
    const F n = portable::RoundSmall(x * 1.44269504f);
    const F r = std::fma(n, 2.12194440e-4f, std::fma(-n, 0.693359375f, x));
    return Polynomial(kExp, r) * portable::PowerOfTwo(n);
  }
  template <int kTerms>
  static F GeluByTail(const float (&coefficients)[kTerms], int squarings, float limit, F x) {
    const F magnitude = x < 0.0f ? -x : x;
    const F u = magnitude > limit ? limit : magnitude;
    F tail = Polynomial(coefficients, u);
    for (int i = 0; i < squarings; ++i) tail = tail * tail;
    return std::fma(-tail, u, x < 0.0f ? 0.0f : x);
  }
};

}  // namespace
}  // namespace octavo::cpu
