// The loop of the AMX linear rows, written once over a kernel type, which each row's file defines
// in an unnamed namespace.
//
// Along K run words of 4 bytes: four int8 or two bf16 values. A tile of activations is up to 16
// rows x 16 words, read in place; a tile of weights 16 words x 16 channels, read in place from a
// panel [words][channels][4 bytes]; an instruction multiplies the two and adds to a tile of 16 x 16
// sums. Two by two of them share their operands, 32 rows x 32 channels: each step of 16 words loads
// four tiles in half the time that its four products take.
//
// The tile unit and the vector units work side by side: while one tile of products is summed, the
// epilogue of the one before it is run, some rows after each step.
//
// A kernel type K has:
//   Tiles          the instructions: HardwareTiles, or their emulation in a test
//   kElementBytes  of the activations
//   Weights(const LinearBlock&, column, columns)   tiles of channels [column, column + columns)
//   Dot<sum, a, b>()
//   Scale(const LinearBlock&, product, stride, row, rows, column, columns)   what the tile holds to
//                  f32 products, in place, of block rows [row, row + rows)
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/epilogue_avx512.h"
#include "kernels/cpu/linear_panels.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/tiles_amx.h"

namespace octavo::cpu {
namespace {

constexpr int64_t kTileRows = 16;   // and channels
constexpr int64_t kTileWords = 16;  // along K
constexpr int64_t kTileBytes = 64;  // of a row of any tile
// Channels at a time: two tiles beside two tiles of rows, or four beside one.
constexpr int64_t kPairColumns = 2 * kTileRows;
constexpr int64_t kWideColumns = 4 * kTileRows;
// Steps along K at a time: weights of 32 channels that stay in the first-level cache while all rows
// pass by.
constexpr int64_t kChunkSteps = 12;

// Weights of up to 64 channels in 4-byte words, 32 channels side by side.
struct WeightTiles {
  const uint8_t* words = nullptr;
  int64_t stride = 0;     // bytes from word to word along K
  int64_t pair_step = 0;  // bytes from channel c to channel c + 32
};

// The smaller of two.
constexpr int64_t AtMost(int64_t value, int64_t limit) { return value < limit ? value : limit; }

template <class K>
class TileBlock {
 public:
  explicit TileBlock(const LinearBlock& block)
      : block_(block),
        tiles_(block.rows <= kTileRows ? 1 : RoundUp(block.rows, 2 * kTileRows) / kTileRows),
        height_((block.rows + tiles_ - 1) / tiles_),
        input_(static_cast<const uint8_t*>(block.input.values)),
        stride_(block.input.stride * K::kElementBytes),
        steps_(block.shape.k * K::kElementBytes / kTileBytes),
        chunk_(tiles_ > 2 ? kChunkSteps : steps_ + 1),
        tail_bytes_(block.shape.k * K::kElementBytes % kTileBytes) {}

  void Compute() {
    Configure();
    CopyInputTail();
    const int64_t tiles = steps_ > chunk_ ? tiles_ : 2;
    products_ =
        static_cast<float*>(ThreadScratch(ScratchUse::kSums, tiles * kTileRows * kPairColumns * 4));
    const int64_t most = tiles_ == 1 ? kWideColumns : kPairColumns;
    for (int64_t column = block_.column_begin; column < block_.column_end; column += most) {
      const int64_t columns = AtMost(block_.column_end - column, most);
      weights_ = K::Weights(block_, column, columns);
      CopyWeightTail(columns);
      const int64_t column_tiles = (columns + kTileRows - 1) / kTileRows;
      if (tiles_ > 1) {
        column_tiles == 1 ? MultiplyRows<2, 1>(column, columns)
                          : MultiplyRows<2, 2>(column, columns);
      } else if (column_tiles <= 2) {
        column_tiles == 1 ? MultiplyRows<1, 1>(column, columns)
                          : MultiplyRows<1, 2>(column, columns);
      } else {
        column_tiles == 3 ? MultiplyRows<1, 3>(column, columns)
                          : MultiplyRows<1, 4>(column, columns);
      }
    }
    Finish(unfinished_.rows);
    Tiles::Release();
  }

 private:
  using Tiles = typename K::Tiles;
  // Registers 0 to 3 hold sums, those from here activations, then weights.
  static constexpr int kFirstOperand = 4;

  // Products whose epilogue is still to be run.
  struct Unfinished {
    float* product = nullptr;
    int64_t stride = 0;
    int64_t row = 0;
    int64_t rows = 0;
    int64_t column = 0;
    int64_t columns = 0;
  };

  // Tiles of rows are of one height, so that the registers keep their shapes; the last tiles
  // overlap where the rows do not divide, and give the same products twice.
  int64_t FirstRow(int64_t tile) const { return AtMost(tile * height_, block_.rows - height_); }

  void Configure() const {
    TileConfig config;
    for (int tile = 0; tile < 8; ++tile) {
      config.row_bytes[tile] = kTileBytes;
      config.rows[tile] = static_cast<uint8_t>(height_);
    }
    // Weights: registers 5 to 7 beside one tile of rows, 6 and 7 beside two.
    for (int tile = tiles_ == 1 ? 5 : 6; tile < 8; ++tile) config.rows[tile] = kTileWords;
    Tiles::Configure(config);
  }

  // What is left of K after whole steps, filled up with zeros.
  void CopyInputTail() {
    if (tail_bytes_ == 0) return;
    input_tail_ =
        static_cast<uint8_t*>(ThreadScratch(ScratchUse::kActivations, block_.rows * kTileBytes));
    for (int64_t r = 0; r < block_.rows; ++r) {
      uint8_t* to = input_tail_ + r * kTileBytes;
      __builtin_memset(to, 0, kTileBytes);
      __builtin_memcpy(to, input_ + r * stride_ + steps_ * kTileBytes, tail_bytes_);
    }
  }
  void CopyWeightTail(int64_t columns) {
    if (tail_bytes_ == 0) return;
    __builtin_memset(weight_tail_, 0, sizeof(weight_tail_));
    const uint8_t* from = weights_.words + steps_ * kTileWords * weights_.stride;
    for (int64_t word = 0; word < (tail_bytes_ + 3) / 4; ++word) {
      for (int64_t c = 0; c < columns; c += kTileRows) {
        __builtin_memcpy(weight_tail_ + (word * kWideColumns + c) * 4,
                         from + word * weights_.stride + c / kPairColumns * weights_.pair_step +
                             c % kPairColumns * 4,
                         kTileBytes);
      }
    }
  }

  // Adds the products of a step of 16 words to the sums: kRows tiles of activations, the second
  // `second` bytes after the first, with kColumns tiles of weights.
  template <int kRows, int kColumns>
  static void MultiplyStep(const uint8_t* rows, int64_t stride, int64_t second,
                           const WeightTiles& weights) {
    if constexpr (kRows == 2) {
      Tiles::template Load<6>(weights.words, weights.stride);
      Tiles::template Load<4>(rows, stride);
      K::template Dot<0, 4, 6>();
      if constexpr (kColumns == 2) {
        Tiles::template Load<7>(weights.words + kTileBytes, weights.stride);
        K::template Dot<1, 4, 7>();
      }
      Tiles::template Load<5>(rows + second, stride);
      K::template Dot<2, 5, 6>();
      if constexpr (kColumns == 2) K::template Dot<3, 5, 7>();
    } else {
      Tiles::template Load<4>(rows, stride);
      Tiles::template Load<5>(weights.words, weights.stride);
      K::template Dot<0, 4, 5>();
      if constexpr (kColumns > 1) {
        Tiles::template Load<6>(weights.words + kTileBytes, weights.stride);
        K::template Dot<1, 4, 6>();
      }
      if constexpr (kColumns > 2) {
        Tiles::template Load<7>(weights.words + weights.pair_step, weights.stride);
        K::template Dot<2, 4, 7>();
      }
      if constexpr (kColumns > 3) {
        Tiles::template Load<5>(weights.words + weights.pair_step + kTileBytes, weights.stride);
        K::template Dot<3, 4, 5>();
      }
    }
  }

  // All rows with kColumns tiles of channels, a chunk of K after the other.
  template <int kRows, int kColumns>
  void MultiplyRows(int64_t column, int64_t columns) {
    for (int64_t step = 0; step < steps_ || step == 0; step += chunk_) {
      const int64_t steps = AtMost(steps_ - step, chunk_);
      const bool last = step + steps == steps_;
      const bool tail = last && tail_bytes_ > 0;
      for (int64_t tile = 0; tile < tiles_; tile += kRows) {
        const int64_t first = FirstRow(tile);
        const int64_t second = kRows == 1 ? 0 : FirstRow(tile + 1) - first;
        const int64_t a_step = (unfinished_.rows + steps + tail - 1) / (steps + tail);
        float* const product = products_ + (steps_ > chunk_ ? tile * kTileRows * kPairColumns : 0);
        if (step == 0) {
          ZeroSums();
        } else {
          LoadSums<kRows, kColumns>(product, second);
        }
        const uint8_t* rows = input_ + first * stride_ + step * kTileBytes;
        WeightTiles weights = weights_;
        weights.words += step * kTileWords * weights.stride;
        for (int64_t i = 0; i < steps; ++i) {
          MultiplyStep<kRows, kColumns>(rows, stride_, second * stride_, weights);
          rows += kTileBytes;
          weights.words += kTileWords * weights.stride;
          if (unfinished_.rows > 0) Finish(a_step);
        }
        if (tail) {
          MultiplyStep<kRows, kColumns>(input_tail_ + first * kTileBytes, kTileBytes,
                                        second * kTileBytes,
                                        {weight_tail_, kWideColumns * 4, kPairColumns * 4});
          if (unfinished_.rows > 0) Finish(a_step);
        }
        StoreSums<kRows, kColumns>(product, second);
        if (!last) continue;
        const int64_t done = tile * height_;  // rows, by the tiles before
        constexpr int64_t kStride = kColumns * kTileRows;
        unfinished_ = {.product = product + (done - first) * kStride,
                       .stride = kStride,
                       .row = done,
                       .rows = first + second + height_ - done,
                       .column = column,
                       .columns = columns};
      }
    }
  }

  static void ZeroSums() {
    Tiles::template Zero<0>();
    Tiles::template Zero<1>();
    Tiles::template Zero<2>();
    Tiles::template Zero<3>();
  }

  // Calls visit<register>(address) for each tile of sums at `product`, whose rows are kColumns
  // tiles; the second tile of rows begins at row `second`.
  template <int kRows, int kColumns, class Visit>
  static void ForEachSum(float* product, int64_t second, const Visit& visit) {
    visit.template operator()<0>(product);
    if constexpr (kColumns > 1) visit.template operator()<1>(product + kTileRows);
    if constexpr (kRows == 2) {
      product += second * kColumns * kTileRows;
      visit.template operator()<2>(product);
      if constexpr (kColumns > 1) visit.template operator()<3>(product + kTileRows);
    } else {
      if constexpr (kColumns > 2) visit.template operator()<2>(product + 2 * kTileRows);
      if constexpr (kColumns > 3) visit.template operator()<3>(product + 3 * kTileRows);
    }
  }
  template <int kRows, int kColumns>
  static void LoadSums(float* product, int64_t second) {
    ForEachSum<kRows, kColumns>(product, second, []<int kTile>(float* from) {
      Tiles::template Load<kTile>(from, kColumns * kTileRows * 4);
    });
  }
  template <int kRows, int kColumns>
  static void StoreSums(float* product, int64_t second) {
    ForEachSum<kRows, kColumns>(product, second, []<int kTile>(float* to) {
      Tiles::template Store<kTile>(to, kColumns * kTileRows * 4);
    });
  }

  // Runs the epilogue of up to `most` rows.
  [[gnu::noinline]] void Finish(int64_t most) {
    const int64_t rows = AtMost(unfinished_.rows, most);
    K::Scale(block_, unfinished_.product, unfinished_.stride, unfinished_.row, rows,
             unfinished_.column, unfinished_.columns);
    FinishTile<Avx512Vector>(block_, unfinished_.product, unfinished_.stride, unfinished_.row, rows,
                             unfinished_.column, unfinished_.columns);
    unfinished_.product += rows * unfinished_.stride;
    unfinished_.row += rows;
    unfinished_.rows -= rows;
  }

  const LinearBlock& block_;
  const int64_t tiles_;   // of rows: one, or an even number
  const int64_t height_;  // rows of each
  const uint8_t* const input_;
  const int64_t stride_;      // bytes from row to row
  const int64_t steps_;       // of 16 words
  const int64_t chunk_;       // steps at a time
  const int64_t tail_bytes_;  // of a row, beyond them
  uint8_t* input_tail_ = nullptr;
  float* products_ = nullptr;  // of 32 rows x 32 channels, or 16 x 64; in chunks: of all rows
  WeightTiles weights_;
  Unfinished unfinished_;
  alignas(64) uint8_t weight_tail_[kTileWords * kWideColumns * 4];
};

template <class K>
void ComputeTiles(const LinearBlock& block) {
  TileBlock<K>(block).Compute();
}

}  // namespace
}  // namespace octavo::cpu
