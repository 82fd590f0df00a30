// Launchers of the kernels over whole rows of hidden states; see kernels/rows.h.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/matrix.h"

namespace octavo::cuda {

// kernels/rows.h's NormArgs, EncodeArgs and PoolArgs without its stream.
struct NormCall {
  int64_t rows;
  const int32_t* device_rows;
  int64_t columns;
  const float* gain;
  const float* bias;
  float epsilon;
  Matrix input, residual, hidden, encoded;
};
struct EmbedCall {
  const float* word;
  const float* position;
  const float* token_type;
  const int32_t* ids;
  const int32_t* positions;
};
struct EncodeCall {
  int64_t rows;
  const int32_t* device_rows;
  int64_t columns;
  Matrix input, output;
};
struct PoolCall {
  Matrix hidden;
  const int32_t* offsets;
  int64_t sequences;
  int64_t columns;
  float* output;
};

cudaError_t LaunchEmbed(const EmbedCall& embed, const NormCall& norm, cudaStream_t stream);
cudaError_t LaunchNorm(const NormCall& norm, cudaStream_t stream);
cudaError_t LaunchEncode(const EncodeCall& encode, cudaStream_t stream);
cudaError_t LaunchMeanPool(const PoolCall& pool, cudaStream_t stream);
cudaError_t LaunchFirstPool(const PoolCall& pool, cudaStream_t stream);

}  // namespace octavo::cuda
