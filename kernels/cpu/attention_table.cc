#include "kernels/cpu/attention_block.h"
#include "kernels/cpu/instruction_sets.h"
#include "kernels/cpu/tables.h"

namespace octavo::cpu {
namespace {

bool Fits(int head_size) {
  return head_size > 0 && head_size % 8 == 0 && head_size <= kAttentionHeadSize;
}

template <AttendBlock attend, int element_bytes>
void Run(const AttentionArgs& args, Stream& stream) {
  RunAttention(attend, element_bytes, args, stream);
}

}  // namespace

std::span<const AttentionKernel> AttentionKernels() {
  static constexpr AttentionKernel table[] = {
#if defined(__x86_64__)
    {.name = "attention_int8_avx512vnni",
     .input = Element::kBf16,
     .instruction_sets = kAvx512 | kAvx512Vnni,
     .fits = Fits,
     .run = Run<AttendInt8Avx512Vnni, 2>,
     .score_levels = 127},
    {.name = "attention_int16_avx512vnni",
     .input = Element::kBf16,
     .instruction_sets = kAvx512 | kAvx512Vnni,
     .fits = Fits,
     .run = Run<AttendInt16Avx512Vnni, 2>,
     .score_levels = 2047},
    {"attention_bf16_avx512bf16", Element::kBf16, kAvx512 | kAvx512Bf16, Fits,
     Run<AttendBf16Avx512Bf16, 2>},
    {"attention_f32_avx512", Element::kF32, kAvx512, Fits, Run<AttendF32Avx512, 4>},
    {"attention_f32_avx2", Element::kF32, kAvx2, Fits, Run<AttendF32Avx2, 4>},
#endif
    {"attention_f32_portable", Element::kF32, kPortable, Fits, Run<AttendF32Portable, 4>},
  };
  return table;
}

}  // namespace octavo::cpu
