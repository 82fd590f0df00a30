// The packed weight that all a8w8_int8 CPU rows share, and their block kernels.
//
// vpdpbusd multiplies unsigned by signed bytes. Weights are stored as q + 128 (unsigned), so that
// four signed activation bytes of a row are broadcast straight from memory; the surplus
// 128 * sum(q of the row) is taken off by starting the accumulator at minus that, from
// Matrix.sums. Sums are exact in int32 for K up to 65,792; then every row computes
//   float(sum) * (row scale * channel scale), rounded after each operation,
// so all rows give the same bits.
#pragma once

#include <cstdint>

#include "kernels/cpu/linear_block.h"

namespace octavo::cpu {

// Layout: panels of 64 channels, the last one narrower, rounded up to 16. Channel n's byte for k is
// at panel + (k / 4) * 4 * width + (n - first channel) * 4 + k % 4. K is rounded up to 4; padding
// bytes are 128 (a zero). Panel p starts at 64 * p * padded K. 64-byte aligned.
struct A8W8Weight {
  const uint8_t* panels = nullptr;
  const float* scales = nullptr;  // [N rounded up to 16], 0 beyond N
};

inline constexpr int64_t kA8W8Panel = 64;
inline constexpr int64_t kA8W8Columns = 16;  // panels are multiples of this
inline constexpr int64_t kA8W8MaxK = 65792;  // 255 * 128 * K < 2^31

// Unnamed, so that the copy compiled for one instruction set is never linked into another's code.
namespace {

inline int64_t A8W8PaddedK(int64_t k) { return (k + 3) / 4 * 4; }

// Width of the panel that starts at channel `column`.
inline int64_t A8W8PanelWidth(int64_t column, int64_t n) {
  const int64_t rest = (n - column + kA8W8Columns - 1) / kA8W8Columns * kA8W8Columns;
  return rest < kA8W8Panel ? rest : kA8W8Panel;
}

// Rows of the next register tile when `rest` rows remain: at most `most`, and never a full tile
// followed by a sliver (7 rows are 4 + 3, not 6 + 1), which would waste the panel's loads.
inline int64_t NextTileRows(int64_t rest, int64_t most) {
  if (rest >= 2 * most || rest <= most) return rest < most ? rest : most;
  return (rest + 1) / 2;
}

// Four signed activation bytes of one row at k; bytes beyond K are not read and count as 0.
inline int32_t ActivationTail(const int8_t* from, int64_t count) {
  int32_t quad = 0;
  for (int64_t i = 0; i < count; ++i) {
    quad |= static_cast<int32_t>(static_cast<uint32_t>(static_cast<uint8_t>(from[i])) << (8 * i));
  }
  return quad;
}

inline int32_t ActivationQuad(const int8_t* from) {
  int32_t quad;
  __builtin_memcpy(&quad, from, sizeof(quad));
  return quad;
}

}  // namespace

extern const BlockKernel kA8W8Portable;
extern const BlockKernel kA8W8Avx2;
extern const BlockKernel kA8W8AvxVnni;
extern const BlockKernel kA8W8Avx512Vnni;
extern const BlockKernel kA8W8Amx;

}  // namespace octavo::cpu
