#include <initializer_list>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/gelu.cuh"
#include "kernels/cuda/row_values.cuh"
#include "kernels/cuda/rows_warp.h"
#include "kernels/element_bytes.h"

namespace octavo::cuda {
namespace {

constexpr int kWarps = 4;  // of a block; each takes a row
constexpr int64_t kMostColumns = 4096;
// Whose warps a Hopper GPU holds all at once, even with a norm's weights in registers (12 warps a
// multiprocessor at 1024 columns).
constexpr int64_t kFewRows = 1536;

__device__ inline int64_t WarpRow() {
  return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
}

// Copied by the host before the batch, so known before the previous kernel ends.
__device__ inline int64_t Count(int64_t rows, const int32_t* device_rows) {
  return device_rows == nullptr ? rows : *device_rows;
}

__device__ inline float4 Load4(const float* from) {
  return __ldg(reinterpret_cast<const float4*>(from));
}

// A norm's gain and bias, 4 columns at a time. Few rows, of few chunks, fetch them before the
// previous kernel ends; many rather leave the registers to more warps.
struct GainAndBias {
  float4 gain, bias;
};
template <int kChunks, bool kEarly>
struct NormWeights {
  GainAndBias chunks[kChunks][2];

  __device__ NormWeights(const NormCall& norm, const RowValues<kChunks>& values) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
#pragma unroll
      for (int e = 0; e < 8 && values.Has(i); e += 4) {
        const int column = values.Column(i) + e;
        chunks[i][e / 4] = {Load4(norm.gain + column), Load4(norm.bias + column)};
      }
    }
  }
  __device__ GainAndBias operator()(int i, int e) const { return chunks[i][e / 4]; }
};
template <int kChunks>
struct NormWeights<kChunks, false> {
  const NormCall& norm;
  const RowValues<kChunks>& values;

  __device__ NormWeights(const NormCall& norm, const RowValues<kChunks>& values)
      : norm(norm), values(values) {}
  __device__ GainAndBias operator()(int i, int e) const {
    const int column = values.Column(i) + e;
    return {Load4(norm.gain + column), Load4(norm.bias + column)};
  }
};

// `add(values, row)` makes the sum that is normalized.
template <int kChunks, bool kEarly, typename Add>
__device__ inline void NormRow(const NormCall& norm, const Add& add) {
  LetNextKernelStart();
  const int64_t row = WarpRow();
  if (row >= Count(norm.rows, norm.device_rows)) return;
  RowValues<kChunks> values(threadIdx.x % 32, norm.columns);
  const NormWeights<kChunks, kEarly> weights(norm, values);
  WaitForPreviousKernel();
  add(values, row);
  values.LayerNorm(norm.epsilon, weights);
  values.Encode(norm.hidden, row);
  if (norm.encoded.values != nullptr) values.Encode(norm.encoded, row);
}

template <int kChunks, bool kEarly>
__global__ void __launch_bounds__(32 * kWarps) Norm(const __grid_constant__ NormCall norm) {
  NormRow<kChunks, kEarly>(norm, [&](RowValues<kChunks>& values, int64_t row) {
    if (norm.residual.values != nullptr) {
      values.Add(norm.input, norm.residual, row);
    } else {
      values.Add(norm.input, row);
    }
  });
}

template <int kChunks, bool kEarly>
__global__ void __launch_bounds__(32 * kWarps)
    Embed(const __grid_constant__ EmbedCall embed, const __grid_constant__ NormCall norm) {
  NormRow<kChunks, kEarly>(norm, [&](RowValues<kChunks>& values, int64_t row) {
    values.Add(embed.word + embed.ids[row] * norm.columns);
    if (embed.position != nullptr) {
      values.Add(embed.position + embed.positions[row] * norm.columns);
    }
    if (embed.token_type != nullptr) values.Add(embed.token_type);
  });
}

template <int kChunks>
__global__ void __launch_bounds__(32 * kWarps) Encode(const __grid_constant__ EncodeCall encode) {
  LetNextKernelStart();
  const int64_t row = WarpRow();
  if (row >= Count(encode.rows, encode.device_rows)) return;
  WaitForPreviousKernel();
  RowValues<kChunks> values(threadIdx.x % 32, encode.columns);
  values.Add(encode.input, row);
  values.Encode(encode.output, row);
}

// Bias, activation and residual of a product's row, and its encoding.
template <int kChunks>
__global__ void __launch_bounds__(32 * kWarps)
    FinishProduct(const __grid_constant__ EpilogueArgs args) {
  LetNextKernelStart();
  const int64_t row = WarpRow();
  if (row >= Count(args.rows, args.device_rows)) return;
  WaitForPreviousKernel();
  RowValues<kChunks> values(threadIdx.x % 32, args.n);
  values.Add(args.product, row);
  const Epilogue& epilogue = args.epilogue;
  if (epilogue.bias != nullptr) values.Add(epilogue.bias);
  if (epilogue.activation == Activation::kGelu && args.output.element != Element::kF32) {
    values.ForEachChunk([](float(&x)[8], int) {
#pragma unroll
      for (int e = 0; e < 8; ++e) x[e] = Gelu(x[e]);
    });
  } else if (epilogue.activation != Activation::kNone) {
    values.ForEachChunk([&](float(&x)[8], int) {
#pragma unroll
      for (int e = 0; e < 8; ++e) x[e] = Activate(epilogue.activation, x[e]);
    });
  }
  if (epilogue.residual != nullptr) {
    values.Add(epilogue.residual + row * epilogue.residual_stride);
  }
  values.Encode(args.output, row);
}

// A block sums 64 columns of a sequence, 32 rows at a time.
constexpr int kPoolColumns = 64;
constexpr int kPoolRows = 32;
__global__ void __launch_bounds__(kPoolRows * 8) MeanPool(const __grid_constant__ PoolCall pool) {
  __shared__ float sums[kPoolRows][kPoolColumns];
  LetNextKernelStart();
  const int64_t first = pool.offsets[blockIdx.x], end = pool.offsets[blockIdx.x + 1];
  if (end <= first) return;
  const int begin = blockIdx.y * kPoolColumns, row = threadIdx.x / 8, lane = threadIdx.x % 8;
  const int64_t columns = min(pool.columns - begin, int64_t{kPoolColumns});
  Matrix hidden = pool.hidden;
  hidden.values = static_cast<uint8_t*>(hidden.values) + begin * 2;
  RowValues<1> values(lane, columns);
  WaitForPreviousKernel();
#pragma unroll 4
  for (int64_t r = first + row; r < end; r += kPoolRows) values.Add(hidden, r);
#pragma unroll
  for (int e = 0; e < 8; ++e) sums[row][8 * lane + e] = values.x[0][e];
  __syncthreads();
  const int column = threadIdx.x;
  if (column >= columns) return;
  float sum = 0.0f;
#pragma unroll
  for (int r = 0; r < kPoolRows; ++r) sum += sums[r][column];
  pool.output[blockIdx.x * pool.columns + begin + column] = sum / static_cast<float>(end - first);
}

unsigned Blocks(int64_t rows) { return static_cast<unsigned>((rows + kWarps - 1) / kWarps); }

// Calls launch.template operator()<kChunks>() with the fewest chunks that hold a row.
template <typename Launch>
cudaError_t WithChunks(int64_t columns, const Launch& launch) {
  if (columns <= 256) return launch.template operator()<1>();
  if (columns <= 512) return launch.template operator()<2>();
  if (columns <= 768) return launch.template operator()<3>();
  if (columns <= 1024) return launch.template operator()<4>();
  if (columns <= 1536) return launch.template operator()<6>();
  if (columns <= 2048) return launch.template operator()<8>();
  if (columns <= 3072) return launch.template operator()<12>();
  return launch.template operator()<16>();
}

bool Aligned(const void* pointer, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

bool Fits(int64_t columns, std::initializer_list<Matrix> matrices,
          std::initializer_list<const float*> vectors = {}) {
  if (columns % 8 != 0 || columns > kMostColumns) return false;
  for (const Matrix& matrix : matrices) {
    const int64_t bytes = ElementBytes(matrix.element);
    const int64_t access = bytes == 1 ? 8 : 16;
    if (matrix.stride * bytes % access != 0 || !Aligned(matrix.values, access)) return false;
  }
  for (const float* vector : vectors) {
    if (!Aligned(vector, 16)) return false;
  }
  return true;
}

}  // namespace

bool FitsWarp(const EmbedCall& embed, const NormCall& norm) {
  return Fits(norm.columns, {norm.hidden, norm.encoded},
              {norm.gain, norm.bias, embed.word, embed.position, embed.token_type});
}
bool FitsWarp(const NormCall& norm) {
  return Fits(norm.columns, {norm.input, norm.residual, norm.hidden, norm.encoded},
              {norm.gain, norm.bias});
}
bool FitsWarp(const EncodeCall& encode) {
  return Fits(encode.columns, {encode.input, encode.output});
}
bool FitsWarp(const PoolCall& pool) {
  return Fits(pool.columns, {pool.hidden}) && ElementBytes(pool.hidden.element) == 2;
}

bool FitsWarp(const EpilogueArgs& args) {
  return args.row_scales == nullptr && !args.epilogue.gated &&
         args.epilogue.residual_stride % 4 == 0 &&
         Fits(args.n, {args.product, args.output}, {args.epilogue.bias, args.epilogue.residual});
}

cudaError_t LaunchWarpEmbed(const EmbedCall& embed, const NormCall& norm, cudaStream_t stream) {
  if (norm.rows == 0) return cudaSuccess;
  return WithChunks(norm.columns, [&]<int kChunks>() {
    const auto kernel =
        norm.rows <= kFewRows ? Embed<kChunks, kChunks <= 4> : Embed<kChunks, false>;
    return LaunchDependent(kernel, Blocks(norm.rows), 32 * kWarps, 0, stream, embed, norm);
  });
}

cudaError_t LaunchWarpNorm(const NormCall& norm, cudaStream_t stream) {
  if (norm.rows == 0) return cudaSuccess;
  return WithChunks(norm.columns, [&]<int kChunks>() {
    const auto kernel = norm.rows <= kFewRows ? Norm<kChunks, kChunks <= 4> : Norm<kChunks, false>;
    return LaunchDependent(kernel, Blocks(norm.rows), 32 * kWarps, 0, stream, norm);
  });
}

cudaError_t LaunchWarpEncode(const EncodeCall& encode, cudaStream_t stream) {
  if (encode.rows == 0) return cudaSuccess;
  return WithChunks(encode.columns, [&]<int kChunks>() {
    return LaunchDependent(Encode<kChunks>, Blocks(encode.rows), 32 * kWarps, 0, stream, encode);
  });
}

cudaError_t LaunchWarpEpilogue(const EpilogueArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  return WithChunks(args.n, [&]<int kChunks>() {
    return LaunchDependent(FinishProduct<kChunks>, Blocks(args.rows), 32 * kWarps, 0, stream, args);
  });
}

cudaError_t LaunchWarpMeanPool(const PoolCall& pool, cudaStream_t stream) {
  if (pool.sequences == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(pool.sequences),
                  static_cast<unsigned>((pool.columns + kPoolColumns - 1) / kPoolColumns));
  return LaunchDependent(MeanPool, grid, kPoolRows * 8, 0, stream, pool);
}

}  // namespace octavo::cuda
