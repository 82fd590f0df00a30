// bf16 weights and activations widened to f32, on AVX2 with FMA.
#include <immintrin.h>

#include "kernels/cpu/linear_f32_tile_avx2.h"

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
    const uint8_t* from = PanelOf(block, panel);
    const __m256i odd = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    for (int64_t i = 0; i < k; i += 2) {
#pragma GCC unroll 4
      for (int64_t c = 0; c < kPanelColumns; c += 8, from += 32) {
        const __m256i pairs = _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
        float* to = widened + i * kPanelColumns + c;
        _mm256_store_ps(to, _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)));
        _mm256_store_ps(to + kPanelColumns, _mm256_castsi256_ps(_mm256_and_si256(pairs, odd)));
      }
    }
    return widened;
  }
};

}  // namespace

const BlockKernel kLinearBf16Avx2 = {ComputeBlock<Bf16Kernel>, EncodeBlock<Avx2Vector>, kTileRows,
                                     kPanelColumns};

}  // namespace octavo::cpu
