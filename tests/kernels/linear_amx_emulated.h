// The AMX rows' blocks on emulated tiles, for any processor with AVX-512.
#pragma once

#include "kernels/cpu/linear_block.h"

namespace octavo::cpu {

extern const BlockKernel kA8W8EmulatedAmx;
extern const BlockKernel kLinearBf16EmulatedAmx;
extern const BlockKernel kLinearA16W4Int4EmulatedAmx;

}  // namespace octavo::cpu
