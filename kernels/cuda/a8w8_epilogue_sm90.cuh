// What follows the a8w8 products of Hopper in the registers of a warpgroup: scales, bias, GELU, and
// the output's encoding.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/gelu.cuh"
#include "kernels/cuda/linear_a8w8_sm90.h"

namespace octavo::cuda::a8w8 {

// What a kernel needs of A8W8Args.
struct Parameters {
  int rows;
  const int32_t* device_rows;
  int n;
  int k_blocks;
  const float* row_scales;  // int8
  const float* weight_scales;
  const float* bias;
  bool gelu;
  A8W8Output output_kind;
  void* output;
  int64_t output_stride;
  float* output_scales;
  int64_t output_scale_stride;
};

// The rows and columns a thread holds of its warpgroup's tile: x[4 * j + {0, 1}] is row `row`,
// x[4 * j + {2, 3}] row + 8. With the packing of A8W8Channel the 16 values of a group g of four j
// are channels column + 32 * g + 0..7 of both rows.
struct ThreadTile {
  int row;
  int column;
  bool valid[2];  // rows below the count
};

__device__ __forceinline__ float4 LoadFour(const float* from) {
  return __ldg(reinterpret_cast<const float4*>(from));
}

// Of the 8 neighbouring channels a thread finishes at a time.
struct Channels {
  float scale[8];
  float bias[8];
};

// Where a tile's channels are read: Load(column) gives 8 from a column of the output on.
struct GlobalChannels {
  const float* scales;
  const float* bias;  // or null
  int n;

  __device__ __forceinline__ Channels Load(int column) const {
    Channels channels = {};
    if (column >= n) return channels;
    *reinterpret_cast<float4*>(channels.scale) = LoadFour(scales + column);
    *reinterpret_cast<float4*>(channels.scale + 4) = LoadFour(scales + column + 4);
    if (bias != nullptr) {
      *reinterpret_cast<float4*>(channels.bias) = LoadFour(bias + column);
      *reinterpret_cast<float4*>(channels.bias + 4) = LoadFour(bias + column + 4);
    }
    return channels;
  }
};

__device__ __forceinline__ uint32_t PackF16(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ uint32_t PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ uint32_t PackE4m3(float a, float b, float c, float d) {
  uint16_t low, high;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(b), "f"(a));
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(d), "f"(c));
  return static_cast<uint32_t>(high) << 16 | low;
}

// The largest of a row's values that four neighbouring lanes hold; NaN if there is one.
__device__ __forceinline__ float MaxOfRow(float largest) {
  largest = MaxOrNan(largest, __shfl_xor_sync(0xffffffff, largest, 1));
  return MaxOrNan(largest, __shfl_xor_sync(0xffffffff, largest, 2));
}

// Stores 8 neighbouring values of a row.
template <A8W8Output kKind>
__device__ __forceinline__ void StoreRow(const float (&x)[8], int64_t row, int column,
                                         const Parameters& p) {
  const int64_t at = row * p.output_stride + column;
  if constexpr (kKind == A8W8Output::kF32) {
    float4* to = reinterpret_cast<float4*>(static_cast<float*>(p.output) + at);
    to[0] = make_float4(x[0], x[1], x[2], x[3]);
    to[1] = make_float4(x[4], x[5], x[6], x[7]);
  } else {
    constexpr auto kPack = kKind == A8W8Output::kBf16 ? PackBf16 : PackF16;
    *reinterpret_cast<uint4*>(static_cast<uint16_t*>(p.output) + at) =
        make_uint4(kPack(x[0], x[1]), kPack(x[2], x[3]), kPack(x[4], x[5]), kPack(x[6], x[7]));
  }
}

// Encodes 128 columns of a row, of which this thread holds x[0..7] at `column`, x[8..15] 32 further
// and so on. 448 is e4m3's largest value; a row that is nearly zero gets zeros and scale 0, one
// that is not finite zeros and such a scale (as on the CPU).
__device__ __forceinline__ void EncodeRow(float (&x)[32], int64_t row, bool valid, int column,
                                          const Parameters& p) {
  constexpr float kLargest = 448.0f;
  constexpr float kTiny = 0x1p-100f;
  float largest = 0.0f;
#pragma unroll
  for (float value : x) largest = MaxOrNan(largest, fabsf(value));
  largest = MaxOfRow(largest);
  const float inverse = kLargest / largest;
  const uint32_t mask = largest >= kTiny && largest < INFINITY ? 0xffffffff : 0;
  if (!valid || column >= p.n) return;
  if (threadIdx.x % 4 == 0) {
    p.output_scales[column / 128 * p.output_scale_stride + row] =
        largest < kTiny ? 0.0f : largest / kLargest;
  }
  uint8_t* to = static_cast<uint8_t*>(p.output) + row * p.output_stride + column;
#pragma unroll
  for (int i = 0; i < 32; i += 8) {
    if (column + 4 * i >= p.n) break;
#pragma unroll
    for (int j = i; j < i + 8; ++j) x[j] *= inverse;
    *reinterpret_cast<uint2*>(to + 4 * i) =
        make_uint2(PackE4m3(x[i], x[i + 1], x[i + 2], x[i + 3]) & mask,
                   PackE4m3(x[i + 4], x[i + 5], x[i + 6], x[i + 7]) & mask);
  }
}

// The 16 values of a group of a thread's channels, 8 of each row: scales and bias.
template <class Product>
__device__ __forceinline__ void ScaleGroup(const Product& product, int group,
                                           const Channels& channels, float (&x)[2][8]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const int channel = i / 4 * 2 + i % 2;
    x[i / 2 % 2][channel] =
        fmaf(product(16 * group + i), channels.scale[channel], channels.bias[channel]);
  }
}

// Everything after the product, 8 channels of both rows at a time. product(i) is sum i of the
// thread's kCount, times the scale of its row.
template <A8W8Output kKind, int kCount, class Product, class Source>
__device__ __forceinline__ void FinishAs(const Product& product, const ThreadTile& tile,
                                         const Source& source, const Parameters& p) {
  float block[2][32];  // kE4m3: the rows' values of 128 columns
  Channels next = source.Load(tile.column);
#pragma unroll
  for (int group = 0; group < kCount / 16; ++group) {
    const int column = tile.column + 32 * group;
    const Channels channels = next;
    if (group + 1 < kCount / 16) next = source.Load(column + 32);
    float x[2][8];
    ScaleGroup(product, group, channels, x);
    if (kKind != A8W8Output::kE4m3 && p.gelu) {
#pragma unroll
      for (int i = 0; i < 16; ++i) x[i / 8][i % 8] = Gelu(x[i / 8][i % 8]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if constexpr (kKind == A8W8Output::kE4m3) {
#pragma unroll
        for (int i = 0; i < 8; ++i) block[half][group % 4 * 8 + i] = x[half][i];
        if (group % 4 == 3) {
          EncodeRow(block[half], tile.row + 8 * half, tile.valid[half], column - 96, p);
        }
        continue;
      }
      if (tile.valid[half] && column < p.n) {
        StoreRow<kKind>(x[half], tile.row + 8 * half, column, p);
      }
    }
  }
}

__device__ __forceinline__ uint32_t PackE4m3(__half2 low, __half2 high) {
  uint16_t codes[2];
  asm("cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;"
      : "=h"(codes[0])
      : "r"(*reinterpret_cast<const uint32_t*>(&low)));
  asm("cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;"
      : "=h"(codes[1])
      : "r"(*reinterpret_cast<const uint32_t*>(&high)));
  return static_cast<uint32_t>(codes[1]) << 16 | codes[0];
}

// As EncodeRow, of values in f16: x[0..3] at `column`, x[4..7] 32 further and so on. The factor to
// the codes is rounded down to f16 and the scale is its inverse. Where it lies beyond f16 it is a
// product of two factors, of at most 2^30, which reaches f16's smallest values.
__device__ __forceinline__ void EncodeHalfRow(__half2 (&x)[16], int64_t row, bool valid, int column,
                                              const Parameters& p) {
  constexpr float kLargest = 448.0f;
  constexpr float kMostFactor = 0x1p15f;
  __half2 pair = __habs2(x[0]);
#pragma unroll
  for (int i = 1; i < 16; ++i) pair = __hmax2_nan(pair, __habs2(x[i]));
  const float largest = MaxOfRow(MaxOrNan(__low2float(pair), __high2float(pair)));
  const bool finite = largest < INFINITY;
  const float wanted = __fdividef(kLargest, largest);
  const __half factor = __float2half_rd(fminf(wanted, kMostFactor));
  float scale = __fdividef(1.0f, __half2float(factor));
#pragma unroll
  for (__half2& value : x) value = __hmul2(value, __half2half2(factor));
  if (wanted > kMostFactor) {
    const __half more = __float2half_rd(fminf(wanted / kMostFactor, kMostFactor));
    scale /= __half2float(more);
#pragma unroll
    for (__half2& value : x) value = __hmul2(value, __half2half2(more));
  }
  if (!valid || column >= p.n) return;
  if (threadIdx.x % 4 == 0) {
    p.output_scales[column / 128 * p.output_scale_stride + row] = largest == 0.0f ? 0.0f
                                                                  : finite        ? scale
                                                                                  : largest;
  }
  const uint32_t mask = finite ? 0xffffffff : 0;
  uint8_t* to = static_cast<uint8_t*>(p.output) + row * p.output_stride + column;
#pragma unroll
  for (int i = 0; i < 16; i += 4) {
    if (column + 8 * i >= p.n) break;
    *reinterpret_cast<uint2*>(to + 8 * i) =
        make_uint2(PackE4m3(x[i], x[i + 1]) & mask, PackE4m3(x[i + 2], x[i + 3]) & mask);
  }
}

// FinishAs with GELU and e4m3: two values an instruction, from the bias on.
template <int kCount, class Product, class Source>
__device__ __forceinline__ void FinishGeluE4m3(const Product& product, const ThreadTile& tile,
                                               const Source& source, const Parameters& p) {
  __half2 block[2][16];
  Channels next = source.Load(tile.column);
#pragma unroll
  for (int group = 0; group < kCount / 16; ++group) {
    const int column = tile.column + 32 * group;
    const Channels channels = next;
    if (group + 1 < kCount / 16) next = source.Load(column + 32);
    float x[2][8];
    ScaleGroup(product, group, channels, x);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        block[half][group % 4 * 4 + i] =
            Gelu(__floats2half2_rn(x[half][2 * i], x[half][2 * i + 1]));
      }
      if (group % 4 == 3) {
        EncodeHalfRow(block[half], tile.row + 8 * half, tile.valid[half], column - 96, p);
      }
    }
  }
}

template <int kCount, bool kEncodes, class Product, class Source>
__device__ __forceinline__ void Finish(const Product& product, const ThreadTile& tile,
                                       const Source& source, const Parameters& p) {
  switch (p.output_kind) {
    case A8W8Output::kF32:
      return FinishAs<A8W8Output::kF32, kCount>(product, tile, source, p);
    case A8W8Output::kF16:
      return FinishAs<A8W8Output::kF16, kCount>(product, tile, source, p);
    case A8W8Output::kBf16:
      return FinishAs<A8W8Output::kBf16, kCount>(product, tile, source, p);
    case A8W8Output::kE4m3:
      if constexpr (kEncodes && kCount % 64 == 0) {
        if (p.gelu) return FinishGeluE4m3<kCount>(product, tile, source, p);
        FinishAs<A8W8Output::kE4m3, kCount>(product, tile, source, p);
      }
      return;
  }
}

}  // namespace octavo::cuda::a8w8
