// a8w8_int8 by vpdpbusd on 512-bit registers: tiles of 6 rows x 64 channels, 24 accumulators.
#include <immintrin.h>

#include "kernels/cpu/epilogue_avx512.h"
#include "kernels/cpu/linear_a8w8_int8.h"

namespace octavo::cpu {
namespace {

constexpr int kTileRows = 6;
constexpr int kLanes = 16;

// sums += four products a lane of unsigned weights with signed activations. In assembly because GCC
// 12 copies and spills accumulators around the intrinsic, at four times the run time.
inline void AddProducts(__m512i& sums, __m512i weights, __m512i quad) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(quad));
}

// Products of R rows with 16 * C channels, scales applied, to `product` [R, kA8W8Panel]. Of every
// 64 * C bytes of the next panel 64 * P from `ahead` on are fetched meanwhile.
template <int R, int C, int P>
void Products(const int8_t* input, int64_t stride, const float* row_scales, const int32_t* row_sums,
              const uint8_t* panel, const uint8_t* ahead, const float* column_scales, int64_t k,
              float* product) {
  __m512i sums[R][C];
  const int8_t* rows[R];
  int32_t tails[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    rows[r] = input + r * stride;
    tails[r] = ActivationTail(rows[r] + k / 4 * 4, k % 4);
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) sums[r][c] = _mm512_set1_epi32(-128 * row_sums[r]);
  }
  // The last k of rows whose K is not a multiple of 4 come from `tails`, by the same loop.
  int64_t count = k / 4;
  for (int64_t rest = k % 4;; rest = 0) {
    for (int64_t q = 0; q < count; ++q) {
      __m512i weights[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) weights[c] = _mm512_load_si512(panel + c * 64);
      panel += C * 64;
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) _mm_prefetch(ahead + p * 64, _MM_HINT_T1);
      ahead += C * 64;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512i quad = _mm512_set1_epi32(ActivationQuad(rows[r] + 4 * q));
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) AddProducts(sums[r][c], weights[c], quad);
      }
    }
    if (rest == 0) break;
    count = 1;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) rows[r] = reinterpret_cast<const int8_t*>(&tails[r]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const __m512 row_scale = _mm512_set1_ps(row_scales[r]);
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const __m512 scale = _mm512_mul_ps(row_scale, _mm512_loadu_ps(column_scales + c * kLanes));
      _mm512_store_ps(product + r * kA8W8Panel + c * kLanes,
                      _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][c]), scale));
    }
  }
}

using ProductsFunction = void (*)(const int8_t*, int64_t, const float*, const int32_t*,
                                  const uint8_t*, const uint8_t*, const float*, int64_t, float*);

struct ProductsOfRows {
  ProductsFunction by_vectors[4];  // of channels - 1
  ProductsFunction fetching[3];    // whole panels: 1, 2 and 4 lines ahead of every 4
};

template <int R>
constexpr ProductsOfRows kOfRows = {
    {Products<R, 1, 0>, Products<R, 2, 0>, Products<R, 3, 0>, Products<R, 4, 0>},
    {Products<R, 4, 1>, Products<R, 4, 2>, Products<R, 4, 4>}};

// By rows - 1.
constexpr ProductsOfRows kProducts[kTileRows] = {kOfRows<1>, kOfRows<2>, kOfRows<3>,
                                                 kOfRows<4>, kOfRows<5>, kOfRows<6>};

// With few rows a panel is used up sooner than the next one comes from the third-level cache. Each
// tile of rows then fetches so many of every 4 lines of the next panel. Many rows hide that wait.
constexpr int64_t kFetchingTiles = 4;
constexpr int kFetchedLines[kFetchingTiles + 1] = {0, 4, 2, 1, 1};

void Compute(const LinearBlock& block) {
  const A8W8Weight& weight = *static_cast<const A8W8Weight*>(block.weight);
  const int64_t padded_k = A8W8PaddedK(block.shape.k);
  const int8_t* input = static_cast<const int8_t*>(block.input.values);
  alignas(64) float product[kTileRows * kA8W8Panel];
  for (int64_t column = block.column_begin; column < block.column_end; column += kA8W8Panel) {
    const int64_t width = A8W8PanelWidth(column, block.shape.n);
    const int64_t columns = block.column_end - column < width ? block.column_end - column : width;
    // Another thread may take the panels after the block's.
    const int64_t tiles = (block.rows + kTileRows - 1) / kTileRows;
    const bool fetch = tiles <= kFetchingTiles && column + width < block.column_end;
    const int lines = fetch ? kFetchedLines[tiles] : 0;
    const uint8_t* panel = weight.panels + column * padded_k;
    const uint8_t* ahead = panel + width * padded_k;
    int64_t rows = 0;
    for (int64_t row = 0; row < block.rows; row += rows) {
      rows = NextTileRows(block.rows - row, kTileRows);
      const ProductsOfRows& products = kProducts[rows - 1];
      const ProductsFunction run =
          fetch ? products.fetching[lines / 2] : products.by_vectors[width / kLanes - 1];
      run(input + row * block.input.stride, block.input.stride, block.input.scales + row,
          block.input.sums + row, panel, ahead, weight.scales + column, block.shape.k, product);
      ahead += 64 * lines;
      FinishTile<Avx512Vector>(block, product, kA8W8Panel, row, rows, column, columns);
    }
  }
}

}  // namespace

const BlockKernel kA8W8Avx512Vnni = {Compute, EncodeBlock<Avx512Vector>, kTileRows, kA8W8Panel};

}  // namespace octavo::cpu
