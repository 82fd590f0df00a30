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

#include "kernels/cuda/a8w8_epilogue_sm90.cuh"
#include "kernels/cuda/dependent_launch.cuh"
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

struct Maps {
  CUtensorMap input, weight, input_scales;
};

// A place in the ring of stages, as the warpgroup of rows from 64 * group sees it.
template <class S>
struct Cursor {
  uint32_t base;  // of shared memory
  int group = 0;
  int stage = 0;
  uint32_t phase = 0;

  __device__ uint32_t input() const {
    return base + stage * S::kInputBytes + group * (kGroupRows * kStageK);
  }
  __device__ uint32_t weight() const {
    return base + S::kCount * S::kInputBytes + stage * S::kWeightBytes;
  }
  __device__ uint32_t scales() const {
    return base + S::kScales + stage * S::kScaleBytes + group * (kGroupRows * 4);
  }
  __device__ uint32_t full() const { return base + S::kBarriers + stage * 8; }
  __device__ uint32_t empty() const { return full() + S::kCount * 8; }
  __device__ GlobalChannels channels(const Parameters& p) const {
    return {p.weight_scales, p.bias, p.n};
  }
  __device__ void WaitFull() const { ptx::BarrierWait(full(), phase); }
  __device__ void Advance() {
    if (++stage == S::kCount) {
      stage = 0;
      phase ^= 1;
    }
  }
};

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

  LetNextKernelStart();
  WaitForPreviousKernel();
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
    Cursor<S> cursor{base, group};
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

inline int KBlocks(const A8W8Args& args) { return (args.k + kStageK - 1) / kStageK; }

// Maps for boxes of `rows` rows of activations and `columns` channels.
inline cudaError_t MakeMaps(const A8W8Args& args, int rows, int columns, bool input_scales,
                            Maps* maps) {
  cudaError_t error = MakeTensorMap(args.input,
                                    {.columns = args.k,
                                     .rows = args.rows,
                                     .stride = args.input_stride,
                                     .box_columns = kStageK,
                                     .box_rows = rows,
                                     .swizzle = CU_TENSOR_MAP_SWIZZLE_128B},
                                    &maps->input);
  if (error != cudaSuccess) return error;
  error = MakeTensorMap(args.weight,
                        {.columns = args.k,
                         .rows = (args.n + kA8W8PackedRows - 1) / kA8W8PackedRows * kA8W8PackedRows,
                         .stride = args.k,
                         .box_columns = kStageK,
                         .box_rows = columns,
                         .swizzle = CU_TENSOR_MAP_SWIZZLE_128B},
                        &maps->weight);
  if (error != cudaSuccess || !input_scales) return error;
  return MakeTensorMap(args.input_scales,
                       {.type = CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                        .element_bytes = 4,
                        .columns = args.rows,
                        .rows = KBlocks(args),
                        .stride = args.input_scale_stride,
                        .box_columns = rows,
                        .box_rows = 1},
                       &maps->input_scales);
}

inline Parameters MakeParameters(const A8W8Args& args) {
  return {static_cast<int>(args.rows),
          args.device_rows,
          args.n,
          KBlocks(args),
          args.input_scales,
          args.weight_scales,
          args.bias,
          args.gelu,
          args.output_kind,
          args.output,
          args.output_stride,
          args.output_scales,
          args.output_scale_stride};
}

template <class Product>
cudaError_t Launch(const A8W8Args& args, int multiprocessors, cudaStream_t stream) {
  using S = typename Product::S;
  if (args.rows == 0) return cudaSuccess;
  Maps maps;
  const cudaError_t error = MakeMaps(args, kTileRows, Product::kColumns, S::kScaleBytes > 0, &maps);
  if (error != cudaSuccess) return error;
  static const cudaError_t prepared =
      cudaFuncSetAttribute(Kernel<Product>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kTotal);
  if (prepared != cudaSuccess) return prepared;

  const int64_t tiles = (args.rows + kTileRows - 1) / kTileRows *
                        ((args.n + Product::kColumns - 1) / Product::kColumns);
  const int blocks = static_cast<int>(tiles < multiprocessors ? tiles : multiprocessors);
  return LaunchDependent(Kernel<Product>, dim3(blocks), kThreads, S::kTotal, stream, maps,
                         MakeParameters(args));
}

}  // namespace octavo::cuda::a8w8
