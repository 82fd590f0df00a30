// a8w8_int8 by vpmaddwd on widened bytes: vpmaddubsw adds pairs in 16 bits and saturates.
#include <immintrin.h>

#include "kernels/cpu/epilogue_avx2.h"
#include "kernels/cpu/linear_a8w8_int8.h"
#include "kernels/cpu/scratch.h"

namespace octavo::cpu {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileColumns = 8;  // two registers of 4 channels x 4 k, widened to 16 bits

// Widens a block's activations once, for all its panels: [rows][padded_k], zeros beyond K.
const int16_t* Widen(const LinearBlock& block, int64_t padded_k) {
  int16_t* widened = static_cast<int16_t*>(
      ThreadScratch(ScratchUse::kActivations, block.rows * padded_k * sizeof(int16_t)));
  const int64_t k = block.shape.k;
  for (int64_t r = 0; r < block.rows; ++r) {
    const int8_t* from = static_cast<const int8_t*>(block.input.values) + r * block.input.stride;
    int16_t* to = widened + r * padded_k;
    int64_t i = 0;
    for (; i + 16 <= k; i += 16) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), _mm256_cvtepi8_epi16(bytes));
    }
    for (; i < padded_k; ++i) to[i] = i < k ? from[i] : 0;
  }
  return widened;
}

// Products of R rows with the 8 channels at `strip`, whose quads are `width` channels apart.
template <int R>
void Products(const int16_t* input, int64_t padded_k, const float* row_scales,
              const int32_t* row_sums, const uint8_t* strip, int64_t width,
              const float* column_scales, float* product) {
  __m256i sums[R][2];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
  for (int64_t k = 0; k < padded_k; k += 4) {
    const __m128i* quads = reinterpret_cast<const __m128i*>(strip + k * width);
    const __m256i low = _mm256_cvtepu8_epi16(_mm_load_si128(quads));
    const __m256i high = _mm256_cvtepu8_epi16(_mm_load_si128(quads + 1));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      int64_t quad;
      __builtin_memcpy(&quad, input + r * padded_k + k, sizeof(quad));
      const __m256i x = _mm256_set1_epi64x(quad);
      sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(low, x));
      sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(high, x));
    }
  }
  const __m256 channel_scales = _mm256_loadu_ps(column_scales);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    // Two sums a channel, added in pairs: channels 0 1 4 5 2 3 6 7, then in order.
    const __m256i pairs = _mm256_hadd_epi32(sums[r][0], sums[r][1]);
    const __m256i sum = _mm256_sub_epi32(_mm256_permute4x64_epi64(pairs, 0xd8),
                                         _mm256_set1_epi32(128 * row_sums[r]));
    const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(row_scales[r]), channel_scales);
    _mm256_store_ps(product + r * kTileColumns, _mm256_mul_ps(_mm256_cvtepi32_ps(sum), scale));
  }
}

using ProductsFunction = void (*)(const int16_t*, int64_t, const float*, const int32_t*,
                                  const uint8_t*, int64_t, const float*, float*);
constexpr ProductsFunction kProducts[kTileRows] = {Products<1>, Products<2>, Products<3>,
                                                   Products<4>, Products<5>, Products<6>};

void Compute(const LinearBlock& block) {
  const A8W8Weight& weight = *static_cast<const A8W8Weight*>(block.weight);
  const int64_t padded_k = A8W8PaddedK(block.shape.k);
  const int16_t* input = Widen(block, padded_k);
  alignas(32) float product[kTileRows * kTileColumns];
  for (int64_t column = block.column_begin; column < block.column_end; column += kTileColumns) {
    const int64_t first = column / kA8W8Panel * kA8W8Panel;
    const uint8_t* strip = weight.panels + first * padded_k + (column - first) * 4;
    const int64_t rest = block.column_end - column;
    int64_t rows = 0;
    for (int64_t row = 0; row < block.rows; row += rows) {
      rows = NextTileRows(block.rows - row, kTileRows);
      kProducts[rows - 1](input + row * padded_k, padded_k, block.input.scales + row,
                          block.input.sums + row, strip, A8W8PanelWidth(first, block.shape.n),
                          weight.scales + column, product);
      FinishTile<Avx2Vector>(block, product, kTileColumns, row, rows, column,
                             rest < kTileColumns ? rest : kTileColumns);
    }
  }
}

}  // namespace

const BlockKernel kA8W8Avx2 = {Compute, EncodeBlock<Avx2Vector>, kTileRows, kA8W8Panel};

}  // namespace octavo::cpu
