// The float types that device code reads and writes, and reductions over a warp.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/matrix.h"

namespace octavo::cuda {

__device__ inline float ToFloat(float x) { return x; }
__device__ inline float ToFloat(__half x) { return __half2float(x); }
__device__ inline float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ inline T FromFloat(float x);
template <>
__device__ inline float FromFloat<float>(float x) {
  return x;
}
template <>
__device__ inline __half FromFloat<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 FromFloat<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// A row whose largest magnitude is below this is encoded as zeros with scale 0.
constexpr float kLeastEncoded = 0x1p-100f;
constexpr float kLargestInt8 = 127.0f;
constexpr float kLargestE4m3 = 448.0f;
constexpr int kE4m3Columns = 128;  // that share a scale

// Combines `x` over a warp; every lane gets the result. A NaN in any lane gives NaN.
__device__ inline float WarpMax(float x) {
  for (int mask = 16; mask > 0; mask /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, x, mask);
    x = (isnan(x) || x >= other) ? x : other;
  }
  return x;
}

template <typename T>
__device__ inline T WarpSum(T x) {
  for (int mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}

}  // namespace octavo::cuda
