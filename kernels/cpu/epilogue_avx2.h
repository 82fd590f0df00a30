// The vector type of epilogue.h for AVX2 with FMA. Include only in files compiled for it.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/epilogue.h"
#include "kernels/cpu/vector_math_avx2.h"

namespace octavo::cpu {
namespace {

struct Avx2Vector {
  static constexpr int kWidth = 8;
  using F = __m256;
  using I = __m256i;

  static __m256i First(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static F Load(const float* from) { return _mm256_loadu_ps(from); }
  static F LoadFirst(const float* from, int count) {
    return _mm256_maskload_ps(from, First(count));
  }
  static void Store(float* to, F x) { _mm256_storeu_ps(to, x); }
  static void StoreFirst(float* to, F x, int count) { _mm256_maskstore_ps(to, First(count), x); }
  static void StoreBf16(uint16_t* to, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), avx2::ToBf16(x));
  }
  static void StoreBf16First(uint16_t* to, F x, int count) {
    alignas(16) uint16_t values[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(values), avx2::ToBf16(x));
    __builtin_memcpy(to, values, static_cast<unsigned>(count) * sizeof(uint16_t));
  }
  static F Set(float x) { return _mm256_set1_ps(x); }
  static F Add(F a, F b) { return _mm256_add_ps(a, b); }
  static F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F Gelu(F x) { return avx2::Gelu(x); }
  static F GeluCoarse(F x) { return avx2::GeluCoarse(x); }
  static F GeluTanh(F x) { return avx2::GeluTanh(x); }
  // e^-x stops at e^87, where exponentials of all instruction sets still agree.
  static F Silu(F x) {
    const F e = avx2::Exp(_mm256_min_ps(Set(87.0f), _mm256_sub_ps(Set(0.0f), x)));
    return _mm256_div_ps(x, Add(Set(1.0f), e));
  }
  static void Split(F low, F high, F* even, F* odd) {
    // Within 128-bit lanes: (l0 l2 h0 h2 | l4 l6 h4 h6); the 64-bit permute puts low before high.
    const __m256d evens = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0x88));
    const __m256d odds = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0xdd));
    *even = _mm256_castpd_ps(_mm256_permute4x64_pd(evens, 0xd8));
    *odd = _mm256_castpd_ps(_mm256_permute4x64_pd(odds, 0xd8));
  }
  static I ZeroInts() { return _mm256_setzero_si256(); }
  static I MaxAbsBits(I bits, F x) {
    const I magnitude = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
    return _mm256_max_epu32(bits, magnitude);
  }
  static uint32_t MaxOfBits(I bits) {
    __m128i x = _mm_max_epu32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    x = _mm_max_epu32(x, _mm_shuffle_epi32(x, 0x4e));
    x = _mm_max_epu32(x, _mm_shuffle_epi32(x, 0xb1));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(x));
  }
  static I Round(F x) { return _mm256_cvtps_epi32(x); }
  static I AddInts(I a, I b) { return _mm256_add_epi32(a, b); }
  static int32_t SumOfInts(I ints) {
    __m128i x = _mm_add_epi32(_mm256_castsi256_si128(ints), _mm256_extracti128_si256(ints, 1));
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1));
    return _mm_cvtsi128_si32(x);
  }
  static __m128i Int8(I x) {
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    return _mm_packs_epi16(words, words);
  }
  static void StoreInt8(int8_t* to, I x) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), Int8(x));
  }
  static void StoreInt8First(int8_t* to, I x, int count) {
    alignas(16) int8_t values[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(values), Int8(x));
    __builtin_memcpy(to, values, static_cast<unsigned>(count));
  }
};

}  // namespace
}  // namespace octavo::cpu
