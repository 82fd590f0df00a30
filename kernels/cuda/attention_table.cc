// Every attention kernel of the CUDA backend, fastest first.
#include <limits>

#include "kernels/cuda/architectures.h"
#include "kernels/cuda/attention_portable.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/tables.h"

namespace octavo::cuda {
namespace {

static_assert(sizeof(AttentionTile) == sizeof(int4));

bool FitsPortable(int head_size) {
  return head_size > 0 && head_size % 8 == 0 && head_size <= kPortableHeadSize;
}

Element F16Output(Element wanted) { return wanted == Element::kF32 ? wanted : Element::kF16; }
Element Bf16Output(Element wanted) { return wanted == Element::kF32 ? wanted : Element::kBf16; }

template <cudaError_t (*launch)(const PortableAttentionArgs&, cudaStream_t)>
void RunPortable(const AttentionArgs& args, Stream& stream) {
  constexpr int64_t kAll = std::numeric_limits<int32_t>::max();
  PortableAttentionArgs call = {args.q,
                                args.k,
                                args.v,
                                args.stride,
                                args.heads,
                                args.key_value_heads,
                                args.head_size,
                                args.scale,
                                reinterpret_cast<const int4*>(args.tiles),
                                args.tile_count,
                                args.mask == Mask::kWindow ? args.window : kAll,
                                args.mask == Mask::kFull     ? kAll
                                : args.mask == Mask::kCausal ? 0
                                                             : args.window,
                                args.relative_bias,
                                args.bias_stride,
                                args.bias_zero,
                                args.output};
  CudaStream& cuda = static_cast<CudaStream&>(stream);
  cuda.Record(launch(call, cuda.handle()), "attention");
}

}  // namespace

std::span<const AttentionKernel> AttentionKernels() {
  static constexpr AttentionKernel table[] = {
      {"attention_f16_portable", Element::kF16, kSm90a, FitsPortable,
       RunPortable<LaunchAttentionF16>, F16Output, kPortableQueryTile},
      {"attention_bf16_portable", Element::kBf16, kSm90a, FitsPortable,
       RunPortable<LaunchAttentionBf16>, Bf16Output, kPortableQueryTile},
  };
  return table;
}

}  // namespace octavo::cuda
