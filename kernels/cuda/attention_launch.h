// Launchers of the attention kernels, plain data.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/attention.h"
#include "quant/element.h"

namespace octavo::cuda {

// Pointers are device memory.
struct AttentionLaunch {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  int64_t stride = 0;  // elements from token to token
  int64_t tokens = 0;  // rows of q, k and v; nothing beyond them is read
  void* output = nullptr;
  int64_t output_stride = 0;
  Element element = Element::kF16;         // of q, k, v: f16 or bf16
  Element output_element = Element::kF16;  // that of q, or f32
  const AttentionTile* tiles = nullptr;
  int tile_count = 0;
  int heads = 0;
  int heads_per_key_value_head = 1;
  int head_size = 0;
  float scale = 1.0f;  // of scores, above 0
  // Key j is visible to query i if i - reach_back <= j <= i + reach_ahead.
  int reach_back = INT32_MAX / 2;
  int reach_ahead = INT32_MAX / 2;
  const float* bias = nullptr;  // bias[head * bias_stride + j - i], zero included in the pointer
  int64_t bias_stride = 0;
};

// The kernels on tensor cores take head sizes 32, 64 and 128 and rows of q, k, v and output that
// begin at multiples of 16 bytes.

// mma.sync over 16 queries a warp; tiles of at most kMmaQueries queries.
inline constexpr int kMmaQueries = 16;
cudaError_t LaunchAttentionMma(const AttentionLaunch& launch, cudaStream_t stream);

// wgmma over 64 queries a warpgroup, two warpgroups a block; tiles of at most kWgmmaQueries.
inline constexpr int kWgmmaQueries = 128;
cudaError_t LaunchAttentionWgmma(const AttentionLaunch& launch, cudaStream_t stream);

// Without tensor cores: any head size up to kPortableHeadSize, any stride, tiles of any number of
// queries. What the others are held against on the device, and what runs where they do not fit.
inline constexpr int kPortableQueries = 64;
inline constexpr int kPortableHeadSize = 256;
cudaError_t LaunchAttentionPortable(const AttentionLaunch& launch, cudaStream_t stream);

}  // namespace octavo::cuda
