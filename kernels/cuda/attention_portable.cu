#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/elements.cuh"

namespace octavo::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kColumnsALane = kPortableHeadSize / 32;

template <typename T>
__device__ const T* At(const void* base, int64_t token, const AttentionLaunch& launch, int head) {
  return static_cast<const T*>(base) + token * launch.stride + head * launch.head_size;
}

// A warp a query: a lane scores a key of 32 at a time, then sums its columns of the values.
template <typename T>
__global__ void __launch_bounds__(kWarps * 32) Attend(const AttentionLaunch launch) {
  __shared__ float query[kWarps][kPortableHeadSize];
  const AttentionTile tile = launch.tiles[blockIdx.x / launch.heads];
  const int head = blockIdx.x % launch.heads, key_head = head / launch.heads_per_key_value_head;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float* q = query[warp];
  for (int at = warp; at < tile.queries; at += kWarps) {
    const int i = tile.query_begin + at;
    const T* from = At<T>(launch.q, tile.first + i, launch, head);
    __syncwarp();
    for (int d = lane; d < launch.head_size; d += 32) q[d] = ToFloat(from[d]) * launch.scale;
    __syncwarp();
    const int begin = max(0, i - launch.reach_back);
    const int end = min(tile.length, i + 1 + launch.reach_ahead);
    float maximum = -INFINITY, sum = 0.0f;
    float result[kColumnsALane] = {};
    for (int block = begin; block < end; block += 32) {
      const int j = block + lane;
      float score = -INFINITY;
      if (j < end) {
        const T* k = At<T>(launch.k, tile.first + j, launch, key_head);
        score = 0.0f;
        for (int d = 0; d < launch.head_size; ++d) score += q[d] * ToFloat(k[d]);
        if (launch.bias != nullptr) score += launch.bias[head * launch.bias_stride + j - i];
      }
      const float larger = fmaxf(maximum, WarpMax(score));
      const float shrink = maximum == larger ? 1.0f : expf(maximum - larger);
      const float weight = j < end ? expf(score - larger) : 0.0f;
      maximum = larger;
      sum = sum * shrink + WarpSum(weight);
      for (int d = 0; d < kColumnsALane; ++d) result[d] *= shrink;
      const int keys = min(32, end - block);
      for (int key = 0; key < keys; ++key) {
        const float share = __shfl_sync(0xffffffffu, weight, key);
        const T* v = At<T>(launch.v, tile.first + block + key, launch, key_head);
        for (int d = 0; d < kColumnsALane; ++d) {
          const int column = d * 32 + lane;
          if (column < launch.head_size) result[d] += share * ToFloat(v[column]);
        }
      }
    }
    const int64_t to = (tile.first + i) * launch.output_stride + head * launch.head_size;
    for (int d = 0; d < kColumnsALane; ++d) {
      const int column = d * 32 + lane;
      if (column >= launch.head_size) continue;
      const float value = result[d] / sum;
      if (launch.output_element == Element::kF32) {
        static_cast<float*>(launch.output)[to + column] = value;
      } else {
        static_cast<T*>(launch.output)[to + column] = FromFloat<T>(value);
      }
    }
  }
}

}  // namespace

cudaError_t LaunchAttentionPortable(const AttentionLaunch& launch, cudaStream_t stream) {
  if (launch.tile_count == 0) return cudaSuccess;
  const auto kernel = launch.element == Element::kBf16 ? Attend<__nv_bfloat16> : Attend<__half>;
  kernel<<<launch.tile_count * launch.heads, kWarps * 32, 0, stream>>>(launch);
  return cudaGetLastError();
}

}  // namespace octavo::cuda
