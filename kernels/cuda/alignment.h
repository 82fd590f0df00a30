// For rows that hand a kernel or a library operands on the boundaries it asks for.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace octavo::cuda {

constexpr int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t value, int64_t step) { return CeilDivide(value, step) * step; }

// Copies `rows` rows of `row_bytes`, `stride` bytes apart, to rows `to_stride` apart, all in device
// memory.
inline cudaError_t CopyRows(void* to, int64_t to_stride, const void* from, int64_t stride,
                            int64_t row_bytes, int64_t rows, cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, to_stride, from, stride, row_bytes, rows, cudaMemcpyDeviceToDevice,
                           stream);
}

}  // namespace octavo::cuda
