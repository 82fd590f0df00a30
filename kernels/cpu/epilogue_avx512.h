// The vector type of epilogue.h for AVX-512 (F, BW, DQ, VL). Include only in files compiled for it.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/epilogue.h"
#include "kernels/cpu/vector_math_avx512.h"

namespace octavo::cpu {
namespace {

struct Avx512Vector {
  static constexpr int kWidth = 16;
  using F = __m512;
  using I = __m512i;

  static __mmask16 First(int count) { return static_cast<__mmask16>((1u << count) - 1); }
  static F Load(const float* from) { return _mm512_loadu_ps(from); }
  static F LoadFirst(const float* from, int count) {
    return _mm512_maskz_loadu_ps(First(count), from);
  }
  static void Store(float* to, F x) { _mm512_storeu_ps(to, x); }
  static void StoreFirst(float* to, F x, int count) { _mm512_mask_storeu_ps(to, First(count), x); }
  static void StoreBf16(uint16_t* to, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), avx512::ToBf16(x));
  }
  static void StoreBf16First(uint16_t* to, F x, int count) {
    _mm256_mask_storeu_epi16(to, First(count), avx512::ToBf16(x));
  }
  static F Set(float x) { return _mm512_set1_ps(x); }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Gelu(F x) { return avx512::Gelu(x); }
  static F GeluCoarse(F x) { return avx512::GeluCoarse(x); }
  static F GeluTanh(F x) { return avx512::GeluTanh(x); }
  // e^-x stops at e^87, where exponentials of all instruction sets still agree.
  static F Silu(F x) {
    const F e = avx512::Exp(_mm512_min_ps(Set(87.0f), _mm512_sub_ps(Set(0.0f), x)));
    return _mm512_div_ps(x, Add(Set(1.0f), e));
  }
  static void Split(F low, F high, F* even, F* odd) {
    const I evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const I odds = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    *even = _mm512_permutex2var_ps(low, evens, high);
    *odd = _mm512_permutex2var_ps(low, odds, high);
  }
  static I ZeroInts() { return _mm512_setzero_si512(); }
  static I MaxAbsBits(I bits, F x) {
    const I magnitude = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
    return _mm512_max_epu32(bits, magnitude);
  }
  static uint32_t MaxOfBits(I bits) { return _mm512_reduce_max_epu32(bits); }
  static I Round(F x) { return _mm512_cvtps_epi32(x); }
  static I AddInts(I a, I b) { return _mm512_add_epi32(a, b); }
  static int32_t SumOfInts(I x) { return _mm512_reduce_add_epi32(x); }
  static void StoreInt8(int8_t* to, I x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(x));
  }
  static void StoreInt8First(int8_t* to, I x, int count) {
    _mm512_mask_cvtepi32_storeu_epi8(to, First(count), x);
  }
};

}  // namespace
}  // namespace octavo::cpu
