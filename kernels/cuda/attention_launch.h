// Launchers of the attention kernels, plain data.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "quant/element.h"

namespace octavo::cuda {

// One block of queries of one sequence; layout as AttentionTile of kernels/attention.h.
struct AttentionWork {
  int32_t first;        // the batch's row of the sequence's first token
  int32_t length;       // tokens of the sequence
  int32_t query_begin;  // first query, counted in the sequence
  int32_t queries;      // 0: nothing to do
};

// Pointers are device memory; q, k, v and output rows are 16-byte aligned.
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
  const AttentionWork* work = nullptr;
  int work_count = 0;
  int heads = 0;
  int heads_per_key_value_head = 1;
  int head_size = 0;   // 32, 64 or 128
  float scale = 1.0f;  // of scores, above 0
  // Key j is visible to query i if i - reach_back <= j <= i + reach_ahead.
  int reach_back = INT32_MAX / 2;
  int reach_ahead = INT32_MAX / 2;
  const float* bias = nullptr;  // bias[head * bias_stride + j - i], zero included in the pointer
  int64_t bias_stride = 0;
};

// mma.sync over 16 queries a warp; work of at most kMmaQueries queries.
inline constexpr int kMmaQueries = 16;
cudaError_t LaunchAttentionMma(const AttentionLaunch& launch, cudaStream_t stream);

// wgmma over 64 queries a warpgroup, two warpgroups a block; work of at most kWgmmaQueries.
inline constexpr int kWgmmaQueries = 128;
cudaError_t LaunchAttentionWgmma(const AttentionLaunch& launch, cudaStream_t stream);

}  // namespace octavo::cuda
