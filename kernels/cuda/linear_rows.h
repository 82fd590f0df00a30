// What the rows of linear_table.cc point to. Arguments as in LinearKernel.
#pragma once

#include "kernels/linear.h"

namespace octavo::cuda {

// Rows with equal packing share one packed weight.
enum Packing : int {
  kPackingF16 = 0,
  kPackingBf16 = 1,
};

// linear_cublaslt.cc: row-major 16-bit weights.
bool AcceptsF16(const Format& format);
bool AcceptsBf16(const Format& format);
bool FitsCublasLt(const LinearShape& shape);
absl::Status PackRowMajor(const Format& format, const EncodedMatrix& weight, PackedWeight* packed);
void RunCublasLtF16(const LinearArgs& args, Stream& stream);
void RunCublasLtBf16(const LinearArgs& args, Stream& stream);

}  // namespace octavo::cuda
