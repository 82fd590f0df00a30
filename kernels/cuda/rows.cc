#include "kernels/cuda/rows.h"

#include "kernels/cuda/rows_kernels.h"
#include "kernels/cuda/rows_warp.h"
#include "kernels/cuda/stream.h"

namespace octavo::cuda {
namespace {

CudaStream& Cuda(Stream& stream) { return static_cast<CudaStream&>(stream); }

NormCall Call(const NormArgs& args) {
  return {args.rows,    args.device_rows, args.columns,  args.gain,   args.bias,
          args.epsilon, args.input,       args.residual, args.hidden, args.encoded};
}

PoolCall Call(const PoolArgs& args) {
  return {args.hidden, args.offsets, args.sequences, args.columns, args.output};
}

void Embed(const EmbeddingTables& tables, const int32_t* ids, const int32_t* positions,
           const NormArgs& norm, Stream& stream) {
  const EmbedCall embed = {tables.word, tables.position, tables.token_type, ids, positions};
  const NormCall call = Call(norm);
  const auto launch = FitsWarp(embed, call) ? LaunchWarpEmbed : LaunchEmbed;
  Cuda(stream).Record(launch(embed, call, Cuda(stream).handle()), "embedding");
}

void Norm(const NormArgs& args, Stream& stream) {
  const NormCall call = Call(args);
  const auto launch = FitsWarp(call) ? LaunchWarpNorm : LaunchNorm;
  Cuda(stream).Record(launch(call, Cuda(stream).handle()), "a norm");
}

void Encode(const EncodeArgs& args, Stream& stream) {
  const EncodeCall call = {args.rows, args.device_rows, args.columns, args.input, args.output};
  const auto launch = FitsWarp(call) ? LaunchWarpEncode : LaunchEncode;
  Cuda(stream).Record(launch(call, Cuda(stream).handle()), "encoding");
}

void MeanPool(const PoolArgs& args, Stream& stream) {
  const PoolCall call = Call(args);
  const auto launch = FitsWarp(call) ? LaunchWarpMeanPool : LaunchMeanPool;
  Cuda(stream).Record(launch(call, Cuda(stream).handle()), "pooling");
}

void FirstPool(const PoolArgs& args, Stream& stream) {
  Cuda(stream).Record(LaunchFirstPool(Call(args), Cuda(stream).handle()), "pooling");
}

}  // namespace

constexpr RowOperations kRows = {Embed, Norm, Encode, MeanPool, FirstPool};

}  // namespace octavo::cuda
