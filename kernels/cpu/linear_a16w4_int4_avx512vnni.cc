// a16w4_int4 by vpdpwssd: 16-bit integer activations times 4-bit codes, summed exactly.
//
// Each group of K of a row of activations is brought to int16 under a power of two, the block
// floating point of its largest magnitude, 2^e <= max|x| < 2^(e + 1):
//   x = xi * 2^(e - 14), |xi| <= 32640.
// A bf16 value has 8 significant bits, so every x of at least 2^(e - 7) is represented exactly; a
// smaller one is rounded to a multiple of 2^(e - 14). A group's products are then integers,
//   sum (q - zero) * scale * x = scale * 2^(e - 14) * (sum (q - 8) * xi + (8 - zero) * sum xi),
// and scale and zero point enter once a group in f32, as in linear_a16w4_int4_avx512bf16.cc. Two
// operations decode 32 weights, and vpdpwssd has twice the rate of f32 multiply-adds.
#include <immintrin.h>

#include "kernels/cpu/epilogue_avx512.h"
#include "kernels/cpu/linear_tiles.h"

namespace octavo::cpu {
namespace {

// Up to so many rows the f32 sums stay in registers from group to group.
constexpr int kRegisterRows = 6;
// How far ahead of its use a panel is fetched; panels follow one another in memory.
constexpr int64_t kPrefetchBytes = 2048;

__m512 LoadF16(const uint8_t* from) {
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(from)));
}

// What a group of a row has beside its integers.
enum GroupValue {
  kStart,  // int32: -8 * sum xi, where the sum of q * xi starts
  kSum,    // f32: sum xi
  kScale,  // f32: 2^(e - 14); NaN where an activation is not finite
  kGroupValues
};

// The largest of 32 values of 15 bits.
uint32_t LargestOf(__m512i values) {
  const __m256i half =
      _mm256_max_epu16(_mm512_castsi512_si256(values), _mm512_extracti64x4_epi64(values, 1));
  const __m128i quarter =
      _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  const __m128i smallest = _mm_minpos_epu16(_mm_xor_si128(quarter, _mm_set1_epi16(-1)));
  return static_cast<uint16_t>(~_mm_extract_epi16(smallest, 0));
}

__mmask32 FirstOf32(int64_t count) { return count >= 32 ? ~0u : (1u << count) - 1; }

float FromBits(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}

// Brings `k` values from `from` to int16, 16 bytes every `step` values of `to`, K filled up to 8
// with zeros; `values` are kGroupValues words, `values_step` apart.
void ArrangeGroup(const uint16_t* from, int64_t k, int16_t* to, int64_t step, int32_t* values,
                  int64_t values_step) {
  __m512i largest = _mm512_setzero_si512();
  for (int64_t i = 0; i < k; i += 32) {
    const __m512i x = _mm512_maskz_loadu_epi16(FirstOf32(k - i), from + i);
    largest = _mm512_max_epu16(largest, _mm512_and_si512(x, _mm512_set1_epi16(0x7fff)));
  }
  // e + 127. Values under 2^-112 count as zero: their scale would not be a normal number.
  const uint32_t exponent = LargestOf(largest) >> 7;
  const bool zeros = exponent < 15 || exponent == 255;
  const __m512 up = _mm512_set1_ps(zeros ? 0.0f : FromBits((127 + 14 + 127 - exponent) << 23));
  __m512i sums = _mm512_setzero_si512();
  for (int64_t i = 0; i < k; i += 32) {
    const __mmask32 lanes = zeros ? 0 : FirstOf32(k - i);
    const __m512i x = _mm512_maskz_loadu_epi16(lanes, from + i);
    __m256i integers[2];
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m256i bits = half == 0 ? _mm512_castsi512_si256(x) : _mm512_extracti64x4_epi64(x, 1);
      const __m512 wide = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
      integers[half] = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(wide, up)));
    }
    const __m512i whole = _mm512_inserti64x4(_mm512_castsi256_si512(integers[0]), integers[1], 1);
    sums = _mm512_dpwssd_epi32(sums, whole, _mm512_set1_epi16(1));
    const __m128i quarters[4] = {
        _mm256_castsi256_si128(integers[0]), _mm256_extracti128_si256(integers[0], 1),
        _mm256_castsi256_si128(integers[1]), _mm256_extracti128_si256(integers[1], 1)};
    for (int64_t j = 0; j < 4 && i + 8 * j < k; ++j, to += step) {
      _mm_store_si128(reinterpret_cast<__m128i*>(to), quarters[j]);
    }
  }
  const int32_t sum = _mm512_reduce_add_epi32(sums);
  const float scale = exponent == 255 ? __builtin_nanf("")
                      : zeros         ? 0.0f
                                      : FromBits((exponent - 14) << 23);
  const float wide_sum = static_cast<float>(sum);
  values[kStart * values_step] = -8 * sum;
  __builtin_memcpy(values + kSum * values_step, &wide_sum, sizeof(wide_sum));
  __builtin_memcpy(values + kScale * values_step, &scale, sizeof(scale));
}

struct Int4Kernel {
  using V = Avx512Vector;
  using Activation = int16_t;
  static constexpr int kRows = 12;
  static constexpr int64_t kColumns = kPanelColumns;

  static int64_t Groups(const LinearBlock& block) {
    return (block.shape.k + WeightOf(block).group - 1) / WeightOf(block).group;
  }
  // Of a tile of R rows: [groups][kGroupValues][R].
  static int32_t* Values(const LinearBlock& block, int64_t row) {
    const int64_t groups = Groups(block);
    int32_t* values = static_cast<int32_t*>(
        ThreadScratch(ScratchUse::kSums, block.rows * groups * kGroupValues * sizeof(int32_t)));
    return values + row * groups * kGroupValues;
  }
  static void Arrange(const LinearBlock& block, int64_t row, int64_t rows, int16_t* to) {
    const int64_t k = block.shape.k;
    const int64_t group = WeightOf(block).group;
    for (int64_t r = 0; r < rows; ++r) {
      const uint16_t* from = RowOf<uint16_t>(block, row + r);
      int32_t* values = Values(block, row) + r;
      for (int64_t i = 0; i < k; i += group, values += kGroupValues * rows) {
        const int64_t count = k - i < group ? k - i : group;
        ArrangeGroup(from + i, count, to + i * rows + r * 8, rows * 8, values, rows);
      }
    }
  }
  static const uint8_t* Panel(const LinearBlock& block, int64_t panel) {
    return PanelOf(block, panel);
  }

  template <int R>
  static void Products(const LinearBlock& block, const int16_t* arranged, int64_t row,
                       const uint8_t* panel, int64_t, float* tile) {
    const PanelWeight& weight = WeightOf(block);
    const int64_t groups = Groups(block);
    const int32_t* values = Values(block, row);
    constexpr bool kInRegisters = R <= kRegisterRows;
    __m512 totals[R][2];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      totals[r][0] = totals[r][1] = _mm512_setzero_ps();
      if constexpr (!kInRegisters) {
        _mm512_store_ps(tile + r * kPanelColumns, totals[r][0]);
        _mm512_store_ps(tile + r * kPanelColumns + 16, totals[r][1]);
      }
    }
    const __m512i nibbles = _mm512_set1_epi16(15);
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t rest = block.shape.k - g * weight.group;
      const int64_t blocks = ((rest < weight.group ? rest : weight.group) + 7) / 8;
      __m512i sums[R][2];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        sums[r][0] = sums[r][1] = _mm512_set1_epi32(values[kStart * R + r]);
      }
      for (int64_t b = 0; b < blocks; ++b) {
        const __m512i low_codes = _mm512_load_si512(panel);
        const __m512i high_codes = _mm512_load_si512(panel + 64);
        _mm_prefetch(panel + kPrefetchBytes, _MM_HINT_T0);
        _mm_prefetch(panel + kPrefetchBytes + 64, _MM_HINT_T0);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const __m512i low = _mm512_and_si512(_mm512_srli_epi32(low_codes, 4 * j), nibbles);
          const __m512i high = _mm512_and_si512(_mm512_srli_epi32(high_codes, 4 * j), nibbles);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) {
            int pair;
            __builtin_memcpy(&pair, arranged + r * 8 + j * 2, sizeof(pair));
            const __m512i x = _mm512_set1_epi32(pair);
            sums[r][0] = _mm512_dpwssd_epi32(sums[r][0], x, low);
            sums[r][1] = _mm512_dpwssd_epi32(sums[r][1], x, high);
          }
        }
        arranged += R * 8;
        panel += 128;
      }
      const __m512 low_scale = LoadF16(panel);
      const __m512 high_scale = LoadF16(panel + 32);
      panel += kInt4ScaleBytes;
      __m512 low_zero = _mm512_setzero_ps();
      __m512 high_zero = low_zero;
      if (weight.zero_points) {
        const __m512 eight = _mm512_set1_ps(8.0f);
        low_zero = _mm512_sub_ps(eight, LoadF16(panel));
        high_zero = _mm512_sub_ps(eight, LoadF16(panel + 32));
        panel += kInt4ScaleBytes;
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        float* to = tile + r * kPanelColumns;
        float x_sum, x_scale;
        __builtin_memcpy(&x_sum, values + kSum * R + r, sizeof(x_sum));
        __builtin_memcpy(&x_scale, values + kScale * R + r, sizeof(x_scale));
        __m512 low = _mm512_cvtepi32_ps(sums[r][0]);
        __m512 high = _mm512_cvtepi32_ps(sums[r][1]);
        low = _mm512_fmadd_ps(_mm512_set1_ps(x_sum), low_zero, low);
        high = _mm512_fmadd_ps(_mm512_set1_ps(x_sum), high_zero, high);
        if constexpr (!kInRegisters) {
          totals[r][0] = _mm512_load_ps(to);
          totals[r][1] = _mm512_load_ps(to + 16);
        }
        const __m512 scale = _mm512_set1_ps(x_scale);
        totals[r][0] = _mm512_fmadd_ps(low, _mm512_mul_ps(scale, low_scale), totals[r][0]);
        totals[r][1] = _mm512_fmadd_ps(high, _mm512_mul_ps(scale, high_scale), totals[r][1]);
        if constexpr (!kInRegisters) {
          _mm512_store_ps(to, totals[r][0]);
          _mm512_store_ps(to + 16, totals[r][1]);
        }
      }
      values += kGroupValues * R;
    }
    if constexpr (kInRegisters) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        _mm512_store_ps(tile + r * kPanelColumns, totals[r][0]);
        _mm512_store_ps(tile + r * kPanelColumns + 16, totals[r][1]);
      }
    }
  }
};

}  // namespace

const BlockKernel kLinearA16W4Int4Avx512Vnni = {ComputeBlock<Int4Kernel>, EncodeBlock<Avx512Vector>,
                                                Int4Kernel::kRows, kPanelColumns};

}  // namespace octavo::cpu
