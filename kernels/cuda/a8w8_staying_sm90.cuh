// The a8w8 product on Hopper where all of K of a tile of channels fits in shared memory and stays
// there: beside linear_a8w8_sm90.cuh, whose blocks load both operands of every tile, what is loaded
// from the L2 cache a sum is a half to a quarter.
//
// A block takes a run of units of 64 rows by kColumns channels, rows fastest. Its two warpgroups
// take them in turns, each with a ring of stages of activations of its own and a warp that fills
// it, so that one finishes its sums while the other multiplies. A third warp loads the channels
// when the run comes to the next tile of them.
#pragma once

#include "kernels/cuda/linear_a8w8_sm90.cuh"

namespace octavo::cuda::a8w8 {

// Shared memory: channels [k_blocks], then for each warpgroup `stages` of activations, then of
// scales, then the channels' scales and biases, then barriers.
template <class S>
struct StayingLayout {
  static constexpr int kInputBytes = kGroupRows * kStageK;
  static constexpr int kWeightBytes = S::kWeightBytes;
  static constexpr int kScaleBytes = S::kScaleBytes / 2;
  static constexpr int kChannelBytes = kWeightBytes / kStageK * 4;  // of scales, of biases
  static constexpr int kMostStages = 8;
  static constexpr int kLeastStages = 4;

  int k_blocks;
  int stages;

  static constexpr StayingLayout Make(int k_blocks) {
    const int left = kSharedBytes - k_blocks * (kWeightBytes + 8) - 8 - 2 * kChannelBytes;
    const int stages = left / (2 * (kInputBytes + kScaleBytes + 16));
    return {k_blocks, stages < kMostStages ? stages : kMostStages};
  }
  __host__ __device__ int inputs(int group) const {
    return k_blocks * kWeightBytes + group * stages * kInputBytes;
  }
  __host__ __device__ int scales(int group) const {
    return inputs(2) + group * stages * kScaleBytes;
  }
  __host__ __device__ int channels() const { return scales(2); }
  // Full, then empty.
  __host__ __device__ int barriers(int group) const {
    return channels() + 2 * kChannelBytes + group * stages * 16;
  }
  // Full, one for each 128 of K; then empty.
  __host__ __device__ int weight_barriers() const { return barriers(2); }
  __host__ __device__ int total() const { return weight_barriers() + (k_blocks + 1) * 8; }
};

// Scales and biases of the tile of channels in shared memory, whose first is `column`; those past n
// are zero.
struct SharedChannels {
  uint32_t scales;
  uint32_t bias;
  int column;
  int n;

  __device__ __forceinline__ Channels Load(int at) const {
    Channels channels = {};
    if (at >= n) return channels;
    const uint32_t offset = (at - column) * 4;
    ptx::LoadShared16(scales + offset, channels.scale);
    ptx::LoadShared16(scales + offset + 16, channels.scale + 4);
    ptx::LoadShared16(bias + offset, channels.bias);
    ptx::LoadShared16(bias + offset + 16, channels.bias + 4);
    return channels;
  }
};

// A warpgroup's place in its ring and in the channels.
template <class S>
struct StayingCursor {
  using Layout = StayingLayout<S>;

  __device__ StayingCursor(uint32_t base, const Layout& layout, int group, int n)
      : base_(base),
        inputs_(base + layout.inputs(group)),
        scales_(base + layout.scales(group)),
        barriers_(base + layout.barriers(group)),
        weight_barriers_(base + layout.weight_barriers()),
        channels_{base + layout.channels(), base + layout.channels() + Layout::kChannelBytes, 0, n},
        stages_(layout.stages),
        k_blocks_(layout.k_blocks) {}

  __device__ uint32_t input() const { return inputs_ + stage_ * Layout::kInputBytes; }
  __device__ uint32_t weight() const { return base_ + block_ * Layout::kWeightBytes; }
  __device__ uint32_t scales() const { return scales_ + stage_ * Layout::kScaleBytes; }
  __device__ uint32_t full() const { return barriers_ + stage_ * 8; }
  __device__ uint32_t empty() const { return barriers_ + (stages_ + stage_) * 8; }
  __device__ uint32_t phase() const { return phase_; }
  __device__ void WaitFull() const {
    ptx::BarrierWait(full(), phase_);
    ptx::BarrierWait(weight_barriers_ + block_ * 8, weight_phase_);
  }
  __device__ void Advance() {
    if (++block_ == k_blocks_) block_ = 0;
    if (++stage_ == stages_) {
      stage_ = 0;
      phase_ ^= 1;
    }
  }
  __device__ void EnterChannels(int column) { channels_.column = column; }
  // The channels have come even where none of them was multiplied: whoever leaves them did not run
  // ahead of those who still read the ones before.
  __device__ void LeaveChannels() {
    ptx::BarrierWait(weight_barriers_ + (k_blocks_ - 1) * 8, weight_phase_);
    weight_phase_ ^= 1;
  }
  __device__ SharedChannels channels(const Parameters&) const { return channels_; }

 private:
  const uint32_t base_, inputs_, scales_, barriers_, weight_barriers_;
  SharedChannels channels_;
  const int stages_, k_blocks_;
  int block_ = 0;
  int stage_ = 0;
  uint32_t phase_ = 0;
  uint32_t weight_phase_ = 0;
};

template <class Product>
__global__ void __launch_bounds__(kThreads, 1)
    StayingKernel(const __grid_constant__ Maps maps, const __grid_constant__ Parameters p,
                  const StayingLayout<typename Product::S> layout) {
  constexpr int kColumns = Product::kColumns;
  using S = typename Product::S;
  using Layout = StayingLayout<S>;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t base = ptx::SharedAddress(shared);
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
  const uint32_t weight_full = base + layout.weight_barriers();
  const uint32_t weight_empty = weight_full + p.k_blocks * 8;

  if (p.bias == nullptr && threadIdx.x < kColumns) {
    reinterpret_cast<float*>(shared + layout.channels() + Layout::kChannelBytes)[threadIdx.x] =
        0.0f;
  }
  if (warp == 0 && ptx::ElectOne()) {
    for (int group = 0; group < 2; ++group) {
      StayingCursor<S> cursor(base, layout, group, p.n);
      for (int i = 0; i < layout.stages; ++i, cursor.Advance()) {
        ptx::BarrierInit(cursor.full(), 1);
        ptx::BarrierInit(cursor.empty(), kConsumerWarps / 2);
      }
    }
    for (int block = 0; block < p.k_blocks; ++block) ptx::BarrierInit(weight_full + block * 8, 1);
    ptx::BarrierInit(weight_empty, kConsumerWarps);
    ptx::FenceBarrierInit();
  }
  __syncthreads();

  LetNextKernelStart();
  WaitForPreviousKernel();
  const int rows = p.device_rows != nullptr ? min(*p.device_rows, p.rows) : p.rows;
  const int row_units = (rows + kGroupRows - 1) / kGroupRows;
  const int64_t units = static_cast<int64_t>(row_units) * ((p.n + kColumns - 1) / kColumns);
  const int begin = static_cast<int>(units * blockIdx.x / gridDim.x);
  const int end = static_cast<int>(units * (blockIdx.x + 1) / gridDim.x);
  // Calls of_channels(first channel, first row unit, end of row units) for each tile of channels.
  const auto for_each_tile = [&](const auto& of_channels) {
    for (int unit = begin; unit < end;) {
      const int tile = unit / row_units;
      const int first = unit - tile * row_units;
      const int last = min(row_units, first + end - unit);
      of_channels(tile * kColumns, first, last);
      unit += last - first;
    }
  };

  if (warp >= kConsumerWarps) {
    ptx::GiveRegisters<kProducerRegisters>();
    const int group = warp - kConsumerWarps;
    if (group < 2 && ptx::ElectOne()) {
      StayingCursor<S> cursor(base, layout, group, p.n);
      for_each_tile([&](int, int first, int last) {
        for (int unit = first + group; unit < last; unit += 2) {
          for (int block = 0; block < p.k_blocks; ++block, cursor.Advance()) {
            ptx::BarrierWait(cursor.empty(), cursor.phase() ^ 1);
            ptx::BarrierArriveExpect(cursor.full(), Layout::kInputBytes + Layout::kScaleBytes);
            const int row = unit * kGroupRows;
            ptx::LoadTile(cursor.input(), &maps.input, block * kStageK, row, cursor.full());
            if (Layout::kScaleBytes > 0) {
              ptx::LoadTile(cursor.scales(), &maps.input_scales, row, block, cursor.full());
            }
          }
        }
      });
    } else if (group == 2 && ptx::ElectOne()) {
      uint32_t phase = 0;
      for_each_tile([&](int column, int, int) {
        ptx::BarrierWait(weight_empty, phase ^ 1);
        phase ^= 1;
        for (int block = 0; block < p.k_blocks; ++block) {
          const uint32_t full = weight_full + block * 8;
          const int bytes = block > 0 ? 0 : min(kColumns, p.n - column) * 4;
          const int arrays = p.bias != nullptr ? 2 : 1;
          ptx::BarrierArriveExpect(full, Layout::kWeightBytes + arrays * bytes);
          if (bytes > 0) {
            const uint32_t to = base + layout.channels();
            ptx::LoadBytes(to, p.weight_scales + column, bytes, full);
            if (arrays == 2)
              ptx::LoadBytes(to + Layout::kChannelBytes, p.bias + column, bytes, full);
          }
          ptx::LoadTile(base + block * Layout::kWeightBytes, &maps.weight, block * kStageK, column,
                        full);
        }
      });
    }
  } else {
    ptx::TakeRegisters<kConsumerRegisters>();
    const int group = warp / 4;
    const int lane = threadIdx.x % 32;
    StayingCursor<S> cursor(base, layout, group, p.n);
    // The second warpgroup starts when the first is half through its first sums.
    int to_start_other = group == 0 ? (p.k_blocks + 1) / 2 : 0;
    if (group == 1) ptx::NamedBarrierSync(1, kConsumerWarps * 32);
    const auto stage_done = [&](uint32_t empty) {
      __syncwarp();
      if (lane == 0) ptx::BarrierArrive(empty);
      if (to_start_other > 0 && --to_start_other == 0) {
        ptx::NamedBarrierArrive(1, kConsumerWarps * 32);
      }
    };
    for_each_tile([&](int column, int first, int last) {
      cursor.EnterChannels(column);
      for (int unit = first + group; unit < last; unit += 2) {
        ThreadTile mine;
        mine.row = unit * kGroupRows + warp % 4 * 16 + lane / 4;
        mine.column = column + lane % 4 * 8;
        mine.valid[0] = mine.row < rows;
        mine.valid[1] = mine.row + 8 < rows;
        Product::Run(cursor, warp, lane, mine, p, stage_done);
      }
      cursor.LeaveChannels();
      __syncwarp();
      if (lane == 0) ptx::BarrierArrive(weight_empty);
    });
    if (to_start_other > 0) ptx::NamedBarrierArrive(1, kConsumerWarps * 32);  // it had no rows
  }
}

template <class Product>
cudaError_t LaunchStaying(const A8W8Args& args, int multiprocessors, cudaStream_t stream) {
  using S = typename Product::S;
  using Layout = StayingLayout<S>;
  if (args.rows == 0) return cudaSuccess;
  const Layout layout = Layout::Make(KBlocks(args));
  if (layout.stages < Layout::kLeastStages) return cudaErrorInvalidValue;
  Maps maps;
  const cudaError_t error =
      MakeMaps(args, kGroupRows, Product::kColumns, S::kScaleBytes > 0, &maps);
  if (error != cudaSuccess) return error;
  static const cudaError_t prepared = cudaFuncSetAttribute(
      StayingKernel<Product>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (prepared != cudaSuccess) return prepared;
  const int64_t pairs = ((args.rows + kGroupRows - 1) / kGroupRows *
                             ((args.n + Product::kColumns - 1) / Product::kColumns) +
                         1) /
                        2;
  const int blocks = static_cast<int>(pairs < multiprocessors ? pairs : multiprocessors);
  return LaunchDependent(StayingKernel<Product>, dim3(blocks), kThreads, layout.total(), stream,
                         maps, MakeParameters(args), layout);
}

}  // namespace octavo::cuda::a8w8
