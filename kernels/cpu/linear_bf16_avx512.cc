// bf16 weights and activations widened to f32, on AVX-512.
#include <immintrin.h>

#include "kernels/cpu/epilogue_avx512.h"
#include "kernels/cpu/linear_f32_tile_avx512.h"
#include "kernels/cpu/linear_tiles.h"

namespace octavo::cpu {
namespace {

struct Bf16Kernel {
  using V = Avx512Vector;
  using Activation = float;
  static constexpr int kRows = kTileRows;
  static constexpr int64_t kColumns = kPanelColumns;

  static void Arrange(const LinearBlock& block, int64_t row, int64_t rows, float* to) {
    ArrangeWidened(block, row, rows, to);
  }
  static const float* Panel(const LinearBlock& block, int64_t panel) {
    const int64_t k = RoundUp(block.shape.k, 8);
    float* widened =
        static_cast<float*>(ThreadScratch(ScratchUse::kPanel, k * kPanelColumns * sizeof(float)));
    const uint8_t* from = PanelOf(block, panel);
    const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    for (int64_t i = 0; i < k; i += 2) {
#pragma GCC unroll 2
      for (int64_t c = 0; c < kPanelColumns; c += 16, from += 64) {
        const __m512i pairs = _mm512_load_si512(from);
        float* to = widened + i * kPanelColumns + c;
        _mm512_store_ps(to, _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)));
        _mm512_store_ps(to + kPanelColumns, _mm512_castsi512_ps(_mm512_and_si512(pairs, odd)));
      }
    }
    return widened;
  }
  template <int R>
  static void Products(const LinearBlock& block, const float* arranged, int64_t, const float* panel,
                       int64_t, float* tile) {
    F32Products<R>(arranged, panel, RoundUp(block.shape.k, 4), tile);
  }
};

}  // namespace

const BlockKernel kLinearBf16Avx512 = {ComputeBlock<Bf16Kernel>, EncodeBlock<Avx512Vector>,
                                       kTileRows, kPanelColumns};

}  // namespace octavo::cpu
