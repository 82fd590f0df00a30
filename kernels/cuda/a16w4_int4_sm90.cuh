// The parts of an a16w4_int4 product for few tokens, in the order a kernel uses them: weights to
// registers, fragments of activations times them, sums over warps and over a cluster.
//
// A thread block computes 16 * kTiles output channels for 8 * kOctets tokens over a range of K, and
// its warps take the range's 64-column steps in turns. Blocks of a cluster share the output tile.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/linear_a16w4_int4_f16_sm90.h"
#include "kernels/cuda/ptx_sm90.cuh"

namespace octavo::cuda {
namespace {

// 8 codes of one row to f16(q - zero). `zero` is {z, z}; symmetric codes mean q - 8.
template <bool kZero>
__device__ __forceinline__ void DecodeWord(uint32_t word, __half2 zero, uint32_t (&values)[4]) {
  constexpr uint32_t kLow = 0x000f000f, kHigh = 0x00f000f0, kMagic = 0x64006400;  // f16 1024
  const uint32_t bits[4] = {(word & kLow) | kMagic, (word & kHigh) | kMagic,
                            ((word >> 8) & kLow) | kMagic, ((word >> 8) & kHigh) | kMagic};
  const __half2 sixteenth = __float2half2_rn(0.0625f);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    __half2 v;
    *reinterpret_cast<uint32_t*>(&v) = bits[i];
    // 1024 + q, or 1024 + 16 q: q is exact either way.
    if (kZero) {
      v = i % 2 == 0 ? __hsub2(v, __float2half2_rn(1024.0f))
                     : __hfma2(v, sixteenth, __float2half2_rn(-64.0f));
      v = __hsub2(v, zero);
    } else {
      v = i % 2 == 0 ? __hsub2(v, __float2half2_rn(1032.0f))
                     : __hfma2(v, sixteenth, __float2half2_rn(-72.0f));
    }
    values[i] = *reinterpret_cast<uint32_t*>(&v);
  }
}

template <int kGroups, bool kZero>
struct EncodedBlock {
  static constexpr int kScaleWords = kGroups * (kZero ? 2 : 1);  // of a lane
  static constexpr int kBytes = kInt4BlockCodeBytes + 8 * 4 * kScaleWords;

  uint4 codes;
  uint32_t scales[kScaleWords];

  __device__ __forceinline__ void Load(const uint8_t* block, int lane) {
    codes = ptx::LoadConstant16(block + 16 * lane);
    const uint8_t* from = block + kInt4BlockCodeBytes + lane / 4 * 4 * kScaleWords;
    if constexpr (kScaleWords == 4) {
      const uint4 v = ptx::LoadConstant16(from);
      scales[0] = v.x, scales[1] = v.y, scales[2] = v.z, scales[3] = v.w;
    } else if constexpr (kScaleWords == 2) {
      const uint2 v = ptx::LoadConstant8(from);
      scales[0] = v.x, scales[1] = v.y;
    } else {
      scales[0] = ptx::LoadConstant4(from);
    }
  }
};

template <int kGroups, bool kZero>
struct DecodedBlock {
  uint32_t a[4][4];          // fragments of four 16-column steps
  float scales[kGroups][2];  // of rows g and g + 8

  __device__ __forceinline__ void Decode(const EncodedBlock<kGroups, kZero>& block) {
    const uint32_t words[2][2] = {{block.codes.x, block.codes.y}, {block.codes.z, block.codes.w}};
    constexpr int kWords = kZero ? 2 : 1;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int group = kGroups == 2 ? half : 0;
      __half2 zeros = __float2half2_rn(0.0f);
      if constexpr (kZero) {
        zeros = *reinterpret_cast<const __half2*>(&block.scales[group * kWords + 1]);
      }
      uint32_t row[4], row8[4];
      DecodeWord<kZero>(words[half][0], __low2half2(zeros), row);
      DecodeWord<kZero>(words[half][1], __high2half2(zeros), row8);
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        uint32_t(&to)[4] = a[2 * half + s];
        to[0] = row[2 * s], to[1] = row8[2 * s], to[2] = row[2 * s + 1], to[3] = row8[2 * s + 1];
      }
    }
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const float2 scale =
          __half22float2(*reinterpret_cast<const __half2*>(&block.scales[group * kWords]));
      scales[group][0] = scale.x;
      scales[group][1] = scale.y;
    }
  }
};

// Where a warp is in a weight: rows of tiles, steps of K.
struct WeightRange {
  const uint8_t* blocks;
  int tile;   // first of the thread block
  int tiles;  // of the weight
  int steps;  // of the weight
  int end;    // of the thread block's steps
  int warps;
};

// Loads and decodes the blocks of steps step, step + warps, ...; those past the range are zero.
template <int kDepth, int kTiles, int kGroups, bool kZero>
__device__ __forceinline__ void LoadWeight(const WeightRange& range, int step, int lane,
                                           DecodedBlock<kGroups, kZero> (&blocks)[kDepth][kTiles]) {
  using Encoded = EncodedBlock<kGroups, kZero>;
  Encoded encoded[kDepth][kTiles] = {};
#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int at = step + d * range.warps;
      if (at >= range.end || range.tile + t >= range.tiles) continue;
      const int64_t index = static_cast<int64_t>(range.tile + t) * range.steps + at;
      encoded[d][t].Load(range.blocks + index * Encoded::kBytes, lane);
    }
  }
#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) blocks[d][t].Decode(encoded[d][t]);
  }
}

// Fragments of 64 columns of 8 tokens' activations: lane 4 g + c holds token g's columns
// 8 c .. 8 c + 7 and 32 + 8 c .. 32 + 8 c + 7.
struct Fragments {
  uint32_t b[4][2];

  __device__ __forceinline__ void Set(uint4 low, uint4 high) {
    b[0][0] = low.x, b[0][1] = low.y, b[1][0] = low.z, b[1][1] = low.w;
    b[2][0] = high.x, b[2][1] = high.y, b[3][0] = high.z, b[3][1] = high.w;
  }
};

template <int kGroups, bool kZero>
__device__ __forceinline__ void Accumulate(const DecodedBlock<kGroups, kZero>& block,
                                           const Fragments& x, float (&totals)[4]) {
  constexpr int kSteps = 4 / kGroups;
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int s = group * kSteps; s < (group + 1) * kSteps; ++s) {
      ptx::MultiplyF16(sum, block.a[s], x.b[s][0], x.b[s][1], sum);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) totals[i] = fmaf(block.scales[group][i / 2], sum[i], totals[i]);
  }
}

// 8 f16 of a row from column k, a multiple of 8; zeros past K. `row` is null for a token that is
// not there. A load without a branch, so that many are in flight.
__device__ __forceinline__ uint4 LoadActivations(const uint16_t* row, int k, int columns) {
  uint4 x = make_uint4(0, 0, 0, 0);
  if (row != nullptr && k < columns) x = *reinterpret_cast<const uint4*>(row + k);
  return x;
}

// Shared memory: a barrier in the first 16 bytes, then floats. A token's partial sums lie kStride
// apart, so that no bank is hit twice.
template <int kOctets, int kTiles>
struct Reduction {
  static constexpr int kTokens = 8 * kOctets;
  static constexpr int kStride = 16 * kTiles + 4;
  static constexpr int kPairs = 8 * kTiles;  // pairs of output channels of a token

  static constexpr int SharedBytes(int warps, int cluster) {
    return 16 + 4 * (warps * kTokens * kStride + (cluster > 1 ? kTokens * 2 * kPairs : 0));
  }

  // Before anything else in a cluster.
  __device__ __forceinline__ static void Prepare(void* shared, int cluster) {
    if (threadIdx.x == 0) {
      const uint32_t barrier = ptx::SharedAddress(shared);
      ptx::BarrierInit(barrier, 1);
      ptx::FenceBarrierInit();
      ptx::BarrierArriveExpect(barrier, kTokens * kPairs * sizeof(float2));
    }
    ptx::ClusterArriveRelaxed();
  }

  // Sums over the warps and the cluster, each in fixed order, then finish(token, sum) for a pair of
  // channels: pair threadIdx.x % kPairs of the tile, token of the kTokens. In a cluster, block r
  // finishes the r-th share of the tokens.
  template <class Finish>
  __device__ __forceinline__ static void Run(const float (&totals)[kTiles][kOctets][4],
                                             void* memory, uint32_t rank, int cluster,
                                             Finish finish) {
    const uint32_t barrier = ptx::SharedAddress(memory);
    float* shared = static_cast<float*>(memory) + 4;
    const int warps = blockDim.x / 32;
    const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    float* own = shared + threadIdx.x / 32 * kTokens * kStride;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int o = 0; o < kOctets; ++o) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          own[(8 * o + 2 * c + i % 2) * kStride + 16 * t + g + i / 2 * 8] = totals[t][o][i];
        }
      }
    }
    __syncthreads();
    const int pair = threadIdx.x % kPairs;
    const auto sum_warps = [&](int token) {
      const float* from = shared + token * kStride + 2 * pair;
      float2 sum = *reinterpret_cast<const float2*>(from);
#pragma unroll 4
      for (int w = 1; w < warps; ++w) {
        const float2 more = *reinterpret_cast<const float2*>(from + w * kTokens * kStride);
        sum.x += more.x;
        sum.y += more.y;
      }
      return sum;
    };
    const int token_step = blockDim.x / kPairs;
    const int token_begin = threadIdx.x / kPairs;
    if (cluster == 1) {
      for (int token = token_begin; token < kTokens; token += token_step) {
        finish(token, sum_warps(token));
      }
      return;
    }
    float2* gathered = reinterpret_cast<float2*>(shared + warps * kTokens * kStride);
    const int share = kTokens / cluster;
    ptx::ClusterWait();  // every block of the cluster runs
    for (int token = token_begin; token < kTokens; token += token_step) {
      const int at = (static_cast<int>(rank) * share + token % share) * kPairs + pair;
      const int owner = token / share;
      ptx::StoreAsync(ptx::MapToRank(ptx::SharedAddress(gathered + at), owner), sum_warps(token),
                      ptx::MapToRank(barrier, owner));
    }
    ptx::BarrierWaitCluster(barrier, 0);
    for (int token = token_begin; token < share; token += token_step) {
      float2 sum = make_float2(0.0f, 0.0f);
      for (int r = 0; r < cluster; ++r) {
        const float2 more = gathered[(r * share + token) * kPairs + pair];
        sum.x += more.x;
        sum.y += more.y;
      }
      finish(static_cast<int>(rank) * share + token, sum);
    }
  }
};

__device__ __forceinline__ float Activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kGelu:
      return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case Activation::kGeluTanh:
      return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case Activation::kSilu:
      return x / (1.0f + expf(-x));
  }
  return x;
}

// Columns n and n + 1 of a float array of `count`, or zeros: a bias.
__device__ __forceinline__ float2 LoadPair(const float* values, int n, int count) {
  float2 pair = make_float2(0.0f, 0.0f);
  if (values == nullptr) return pair;
  if (n < count) pair.x = __ldg(values + n);
  if (n + 1 < count) pair.y = __ldg(values + n + 1);
  return pair;
}

}  // namespace
}  // namespace octavo::cuda
