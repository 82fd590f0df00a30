// Every linear kernel of the CUDA backend, fastest first within a format.
//
// error_constant, in units of the arithmetic type's epsilon: cuBLASLt multiplies 16-bit values
// exactly and sums in f32; a product that has an epilogue to come is kept in 16 bits, half an
// epsilon off. Sums of int8 are exact, four roundings follow. Tensor cores cut what they add of
// e4m3 products to about 14 bits, which are taken over into f32 every 128: random terms err by up
// to 1.12 * 2^-12 of sum|x||w|, equal ones, all cut alike, by 0.73 * 2^-10.
#include <array>

#include "kernels/cuda/architectures.h"
#include "kernels/cuda/linear_rows.h"
#include "kernels/cuda/tables.h"

namespace octavo::cuda {
namespace {

constexpr double kRounded16Error = 0.75;
constexpr double kE4m3Error = 8192;
constexpr double kE4m3KeptError = kE4m3Error / 8192 + kRounded16Error;  // in f16's epsilon
constexpr double kInt8Error = 2.0;
// Codes less a zero point are rounded to f16, by half an epsilon; decoded values once more.
constexpr double kInt4Error = 1.0;
constexpr double kInt4DecodedError = 1.25;

constexpr std::array kLinearKernels = {
    LinearKernel{"f16_cublaslt", AcceptsF16, kSm90a, kPackingF16, Element::kF16, FitsCublasLt,
                 PackRowMajor, RunCublasLtF16, kRounded16Error, Element::kF16,
                 /*for_many_rows=*/false, /*kept=*/Element::kF16, /*bits_depend_on_m=*/true},
    LinearKernel{"bf16_cublaslt", AcceptsBf16, kSm90a, kPackingBf16, Element::kBf16, FitsCublasLt,
                 PackRowMajor, RunCublasLtBf16, kRounded16Error, Element::kBf16,
                 /*for_many_rows=*/false, /*kept=*/Element::kBf16, /*bits_depend_on_m=*/true},

    LinearKernel{"a8w8_fp8_sm90", AcceptsA8W8Fp8, kSm90a, kPackingA8W8, Element::kE4m3,
                 FitsA8W8Sm90, PackA8W8Sm90, RunA8W8Fp8Sm90, kE4m3Error, Element::kF32,
                 /*for_many_rows=*/false, /*kept=*/Element::kF16},
    LinearKernel{"a8w8_fp8_cublaslt", AcceptsA8W8Fp8, kSm90a, kPackingA8W8CublasLt, Element::kE4m3,
                 FitsA8W8Fp8CublasLt, PackA8W8CublasLt, RunA8W8CublasLt, kE4m3KeptError,
                 Element::kF16, /*for_many_rows=*/false, /*kept=*/Element::kF16,
                 /*bits_depend_on_m=*/true},

    LinearKernel{"a8w8_int8_sm90", AcceptsA8W8Int8, kSm90a, kPackingA8W8, Element::kInt8,
                 FitsA8W8Sm90, PackA8W8Sm90, RunA8W8Int8Sm90, kInt8Error, Element::kInt8,
                 /*for_many_rows=*/false, /*kept=*/Element::kF16},
    LinearKernel{"a8w8_int8_cublaslt", AcceptsA8W8Int8, kSm90a, kPackingA8W8CublasLt,
                 Element::kInt8, FitsA8W8Int8CublasLt, PackA8W8CublasLt, RunA8W8CublasLt,
                 kInt8Error, Element::kInt8},

    LinearKernel{"a16w4_int4_f16_sm90", AcceptsA16W4Int4, kSm90a, kPackingInt4, Element::kF16,
                 FitsCublasLt, PackA16W4Int4, RunA16W4Int4, kInt4Error, Element::kF16},
    LinearKernel{"a16w4_int4_f16_cublaslt", AcceptsA16W4Int4, kSm90a, kPackingInt4Decoded,
                 Element::kF16, FitsCublasLt, PackA16W4Int4Decoded, RunCublasLtF16,
                 kInt4DecodedError, Element::kF16, /*for_many_rows=*/false,
                 /*kept=*/Element::kF16, /*bits_depend_on_m=*/true},
};

}  // namespace

std::span<const LinearKernel> LinearKernels() { return kLinearKernels; }

}  // namespace octavo::cuda
