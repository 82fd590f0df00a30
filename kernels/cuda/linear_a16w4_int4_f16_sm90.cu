// a16w4_int4 for few tokens. What bounds it at 1 to 64 tokens is latency, so a block's whole share
// of the weight waits in registers, decoded, before the previous kernel has ended; then one trip to
// L2 for the activations, a few tensor core instructions, and two sums: over the block's warps in
// shared memory and over the cluster's blocks, each in fixed order. How K is split depends on
// K alone, so a row's result depends on its own activations alone.
#include "kernels/cuda/a16w4_int4_sm90.cuh"
#include "kernels/cuda/linear_a16w4_int4_f16_sm90.h"

namespace octavo::cuda {
namespace {

constexpr int kMaxWarps = 8;
constexpr int kMaxCluster = 8;
constexpr int kMaxBlockSteps = 16;  // a longer K is shared by a cluster

// How K is divided, a function of K alone.
struct Split {
  int cluster;  // blocks that share an output tile, each a range of K
  int block_k;  // 64-column steps of a block's range
  int warps;    // of a block
  int depth;    // steps of a warp in registers at once
};

__device__ __forceinline__ void StoreElement(const A16W4Int4Args& args, int64_t at, float value) {
  if (args.output_element == Element::kF32) {
    static_cast<float*>(args.output)[at] = value;
  } else if (args.output_element == Element::kF16) {
    static_cast<__half*>(args.output)[at] = __float2half_rn(value);
  } else {
    static_cast<__nv_bfloat16*>(args.output)[at] = __float2bfloat16_rn(value);
  }
}

// Columns n and n + 1 of one token, n even.
__device__ __forceinline__ void Finish(const A16W4Int4Args& args, int token, int n, float2 sum,
                                       float2 bias) {
  if (n >= args.n) return;
  const Epilogue& epilogue = args.epilogue;
  float values[2] = {sum.x + bias.x, sum.y + bias.y};
  values[0] = Activate(epilogue.activation, values[0]);
  int columns = args.n - n < 2 ? 1 : 2;
  if (epilogue.gated) {
    values[0] *= values[1];
    n /= 2;
    columns = 1;
  } else {
    values[1] = Activate(epilogue.activation, values[1]);
  }
  if (epilogue.residual != nullptr) {
    const float* residual = epilogue.residual + token * epilogue.residual_stride + n;
    values[0] += residual[0];
    if (columns == 2) values[1] += residual[1];
  }
  const int64_t at = token * args.output_stride + n;
  if (columns == 2 && args.output_element == Element::kF16 &&
      reinterpret_cast<uintptr_t>(static_cast<__half*>(args.output) + at) % 4 == 0) {
    *reinterpret_cast<__half2*>(static_cast<__half*>(args.output) + at) =
        __floats2half2_rn(values[0], values[1]);
    return;
  }
  StoreElement(args, at, values[0]);
  if (columns == 2) StoreElement(args, at + 1, values[1]);
}

// kDepth 64-column steps of a warp wait in registers.
template <int kOctets, int kTiles, int kDepth, int kGroups, bool kZero>
__global__ void __launch_bounds__(kMaxWarps * 32, kOctets <= 2 ? 2 : 1)
    LinearA16W4Int4(const __grid_constant__ A16W4Int4Args args, int block_k) {
  using Sums = Reduction<kOctets, kTiles>;
  extern __shared__ uint4 shared[];

  ptx::LetNextKernelStart();
  const int lane = threadIdx.x % 32;
  const int cluster = gridDim.x;
  const uint32_t rank = cluster > 1 ? ptx::ClusterRank() : 0;
  if (cluster > 1) Sums::Prepare(shared, cluster);

  const int steps = (args.k + kInt4BlockColumns - 1) / kInt4BlockColumns;
  const int begin = static_cast<int>(rank) * block_k;
  const WeightRange range = {static_cast<const uint8_t*>(args.weight),
                             static_cast<int>(blockIdx.y) * kTiles,
                             (args.n + kInt4BlockRows - 1) / kInt4BlockRows,
                             steps,
                             min(begin + block_k, steps),
                             static_cast<int>(blockDim.x) / 32};
  int step = begin + static_cast<int>(threadIdx.x) / 32;
  DecodedBlock<kGroups, kZero> blocks[kDepth][kTiles];
  LoadWeight(range, step, lane, blocks);
  const int n = range.tile * kInt4BlockRows + static_cast<int>(threadIdx.x) % Sums::kPairs * 2;
  const float2 bias = LoadPair(args.epilogue.bias, n, args.n);

  ptx::WaitForPreviousKernel();
  const int first_token = blockIdx.z * Sums::kTokens;
  const int rows = args.device_rows == nullptr ? args.rows : min(args.rows, *args.device_rows);
  if (first_token >= rows) return;
  const uint16_t* token_rows[kOctets];
#pragma unroll
  for (int o = 0; o < kOctets; ++o) {
    const int token = first_token + 8 * o + lane / 4;
    token_rows[o] = token < args.rows ? args.input + token * args.input_stride : nullptr;
  }

  constexpr int kBatch = kOctets < 4 ? kOctets : 4;  // of octets loaded at once
  float totals[kTiles][kOctets][4] = {};
  while (true) {
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      if (step + d * range.warps >= range.end) break;
      const int k = (step + d * range.warps) * kInt4BlockColumns + lane % 4 * 8;
#pragma unroll
      for (int o = 0; o < kOctets; o += kBatch) {
        Fragments x[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          x[i].Set(LoadActivations(token_rows[o + i], k, args.k),
                   LoadActivations(token_rows[o + i], k + 32, args.k));
        }
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
#pragma unroll
          for (int t = 0; t < kTiles; ++t) Accumulate(blocks[d][t], x[i], totals[t][o + i]);
        }
      }
    }
    step += kDepth * range.warps;
    if (step >= range.end) break;
    LoadWeight(range, step, lane, blocks);
  }

  Sums::Run(totals, shared, rank, cluster, [&](int token, float2 sum) {
    if (first_token + token < rows) Finish(args, first_token + token, n, sum, bias);
  });
}

int CeilDiv(int a, int b) { return (a + b - 1) / b; }

template <int kOctets, int kTiles, int kDepth, int kGroups, bool kZero>
cudaError_t Launch(const A16W4Int4Args& args, const Split& split, cudaStream_t stream) {
  const auto kernel = LinearA16W4Int4<kOctets, kTiles, kDepth, kGroups, kZero>;
  const int shared = Reduction<kOctets, kTiles>::SharedBytes(split.warps, split.cluster);
  if (shared > 48 * 1024) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(split.cluster);
  attributes[1].val.clusterDim.y = 1;
  attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(split.cluster, CeilDiv(CeilDiv(args.n, kInt4BlockRows), kTiles),
                        CeilDiv(args.rows, 8 * kOctets));
  config.blockDim = dim3(split.warps * 32);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = split.cluster > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, args, split.block_k);
}

template <int kOctets, int kTiles, int kDepth>
cudaError_t LaunchFormat(const A16W4Int4Args& args, const Split& split, cudaStream_t stream) {
  if (args.zero_points) {
    return args.groups == 2 ? Launch<kOctets, kTiles, kDepth, 2, true>(args, split, stream)
                            : Launch<kOctets, kTiles, kDepth, 1, true>(args, split, stream);
  }
  return args.groups == 2 ? Launch<kOctets, kTiles, kDepth, 2, false>(args, split, stream)
                          : Launch<kOctets, kTiles, kDepth, 1, false>(args, split, stream);
}

template <int kOctets>
cudaError_t LaunchTokens(const A16W4Int4Args& args, const Split& split, cudaStream_t stream) {
  if (split.depth == 1) return LaunchFormat<kOctets, 1, 1>(args, split, stream);
  // Two tiles a block load activations half as often, but one tile a block is faster while all
  // blocks fit the device at once (H200, 16 tokens, us, one tile against two: 3072 x 768 2.79,
  // 3.24; 4096 x 1024 3.32, 3.91). More than 192 blocks in clusters of four do not (1024 x 4096
  // 5.46, 3.79). Above 16 tokens the sums of two tiles would leave the registers.
  if constexpr (kOctets <= 2) {
    const int blocks = CeilDiv(args.n, kInt4BlockRows) * split.cluster;
    if (split.cluster > 1 && blocks > 192) return LaunchFormat<kOctets, 2, 2>(args, split, stream);
  }
  return LaunchFormat<kOctets, 1, 2>(args, split, stream);
}

Split MakeSplit(int k) {
  const int steps = CeilDiv(k, kInt4BlockColumns);
  Split split;
  split.cluster = 1;
  while (split.cluster < kMaxCluster && CeilDiv(steps, split.cluster) > kMaxBlockSteps) {
    split.cluster *= 2;
  }
  split.block_k = CeilDiv(steps, split.cluster);
  split.depth = split.block_k <= kMaxWarps ? 1 : 2;
  const int warps = CeilDiv(split.block_k, split.depth);
  split.warps = warps < kMaxWarps ? warps : kMaxWarps;
  return split;
}

}  // namespace

cudaError_t LaunchLinearA16W4Int4(const A16W4Int4Args& args, cudaStream_t stream) {
  const Split split = MakeSplit(args.k);
  if (args.rows <= 8) return LaunchTokens<1>(args, split, stream);
  if (args.rows <= 16) return LaunchTokens<2>(args, split, stream);
  if (args.rows <= 32) return LaunchTokens<4>(args, split, stream);
  return LaunchTokens<8>(args, split, stream);
}

}  // namespace octavo::cuda
