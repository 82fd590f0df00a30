// f32 in plain C++.
#include "kernels/cpu/epilogue_portable.h"
#include "kernels/cpu/linear_f32_tile_portable.h"
#include "kernels/cpu/linear_tiles.h"

namespace octavo::cpu {
namespace {

struct F32Kernel {
  using V = PortableVector;
  using Activation = float;
  static constexpr int kRows = kTileRows;
  static constexpr int64_t kColumns = kTileColumns;

  static void Arrange(const LinearBlock& block, int64_t row, int64_t rows, float* to) {
    ArrangeRows<float>(block, row, rows, to);
  }
  static const float* Panel(const LinearBlock& block, int64_t panel) {
    return reinterpret_cast<const float*>(PanelOf(block, panel));
  }
  template <int R>
  static void Products(const LinearBlock& block, const float* arranged, int64_t, const float* panel,
                       int64_t column, float* tile) {
    F32Products<R>(arranged, panel + column, RoundUp(block.shape.k, 4), tile);
  }
};

}  // namespace

const BlockKernel kLinearF32Portable = {ComputeBlock<F32Kernel>, EncodeBlock<PortableVector>,
                                        kTileRows, kPanelColumns};

}  // namespace octavo::cpu
