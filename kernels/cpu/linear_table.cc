// Every linear kernel of the CPU backend, fastest first within a format and arithmetic. The first
// row of a format names its arithmetic; another's must be clearly faster to be chosen instead,
// once, at load (plan.h): int16 and f32 are on Intel's processors, where vdpbf16ps takes two
// cycles.
//
// error_constant: a product of K terms is summed in f32 one by one. Random terms err by less than
// 32 eps(f32) sum|x||w| for K up to 4096; equal terms, which may all round the same way, by up to
// about 350. Rows of bf16 arithmetic multiply bf16 values exactly and sum in f32 as well, so theirs
// is small in units of eps(bf16).
#include <array>

#include "kernels/cpu/instruction_sets.h"
#include "kernels/cpu/linear_a8w8_int8.h"
#include "kernels/cpu/linear_panels.h"
#include "kernels/cpu/linear_rows.h"
#include "kernels/cpu/tables.h"

namespace octavo::cpu {
namespace {

template <const BlockKernel& kKernel>
void Run(const LinearArgs& args, Stream& stream) {
  RunBlocks(kKernel, args, stream);
}

constexpr double kF32Error = 512.0;
constexpr double kBf16Error = 1.0 / 256;
// A value is rounded to a multiple of 2^-14 of a power of two that its group's largest magnitude m
// reaches: by at most 2^-15 m, hence c = 1 for the exact integer sums. Summing at most 128 groups
// in f32, three roundings in a group and one a group, adds 131 * 2^-24 = 0.26 * 2^-15.
constexpr double kInt16Error = 1.26;
// Weights decoded and rounded to bf16, by half an eps each.
constexpr double kBf16WeightError = 0.5 + kBf16Error;
// Sums are exact; four roundings to f32 follow.
constexpr double kInt8Error = 2.0;

constexpr std::array kLinearKernels = {
#if defined(__x86_64__)
    LinearKernel{"f32_avx512", AcceptsF32, kAvx512, kPackingF32, Element::kF32, FitsAnyShape,
                 PackF32, Run<kLinearF32Avx512>, kF32Error, Element::kF32},
    LinearKernel{"f32_avx2", AcceptsF32, kAvx2, kPackingF32, Element::kF32, FitsAnyShape, PackF32,
                 Run<kLinearF32Avx2>, kF32Error, Element::kF32},
#endif
    LinearKernel{"f32_portable", AcceptsF32, kPortable, kPackingF32, Element::kF32, FitsAnyShape,
                 PackF32, Run<kLinearF32Portable>, kF32Error, Element::kF32},

#if defined(__x86_64__)
    LinearKernel{"bf16_amx", AcceptsBf16, kAvx512 | kAmxBf16, kPackingBf16, Element::kBf16,
                 FitsAnyShape, PackBf16, Run<kLinearBf16Amx>, kBf16Error, Element::kBf16,
                 /*for_many_rows=*/true},
    LinearKernel{"bf16_avx512bf16", AcceptsBf16, kAvx512 | kAvx512Bf16, kPackingBf16,
                 Element::kBf16, FitsAnyShape, PackBf16, Run<kLinearBf16Avx512Bf16>, kBf16Error,
                 Element::kBf16},
    LinearKernel{"bf16_f32_avx512", AcceptsBf16, kAvx512, kPackingBf16, Element::kBf16,
                 FitsAnyShape, PackBf16, Run<kLinearBf16Avx512>, kF32Error, Element::kF32},
    LinearKernel{"bf16_f32_avx2", AcceptsBf16, kAvx2, kPackingBf16, Element::kBf16, FitsAnyShape,
                 PackBf16, Run<kLinearBf16Avx2>, kF32Error, Element::kF32},
#endif
    LinearKernel{"bf16_f32_portable", AcceptsBf16, kPortable, kPackingBf16, Element::kBf16,
                 FitsAnyShape, PackBf16, Run<kLinearBf16Portable>, kF32Error, Element::kF32},

#if defined(__x86_64__)
    LinearKernel{"a8w8_int8_amx", AcceptsA8W8, kAvx512 | kAmxInt8, kPackingA8W8Int8, Element::kInt8,
                 FitsA8W8, PackA8W8, Run<kA8W8Amx>, kInt8Error, Element::kInt8,
                 /*for_many_rows=*/true},
    LinearKernel{"a8w8_int8_avx512vnni", AcceptsA8W8, kAvx512 | kAvx512Vnni, kPackingA8W8Int8,
                 Element::kInt8, FitsA8W8, PackA8W8, Run<kA8W8Avx512Vnni>, kInt8Error,
                 Element::kInt8},
    LinearKernel{"a8w8_int8_avxvnni", AcceptsA8W8, kAvx2 | kAvxVnni, kPackingA8W8Int8,
                 Element::kInt8, FitsA8W8, PackA8W8, Run<kA8W8AvxVnni>, kInt8Error, Element::kInt8},
    LinearKernel{"a8w8_int8_avx2", AcceptsA8W8, kAvx2, kPackingA8W8Int8, Element::kInt8, FitsA8W8,
                 PackA8W8, Run<kA8W8Avx2>, kInt8Error, Element::kInt8},
#endif
    LinearKernel{"a8w8_int8_portable", AcceptsA8W8, kPortable, kPackingA8W8Int8, Element::kInt8,
                 FitsA8W8, PackA8W8, Run<kA8W8Portable>, kInt8Error, Element::kInt8},

    LinearKernel{"a8w8_fp8_f32_portable", AcceptsA8W8Fp8, kPortable, kPackingE4m3, Element::kE4m3,
                 FitsAnyShape, PackA8W8Fp8, Run<kLinearA8W8Fp8Portable>, kF32Error, Element::kF32},

#if defined(__x86_64__)
    LinearKernel{"a16w4_int4_bf16_amx", AcceptsA16W4Int4, kAvx512 | kAvx512Bf16 | kAmxBf16,
                 kPackingInt4, Element::kBf16, FitsAnyShape, PackA16W4Int4,
                 Run<kLinearA16W4Int4Amx>, kBf16WeightError, Element::kBf16,
                 /*for_many_rows=*/true},
    LinearKernel{"a16w4_int4_bf16_avx512bf16", AcceptsA16W4Int4, kAvx512 | kAvx512Bf16,
                 kPackingInt4, Element::kBf16, FitsAnyShape, PackA16W4Int4,
                 Run<kLinearA16W4Int4Avx512Bf16>, kBf16Error, Element::kBf16},
    LinearKernel{"a16w4_int4_int16_avx512vnni", AcceptsA16W4Int4, kAvx512 | kAvx512Vnni,
                 kPackingInt4, Element::kBf16, FitsAnyShape, PackA16W4Int4,
                 Run<kLinearA16W4Int4Avx512Vnni>, kInt16Error, Element::kInt16},
    LinearKernel{"a16w4_int4_f32_avx512", AcceptsA16W4Int4, kAvx512, kPackingInt4, Element::kBf16,
                 FitsAnyShape, PackA16W4Int4, Run<kLinearA16W4Int4Avx512>, kF32Error,
                 Element::kF32},
    LinearKernel{"a16w4_int4_f32_avx2", AcceptsA16W4Int4, kAvx2, kPackingInt4, Element::kBf16,
                 FitsAnyShape, PackA16W4Int4, Run<kLinearA16W4Int4Avx2>, kF32Error, Element::kF32},
#endif
    LinearKernel{"a16w4_int4_f32_portable", AcceptsA16W4Int4, kPortable, kPackingInt4,
                 Element::kBf16, FitsAnyShape, PackA16W4Int4, Run<kLinearA16W4Int4Portable>,
                 kF32Error, Element::kF32},
};

}  // namespace

std::span<const LinearKernel> LinearKernels() { return kLinearKernels; }

}  // namespace octavo::cpu
