// Every linear kernel of the CUDA backend, fastest first within a format.
//
// error_constant, in units of the arithmetic type's epsilon: cuBLASLt multiplies 16-bit values
// exactly and sums in f32; a product that has an epilogue to come is kept in 16 bits, half an
// epsilon off.
#include <array>

#include "kernels/cuda/architectures.h"
#include "kernels/cuda/linear_rows.h"
#include "kernels/cuda/tables.h"

namespace octavo::cuda {
namespace {

constexpr double kRounded16Error = 0.75;

constexpr std::array kLinearKernels = {
    LinearKernel{"f16_cublaslt", AcceptsF16, kSm90a, kPackingF16, Element::kF16, FitsCublasLt,
                 PackRowMajor, RunCublasLtF16, kRounded16Error, Element::kF16},
    LinearKernel{"bf16_cublaslt", AcceptsBf16, kSm90a, kPackingBf16, Element::kBf16, FitsCublasLt,
                 PackRowMajor, RunCublasLtBf16, kRounded16Error, Element::kBf16},
};

}  // namespace

std::span<const LinearKernel> LinearKernels() { return kLinearKernels; }

}  // namespace octavo::cuda
