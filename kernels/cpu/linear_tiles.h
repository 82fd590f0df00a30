// The loop of the float linear rows over panels and register tiles, written once over a kernel
// type; each instruction-set file defines that type in an unnamed namespace, which keeps what is
// instantiated here inside that file.
//
// A kernel type K has:
//   V            the vector type of epilogue.h
//   Activation   element of the arranged activations (float or uint16_t for bf16)
//   kRows        rows of the largest register tile
//   kColumns     columns a register tile (a divisor of 32)
//   Arrange(const LinearBlock&, row, rows, Activation* to)   lays out a tile's rows
//   Panel(const LinearBlock&, p)                             panel p, decoded if it must be
//   Products<R>(const LinearBlock&, const Activation* arranged, row, panel, column, float* tile)
//
// Arranged activations of a tile of R rows: [K / step][R][16 bytes], K filled up with zeros, so a
// tile reads one stream and never past K. Each product is summed along K in one order by one
// accumulator whatever the tile's rows: results do not depend on M.
#pragma once

#include <cstdint>

#include "kernels/cpu/epilogue.h"
#include "kernels/cpu/linear_panels.h"
#include "kernels/cpu/scratch.h"

namespace octavo::cpu {
namespace {

// Rows of the next tile when `rest` remain: never a full tile followed by a sliver.
[[maybe_unused]] int64_t TileRows(int64_t rest, int64_t most) {
  if (rest <= most) return rest;
  return rest >= 2 * most ? most : (rest + 1) / 2;
}

template <class K, int R, class Panel>
[[gnu::always_inline]] inline void ProductsOf(const LinearBlock& block, int64_t rows,
                                              const typename K::Activation* arranged, int64_t row,
                                              Panel panel, int64_t column, float* tile) {
  if constexpr (R > 1) {
    if (rows < R) return ProductsOf<K, R - 1>(block, rows, arranged, row, panel, column, tile);
  }
  K::template Products<R>(block, arranged, row, panel, column, tile);
}

template <class K>
void ComputeBlock(const LinearBlock& block) {
  constexpr int64_t kStep = 16 / sizeof(typename K::Activation);
  const int64_t padded_k = RoundUp(block.shape.k, kStep);
  auto* arranged = static_cast<typename K::Activation*>(ThreadScratch(
      ScratchUse::kActivations, block.rows * padded_k * sizeof(typename K::Activation)));
  int64_t rows = 0;
  for (int64_t row = 0; row < block.rows; row += rows) {
    rows = TileRows(block.rows - row, K::kRows);
    K::Arrange(block, row, rows, arranged + row * padded_k);
  }
  alignas(64) float tile[K::kRows * kPanelColumns];
  for (int64_t column = block.column_begin; column < block.column_end; column += kPanelColumns) {
    const int64_t rest = block.column_end - column;
    const int64_t columns = rest < kPanelColumns ? rest : kPanelColumns;
    const auto panel = K::Panel(block, column / kPanelColumns);
    for (int64_t row = 0; row < block.rows; row += rows) {
      rows = TileRows(block.rows - row, K::kRows);
      for (int64_t c = 0; c < columns; c += K::kColumns) {
        ProductsOf<K, K::kRows>(block, rows, arranged + row * padded_k, row, panel, c, tile + c);
      }
      FinishTile<typename K::V>(block, tile, kPanelColumns, row, rows, column, columns);
    }
  }
}

template <class Value>
const Value* RowOf(const LinearBlock& block, int64_t row) {
  return static_cast<const Value*>(block.input.values) + row * block.input.stride;
}

[[maybe_unused]] const PanelWeight& WeightOf(const LinearBlock& block) {
  return *static_cast<const PanelWeight*>(block.weight);
}

[[maybe_unused]] const uint8_t* PanelOf(const LinearBlock& block, int64_t panel) {
  return WeightOf(block).panels + panel * WeightOf(block).panel_bytes;
}

// Rows as they are (f32 or bf16), 16 bytes at a time.
template <class Value>
void ArrangeRows(const LinearBlock& block, int64_t row, int64_t rows, Value* to) {
  constexpr int64_t kStep = 16 / sizeof(Value);
  const int64_t whole = block.shape.k / kStep * kStep;
  const int64_t rest = block.shape.k - whole;
  for (int64_t r = 0; r < rows; ++r) {
    const Value* from = RowOf<Value>(block, row + r);
    Value* at = to + r * kStep;
    for (int64_t k = 0; k < whole; k += kStep, at += rows * kStep) {
      __builtin_memcpy(at, from + k, 16);
    }
    if (rest > 0) {
      __builtin_memset(at, 0, 16);
      __builtin_memcpy(at, from + whole, rest * sizeof(Value));
    }
  }
}

// bf16 rows widened to f32.
[[maybe_unused]] void ArrangeWidened(const LinearBlock& block, int64_t row, int64_t rows,
                                     float* to) {
  constexpr int64_t kStep = 4;
  for (int64_t r = 0; r < rows; ++r) {
    const uint16_t* from = RowOf<uint16_t>(block, row + r);
    float* at = to + r * kStep;
    for (int64_t k = 0; k < block.shape.k; k += kStep, at += rows * kStep) {
      const int64_t count = block.shape.k - k < kStep ? block.shape.k - k : kStep;
      uint32_t bits[kStep] = {};
      for (int64_t i = 0; i < count; ++i) bits[i] = static_cast<uint32_t>(from[k + i]) << 16;
      __builtin_memcpy(at, bits, 16);
    }
  }
}

}  // namespace
}  // namespace octavo::cpu
