#include "kernels/cuda/encode.cuh"
#include "kernels/cuda/rows_kernels.h"

namespace octavo::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kPoolThreads = 64;

// Normalizes value(column), computed once a column into `x`, shared memory of `columns` floats.
template <typename Value>
__device__ void NormRow(const NormCall& norm, int64_t row, float* x, Value value) {
  __shared__ float shared[kMostWarps];
  const int64_t columns = norm.columns;
  float sum = 0.0f;
  for (int64_t c = threadIdx.x; c < columns; c += kThreads) sum += x[c] = value(c);
  const float mean = BlockSum(sum, shared) / static_cast<float>(columns);
  float squares = 0.0f;
  for (int64_t c = threadIdx.x; c < columns; c += kThreads) {
    squares += (x[c] - mean) * (x[c] - mean);
  }
  const float variance = BlockSum(squares, shared) / static_cast<float>(columns);
  const float scale = rsqrtf(variance + norm.epsilon);
  for (int64_t c = threadIdx.x; c < columns; c += kThreads) {
    x[c] = (x[c] - mean) * scale * norm.gain[c] + norm.bias[c];
  }
  // A thread reads back only what it wrote, but for e4m3, whose groups cross threads.
  __syncthreads();
  const auto normalized = [&](int64_t c) { return x[c]; };
  EncodeRow(norm.hidden, row, columns, normalized);
  if (norm.encoded.values != nullptr) EncodeRow(norm.encoded, row, columns, normalized);
}

__global__ void __launch_bounds__(kThreads) RunNorm(const NormCall norm) {
  extern __shared__ float x[];
  const int64_t row = blockIdx.x;
  if (norm.device_rows != nullptr && row >= *norm.device_rows) return;
  NormRow(norm, row, x, [&](int64_t c) {
    const float input = LoadValue(norm.input, row, c);
    return norm.residual.values == nullptr ? input : input + LoadValue(norm.residual, row, c);
  });
}

__global__ void __launch_bounds__(kThreads) RunEmbed(const EmbedCall embed, const NormCall norm) {
  extern __shared__ float x[];
  const int64_t row = blockIdx.x;
  if (norm.device_rows != nullptr && row >= *norm.device_rows) return;
  const int64_t columns = norm.columns;
  const float* word = embed.word + embed.ids[row] * columns;
  const float* position =
      embed.position == nullptr ? nullptr : embed.position + embed.positions[row] * columns;
  NormRow(norm, row, x, [&](int64_t c) {
    float sum = word[c];
    if (position != nullptr) sum += position[c];
    if (embed.token_type != nullptr) sum += embed.token_type[c];
    return sum;
  });
}

__global__ void __launch_bounds__(kThreads) RunEncode(const EncodeCall encode) {
  const int64_t row = blockIdx.x;
  if (encode.device_rows != nullptr && row >= *encode.device_rows) return;
  EncodeRow(encode.output, row, encode.columns,
            [&](int64_t c) { return LoadValue(encode.input, row, c); });
}

__global__ void __launch_bounds__(kPoolThreads) RunMeanPool(const PoolCall pool) {
  const int64_t sequence = blockIdx.x;
  const int64_t c = blockIdx.y * kPoolThreads + threadIdx.x;
  const int64_t first = pool.offsets[sequence], last = pool.offsets[sequence + 1];
  if (c >= pool.columns || last <= first) return;
  float sum = 0.0f;
  for (int64_t row = first; row < last; ++row) sum += LoadValue(pool.hidden, row, c);
  pool.output[sequence * pool.columns + c] = sum / static_cast<float>(last - first);
}

__global__ void __launch_bounds__(kPoolThreads) RunFirstPool(const PoolCall pool) {
  const int64_t sequence = blockIdx.x;
  const int64_t c = blockIdx.y * kPoolThreads + threadIdx.x;
  const int64_t first = pool.offsets[sequence], last = pool.offsets[sequence + 1];
  if (c >= pool.columns || last <= first) return;
  pool.output[sequence * pool.columns + c] = LoadValue(pool.hidden, first, c);
}

unsigned Blocks(int64_t count) { return static_cast<unsigned>(count); }

dim3 PoolBlocks(const PoolCall& pool) {
  return {Blocks(pool.sequences), Blocks((pool.columns + kPoolThreads - 1) / kPoolThreads)};
}

}  // namespace

cudaError_t LaunchEmbed(const EmbedCall& embed, const NormCall& norm, cudaStream_t stream) {
  if (norm.rows == 0) return cudaSuccess;
  RunEmbed<<<Blocks(norm.rows), kThreads, norm.columns * sizeof(float), stream>>>(embed, norm);
  return cudaGetLastError();
}

cudaError_t LaunchNorm(const NormCall& norm, cudaStream_t stream) {
  if (norm.rows == 0) return cudaSuccess;
  RunNorm<<<Blocks(norm.rows), kThreads, norm.columns * sizeof(float), stream>>>(norm);
  return cudaGetLastError();
}

cudaError_t LaunchEncode(const EncodeCall& encode, cudaStream_t stream) {
  if (encode.rows == 0) return cudaSuccess;
  RunEncode<<<Blocks(encode.rows), kThreads, 0, stream>>>(encode);
  return cudaGetLastError();
}

cudaError_t LaunchMeanPool(const PoolCall& pool, cudaStream_t stream) {
  if (pool.sequences == 0) return cudaSuccess;
  RunMeanPool<<<PoolBlocks(pool), kPoolThreads, 0, stream>>>(pool);
  return cudaGetLastError();
}

cudaError_t LaunchFirstPool(const PoolCall& pool, cudaStream_t stream) {
  if (pool.sequences == 0) return cudaSuccess;
  RunFirstPool<<<PoolBlocks(pool), kPoolThreads, 0, stream>>>(pool);
  return cudaGetLastError();
}

}  // namespace octavo::cuda
