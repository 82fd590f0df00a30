// The f32 register tile on AVX-512: R rows x 32 columns. Include only in files compiled for it.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/epilogue_avx512.h"
#include "kernels/cpu/linear_tiles.h"

namespace octavo::cpu {
namespace {

constexpr int kTileRows = 12;  // 24 accumulators

// `arranged` as in linear_tiles.h; `panel` [k][32]; k a multiple of 4; `tile` [R][32].
template <int R>
void F32Products(const float* arranged, const float* panel, int64_t k, float* tile) {
  __m512 sums[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
  for (int64_t i = 0; i < k; i += 4) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m512 low = _mm512_load_ps(panel + j * kPanelColumns);
      const __m512 high = _mm512_load_ps(panel + j * kPanelColumns + 16);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const __m512 x = _mm512_set1_ps(arranged[r * 4 + j]);
        sums[r][0] = _mm512_fmadd_ps(x, low, sums[r][0]);
        sums[r][1] = _mm512_fmadd_ps(x, high, sums[r][1]);
      }
    }
    arranged += R * 4;
    panel += 4 * kPanelColumns;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    _mm512_store_ps(tile + r * kPanelColumns, sums[r][0]);
    _mm512_store_ps(tile + r * kPanelColumns + 16, sums[r][1]);
  }
}

// What the rows that multiply in f32 have in common, whatever their weights were widened from.
struct F32Tile {
  using V = Avx512Vector;
  using Activation = float;
  static constexpr int kRows = kTileRows;
  static constexpr int64_t kColumns = kPanelColumns;

  template <int R>
  static void Products(const LinearBlock& block, const float* arranged, int64_t, const float* panel,
                       int64_t column, float* tile) {
    F32Products<R>(arranged, panel + column, RoundUp(block.shape.k, 4), tile);
  }
};

}  // namespace
}  // namespace octavo::cpu
