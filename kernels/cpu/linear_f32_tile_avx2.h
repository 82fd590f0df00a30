// The f32 register tile on AVX2 with FMA: R rows x 16 columns. Include only in files compiled for
// it.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/epilogue_avx2.h"
#include "kernels/cpu/linear_tiles.h"

namespace octavo::cpu {
namespace {

constexpr int kTileRows = 6;  // 12 accumulators
constexpr int kTileColumns = 16;

// `arranged` as in linear_tiles.h; `panel` [k][32], already at the tile's column; k a multiple of
// 4; `tile` [R], 32 floats apart.
template <int R>
void F32Products(const float* arranged, const float* panel, int64_t k, float* tile) {
  __m256 sums[R][2];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
  for (int64_t i = 0; i < k; i += 4) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m256 low = _mm256_load_ps(panel + j * kPanelColumns);
      const __m256 high = _mm256_load_ps(panel + j * kPanelColumns + 8);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m256 x = _mm256_broadcast_ss(arranged + r * 4 + j);
        sums[r][0] = _mm256_fmadd_ps(x, low, sums[r][0]);
        sums[r][1] = _mm256_fmadd_ps(x, high, sums[r][1]);
      }
    }
    arranged += R * 4;
    panel += 4 * kPanelColumns;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    _mm256_store_ps(tile + r * kPanelColumns, sums[r][0]);
    _mm256_store_ps(tile + r * kPanelColumns + 8, sums[r][1]);
  }
}

// What the rows that multiply in f32 have in common, whatever their weights were widened from.
struct F32Tile {
  using V = Avx2Vector;
  using Activation = float;
  static constexpr int kRows = kTileRows;
  static constexpr int64_t kColumns = kTileColumns;

  template <int R>
  static void Products(const LinearBlock& block, const float* arranged, int64_t, const float* panel,
                       int64_t column, float* tile) {
    F32Products<R>(arranged, panel + column, RoundUp(block.shape.k, 4), tile);
  }
};

}  // namespace
}  // namespace octavo::cpu
