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
  static void StoreBf16(uint16_t* to, F x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof(bits));
    *to = x != x ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
  static void StoreBf16First(uint16_t* to, F x, int) { StoreBf16(to, x); }
  static F Set(float x) { return x; }
  static F Add(F a, F b) { return a + b; }
  static F Mul(F a, F b) { return a * b; }
  static F Gelu(F x) { return octavo::cpu::Gelu(x); }
  static F GeluTanh(F x) { return octavo::cpu::GeluTanh(x); }
  static F Silu(F x) { return octavo::cpu::Silu(x); }
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
};

}  // namespace
}  // namespace octavo::cpu
