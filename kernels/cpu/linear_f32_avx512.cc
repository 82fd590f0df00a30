// f32 on AVX-512.
#include "kernels/cpu/linear_f32_tile_avx512.h"

namespace octavo::cpu {
namespace {

struct F32Kernel : F32Tile {
  static void Arrange(const LinearBlock& block, int64_t row, int64_t rows, float* to) {
    ArrangeRows<float>(block, row, rows, to);
  }
  static const float* Panel(const LinearBlock& block, int64_t panel) {
    return reinterpret_cast<const float*>(PanelOf(block, panel));
  }
};

}  // namespace

const BlockKernel kLinearF32Avx512 = {ComputeBlock<F32Kernel>, EncodeBlock<Avx512Vector>, kTileRows,
                                      kPanelColumns};

}  // namespace octavo::cpu
