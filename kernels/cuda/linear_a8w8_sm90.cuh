// The a8w8 product on Hopper, common to fp8 and int8: a persistent, warp-specialized kernel.
//
// A block computes tiles of 128 rows by kColumns channels, in the order of its index, channels
// fastest: the blocks at work then share few rows of activations, each read from memory once, and
// the weight stays in the L2 cache. One warp copies 128 bytes along K a stage (tensor maps,
// 128-byte swizzle) into a ring of stages; two warpgroups of 64 rows each multiply and finish. A
// stage is full when its bytes have landed and empty when all warps that read it have said so.
//
// Two blocks in a cluster that load half of a weight tile each, for both, were tried: half the
// speed (8192 x 3072 x 1024 on an H200: 590 TFLOP/s for 879).
//
// The second warpgroup starts a stage late, so that one finishes its rows while the other
// keeps the tensor cores busy.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/gelu.cuh"
#include "kernels/cuda/linear_a8w8_sm90.h"
#include "kernels/cuda/ptx_sm90.cuh"
#include "kernels/cuda/tensor_map.h"

namespace octavo::cuda::a8w8 {

constexpr int kTileRows = 128;
constexpr int kGroupRows = 64;  // of a warpgroup
constexpr int kStageK = 128;    // bytes along K, one row of the swizzle
constexpr int kConsumerWarps = 8;
constexpr int kThreads = (kConsumerWarps + 4) * 32;
// 65536 registers = 128 * (40 + 2 * 232), rounded down to what setmaxnreg takes.
constexpr int kProducerRegisters = 40;
constexpr int kConsumerRegisters = 232;
constexpr int kSharedBytes = 227 * 1024;

template <int kColumns, bool kInputScales>
struct Stages {
  static constexpr int kInputBytes = kTileRows * kStageK;
  static constexpr int kWeightBytes = kColumns * kStageK;
  static constexpr int kScaleBytes = kInputScales ? kTileRows * 4 : 0;
  static constexpr int kBytes = kInputBytes + kWeightBytes + kScaleBytes;
  static constexpr int kCount = (kSharedBytes - 256) / kBytes;
  // Offsets in shared memory.
  static constexpr int kScales = kCount * (kInputBytes + kWeightBytes);
  static constexpr int kBarriers = kScales + kCount * kScaleBytes;
  static constexpr int kTotal = kBarriers + 2 * kCount * 8;
};

// A place in the ring of stages.
template <class S>
struct Cursor {
  uint32_t base;  // of shared memory
  int stage = 0;
  uint32_t phase = 0;

  __device__ uint32_t input() const { return base + stage * S::kInputBytes; }
  __device__ uint32_t weight() const {
    return base + S::kCount * S::kInputBytes + stage * S::kWeightBytes;
  }
  __device__ uint32_t scales() const { return base + S::kScales + stage * S::kScaleBytes; }
  __device__ uint32_t full() const { return base + S::kBarriers + stage * 8; }
  __device__ uint32_t empty() const { return full() + S::kCount * 8; }
  __device__ void Advance() {
    if (++stage == S::kCount) {
      stage = 0;
      phase ^= 1;
    }
  }
};

struct Maps {
  CUtensorMap input, weight, input_scales;
};

// What the kernel needs of A8W8Args.
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

__device__ __forceinline__ Channels LoadChannels(int column, const Parameters& p) {
  Channels channels = {};
  if (column < p.n) {
    *reinterpret_cast<float4*>(channels.scale) = LoadFour(p.weight_scales + column);
    *reinterpret_cast<float4*>(channels.scale + 4) = LoadFour(p.weight_scales + column + 4);
    if (p.bias != nullptr) {
      *reinterpret_cast<float4*>(channels.bias) = LoadFour(p.bias + column);
      *reinterpret_cast<float4*>(channels.bias + 4) = LoadFour(p.bias + column + 4);
    }
  }
  return channels;
}

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

// Everything after the product, 8 channels of both rows at a time. product(i) is sum i of the
// thread's kCount, times the scale of its row.
template <A8W8Output kKind, int kCount, class Product>
__device__ __forceinline__ void FinishAs(const Product& product, const ThreadTile& tile,
                                         const Parameters& p) {
  float block[2][32];  // kE4m3: the rows' values of 128 columns
  Channels next = LoadChannels(tile.column, p);
#pragma unroll
  for (int group = 0; group < kCount / 16; ++group) {
    const int column = tile.column + 32 * group;
    const Channels channels = next;
    if (group + 1 < kCount / 16) next = LoadChannels(column + 32, p);
    float x[2][8];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int channel = i / 4 * 2 + i % 2;
      x[i / 2 % 2][channel] =
          fmaf(product(16 * group + i), channels.scale[channel], channels.bias[channel]);
    }
    if (p.gelu) {
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

template <int kCount, bool kEncodes, class Product>
__device__ __forceinline__ void Finish(const Product& product, const ThreadTile& tile,
                                       const Parameters& p) {
  switch (p.output_kind) {
    case A8W8Output::kF32:
      return FinishAs<A8W8Output::kF32, kCount>(product, tile, p);
    case A8W8Output::kF16:
      return FinishAs<A8W8Output::kF16, kCount>(product, tile, p);
    case A8W8Output::kBf16:
      return FinishAs<A8W8Output::kBf16, kCount>(product, tile, p);
    case A8W8Output::kE4m3:
      if constexpr (kEncodes && kCount % 64 == 0)
        FinishAs<A8W8Output::kE4m3, kCount>(product, tile, p);
      return;
  }
}

// Product::Run multiplies and finishes a warpgroup's tile; it calls stage_done with the stage's
// empty barrier when its warp is done with a stage.
template <class Product>
__global__ void __launch_bounds__(kThreads, 1)
    Kernel(const __grid_constant__ Maps maps, const __grid_constant__ Parameters p) {
  constexpr int kColumns = Product::kColumns;
  using S = typename Product::S;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t base = ptx::SharedAddress(shared);
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);

  if (warp == 0 && ptx::ElectOne()) {
    Cursor<S> cursor{base};
    for (int i = 0; i < S::kCount; ++i, cursor.Advance()) {
      ptx::BarrierInit(cursor.full(), 1);
      ptx::BarrierInit(cursor.empty(), kConsumerWarps);
    }
    ptx::FenceBarrierInit();
  }
  __syncthreads();

  const int rows = p.device_rows != nullptr ? min(*p.device_rows, p.rows) : p.rows;
  const int column_tiles = (p.n + kColumns - 1) / kColumns;
  const int tiles = (rows + kTileRows - 1) / kTileRows * column_tiles;
  const auto row_of = [&](int tile) { return tile / column_tiles * kTileRows; };
  const auto column_of = [&](int tile) { return tile % column_tiles * kColumns; };

  if (warp >= kConsumerWarps) {
    ptx::GiveRegisters<kProducerRegisters>();
    if (warp == kConsumerWarps && ptx::ElectOne()) {
      Cursor<S> cursor{base};
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int row = row_of(tile);
        const int column = column_of(tile);
        for (int block = 0; block < p.k_blocks; ++block, cursor.Advance()) {
          ptx::BarrierWait(cursor.empty(), cursor.phase ^ 1);
          ptx::BarrierArriveExpect(cursor.full(), S::kBytes);
          const int k = block * kStageK;
          ptx::LoadTile(cursor.input(), &maps.input, k, row, cursor.full());
          ptx::LoadTile(cursor.weight(), &maps.weight, k, column, cursor.full());
          if (S::kScaleBytes > 0) {
            ptx::LoadTile(cursor.scales(), &maps.input_scales, row, block, cursor.full());
          }
        }
      }
    }
  } else {
    ptx::TakeRegisters<kConsumerRegisters>();
    const int group = warp / 4;
    const int lane = threadIdx.x % 32;
    Cursor<S> cursor{base};
    bool holds_other = group == 0;
    if (group == 1) ptx::NamedBarrierSync(1, kConsumerWarps * 32);
    const auto let_other_start = [&] {
      if (holds_other) ptx::NamedBarrierArrive(1, kConsumerWarps * 32);
      holds_other = false;
    };
    const auto stage_done = [&](uint32_t empty) {
      __syncwarp();
      if (lane == 0) ptx::BarrierArrive(empty);
      let_other_start();
    };
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      ThreadTile mine;
      mine.row = row_of(tile) + warp * 16 + lane / 4;
      mine.column = column_of(tile) + lane % 4 * 8;
      mine.valid[0] = mine.row < rows;
      mine.valid[1] = mine.row + 8 < rows;
      Product::Run(cursor, warp, lane, mine, p, stage_done);
    }
    let_other_start();  // where there was no tile
  }
}

template <class Product>
cudaError_t Launch(const A8W8Args& args, int multiprocessors, cudaStream_t stream) {
  using S = typename Product::S;
  if (args.rows == 0) return cudaSuccess;
  Maps maps;
  cudaError_t error = MakeTensorMap(args.input,
                                    {.columns = args.k,
                                     .rows = args.rows,
                                     .stride = args.input_stride,
                                     .box_columns = kStageK,
                                     .box_rows = kTileRows,
                                     .swizzle = CU_TENSOR_MAP_SWIZZLE_128B},
                                    &maps.input);
  if (error != cudaSuccess) return error;
  const int padded_n = (args.n + 31) / 32 * 32;
  error = MakeTensorMap(args.weight,
                        {.columns = args.k,
                         .rows = padded_n,
                         .stride = args.k,
                         .box_columns = kStageK,
                         .box_rows = Product::kColumns,
                         .swizzle = CU_TENSOR_MAP_SWIZZLE_128B},
                        &maps.weight);
  if (error != cudaSuccess) return error;
  const int k_blocks = (args.k + kStageK - 1) / kStageK;
  if (S::kScaleBytes > 0) {
    error = MakeTensorMap(args.input_scales,
                          {.type = CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                           .element_bytes = 4,
                           .columns = args.rows,
                           .rows = k_blocks,
                           .stride = args.input_scale_stride,
                           .box_columns = kTileRows,
                           .box_rows = 1},
                          &maps.input_scales);
    if (error != cudaSuccess) return error;
  }
  const Parameters parameters = {static_cast<int>(args.rows),
                                 args.device_rows,
                                 args.n,
                                 k_blocks,
                                 args.input_scales,
                                 args.weight_scales,
                                 args.bias,
                                 args.gelu,
                                 args.output_kind,
                                 args.output,
                                 args.output_stride,
                                 args.output_scales,
                                 args.output_scale_stride};
  static const cudaError_t prepared =
      cudaFuncSetAttribute(Kernel<Product>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kTotal);
  if (prepared != cudaSuccess) return prepared;

  const int64_t tiles = (args.rows + kTileRows - 1) / kTileRows *
                        ((args.n + Product::kColumns - 1) / Product::kColumns);
  const int blocks = static_cast<int>(tiles < multiprocessors ? tiles : multiprocessors);
  Kernel<Product><<<blocks, kThreads, S::kTotal, stream>>>(maps, parameters);
  return cudaGetLastError();
}

}  // namespace octavo::cuda::a8w8
