// a16w4_int4 by tdpbf16ps: panels are decoded to bf16, (q - zero) * scale in f32 and rounded once,
// for all rows of the block.
#pragma once

#include "kernels/cpu/linear_amx.h"

namespace octavo::cpu {
namespace {

[[maybe_unused]] __m512 LoadF16(const uint8_t* from) {
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(from)));
}

// Decodes `k` values (rounded up to 8) of 32 channels of one group to [pairs of k][32][2] bf16.
[[maybe_unused]] void DecodeGroup(const uint8_t* codes, int64_t k, bool zero_points, uint8_t* to) {
  const uint8_t* scales = codes + Int4CodeBytes(k);
  // The even k of a word's nibbles are to be low halves of lanes, the odd ones high halves.
  alignas(64) static constexpr uint16_t kPairs[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  alignas(64) static constexpr float kCodes[16] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                   8, 9, 10, 11, 12, 13, 14, 15};
  const __m512i pairs = _mm512_load_si512(kPairs);
  const __m512 code = _mm512_load_ps(kCodes);
  for (int64_t c = 0; c < kPanelColumns; c += 16) {
    const __m512 scale = LoadF16(scales + 2 * c);
    const __m512 zero =
        zero_points ? LoadF16(scales + kInt4ScaleBytes + 2 * c) : _mm512_set1_ps(8.0f);
    // 11-bit factors: this product is exact, and a fused q * scale + shift is (q - zero) * scale
    // rounded once.
    const __m512 shift = _mm512_fnmadd_ps(zero, scale, _mm512_setzero_ps());
    for (int64_t i = 0; i < k; i += 8) {
      const __m512i words = _mm512_load_si512(codes + (i / 8 * kPanelColumns + c) * 4);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        // The lookup sees the low 4 bits of a lane.
        const __m512 even = _mm512_permutexvar_ps(_mm512_srli_epi32(words, 4 * j), code);
        const __m512 odd = _mm512_permutexvar_ps(_mm512_srli_epi32(words, 4 * j + 16), code);
        const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_fmadd_ps(odd, scale, shift),
                                                  _mm512_fmadd_ps(even, scale, shift));
        _mm512_store_si512(to + ((i / 2 + j) * kPanelColumns + c) * 4,
                           _mm512_permutexvar_epi16(pairs, (__m512i)both));
      }
    }
  }
}

template <class TileInstructions>
struct Int4Tiles {
  using Tiles = TileInstructions;
  static constexpr int64_t kElementBytes = 2;

  static WeightTiles Weights(const LinearBlock& block, int64_t column, int64_t columns) {
    const PanelWeight& weight = *static_cast<const PanelWeight*>(block.weight);
    const int64_t k = block.shape.k;
    const int64_t panel_bytes = RoundUp(k, 8) * kPanelColumns * 2;
    uint8_t* const decoded = static_cast<uint8_t*>(
        ThreadScratch(ScratchUse::kPanel, kWideColumns / kPanelColumns * panel_bytes));
    for (int64_t c = 0; c < columns; c += kPanelColumns) {
      const uint8_t* from = weight.panels + (column + c) / kPanelColumns * weight.panel_bytes;
      uint8_t* to = decoded + c / kPanelColumns * panel_bytes;
      for (int64_t i = 0; i < k; i += weight.group) {
        const int64_t count = AtMost(k - i, weight.group);
        DecodeGroup(from, count, weight.zero_points, to + i * kPanelColumns * 2);
        from += Int4CodeBytes(count) + kInt4ScaleBytes * (weight.zero_points ? 2 : 1);
      }
    }
    return {.words = decoded, .stride = kPanelColumns * 4, .pair_step = panel_bytes};
  }

  template <int kSum, int kA, int kB>
  static void Dot() {
    Tiles::template DotBf16<kSum, kA, kB>();
  }

  static void Scale(const LinearBlock&, float*, int64_t, int64_t, int64_t, int64_t, int64_t) {}
};

}  // namespace
}  // namespace octavo::cpu
