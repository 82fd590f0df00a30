// The f32 register tile in plain C++: R rows x 8 columns, products and sums rounded one by one.
#pragma once

#include <cstdint>

#include "kernels/cpu/epilogue_portable.h"
#include "kernels/cpu/linear_tiles.h"

namespace octavo::cpu {
namespace {

constexpr int kTileRows = 4;
constexpr int kTileColumns = 8;

// `arranged` as in linear_tiles.h; `panel` [k][32], already at the tile's column; k a multiple of
// 4; `tile` [R], 32 floats apart.
template <int R>
void F32Products(const float* arranged, const float* panel, int64_t k, float* tile) {
  float sums[R][kTileColumns] = {};
  for (int64_t i = 0; i < k; i += 4) {
    for (int j = 0; j < 4; ++j) {
      for (int r = 0; r < R; ++r) {
        const float x = arranged[r * 4 + j];
        for (int c = 0; c < kTileColumns; ++c) sums[r][c] += x * panel[j * kPanelColumns + c];
      }
    }
    arranged += R * 4;
    panel += 4 * kPanelColumns;
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < kTileColumns; ++c) tile[r * kPanelColumns + c] = sums[r][c];
  }
}

// What the rows that multiply in f32 have in common, whatever their weights were widened from.
struct F32Tile {
  using V = PortableVector;
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
