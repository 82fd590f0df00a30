// Every attention kernel of the CUDA backend, fastest first.
#include "kernels/cuda/architectures.h"
#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/tables.h"

namespace octavo::cuda {
namespace {

bool FitsTensorCores(int head_size) {
  return head_size == 32 || head_size == 64 || head_size == 128;
}

bool FitsPortable(int head_size) {
  return head_size > 0 && head_size % 8 == 0 && head_size <= kPortableHeadSize;
}

Element F16Output(Element wanted) { return wanted == Element::kF32 ? wanted : Element::kF16; }
Element Bf16Output(Element wanted) { return wanted == Element::kF32 ? wanted : Element::kBf16; }

AttentionLaunch Launch(const AttentionArgs& args, Element element) {
  AttentionLaunch launch;
  launch.q = args.q;
  launch.k = args.k;
  launch.v = args.v;
  launch.stride = args.stride;
  launch.tokens = args.tokens;
  launch.output = args.output.values;
  launch.output_stride = args.output.stride;
  launch.element = element;
  launch.output_element = args.output.element;
  launch.tiles = args.tiles;
  launch.tile_count = static_cast<int>(args.tile_count);
  launch.heads = args.heads;
  launch.heads_per_key_value_head = args.heads / args.key_value_heads;
  launch.head_size = args.head_size;
  launch.scale = args.scale;
  if (args.mask == Mask::kCausal) launch.reach_ahead = 0;
  if (args.mask == Mask::kWindow) launch.reach_back = launch.reach_ahead = args.window;
  if (args.relative_bias != nullptr) launch.bias = args.relative_bias + args.bias_zero;
  launch.bias_stride = args.bias_stride;
  return launch;
}

// Whether rows begin at multiples of 16 bytes, as the kernels on tensor cores read and write them.
bool Aligned(const AttentionLaunch& launch) {
  const int64_t output_bytes = launch.output_element == Element::kF32 ? 4 : 2;
  uintptr_t bits = static_cast<uintptr_t>(launch.stride * 2) |
                   static_cast<uintptr_t>(launch.output_stride * output_bytes);
  for (const void* pointer :
       {launch.q, launch.k, launch.v, static_cast<const void*>(launch.output)}) {
    bits |= reinterpret_cast<uintptr_t>(pointer);
  }
  return bits % 16 == 0;
}

template <cudaError_t (*run)(const AttentionLaunch&, cudaStream_t), Element element>
void Run(const AttentionArgs& args, Stream& stream) {
  const AttentionLaunch launch = Launch(args, element);
  const auto able =
      run == LaunchAttentionPortable || Aligned(launch) ? run : LaunchAttentionPortable;
  CudaStream& cuda = static_cast<CudaStream&>(stream);
  cuda.Record(able(launch, cuda.handle()), "attention");
}

}  // namespace

std::span<const AttentionKernel> AttentionKernels() {
  static constexpr AttentionKernel table[] = {
      {.name = "attention_f16_mma",
       .input = Element::kF16,
       .instruction_sets = kSm90a,
       .fits = FitsTensorCores,
       .run = Run<LaunchAttentionMma, Element::kF16>,
       .output = F16Output,
       .query_tile = kMmaQueries,
       .for_short_sequences = true},
      {.name = "attention_bf16_mma",
       .input = Element::kBf16,
       .instruction_sets = kSm90a,
       .fits = FitsTensorCores,
       .run = Run<LaunchAttentionMma, Element::kBf16>,
       .output = Bf16Output,
       .query_tile = kMmaQueries,
       .for_short_sequences = true},
      {"attention_f16_sm90", Element::kF16, kSm90a, FitsTensorCores,
       Run<LaunchAttentionWgmma, Element::kF16>, F16Output, kWgmmaQueries},
      {"attention_bf16_sm90", Element::kBf16, kSm90a, FitsTensorCores,
       Run<LaunchAttentionWgmma, Element::kBf16>, Bf16Output, kWgmmaQueries},
      {"attention_f16_portable", Element::kF16, kSm90a, FitsPortable,
       Run<LaunchAttentionPortable, Element::kF16>, F16Output, kPortableQueries},
      {"attention_bf16_portable", Element::kBf16, kSm90a, FitsPortable,
       Run<LaunchAttentionPortable, Element::kBf16>, Bf16Output, kPortableQueries},
  };
  return table;
}

}  // namespace octavo::cuda
