// a8w8_fp8 on values widened to f32, in plain C++: for tests and evaluation.
#include "kernels/cpu/e4m3.h"
#include "kernels/cpu/linear_f32_tile_portable.h"
#include "quant/e4m3.h"

namespace octavo::cpu {
namespace {

struct Fp8Kernel : F32Tile {
  static void Arrange(const LinearBlock& block, int64_t row, int64_t rows, float* to) {
    constexpr int64_t kStep = 4;
    const int64_t k = block.shape.k;
    float* decoded = static_cast<float*>(ThreadScratch(ScratchUse::kSums, k * sizeof(float)));
    for (int64_t r = 0; r < rows; ++r) {
      DecodeE4m3Row(RowOf<uint8_t>(block, row + r), k, block.input.scales + row + r,
                    block.input.scale_stride, decoded);
      float* at = to + r * kStep;
      for (int64_t i = 0; i < RoundUp(k, kStep); ++i) {
        at[i / kStep * rows * kStep + i % kStep] = i < k ? decoded[i] : 0.0f;
      }
    }
  }
  static const float* Panel(const LinearBlock& block, int64_t panel) {
    const int64_t values = RoundUp(block.shape.k, 4) * kPanelColumns;
    float* widened = static_cast<float*>(ThreadScratch(ScratchUse::kPanel, values * sizeof(float)));
    const uint8_t* from = PanelOf(block, panel);
    const float* scales = reinterpret_cast<const float*>(from + values);
    for (int64_t i = 0; i < values; ++i) {
      widened[i] = E4m3ToFloat(from[i]) * scales[i % kPanelColumns];
    }
    return widened;
  }
};

}  // namespace

const BlockKernel kLinearA8W8Fp8Portable = {ComputeBlock<Fp8Kernel>, EncodeBlock<PortableVector>,
                                            kTileRows, kPanelColumns};

}  // namespace octavo::cpu
