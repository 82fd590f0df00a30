// a16w4_int4 on AVX2: a panel is decoded to f32, (q - zero) * scale, and multiplied in f32.
#include <immintrin.h>

#include "kernels/cpu/linear_f32_tile_avx2.h"

namespace octavo::cpu {
namespace {

__m256 LoadF16(const uint8_t* from) {
  return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(from)));
}

template <int kShift>
__m256 Decode(__m256i codes, __m256 scale, __m256 zero) {
  const __m256i q = _mm256_and_si256(_mm256_srli_epi32(codes, kShift), _mm256_set1_epi32(15));
  return _mm256_mul_ps(_mm256_sub_ps(_mm256_cvtepi32_ps(q), zero), scale);
}

// Decodes `k` values (rounded up to 8) of 32 channels of one group to [k][32].
void DecodeGroup(const uint8_t* codes, int64_t k, bool zero_points, float* to) {
  const uint8_t* scales = codes + Int4CodeBytes(k);
  for (int64_t c = 0; c < kPanelColumns; c += 8) {
    const __m256 scale = LoadF16(scales + 2 * c);
    const __m256 zero =
        zero_points ? LoadF16(scales + kInt4ScaleBytes + 2 * c) : _mm256_set1_ps(8.0f);
    for (int64_t i = 0; i < k; i += 8) {
      const __m256i words = _mm256_load_si256(
          reinterpret_cast<const __m256i*>(codes + (i / 8 * kPanelColumns + c) * 4));
      float* at = to + i * kPanelColumns + c;
      _mm256_store_ps(at, Decode<0>(words, scale, zero));
      _mm256_store_ps(at + 1 * kPanelColumns, Decode<16>(words, scale, zero));
      _mm256_store_ps(at + 2 * kPanelColumns, Decode<4>(words, scale, zero));
      _mm256_store_ps(at + 3 * kPanelColumns, Decode<20>(words, scale, zero));
      _mm256_store_ps(at + 4 * kPanelColumns, Decode<8>(words, scale, zero));
      _mm256_store_ps(at + 5 * kPanelColumns, Decode<24>(words, scale, zero));
      _mm256_store_ps(at + 6 * kPanelColumns, Decode<12>(words, scale, zero));
      _mm256_store_ps(at + 7 * kPanelColumns, Decode<28>(words, scale, zero));
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

const BlockKernel kLinearA16W4Int4Avx2 = {ComputeBlock<Int4Kernel>, EncodeBlock<Avx2Vector>,
                                          kTileRows, kPanelColumns};

}  // namespace octavo::cpu
