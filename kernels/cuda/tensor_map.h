// Tensor maps for the bulk copy engine, made through the driver's entry point so that nothing links
// libcuda.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace octavo::cuda {

struct TensorMapShape {
  CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  int element_bytes = 1;
  int64_t columns = 0;
  int64_t rows = 0;
  int64_t stride = 0;  // elements; a multiple of 16 bytes
  int box_columns = 0;
  int box_rows = 0;
  CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_NONE;
};

// A matrix at `base` (16-byte aligned) read in boxes; what lies outside it reads as zero.
// cudaErrorInvalidValue if the shape breaks a rule of the engine.
cudaError_t MakeTensorMap(const void* base, const TensorMapShape& shape, CUtensorMap* map);

}  // namespace octavo::cuda
