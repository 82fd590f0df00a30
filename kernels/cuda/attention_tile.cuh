// What the attention kernels share: tiles of keys and values in shared memory, and the online
// softmax (Milakov & Gimelshein, arXiv:1805.02867; FlashAttention, arXiv:2205.14135) over
// accumulators in the layout common to mma.sync m16n8 and wgmma m64: lane = 4 * g + t holds, of
// each 16 x 8 tile, rows g and g + 8, columns 2t and 2t + 1.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/dependent_launch.cuh"

namespace octavo::cuda {

inline constexpr float kLog2e = 1.4426950408889634f;
inline constexpr float kMinusInfinity = -__builtin_huge_valf();

__device__ inline uint32_t Pack(float low, float high, __half) {
  const __half2 pair = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}
__device__ inline uint32_t Pack(float low, float high, __nv_bfloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes to shared memory, or writes zeros there without reading.
__device__ inline void CopyAsync(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(valid ? 16 : 0));
}
__device__ inline void CopyCommit() { asm volatile("cp.async.commit_group;"); }
template <int kPending>
__device__ inline void CopyWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// A tile of `kRows` tokens of one head in shared memory: panels of at most 64 columns, each
// [kRows][columns], 16-byte chunks swizzled within 8 rows as wgmma's 64-byte (head size 32) and
// 128-byte modes have it. ldmatrix reads it without bank conflicts.
template <int kHeadSize, int kRows>
struct Tile {
  static constexpr int kPanelColumns = kHeadSize < 64 ? kHeadSize : 64;
  static constexpr int kPanelBytes = kRows * kPanelColumns * 2;
  static constexpr int kBytes = kRows * kHeadSize * 2;
  static constexpr int kChunks = kHeadSize / 8;  // of a row
  static constexpr int kPanelChunks = kPanelColumns / 8;

  // Byte offset of the 16-byte chunk `chunk` of `row`.
  __device__ static uint32_t Offset(int row, int chunk) {
    const int swizzle = kPanelColumns == 32 ? (row >> 1) & 3 : row & 7;
    return chunk / kPanelChunks * kPanelBytes + row * kPanelColumns * 2 +
           ((chunk % kPanelChunks) ^ swizzle) * 16;
  }

  // `threads` threads together copy rows [first, first + kRows) of a head; rows from `end` on
  // become zeros. `from` is row 0.
  template <int kThreads, typename T>
  __device__ static void Load(uint32_t to, const T* from, int64_t stride, int first, int end,
                              int thread) {
#pragma unroll
    for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
      const int at = thread + i * kThreads;
      const int row = at / kChunks, chunk = at % kChunks;
      const int token = first + row;
      CopyAsync(to + Offset(row, chunk), from + token * stride + chunk * 8, token < end);
    }
  }
};

// 4 x 4 words held by the 4 lanes of a quad: word u of lane t becomes word t of lane u.
__device__ inline void TransposeQuad(uint32_t (&words)[4], int t) {
#pragma unroll
  for (int k = 0; k < 4; k += 2) {
    const uint32_t got = __shfl_xor_sync(~0u, (t & 1) ? words[k] : words[k + 1], 1);
    if (t & 1) {
      words[k] = got;
    } else {
      words[k + 1] = got;
    }
  }
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const uint32_t got = __shfl_xor_sync(~0u, (t & 2) ? words[k] : words[k + 2], 2);
    if (t & 2) {
      words[k] = got;
    } else {
      words[k + 2] = got;
    }
  }
}

// What a lane knows of its place: queries `row` and `row + 8` of a sequence.
struct Lane {
  int t;    // lane of the quad
  int row;  // query in the sequence, may be past its end
};

// A operand fragments of 16 queries, four words a 16 columns; zeros for rows not in [0, end).
// `from` is the head's columns of the sequence's first token.
template <int kHeadSize, typename T>
__device__ inline void LoadQueries(const T* from, int64_t stride, Lane lane, int end,
                                   uint32_t (&q)[kHeadSize / 4]) {
#pragma unroll
  for (int c = 0; c < kHeadSize / 32; ++c) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane.row + 8 * half;
      uint4 chunk = make_uint4(0, 0, 0, 0);
      if (row < end) {
        chunk = *reinterpret_cast<const uint4*>(from + row * stride + 32 * c + 8 * lane.t);
      }
      uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
      TransposeQuad(words, lane.t);
#pragma unroll
      for (int u = 0; u < 4; ++u) q[8 * c + 4 * (u / 2) + 2 * (u % 2) + half] = words[u];
    }
  }
}

// Keys past the sequence get a score of -infinity. `key` is the tile's first key.
template <int kKeys>
__device__ inline void MaskPastEnd(float (&s)[kKeys / 2], Lane lane, int key, int end) {
#pragma unroll
  for (int i = 0; i < kKeys / 2; ++i) {
    if (key + i / 4 * 8 + 2 * lane.t + i % 2 >= end) s[i] = kMinusInfinity;
  }
}

// Scores to log2 units with bias, -infinity where a key is not visible.
template <int kKeys>
__device__ inline void ScaleBiasMask(float (&s)[kKeys / 2], const AttentionLaunch& launch,
                                     const float* bias, Lane lane, int key, int length) {
  const float scale = launch.scale * kLog2e;
  // Distances some query sees: only there may the bias be read.
  const int least = max(-launch.reach_back, 1 - length);
  const int most = min(launch.reach_ahead, length - 1);
  const auto bias_at = [&](int distance) {
    return bias == nullptr ? 0.0f : bias[min(max(distance, least), most)] * kLog2e;
  };
  // Row g + 8 of a tile of 8 keys is as far from them as row g is from the 8 keys before.
  const int distance = key + 2 * lane.t - lane.row;
  float before[2] = {bias_at(distance - 8), bias_at(distance - 7)};
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int d = distance + 8 * n + e;
      const float here = bias_at(d);
      const bool inside = key + 8 * n + 2 * lane.t + e < length;
      const bool sees = inside && d >= -launch.reach_back && d <= launch.reach_ahead;
      const bool sees8 = inside && d - 8 >= -launch.reach_back && d - 8 <= launch.reach_ahead;
      float& low = s[4 * n + e];
      float& high = s[4 * n + 2 + e];
      low = sees ? fmaf(low, scale, here) : kMinusInfinity;
      high = sees8 ? fmaf(high, scale, before[e]) : kMinusInfinity;
      before[e] = here;
    }
  }
}

// The running base and sum of a lane's two queries. Weights are exp2(s * scale - base), where base
// trails the maximum: it moves only when a score is above the one that set it by more than kSlack,
// so that accumulated values are rarely rescaled, and it lies kLift below, so that 16-bit weights
// keep their digits far below the maximum. Every weight is at most 2^(kSlack + kLift).
//
// A step in which no base of the warp moves needs no exchange between lanes but the vote.
struct OnlineSoftmax {
  static constexpr float kSlack = 4.0f;
  static constexpr float kLift = 8.0f;
  static constexpr float kBelowAll = -1e30f;

  float limit[2] = {kMinusInfinity, kMinusInfinity};  // scores above it move the base
  float base[2] = {kBelowAll, kBelowAll};
  float sum[2] = {0.0f, 0.0f};  // this lane's columns only
  float factor[2];              // what to multiply values so far by, if a base moved

  // s becomes weights. Returns whether any query of the warp needs its values rescaled.
  template <int kValues>
  __device__ bool Update(float (&s)[kValues], float scale) {
    float largest[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      largest[r] = fmaxf(s[2 * r], s[2 * r + 1]);
#pragma unroll
      for (int i = 4; i < kValues; i += 4) {
        largest[r] = fmaxf(largest[r], fmaxf(s[i + 2 * r], s[i + 2 * r + 1]));
      }
    }
    const bool moved = __any_sync(~0u, largest[0] > limit[0] || largest[1] > limit[1]);
    if (moved) Move(largest, scale);
#pragma unroll
    for (int i = 0; i < kValues; ++i) s[i] = Exp2(fmaf(s[i], scale, -base[i % 4 / 2]));
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float partial[2] = {s[2 * r], s[2 * r + 1]};
#pragma unroll
      for (int i = 4; i < kValues; i += 4) {
        partial[0] += s[i + 2 * r];
        partial[1] += s[i + 2 * r + 1];
      }
      sum[r] += partial[0] + partial[1];
    }
    return moved;
  }

  // Moves the bases of queries whose largest score, of the quad's lanes, is above the limit.
  __device__ void Move(const float (&lane_largest)[2], float scale) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float largest = lane_largest[r];
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
      factor[r] = 1.0f;
      if (largest > limit[r]) {
        const float moved = fmaf(largest, scale, -kLift);
        factor[r] = Exp2(base[r] - moved);
        sum[r] *= factor[r];
        base[r] = moved;
        limit[r] = largest + kSlack / scale;
      }
    }
  }

  template <int kValues>
  __device__ void Rescale(float (&values)[kValues]) const {
#pragma unroll
    for (int i = 0; i < kValues; ++i) values[i] *= factor[i % 4 / 2];
  }

  // 1 / the whole row's sum.
  __device__ float Inverse(int r) const {
    float whole = sum[r];
    whole += __shfl_xor_sync(~0u, whole, 1);
    whole += __shfl_xor_sync(~0u, whole, 2);
    return 1.0f / whole;
  }
};

// Writes a warp's 16 rows of weighted values. `to` is the head's columns of the sequence's first
// row, in bytes; rows outside [begin, end) are left alone.
template <int kHeadSize, typename T>
__device__ inline void StoreValues(float (&o)[kHeadSize / 2], const OnlineSoftmax& softmax,
                                   uint8_t* to, int64_t stride, Element element, Lane lane,
                                   int end) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float inverse = softmax.Inverse(r);
    const int row = lane.row + 8 * r;
#pragma unroll
    for (int c = 0; c < kHeadSize / 32; ++c) {
      if (element == Element::kF32) {
        if (row >= end) continue;
#pragma unroll
        for (int u = 0; u < 4; ++u) {
          const int i = 16 * c + 4 * u + 2 * r;
          *reinterpret_cast<float2*>(to + (row * stride + 32 * c + 8 * u + 2 * lane.t) * 4) =
              make_float2(o[i] * inverse, o[i + 1] * inverse);
        }
      } else {
        uint32_t words[4];
#pragma unroll
        for (int u = 0; u < 4; ++u) {
          const int i = 16 * c + 4 * u + 2 * r;
          words[u] = Pack(o[i] * inverse, o[i + 1] * inverse, T());
        }
        TransposeQuad(words, lane.t);
        if (row >= end) continue;
        *reinterpret_cast<uint4*>(to + (row * stride + 32 * c + 8 * lane.t) * 2) =
            make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
  }
}

// Calls launch.template operator()<T, kHeadSize, kGeneral>() for what `args` asks; kGeneral: with
// a bias or a mask.
template <typename Launch>
cudaError_t LaunchForShape(const AttentionLaunch& args, const Launch& launch) {
  const bool general =
      args.bias != nullptr || args.reach_back < INT32_MAX / 2 || args.reach_ahead < INT32_MAX / 2;
  const auto with_size = [&]<typename T, int kHeadSize>() {
    return general ? launch.template operator()<T, kHeadSize, true>()
                   : launch.template operator()<T, kHeadSize, false>();
  };
  const auto with_type = [&]<typename T>() {
    switch (args.head_size) {
      case 32:
        return with_size.template operator()<T, 32>();
      case 64:
        return with_size.template operator()<T, 64>();
      case 128:
        return with_size.template operator()<T, 128>();
      default:
        return cudaErrorInvalidValue;
    }
  };
  if (args.tile_count == 0) return cudaSuccess;
  return args.element == Element::kBf16 ? with_type.template operator()<__nv_bfloat16>()
                                        : with_type.template operator()<__half>();
}

}  // namespace octavo::cuda
