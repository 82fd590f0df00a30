// Kernels over whole rows, a warp a row held in registers: each row is read once and written once,
// 16 bytes a lane. As rows_kernels.h and epilogue.h, for calls that FitsWarp accepts.
#pragma once

#include "kernels/cuda/epilogue.h"
#include "kernels/cuda/rows_kernels.h"

namespace octavo::cuda {

// Rows of at most 4096 columns, a multiple of 8, that begin at multiples of 16 bytes (8 where
// values are 8 bits).
bool FitsWarp(const EmbedCall& embed, const NormCall& norm);
bool FitsWarp(const NormCall& norm);
bool FitsWarp(const EncodeCall& encode);
bool FitsWarp(const PoolCall& pool);
bool FitsWarp(const EpilogueArgs& args);  // not gated, not of integer sums

cudaError_t LaunchWarpEmbed(const EmbedCall& embed, const NormCall& norm, cudaStream_t stream);
cudaError_t LaunchWarpNorm(const NormCall& norm, cudaStream_t stream);
cudaError_t LaunchWarpEncode(const EncodeCall& encode, cudaStream_t stream);
cudaError_t LaunchWarpEpilogue(const EpilogueArgs& args, cudaStream_t stream);
cudaError_t LaunchWarpMeanPool(const PoolCall& pool, cudaStream_t stream);

}  // namespace octavo::cuda
