// bf16 by vdpbf16ps: tiles of 12 rows x 32 channels, 24 accumulators.
#include <immintrin.h>

#include "kernels/cpu/epilogue_avx512.h"
#include "kernels/cpu/linear_tiles.h"

namespace octavo::cpu {
namespace {

struct Bf16Kernel {
  using V = Avx512Vector;
  using Activation = uint16_t;
  static constexpr int kRows = 12;
  static constexpr int64_t kColumns = kPanelColumns;

  static void Arrange(const LinearBlock& block, int64_t row, int64_t rows, uint16_t* to) {
    ArrangeRows<uint16_t>(block, row, rows, to);
  }
  static const uint8_t* Panel(const LinearBlock& block, int64_t panel) {
    return PanelOf(block, panel);
  }
  template <int R>
  static void Products(const LinearBlock& block, const uint16_t* arranged, int64_t,
                       const uint8_t* panel, int64_t, float* tile) {
    __m512 sums[R][2];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < block.shape.k; k += 8) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const __m512bh low = (__m512bh)_mm512_load_si512(panel + j * 128);
        const __m512bh high = (__m512bh)_mm512_load_si512(panel + j * 128 + 64);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          int pair;
          __builtin_memcpy(&pair, arranged + r * 8 + j * 2, sizeof(pair));
          const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
          sums[r][0] = _mm512_dpbf16_ps(sums[r][0], x, low);
          sums[r][1] = _mm512_dpbf16_ps(sums[r][1], x, high);
        }
      }
      arranged += R * 8;
      panel += 512;
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      _mm512_store_ps(tile + r * kPanelColumns, sums[r][0]);
      _mm512_store_ps(tile + r * kPanelColumns + 16, sums[r][1]);
    }
  }
};

}  // namespace

const BlockKernel kLinearBf16Avx512Bf16 = {ComputeBlock<Bf16Kernel>, EncodeBlock<Avx512Vector>,
                                           Bf16Kernel::kRows, kPanelColumns};

}  // namespace octavo::cpu
