// The host's part of the a8w8 products of Hopper: packing and the choice of a tile.
#include "kernels/cuda/linear_a8w8_sm90.h"

#include <cstring>
#include <initializer_list>

#include "kernels/cuda/alignment.h"

namespace octavo::cuda {

void PackA8W8Weight(const uint8_t* weight, int n, int k, uint8_t* packed) {
  const int rows = static_cast<int>(RoundUp(n, kA8W8PackedRows));
  for (int row = 0; row < rows; ++row, packed += k) {
    const int64_t channel = A8W8Channel(row);
    if (channel < n) {
      std::memcpy(packed, weight + channel * k, k);
    } else {
      std::memset(packed, 0, k);
    }
  }
}

A8W8Tile ChooseA8W8Tile(const A8W8Args& args, int multiprocessors) {
  constexpr int64_t kTileRows = 128;
  constexpr int kLongSums = 2048;
  // Channels that stay are worth it where they leave room for four stages of activations, and each
  // warpgroup of the device has rows (a8w8_staying_sm90.cuh).
  constexpr int kStayingColumns = 128;
  constexpr int kMostKStaying = 1152;
  const int64_t units = CeilDivide(args.rows, kTileRows / 2) * CeilDivide(args.n, kStayingColumns);
  if (args.k <= kMostKStaying && units >= 2 * multiprocessors) return {kStayingColumns, true};
  const auto fewest = [&](std::initializer_list<int> candidates) {
    int best = 0;
    int64_t least = 0;
    for (const int columns : candidates) {
      const int64_t tiles = CeilDivide(args.rows, kTileRows) * CeilDivide(args.n, columns);
      const int64_t work = CeilDivide(tiles, multiprocessors) * columns;
      if (best != 0 && work >= least) continue;
      best = columns;
      least = work;
    }
    return best;
  };
  if (args.output_kind == A8W8Output::kE4m3) {
    return {args.k >= kLongSums ? fewest({128, 256}) : fewest({256, 128})};
  }
  return {args.k >= kLongSums ? fewest({128, 192, 256}) : fewest({192, 256, 128})};
}

}  // namespace octavo::cuda
