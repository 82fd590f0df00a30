// Packs 4-bit weights into the blocks of linear_a16w4_int4_f16_sm90.h.
#include <algorithm>
#include <cstring>

#include "kernels/cuda/linear_a16w4_int4_f16_sm90.h"

namespace octavo::cuda {
namespace {

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The part of row n that lies in a block of 64 columns from `begin`.
void PackRow(const Int4Weight& weight, int64_t n, int64_t begin, uint8_t* block) {
  constexpr int kNibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // of k % 8
  const uint8_t* row = weight.codes + n * CeilDivide(weight.k, 2);
  const int64_t end = std::min<int64_t>(begin + kInt4BlockColumns, weight.k);
  const int64_t g = n % 8, high = n / 8 % 2;
  for (int64_t k = begin; k < end; ++k) {
    const uint32_t code = k % 2 == 0 ? row[k / 2] & 15 : row[k / 2] >> 4;
    const int64_t half = (k - begin) / 32, c = (k - begin) % 32 / 8;
    uint8_t* word = block + 16 * (4 * g + c) + 8 * half + 4 * high;
    const int nibble = kNibble[k % 8];
    word[nibble / 2] |= static_cast<uint8_t>(code << nibble % 2 * 4);
  }
  const int groups = Int4BlockGroups(weight.group_columns);
  const int entry_bytes = weight.zeros == nullptr ? 4 : 8;
  uint8_t* scales = block + kInt4BlockCodeBytes + g * groups * entry_bytes;
  for (int i = 0; i < groups; ++i, scales += entry_bytes) {
    const int64_t k = begin + i * (kInt4BlockColumns / groups);
    if (k >= weight.k) break;
    const int64_t group = n * CeilDivide(weight.k, weight.group_columns) + k / weight.group_columns;
    std::memcpy(scales + 2 * high, weight.scales + group, 2);
    if (weight.zeros != nullptr) std::memcpy(scales + 4 + 2 * high, weight.zeros + group, 2);
  }
}

}  // namespace

std::vector<uint8_t> PackInt4Weight(const Int4Weight& weight) {
  const int64_t steps = CeilDivide(weight.k, kInt4BlockColumns);
  const int64_t tiles = CeilDivide(weight.n, kInt4BlockRows);
  const int64_t block_bytes =
      Int4BlockBytes(Int4BlockGroups(weight.group_columns), weight.zeros != nullptr);
  std::vector<uint8_t> blocks(tiles * steps * block_bytes);
  for (int64_t n = 0; n < weight.n; ++n) {
    for (int64_t s = 0; s < steps; ++s) {
      PackRow(weight, n, s * kInt4BlockColumns,
              blocks.data() + (n / kInt4BlockRows * steps + s) * block_bytes);
    }
  }
  return blocks;
}

}  // namespace octavo::cuda
