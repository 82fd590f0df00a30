// a16w4_int4 in plain C++: a panel is decoded to f32, (q - zero) * scale, and multiplied in f32.
#include "kernels/cpu/linear_f32_tile_portable.h"

namespace octavo::cpu {
namespace {

float F16(const uint8_t* from) {
  uint16_t half;
  __builtin_memcpy(&half, from, sizeof(half));
  const uint32_t magnitude = half & 0x7fffu;
  float value = static_cast<float>(magnitude) * 0x1p-24f;  // subnormal
  if (magnitude >= 0x0400u) {
    const uint32_t bits = (magnitude << 13) + 0x38000000u;
    __builtin_memcpy(&value, &bits, sizeof(value));
  }
  return (half & 0x8000u) != 0 ? -value : value;
}

// Decodes `k` values (rounded up to 8) of 32 channels of one group to [k][32].
void DecodeGroup(const uint8_t* codes, int64_t k, bool zero_points, float* to) {
  constexpr int kShift[8] = {0, 16, 4, 20, 8, 24, 12, 28};  // of k % 8, see kPackingInt4
  const uint8_t* scales = codes + Int4CodeBytes(k);
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    const float scale = F16(scales + 2 * c);
    const float zero = zero_points ? F16(scales + kInt4ScaleBytes + 2 * c) : 8.0f;
    for (int64_t i = 0; i < k; i += 8) {
      uint32_t word;
      __builtin_memcpy(&word, codes + (i / 8 * kPanelColumns + c) * 4, sizeof(word));
      for (int64_t j = 0; j < 8; ++j) {
        const float q = static_cast<float>((word >> kShift[j]) & 15u);
        to[(i + j) * kPanelColumns + c] = (q - zero) * scale;
      }
    }
  }
}

struct Int4Kernel : F32Tile {
  static void Arrange(const LinearBlock& block, int64_t row, int64_t rows, float* to) {
    ArrangeWidened(block, row, rows, to);
  }
  static const float* Panel(const LinearBlock& block, int64_t panel) {
    const PanelWeight& weight = WeightOf(block);
    const int64_t k = block.shape.k;
    float* decoded = static_cast<float*>(
        ThreadScratch(ScratchUse::kPanel, RoundUp(k, 8) * kPanelColumns * sizeof(float)));
    const uint8_t* from = PanelOf(block, panel);
    for (int64_t i = 0; i < k; i += weight.group) {
      const int64_t count = k - i < weight.group ? k - i : weight.group;
      DecodeGroup(from, count, weight.zero_points, decoded + i * kPanelColumns);
      from += Int4CodeBytes(count) + kInt4ScaleBytes * (weight.zero_points ? 2 : 1);
    }
    return decoded;
  }
};

}  // namespace

const BlockKernel kLinearA16W4Int4Portable = {ComputeBlock<Int4Kernel>, EncodeBlock<PortableVector>,
                                              kTileRows, kPanelColumns};

}  // namespace octavo::cpu
