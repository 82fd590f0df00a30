// The tile instructions of kernels/cpu/tiles_amx.h by scalar code, as Intel's manual (volume 2,
// TDPBSUD, TDPBF16PS) defines them, so that the AMX rows are tested on processors without tiles. A
// misuse that the hardware would fault on aborts.
#pragma once

#include <cstdint>

#include "kernels/cpu/tiles_amx.h"

namespace octavo::cpu {
namespace {

class EmulatedTiles {
 public:
  static void Configure(const TileConfig& config) {
    Expect(config.palette == 1 && config.start_row == 0);
    for (int tile = 0; tile < 8; ++tile) {
      Expect(config.rows[tile] <= 16 && config.row_bytes[tile] <= 64 &&
             (config.rows[tile] == 0) == (config.row_bytes[tile] == 0));
    }
    config_ = config;
    configured_ = true;
    __builtin_memset(tiles_, 0, sizeof(tiles_));
  }
  static void Release() { configured_ = false; }

  template <int kTile>
  static void Zero() {
    Expect(Rows(kTile) > 0);
    __builtin_memset(tiles_[kTile], 0, sizeof(Tile));
  }
  template <int kTile>
  static void Load(const void* from, int64_t stride) {
    Zero<kTile>();
    for (int r = 0; r < Rows(kTile); ++r) {
      __builtin_memcpy(tiles_[kTile][r], static_cast<const uint8_t*>(from) + r * stride,
                       config_.row_bytes[kTile]);
    }
  }
  template <int kTile>
  static void Store(void* to, int64_t stride) {
    for (int r = 0; r < Rows(kTile); ++r) {
      __builtin_memcpy(static_cast<uint8_t*>(to) + r * stride, tiles_[kTile][r],
                       config_.row_bytes[kTile]);
    }
  }

  template <int kSum, int kA, int kB>
  static void DotInt8() {
    ExpectShapes<kSum, kA, kB>();
    for (int m = 0; m < Rows(kSum); ++m) {
      for (int k = 0; k < Words(kA); ++k) {
        int8_t a[4];
        __builtin_memcpy(a, &tiles_[kA][m][k], 4);
        for (int n = 0; n < Words(kSum); ++n) {
          uint8_t b[4];
          __builtin_memcpy(b, &tiles_[kB][k][n], 4);
          const int32_t product = a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
          tiles_[kSum][m][n] += static_cast<uint32_t>(product);
        }
      }
    }
  }

  template <int kSum, int kA, int kB>
  static void DotBf16() {
    ExpectShapes<kSum, kA, kB>();
    for (int m = 0; m < Rows(kSum); ++m) {
      float low[16] = {}, high[16] = {};
      for (int k = 0; k < Words(kA); ++k) {
        const uint32_t a = tiles_[kA][m][k];
        for (int n = 0; n < Words(kSum); ++n) {
          const uint32_t b = tiles_[kB][k][n];
          low[n] = Normal(__builtin_fmaf(Normal(Low(a)), Normal(Low(b)), low[n]));
          high[n] = Normal(__builtin_fmaf(Normal(High(a)), Normal(High(b)), high[n]));
        }
      }
      for (int n = 0; n < Words(kSum); ++n) {
        const float sum = Normal(Normal(Float(tiles_[kSum][m][n])) + Normal(low[n] + high[n]));
        __builtin_memcpy(&tiles_[kSum][m][n], &sum, 4);
      }
    }
  }

 private:
  using Tile = uint32_t[16][16];

  static void Expect(bool right) {
    if (!right) __builtin_trap();
  }
  static int Rows(int tile) {
    Expect(configured_);
    return config_.rows[tile];
  }
  static int Words(int tile) { return config_.row_bytes[tile] / 4; }

  template <int kSum, int kA, int kB>
  static void ExpectShapes() {
    static_assert(kSum != kA && kSum != kB && kA != kB);
    Expect(Rows(kSum) == Rows(kA) && Words(kA) == Rows(kB) && Words(kSum) == Words(kB));
  }

  static float Float(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
  }
  static float Low(uint32_t pair) { return Float(pair << 16); }
  static float High(uint32_t pair) { return Float(pair & 0xffff0000u); }
  // Denormal numbers count as 0, as operands and as results.
  static float Normal(float x) { return __builtin_fabsf(x) < 0x1p-126f ? 0.0f : x; }

  inline static thread_local TileConfig config_;
  inline static thread_local bool configured_ = false;
  inline static thread_local Tile tiles_[8];
};

}  // namespace
}  // namespace octavo::cpu
