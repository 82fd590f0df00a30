// What follows a product, for rows whose own epilogue does not do it all.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/matrix.h"

namespace octavo::cuda {

// `product` [rows, n] (f32, f16, bf16 or int32, in device memory), n the weight's rows, becomes
// `output`: scales, bias, activation or gate, residual, encoding. The output may be the product if
// no value is narrower than before.
struct EpilogueArgs {
  int64_t rows = 0;
  const int32_t* device_rows = nullptr;
  int64_t n = 0;
  Matrix product;
  Matrix output;
  Epilogue epilogue;
  // Both or none: the product is sums in int32, times a scale of its row and one of its column.
  const float* row_scales = nullptr;     // [rows]
  const float* column_scales = nullptr;  // [n]
};

cudaError_t LaunchEpilogue(const EpilogueArgs& args, cudaStream_t stream);

}  // namespace octavo::cuda
