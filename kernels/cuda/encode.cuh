// Writing a row of f32 values in the encoding a product reads: a block of threads a row.
#pragma once

#include "kernels/cuda/elements.cuh"

namespace octavo::cuda {

constexpr int kMostWarps = 32;

// Combines `x` over the block's warps; every thread gets the result. `shared` holds kMostWarps.
__device__ inline float BlockMax(float x, float* shared) {
  x = WarpMax(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  const int warps = (blockDim.x + 31) / 32;
  return WarpMax(static_cast<int>(threadIdx.x % 32) < warps ? shared[threadIdx.x % 32] : 0.0f);
}

template <typename T>
__device__ inline T BlockSum(T x, T* shared) {
  x = WarpSum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  const int warps = (blockDim.x + 31) / 32;
  return WarpSum(static_cast<int>(threadIdx.x % 32) < warps ? shared[threadIdx.x % 32] : T{0});
}

// |x|, or NaN for what is not finite, so that a maximum shows it.
__device__ inline float Magnitude(float x) {
  return isfinite(x) ? fabsf(x) : __int_as_float(0x7fffffff);
}

template <typename T, typename Value>
__device__ inline void StoreRow(const Matrix& output, int64_t row, int64_t columns, Value value) {
  T* to = static_cast<T*>(output.values) + row * output.stride;
  for (int64_t c = threadIdx.x; c < columns; c += blockDim.x) to[c] = FromFloat<T>(value(c));
}

// int8: scale = max|x| / 127, q = x * (127 / max|x|) rounded half to even.
template <typename Value>
__device__ inline void EncodeInt8Row(const Matrix& output, int64_t row, int64_t columns,
                                     Value value) {
  __shared__ float shared[kMostWarps];
  float largest = 0.0f;
  for (int64_t c = threadIdx.x; c < columns; c += blockDim.x) {
    const float magnitude = Magnitude(value(c));
    largest = (isnan(largest) || largest >= magnitude) ? largest : magnitude;
  }
  largest = BlockMax(largest, shared);
  const bool zeros = !(largest >= kLeastEncoded);  // or not finite
  const float inverse = zeros ? 0.0f : __fdiv_rn(kLargestInt8, largest);
  int8_t* to = static_cast<int8_t*>(output.values) + row * output.stride;
  int sum = 0;
  for (int64_t c = threadIdx.x; c < columns; c += blockDim.x) {
    const int q = zeros ? 0 : __float2int_rn(value(c) * inverse);
    to[c] = static_cast<int8_t>(q);
    sum += q;
  }
  const int total = BlockSum(sum, reinterpret_cast<int*>(shared));
  if (threadIdx.x == 0) {
    output.scales[row] = isnan(largest) ? largest : zeros ? 0.0f : __fdiv_rn(largest, kLargestInt8);
    if (output.sums != nullptr) output.sums[row] = total;
  }
}

// e4m3: scale = max|x| / 448 over 128 columns, a warp each.
template <typename Value>
__device__ inline void EncodeE4m3Row(const Matrix& output, int64_t row, int64_t columns,
                                     Value value) {
  constexpr int kEach = kE4m3Columns / 32;
  const int lane = threadIdx.x % 32;
  __nv_fp8_storage_t* to = static_cast<__nv_fp8_storage_t*>(output.values) + row * output.stride;
  for (int64_t group = threadIdx.x / 32; group * kE4m3Columns < columns; group += blockDim.x / 32) {
    float x[kEach];
    float largest = 0.0f;
    for (int i = 0; i < kEach; ++i) {
      const int64_t c = group * kE4m3Columns + lane * kEach + i;
      x[i] = c < columns ? value(c) : 0.0f;
      const float magnitude = Magnitude(x[i]);
      largest = (isnan(largest) || largest >= magnitude) ? largest : magnitude;
    }
    largest = WarpMax(largest);
    const bool zeros = !(largest >= kLeastEncoded);
    const float inverse = zeros ? 0.0f : __fdiv_rn(kLargestE4m3, largest);
    for (int i = 0; i < kEach; ++i) {
      const int64_t c = group * kE4m3Columns + lane * kEach + i;
      if (c < columns) {
        to[c] = zeros ? 0 : __nv_cvt_float_to_fp8(x[i] * inverse, __NV_SATFINITE, __NV_E4M3);
      }
    }
    if (lane == 0) {
      output.scales[group * output.scale_stride + row] = isnan(largest) ? largest
                                                         : zeros        ? 0.0f
                                                                 : __fdiv_rn(largest, kLargestE4m3);
    }
  }
}

// Writes value(column), which is called once or twice a column, as `output`'s element. All threads
// of the block call it.
template <typename Value>
__device__ inline void EncodeRow(const Matrix& output, int64_t row, int64_t columns, Value value) {
  switch (output.element) {
    case Element::kF32:
      StoreRow<float>(output, row, columns, value);
      break;
    case Element::kF16:
      StoreRow<__half>(output, row, columns, value);
      break;
    case Element::kBf16:
      StoreRow<__nv_bfloat16>(output, row, columns, value);
      break;
    case Element::kInt8:
      EncodeInt8Row(output, row, columns, value);
      break;
    default:
      EncodeE4m3Row(output, row, columns, value);
      break;
  }
}

// An element of a matrix of floats.
__device__ inline float LoadValue(const Matrix& matrix, int64_t row, int64_t column) {
  const int64_t i = row * matrix.stride + column;
  switch (matrix.element) {
    case Element::kF16:
      return ToFloat(static_cast<const __half*>(matrix.values)[i]);
    case Element::kBf16:
      return ToFloat(static_cast<const __nv_bfloat16*>(matrix.values)[i]);
    default:
      return static_cast<const float*>(matrix.values)[i];
  }
}

}  // namespace octavo::cuda
