#include "kernels/cpu/linear_bf16_amx.h"

namespace octavo::cpu {

const BlockKernel kLinearBf16Amx = {ComputeTiles<Bf16Tiles<HardwareTiles>>,
                                    EncodeBlock<Avx512Vector>, 2 * kTileRows, kPanelColumns};

}  // namespace octavo::cpu
