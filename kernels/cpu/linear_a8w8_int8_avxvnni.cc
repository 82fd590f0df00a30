// a8w8_int8 by vpdpbusd on 256-bit registers (VEX encoding): tiles of 6 rows x 16 channels.
#include <immintrin.h>

#include "kernels/cpu/epilogue_avx2.h"
#include "kernels/cpu/linear_a8w8_int8.h"

namespace octavo::cpu {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileColumns = 16;

// sums += four products a lane of unsigned weights with signed activations; in assembly for the
// reason given in linear_a8w8_int8_avx512vnni.cc.
inline void AddProducts(__m256i& sums, __m256i weights, __m256i quad) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(weights), "x"(quad));
}

// Products of R rows with the 16 channels at `strip`, whose quads are `width` channels apart.
template <int R>
void Products(const int8_t* input, int64_t stride, const float* row_scales, const int32_t* row_sums,
              const uint8_t* strip, int64_t width, const float* column_scales, int64_t k,
              float* product) {
  __m256i sums[R][2];
  const int8_t* rows[R];
  int32_t tails[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    rows[r] = input + r * stride;
    tails[r] = ActivationTail(rows[r] + k / 4 * 4, k % 4);
    sums[r][0] = sums[r][1] = _mm256_set1_epi32(-128 * row_sums[r]);
  }
  // The last k of rows whose K is not a multiple of 4 come from `tails`, by the same loop.
  int64_t count = k / 4;
  for (int64_t rest = k % 4;; rest = 0) {
    for (int64_t q = 0; q < count; ++q) {
      const __m256i* quads = reinterpret_cast<const __m256i*>(strip);
      const __m256i low = _mm256_load_si256(quads);
      const __m256i high = _mm256_load_si256(quads + 1);
      strip += 4 * width;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m256i quad = _mm256_set1_epi32(ActivationQuad(rows[r] + 4 * q));
        AddProducts(sums[r][0], low, quad);
        AddProducts(sums[r][1], high, quad);
      }
    }
    if (rest == 0) break;
    count = 1;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) rows[r] = reinterpret_cast<const int8_t*>(&tails[r]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const __m256 row_scale = _mm256_set1_ps(row_scales[r]);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m256 scale = _mm256_mul_ps(row_scale, _mm256_loadu_ps(column_scales + 8 * half));
      _mm256_store_ps(product + r * kTileColumns + 8 * half,
                      _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][half]), scale));
    }
  }
}

using ProductsFunction = void (*)(const int8_t*, int64_t, const float*, const int32_t*,
                                  const uint8_t*, int64_t, const float*, int64_t, float*);
constexpr ProductsFunction kProducts[kTileRows] = {Products<1>, Products<2>, Products<3>,
                                                   Products<4>, Products<5>, Products<6>};

void Compute(const LinearBlock& block) {
  const A8W8Weight& weight = *static_cast<const A8W8Weight*>(block.weight);
  const int64_t padded_k = A8W8PaddedK(block.shape.k);
  const int8_t* input = static_cast<const int8_t*>(block.input.values);
  alignas(32) float product[kTileRows * kTileColumns];
  for (int64_t column = block.column_begin; column < block.column_end; column += kTileColumns) {
    const int64_t first = column / kA8W8Panel * kA8W8Panel;
    const uint8_t* strip = weight.panels + first * padded_k + (column - first) * 4;
    const int64_t rest = block.column_end - column;
    int64_t rows = 0;
    for (int64_t row = 0; row < block.rows; row += rows) {
      rows = NextTileRows(block.rows - row, kTileRows);
      kProducts[rows - 1](input + row * block.input.stride, block.input.stride,
                          block.input.scales + row, block.input.sums + row, strip,
                          A8W8PanelWidth(first, block.shape.n), weight.scales + column,
                          block.shape.k, product);
      FinishTile<Avx2Vector>(block, product, kTileColumns, row, rows, column,
                             rest < kTileColumns ? rest : kTileColumns);
    }
  }
}

}  // namespace

const BlockKernel kA8W8AvxVnni = {Compute, EncodeBlock<Avx2Vector>, kTileRows, kA8W8Panel};

}  // namespace octavo::cpu
