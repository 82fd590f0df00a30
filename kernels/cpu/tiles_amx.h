// The instructions on tile registers (AMX), a function each. Include only in files for AMX.
//
// A thread configures the eight registers before it uses them and releases them when it is done:
// unreleased, their 8 KiB are saved and restored at each of its context switches. In assembly, for
// the register's number is a template argument, and GCC's own functions do not say that a load
// reads memory.
#pragma once

#include <cstdint>

namespace octavo::cpu {

// What LDTILECFG reads: the shape of each register.
struct TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};  // at most 64
  uint8_t rows[16] = {};        // at most 16
};
static_assert(sizeof(TileConfig) == 64);

namespace {

struct HardwareTiles {
  // Shapes all registers and zeroes them.
  static void Configure(const TileConfig& config) {
    asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
  }
  static void Release() { asm volatile("tilerelease" : : : "memory"); }

  template <int kTile>
  static void Zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  // Rows `stride` bytes apart.
  template <int kTile>
  static void Load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  static void Store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
  }

  // Sum [row][n] += the products of 4-byte words of a [row][word] with words of b [word][n].
  // Words of four bytes, of a signed, of b unsigned; sums are int32 and wrap.
  template <int kSum, int kA, int kB>
  static void DotInt8() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
  }
  // Words of two bf16; sums are f32. First and second halves of a row's words are summed apart,
  // then added to the sum; denormal numbers count as 0.
  template <int kSum, int kA, int kB>
  static void DotBf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
  }
};

}  // namespace
}  // namespace octavo::cpu
