// Attention without tensor cores: any head size, mask and bias. The row that others are held
// against on the device, and what runs where they do not fit.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/matrix.h"

namespace octavo::cuda {

constexpr int kPortableQueryTile = 64;
constexpr int kPortableHeadSize = 256;  // at most

// A block computes a tile in one head; a tile is four int32: see AttentionTile.
struct PortableAttentionArgs {
  const void *q, *k, *v;
  int64_t stride;
  int heads, key_value_heads, head_size;
  float scale;
  const int4* tiles;
  int64_t tile_count;
  int64_t back, ahead;  // key j is visible to query i if i - back <= j <= i + ahead
  const float* relative_bias;
  int64_t bias_stride, bias_zero;
  Matrix output;
};

cudaError_t LaunchAttentionF16(const PortableAttentionArgs& args, cudaStream_t stream);
cudaError_t LaunchAttentionBf16(const PortableAttentionArgs& args, cudaStream_t stream);

}  // namespace octavo::cuda
