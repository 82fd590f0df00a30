// bf16 weights and activations widened to f32, in plain C++.
#include "kernels/cpu/linear_f32_tile_portable.h"

namespace octavo::cpu {
namespace {

struct Bf16Kernel : F32Tile {
  static void Arrange(const LinearBlock& block, int64_t row, int64_t rows, float* to) {
    ArrangeWidened(block, row, rows, to);
  }
  static const float* Panel(const LinearBlock& block, int64_t panel) {
    const int64_t k = RoundUp(block.shape.k, 8);
    float* widened =
        static_cast<float*>(ThreadScratch(ScratchUse::kPanel, k * kPanelColumns * sizeof(float)));
    const uint16_t* from = reinterpret_cast<const uint16_t*>(PanelOf(block, panel));
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t c = 0; c < kPanelColumns; ++c) {
        const uint32_t bits = static_cast<uint32_t>(from[(i / 2 * kPanelColumns + c) * 2 + i % 2])
                              << 16;
        __builtin_memcpy(widened + i * kPanelColumns + c, &bits, sizeof(bits));
      }
    }
    return widened;
  }
};

}  // namespace

const BlockKernel kLinearBf16Portable = {ComputeBlock<Bf16Kernel>, EncodeBlock<PortableVector>,
                                         kTileRows, kPanelColumns};

}  // namespace octavo::cpu
