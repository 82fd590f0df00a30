#include "kernels/cuda/attention_portable.h"
#include "kernels/cuda/elements.cuh"

namespace octavo::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kColumnsALane = kPortableHeadSize / 32;

template <typename T>
__device__ const T* At(const void* base, int64_t token, const PortableAttentionArgs& args,
                       int head) {
  return static_cast<const T*>(base) + token * args.stride + head * args.head_size;
}

// A warp a query: a lane scores a key of 32 at a time, then sums its columns of the values.
template <typename T>
__global__ void __launch_bounds__(kWarps * 32) Attend(const PortableAttentionArgs args) {
  __shared__ float query[kWarps][kPortableHeadSize];
  const int4 tile = args.tiles[blockIdx.x];  // first, length, query_begin, queries
  const int head = blockIdx.y;
  const int kv_head = head / (args.heads / args.key_value_heads);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float* q = query[warp];
  for (int at = warp; at < tile.w; at += kWarps) {
    const int64_t i = tile.z + at;
    const T* from = At<T>(args.q, tile.x + i, args, head);
    __syncwarp();
    for (int d = lane; d < args.head_size; d += 32) q[d] = ToFloat(from[d]) * args.scale;
    __syncwarp();
    const int64_t begin = max(int64_t{0}, i - args.back);
    const int64_t end = min(int64_t{tile.y}, i + args.ahead + 1);
    float maximum = -INFINITY, sum = 0.0f;
    float result[kColumnsALane] = {};
    for (int64_t block = begin; block < end; block += 32) {
      const int64_t j = block + lane;
      float score = -INFINITY;
      if (j < end) {
        const T* k = At<T>(args.k, tile.x + j, args, kv_head);
        score = 0.0f;
        for (int d = 0; d < args.head_size; ++d) score += q[d] * ToFloat(k[d]);
        if (args.relative_bias != nullptr) {
          score += args.relative_bias[head * args.bias_stride + args.bias_zero + j - i];
        }
      }
      const float larger = fmaxf(maximum, WarpMax(score));
      const float shrink = maximum == larger ? 1.0f : expf(maximum - larger);
      const float weight = j < end ? expf(score - larger) : 0.0f;
      maximum = larger;
      sum = sum * shrink + WarpSum(weight);
      for (int d = 0; d < kColumnsALane; ++d) result[d] *= shrink;
      const int keys = static_cast<int>(min(int64_t{32}, end - block));
      for (int key = 0; key < keys; ++key) {
        const float share = __shfl_sync(0xffffffffu, weight, key);
        const T* v = At<T>(args.v, tile.x + block + key, args, kv_head);
        for (int d = 0; d < kColumnsALane; ++d) {
          const int column = d * 32 + lane;
          if (column < args.head_size) result[d] += share * ToFloat(v[column]);
        }
      }
    }
    const int64_t to = (tile.x + i) * args.output.stride + head * args.head_size;
    for (int d = 0; d < kColumnsALane; ++d) {
      const int column = d * 32 + lane;
      if (column >= args.head_size) continue;
      const float value = result[d] / sum;
      if (args.output.element == Element::kF32) {
        static_cast<float*>(args.output.values)[to + column] = value;
      } else {
        static_cast<T*>(args.output.values)[to + column] = FromFloat<T>(value);
      }
    }
  }
}

template <typename T>
cudaError_t Launch(const PortableAttentionArgs& args, cudaStream_t stream) {
  if (args.tile_count == 0) return cudaSuccess;
  const dim3 blocks(static_cast<unsigned>(args.tile_count), static_cast<unsigned>(args.heads));
  Attend<T><<<blocks, kWarps * 32, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchAttentionF16(const PortableAttentionArgs& args, cudaStream_t stream) {
  return Launch<__half>(args, stream);
}

cudaError_t LaunchAttentionBf16(const PortableAttentionArgs& args, cudaStream_t stream) {
  return Launch<__nv_bfloat16>(args, stream);
}

}  // namespace octavo::cuda
