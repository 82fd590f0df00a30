// What attention's AVX-512 vectors have in common. Include only in files compiled for AVX-512.
#pragma once

#include "kernels/cpu/attention_vector.h"
#include "kernels/cpu/epilogue_avx512.h"

namespace octavo::cpu {
namespace {

struct Avx512Attention : Avx512Vector {
  static constexpr int kQueries = kAttentionTileQueries;

  static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static float First(F x) { return _mm512_cvtss_f32(x); }
  static float MaxOfLanes(F x) { return _mm512_reduce_max_ps(x); }
  static float SumOfLanes(F x) { return _mm512_reduce_add_ps(x); }

  static __mmask16 Lanes(int64_t low, int64_t high) {
    const uint32_t below_high = high >= 16 ? 0xffffu : (1u << (high < 0 ? 0 : high)) - 1;
    const uint32_t below_low = low >= 16 ? 0xffffu : (1u << (low < 0 ? 0 : low)) - 1;
    return static_cast<__mmask16>(below_high & ~below_low);
  }
  static F LoadLanes(const float* from, int64_t low, int64_t high) {
    return _mm512_maskz_loadu_ps(Lanes(low, high), from);
  }
  static F KeepLanes(int64_t low, int64_t high, F x, F other) {
    return _mm512_mask_mov_ps(other, Lanes(low, high), x);
  }

  static void TransposeWords(const char* from, int64_t stride, int rows, int words, uint32_t* to,
                             int64_t to_stride) {
    const __mmask16 read = static_cast<__mmask16>((1u << words) - 1);
    __m512i a[16], b[16];
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) {
      a[r] = r < rows ? _mm512_maskz_loadu_epi32(read, from + r * stride) : _mm512_setzero_si512();
    }
    // Pairs of rows, then fours, in 128-bit lanes: lane l of b[4g + i] holds word 4l + i of rows
    // 4g .. 4g + 3.
#pragma GCC unroll 8
    for (int r = 0; r < 16; r += 2) {
      b[r] = _mm512_unpacklo_epi32(a[r], a[r + 1]);
      b[r + 1] = _mm512_unpackhi_epi32(a[r], a[r + 1]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < 16; r += 4) {
      a[r] = _mm512_unpacklo_epi64(b[r], b[r + 2]);
      a[r + 1] = _mm512_unpackhi_epi64(b[r], b[r + 2]);
      a[r + 2] = _mm512_unpacklo_epi64(b[r + 1], b[r + 3]);
      a[r + 3] = _mm512_unpackhi_epi64(b[r + 1], b[r + 3]);
    }
    // Then whole lanes: a 4 x 4 transpose for each i.
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512i low01 = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x44);
      const __m512i high01 = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xee);
      const __m512i low23 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x44);
      const __m512i high23 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xee);
      b[i] = _mm512_shuffle_i32x4(low01, low23, 0x88);
      b[4 + i] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
      b[8 + i] = _mm512_shuffle_i32x4(high01, high23, 0x88);
      b[12 + i] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
    }
    if (words == 16) {
#pragma GCC unroll 16
      for (int w = 0; w < 16; ++w) _mm512_storeu_si512(to + w * to_stride, b[w]);
    } else {
      for (int w = 0; w < words; ++w) _mm512_storeu_si512(to + w * to_stride, b[w]);
    }
  }
};

}  // namespace
}  // namespace octavo::cpu
