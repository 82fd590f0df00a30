#include "kernels/cpu/vector_math_avx2.h"

#include "kernels/cpu/instruction_sets.h"
#include "tests/kernels/vector_math_cases.h"

namespace octavo::cpu {
namespace {

template <__m256 (*function)(__m256)>
void Apply(const float* x, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += 8) _mm256_storeu_ps(y + i, function(_mm256_loadu_ps(x + i)));
}

void ToBf16(const float* x, uint16_t* y, int64_t count) {
  for (int64_t i = 0; i < count; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), avx2::ToBf16(_mm256_loadu_ps(x + i)));
  }
}

void FromBf16(const uint16_t* x, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += 8) {
    const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i));
    _mm256_storeu_ps(y + i, avx2::FromBf16(words));
  }
}

}  // namespace

const VectorMath kVectorMathAvx2 = {
    "avx2",
    kAvx2,
    Apply<avx2::Exp>,
    Apply<avx2::Exp2>,
    Apply<avx2::Exp2Coarse>,
    Apply<avx2::Gelu>,
    Apply<avx2::GeluCoarse>,
    Apply<avx2::GeluTanh>,
    Apply<avx2::Silu>,
    ToBf16,
    FromBf16,
};

}  // namespace octavo::cpu
