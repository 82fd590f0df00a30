// Packed weights of the float rows (f32, bf16, a16w4_int4_*): panels of 32 output channels, the
// last one filled up with zeros. Each layout is shared by every instruction set. K is rounded up
// to the layout's step; weights there decode to finite values and meet activations of zero.
//
// Plain data and their addresses, for the files compiled for one instruction set too: what is a
// function here has internal linkage, so that the linker can never share such a file's copy.
#pragma once

#include <cstdint>

#include "kernels/cpu/linear_block.h"

namespace octavo::cpu {

constexpr int64_t kPanelColumns = 32;

// One layout each; rows of linear_table.cc with the same one share a packed weight.
enum LinearPacking : int {
  // [K rounded up to 4][32] f32.
  kPackingF32 = 1,
  // [pairs of k, K rounded up to 8][32][2] bf16.
  kPackingBf16 = 2,
  // A block for each group along K:
  //   codes [group / 8][32 channels] 32-bit words, the group's K rounded up to 8. Nibble i (from
  //     the lowest) of a word is the code of k = 0, 2, 4, 6, 1, 3, 5, 7: word >> 4 * j holds k = 2j
  //     in the low and k = 2j + 1 in the high half, as vdpbf16ps pairs them;
  //   scales [32] f16;
  //   zero points [32] f16, where the format has them.
  kPackingInt4 = 3,
  // Another panel altogether: linear_a8w8_int8.h.
  kPackingA8W8Int8 = 4,
  // [K rounded up to 4][32] e4m3, then scales [32] f32.
  kPackingE4m3 = 5,
};

// PackedWeight::data of these rows points to one.
struct PanelWeight {
  const uint8_t* panels = nullptr;  // 64-byte aligned
  int64_t panel_bytes = 0;
  int64_t group = 0;         // int4: values along K that share a scale, a multiple of 8
  bool zero_points = false;  // int4
};

namespace {

[[maybe_unused]] constexpr int64_t RoundUp(int64_t value, int64_t step) {
  return (value + step - 1) / step * step;
}

// Bytes of an int4 group's parts.
[[maybe_unused]] constexpr int64_t Int4CodeBytes(int64_t k) {
  return RoundUp(k, 8) / 2 * kPanelColumns;
}
[[maybe_unused]] constexpr int64_t kInt4ScaleBytes = 2 * kPanelColumns;

}  // namespace

// BlockKernels, each defined in the file of its name.
extern const BlockKernel kLinearF32Portable;
extern const BlockKernel kLinearF32Avx2;
extern const BlockKernel kLinearF32Avx512;
extern const BlockKernel kLinearBf16Portable;
extern const BlockKernel kLinearBf16Avx2;
extern const BlockKernel kLinearBf16Avx512;
extern const BlockKernel kLinearBf16Avx512Bf16;
extern const BlockKernel kLinearBf16Amx;
extern const BlockKernel kLinearA8W8Fp8Portable;
extern const BlockKernel kLinearA16W4Int4Portable;
extern const BlockKernel kLinearA16W4Int4Avx2;
extern const BlockKernel kLinearA16W4Int4Avx512;
extern const BlockKernel kLinearA16W4Int4Avx512Bf16;
extern const BlockKernel kLinearA16W4Int4Avx512Vnni;
extern const BlockKernel kLinearA16W4Int4Amx;

}  // namespace octavo::cpu
