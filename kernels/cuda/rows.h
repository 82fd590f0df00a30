// The CUDA backend's row operations; see kernels/rows.h.
#pragma once

#include "kernels/rows.h"

namespace octavo::cuda {

extern const RowOperations kRows;

}  // namespace octavo::cuda
