// a8w8_int8 in plain C++: the row for processors with nothing better, and the order of operations
// that the others are held to.
#include "kernels/cpu/epilogue_portable.h"
#include "kernels/cpu/linear_a8w8_int8.h"

namespace octavo::cpu {
namespace {

constexpr int64_t kTileColumns = 16;

void Compute(const LinearBlock& block) {
  const A8W8Weight& weight = *static_cast<const A8W8Weight*>(block.weight);
  const int64_t padded_k = A8W8PaddedK(block.shape.k);
  float product[kTileColumns];
  for (int64_t column = block.column_begin; column < block.column_end; column += kTileColumns) {
    const int64_t first = column / kA8W8Panel * kA8W8Panel;
    const int64_t width = A8W8PanelWidth(first, block.shape.n);
    const uint8_t* strip = weight.panels + first * padded_k + (column - first) * 4;
    const int64_t rest = block.column_end - column;
    for (int64_t row = 0; row < block.rows; ++row) {
      const int8_t* input =
          static_cast<const int8_t*>(block.input.values) + row * block.input.stride;
      int32_t sums[kTileColumns];
      for (int32_t& sum : sums) sum = -128 * block.input.sums[row];
      for (int64_t k = 0; k < block.shape.k; ++k) {
        const int32_t q = input[k];
        const uint8_t* channels = strip + k / 4 * 4 * width + k % 4;
        for (int64_t c = 0; c < kTileColumns; ++c) sums[c] += q * channels[4 * c];
      }
      for (int64_t c = 0; c < kTileColumns; ++c) {
        const float scale = block.input.scales[row] * weight.scales[column + c];
        product[c] = static_cast<float>(sums[c]) * scale;
      }
      FinishTile<PortableVector>(block, product, kTileColumns, row, 1, column,
                                 rest < kTileColumns ? rest : kTileColumns);
    }
  }
}

}  // namespace

const BlockKernel kA8W8Portable = {Compute, EncodeBlock<PortableVector>, 1, kA8W8Panel};

}  // namespace octavo::cpu
