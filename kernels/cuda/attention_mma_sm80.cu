// Attention with mma.sync, for short sequences and for GPUs without wgmma: a block is one warp
// and computes up to 16 queries of one head, so that a query of a few words fills many small
// blocks and wastes no more than its last 16 rows.
#include "kernels/cuda/attention_tile.cuh"

namespace octavo::cuda {
namespace {

constexpr int kKeys = 64;  // a step
constexpr int kStages = 2;

__device__ inline void LoadMatrices(uint32_t (&x)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address)
               : "memory");
}
__device__ inline void LoadMatricesTransposed(uint32_t (&x)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address)
               : "memory");
}

// c[16, 8] += a[16, 16] b[16, 8].
__device__ inline void MultiplyAdd(float* c, const uint32_t* a, uint32_t b0, uint32_t b1, __half) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void MultiplyAdd(float* c, const uint32_t* a, uint32_t b0, uint32_t b1,
                                   __nv_bfloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <typename T, int kHeadSize, bool kGeneral>
__global__ void __launch_bounds__(32, kHeadSize == 128 ? 8 : 16)
    AttentionMma(const __grid_constant__ AttentionLaunch launch) {
  using KeyTile = Tile<kHeadSize, kKeys>;
  extern __shared__ __align__(1024) uint8_t shared[];
  const AttentionTile tile = launch.tiles[blockIdx.x / launch.heads];
  LetNextKernelStart();
  if (tile.queries == 0) return;
  WaitForPreviousKernel();

  const int head = blockIdx.x % launch.heads, key_head = head / launch.heads_per_key_value_head;
  const int thread = threadIdx.x;
  const int64_t token = tile.first * launch.stride;
  const T* k = static_cast<const T*>(launch.k) + token + key_head * kHeadSize;
  const T* v = static_cast<const T*>(launch.v) + token + key_head * kHeadSize;
  const int query_end = tile.query_begin + tile.queries;
  const int key_end = min(tile.length, query_end + launch.reach_ahead);
  const int key_begin = max(0, tile.query_begin - launch.reach_back) / kKeys * kKeys;
  const int steps = (key_end - key_begin + kKeys - 1) / kKeys;

  const uint32_t keys_at = SharedAddress(shared);
  const uint32_t values_at = keys_at + kStages * KeyTile::kBytes;
  const auto load = [&](int step) {
    if (step < steps) {
      const int key = key_begin + step * kKeys;
      const uint32_t at = step % kStages * KeyTile::kBytes;
      KeyTile::template Load<32>(keys_at + at, k, launch.stride, key, tile.length, thread);
      KeyTile::template Load<32>(values_at + at, v, launch.stride, key, tile.length, thread);
    }
    CopyCommit();
  };
  load(0);

  const Lane lane = {thread % 4, tile.query_begin + thread / 4};
  const T* from = static_cast<const T*>(launch.q) + token + head * kHeadSize;
  uint32_t q[kHeadSize / 4];
  LoadQueries<kHeadSize>(from, launch.stride, lane, query_end, q);

  const float* bias = launch.bias == nullptr ? nullptr : launch.bias + head * launch.bias_stride;
  OnlineSoftmax softmax;
  float o[kHeadSize / 2] = {};
  for (int step = 0; step < steps; ++step) {
    load(step + 1);
    CopyWait<1>();
    __syncwarp();
    const int key = key_begin + step * kKeys;
    const uint32_t at = step % kStages * KeyTile::kBytes;
    // Keys in 16s; those wholly past the end cost nothing.
    const int sixteens = min(kKeys / 16, (key_end - key + 15) / 16);
    float s[kKeys / 2];
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) s[i] = 0.0f;
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      if (n / 2 >= sixteens) continue;
#pragma unroll
      for (int c = 0; c < kHeadSize / 32; ++c) {
        uint32_t b[4];
        LoadMatrices(b, keys_at + at + KeyTile::Offset(8 * n + thread % 8, 4 * c + thread / 8));
        MultiplyAdd(s + 4 * n, q + 8 * c, b[0], b[1], T());
        MultiplyAdd(s + 4 * n, q + 8 * c + 4, b[2], b[3], T());
      }
    }
    float scale = launch.scale * kLog2e;
    if constexpr (kGeneral) {
      ScaleBiasMask<kKeys>(s, launch, bias, lane, key, tile.length);
      scale = 1.0f;
    } else if (key + kKeys > tile.length) {
      MaskPastEnd<kKeys>(s, lane, key, tile.length);
    }
    if (softmax.Update(s, scale)) softmax.Rescale(o);
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j) {
      if (j >= sixteens) continue;
      const float* weight = s + 8 * j;
      const uint32_t p[4] = {Pack(weight[0], weight[1], T()), Pack(weight[2], weight[3], T()),
                             Pack(weight[4], weight[5], T()), Pack(weight[6], weight[7], T())};
#pragma unroll
      for (int n = 0; n < kHeadSize / 8; n += 2) {
        uint32_t b[4];
        LoadMatricesTransposed(
            b, values_at + at + KeyTile::Offset(16 * j + thread % 16, n + thread / 16));
        MultiplyAdd(o + 4 * n, p, b[0], b[1], T());
        MultiplyAdd(o + 4 * n + 4, p, b[2], b[3], T());
      }
    }
    __syncwarp();
  }
  const int element_bytes = launch.output_element == Element::kF32 ? 4 : 2;
  uint8_t* to = static_cast<uint8_t*>(launch.output) +
                (tile.first * launch.output_stride + head * kHeadSize) * element_bytes;
  StoreValues<kHeadSize, T>(o, softmax, to, launch.output_stride, launch.output_element, lane,
                            query_end);
}

template <typename T, int kHeadSize, bool kGeneral>
cudaError_t Launch(const AttentionLaunch& launch, cudaStream_t stream) {
  constexpr int kBytes = 2 * kStages * Tile<kHeadSize, kKeys>::kBytes;
  const auto kernel = AttentionMma<T, kHeadSize, kGeneral>;
  static const cudaError_t allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (allowed != cudaSuccess) return allowed;
  return LaunchDependent(kernel, launch.tile_count * launch.heads, 32, kBytes, stream, launch);
}

}  // namespace

cudaError_t LaunchAttentionMma(const AttentionLaunch& launch, cudaStream_t stream) {
  return LaunchForShape(launch, [&]<typename T, int kHeadSize, bool kGeneral>() {
    return Launch<T, kHeadSize, kGeneral>(launch, stream);
  });
}

}  // namespace octavo::cuda
