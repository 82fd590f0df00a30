// a16w4_int4 by vdpbf16ps, 4-bit weights decoded in registers for any number of rows.
//
// A code minus 8 is exact in bf16, so the products of a group are summed with integers,
//   sum (q - zero) * scale * x = scale * (sum (q - 8) * x + (8 - zero) * sum x),
// and scale and zero point enter once a group in f32: nearer to the decoded truth than weights
// rounded to bf16, and two operations for 32 weights to decode. The sums of x are made once a call.
#include <immintrin.h>

#include "kernels/cpu/epilogue_avx512.h"
#include "kernels/cpu/linear_tiles.h"

namespace octavo::cpu {
namespace {

__m512 LoadF16(const uint8_t* from) {
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(from)));
}

// bf16 of -8 ... 7, twice: the lookup sees the low 5 bits of a code's 16-bit lane.
__m512i CodeTable() {
  alignas(64) static constexpr uint16_t kTable[32] = {
      0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,  //
      0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,  //
      0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,  //
      0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};
  return _mm512_load_si512(kTable);
}

// Sum of `k` bf16 values, in an order that depends on k alone.
float SumOf(const uint16_t* values, int64_t k) {
  const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
  __m512 sums = _mm512_setzero_ps();
  for (int64_t i = 0; i < k; i += 32) {
    const int64_t rest = k - i;
    const __mmask32 lanes = rest >= 32 ? ~0u : (1u << rest) - 1;
    const __m512i x = _mm512_maskz_loadu_epi16(lanes, values + i);
    sums = _mm512_dpbf16_ps(sums, (__m512bh)x, ones);
  }
  return _mm512_reduce_add_ps(sums);
}

struct Int4Kernel {
  using V = Avx512Vector;
  using Activation = uint16_t;
  static constexpr int kRows = 12;
  static constexpr int64_t kColumns = kPanelColumns;

  static int64_t Groups(const LinearBlock& block) {
    return (block.shape.k + WeightOf(block).group - 1) / WeightOf(block).group;
  }
  // [rows of the block][groups]
  static float* Sums(const LinearBlock& block) {
    return static_cast<float*>(
        ThreadScratch(ScratchUse::kSums, block.rows * Groups(block) * sizeof(float)));
  }
  static void Arrange(const LinearBlock& block, int64_t row, int64_t rows, uint16_t* to) {
    ArrangeRows<uint16_t>(block, row, rows, to);
    const PanelWeight& weight = WeightOf(block);
    if (!weight.zero_points) return;
    const int64_t k = block.shape.k;
    float* sums = Sums(block) + row * Groups(block);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < k; i += weight.group) {
        *sums++ =
            SumOf(RowOf<uint16_t>(block, row + r) + i, k - i < weight.group ? k - i : weight.group);
      }
    }
  }
  static const uint8_t* Panel(const LinearBlock& block, int64_t panel) {
    return PanelOf(block, panel);
  }

  template <int R>
  static void Products(const LinearBlock& block, const uint16_t* arranged, int64_t row,
                       const uint8_t* panel, int64_t, float* tile) {
    const PanelWeight& weight = WeightOf(block);
    const int64_t groups = Groups(block);
    const float* x_sums = weight.zero_points ? Sums(block) + row * groups : nullptr;
    const __m512i table = CodeTable();
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t rest = block.shape.k - g * weight.group;
      const int64_t blocks = ((rest < weight.group ? rest : weight.group) + 7) / 8;
      const uint8_t* scales = panel + blocks * 128;
      __m512 sums[R][2];
      if (weight.zero_points) {
        const __m512 eight = _mm512_set1_ps(8.0f);
        const __m512 low = _mm512_sub_ps(eight, LoadF16(scales + kInt4ScaleBytes));
        const __m512 high = _mm512_sub_ps(eight, LoadF16(scales + kInt4ScaleBytes + 32));
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const __m512 x_sum = _mm512_set1_ps(x_sums[r * groups + g]);
          sums[r][0] = _mm512_mul_ps(x_sum, low);
          sums[r][1] = _mm512_mul_ps(x_sum, high);
        }
      } else {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
      }
      for (int64_t b = 0; b < blocks; ++b) {
        const __m512i low_codes = _mm512_load_si512(panel);
        const __m512i high_codes = _mm512_load_si512(panel + 64);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const __m512bh low =
              (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi32(low_codes, 4 * j), table);
          const __m512bh high =
              (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi32(high_codes, 4 * j), table);
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
        panel += 128;
      }
      const __m512 low_scale = LoadF16(scales);
      const __m512 high_scale = LoadF16(scales + 32);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        float* to = tile + r * kPanelColumns;
        const __m512 low = g == 0 ? _mm512_setzero_ps() : _mm512_load_ps(to);
        const __m512 high = g == 0 ? _mm512_setzero_ps() : _mm512_load_ps(to + 16);
        _mm512_store_ps(to, _mm512_fmadd_ps(sums[r][0], low_scale, low));
        _mm512_store_ps(to + 16, _mm512_fmadd_ps(sums[r][1], high_scale, high));
      }
      panel = scales + kInt4ScaleBytes * (weight.zero_points ? 2 : 1);
    }
  }
};

}  // namespace

const BlockKernel kLinearA16W4Int4Avx512Bf16 = {ComputeBlock<Int4Kernel>, EncodeBlock<Avx512Vector>,
                                                Int4Kernel::kRows, kPanelColumns};

}  // namespace octavo::cpu
