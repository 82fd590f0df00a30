// Attention with wgmma: each warpgroup computes 64 queries of one head; the warpgroups of a block
// share keys and values, which the bulk copy engine brings. A warpgroup's product of weights and
// values runs while it takes the exponentials of the next scores (FlashAttention-3,
// arXiv:2407.08608), and several warpgroups share a multiprocessor, so that the units of matrix
// products and of exponentials both stay busy.
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/ptx_sm90.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma_sm90.cuh"

namespace octavo::cuda {
namespace {

// Slots of the rings of keys and of values. In step j a warpgroup reads keys j + 1 and values j;
// another may still be in step j - 1, and two steps are on their way.
constexpr int kStages = 4;

template <int kHeadSize>
struct Shape {
  static constexpr int kGroups = kWgmmaQueries / 64;        // warpgroups of a block
  static constexpr int kKeys = 64;                          // of a step
  static constexpr int kBlocks = kHeadSize == 128 ? 1 : 2;  // on a multiprocessor
  static constexpr int kThreads = 128 * kGroups;
  using KeyTile = Tile<kHeadSize, kKeys>;
  static constexpr int kSharedBytes = 2 * kStages * KeyTile::kBytes + 1024;
  static constexpr uint32_t kGroupBytes = 8 * KeyTile::kPanelColumns * 2;
  static constexpr uint64_t kMode = kHeadSize == 32 ? 2 : 1;
  static constexpr uint64_t kKeyDescriptor = WgmmaDescriptor(0, kGroupBytes, kMode);
  static constexpr uint64_t kValueDescriptor =
      WgmmaDescriptor(KeyTile::kPanelBytes, kGroupBytes, kMode);
};

template <typename T, int kHeadSize, bool kGeneral>
__global__ void __launch_bounds__(Shape<kHeadSize>::kThreads, Shape<kHeadSize>::kBlocks)
    AttentionWgmma(const __grid_constant__ AttentionLaunch launch,
                   const __grid_constant__ CUtensorMap key_map,
                   const __grid_constant__ CUtensorMap value_map) {
  using S = Shape<kHeadSize>;
  using KeyTile = typename S::KeyTile;
  constexpr int kKeys = S::kKeys;
  extern __shared__ uint8_t unaligned[];
  __shared__ uint64_t barriers[2 * kStages];
  const AttentionTile tile = launch.tiles[blockIdx.x / launch.heads];
  LetNextKernelStart();
  if (tile.queries == 0) return;

  const int thread = threadIdx.x;
  const int warp = __shfl_sync(~0u, thread / 32, 0);  // the same in the warp, and known to be
  const int group = warp / 4;
  const int groups = (tile.queries + 63) / 64;  // that compute
  const int head = blockIdx.x % launch.heads, key_head = head / launch.heads_per_key_value_head;
  const int query_end = tile.query_begin + tile.queries;
  const int key_end = min(tile.length, query_end + launch.reach_ahead);
  const int key_begin = max(0, tile.query_begin - launch.reach_back) / kKeys * kKeys;
  const int steps = (key_end - key_begin + kKeys - 1) / kKeys;

  const uint32_t keys_at = (SharedAddress(unaligned) + 1023) & ~1023u;
  const uint32_t values_at = keys_at + kStages * KeyTile::kBytes;
  // arrived: a load is in shared memory. done: every warp has read what a step does. Loads and
  // steps use the slot of their number modulo kStages.
  const uint32_t barriers_at = SharedAddress(barriers);
  const auto arrived = [&](int slot) { return barriers_at + slot * 8; };
  const auto done = [&](int slot) { return barriers_at + (kStages + slot) * 8; };
  // Load l, into the slots of `at_slot` = l % kStages, brings keys l and values l - 1. One thread
  // calls it.
  const auto load = [&](int l, int at_slot) {
    if (l > steps) return;
    const bool keys = l < steps;
    const bool values = l > 0;
    const uint32_t barrier = arrived(at_slot);
    ptx::BarrierArriveExpect(barrier, (keys + values) * KeyTile::kBytes);
#pragma unroll
    for (int panel = 0; panel < kHeadSize; panel += KeyTile::kPanelColumns) {
      const int column = key_head * kHeadSize + panel;
      const int row = tile.first + key_begin + l * kKeys;
      const uint32_t at = panel / KeyTile::kPanelColumns * KeyTile::kPanelBytes;
      if (keys) {
        ptx::LoadTile(keys_at + at_slot * KeyTile::kBytes + at, &key_map, column, row, barrier);
      }
      if (values) {
        ptx::LoadTile(values_at + (at_slot + kStages - 1) % kStages * KeyTile::kBytes + at,
                      &value_map, column, row - kKeys, barrier);
      }
    }
  };
  if (thread == 0) {
    for (int i = 0; i < kStages; ++i) {
      ptx::BarrierInit(arrived(i), 1);
      ptx::BarrierInit(done(i), 4 * groups);
    }
    ptx::FenceBarrierInit();
    WaitForPreviousKernel();
    for (int l = 0; l < 3; ++l) load(l, l);
  }
  __syncthreads();
  if (group >= groups) return;
  WaitForPreviousKernel();

  // This warp's 16 queries.
  const Lane lane = {thread % 4, tile.query_begin + thread / 32 * 16 + thread % 32 / 4};
  uint32_t q[kHeadSize / 4];
  LoadQueries<kHeadSize>(
      static_cast<const T*>(launch.q) + tile.first * launch.stride + head * kHeadSize,
      launch.stride, lane, query_end, q);
  const float* bias = launch.bias == nullptr ? nullptr : launch.bias + head * launch.bias_stride;
  const float scale = kGeneral ? 1.0f : launch.scale * kLog2e;

  OnlineSoftmax softmax;
  float s[kKeys / 2];
  float o[kHeadSize / 2] = {};
  uint32_t p[kKeys / 4];
  const auto multiply_keys = [&](int slot) {
    const uint32_t at = (keys_at + slot * KeyTile::kBytes) >> 4;
#pragma unroll
    for (int c = 0; c < kHeadSize / 16; ++c) {
      const uint32_t panel = 16 * c / KeyTile::kPanelColumns * KeyTile::kPanelBytes;
      const uint32_t chunk = 16 * c % KeyTile::kPanelColumns * 2;
      Wgmma<0>(s, q + 4 * c, Advance(S::kKeyDescriptor, at + ((panel + chunk) >> 4)), c != 0, T());
    }
    ptx::WgmmaCommit();
  };
  const auto multiply_values = [&](int slot) {
    const uint32_t at = (values_at + slot * KeyTile::kBytes) >> 4;
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j) {
      Wgmma<1>(o, p + 4 * j, Advance(S::kValueDescriptor, at + (2 * j * S::kGroupBytes >> 4)), 1,
               T());
    }
    ptx::WgmmaCommit();
  };
  const auto weigh = [&](int step) {
    const int key = key_begin + step * kKeys;
    if constexpr (kGeneral) {
      ScaleBiasMask<kKeys>(s, launch, bias, lane, key, tile.length);
    } else if (key + kKeys > tile.length) {
      MaskPastEnd<kKeys>(s, lane, key, tile.length);
    }
    return softmax.Update(s, scale);
  };
  const auto pack = [&] {
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) p[i] = Pack(s[2 * i], s[2 * i + 1], T());
  };

  ptx::BarrierWait(arrived(0), 0);
  ptx::Pin(s);
  ptx::WgmmaFence();
  multiply_keys(0);
  ptx::WgmmaWait<0>();
  ptx::Pin(s);
  if (thread % 32 == 0) ptx::BarrierArrive(done(kStages - 1));  // as of a step before the first
  weigh(0);
  pack();
  // Unrolled so that slots are constants: addresses and parities cost no instructions.
  const int last = steps - 1;
  uint32_t parity = 0;  // of slots in this turn of the ring
  for (int turn = 0; turn < last; turn += kStages, parity ^= 1) {
#pragma unroll
    for (int slot = 0; slot < kStages; ++slot) {
      const int step = turn + slot;
      if (step >= last) break;
      // The warps load in turns: it costs one of them as much as a fifth of a step.
      if (warp == (step & (4 * groups - 1)) && step + 3 <= steps && ptx::ElectOne()) {
        constexpr int kBack = 2;  // steps: its slots are free once every warp has done that one
        const int freed = (slot + kStages - kBack) % kStages;
        // Step 1 too: load 4 takes the slot of the keys multiplied before the first step.
        if (step >= 1) ptx::BarrierWait(done(freed), slot >= 1 ? parity : parity ^ 1);
        load(step + 3, (slot + 3) % kStages);
      }
      __syncwarp();
      const int next = (slot + 1) % kStages;
      ptx::BarrierWait(arrived(next), next != 0 ? parity : parity ^ 1);
      ptx::Pin(s);
      ptx::Pin(o);
      ptx::WgmmaFence();
      multiply_keys(next);
      multiply_values(slot);
      ptx::WgmmaWait<1>();
      ptx::Pin(s);
      const bool moved = weigh(step + 1);
      ptx::Pin(s);  // the exponentials are taken before the wait for the values' product
      // Never so; the branch keeps the assembler from putting the wait before the exponentials.
      if (__any_sync(~0u, softmax.sum[0] < 0.0f)) __trap();
      ptx::WgmmaWait<0>();
      ptx::Pin(o);
      if (thread % 32 == 0) ptx::BarrierArrive(done(slot));
      if (moved) softmax.Rescale(o);
      pack();
    }
  }

  ptx::BarrierWait(arrived(steps % kStages), steps / kStages & 1);
  // What the last tile holds past the sequence may be anything: its weights are 0, its values must
  // be finite.
  const int rows = tile.length - key_begin - (steps - 1) * kKeys;
  if (rows < kKeys) {
    const uint32_t at = values_at + (steps - 1) % kStages * KeyTile::kBytes;
    for (int i = rows * KeyTile::kChunks + thread; i < kKeys * KeyTile::kChunks;
         i += groups * 128) {
      asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(
                       at + KeyTile::Offset(i / KeyTile::kChunks, i % KeyTile::kChunks)),
                   "r"(0)
                   : "memory");
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    ptx::NamedBarrierSync(1, groups * 128);
  }
  ptx::Pin(o);
  ptx::WgmmaFence();
  multiply_values((steps - 1) % kStages);
  ptx::WgmmaWait<0>();
  ptx::Pin(o);
  const int element_bytes = launch.output_element == Element::kF32 ? 4 : 2;
  uint8_t* to = static_cast<uint8_t*>(launch.output) +
                (tile.first * launch.output_stride + head * kHeadSize) * element_bytes;
  StoreValues<kHeadSize, T>(o, softmax, to, launch.output_stride, launch.output_element, lane,
                            query_end);
}

template <typename T, int kHeadSize, bool kGeneral>
cudaError_t Launch(const AttentionLaunch& launch, cudaStream_t stream) {
  using S = Shape<kHeadSize>;
  const auto kernel = AttentionWgmma<T, kHeadSize, kGeneral>;
  static const cudaError_t allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (allowed != cudaSuccess) return allowed;
  TensorMapShape shape;
  shape.type = CU_TENSOR_MAP_DATA_TYPE_FLOAT16;  // moved, not computed with: bf16 as well
  shape.element_bytes = 2;
  shape.columns = launch.heads / launch.heads_per_key_value_head * kHeadSize;
  shape.rows = launch.tokens;
  shape.stride = launch.stride;
  shape.box_columns = S::KeyTile::kPanelColumns;
  shape.box_rows = S::kKeys;
  shape.swizzle = kHeadSize == 32 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B;
  CUtensorMap keys, values;
  if (cudaError_t error = MakeTensorMap(launch.k, shape, &keys); error != cudaSuccess) return error;
  if (cudaError_t error = MakeTensorMap(launch.v, shape, &values); error != cudaSuccess) {
    return error;
  }
  return LaunchDependent(kernel, launch.tile_count * launch.heads, S::kThreads, S::kSharedBytes,
                         stream, launch, keys, values);
}

}  // namespace

cudaError_t LaunchAttentionWgmma(const AttentionLaunch& launch, cudaStream_t stream) {
  return LaunchForShape(launch, [&]<typename T, int kHeadSize, bool kGeneral>() {
    return Launch<T, kHeadSize, kGeneral>(launch, stream);
  });
}

}  // namespace octavo::cuda
