#include "kernels/cpu/linear_a16w4_int4_amx.h"

namespace octavo::cpu {

const BlockKernel kLinearA16W4Int4Amx = {ComputeTiles<Int4Tiles<HardwareTiles>>,
                                         EncodeBlock<Avx512Vector>, 2 * kTileRows, kPanelColumns};

}  // namespace octavo::cpu
