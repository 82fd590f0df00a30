#include "kernels/cpu/vector_math_portable.h"

#include "kernels/cpu/instruction_sets.h"
#include "tests/kernels/vector_math_cases.h"

namespace octavo::cpu {
namespace {

template <typename X, typename Y, Y (*function)(X)>
void Apply(const X* x, Y* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] = function(x[i]);
}

}  // namespace

const VectorMath kVectorMathPortable = {
    "portable",
    kPortable,
    Apply<float, float, portable::Exp>,
    Apply<float, float, portable::Exp2>,
    Apply<float, float, portable::Exp2>,  // no faster form
    Apply<float, float, portable::Gelu>,
    Apply<float, float, portable::GeluCoarse>,
    Apply<float, float, portable::GeluTanh>,
    Apply<float, float, portable::Silu>,
    Apply<float, uint16_t, portable::ToBf16>,
    Apply<uint16_t, float, portable::FromBf16>,
};

}  // namespace octavo::cpu
