#include "kernels/cpu/linear_a8w8_int8_amx.h"

namespace octavo::cpu {

const BlockKernel kA8W8Amx = {ComputeTiles<Int8Tiles<HardwareTiles>>, EncodeBlock<Avx512Vector>,
                              2 * kTileRows, kA8W8Panel};

}  // namespace octavo::cpu
