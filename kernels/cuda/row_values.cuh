// A row of values held by one warp: lane l has columns 8 (l + 32 i) .. + 7 for i < kChunks. 128
// columns, those that share an e4m3 scale, are 16 neighbouring lanes.
#pragma once

#include "kernels/cuda/elements.cuh"

namespace octavo::cuda {

// What to multiply by, and the scale that undoes it. Magnitudes are compared as their bits, where a
// NaN is above infinity, so that none is lost.
struct Scaling {
  float scale, inverse;

  __device__ Scaling(uint32_t largest_bits, float limit) {
    const float largest = __uint_as_float(largest_bits);
    const bool finite = largest_bits < 0x7f800000u;
    const bool encoded = finite && largest >= kLeastEncoded;
    inverse = encoded ? __fdiv_rn(limit, largest) : 0.0f;
    scale = encoded ? __fdiv_rn(largest, limit) : finite ? 0.0f : __uint_as_float(0x7fc00000u);
  }
  // 0 where x is not finite.
  __device__ float operator()(float x) const { return inverse == 0.0f ? 0.0f : x * inverse; }
};

template <int kChunks>
struct RowValues {
  float x[kChunks][8] = {};
  const int lane;
  const int chunks;  // of the row: columns / 8

  __device__ RowValues(int lane, int64_t columns)
      : lane(lane), chunks(static_cast<int>(columns / 8)) {}

  __device__ bool Has(int i) const { return lane + 32 * i < chunks; }
  __device__ int Column(int i) const { return 8 * (lane + 32 * i); }

  // Calls visit(x[i], first column) for the chunks this lane has; the others stay 0.
  template <typename Visit>
  __device__ void ForEachChunk(const Visit& visit) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      if (Has(i)) visit(x[i], Column(i));
    }
  }

  __device__ void Add(const Matrix& matrix, int64_t row) {
    const int64_t begin = row * matrix.stride;
    if (matrix.element == Element::kF32) {
      Add(static_cast<const float*>(matrix.values) + begin);
    } else if (matrix.element == Element::kBf16) {
      Add16<__nv_bfloat162>(static_cast<const __nv_bfloat16*>(matrix.values) + begin);
    } else {
      Add16<__half2>(static_cast<const __half*>(matrix.values) + begin);
    }
  }

  // Both rows' loads are on their way before the first is added.
  __device__ void Add(const Matrix& a, const Matrix& b, int64_t row) {
    if (a.element != b.element || a.element == Element::kF32) {
      Add(a, row);
      Add(b, row);
    } else if (a.element == Element::kBf16) {
      Add16<__nv_bfloat162>(static_cast<const __nv_bfloat16*>(a.values) + row * a.stride,
                            static_cast<const __nv_bfloat16*>(b.values) + row * b.stride);
    } else {
      Add16<__half2>(static_cast<const __half*>(a.values) + row * a.stride,
                     static_cast<const __half*>(b.values) + row * b.stride);
    }
  }

  __device__ void Add(const float* from) {
    AddBatches<float4[2]>(
        [&](float4(&loaded)[2], int column) {
          loaded[0] = *reinterpret_cast<const float4*>(from + column);
          loaded[1] = *reinterpret_cast<const float4*>(from + column + 4);
        },
        [](const float4(&loaded)[2], float(&to)[8]) {
          const float values[8] = {loaded[0].x, loaded[0].y, loaded[0].z, loaded[0].w,
                                   loaded[1].x, loaded[1].y, loaded[1].z, loaded[1].w};
#pragma unroll
          for (int e = 0; e < 8; ++e) to[e] += values[e];
        });
  }

  template <typename Pair, typename... T>
  __device__ void Add16(const T*... from) {
    constexpr int kRows = sizeof...(T);
    AddBatches<uint4[kRows]>(
        [&](uint4(&loaded)[kRows], int column) {
          uint4* to = loaded;
          ((*to++ = *reinterpret_cast<const uint4*>(from + column)), ...);
        },
        [](const uint4(&loaded)[kRows], float(&to)[8]) {
#pragma unroll
          for (const uint4& row : loaded) {
            const Pair* pairs = reinterpret_cast<const Pair*>(&row);
#pragma unroll
            for (int e = 0; e < 8; e += 2) {
              const float2 pair = ToFloats(pairs[e / 2]);
              to[e] += pair.x;
              to[e + 1] += pair.y;
            }
          }
        });
  }

  // x = (x - mean) / sqrt(variance + epsilon) * gain + bias. `gain_and_bias` calls back with both
  // for a chunk.
  template <typename GainAndBias>
  __device__ void LayerNorm(float epsilon, const GainAndBias& gain_and_bias) {
    const float share = 1.0f / static_cast<float>(8 * chunks);
    float sum = 0.0f;
    ForEachChunk([&](float(&values)[8], int) {
#pragma unroll
      for (int e = 0; e < 8; ++e) sum += values[e];
    });
    const float mean = WarpSum(sum) * share;
    float squares = 0.0f;
    ForEachChunk([&](float(&values)[8], int) {
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        values[e] -= mean;
        squares = fmaf(values[e], values[e], squares);
      }
    });
    const float inverse = 1.0f / sqrtf(fmaf(WarpSum(squares), share, epsilon));
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      if (!Has(i)) continue;
#pragma unroll
      for (int e = 0; e < 8; e += 4) {
        const auto [gain, bias] = gain_and_bias(i, e);
        x[i][e] = fmaf(x[i][e] * inverse, gain.x, bias.x);
        x[i][e + 1] = fmaf(x[i][e + 1] * inverse, gain.y, bias.y);
        x[i][e + 2] = fmaf(x[i][e + 2] * inverse, gain.z, bias.z);
        x[i][e + 3] = fmaf(x[i][e + 3] * inverse, gain.w, bias.w);
      }
    }
  }

  // Writes the row as `to`'s element, by the definitions of encode.cuh.
  __device__ void Encode(const Matrix& to, int64_t row) {
    switch (to.element) {
      case Element::kF32:
        ForEachChunk([&](float(&values)[8], int column) {
          float* at = static_cast<float*>(to.values) + row * to.stride + column;
          *reinterpret_cast<float4*>(at) = make_float4(values[0], values[1], values[2], values[3]);
          *reinterpret_cast<float4*>(at + 4) =
              make_float4(values[4], values[5], values[6], values[7]);
        });
        break;
      case Element::kInt8:
        EncodeInt8(to, row);
        break;
      case Element::kE4m3:
        EncodeE4m3(to, row);
        break;
      case Element::kBf16:
        Encode16<__nv_bfloat162>(static_cast<__nv_bfloat16*>(to.values) + row * to.stride);
        break;
      default:
        Encode16<__half2>(static_cast<__half*>(to.values) + row * to.stride);
    }
  }

 private:
  // Loads several chunks before the first is added.
  template <typename Loaded, typename Load, typename AddTo>
  __device__ void AddBatches(const Load& load, const AddTo& add_to) {
    constexpr int kBatch = kChunks < 8 ? kChunks : 4;
#pragma unroll
    for (int first = 0; first < kChunks; first += kBatch) {
      Loaded loaded[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (Has(first + i)) load(loaded[i], Column(first + i));
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (Has(first + i)) add_to(loaded[i], x[first + i]);
      }
    }
  }

  __device__ static float2 ToFloats(__half2 x) { return __half22float2(x); }
  __device__ static float2 ToFloats(__nv_bfloat162 x) { return __bfloat1622float2(x); }
  __device__ static __half2 FromFloats(float2 x, __half2) { return __float22half2_rn(x); }
  __device__ static __nv_bfloat162 FromFloats(float2 x, __nv_bfloat162) {
    return __float22bfloat162_rn(x);
  }

  __device__ static uint32_t LargestBits(const float (&values)[8]) {
    uint32_t largest = 0;
#pragma unroll
    for (int e = 0; e < 8; ++e) largest = max(largest, __float_as_uint(values[e]) & 0x7fffffffu);
    return largest;
  }

  template <typename Pair, typename T>
  __device__ void Encode16(T* to) {
    ForEachChunk([&](float(&values)[8], int column) {
      Pair pairs[4];
#pragma unroll
      for (int e = 0; e < 8; e += 2) {
        pairs[e / 2] = FromFloats(make_float2(values[e], values[e + 1]), Pair());
      }
      *reinterpret_cast<uint4*>(to + column) = *reinterpret_cast<const uint4*>(pairs);
    });
  }

  __device__ void EncodeInt8(const Matrix& to, int64_t row) {
    uint32_t largest = 0;
    ForEachChunk([&](float(&values)[8], int) { largest = max(largest, LargestBits(values)); });
    const Scaling scaling(__reduce_max_sync(~0u, largest), kLargestInt8);
    int sum = 0;
    ForEachChunk([&](float(&values)[8], int column) {
      char4 q[2];
#pragma unroll
      for (int e = 0; e < 8; e += 4) {
        int each[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          each[i] = __float2int_rn(scaling(values[e + i]));
          sum += each[i];
        }
        q[e / 4] = make_char4(each[0], each[1], each[2], each[3]);
      }
      *reinterpret_cast<uint2*>(static_cast<int8_t*>(to.values) + row * to.stride + column) =
          *reinterpret_cast<const uint2*>(q);
    });
    if (to.sums != nullptr) sum = __reduce_add_sync(~0u, sum);
    if (lane == 0) {
      to.scales[row] = scaling.scale;
      if (to.sums != nullptr) to.sums[row] = sum;
    }
  }

  __device__ void EncodeE4m3(const Matrix& to, int64_t row) {
    uint32_t largest[kChunks];
#pragma unroll
    for (int i = 0; i < kChunks; ++i) largest[i] = LargestBits(x[i]);
#pragma unroll
    for (int step = 8; step > 0; step /= 2) {
#pragma unroll
      for (uint32_t& of_chunk : largest) {
        of_chunk = max(of_chunk, __shfl_xor_sync(~0u, of_chunk, step));
      }
    }
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      if (!Has(i)) continue;
      const Scaling scaling(largest[i], kLargestE4m3);
      __nv_fp8x4_storage_t q[2];
#pragma unroll
      for (int e = 0; e < 8; e += 4) {
        const __nv_fp8x4_e4m3 four(make_float4(scaling(x[i][e]), scaling(x[i][e + 1]),
                                               scaling(x[i][e + 2]), scaling(x[i][e + 3])));
        q[e / 4] = four.__x;
      }
      *reinterpret_cast<uint2*>(static_cast<uint8_t*>(to.values) + row * to.stride + Column(i)) =
          make_uint2(q[0], q[1]);
      if (lane % 16 == 0) {
        to.scales[Column(i) / kE4m3Columns * to.scale_stride + row] = scaling.scale;
      }
    }
  }
};

}  // namespace octavo::cuda
