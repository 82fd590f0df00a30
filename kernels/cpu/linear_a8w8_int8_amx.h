// a8w8_int8 by tdpbsud: signed activations with the unsigned (q + 128) weights that all rows share.
// The surplus 128 * sum(q of the row) is taken off the finished sum, in int32 as by the other rows,
// so the bits are theirs.
#pragma once

#include "kernels/cpu/linear_a8w8_int8.h"
#include "kernels/cpu/linear_amx.h"

namespace octavo::cpu {
namespace {

template <class TileInstructions>
struct Int8Tiles {
  using Tiles = TileInstructions;
  static constexpr int64_t kElementBytes = 1;

  static WeightTiles Weights(const LinearBlock& block, int64_t column, int64_t) {
    const int64_t first = column / kA8W8Panel * kA8W8Panel;
    const uint8_t* panel =
        static_cast<const A8W8Weight*>(block.weight)->panels + first * A8W8PaddedK(block.shape.k);
    return {.words = panel + (column - first) * 4,
            .stride = 4 * A8W8PanelWidth(first, block.shape.n),
            .pair_step = kPairColumns * 4};
  }

  template <int kSum, int kA, int kB>
  static void Dot() {
    Tiles::template DotInt8<kSum, kA, kB>();
  }

  static void Scale(const LinearBlock& block, float* product, int64_t stride, int64_t row,
                    int64_t rows, int64_t column, int64_t columns) {
    const float* scales = static_cast<const A8W8Weight*>(block.weight)->scales + column;
    for (int64_t r = 0; r < rows; ++r) {
      const __m512i surplus = _mm512_set1_epi32(128 * block.input.sums[row + r]);
      const __m512 row_scale = _mm512_set1_ps(block.input.scales[row + r]);
      for (int64_t c = 0; c < columns; c += kTileRows) {
        float* at = product + r * stride + c;
        const __m512i sum = _mm512_sub_epi32(_mm512_load_si512(at), surplus);
        const __m512 scale = _mm512_mul_ps(row_scale, _mm512_loadu_ps(scales + c));
        _mm512_store_ps(at, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale));
      }
    }
  }
};

}  // namespace
}  // namespace octavo::cpu
