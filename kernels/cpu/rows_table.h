// The rows of RowFunctionTable, one a file rows_SET.cc.
#pragma once

#include "kernels/cpu/rows.h"

namespace octavo::cpu {

extern const RowFunctions kRowsPortable;
extern const RowFunctions kRowsAvx2;
extern const RowFunctions kRowsAvx512;

}  // namespace octavo::cpu
