#include "tests/kernels/linear_amx_emulated.h"

#include "kernels/cpu/linear_a16w4_int4_amx.h"
#include "kernels/cpu/linear_a8w8_int8_amx.h"
#include "kernels/cpu/linear_bf16_amx.h"
#include "tests/kernels/emulated_tiles.h"

namespace octavo::cpu {
namespace {

template <class K>
constexpr BlockKernel Emulated(int64_t column_step) {
  return {ComputeTiles<K>, EncodeBlock<Avx512Vector>, 2 * kTileRows, column_step};
}

}  // namespace

const BlockKernel kA8W8EmulatedAmx = Emulated<Int8Tiles<EmulatedTiles>>(kA8W8Panel);
const BlockKernel kLinearBf16EmulatedAmx = Emulated<Bf16Tiles<EmulatedTiles>>(kPanelColumns);
const BlockKernel kLinearA16W4Int4EmulatedAmx = Emulated<Int4Tiles<EmulatedTiles>>(kPanelColumns);

}  // namespace octavo::cpu
